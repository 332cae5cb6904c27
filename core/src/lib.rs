//! The HSM itself, the trusted base. It touches no network, disk, clock or environment of its own: all of that comes in
//! through [`platform::Platform`].
//!
//! Each module here is a room; a room uses only rooms above it in this list (`cargo xtask tidy` checks it):
//!
//! - [`error`]: what went wrong, by what the caller can do about it
//! - [`runtime`]: time, randomness, worker threads, and for whom work is done
//! - [`store`]: the interface to storage, implemented by the server and, for tests, in `sim`
//! - [`crypto`]: keys, sealing, passphrase hashes; one file for each family of mechanisms in `crypto::mech`
//! - [`rows`]: what a stored row looks like, tables, caches, and the one way to write
//! - [`platform`]: what the core needs from the process around it
//! - [`device`]: what outlives every phase: the device's own store, the slots of the Domain Key, limits on guesses, and what a boot
//!   does after power failed in a procedure
//! - [`identity`]: authentication (`caller`, `guesses`), users, and rights that hold at the moment of a write
//! - [`keys`]: keys, who may use them (`usable`), their counters; namespaces and quotas
//! - [`audit`]: the audit log
//! - [`config`]: TLS, network, logging, time
//! - [`backup`]: NetHSM's backup format, written, read, staged and converted
//! - [`hsm`]: boot, phases and the transitions between them, restores, updates

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
