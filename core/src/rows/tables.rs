//! All tables of one generation of the shared store, and the one way to write them.
//!
//! [`Tables::commit`] guards every write by the generation, settles lost answers, and invalidates what it changed in the
//! caches. What others write is reported by the store's watch: [`Tables::apply_event`] passes it to the table of the row.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use casemate_api::limits::STORE_TXN_MAX_OPS;

use crate::crypto::secret::DomainKey;
use crate::error::Error;
use crate::rows::backup_secret::BackupSecret;
use crate::rows::certificate::CertificateRecord;
use crate::rows::chores::{DeletedNamespace, Hardening, LastNamespaceNumber};
use crate::rows::cluster_ca::ClusterCa;
use crate::rows::confirm::Confirmation;
use crate::rows::counter::CounterRecord;
use crate::rows::fence::Fence;
use crate::rows::index::KeyIndex;
use crate::rows::key::KeyRecord;
use crate::rows::migrate;
use crate::rows::namespace::NamespaceRecord;
use crate::rows::path::{Generation, RowPath, RowPrefix, generation_pointer, table_of};
use crate::rows::record::Record;
use crate::rows::record::TableId;
use crate::rows::table::{CacheEpoch, CacheFigures, RowChange, RowKey, Table, TableContext, replaced};
use crate::rows::transaction::{Committed, Transaction};
use crate::rows::usage::Usage;
use crate::rows::user::UserRecord;
use crate::rows::without_majority::WithoutMajority;
use crate::runtime::lifetime::Closed;
use crate::runtime::{Clock, Rng};
use crate::store::{Event, Expect, Outcome, Path, Range, Read, Revision, Snapshot, Store, Txn};

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
    /// What namespaces with a quota hold.
    pub usages: Table<Usage>,
    /// Whether nodes go on without a majority.
    pub without_majority: Table<WithoutMajority>,
    /// Keys by their uids and labels.
    pub index: KeyIndex,
    /// The generation of all paths.
    pub generation: Generation,
    pointer: Revision,
    /// Only for a store that others share: a store of this process alone applies nothing late.
    fence: Option<Fence>,
    /// The newest revision that this process has seen.
    seen: AtomicU64,
    context: TableContext,
}

