//! A store in memory. It is linearizable, and fails when a test wants it to.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_api::limits::{STORE_HISTORY_EVENTS, STORE_TXN_MAX_OPS};

use super::SimRng;
use crate::runtime::BoxFuture;
use crate::store::facts::Facts;
use crate::store::history::History;
use crate::store::{
    Expect, Outcome, Page, Path, Range, Read, Revision, Snapshot, Store, StoreError, Txn, Versioned, Watch,
};

/// A store in memory. Every answer is correct and immediate unless a fault was injected.
pub struct SimStore {
    /// The store that has the rows instead, with the faults of this one in front of it.
    behind: Option<Arc<dyn Store>>,
    state: Mutex<State>,
    history: Arc<History>,
    rng: SimRng,
    gets: AtomicUsize,
    commits: AtomicUsize,
}

#[derive(Default)]
struct State {
    rows: Arc<BTreeMap<Path, Versioned>>,
    revision: Revision,
    failing: bool,
    full: bool,
    answers_to_lose: usize,
    /// Whether transactions with a lost answer may still be applied later.
    delay_lost: bool,
    late: Vec<Txn>,
    shared: bool,
    group: Group,
    delay: Option<Arc<Delay>>,
    /// Whether the delay comes after a commit, too.
    delay_answers: bool,
}

/// Transactions that were written together and share a revision, as etcd does it: until one touches what another has written.
#[derive(Default)]
struct Group {
    revision: Option<Revision>,
    written: BTreeSet<Path>,
}

type Delay = dyn Fn() -> BoxFuture<'static, ()> + Send + Sync;

impl SimStore {
    /// An empty store. `seed` decides whether commits with a lost answer are applied.
    pub fn new(seed: u64) -> Self {
        Self::with_history(seed, STORE_HISTORY_EVENTS)
    }

    /// An empty store that remembers only `events` changes for watches.
    pub fn with_history(seed: u64, events: usize) -> Self {
        Self {
            behind: None,
            state: Mutex::default(),
            history: History::new(Revision(0), events),
            rng: SimRng::new(seed),
            gets: AtomicUsize::new(0),
            commits: AtomicUsize::new(0),
        }
    }

    /// The faults of this store in front of `behind`, which holds the rows. [`SimStore::lose_watches`],
    /// [`SimStore::delay_lost`] and [`SimStore::share`] do nothing.
    pub fn in_front_of(behind: Arc<dyn Store>, seed: u64) -> Self {
        Self { behind: Some(behind), ..Self::new(seed) }
    }

    /// While `failing`, every call answers [`StoreError::Unreachable`].
    pub fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// While `full`, writes that add rows are refused with [`StoreError::Full`], as on a disk that is nearly full. A store that
    /// others share refuses all that write anything, as etcd does.
    pub fn fill(&self, full: bool) {
        self.lock().full = full;
    }

    /// The next `commits` transactions answer [`Outcome::Unknown`]. The seed decides which of them are applied.
    pub fn lose_answers(&self, commits: usize) {
        self.lock().answers_to_lose = commits;
    }

    /// Whether transactions with a lost answer may also be applied some calls later, or at [`SimStore::deliver_late`], as on a
    /// store with several members.
    pub fn delay_lost(&self, delay: bool) {
        self.lock().delay_lost = delay;
    }

    /// Applies what is still under way.
    pub fn deliver_late(&self) {
        let mut state = self.lock();
        for txn in std::mem::take(&mut state.late) {
            self.apply_if_guards_hold(&mut state, txn);
        }
    }

    /// Whether it says that others write to it, too. Then transactions of one commit may share a revision.
    pub fn share(&self, shared: bool) {
        self.lock().shared = shared;
    }

    /// Every call first waits for the future that `delay` returns, for instance a sleep of a [`super::SimClock`].
    pub fn delay(&self, delay: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static) {
        self.lock().delay = Some(Arc::new(delay));
    }

    /// Commits wait for that once more when they are done, before they answer.
    pub fn delay_answers(&self) {
        self.lock().delay_answers = true;
    }

    /// Calls answer at once again.
    pub fn no_delay(&self) {
        let mut state = self.lock();
        (state.delay, state.delay_answers) = (None, false);
    }

