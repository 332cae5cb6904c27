//! Time that moves only when a test moves it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::oneshot;

use crate::runtime::{BoxFuture, Clock};

/// A clock that stands still until it is [advanced](SimClock::advance).
pub struct SimClock {
    state: Mutex<State>,
}

struct State {
    wall: Duration,
    monotonic: Duration,
    sleepers: Vec<(Duration, oneshot::Sender<()>)>,
}

impl SimClock {
    /// A clock that starts at 2026-01-01T00:00:00Z.
    pub fn new() -> Self {
        let state = State { wall: START, monotonic: Duration::ZERO, sleepers: Vec::new() };
        Self { state: Mutex::new(state) }
    }

    /// Lets `duration` pass and wakes the sleepers whose time has come, the earliest first.
    pub fn advance(&self, duration: Duration) {
        let mut state = self.lock();
        state.wall += duration;
        state.monotonic += duration;
        let now = state.monotonic;
        let (mut due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.sleepers).into_iter().partition(|(until, _)| *until <= now);
        state.sleepers = later;
        drop(state);
        due.sort_by_key(|(until, _)| *until);
        for (_, sleeper) in due {
            // A sleeper may have been dropped.
            let _ = sleeper.send(());
        }
    }

    /// Sets the wall clock, as an operator or an empty battery would. Sleepers are not affected.
    pub fn set_wall(&self, wall: Duration) {
        self.lock().wall = wall;
    }

    /// Time until the next sleeper wakes.
    pub fn next_wake(&self) -> Option<Duration> {
        let mut state = self.lock();
        state.sleepers.retain(|(_, sleeper)| !sleeper.is_canceled());
        let now = state.monotonic;
        state.sleepers.iter().map(|(until, _)| until.saturating_sub(now)).min()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimClock {
    fn wall(&self) -> Duration {
        self.lock().wall
    }

    fn monotonic(&self) -> Duration {
        self.lock().monotonic
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if duration.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        let (send, receive) = oneshot::channel();
        let mut state = self.lock();
        let until = state.monotonic.saturating_add(duration);
        state.sleepers.push((until, send));
        Box::pin(async {
            if receive.await.is_err() {
                // The clock was dropped, so this time never comes.
                std::future::pending().await
            }
        })
    }
}

/// 2026-01-01T00:00:00Z.
const START: Duration = Duration::from_secs(1_767_225_600);

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn sleepers_wake_when_their_time_has_come() {
        let clock = SimClock::new();
        let mut sleep = clock.sleep(Duration::from_secs(2));
        let mut context = Context::from_waker(Waker::noop());
        clock.advance(Duration::from_millis(1999));
        assert!(sleep.as_mut().poll(&mut context).is_pending());
        assert_eq!(clock.next_wake(), Some(Duration::from_millis(1)));
        clock.advance(Duration::from_millis(1));
        assert!(sleep.as_mut().poll(&mut context).is_ready());
        assert_eq!(clock.next_wake(), None);
        assert_eq!(clock.monotonic(), Duration::from_secs(2));
        assert_eq!(clock.wall(), START + Duration::from_secs(2));
    }
}
