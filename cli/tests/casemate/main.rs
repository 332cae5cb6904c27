//! `casemate` against a real `casemated`: what it prints, and its exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests wait and look at their environment")]

mod apply;
mod audit;
mod backup;
mod cluster;
mod config;
mod device;
mod doctor;
mod failures;
mod harness;
mod keys;
mod lossy_proxy;
mod members;
mod other_servers;
mod pages;
mod pkcs12;
mod profiles;
mod provision;
mod pty;
mod update;
mod users;