    /// Ends all watches with [`crate::store::Event::Lost`], as an interrupted connection would.
    pub fn lose_watches(&self) {
        let revision = self.lock().revision;
        self.history.restart(revision);
    }

    /// Forgets the history of changes. Watches that have not read it end with [`crate::store::Event::Compacted`].
    pub fn compact(&self) {
        self.history.compact();
    }

    /// Calls of [`Store::get`] so far.
    pub fn gets(&self) -> usize {
        self.gets.load(Ordering::Relaxed)
    }

    /// Transactions handed to [`Store::commit`] so far.
    pub fn commits(&self) -> usize {
        self.commits.load(Ordering::Relaxed)
    }

    /// All rows as they are on the disk.
    pub fn raw_rows(&self) -> Vec<(Path, Vec<u8>)> {
        if let Some(behind) = &self.behind {
            return rows_of(&**behind);
        }
        self.lock().rows.iter().map(|(path, row)| (path.clone(), row.value.clone())).collect()
    }

    /// Writes a row directly, as an attacker with access to the disk would. It counts as a change.
    pub fn tamper(&self, path: Path, value: Vec<u8>) {
        let txn = Txn { put: vec![(path, value)], ..Txn::default() };
        if let Some(behind) = &self.behind {
            let outcomes = pollster::block_on(behind.commit(vec![txn]));
            assert!(matches!(outcomes.as_deref(), Ok([Outcome::Committed(_)])), "{outcomes:?}");
            return;
        }
        let mut state = self.lock();
        self.apply(&mut state, txn);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the delay, if a test has set one, and fails if a test wants that.
    async fn reach(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let delay = self.lock().delay.clone();
        if let Some(delay) = delay {
            delay().await;
        }
        let mut state = self.lock();
        if state.failing {
            return Err(StoreError::Unreachable("simulated".into()));
        }
        if !state.late.is_empty() && self.rng.below(4) == 0 {
            let at = self.rng.below(state.late.len() as u64) as usize;
            let txn = state.late.swap_remove(at);
            self.apply_if_guards_hold(&mut state, txn);
        }
        Ok(state)
    }

    /// Commits to the store behind this one. Of transactions with a lost answer, chance decides which are sent.
    async fn commit_behind(&self, behind: &dyn Store, txns: Vec<Txn>) -> Result<Vec<Outcome>, StoreError> {
        let lost = {
            let mut state = self.reach().await?;
            if state.full && txns.iter().any(Txn::grows) {
                return Err(StoreError::Full);
            }
            let lost = state.answers_to_lose.min(txns.len());
            state.answers_to_lose -= lost;
            lost
        };
        self.commits.fetch_add(txns.len(), Ordering::Relaxed);
        let mut outcomes = Vec::new();
        let mut txns = txns.into_iter();
        for txn in txns.by_ref().take(lost) {
            if self.rng.below(2) == 0 {
                behind.commit(vec![txn]).await?;
            }
            outcomes.push(Outcome::Unknown);
        }
        outcomes.extend(behind.commit(txns.collect()).await?);
        Ok(outcomes)
    }

    fn commit_one(&self, state: &mut State, txn: Txn) -> Outcome {
        self.commits.fetch_add(1, Ordering::Relaxed);
        let lost = state.answers_to_lose > 0;
        state.answers_to_lose = state.answers_to_lose.saturating_sub(1);
        if lost && self.rng.below(2) == 0 {
            if state.delay_lost {
                state.late.push(txn);
            }
            return Outcome::Unknown;
        }
        let outcome = self.apply_if_guards_hold(state, txn);
        if lost { Outcome::Unknown } else { outcome }
    }

    fn apply_if_guards_hold(&self, state: &mut State, txn: Txn) -> Outcome {
        match failed_guard(&state.rows, &txn) {
            Some(index) => Outcome::Conflict(index),
            None => Outcome::Committed(self.apply(state, txn)),
        }
    }

    fn apply(&self, state: &mut State, txn: Txn) -> Revision {
        let paths = || txn.put.iter().map(|(path, _)| path).chain(&txn.delete);
        let touched =
            txn.expect.iter().map(|(path, _)| path).chain(paths()).any(|path| state.group.written.contains(path));
        if touched || !state.shared {
            state.group = Group::default();
        }
        let revision = state.group.revision.unwrap_or(Revision(state.revision.0 + 1));
        state.group.written.extend(paths().cloned());
        let rows = Arc::make_mut(&mut state.rows);
        let mut changed = Vec::new();
        for (path, value) in txn.put {
            rows.insert(path.clone(), Versioned { value, revision });
            changed.push((path, revision));
        }
        for path in txn.delete {
            if rows.remove(&path).is_some() {
                changed.push((path, revision));
            }
        }
        if !changed.is_empty() {
            state.revision = revision;
            state.group.revision = Some(revision);
            self.history.record(changed);
        }
        state.revision
    }
}

fn failed_guard(rows: &BTreeMap<Path, Versioned>, txn: &Txn) -> Option<usize> {
    txn.expect.iter().position(|(path, expect)| match (rows.get(path), expect) {
        (None, Expect::Absent) => false,
        (Some(row), Expect::At(revision)) => row.revision != *revision,
        (Some(_), Expect::Absent) | (None, Expect::At(_)) => true,
    })
}

fn rows_of(store: &dyn Store) -> Vec<(Path, Vec<u8>)> {
    let range = Range { start: Path(Box::from([])), end: None, limit: usize::MAX, keys_only: false };
    let page = pollster::block_on(store.range(range, Read::Fresh));
    let rows = page.map(|page| page.rows).unwrap_or_default();
    rows.into_iter().map(|(path, row)| (path, row.value)).collect()
}

fn many(rows: &BTreeMap<Path, Versioned>, paths: &[Path]) -> Result<Vec<Option<Versioned>>, StoreError> {
    if paths.len() > STORE_TXN_MAX_OPS {
        return Err(StoreError::TooLarge);
    }
    Ok(paths.iter().map(|path| rows.get(path).cloned()).collect())
}

fn page(rows: &BTreeMap<Path, Versioned>, revision: Revision, range: &Range) -> Page {
    let mut page = Page { revision, ..Page::default() };
    if range.end.as_ref().is_some_and(|end| *end <= range.start) {
        return page;
    }
    let end = range.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    for (path, row) in rows.range((Bound::Included(&range.start), end)) {
        if page.rows.len() == range.limit {
            page.more = true;
            break;
        }
        let value = if range.keys_only { Vec::new() } else { row.value.clone() };
        page.rows.push((path.clone(), Versioned { value, revision: row.revision }));
    }
    page
}

impl Store for SimStore {
    fn get<'a>(&'a self, path: &'a Path, read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        Box::pin(async move {
            self.gets.fetch_add(1, Ordering::Relaxed);
            if let Some(behind) = &self.behind {
                drop(self.reach().await?);
                return behind.get(path, read).await;
            }
            Ok(self.reach().await?.rows.get(path).cloned())
        })
    }

    fn get_many<'a>(
        &'a self,
        paths: &'a [Path],
        read: Read,
    ) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>> {
        Box::pin(async move {
            self.gets.fetch_add(1, Ordering::Relaxed);
            if let Some(behind) = &self.behind {
                drop(self.reach().await?);
                return behind.get_many(paths, read).await;
            }
            many(&self.reach().await?.rows, paths)
        })
    }

    fn facts(&self) -> Option<Facts> {
        self.behind.as_ref()?.facts()
    }

    fn is_shared(&self) -> bool {
        self.behind.as_ref().map_or_else(|| self.lock().shared, |behind| behind.is_shared())
    }

    fn range(&self, range: Range, read: Read) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            if let Some(behind) = &self.behind {
                drop(self.reach().await?);
                return behind.range(range, read).await;
            }
            let state = self.reach().await?;
            Ok(page(&state.rows, state.revision, &range))
        })
    }

    fn commit(&self, txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        Box::pin(async move {
            if !txns.iter().all(Txn::fits) {
                return Err(StoreError::TooLarge);
            }
            if let Some(behind) = &self.behind {
                return self.commit_behind(&**behind, txns).await;
            }
            let (outcomes, delay) = {
                let mut state = self.reach().await?;
                let refused = |txn: &Txn| txn.grows() || state.shared && !txn.put.is_empty();
                if state.full && txns.iter().any(refused) {
                    return Err(StoreError::Full);
                }
                state.group = Group::default();
                let outcomes = txns.into_iter().map(|txn| self.commit_one(&mut state, txn)).collect();
                state.group = Group::default();
                (outcomes, state.delay.clone().filter(|_| state.delay_answers))
            };
            if let Some(delay) = delay {
                delay().await;
            }
            Ok(outcomes)
        })
    }

    fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        Box::pin(async move {
            drop(self.reach().await?);
            if let Some(behind) = &self.behind {
                return behind.watch(prefix, from).await;
            }
            Ok(self.history.watch(prefix, from))
        })
    }

    fn is_nearly_full(&self) -> bool {
        self.lock().full
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
        Box::pin(async move {
            if let Some(behind) = &self.behind {
                drop(self.reach().await?);
                return behind.snapshot().await;
            }
            let state = self.reach().await?;
            Ok(Box::new(View { rows: state.rows.clone(), revision: state.revision }) as Box<dyn Snapshot>)
        })
    }
}

