//! The HSM as its clients see it: over real HTTPS, in one process, on simulated stores and a simulated clock.
//!
//! One binary, one module per capability. Numbers such as "case 45" are those of `docs/contract.md`, the list of cases
//! that are easy to get wrong.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "this is a test"
)]

mod golden;
mod h2;
mod rig;
mod wire;

mod access;
mod audit;
mod backup;
mod cluster;
mod conditions;
mod config;
mod crypto;
mod degraded;
mod device_config;
mod faults;
mod full;
mod key_lists;
mod keys;
mod memory;
mod metrics;
mod openapi;
mod phases;
mod policy_matrix;
mod quotas;
mod races;
mod requests;
mod stalls;
mod states;
mod tls;
mod update;
mod users;
