//! Time that passes here. It is the one file of the command line that asks for it.

#![allow(clippy::disallowed_methods, reason = "a command has no Platform; waiting goes through this file")]

use std::thread;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// Now.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits.
pub(crate) fn sleep(time: Duration) {
    thread::sleep(time);
}

/// The time here, to the nearest second, as the API takes it.
pub(crate) fn now_rfc3339() -> String {
    rfc3339(Timestamp::now() + SignedDuration::from_millis(500))
}

/// A time as the API takes it: whole seconds, offset zero (RFC 3339 §5.6).
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
