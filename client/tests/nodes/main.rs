//! The client against real `casemated` processes and against mock servers that misbehave.
//!
//! Several nodes are several HSMs with the same users and keys.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

mod calls;
mod cluster;
mod failover;
mod load;
mod misbehaviour;
mod trust;