struct View {
    rows: Arc<BTreeMap<Path, Versioned>>,
    revision: Revision,
}

impl Snapshot for View {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move { Ok(page(&self.rows, self.revision, &range)) })
    }

    fn ranges<'a>(&'a self, ranges: &'a [Range]) -> BoxFuture<'a, Result<Vec<Page>, StoreError>> {
        Box::pin(async move {
            if ranges.len() > STORE_TXN_MAX_OPS {
                return Err(StoreError::TooLarge);
            }
            Ok(ranges.iter().map(|range| page(&self.rows, self.revision, range)).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pollster::block_on;

    use super::*;
    use crate::runtime::Clock;
    use crate::sim::SimClock;
    use crate::sim::conformance;

    fn put(path: &str) -> Txn {
        Txn { put: vec![(Path(path.as_bytes().into()), b"value".to_vec())], ..Txn::default() }
    }

    #[test]
    fn conforms() {
        let compact = async |store: &SimStore| store.compact();
        for shared in [false, true] {
            let make = async || {
                let store = Arc::new(SimStore::new(1));
                store.share(shared);
                store
            };
            block_on(conformance::run(make, compact));
        }
    }

    #[test]
    fn a_failing_store_answers_nothing_and_recovers() {
        let store = SimStore::new(1);
        store.fail(true);
        let path = Path(b"a".as_slice().into());
        assert!(matches!(block_on(store.get(&path, Read::Fresh)), Err(StoreError::Unreachable(_))));
        assert!(matches!(block_on(store.commit(vec![put("a")])), Err(StoreError::Unreachable(_))));
        store.fail(false);
        assert_eq!(block_on(store.get(&path, Read::Fresh)), Ok(None));
        assert_eq!((store.gets(), store.commits()), (2, 0));
    }

    #[test]
    fn commits_with_a_lost_answer_may_or_may_not_be_applied() {
        let store = SimStore::new(1);
        store.lose_answers(64);
        let txns = (0..65).map(|n| put(&n.to_string())).collect();
        let outcomes = block_on(store.commit(txns)).unwrap();
        assert!(outcomes.iter().take(64).all(|outcome| *outcome == Outcome::Unknown));
        assert!(matches!(outcomes[64], Outcome::Committed(_)));
        let applied = store.raw_rows().len();
        assert!((8..=56).contains(&applied), "{applied} of 64 applied");
    }

    #[test]
    fn a_delayed_call_waits_for_the_clock() {
        let clock = Arc::new(SimClock::new());
        let store = SimStore::new(1);
        let sleeper = clock.clone();
        store.delay(move || sleeper.sleep(Duration::from_secs(1)));
        let mut commit = store.commit(vec![put("a")]);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(commit.as_mut().poll(&mut context).is_pending());
        clock.advance(Duration::from_secs(1));
        assert!(commit.as_mut().poll(&mut context).is_ready());
    }
}
