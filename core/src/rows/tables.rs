//! All tables of one generation of the shared store, and the one way to write them.
//!
//! [`Tables::commit`] fences every write by the generation, settles lost answers, and voids in the caches what it changed, so
//! that its callers void nothing. What others write, the store's watch tells: [`Tables::notice`] takes it to the table whose
//! row it is.

use std::sync::Arc;

use casemate_api::limits::STORE_TXN_MAX_OPS;

use crate::crypto::secret::DomainKey;
use crate::error::Error;
use crate::rows::backup_secret::BackupSecret;
use crate::rows::certificate::CertificateRecord;
use crate::rows::chores::{Hardening, LastNamespaceNumber, Remains};
use crate::rows::cluster_ca::ClusterCa;
use crate::rows::counter::CounterRecord;
use crate::rows::key::KeyRecord;
use crate::rows::migrate;
use crate::rows::namespace::NamespaceRecord;
use crate::rows::path::{Generation, RowPrefix, generation_pointer, table_of};
use crate::rows::record::Record;
use crate::rows::record::TableId;
use crate::rows::table::{CacheEpoch, CacheFigures, Ground, RowKey, Table};
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
    /// What stands for the backup passphrase.
    pub backup_secrets: Table<BackupSecret>,
    /// The authority of the cluster.
    pub cluster_cas: Table<ClusterCa>,
    /// The highest number given to a namespace.
    pub namespace_numbers: Table<LastNamespaceNumber>,
    /// Deleted namespaces whose rows are not all removed yet.
    pub remains: Table<Remains>,
    /// Whether there are digests to be hardened.
    pub hardening: Table<Hardening>,
    /// The generation all paths lie in.
    pub generation: Generation,
    pointer: Revision,
    ground: Ground,
}

impl Tables {
    /// The tables of the current generation, for the Domain Key it is sealed under. Rows in the form of earlier versions are
    /// brought into that of today first.
    pub async fn open(store: Arc<dyn Store>, rng: Arc<dyn Rng>, domain: &DomainKey) -> Result<Self, Error> {
        // What an earlier phase still had on its way to the disk comes before anything is read.
        store.commit(vec![Txn::default()]).await?;
        let damaged = || Error::internal("the generation pointer is missing or damaged");
        let pointer = store.get(&generation_pointer(), Read::Fresh).await?.ok_or_else(damaged)?;
        let number = <[u8; 4]>::try_from(pointer.value.as_slice()).map_err(|_| damaged())?;
        let generation = Generation::from_be_bytes(number);
        let fence = (generation_pointer(), Expect::At(pointer.revision));
        migrate::to_tables_of_their_own(&*store, &*rng, domain, generation, fence).await?;
        let ground = Ground { store, rng, closed: Closed::default(), epoch: CacheEpoch::default() };
        Ok(Self {
            users: table(&ground, domain),
            namespaces: table(&ground, domain),
            keys: table(&ground, domain),
            certificates: table(&ground, domain),
            counters: table(&ground, domain),
            backup_secrets: table(&ground, domain),
            cluster_cas: table(&ground, domain),
            namespace_numbers: table(&ground, domain),
            remains: table(&ground, domain),
            hardening: table(&ground, domain),
            generation,
            pointer: pointer.revision,
            ground,
        })
    }

    /// Applies `transaction` if all its guards hold and the generation has not moved, and asks for nobody's right: what a
    /// caller wants goes through [`crate::identity::right`]. A lost answer is settled by reading again: sealed values are
    /// unique, so equal bytes are ours.
    pub async fn commit(&self, transaction: Transaction) -> Result<Committed, Error> {
        let outcome = self.commit_all(vec![transaction]).await?.pop();
        outcome.ok_or_else(|| Error::internal("the store gave no outcome"))
    }

