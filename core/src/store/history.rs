//! The recent changes of a store in this process, and the watches on them.
//!
//! All watches share one bounded ring, and a watch is a position in it, so a slow one costs no memory. It ends with
//! [`Event::Compacted`] when changes it has not read are dropped from the ring. The caches hear of changes in
//! `rows/tables.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{Event, Path, Revision, Watch};
use crate::runtime::BoxFuture;

/// The last changes of one store.
pub struct History {
    capacity: usize,
    ring: Mutex<Ring>,
}

struct Ring {
    events: VecDeque<(Path, Revision)>,
    /// Number of the first event in `events`, counted over the whole life of the history.
    first: u64,
    /// Changes up to this revision are no longer known.
    floor: Revision,
    /// The newest revision.
    head: Revision,
    /// Number of times that events may have been missed.
    breaks: u64,
    next_watch: u64,
    waiting: BTreeMap<u64, Waker>,
}

impl History {
    /// A history that starts after revision `at` and remembers `capacity` changes.
    pub fn new(at: Revision, capacity: usize) -> Arc<Self> {
        let ring = Ring {
            events: VecDeque::new(),
            first: 0,
            floor: at,
            head: at,
            breaks: 0,
            next_watch: 0,
            waiting: BTreeMap::new(),
        };
        Arc::new(Self { capacity, ring: Mutex::new(ring) })
    }

    /// Appends changes, in the order in which they became durable, and wakes all watches.
    pub fn record(&self, changes: impl IntoIterator<Item = (Path, Revision)>) {
        let mut ring = self.lock();
        ring.events.extend(changes);
        ring.head = ring.events.back().map_or(ring.head, |(_, revision)| *revision);
        while ring.events.len() > self.capacity {
            let Some((_, revision)) = ring.events.pop_front() else { break };
            ring.first += 1;
            ring.floor = revision;
        }
        wake(ring);
    }

    /// Ends all watches with [`Event::Lost`], because changes may have been missed, and starts again after revision `at`.
    pub fn restart(&self, at: Revision) {
        let mut ring = self.lock();
        ring.first += ring.events.len() as u64;
        ring.events.clear();
        (ring.floor, ring.head) = (at, at);
        ring.breaks += 1;
        wake(ring);
    }

    /// Forgets all changes up to now, as a store does that is compacted. Watches that have not read them end with
    /// [`Event::Compacted`].
    pub fn compact(&self) {
        let mut ring = self.lock();
        ring.first += ring.events.len() as u64;
        ring.events.clear();
        ring.floor = ring.head;
        wake(ring);
    }

