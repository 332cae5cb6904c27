//! Migrates rows that earlier versions wrote, when a generation is opened.
//!
//! Until 0.1.0, table 6 held single values of the whole HSM under their names: two sealed under that table's key and three
//! under the key of the namespaces. Each has its own table now. A row is moved in one transaction, so after a crash it is in
//! exactly one of the two places.

use casemate_api::limits::{LIST_PAGE_ROWS, STORE_TXN_MAX_OPS};

use crate::crypto::seal;
use crate::crypto::secret::{DomainKey, StoreKey};
use crate::error::Error;
use crate::rows::backup_secret::BackupSecret;
use crate::rows::chores::{Hardening, LastNamespaceNumber, Remains};
use crate::rows::cluster_ca::ClusterCa;
use crate::rows::namespace::NamespaceRecord;
use crate::rows::path::{Generation, RowPath, generation_prefix};
use crate::rows::record::Record;
use crate::rows::record::TableId;
use crate::rows::table::{RowKey, SealedRow, open_row};
use crate::runtime::Rng;
use crate::store::{Expect, Outcome, Path, Range, Read, Revision, Room, Store, Txn, Versioned};

/// Moves the rows of table 6 of `generation` to the tables that hold them now. `fence` guards every write.
///
/// # Errors
/// [`Error::Internal`] for a row that does not open or that no version wrote; such rows are never dropped silently.
/// [`Error::Unavailable`] if something else wrote to the rows at the same time.
pub(super) async fn to_tables_of_their_own(
    store: &dyn Store,
    rng: &dyn Rng,
    domain: &DomainKey,
    generation: Generation,
    fence: (Path, Expect),
) -> Result<(), Error> {
    let prefix = Path([generation_prefix(generation).as_bytes(), &[OLD_SETTINGS]].concat().into());
    let key = |table: u8| seal::derive(domain.expose(), &[b"shared store", &[table]]);
    let old = Old { prefix, settings: key(OLD_SETTINGS), namespaces: key(TableId::Namespaces as u8) };
    loop {
        let page = store.range(Range::prefix(&old.prefix, LIST_PAGE_ROWS), Read::Fresh).await?;
        if page.rows.is_empty() {
            return Ok(());
        }
        let mut txns = Vec::new();
        for group in page.rows.chunks(STORE_TXN_MAX_OPS / 4) {
            let mut txn = Txn { expect: vec![fence.clone()], room: Room::Reserved, ..Txn::default() };
            for (path, row) in group {
                let new = old.converted(domain, rng, generation, path, row)?;
                txn.expect.push((path.clone(), Expect::At(row.revision)));
                txn.put.push(new.into_parts());
                txn.delete.push(path.clone());
            }
            txns.push(txn);
        }
        for outcome in store.commit(txns).await? {
            match outcome {
                // The next round reads the rows again, so an unknown outcome needs no special treatment.
                Outcome::Committed(_) | Outcome::Unknown => {}
                Outcome::Conflict(_) => {
                    return Err(Error::Unavailable("The HSM's data was changed meanwhile. Try again.".into()));
                }
            }
        }
        tracing::info!(target: "hsm", rows = page.rows.len(), "rows were moved into tables of their own");
    }
}

/// The table that held single values.
const OLD_SETTINGS: u8 = 6;

struct Old {
    prefix: Path,
    settings: StoreKey,
    namespaces: StoreKey,
}

impl Old {
    fn converted(
        &self,
        domain: &DomainKey,
        rng: &dyn Rng,
        generation: Generation,
        path: &Path,
        row: &Versioned,
    ) -> Result<SealedRow, Error> {
        let bad = |why: &str| Error::internal(format!("row {}: {why}", path.as_bytes().escape_ascii()));
        let name = path.as_bytes().strip_prefix(self.prefix.as_bytes()).unwrap_or_default();
        let plain = |key| open_row(key, path, &row.value).map_err(|why| bad(&why.to_string()));
        let number = || {
            let record = NamespaceRecord::decode(&plain(&self.namespaces)?).map_err(|why| bad(&why.to_string()))?;
            Ok::<_, Error>(record.number)
        };
        match name {
            b"backup passphrase" => {
                let record = BackupSecret::decode(&plain(&self.settings)?).map_err(|why| bad(&why.to_string()))?;
                Ok(sealed(domain, rng, &RowPath::backup_secret(generation), &record))
            }
            b"cluster-ca" => {
                let record = ClusterCa::decode(&plain(&self.settings)?).map_err(|why| bad(&why.to_string()))?;
                Ok(sealed(domain, rng, &RowPath::cluster_ca(generation), &record))
            }
            b"last namespace number" => {
                let record = LastNamespaceNumber(number()?);
                Ok(sealed(domain, rng, &RowPath::last_namespace_number(generation), &record))
            }
            b"digests to harden" => {
                number()?;
                Ok(sealed(domain, rng, &RowPath::hardening(generation), &Hardening))
            }
            _ if name.starts_with(b"remains of ") => {
                Ok(sealed(domain, rng, &RowPath::remains(generation, number()?), &Remains))
            }
            _ => Err(bad("no version of this software wrote it")),
        }
    }
}

fn sealed<R: Record>(domain: &DomainKey, rng: &dyn Rng, path: &RowPath<R>, record: &R) -> SealedRow {
    RowKey::of(domain).seal(path, Revision::default(), record, rng)
}
