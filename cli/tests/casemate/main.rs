//! `casemate` against a real `casemated`: what it prints, and its exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests wait and look at their environment")]

mod apply;
mod device;
mod failures;
mod keys;
mod lossy;
mod rig;
mod users;
