//! Guesses at the unlock passphrase. A test program of its own, because how soon the owner has a turn depends on how many
//! passphrases the machine hashes in a few seconds, and the other attacks leave it little time for that.

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

#[allow(dead_code, reason = "each test binary uses its part")]
mod any_certificate;
#[path = "../daemon/mod.rs"]
mod daemon;
#[allow(dead_code, reason = "each test binary uses its part")]
mod from;
mod unlock;
#[path = "../api/wire.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod wire;
