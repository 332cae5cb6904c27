//! The HSM itself: phases, users, namespaces, keys, mechanisms and sealing.
//!
//! This is the trusted base. It touches no network, disk, clock or environment of its own: all of that comes in through
//! [`platform::Platform`].

pub mod error;
pub mod keys;
pub mod mech;
pub mod platform;
pub mod secret;
pub mod store;

pub use error::Error;