    /// Watches the changes after revision `from` of rows whose paths start with `prefix`.
    pub fn watch(self: &Arc<Self>, prefix: Path, from: Revision) -> Box<dyn Watch> {
        let mut ring = self.lock();
        let id = ring.next_watch;
        ring.next_watch += 1;
        let state = if from < ring.floor { State::Behind } else { State::At(ring.first) };
        let breaks = ring.breaks;
        drop(ring);
        Box::new(Position { history: self.clone(), id, prefix, from, breaks, state, asked: false })
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the watches after releasing the lock, as a waker may poll at once.
fn wake(mut ring: MutexGuard<'_, Ring>) {
    let waiting = std::mem::take(&mut ring.waiting);
    drop(ring);
    waiting.into_values().for_each(Waker::wake);
}

struct Position {
    history: Arc<History>,
    id: u64,
    prefix: Path,
    from: Revision,
    breaks: u64,
    state: State,
    /// Whether an [`Event::Progress`] was asked for.
    asked: bool,
}

enum State {
    /// The history did not reach back to the wanted revision from the start.
    Behind,
    /// Number of the next event to read.
    At(u64),
    /// The last event was returned.
    Ended,
}

impl Position {
    fn poll(&mut self, context: &Context<'_>) -> Poll<Event> {
        let history = self.history.clone();
        let mut ring = history.lock();
        let next = match self.state {
            State::Ended => return Poll::Pending,
            State::Behind => return self.end(Event::Compacted),
            State::At(_) if self.breaks != ring.breaks => return self.end(Event::Lost),
            State::At(next) if next < ring.first && self.from < ring.floor => return self.end(Event::Compacted),
            State::At(next) => next.max(ring.first),
        };
        let skip = usize::try_from(next - ring.first).unwrap_or(usize::MAX);
        let found =
            ring.events.iter().enumerate().skip(skip).find(|(_, (path, revision))| {
                *revision > self.from && path.as_bytes().starts_with(self.prefix.as_bytes())
            });
        if let Some((at, (path, revision))) = found {
            self.state = State::At(ring.first + at as u64 + 1);
            return Poll::Ready(Event::Changed { path: path.clone(), revision: *revision });
        }
        self.state = State::At(ring.first + ring.events.len() as u64);
        if std::mem::take(&mut self.asked) {
            return Poll::Ready(Event::Progress(ring.head));
        }
        ring.waiting.insert(self.id, context.waker().clone());
        Poll::Pending
    }

    fn end(&mut self, event: Event) -> Poll<Event> {
        self.state = State::Ended;
        Poll::Ready(event)
    }
}

impl Watch for Position {
    fn next(&mut self) -> BoxFuture<'_, Event> {
        Box::pin(poll_fn(|context| self.poll(context)))
    }

    fn ask_progress(&mut self) {
        self.asked = true;
        let woken = self.history.lock().waiting.remove(&self.id);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Position {
    fn drop(&mut self) {
        self.history.lock().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path(text.as_bytes().into())
    }

    fn changed(text: &str, revision: u64) -> Event {
        Event::Changed { path: path(text), revision: Revision(revision) }
    }

    fn poll(watch: &mut dyn Watch) -> Poll<Event> {
        watch.next().as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_watch_that_falls_behind_is_compacted_and_others_are_not() {
        let history = History::new(Revision(10), 2);
        let mut slow = history.watch(path("a"), Revision(10));
        let mut quick = history.watch(path("a"), Revision(10));
        for revision in 11..=13 {
            history.record([(path("a1"), Revision(revision))]);
            assert_eq!(poll(&mut *quick), Poll::Ready(changed("a1", revision)));
        }
        assert_eq!(poll(&mut *slow), Poll::Ready(Event::Compacted));
        assert_eq!(poll(&mut *slow), Poll::Pending);
        assert_eq!(poll(&mut *quick), Poll::Pending);
        assert_eq!(poll(&mut *history.watch(path("a"), Revision(10))), Poll::Ready(Event::Compacted));
        assert_eq!(poll(&mut *history.watch(path("a"), Revision(11))), Poll::Ready(changed("a1", 12)));
    }

    #[test]
    fn dropped_events_that_the_watch_did_not_want_are_not_missed() {
        // The dropped events are not after `from`, so nothing was missed.
        let history = History::new(Revision(0), 1);
        let mut watch = history.watch(path(""), Revision(2));
        for revision in 1..=3 {
            history.record([(path("x"), Revision(revision))]);
        }
        assert_eq!(poll(&mut *watch), Poll::Ready(changed("x", 3)));
    }

    #[test]
    fn a_restart_ends_every_watch_with_lost() {
        let history = History::new(Revision(0), 8);
        let mut watch = history.watch(path(""), Revision(0));
        history.record([(path("x"), Revision(1))]);
        history.restart(Revision(5));
        assert_eq!(poll(&mut *watch), Poll::Ready(Event::Lost));
        assert_eq!(poll(&mut *watch), Poll::Pending);
        assert_eq!(poll(&mut *history.watch(path(""), Revision(4))), Poll::Ready(Event::Compacted));
        assert_eq!(poll(&mut *history.watch(path(""), Revision(5))), Poll::Pending);
    }

    #[test]
    fn progress_comes_once_and_after_all_changes() {
        let history = History::new(Revision(3), 8);
        let mut watch = history.watch(path("a"), Revision(3));
        assert_eq!(poll(&mut *watch), Poll::Pending);
        watch.ask_progress();
        history.record([(path("a"), Revision(4)), (path("b"), Revision(5))]);
        assert_eq!(poll(&mut *watch), Poll::Ready(changed("a", 4)));
        assert_eq!(poll(&mut *watch), Poll::Ready(Event::Progress(Revision(5))));
        assert_eq!(poll(&mut *watch), Poll::Pending);
        history.restart(Revision(9));
        watch.ask_progress();
        assert_eq!(poll(&mut *watch), Poll::Ready(Event::Lost));
        assert_eq!(poll(&mut *watch), Poll::Pending, "nothing follows");
    }

    #[test]
    fn a_dropped_watch_leaves_no_waker() {
        let history = History::new(Revision(0), 8);
        let mut watch = history.watch(path(""), Revision(0));
        assert_eq!(poll(&mut *watch), Poll::Pending);
        assert_eq!(history.lock().waiting.len(), 1);
        drop(watch);
        assert!(history.lock().waiting.is_empty());
    }
}
