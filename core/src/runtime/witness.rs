//! At which revision of the shared store a request was committed.
//!
//! A commit happens deep below what a request calls, and its revision is of no use on the way back, so it is not passed
//! through every signature. Who wants to know it waits for the request with [`committed`]; what commits on somebody's behalf
//! tells it with [`note`].

use std::cell::Cell;
use std::pin::pin;

thread_local! {
    /// The last revision that the future which is being polled has noted.
    static LAST: Cell<u64> = const { Cell::new(0) };
}

/// Notes that something was committed at `revision`.
pub fn note(revision: u64) {
    LAST.set(revision);
}

/// Waits for `future`. `last` is set to the last revision that it has noted, also if it panics or is dropped; what it leaves to
/// other threads or tasks is not noted.
pub async fn committed<F: Future>(last: &mut u64, future: F) -> F::Output {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        let _turn = Turn::begin(last);
        future.as_mut().poll(context)
    })
    .await
}

/// One poll.
struct Turn<'a> {
    last: &'a mut u64,
    /// What was there before: of a future around this one.
    outer: u64,
}

impl<'a> Turn<'a> {
    fn begin(last: &'a mut u64) -> Self {
        let outer = LAST.replace(*last);
        Self { last, outer }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.last = LAST.replace(self.outer);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::task::{Context, Poll, Waker};

    use pollster::block_on;

    use super::*;

    /// Pending once.
    async fn pause() {
        let mut again = false;
        std::future::poll_fn(|_| if std::mem::replace(&mut again, true) { Poll::Ready(()) } else { Poll::Pending })
            .await;
    }

    async fn commits(first: u64, second: u64) {
        note(first);
        pause().await;
        note(second);
    }

    #[test]
    fn each_request_learns_its_own_last_revision_though_they_take_turns() {
        let (mut a, mut b, mut none) = (0, 0, 0);
        {
            let mut one = pin!(committed(&mut a, commits(1, 4)));
            let mut other = pin!(committed(&mut b, commits(2, 3)));
            let mut silent = pin!(committed(&mut none, pause()));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..2 {
                let _ = one.as_mut().poll(&mut context);
                let _ = silent.as_mut().poll(&mut context);
                let _ = other.as_mut().poll(&mut context);
            }
        }
        assert_eq!((a, b, none), (4, 3, 0));
    }

    #[test]
    fn a_panic_and_an_abandoned_request_are_no_loss_and_nobody_inherits_it() {
        let mut last = 0;
        let panics = committed(&mut last, async {
            note(7);
            panic!("as intended");
        });
        assert!(catch_unwind(AssertUnwindSafe(|| block_on(panics))).is_err());
        assert_eq!(last, 7);
        {
            let mut left = pin!(committed(&mut last, commits(8, 9)));
            let _ = left.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        assert_eq!(last, 8);
        let mut next = 0;
        block_on(committed(&mut next, async {}));
        assert_eq!(next, 0);
    }

    #[test]
    fn what_is_inside_is_not_taken_for_what_is_around_it() {
        let (mut outer, mut inner) = (0, 0);
        block_on(committed(&mut outer, async {
            note(1);
            committed(&mut inner, async { note(2) }).await;
        }));
        assert_eq!((outer, inner), (1, 2));
    }
}
