//! Attacks on the real server, from addresses of this machine: each once worked, and each test is limited in time.
//!
//! One module per kind. Attackers have what the threat model gives them, and the tests say what they achieve.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test of processes: it lives in real time, and whatever goes wrong fails it"
)]

mod any_certificate;
#[path = "../daemon/mod.rs"]
mod daemon;
mod disk;
mod from;
mod guesses;
mod log;
mod memory;
mod restore;
mod revocation;
mod rsa;
mod siege;
mod tenant;
#[path = "../api/wire.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod wire;
