//! Namespaces: a name, a number, and the keys that are deleted with them.

use std::sync::Arc;

use casemate_api::NamespaceId;

use crate::error::Error;
use crate::identity::caller::{self, Caller};
use crate::identity::right::{self, ATTEMPTS, By};
use crate::keys::counters::Counters;
use crate::keys::quotas::{self, QuotaTurns, count};
use crate::rows::chores::{DeletedNamespace, LastNamespaceNumber};
use crate::rows::namespace::{NamespaceRecord, Quota};
use crate::rows::path::{NamespaceNumber, ROOT, RowPath, RowPrefix};
use crate::rows::table::Row;
use crate::rows::tables::Tables;
use crate::rows::transaction::{Committed, Transaction};
use crate::rows::usage::Usage;
use crate::store::Revision;

/// The namespaces of an HSM.
pub struct Namespaces<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) counters: &'a Counters,
    pub(crate) turns: &'a QuotaTurns,
}

impl Namespaces<'_> {
    /// A namespace, if it exists.
    pub async fn get(&self, id: &NamespaceId) -> Result<Option<Arc<Row<NamespaceRecord>>>, Error> {
        caller::stored_namespace(self.tables, id).await
    }

    /// Creates a namespace. `Exists` if there is one.
    pub async fn create(&self, by: &Caller, id: &NamespaceId) -> Result<(), Error> {
        let Tables { namespaces, namespace_numbers, generation, .. } = self.tables;
        let path = RowPath::namespace(*generation, id);
        let last_path = RowPath::last_namespace_number(*generation);
        for _ in 0..ATTEMPTS {
            if namespaces.read(&path).await?.is_some() {
                return Err(Error::Exists(format!("Namespace {id} already exists").into()));
            }
            let last = namespace_numbers.read(&last_path).await?;
            let number = last.as_ref().map_or(ROOT, |row| row.record.0).checked_add(1);
            let number = number.ok_or_else(|| Error::internal("namespace numbers are used up"))?;
            let unseen = Revision::default();
            let transaction = Transaction::default()
                .absent(&path)
                .found(&last_path, last.map(|row| row.revision))
                .put(namespaces.sealed(&path, unseen, &NamespaceRecord::new(number))?)
                .put(namespace_numbers.sealed(&last_path, unseen, &LastNamespaceNumber(number))?);
            if let Committed::At(_) = right::commit(self.tables, By::Caller(by), transaction).await? {
                tracing::info!(target: "hsm.namespace", "created ({id})");
                return Ok(());
            }
        }
        Err(Error::Unavailable("Others keep creating namespaces. Try again.".into()))
    }

    /// Deletes the namespace that was found under this number, and all its keys. One write makes the keys unreachable;
    /// their rows are removed afterwards. Its users stay, but may do nothing.
    pub async fn delete(&self, by: &Caller, id: &NamespaceId, number: NamespaceNumber) -> Result<(), Error> {
        let path = RowPath::namespace(self.tables.generation, id);
        let row = self.tables.namespaces.read(&path).await?.ok_or_else(Error::not_found)?;
        if row.record.number != number {
            return Err(changed_meanwhile());
        }
        let deleted = RowPath::deleted_namespace(self.tables.generation, number);
        let record = self.tables.deleted_namespaces.sealed(&deleted, Revision::default(), &DeletedNamespace)?;
        let usage = RowPath::usage(self.tables.generation, number);
        let transaction = Transaction::default().at(&path, row.revision).delete(&path).delete(&usage);
        let transaction = transaction.put(record).reserved();
        match right::commit(self.tables, By::Caller(by), transaction).await? {
            Committed::Conflict(_) => Err(changed_meanwhile()),
            Committed::At(_) => {
                self.turns.forget(number);
                tracing::info!(target: "hsm.namespace", "removed ({id})");
                // The namespace is deleted. What is left only takes room; if it cannot be removed now, it is removed
                // later.
                if let Err(error) = self.sweep(number).await {
                    tracing::warn!(target: "hsm.namespace", %error, "the keys of ({id}) could not be removed yet");
                }
                Ok(())
            }
        }
    }

    /// Removes the rows that interrupted deletions left behind. Nobody can reach them; they only take room.
    pub(crate) async fn sweep_deleted_namespaces(&self) -> Result<(), Error> {
        let prefix = RowPrefix::all_deleted_namespaces(self.tables.generation);
        let (paths, _) = self.tables.deleted_namespaces.paths(&prefix, None).await?;
        for number in paths.iter().filter_map(RowPath::number) {
            self.sweep(number).await?;
        }
        Ok(())
    }

    /// Removes what a deleted namespace left behind. Idempotent.
    async fn sweep(&self, number: NamespaceNumber) -> Result<(), Error> {
        self.counters.forget_namespace(number);
        let Tables { keys, certificates, counters, index, generation, .. } = self.tables;
        self.tables.sweep(keys, &RowPrefix::keys(*generation, number, "")).await?;
        self.tables.sweep(certificates, &RowPrefix::certificates(*generation, number)).await?;
        self.tables.sweep(counters, &RowPrefix::all_counters(*generation, number)).await?;
        let (uids, labels) = index.of_namespace(number);
        self.tables.sweep(&index.uids, &uids).await?;
        self.tables.sweep(&index.labels, &labels).await?;
        self.tables.commit(Transaction::default().delete(&RowPath::deleted_namespace(*generation, number))).await?;
        Ok(())
    }

    /// The ids of all namespaces, sorted.
    pub async fn ids(&self) -> Result<Vec<String>, Error> {
        let prefix = RowPrefix::namespaces(self.tables.generation);
        let mut ids = Vec::new();
        let mut after = None;
        loop {
            let (paths, more) = self.tables.namespaces.paths(&prefix, after.as_ref()).await?;
            ids.extend(paths.iter().filter_map(|path| prefix.tail(path.path())).map(str::to_owned));
            after = paths.last().cloned();
            if !more {
                return Ok(ids);
            }
        }
    }

    /// The quota of a namespace and what it holds now. Without a quota this reads all its rows.
    pub async fn quota(&self, id: &NamespaceId) -> Result<(Quota, Usage), Error> {
        let row = self.get(id).await?.ok_or_else(Error::not_found)?;
        let (quota, number) = (row.record.quota, row.record.number);
        // Also for counting alone, so that concurrent requests count a namespace one after the other.
        let _turn = self.turns.wait(number).await;
        if quota == Quota::default() {
            return Ok((quota, count(self.tables, number).await?));
        }
        let (usage, _) = quotas::usage(self.tables, id, &row).await?;
        Ok((quota, usage))
    }

    /// Sets the quota of a namespace. It may be lower than what the namespace holds: then nothing can be added until
    /// enough is deleted.
    pub async fn set_quota(&self, by: &Caller, id: &NamespaceId, quota: Quota) -> Result<(), Error> {
        let table = &self.tables.namespaces;
        let path = RowPath::namespace(self.tables.generation, id);
        let mut row = table.read(&path).await?.ok_or_else(Error::not_found)?;
        row.record.quota = quota;
        let sealed = table.sealed(&path, row.revision, &row.record)?;
        let mut transaction = Transaction::default().at(&path, row.revision).put(sealed).reserved();
        if quota == Quota::default() {
            // Without a quota nobody keeps it right.
            transaction = transaction.delete(&RowPath::usage(self.tables.generation, row.record.number));
            self.turns.forget(row.record.number);
        }
        match right::commit(self.tables, By::Caller(by), transaction).await? {
            Committed::Conflict(_) => Err(Error::Unavailable("The namespace was changed meanwhile. Try again.".into())),
            Committed::At(_) => {
                let text = |max: Option<u64>| max.map_or_else(|| "any".to_owned(), |max| max.to_string());
                let (keys, bytes) = (text(quota.keys), text(quota.bytes));
                tracing::info!(target: "hsm.namespace", "quota of ({id}): {keys} keys, {bytes} bytes");
                Ok(())
            }
        }
    }
}

fn changed_meanwhile() -> Error {
    Error::Unavailable("The namespace was changed meanwhile. Try again.".into())
}
