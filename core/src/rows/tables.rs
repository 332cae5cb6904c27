//! All tables of one generation of the shared store, and the one way to write them.
//!
//! [`Tables::commit`] guards every write by the generation, resolves lost answers, and invalidates what it changed in the
//! caches. What others write is reported by the store's watch: [`Tables::apply_event`] passes it to the table of the row.

use std::sync::Arc;

use casemate_api::limits::STORE_TXN_MAX_OPS;

use crate::crypto::secret::DomainKey;
use crate::error::Error;
use crate::rows::backup_secret::BackupSecret;
use crate::rows::certificate::CertificateRecord;
use crate::rows::chores::{DeletedNamespace, Hardening, LastNamespaceNumber};
use crate::rows::cluster_ca::ClusterCa;
use crate::rows::counter::CounterRecord;
use crate::rows::key::KeyRecord;
use crate::rows::migrate;
use crate::rows::namespace::NamespaceRecord;
use crate::rows::path::{Generation, RowPrefix, generation_pointer, table_of};
use crate::rows::record::Record;
use crate::rows::record::TableId;
use crate::rows::table::{CacheEpoch, CacheFigures, RowKey, Table, TableContext};
use crate::rows::transaction::{Committed, Transaction};
use crate::rows::user::UserRecord;
use crate::runtime::Rng;
use crate::runtime::lifetime::Closed;
use crate::store::{Event, Expect, Outcome, Path, Read, Revision, Snapshot, Store, Txn, applied};

/// The tables of one generation.
pub struct Tables {
    /// Users.
    pub users: Table<UserRecord>,
    /// Namespaces.
    pub namespaces: Table<NamespaceRecord>,
    /// Keys.
    pub keys: Table<KeyRecord>,
    /// Certificates of keys.
    pub certificates: Table<CertificateRecord>,
    /// Counts of key use.
    pub counters: Table<CounterRecord>,
    /// The key derived from the backup passphrase.
    pub backup_secrets: Table<BackupSecret>,
    /// The cluster CA.
    pub cluster_cas: Table<ClusterCa>,
    /// The highest number ever assigned to a namespace.
    pub namespace_numbers: Table<LastNamespaceNumber>,
    /// Deleted namespaces whose rows are not all removed yet.
    pub deleted_namespaces: Table<DeletedNamespace>,
    /// Whether some users still have weak digests.
    pub hardening: Table<Hardening>,
    /// The generation of all paths.
    pub generation: Generation,
    pointer: Revision,
    context: TableContext,
}

impl Tables {
    /// Opens the tables of the current generation with the Domain Key. Rows written by earlier versions are migrated first.
    ///
    /// # Errors
    /// [`Error::Internal`] if the generation pointer is missing or damaged, or a row cannot be migrated; the store's errors.
    pub async fn open(store: Arc<dyn Store>, rng: Arc<dyn Rng>, domain: &DomainKey) -> Result<Self, Error> {
        // Waits for writes of an earlier phase that are still queued, before anything is read.
        store.commit(vec![Txn::default()]).await?;
        let damaged = || Error::internal("the generation pointer is missing or damaged");
        let pointer = store.get(&generation_pointer(), Read::Fresh).await?.ok_or_else(damaged)?;
        let number = <[u8; 4]>::try_from(pointer.value.as_slice()).map_err(|_| damaged())?;
        let generation = Generation::from_be_bytes(number);
        let fence = (generation_pointer(), Expect::At(pointer.revision));
        migrate::to_tables_of_their_own(&*store, &*rng, domain, generation, fence).await?;
        let context = TableContext { store, rng, closed: Closed::default(), epoch: CacheEpoch::default() };
        Ok(Self {
            users: table(&context, domain),
            namespaces: table(&context, domain),
            keys: table(&context, domain),
            certificates: table(&context, domain),
            counters: table(&context, domain),
            backup_secrets: table(&context, domain),
            cluster_cas: table(&context, domain),
            namespace_numbers: table(&context, domain),
            deleted_namespaces: table(&context, domain),
            hardening: table(&context, domain),
            generation,
            pointer: pointer.revision,
            context,
        })
    }

    /// Applies `transaction` if all its guards hold and the generation is still current. No caller's rights are checked: writes
    /// for a caller go through [`crate::identity::right`]. If the store's answer was lost, the rows are read again: sealed
    /// values are unique, so equal bytes are those of this transaction.
    pub async fn commit(&self, transaction: Transaction) -> Result<Committed, Error> {
        let outcome = self.commit_all(vec![transaction]).await?.pop();
        outcome.ok_or_else(|| Error::internal("the store gave no outcome"))
    }

