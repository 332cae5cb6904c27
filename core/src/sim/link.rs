//! The connection of one of several simulated nodes to the store that they share. Each has its own faults, from its own seed.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{SimClock, SimRng};
use crate::runtime::{BoxFuture, Clock};
use crate::store::{
    Event, Outcome, Page, Path, Range, Read, Revision, Snapshot, Store, StoreError, Txn, Versioned, Watch,
};

/// A store as one node reaches it. Every call yields a few times before and after it takes effect, so that whoever polls the
/// nodes decides what comes first.
pub struct SimLink {
    store: Arc<dyn Store>,
    clock: Arc<SimClock>,
    rng: Arc<SimRng>,
    state: Arc<Mutex<State>>,
    has_own_copy: bool,
}

#[derive(Default)]
struct State {
    cut: bool,
    /// While it is cut, the rows as they were then, of a node that has them itself.
    copy: Option<Page>,
    slow: bool,
    lagging: bool,
    answers_to_lose: usize,
    /// Transactions whose answer was lost and which are still under way.
    late: Vec<Txn>,
    /// Number of times that the watches were ended.
    breaks: u64,
    waiting: Vec<Waker>,
}

impl SimLink {
    /// A link to `store` without faults. `seed` decides how often calls yield, and what becomes of lost transactions.
    pub fn new(store: Arc<dyn Store>, clock: Arc<SimClock>, seed: u64) -> Self {
        Self { store, clock, rng: Arc::new(SimRng::new(seed)), state: Arc::default(), has_own_copy: false }
    }

    /// The same for a node that has all rows itself: while it is cut off, [`Read::Local`] tells them as they were then.
    pub fn with_own_copy(self) -> Self {
        Self { has_own_copy: true, ..self }
    }

    /// While `cut`, calls answer [`StoreError::Unreachable`], those under way lose their answer, and watches are silent.
    pub fn cut(&self, cut: bool) {
        let all = Range { start: Path(Box::from([])), end: None, limit: usize::MAX, keys_only: false };
        let copy = (cut && self.has_own_copy).then(|| pollster::block_on(self.store.range(all, Read::Local)).ok());
        self.change(|state| (state.cut, state.copy) = (cut, copy.flatten()));
    }

    /// While it is cut off, the copy has lost what was written last, as that of a node which has lost power may have.
    pub fn lose_latest_of_copy(&self) {
        self.change(|state| state.copy.iter_mut().for_each(|copy| copy.revision.0 -= 1));
    }

    /// The copy to answer this read from; `None`: the store is to be asked.
    fn copy(&self, read: Read) -> Option<Page> {
        self.lock().copy.as_ref().filter(|_| read == Read::Local).cloned()
    }

    /// While `slow`, each call waits up to two seconds of the clock in each direction.
    pub fn slow(&self, slow: bool) {
        self.change(|state| state.slow = slow);
    }

    /// While `lagging`, what the store reports to watches is on its way, and arrives afterwards.
    pub fn lag(&self, lagging: bool) {
        self.change(|state| state.lagging = lagging);
    }

    /// The next `commits` commits answer [`Outcome::Unknown`]. By the seed they are applied at once, never, or at
    /// [`SimLink::deliver_late`].
    pub fn lose_answers(&self, commits: usize) {
        self.change(|state| state.answers_to_lose = commits);
    }

    /// Applies one of the transactions that are still under way, if their guards hold. Returns whether there was one.
    pub fn deliver_late(&self) -> bool {
        let txn = {
            let mut state = self.lock();
            let at = usize::try_from(self.rng.below(state.late.len() as u64)).unwrap_or_default();
            (at < state.late.len()).then(|| state.late.swap_remove(at))
        };
        let Some(txn) = txn else { return false };
        let mut commit = self.store.commit(vec![txn]);
        while commit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {}
        true
    }

