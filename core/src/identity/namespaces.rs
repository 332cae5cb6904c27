//! Namespaces: a name, a number, and what vanishes with them.

use crate::rows::namespace::NamespaceRecord;
use std::sync::Arc;

use casemate_api::NamespaceId;
use casemate_api::limits::STORE_TXN_MAX_OPS;

use crate::error::Error;
use crate::hsm::phase::Operational;
use crate::identity::caller::Caller;
use crate::identity::right::By;
use crate::rows::path::{Generation, NamespaceNumber, ROOT, SharedPath};
use crate::rows::table::Row;
use crate::rows::transaction::{Committed, Draft};
use crate::store::{Path, Revision};

/// Settings that name deleted namespaces whose keys are not all swept yet, by number.
const REMAINS: &str = "remains of ";

/// Setting that holds the highest number given to a namespace.
const LAST_NUMBER: &str = "last namespace number";

/// The row of [`LAST_NUMBER`].
pub(crate) fn last_number_path(generation: Generation) -> SharedPath {
    SharedPath::setting(generation, LAST_NUMBER)
}

impl Operational {
    /// A namespace, if it exists.
    pub async fn namespace(&self, id: &NamespaceId) -> Result<Option<Arc<Row<NamespaceRecord>>>, Error> {
        self.namespaces.get(&SharedPath::namespace(self.shared.generation, id)).await
    }

    /// Creates a namespace. `Exists` if there is one.
    pub async fn create_namespace(&self, by: &Caller, id: &NamespaceId) -> Result<(), Error> {
        let path = SharedPath::namespace(self.shared.generation, id);
        let taken = || Error::Exists(format!("Namespace {id} already exists").into());
        let last_path = last_number_path(self.shared.generation);
        for _ in 0..16 {
            if self.namespaces.read(&path).await?.is_some() {
                return Err(taken());
            }
            // The counter has the form of a namespace record: a number.
            let last = self.namespaces.read(&last_path).await?;
            let number = last.as_ref().map_or(ROOT, |row| row.record.number).checked_add(1);
            let number = number.ok_or_else(|| Error::internal("namespace numbers are used up"))?;
            let record = NamespaceRecord::new(number);
            let draft = Draft::default().absent(&path);
            let draft = match &last {
                None => draft.absent(&last_path),
                Some(row) => draft.at(&last_path, row.revision),
            };
            let draft = draft
                .put(self.namespaces.sealed(&path, Revision::default(), &record)?)
                .put(self.namespaces.sealed(&last_path, Revision::default(), &record)?);
            if let Committed::At(_) = self.commit(By::Caller(by), draft).await? {
                self.namespaces.changed(&path);
                tracing::info!(target: "hsm.namespace", "created ({id})");
                return Ok(());
            }
        }
        Err(Error::Unavailable("Others keep creating namespaces. Try again.".into()))
    }

    /// Deletes the namespace that was found under this number, and all its keys. One write makes them unreachable; what is left is swept afterwards. Its
    /// users stay, powerless.
    pub async fn delete_namespace(&self, by: &Caller, id: &NamespaceId, number: NamespaceNumber) -> Result<(), Error> {
        let path = SharedPath::namespace(self.shared.generation, id);
        let row = self.namespaces.read(&path).await?.ok_or_else(Error::not_found)?;
        if row.record.number != number {
            return Err(changed_meanwhile());
        }
        let remains = self.remains(number);
        let draft = Draft::default().at(&path, row.revision).delete(&path).put(self.namespaces.sealed(
            &remains,
            Revision::default(),
            &row.record,
        )?);
        match self.commit(By::Caller(by), draft.reserved()).await? {
            Committed::Conflict(_) => Err(changed_meanwhile()),
            Committed::At(_) => {
                self.namespaces.changed(&path);
                self.accounts.forget(number);
                tracing::info!(target: "hsm.namespace", "removed ({id})");
                // The namespace is gone; what is left of it takes room only, and is swept later if it cannot be now.
                if let Err(error) = self.sweep_namespace(number).await {
                    tracing::warn!(target: "hsm.namespace", %error, "the keys of ({id}) are not swept yet");
                }
                Ok(())
            }
        }
    }

    /// The row that says that a deleted namespace's keys are not all swept yet.
    fn remains(&self, number: NamespaceNumber) -> SharedPath {
        SharedPath::setting(self.shared.generation, &format!("{REMAINS}{number}"))
    }

    /// Sweeps what deletions that a crash interrupted left behind. Nobody can reach it; it only takes room.
    pub(crate) async fn sweep_remains(&self) -> Result<(), Error> {
        let prefix = SharedPath::setting(self.shared.generation, REMAINS);
        let (paths, _) = self.namespaces.paths(&prefix, None).await?;
        for path in paths {
            if let Some(number) = SharedPath::tail(&prefix, &path).and_then(|number| number.parse().ok()) {
                self.sweep_namespace(number).await?;
            }
        }
        Ok(())
    }

    /// Removes what a deleted namespace left behind. Idempotent.
    async fn sweep_namespace(&self, number: NamespaceNumber) -> Result<(), Error> {
        self.counters.forget_namespace(number);
        let generation = self.shared.generation;
        let keys = SharedPath::keys(generation, number, "");
        let certificates = SharedPath::certificates(generation, number);
        for prefix in [keys, certificates, SharedPath::all_counters(generation, number)] {
            loop {
                let (paths, more) = self.keys.paths(&prefix, None).await?;
                for group in paths.chunks(STORE_TXN_MAX_OPS / 2) {
                    let paths: Vec<Path> = group.to_vec();
                    let draft = paths.iter().fold(Draft::default(), |draft, path| draft.delete_raw(path.clone()));
                    self.commit(By::Hsm, draft).await?;
                    for path in paths {
                        self.keys.forget(&path);
                    }
                }
                if !more {
                    break;
                }
            }
        }
        self.commit(By::Hsm, Draft::default().delete(&self.remains(number))).await?;
        Ok(())
    }

    /// Every namespace, sorted.
    pub async fn namespace_ids(&self) -> Result<Vec<String>, Error> {
        let prefix = SharedPath::namespaces(self.shared.generation);
        let mut ids = Vec::new();
        let mut after = None;
        loop {
            let (paths, more) = self.namespaces.paths(&prefix, after.as_ref()).await?;
            ids.extend(paths.iter().filter_map(|path| SharedPath::tail(&prefix, path)).map(str::to_owned));
            after = paths.last().cloned();
            if !more {
                return Ok(ids);
            }
        }
    }
}

fn changed_meanwhile() -> Error {
    Error::Unavailable("The namespace was changed meanwhile. Try again.".into())
}
