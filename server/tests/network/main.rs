//! Members of a cluster, each on a machine of its own in a network that can be cut: real `casemated` processes with real etcds.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test of processes: it lives in real time, and whatever goes wrong fails it"
)]

mod cut;
#[path = "../daemon/mod.rs"]
mod daemon;
mod force;
#[path = "../cluster/grow.rs"]
mod grow;
mod nitropy;
#[path = "../cluster/node.rs"]
mod node;
mod tour;
mod witness;
