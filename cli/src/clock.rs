//! Time that passes here. It is the one file of the command line that asks for it.

#![allow(clippy::disallowed_methods, reason = "a command has no Platform; waiting goes through this file")]

use std::thread;
use std::time::{Duration, Instant};

/// Now.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits.
pub(crate) fn sleep(time: Duration) {
    thread::sleep(time);
}
