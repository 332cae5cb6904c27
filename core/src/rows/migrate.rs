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
use crate::rows::chores::{DeletedNamespace, Hardening, LastNamespaceNumber};
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
/// [`Error::Unavailable`] if something else wrote to the rows at the same time, if a row is already at its new place, or if
/// the store leaves too many outcomes unknown.
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
    let mut unsettled = 0;
    while unsettled < ATTEMPTS {
        let page = store.range(Range::prefix(&old.prefix, LIST_PAGE_ROWS), Read::Fresh).await?;
        if page.rows.is_empty() {
            return Ok(());
        }
        let mut txns = Vec::new();
        for group in page.rows.chunks(STORE_TXN_MAX_OPS / 5) {
            let mut txn = Txn { expect: vec![fence.clone()], room: Room::Reserved, ..Txn::default() };
            for (path, row) in group {
                let new = old.converted(domain, rng, generation, path, row)?;
                let (new_path, value) = new.into_parts();
                txn.expect.push((path.clone(), Expect::At(row.revision)));
                // A row that is already there is newer, and must not be overwritten.
                txn.expect.push((new_path.clone(), Expect::Absent));
                txn.put.push((new_path, value));
                txn.delete.push(path.clone());
            }
            txns.push(txn);
        }
        for outcome in store.commit(txns).await? {
            match outcome {
                Outcome::Committed(_) => {}
                // The next round reads the rows again.
                Outcome::Unknown => unsettled += 1,
                Outcome::Conflict(_) => {
                    return Err(Error::Unavailable("The HSM's data was changed meanwhile. Try again.".into()));
                }
            }
        }
        tracing::info!(target: "hsm", rows = page.rows.len(), "rows are moved into tables of their own");
    }
    Err(Error::Unavailable("The store did not confirm the change. Try again.".into()))
}

/// Number of transactions with an unknown outcome after which the migration gives up, because opening the phase waits for it.
const ATTEMPTS: usize = 4;

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
                Ok(sealed(domain, rng, &RowPath::deleted_namespace(generation, number()?), &DeletedNamespace))
            }
            _ => Err(bad("no version of this software wrote it")),
        }
    }
}

fn sealed<R: Record>(domain: &DomainKey, rng: &dyn Rng, path: &RowPath<R>, record: &R) -> SealedRow {
    RowKey::of(domain).seal(path, Revision::default(), record, rng)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pollster::block_on;

    use super::*;
    use crate::rows::path::generation_pointer;
    use crate::rows::tables::Tables;
    use crate::sim::{SimClock, SimRng, SimStore};
    use crate::store::Path;

    const LAST: u32 = 7;

    fn domain() -> DomainKey {
        DomainKey::new([7; 32])
    }

    /// A store with one row of the old table: the last namespace number.
    fn old_store() -> (Arc<SimStore>, Path) {
        let store = Arc::new(SimStore::new(1));
        store.tamper(generation_pointer(), 1u32.to_be_bytes().to_vec());
        let path = Path([generation_prefix(1).as_bytes(), &[OLD_SETTINGS], b"last namespace number"].concat().into());
        let key = seal::derive(domain().expose(), &[b"shared store", &[TableId::Namespaces as u8]]);
        let plain = NamespaceRecord::new(LAST).encode();
        let value = crate::rows::table::seal_row(&key, &path, Revision::default(), &plain, &SimRng::new(3));
        store.tamper(path.clone(), value);
        (store, path)
    }

    fn open(store: &Arc<SimStore>) -> Result<Tables, Error> {
        block_on(Tables::open(store.clone(), Arc::new(SimRng::new(2)), Arc::new(SimClock::new()), &domain(), "NODE"))
    }

    fn last(tables: &Tables) -> Option<u32> {
        block_on(tables.namespace_numbers.read(&RowPath::last_namespace_number(1))).unwrap().map(|row| row.record.0)
    }

    #[test]
    fn a_row_of_the_old_table_is_moved_once_and_never_overwrites_a_newer_one() {
        let (store, path) = old_store();
        assert_eq!(last(&open(&store).unwrap()), Some(LAST));
        assert!(store.raw_rows().iter().all(|(row, _)| *row != path));
        let (again, _) = old_store();
        let old = again.raw_rows().into_iter().find(|(row, _)| *row == path).unwrap();
        store.tamper(old.0, old.1);
        assert!(matches!(open(&store), Err(Error::Unavailable(_))));
    }

    #[test]
    fn opening_fails_if_all_answers_are_lost() {
        let (store, _) = old_store();
        store.lose_answers(1_000_000);
        let opened = open(&store);
        store.lose_answers(0);
        // By chance the row may have been moved at the last attempt.
        assert!(
            matches!(&opened, Err(Error::Unavailable(_))) || opened.is_ok_and(|tables| last(&tables) == Some(LAST))
        );
        assert_eq!(last(&open(&store).unwrap()), Some(LAST));
    }

    #[test]
    fn a_row_that_does_not_open_or_that_no_version_wrote_is_an_error() {
        let (store, path) = old_store();
        store.tamper(path, vec![1; 40]);
        assert!(matches!(open(&store), Err(Error::Internal(_))));
        let (store, _) = old_store();
        store.tamper(Path([generation_prefix(1).as_bytes(), &[OLD_SETTINGS], b"x"].concat().into()), vec![1; 40]);
        assert!(matches!(open(&store), Err(Error::Internal(_))));
    }
}
