//! The module as applications have it: loaded from its file, by C and by the crate `cryptoki`, against real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests look at their environment")]

mod boundary;
mod failures;
mod harness;
mod leaks;
mod lifecycle;
mod logins;
mod mechanisms;
mod nodes;
mod three_nodes;
