//! What the process tells about itself: counters and log lines, never secrets.

mod event;
pub mod lines;
pub mod listener;
pub mod metrics;
pub mod plain;
pub mod prometheus;
pub mod syslog;
pub mod trace;
