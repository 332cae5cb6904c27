//! The etcd that a node runs for itself: real processes, confined by a real `casemated`.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test of processes: it lives in real time, and whatever goes wrong fails it"
)]

#[path = "member/confined.rs"]
mod confined;

use std::time::{Duration, Instant};

/// The program that confines etcd.
pub(crate) const CASEMATED: &str = env!("CARGO_BIN_EXE_casemated");

/// Time for what comes soon, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// Waits until `what` is there.
#[track_caller]
fn wait<T>(name: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(began.elapsed() < SOON, "{name} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}
