//! What the process tells about itself: counters and log lines, never secrets.

pub mod metrics;
pub mod trace;