    /// Like [`Tables::commit`] for several independent transactions in one write to the disk. Outcomes are in their order.
    ///
    /// # Errors
    /// The first error; other transactions may have been applied.
    pub async fn commit_all(&self, transactions: Vec<Transaction>) -> Result<Vec<Committed>, Error> {
        self.check()?;
        let fence = Expect::At(self.pointer);
        let txns: Vec<Txn> = transactions.iter().map(|one| one.fenced(generation_pointer(), fence)).collect();
        let outcomes = self.context.store.commit(txns.clone()).await?;
        let mut committed = Vec::with_capacity(txns.len());
        let mut failed = None;
        // Continue after a failed one: rows that were changed must not stay in the caches.
        for ((transaction, txn), outcome) in transactions.iter().zip(&txns).zip(outcomes) {
            match self.resolve(txn, outcome).await {
                Ok(one) => {
                    if let Committed::At(revision) = one {
                        self.invalidate(transaction, txn, revision);
                    }
                    committed.push(one);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(committed), Err)
    }

    async fn resolve(&self, txn: &Txn, outcome: Outcome) -> Result<Committed, Error> {
        match outcome {
            Outcome::Committed(revision) => Ok(Committed::At(revision)),
            Outcome::Conflict(guard) if guard + 1 == txn.expect.len() => {
                Err(Error::Unavailable("The HSM's data was replaced by a restore. Try again.".into()))
            }
            Outcome::Conflict(guard) => Ok(Committed::Conflict(guard)),
            Outcome::Unknown => {
                // The new epoch begins after the answer. By now the transaction is applied or never will be, so no older row
                // is cached again.
                self.context.epoch.advance();
                let found = applied(&*self.context.store, txn).await.map_err(|_| unconfirmed())?;
                found.map(Committed::At).ok_or_else(unconfirmed)
            }
        }
    }

    /// Invalidates in the caches what was written.
    fn invalidate(&self, transaction: &Transaction, txn: &Txn, at: Revision) {
        let moves = &transaction.moves;
        for (from, to) in moves {
            // Only keys are moved.
            self.keys.moved(from, to, at);
        }
        for path in txn.delete.iter().filter(|path| !moves.iter().any(|(from, _)| from == *path)) {
            self.invalidate_row(path, RowChange::Removed);
        }
        for (path, _) in txn.put.iter().filter(|(path, _)| !moves.iter().any(|(_, to)| to == path)) {
            self.invalidate_row(path, RowChange::Replaced(at));
        }
    }

    /// Invalidates what a watch of the store reports as changed.
    pub fn apply_event(&self, event: &Event) {
        match event {
            Event::Changed { path, revision } => self.invalidate_row(path, RowChange::Reported(*revision)),
            Event::Lost | Event::Compacted => self.invalidate_all(),
        }
    }

    /// Invalidates everything that is cached, as changes may have been missed.
    pub fn invalidate_all(&self) {
        self.context.epoch.advance();
    }

    fn invalidate_row(&self, path: &Path, change: RowChange) {
        let Some((generation, table)) = table_of(path) else { return };
        if generation != self.generation {
            return;
        }
        match table {
            TableId::Users => change.apply(&self.users, path),
            TableId::Namespaces => change.apply(&self.namespaces, path),
            TableId::Keys => change.apply(&self.keys, path),
            TableId::Certificates => change.apply(&self.certificates, path),
            TableId::Counters => change.apply(&self.counters, path),
            TableId::BackupSecrets => change.apply(&self.backup_secrets, path),
            TableId::ClusterCas => change.apply(&self.cluster_cas, path),
            TableId::NamespaceNumbers => change.apply(&self.namespace_numbers, path),
            TableId::DeletedNamespaces => change.apply(&self.deleted_namespaces, path),
            TableId::Hardening => change.apply(&self.hardening, path),
            // They are not cached.
            TableId::Staged => {}
        }
    }

    /// Removes all rows of `table` whose paths begin with `prefix`, page by page. Idempotent.
    pub async fn sweep<R: Record>(&self, table: &Table<R>, prefix: &RowPrefix<R>) -> Result<(), Error> {
        loop {
            let (paths, more) = table.paths(prefix, None).await?;
            for group in paths.chunks(STORE_TXN_MAX_OPS / 2) {
                let transaction = group.iter().fold(Transaction::default(), Transaction::delete);
                self.commit(transaction).await?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// A consistent view of the whole store, with all generations.
    pub async fn snapshot(&self) -> Result<Box<dyn Snapshot>, Error> {
        self.check()?;
        Ok(self.context.store.snapshot().await?)
    }

    /// [`Error::Precondition`] once the tables are closed.
    pub fn check(&self) -> Result<(), Error> {
        self.context.closed.check()
    }

    /// Refuses everything from now on, and empties the caches.
    pub fn close(&self) {
        self.context.closed.close();
        self.users.clear();
        self.keys.clear();
        self.invalidate_all();
    }

    /// Statistics of the caches since the phase began.
    pub fn cache_figures(&self) -> [CacheFigures; 5] {
        [
            self.users.cache_figures("users"),
            self.namespaces.cache_figures("namespaces"),
            self.keys.cache_figures("keys"),
            self.certificates.cache_figures("certificates"),
            self.counters.cache_figures("counters"),
        ]
    }
}

/// How a row was changed.
#[derive(Clone, Copy)]
enum RowChange {
    Removed,
    Replaced(Revision),
    /// By anybody, as the store's watch reports.
    Reported(Revision),
}

impl RowChange {
    fn apply<R: Record>(self, table: &Table<R>, path: &Path) {
        match self {
            RowChange::Removed => table.forget(path),
            RowChange::Replaced(at) => table.replaced(path, at),
            RowChange::Reported(at) => table.reported(path, at),
        }
    }
}

fn table<R: Record>(context: &TableContext, domain: &DomainKey) -> Table<R> {
    Table::new(context.clone(), RowKey::of(domain), R::CACHE_BYTES)
}

fn unconfirmed() -> Error {
    Error::Unavailable("The store did not confirm the change. Read before you try again.".into())
}

#[cfg(test)]
mod tests {
    use casemate_api::{KeyId, NamespaceId, UserId};
    use pollster::block_on;

    use super::*;
    use crate::rows::path::RowPath;
    use crate::sim::{SimRng, SimStore};

    fn tables() -> (Arc<SimStore>, Tables) {
        let store = Arc::new(SimStore::new(1));
        store.tamper(generation_pointer(), 1u32.to_be_bytes().to_vec());
        let domain = DomainKey::new([7; 32]);
        let tables = block_on(Tables::open(store.clone(), Arc::new(SimRng::new(2)), &domain)).unwrap();
        (store, tables)
    }

    fn ns(name: &str) -> RowPath<NamespaceRecord> {
        RowPath::namespace(1, &NamespaceId::parse(name).unwrap())
    }

    fn put(tables: &Tables, path: &RowPath<NamespaceRecord>, number: u32) -> Transaction {
        let row = tables.namespaces.sealed(path, Revision::default(), &NamespaceRecord::new(number)).unwrap();
        Transaction::default().put(row)
    }

    fn number(tables: &Tables, path: &RowPath<NamespaceRecord>) -> Option<u32> {
        block_on(tables.namespaces.get(path)).unwrap().map(|row| row.record.number)
    }

    #[test]
    fn a_commit_invalidates_what_it_wrote_and_nothing_else() {
        let (_, tables) = tables();
        let (a, b) = (ns("a"), ns("b"));
        block_on(tables.commit_all(vec![put(&tables, &a, 1), put(&tables, &b, 2)])).unwrap();
        assert_eq!((number(&tables, &a), number(&tables, &b)), (Some(1), Some(2)));
        let misses = || tables.namespaces.cache_figures("").misses;
        let before = misses();
        block_on(tables.commit(put(&tables, &a, 3))).unwrap();
        assert_eq!((number(&tables, &a), number(&tables, &b)), (Some(3), Some(2)));
        assert_eq!(misses() - before, 1);
        block_on(tables.commit(Transaction::default().delete(&a))).unwrap();
        assert_eq!(number(&tables, &a), None);
    }

    #[test]
    fn applied_transactions_are_invalidated_in_the_caches_even_if_another_one_has_no_known_outcome() {
        let (store, tables) = tables();
        let paths: Vec<_> = (0..8).map(|at| ns(&format!("n{at}"))).collect();
        let all = |number| paths.iter().map(|path| put(&tables, path, number)).collect::<Vec<_>>();
        block_on(tables.commit_all(all(1))).unwrap();
        paths.iter().for_each(|path| assert_eq!(number(&tables, path), Some(1)));
        store.lose_answers(3);
        // By chance none of the three may have been applied, which is an error.
        let _ = block_on(tables.commit_all(all(2)));
        for path in &paths {
            let stored = block_on(tables.namespaces.read(path)).unwrap().unwrap().record.number;
            assert_eq!(number(&tables, path), Some(stored));
        }
    }

    #[test]
    fn what_the_store_reports_reaches_its_own_table_and_spares_what_is_newer() {
        let (store, tables) = tables();
        let path = ns("a");
        let Committed::At(first) = block_on(tables.commit(put(&tables, &path, 1))).unwrap() else { panic!() };
        assert_eq!(number(&tables, &path), Some(1));
        let sealed = tables.namespaces.sealed(&path, first, &NamespaceRecord::new(2)).unwrap();
        let (raw, value) = sealed.into_parts();
        store.tamper(raw.clone(), value);
        let event = |path: &Path, revision| Event::Changed { path: path.clone(), revision };
        tables.apply_event(&event(&raw, first));
        assert_eq!(number(&tables, &path), Some(1), "it is cached as of that write");
        let user = RowPath::user(1, &UserId::parse("a").unwrap());
        let key = RowPath::key(1, 0, &KeyId::parse("a").unwrap());
        let other_generation = RowPath::namespace(2, &NamespaceId::parse("a").unwrap());
        for other in [user.path(), key.path(), other_generation.path(), &generation_pointer(), &Path(Box::from([]))] {
            tables.apply_event(&event(other, Revision(first.0 + 1)));
        }
        assert_eq!(number(&tables, &path), Some(1), "other rows were reported");
        tables.apply_event(&event(&raw, Revision(first.0 + 1)));
        assert_eq!(number(&tables, &path), Some(2));
    }
}