    /// Like [`Tables::commit`] for many transactions, each by itself, in one write to the disk.
    pub async fn commit_all(&self, transactions: Vec<Transaction>) -> Result<Vec<Committed>, Error> {
        self.check()?;
        let fence = Expect::At(self.pointer);
        let txns: Vec<Txn> = transactions.iter().map(|one| one.fenced(generation_pointer(), fence)).collect();
        let outcomes = self.ground.store.commit(txns.clone()).await?;
        let mut committed = Vec::with_capacity(txns.len());
        let mut failed = None;
        // Each is looked at, also behind one that failed: what was applied must not stay in the caches.
        for ((transaction, txn), outcome) in transactions.iter().zip(&txns).zip(outcomes) {
            match self.settle(txn, outcome).await {
                Ok(one) => {
                    if let Committed::At(revision) = one {
                        self.void(transaction, txn, revision);
                    }
                    committed.push(one);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(committed), Err)
    }

    async fn settle(&self, txn: &Txn, outcome: Outcome) -> Result<Committed, Error> {
        match outcome {
            Outcome::Committed(revision) => Ok(Committed::At(revision)),
            Outcome::Conflict(guard) if guard + 1 == txn.expect.len() => {
                Err(Error::Unavailable("The HSM's data was replaced by a restore. Try again.".into()))
            }
            Outcome::Conflict(guard) => Ok(Committed::Conflict(guard)),
            Outcome::Unknown => {
                // Begun after the answer, when what will be applied is applied: no older row is cached again.
                self.ground.epoch.begin();
                let found = applied(&*self.ground.store, txn).await.map_err(|_| unconfirmed())?;
                found.map(Committed::At).ok_or_else(unconfirmed)
            }
        }
    }

    /// Voids in the caches what was written.
    fn void(&self, transaction: &Transaction, txn: &Txn, at: Revision) {
        let moves = &transaction.moves;
        for (from, to) in moves {
            // Only keys are moved, and only they have anything to hand on.
            self.keys.moved(from, to, at);
        }
        for path in txn.delete.iter().filter(|path| !moves.iter().any(|(from, _)| from == *path)) {
            self.each(path, Void::Removed);
        }
        for (path, _) in txn.put.iter().filter(|(path, _)| !moves.iter().any(|(_, to)| to == path)) {
            self.each(path, Void::Replaced(at));
        }
    }

    /// Takes what a watch of the store reports to the table whose row it is.
    pub fn notice(&self, event: &Event) {
        match event {
            Event::Changed { path, revision } => self.each(path, Void::Noticed(*revision)),
            Event::Lost | Event::Compacted => self.forget_all(),
        }
    }

    /// Everything that is cached is void: changes may have been missed.
    pub fn forget_all(&self) {
        self.ground.epoch.begin();
    }

    fn each(&self, path: &Path, void: Void) {
        let Some((generation, table)) = table_of(path) else { return };
        if generation != self.generation {
            return;
        }
        match table {
            TableId::Users => void.apply(&self.users, path),
            TableId::Namespaces => void.apply(&self.namespaces, path),
            TableId::Keys => void.apply(&self.keys, path),
            TableId::Certificates => void.apply(&self.certificates, path),
            TableId::Counters => void.apply(&self.counters, path),
            TableId::BackupSecrets => void.apply(&self.backup_secrets, path),
            TableId::ClusterCas => void.apply(&self.cluster_cas, path),
            TableId::NamespaceNumbers => void.apply(&self.namespace_numbers, path),
            TableId::Remains => void.apply(&self.remains, path),
            TableId::Hardening => void.apply(&self.hardening, path),
            // Nobody caches them.
            TableId::Staged => {}
        }
    }

    /// Removes every row of `table` below `prefix`, page by page. Idempotent.
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

    /// A consistent view of the store, of all generations.
    pub async fn snapshot(&self) -> Result<Box<dyn Snapshot>, Error> {
        self.check()?;
        Ok(self.ground.store.snapshot().await?)
    }

    /// `Err` once closed.
    pub fn check(&self) -> Result<(), Error> {
        self.ground.closed.check()
    }

    /// Refuses everything from now on, and forgets what is cached.
    pub fn close(&self) {
        self.ground.closed.close();
        self.users.clear();
        self.keys.clear();
        self.forget_all();
    }

    /// What the caches of rows hold, and how they did since the phase began.
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

/// What became of a row.
#[derive(Clone, Copy)]
enum Void {
    Removed,
    Replaced(Revision),
    Noticed(Revision),
}

impl Void {
    fn apply<R: Record>(self, table: &Table<R>, path: &Path) {
        match self {
            Void::Removed => table.forget(path),
            Void::Replaced(at) => table.replaced(path, at),
            Void::Noticed(at) => table.noticed(path, at),
        }
    }
}

fn table<R: Record>(ground: &Ground, domain: &DomainKey) -> Table<R> {
    Table::new(ground.clone(), RowKey::of(domain), R::CACHE_BYTES)
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
    fn a_commit_voids_what_it_wrote_and_nothing_else() {
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
    fn of_many_commits_those_that_were_applied_are_voided_also_beside_one_that_nobody_can_settle() {
        let (store, tables) = tables();
        let paths: Vec<_> = (0..8).map(|at| ns(&format!("n{at}"))).collect();
        let all = |number| paths.iter().map(|path| put(&tables, path, number)).collect::<Vec<_>>();
        block_on(tables.commit_all(all(1))).unwrap();
        paths.iter().for_each(|path| assert_eq!(number(&tables, path), Some(1)));
        store.lose_answers(3);
        // Chance may have it that none of the three was applied, and then that is said.
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
        tables.notice(&event(&raw, first));
        assert_eq!(number(&tables, &path), Some(1), "it is cached as of that write");
        let user = RowPath::user(1, &UserId::parse("a").unwrap());
        let key = RowPath::key(1, 0, &KeyId::parse("a").unwrap());
        let other_generation = RowPath::namespace(2, &NamespaceId::parse("a").unwrap());
        for other in [user.path(), key.path(), other_generation.path(), &generation_pointer(), &Path(Box::from([]))] {
            tables.notice(&event(other, Revision(first.0 + 1)));
        }
        assert_eq!(number(&tables, &path), Some(1), "that was said of other rows");
        tables.notice(&event(&raw, Revision(first.0 + 1)));
        assert_eq!(number(&tables, &path), Some(2));
    }
}
