//! What the process reports about itself: metrics and log lines, never secrets.

mod event;
pub mod lines;
pub mod listener;
pub mod metrics;
pub mod plain;
pub mod prometheus;
pub mod syslog;
pub mod trace;
