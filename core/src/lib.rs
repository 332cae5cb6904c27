//! The HSM itself: phases, users, namespaces, keys, mechanisms and sealing.
//!
//! This is the trusted base. It touches no network, disk, clock or environment of its own: all of that comes in through
//! [`platform::Platform`].

pub mod audit;
pub mod backup;
pub mod caller;
pub mod config;
pub mod counters;
pub mod digest;
pub mod error;
pub mod guesses;
pub mod hsm;
pub mod kdf;
pub mod keys;
pub mod limiter;
pub mod local;
pub mod mech;
pub mod namespaces;
pub mod party;
pub mod path;
pub mod phase;
pub mod platform;
pub mod quotas;
pub mod record;
pub mod right;
pub mod seal;
pub mod secret;
pub mod shared;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod slots;
pub mod stall;
mod step;
pub mod store;
pub mod table;
pub mod tally;
pub mod update;
pub mod users;
pub mod x509;

pub use error::Error;
pub use hsm::Hsm;
