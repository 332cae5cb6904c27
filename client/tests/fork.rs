//! A child of `fork` makes connections of its own, whatever its parent's threads were doing.
//!
//! This runs without the test harness, whose threads a child would not have.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

use std::process::exit;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use casemate_testkit::{Hsm, operator};
use fork::{Fork, WEXITSTATUS, WIFEXITED, fork, waitpid};

const FORKS: u64 = 20;

fn main() {
    let hsm = Hsm::operational();
    let client = hsm.client();
    let session = operator(&client);
    session.random(8).unwrap();
    let (stop, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = client.handshakes();
    thread::scope(|scope| {
        // These threads use the client all the time, so that a fork may happen while a lock is held or a reply is
        // awaited.
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    session.random(8).expect("a fork does not disturb its parent");
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..FORKS {
            match fork().unwrap() {
                Fork::Child => {
                    let own = client.handshakes();
                    let good = (0..5).all(|_| session.random(8).is_ok());
                    // One new connection, kept for all five calls.
                    exit(if good && client.handshakes() == own + 1 { 0 } else { 1 });
                }
                Fork::Parent(child) => {
                    let status = waitpid(child).unwrap();
                    assert!(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child failed: {status}");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(calls.into_inner() > 0);
    // Each thread has at most one connection at a time, and no fork has cost the parent one.
    assert!(client.handshakes() <= before + 2, "{} handshakes", client.handshakes());
}
