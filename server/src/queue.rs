//! A bounded queue into threads. Pushing never waits; popping does.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Items waiting for threads.
pub(crate) struct Queue<T> {
    limit: usize,
    state: Mutex<State<T>>,
    filled: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

/// Why an item was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The queue is full.
    Full,
    /// The queue was closed.
    Closed,
}

/// No item arrived in time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TimedOut;

impl<T> Queue<T> {
    /// A queue in which at most `limit` items wait.
    pub(crate) fn new(limit: usize) -> Self {
        let state = State { items: VecDeque::new(), closed: false };
        Self { limit, state: Mutex::new(state), filled: Condvar::new() }
    }

    /// Adds `item`, or drops it.
    pub(crate) fn push(&self, item: T) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.items.len() >= self.limit {
            return Err(Refused::Full);
        }
        state.items.push_back(item);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for an item; `None` when the queue is closed and empty.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut state = self
            .filled
            .wait_while(self.lock(), |state| state.items.is_empty() && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.items.pop_front()
    }

    /// Like [`Queue::pop`], but waits no longer than `patience`.
    pub(crate) fn pop_within(&self, patience: Duration) -> Result<Option<T>, TimedOut> {
        let (mut state, waited) = self
            .filled
            .wait_timeout_while(self.lock(), patience, |state| state.items.is_empty() && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() { Err(TimedOut) } else { Ok(state.items.pop_front()) }
    }

    /// Returns an item if there is one.
    pub(crate) fn try_pop(&self) -> Option<T> {
        self.lock().items.pop_front()
    }

    /// Whether the queue was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Accepts no further items; those in the queue are still returned.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_queue_hands_out_what_is_in_it() {
        let queue = Queue::new(2);
        assert_eq!(queue.pop_within(Duration::from_millis(1)), Err(TimedOut));
        assert_eq!([1, 2, 3].map(|item| queue.push(item)), [Ok(()), Ok(()), Err(Refused::Full)]);
        queue.close();
        assert_eq!(queue.push(4), Err(Refused::Closed));
        assert_eq!(queue.pop_within(Duration::from_secs(9)), Ok(Some(1)));
        assert_eq!([queue.try_pop(), queue.pop()], [Some(2), None]);
        assert_eq!(queue.pop_within(Duration::from_secs(9)), Ok(None));
    }
}
