//! What the tests of several crates share. Nothing but tests depends on it.
//!
//! [`Hsm`] is a real `casemated`; [`MockServer`] answers as a test wants; [`nethsm`] starts a mock that answers as
//! NetHSM is documented to; [`EtcdServer`] is a real etcd; [`Network`] puts them on machines that can be cut off from each other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests wait and look at their environment")]
#![allow(clippy::missing_panics_doc, reason = "whatever goes wrong here fails the test")]

mod certificates;
mod etcd;
mod fixtures;
mod folder;
mod hsm;
mod member;
mod mock_server;
mod net;
pub mod nethsm;
mod process;
mod seat;
mod vendor;

pub use certificates::{EtcdCertificates, EtcdIdentity};
pub use etcd::{EtcdServer, etcd};
pub use fixtures::{ADMIN, BACKUP, OPERATOR, UNLOCK, admin, ed25519, key, operator, secret};
pub use folder::Folder;
pub use hsm::{Hsm, client_of, fingerprint};
pub use member::Member;
pub use mock_server::{Identity, MockServer, Reaction, reply, reply_as};
pub use net::{Network, Place};
pub use seat::free_port;
pub use vendor::Vendor;
