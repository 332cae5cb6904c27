//! The one place where this crate reads a clock and waits.

use std::thread;
use std::time::{Duration, Instant};

/// The time now.
#[expect(
    clippy::disallowed_methods,
    reason = "a client has no Platform; what decides over time is given it as numbers"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits.
#[expect(clippy::disallowed_methods, reason = "a client blocks whoever calls it")]
pub(crate) fn sleep(time: Duration) {
    thread::sleep(time);
}
