//! The HSM itself: phases, users, namespaces, keys, mechanisms and sealing.
//!
//! This is the trusted base. It touches no network, disk, clock or environment of its own: all of that comes in through
//! [`platform::Platform`].

pub mod audit;
pub mod backup;
pub mod config;
pub mod crypto;
pub mod device;
pub mod error;
pub mod hsm;
pub mod identity;
pub mod keys;
pub mod platform;
pub mod rows;
pub mod runtime;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod store;

pub use error::Error;
pub use hsm::Hsm;
