//! The only file of the command line that reads a monotonic clock or waits; and the time in the format of the API.

#![allow(clippy::disallowed_methods, reason = "a command has no Platform; waiting goes through this file")]

use std::thread;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// The time now.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Blocks the thread for `time`.
pub(crate) fn sleep(time: Duration) {
    thread::sleep(time);
}

/// The time of this machine, rounded to seconds, in the format of the API.
pub(crate) fn now_rfc3339() -> String {
    rfc3339(Timestamp::now() + SignedDuration::from_millis(500))
}

/// A time in the format of the API: whole seconds, offset zero (RFC 3339 §5.6).
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
