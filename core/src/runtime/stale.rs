//! Whether a request may be answered by what is known at this node alone, and how old that was.
//!
//! That a node reaches no majority is noticed deep below what a request calls, and most requests never notice. So neither the
//! leave nor the age is passed through every signature: who answers a request says with [`within`] what it may do and
//! learns how old the oldest thing was that it has used. Whatever runs outside is always [`Tolerance::Nothing`].

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

/// What may be used that is older than usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tolerance {
    /// Nothing: without a majority it fails.
    #[default]
    Nothing,
    /// What this node knows, as long as the setting for that allows.
    OwnData,
}

/// How far the future that is being polled may go, and has gone.
#[derive(Clone, Copy)]
struct Turn {
    tolerance: Tolerance,
    oldest: Duration,
}

thread_local! {
    static NOW: Cell<Turn> = const { Cell::new(Turn { tolerance: Tolerance::Nothing, oldest: Duration::ZERO }) };
}

/// What the future that is being polled may use.
pub fn tolerance() -> Tolerance {
    NOW.get().tolerance
}

/// Notes that the future that is being polled has used something of this age.
pub fn note(age: Duration) {
    let now = NOW.get();
    NOW.set(Turn { oldest: now.oldest.max(age), ..now });
}

/// Waits for `future`, which may use what `tolerance` says. Returns with its result the age of the oldest thing that it has
/// used: zero if everything was as new as it always is. A task that it starts is outside, see [`carried`].
pub async fn within<F: Future>(tolerance: Tolerance, future: F) -> (F::Output, Duration) {
    let mut future = pin!(future);
    let mut oldest = Duration::ZERO;
    let result = std::future::poll_fn(|context| {
        let _poll = Poll::begin(&mut oldest, tolerance);
        future.as_mut().poll(context)
    })
    .await;
    (result, oldest)
}

/// [`within`], with the tolerance of the future that is being polled now: for a task that it starts.
pub fn carried<F: Future>(future: F) -> impl Future<Output = (F::Output, Duration)> {
    within(tolerance(), future)
}

/// One poll.
struct Poll<'a> {
    oldest: &'a mut Duration,
    /// What was there before: of a future around this one.
    outer: Turn,
}

impl<'a> Poll<'a> {
    fn begin(oldest: &'a mut Duration, tolerance: Tolerance) -> Self {
        let outer = NOW.replace(Turn { tolerance, oldest: *oldest });
        Self { oldest, outer }
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        *self.oldest = NOW.replace(self.outer).oldest;
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::task::{Context, Poll, Waker};

    use pollster::block_on;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Pending once.
    async fn pause() {
        let mut again = false;
        std::future::poll_fn(|_| if std::mem::replace(&mut again, true) { Poll::Ready(()) } else { Poll::Pending })
            .await;
    }

    #[test]
    fn each_request_has_its_own_leave_and_age_though_they_take_turns() {
        let uses = |age: Duration| async move {
            pause().await;
            note(age);
            note(SECOND);
            tolerance()
        };
        let mut stale = pin!(within(Tolerance::OwnData, uses(7 * SECOND)));
        let mut current = pin!(within(Tolerance::Nothing, async {
            pause().await;
            tolerance()
        }));
        let mut context = Context::from_waker(Waker::noop());
        assert!(stale.as_mut().poll(&mut context).is_pending());
        assert!(current.as_mut().poll(&mut context).is_pending());
        assert_eq!(stale.as_mut().poll(&mut context), Poll::Ready((Tolerance::OwnData, 7 * SECOND)));
        assert_eq!(current.as_mut().poll(&mut context), Poll::Ready((Tolerance::Nothing, Duration::ZERO)));
        assert_eq!(tolerance(), Tolerance::Nothing, "nobody is polled");
    }

    #[test]
    fn a_task_has_the_leave_of_who_starts_it_only_if_it_is_carried() {
        let (mut task, mut plain) = (None, None);
        block_on(within(Tolerance::OwnData, async {
            task = Some(carried(async { tolerance() }));
            plain = Some(async { tolerance() });
        }));
        assert_eq!(block_on(task.unwrap()).0, Tolerance::OwnData);
        assert_eq!(block_on(plain.unwrap()), Tolerance::Nothing);
    }

    #[test]
    fn nobody_inherits_the_leave_of_a_request_that_panics() {
        let panics = within(Tolerance::OwnData, async { panic!("as intended") });
        assert!(catch_unwind(AssertUnwindSafe(|| block_on(panics))).is_err());
        assert_eq!(tolerance(), Tolerance::Nothing);
    }
}
