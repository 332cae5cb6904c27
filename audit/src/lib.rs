//! The audit log outside an HSM: the form of its records and of an export, the verification of an export, and one sequence of
//! the logs of several nodes.
//!
//! The HSM writes with this crate what tools read with it, and neither needs the other.

mod checkpoint;
mod merge;
mod record;
mod verify;

pub use checkpoint::{Checkpoint, Ends, PublicKey, Signature, header, public_key_from_pem};
pub use merge::{Log, MergeError, Opener, merge};
pub use record::{Event, Hash, Kind, Record, is_plain, plain, reason};
pub use verify::{Broken, Found, Verifier};
