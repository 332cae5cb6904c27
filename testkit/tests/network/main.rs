//! The networks of namespaces, and what runs on them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests wait and look at their environment")]

mod etcd;
mod hsm;
mod rig;

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

/// The first success of `attempt`.
fn until<T, E: Display>(attempt: impl Fn() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(why) => assert!(begun.elapsed() < Duration::from_secs(120), "{why}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}
