//! The client against real `casemated` processes and against mock servers that misbehave.
//!
//! There is no cluster yet: several nodes are several HSMs with the same users and keys.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

mod calls;
mod failover;
mod load;
mod misbehaviour;
mod trust;