impl Tables {
    /// Opens the tables of the current generation with the Domain Key. Rows written by earlier versions are migrated first.
    /// `node` is the device id; a store that others share is told that everything sent by that node before is void.
    ///
    /// # Errors
    /// [`Error::Internal`] if the generation pointer is missing or damaged, or a row cannot be migrated; the store's errors.
    pub async fn open(
        store: Arc<dyn Store>,
        rng: Arc<dyn Rng>,
        clock: Arc<dyn Clock>,
        domain: &DomainKey,
        node: &str,
    ) -> Result<Self, Error> {
        let confirmation = match store.is_shared() {
            true => Confirmation::by(clock),
            false => Confirmation::always(),
        };
        // Waits for writes of an earlier phase that are still queued, before anything is read.
        let fence = if store.is_shared() {
            Some(Fence::take(store.clone(), rng.clone(), node).await?)
        } else {
            store.commit(vec![Txn::default()]).await?;
            None
        };
        let damaged = || Error::internal("the generation pointer is missing or damaged");
        let pointer = store.get(&generation_pointer(), Read::Fresh).await?.ok_or_else(damaged)?;
        let number = <[u8; 4]>::try_from(pointer.value.as_slice()).map_err(|_| damaged())?;
        let generation = Generation::from_be_bytes(number);
        check_key(&*store, domain, generation).await?;
        let current = (generation_pointer(), Expect::At(pointer.revision));
        migrate::to_tables_of_their_own(&*store, &*rng, domain, generation, current).await?;
        let seen = fence.as_ref().map_or(pointer.revision, Fence::revision);
        let context = TableContext {
            store,
            rng,
            closed: Closed::default(),
            epoch: CacheEpoch::default(),
            confirmation: confirmation.into(),
            pointer: fence.is_some().then_some(pointer.revision),
        };
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
            usages: table(&context, domain),
            without_majority: table(&context, domain),
            index: KeyIndex::new(&context, domain, generation),
            generation,
            pointer: pointer.revision,
            fence,
            seen: AtomicU64::new(seen.0),
            context,
        })
    }

    /// Applies `transaction` if all its guards hold and the generation is still current. No caller's rights are checked: writes
    /// for a caller go through [`crate::identity::right`]. If the store's answer was lost, the outcome is settled first.
    pub async fn commit(&self, transaction: Transaction) -> Result<Committed, Error> {
        let outcome = self.commit_all(vec![transaction]).await.pop();
        outcome.unwrap_or_else(|| Err(Error::internal("the store gave no outcome")))
    }

    /// Like [`Tables::commit`] for several independent transactions in one write to the disk: the outcome of each, in their
    /// order.
    pub async fn commit_all(&self, transactions: Vec<Transaction>) -> Vec<Result<Committed, Error>> {
        let mut results: Vec<Option<Result<Committed, Error>>> = transactions.iter().map(|_| None).collect();
        for _ in 0..ATTEMPTS {
            // Which of them have no outcome yet: at first all of them.
            let open: Vec<usize> = (0..).zip(&results).filter(|(_, one)| one.is_none()).map(|(at, _)| at).collect();
            if open.is_empty() {
                break;
            }
            let round = open.iter().filter_map(|at| Some((*at, transactions.get(*at)?))).collect();
            for (at, result) in self.commit_round(round).await {
                if let Some(place) = results.get_mut(at) {
                    *place = result;
                }
            }
        }
        results.into_iter().map(|one| one.unwrap_or_else(|| Err(unconfirmed()))).collect()
    }

    /// Commits each of `round` once. `None`: it was not applied and never will be, because this node's fence was renewed
    /// meanwhile; it can be sent again.
    async fn commit_round(&self, round: Vec<(usize, &Transaction)>) -> Vec<(usize, Option<Result<Committed, Error>>)> {
        let current = (generation_pointer(), Expect::At(self.pointer));
        let fenced_at = self.fence.as_ref().map(Fence::revision);
        // The same revision in the guard and in the settlement: another task may renew the fence at any time.
        let fence = self.fence.as_ref().zip(fenced_at).map(|(fence, at)| (fence.path().clone(), Expect::At(at)));
        let guards: Vec<_> = std::iter::once(current).chain(fence).collect();
        let since = Revision(self.seen.load(Ordering::SeqCst));
        let txns: Vec<Txn> = round.iter().map(|(_, one)| one.guarded(&guards)).collect();
        let sent = match self.check() {
            Ok(()) => self.context.store.commit(txns.clone()).await.map_err(Error::from),
            Err(closed) => Err(closed),
        };
        let outcomes = match sent {
            Ok(outcomes) => outcomes,
            // None of them was done.
            Err(why) => return round.into_iter().map(|(at, _)| (at, Some(Err(why.clone())))).collect(),
        };
        let mut results = Vec::with_capacity(txns.len());
        let mut settled = None;
        // Continue after a failed one: rows that were changed must not stay in the caches.
        for (((at, transaction), txn), outcome) in round.into_iter().zip(&txns).zip(outcomes) {
            let result = match outcome {
                Outcome::Committed(revision) => Some(Ok(Committed::At(revision))),
                Outcome::Conflict(0) => Some(Err(replaced())),
                Outcome::Conflict(guard) if guard >= guards.len() => {
                    Some(Ok(Committed::Conflict(guard - guards.len())))
                }
                Outcome::Conflict(_) => match self.settle(fenced_at).await {
                    // This node has renewed the fence: the transaction was not applied.
                    Ok(_) => None,
                    Err(error) => Some(Err(error)),
                },
                Outcome::Unknown => {
                    if settled.is_none() {
                        settled = Some(self.settle(fenced_at).await);
                    }
                    match &settled {
                        Some(Ok(until)) => self.trace(txn, since, *until).await,
                        _ => Some(Err(unconfirmed())),
                    }
                }
            };
            if let Some(Ok(Committed::At(revision))) = result {
                self.seen.fetch_max(revision.0, Ordering::SeqCst);
                self.invalidate(transaction, txn, revision);
            }
            results.push((at, result));
        }
        results
    }

    /// Makes sure that nothing sent with the fence at `fenced_at` is still applied, and empties the caches: no row older than
    /// what was applied until then is cached again. Returns the revision from which on that holds.
    async fn settle(&self, fenced_at: Option<Revision>) -> Result<Revision, Error> {
        let until = match (&self.fence, fenced_at) {
            (Some(fence), Some(seen)) => fence.renew(seen).await,
            _ => Ok(Revision::default()),
        };
        self.context.epoch.advance();
        until
    }

    /// Finds out whether `txn`, whose answer was lost, was applied after the revision `since`. It is settled as of `until`.
    /// `None`: it was not.
    async fn trace(&self, txn: &Txn, since: Revision, until: Revision) -> Option<Result<Committed, Error>> {
        let path = txn.put.first().map(|(path, _)| path).or(txn.delete.first())?;
        // In replaced data a row may be missing because it was swept.
        let Ok(row) = self.context.read(path).await else { return Some(Err(unconfirmed())) };
        if let (Some(row), Some((_, value))) = (&row, txn.put.first())
            && row.value == *value
        {
            // Sealed values are unique, so equal bytes are those of this transaction.
            return Some(Ok(Committed::At(row.revision)));
        }
        let all_gone = async || {
            for path in &txn.delete {
                if !matches!(self.context.read(path).await, Ok(None)) {
                    return false;
                }
            }
            txn.put.is_empty()
        };
        let expected = txn.expect.iter().any(|(guarded, _)| guarded == path);
        match self.changes_of(path, since, until).await {
            Some(0) => None,
            // The one change is the row that was found, and not of this transaction.
            Some(1) if row.as_ref().is_some_and(|row| row.revision <= until) => None,
            _ if !expected && all_gone().await => Some(Ok(Committed::At(until))),
            // Others have changed the row as well. Which of them was first is not known.
            _ => Some(Err(unconfirmed())),
        }
    }

    /// How often the row at `path` was changed after `since`, up to `until`. `None` if the store does not know.
    async fn changes_of(&self, path: &Path, since: Revision, until: Revision) -> Option<usize> {
        self.fence.as_ref()?;
        let mut watch = self.context.store.watch(path.clone(), since).await.ok()?;
        watch.ask_progress();
        let mut changes = 0;
        loop {
            match watch.next().await {
                Event::Changed { path: changed, .. } if changed == *path => changes += 1,
                Event::Changed { .. } => {}
                Event::Progress(revision) if revision >= until => return Some(changes),
                Event::Progress(_) => watch.ask_progress(),
                Event::Lost | Event::Compacted => return None,
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
            Event::Changed { path, revision } => {
                self.seen.fetch_max(revision.0, Ordering::SeqCst);
                if *path == generation_pointer() && self.pointer < *revision {
                    // These tables are of replaced data, and are never confirmed again.
                    self.context.confirmation.forbid_stale();
                }
                self.invalidate_row(path, RowChange::Reported(*revision));
            }
            Event::Progress(revision) => {
                self.seen.fetch_max(revision.0, Ordering::SeqCst);
            }
            Event::Lost | Event::Compacted => {
                self.context.confirmation.withdraw();
                self.invalidate_all();
            }
        }
    }

    /// Everything that was committed up to the moment `asked` of the monotonic clock was reported with
    /// [`Tables::apply_event`]. `pointer` is the revision of the generation pointer at that moment. If it had been moved, these
    /// tables are of replaced data, and are not confirmed.
    pub fn confirm(&self, asked: Duration, pointer: Option<Revision>) {
        if pointer == Some(self.pointer) {
            self.context.confirmation.confirm(asked, Revision(self.seen.load(Ordering::SeqCst)));
        }
    }

    /// A majority has answered what it was asked at the moment `asked` of the monotonic clock.
    pub fn answered(&self, asked: Duration) {
        self.context.confirmation.answered(asked);
    }

    /// Reads for how long this node goes on without a majority, if that is not known: without one it could not be read. To be
    /// called between an answer of the majority and the confirmation that follows from it, at which the pointer was of the
    /// revision `pointer`.
    pub async fn mirror_without_majority(&self, pointer: Option<Revision>) {
        let confirmation = &self.context.confirmation;
        if pointer != Some(self.pointer) {
            return confirmation.forbid_stale();
        }
        if self.has_own_copy() && !confirmation.begins_to_know() {
            let setting = self.without_majority.read(&RowPath::without_majority(self.generation)).await;
            confirmation.allow_stale(setting.ok().map(|row| row.map_or(Duration::ZERO, |row| row.record.stale_max())));
        }
    }

    /// For how long this node has not been confirmed, if it goes on without a majority now.
    pub fn stale(&self) -> Option<Duration> {
        self.context.confirmation.stale()
    }

    /// Whether this node has all rows itself, also while it reaches no other.
    pub(crate) fn has_own_copy(&self) -> bool {
        self.context.store.has_own_copy()
    }

    /// Whether other nodes write to the store, too.
    pub(crate) fn is_shared(&self) -> bool {
        self.fence.is_some()
    }

    /// The revision of the generation pointer when the tables were opened.
    pub fn pointer(&self) -> Revision {
        self.pointer
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
            TableId::Usages => change.apply(&self.usages, path),
            TableId::WithoutMajority => {
                change.apply(&self.without_majority, path);
                // Until it is known how it was changed.
                self.context.confirmation.forbid_stale();
            }
            TableId::Uids | TableId::Labels | TableId::Indexed => self.index.apply(change, path),
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
        let snapshot = self.context.store.snapshot().await?;
        self.context.check_pointer().await?;
        Ok(snapshot)
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

fn table<R: Record>(context: &TableContext, domain: &DomainKey) -> Table<R> {
    Table::new(context.clone(), RowKey::of(domain), R::CACHE_BYTES)
}

/// Checks that the rows of `generation` are sealed under `domain`. One row that opens shows it, as every user's row is made by
/// who has the key; some are tried, so that a damaged one does not keep all others out of reach.
///
/// # Errors
/// [`Error::Precondition`] if none of them opens.
async fn check_key(store: &dyn Store, domain: &DomainKey, generation: Generation) -> Result<(), Error> {
    const TRIED: usize = 16;
    let users = Range::prefix(RowPrefix::<UserRecord>::users(generation, None).path(), TRIED);
    let rows = store.range(users, Read::Fresh).await?.rows;
    let key: RowKey<UserRecord> = RowKey::of(domain);
    if rows.is_empty() || rows.iter().any(|(path, row)| key.open(path, &row.value).is_ok()) {
        return Ok(());
    }
    Err(Error::Precondition("The stored users and keys are not of this HSM: its Domain Key does not open them.".into()))
}

/// How often a transaction is sent again that is known not to have been applied.
const ATTEMPTS: usize = 4;

fn unconfirmed() -> Error {
    Error::Unavailable("The store did not confirm the change. Read before you try again.".into())
}

#[cfg(test)]
mod tests {
    use casemate_api::{KeyId, NamespaceId, UserId};
    use pollster::block_on;

    use super::*;
    use crate::rows::path::RowPath;
    use crate::sim::{SimClock, SimRng, SimStore};

    fn tables() -> (Arc<SimStore>, Tables) {
        let store = Arc::new(SimStore::new(1));
        store.tamper(generation_pointer(), 1u32.to_be_bytes().to_vec());
        let domain = DomainKey::new([7; 32]);
        let tables =
            block_on(Tables::open(store.clone(), Arc::new(SimRng::new(2)), Arc::new(SimClock::new()), &domain, "NODE"))
                .unwrap();
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
        assert!(block_on(tables.commit_all(vec![put(&tables, &a, 1), put(&tables, &b, 2)])).iter().all(Result::is_ok));
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
        assert!(block_on(tables.commit_all(all(1))).iter().all(Result::is_ok));
        paths.iter().for_each(|path| assert_eq!(number(&tables, path), Some(1)));
        store.lose_answers(3);
        // By chance none of the three may have been applied, which is an error.
        let _ = block_on(tables.commit_all(all(2)));
        for path in &paths {
            let stored = block_on(tables.namespaces.read(path)).unwrap().unwrap().record.number;
            assert_eq!(number(&tables, path), Some(stored));
        }
    }

    /// Two nodes on one store.
    fn two_nodes(seed: u64) -> (Arc<SimStore>, Tables, Tables) {
        let store = Arc::new(SimStore::new(seed));
        store.share(true);
        store.tamper(generation_pointer(), 1u32.to_be_bytes().to_vec());
        let domain = DomainKey::new([7; 32]);
        let open = |node: &str, rng| {
            block_on(Tables::open(store.clone(), Arc::new(SimRng::new(rng)), Arc::new(SimClock::new()), &domain, node))
                .unwrap()
        };
        let (first, second) = (open("FIRST", seed), open("SECOND", seed + 1_000_000));
        (store, first, second)
    }

    #[test]
    fn a_lost_answer_is_settled_for_good() {
        let path = ns("a");
        let (mut created, mut unclear) = (0, 0);
        for seed in 0..2_000 {
            let (store, first, second) = two_nodes(seed);
            let rng = SimRng::new(seed);
            store.delay_lost(true);
            store.lose_answers(1 + rng.below(3) as usize);
            let outcome = block_on(first.commit(put(&first, &path, 1).absent(&path)));
            let found = block_on(second.namespaces.read(&path)).unwrap().map(|row| row.record.number);
            match outcome {
                Ok(Committed::At(_)) => {
                    created += 1;
                    assert_eq!(found, Some(1), "seed {seed}: an acknowledged write is not there");
                }
                Ok(Committed::Conflict(_)) => unreachable!("seed {seed}: nobody else has written"),
                Err(_) => unclear += 1,
            }
            store.lose_answers(0);
            block_on(second.commit(Transaction::default().delete(&path))).unwrap();
            store.deliver_late();
            if outcome.is_ok() {
                let row = block_on(second.namespaces.read(&path)).unwrap();
                assert!(row.is_none(), "seed {seed}: a deleted row came back");
            }
        }
        assert!(created > 1_900, "{created} created, {unclear} unclear");
    }

    #[test]
    fn what_one_node_has_lost_and_another_has_changed_meanwhile_is_never_applied_twice() {
        for seed in 0..2_000 {
            let (store, first, second) = two_nodes(seed);
            let rng = SimRng::new(seed);
            let path = ns("a");
            if rng.below(2) == 0 {
                block_on(second.commit(put(&second, &path, 7).absent(&path))).unwrap();
            }
            let found = block_on(first.namespaces.read(&path)).unwrap().map(|row| row.revision);
            store.delay_lost(true);
            store.lose_answers(1);
            // The first node's write, with the second node's at any point of its settlement.
            let mut commit = std::pin::pin!(first.commit(put(&first, &path, 1).found(&path, found)));
            let turns = Arc::new(std::sync::atomic::AtomicU64::new(0));
            store.delay({
                let turns = turns.clone();
                move || {
                    turns.fetch_add(1, Ordering::SeqCst);
                    let mut yielded = false;
                    Box::pin(std::future::poll_fn(move |_| match std::mem::replace(&mut yielded, true) {
                        true => std::task::Poll::Ready(()),
                        false => std::task::Poll::Pending,
                    }))
                }
            });
            let at = rng.below(8);
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let outcome = loop {
                if turns.load(Ordering::SeqCst) == at {
                    store.no_delay();
                    block_on(second.commit(Transaction::default().delete(&path))).unwrap();
                    turns.store(1_000, Ordering::SeqCst);
                }
                if let std::task::Poll::Ready(outcome) = commit.as_mut().poll(&mut context) {
                    break outcome;
                }
            };
            store.no_delay();
            store.lose_answers(0);
            let before = block_on(second.namespaces.read(&path)).unwrap().map(|row| row.revision);
            store.deliver_late();
            let after = block_on(second.namespaces.read(&path)).unwrap().map(|row| row.revision);
            assert_eq!(before, after, "seed {seed}: {outcome:?}, then something was applied late");
            let mut history = block_on(store.watch(path.path().clone(), Revision(0))).unwrap();
            history.ask_progress();
            let mut changes = 0;
            while let Event::Changed { .. } = block_on(history.next()) {
                changes += 1;
            }
            // One creation by the second node, one removal, one write by the first: applied twice there would be four.
            assert!(changes <= 3, "seed {seed}: {outcome:?} with {changes} changes");
        }
    }

    /// What the two tests above must catch: a read after the lost answer is taken for final.
    #[test]
    fn a_read_alone_does_not_settle_a_lost_answer() {
        let wrong = (0..200).filter(|seed| {
            let (store, first, second) = two_nodes(*seed);
            store.delay_lost(true);
            store.lose_answers(1);
            let path = ns("a");
            let txn = put(&first, &path, 1).absent(&path).guarded(&[]);
            let _ = block_on(store.commit(vec![txn])).unwrap();
            let before = block_on(second.namespaces.read(&path)).unwrap().is_some();
            store.deliver_late();
            before != block_on(second.namespaces.read(&path)).unwrap().is_some()
        });
        assert!(wrong.count() > 10);
    }

    /// A renewal of the fence may be applied without the node having heard of it. That must not end all its writes.
    #[test]
    fn a_node_whose_renewal_was_not_confirmed_writes_again() {
        for seed in 0..200 {
            let (store, first, _) = two_nodes(seed);
            let path = ns("a");
            store.delay_lost(seed % 2 == 0);
            // The answer to the write, and to every attempt to renew the fence.
            store.lose_answers(1 + crate::store::settle::ATTEMPTS);
            let lost = block_on(first.commit(put(&first, &path, 1)));
            assert!(matches!(lost, Err(Error::Unavailable(_))), "seed {seed}: {lost:?}");
            store.lose_answers(0);
            store.deliver_late();
            let after = block_on(first.commit(put(&first, &path, 2)));
            assert!(matches!(after, Ok(Committed::At(_))), "seed {seed}: {after:?}");
        }
    }

    #[test]
    fn what_a_node_sent_before_it_was_opened_again_is_void() {
        let (store, first, _) = two_nodes(1);
        let path = ns("a");
        let domain = DomainKey::new([7; 32]);
        let again = block_on(Tables::open(
            store.clone(),
            Arc::new(SimRng::new(9)),
            Arc::new(SimClock::new()),
            &domain,
            "FIRST",
        ))
        .unwrap();
        assert!(matches!(block_on(first.commit(put(&first, &path, 1))), Err(Error::Unavailable(_))));
        block_on(again.commit(put(&again, &path, 1))).unwrap();
    }

    /// What a restore at another node does to the tables of this one. Returns the revision of the pointer.
    fn move_pointer(store: &SimStore) -> Revision {
        store.tamper(generation_pointer(), 2u32.to_be_bytes().to_vec());
        block_on(store.get(&generation_pointer(), Read::Fresh)).unwrap().unwrap().revision
    }

    fn is_refused<T>(answer: Result<T, Error>) -> bool {
        matches!(answer, Err(Error::Unavailable(why)) if why.contains("replaced by a restore"))
    }

    #[test]
    fn nothing_is_read_from_data_that_was_replaced_at_another_node() {
        let (store, first, second) = two_nodes(1);
        let path = ns("a");
        block_on(second.commit(put(&second, &path, 1))).unwrap();
        assert_eq!(number(&first, &path), Some(1));
        move_pointer(&store);
        assert!(is_refused(block_on(first.namespaces.get(&path))));
        assert!(is_refused(block_on(first.namespaces.read(&path))));
        assert!(is_refused(block_on(first.namespaces.paths(&RowPrefix::namespaces(1), None))));
        assert!(is_refused(block_on(first.snapshot())));
    }

    /// Whoever is refused over and over must not make rows cold that others use.
    #[test]
    fn a_refused_look_at_a_row_leaves_it_in_the_cache_unless_it_has_changed() {
        let (_, first, second) = two_nodes(1);
        let path = ns("a");
        block_on(second.commit(put(&second, &path, 1))).unwrap();
        first.confirm(Duration::ZERO, Some(first.pointer()));
        assert_eq!(number(&first, &path), Some(1));
        let misses = first.namespaces.cache_figures("").misses;
        let refreshed = |path: &RowPath<NamespaceRecord>| block_on(first.namespaces.refresh(path)).unwrap();
        for _ in 0..3 {
            assert_eq!(refreshed(&path).unwrap().record.number, 1);
            assert!(refreshed(&ns("none")).is_none());
            assert_eq!(number(&first, &path), Some(1));
        }
        assert_eq!(first.namespaces.cache_figures("").misses, misses);
        block_on(second.commit(put(&second, &path, 2))).unwrap();
        assert_eq!(refreshed(&path).unwrap().record.number, 2);
        assert_eq!(number(&first, &path), Some(2));
        block_on(second.commit(Transaction::default().delete(&path))).unwrap();
        assert!(refreshed(&path).is_none());
        assert_eq!(number(&first, &path), None);
    }

    #[test]
    fn a_conflict_with_a_row_of_replaced_data_is_not_reported() {
        let (store, first, second) = two_nodes(1);
        let path = ns("a");
        block_on(second.commit(put(&second, &path, 1))).unwrap();
        move_pointer(&store);
        assert!(is_refused(block_on(first.commit(put(&first, &path, 2).absent(&path)))));
    }

    #[test]
    fn a_removal_of_unknown_outcome_is_not_taken_for_done_because_the_data_was_replaced() {
        let (store, first, _) = two_nodes(1);
        move_pointer(&store);
        // The history does not tell what was changed.
        store.compact();
        store.lose_answers(1);
        let outcome = block_on(first.commit(Transaction::default().delete(&ns("a"))));
        assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    }

    #[test]
    fn tables_of_replaced_data_are_not_confirmed() {
        let (store, first, second) = two_nodes(1);
        let path = ns("a");
        block_on(second.commit(put(&second, &path, 1))).unwrap();
        assert_eq!(number(&first, &path), Some(1));
        let old = first.pointer();
        let new = move_pointer(&store);
        first.confirm(Duration::ZERO, Some(new));
        assert!(is_refused(block_on(first.namespaces.get(&path))));
        first.confirm(Duration::ZERO, Some(old));
        assert_eq!(number(&first, &path), Some(1), "it was current at the moment of the question");
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