    /// Ends the watches with [`Event::Lost`].
    pub fn lose_watches(&self) {
        self.change(|state| state.breaks += 1);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// One direction of a call.
    async fn travel(&self) -> Result<(), StoreError> {
        for _ in 0..self.rng.below(3) {
            pass_turn().await;
        }
        if self.lock().slow {
            self.clock.sleep(Duration::from_millis(self.rng.below(2_000))).await;
        }
        if self.lock().cut { Err(StoreError::Unreachable("simulated".into())) } else { Ok(()) }
    }

    async fn read<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.travel().await?;
        let answer = call.await;
        self.travel().await?;
        answer
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn found(copy: &Page, path: &Path) -> Option<Versioned> {
    copy.rows.iter().find(|(at, _)| at == path).map(|(_, row)| row.clone())
}

/// Is pending once.
async fn pass_turn() {
    let mut passed = false;
    poll_fn(|context| {
        if std::mem::replace(&mut passed, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Store for SimLink {
    fn get<'a>(&'a self, path: &'a Path, read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        match self.copy(read) {
            Some(copy) => Box::pin(async move { Ok(found(&copy, path)) }),
            None => Box::pin(self.read(self.store.get(path, read))),
        }
    }

    fn get_many<'a>(
        &'a self,
        paths: &'a [Path],
        read: Read,
    ) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>> {
        match self.copy(read) {
            Some(copy) => Box::pin(async move { Ok(paths.iter().map(|path| found(&copy, path)).collect()) }),
            None => Box::pin(self.read(self.store.get_many(paths, read))),
        }
    }

    fn range(&self, range: Range, read: Read) -> BoxFuture<'_, Result<Page, StoreError>> {
        let Some(mut page) = self.copy(read) else { return Box::pin(self.read(self.store.range(range, read))) };
        page.rows.retain(|(path, _)| *path >= range.start && range.end.as_ref().is_none_or(|end| path < end));
        page.more = page.rows.len() > range.limit;
        page.rows.truncate(range.limit);
        Box::pin(async move { Ok(page) })
    }

    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    fn has_own_copy(&self) -> bool {
        self.has_own_copy
    }

    fn commit(&self, txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        Box::pin(async move {
            self.travel().await?;
            let unknown = vec![Outcome::Unknown; txns.len()];
            let lost = {
                let mut state = self.lock();
                let lost = state.answers_to_lose > 0;
                state.answers_to_lose = state.answers_to_lose.saturating_sub(1);
                lost
            };
            match if lost { self.rng.below(3) } else { 0 } {
                0 => {
                    let outcomes = self.store.commit(txns).await?;
                    let answered = self.travel().await.is_ok();
                    return Ok(if lost || !answered { unknown } else { outcomes });
                }
                1 => self.lock().late.extend(txns),
                _ => {}
            }
            // It arrives nowhere, and the caller waits for as long as it does.
            let _ = self.travel().await;
            Ok(unknown)
        })
    }

    fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        Box::pin(async move {
            let breaks = self.lock().breaks;
            let watch = self.read(self.store.watch(prefix, from)).await?;
            Ok(Box::new(LinkWatch {
                watch,
                rng: self.rng.clone(),
                state: self.state.clone(),
                breaks,
                ended: false,
                sent: VecDeque::new(),
            }) as Box<dyn Watch>)
        })
    }

    fn is_nearly_full(&self) -> bool {
        self.store.is_nearly_full()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
        Box::pin(self.read(self.store.snapshot()))
    }
}

struct LinkWatch {
    watch: Box<dyn Watch>,
    rng: Arc<SimRng>,
    state: Arc<Mutex<State>>,
    /// The number of breaks when it was opened.
    breaks: u64,
    ended: bool,
    /// Events on their way, in order, each with the number of turns that it still takes.
    sent: VecDeque<(Event, u64)>,
}

impl LinkWatch {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let mut state = lock(&self.state);
        if self.ended {
            return Poll::Pending;
        }
        if state.breaks != self.breaks {
            self.ended = true;
            return Poll::Ready(Event::Lost);
        }
        if !state.waiting.iter().any(|waiting| waiting.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        if state.cut {
            return Poll::Pending;
        }
        let lagging = state.lagging;
        drop(state);
        while let Poll::Ready(event) = self.watch.next().as_mut().poll(context) {
            self.sent.push_back((event, self.rng.below(4)));
        }
        match self.sent.front_mut() {
            None => Poll::Pending,
            Some(_) if lagging => Poll::Pending,
            Some((_, turns)) if *turns > 0 => {
                *turns -= 1;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Some(_) => self.sent.pop_front().map_or(Poll::Pending, |(event, _)| Poll::Ready(event)),
        }
    }
}

impl Watch for LinkWatch {
    fn next(&mut self) -> BoxFuture<'_, Event> {
        Box::pin(poll_fn(|context| self.poll(context)))
    }

    fn ask_progress(&mut self) {
        self.watch.ask_progress();
    }
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::sim::{SimStore, conformance};

    #[test]
    fn a_link_without_faults_is_a_store() {
        let make = async || {
            let store = Arc::new(SimStore::new(1));
            store.share(true);
            Arc::new(SimLink::new(store, Arc::new(SimClock::new()), 1))
        };
        block_on(conformance::run(make, async |store: &SimLink| conformance::outgrow_history(store).await));
    }

    #[test]
    fn a_cut_link_loses_the_answer_of_what_is_under_way_and_its_watches_are_silent() {
        let store = Arc::new(SimStore::new(1));
        let path = Path(b"a".as_slice().into());
        let put = || vec![Txn { put: vec![(path.clone(), b"value".to_vec())], ..Txn::default() }];
        let mut context = Context::from_waker(Waker::noop());
        let (mut lost, mut seen) = (0, 0);
        for seed in 0..64 {
            let link = SimLink::new(store.clone(), Arc::new(SimClock::new()), seed);
            let mut watch = block_on(link.watch(path.clone(), block_on(store.snapshot()).unwrap().revision())).unwrap();
            let before = store.commits();
            let mut commit = link.commit(put());
            let answered = commit.as_mut().poll(&mut context).is_ready();
            let sent = store.commits() > before;
            link.cut(true);
            match (answered, sent) {
                (true, _) => assert!(sent),
                (false, true) => assert_eq!(block_on(commit), Ok(vec![Outcome::Unknown])),
                (false, false) => assert!(block_on(commit).is_err_and(|error| error.is_away())),
            }
            lost += usize::from(sent);
            assert!(watch.next().as_mut().poll(&mut context).is_pending());
            link.cut(false);
            seen += usize::from((0..4).any(|_| watch.next().as_mut().poll(&mut context).is_ready()));
        }
        assert!(lost > 10 && lost == seen, "{lost} sent, {seen} reported");
    }
}
