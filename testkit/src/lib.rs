//! What the tests of several crates share. Nothing but tests depends on it.
//!
//! [`Hsm`] is a real `casemated`, [`Odd`] a server that answers as a test wants, [`nethsm`] answers as NetHSM does as
//! far as it is documented.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests wait and look at their environment")]
#![allow(clippy::missing_panics_doc, reason = "whatever goes wrong here fails the test")]

mod folder;
mod hsm;
pub mod nethsm;
mod odd;
mod people;
mod vendor;

pub use folder::Folder;
pub use hsm::{Hsm, client_of, fingerprint};
pub use odd::{Does, Identity, Odd, reply, reply_as};
pub use people::{ADMIN, OPERATOR, UNLOCK, admin, ed25519, key, operator, secret};
pub use vendor::Vendor;
