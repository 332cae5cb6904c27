//! The only file of this crate that reads a clock or waits.

use std::thread;
use std::time::{Duration, Instant};

/// The time now.
#[expect(clippy::disallowed_methods, reason = "a client has no Platform; decisions about time are made from numbers")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Blocks the thread for `time`.
#[expect(clippy::disallowed_methods, reason = "a client blocks whoever calls it")]
pub(crate) fn sleep(time: Duration) {
    thread::sleep(time);
}
