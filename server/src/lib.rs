//! `casemated`: everything in Casemate that does input and output.

pub mod clock;
pub mod command;
pub mod device;
mod durable;
pub mod http;
pub mod member;
pub mod observe;
pub mod pool;
pub mod process;
mod queue;
pub mod rng;
pub mod run;
#[cfg(test)]
mod scratch;
pub mod serving;
pub mod settings;
pub mod store;
pub mod stores;
pub mod tool;
mod turns;
pub mod update;
