//! The networks of namespaces, and what runs on them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests wait and look at their environment")]

mod rig;
