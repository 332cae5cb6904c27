//! A blocking client of the REST API of Casemate and NetHSM.
//!
//! It uses several nodes in turn, tries another one when a node fails, repeats what may be repeated, keeps connections
//! open, and trusts certificates by the system's roots, a CA file or a pinned fingerprint. It has no runtime and starts
//! no threads, so it works in any process, also after `fork`: a child makes connections of its own.
//!
//! ```no_run
//! use casemate_api::body::keys::Sign;
//! use casemate_api::{KeyId, Passphrase, SignMode, UserId};
//! use casemate_client::{Client, Settings, Trust};
//!
//! let trust = Trust::Pinned(vec!["3F:…".parse()?]);
//! let client = Client::new(Settings { trust, ..Settings::of(["hsm1.example:8443", "hsm2.example:8443"]) })?;
//! let session = client.log_in(&UserId::parse("operator")?, Passphrase::from_text("…".into()));
//! let request = Sign { mode: SignMode::ECDSA, message: "…".into() };
//! let signature = session.keys().sign(&KeyId::parse("web")?, &request)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `retry.rs` decides what happens when a node fails, `pick.rs` which node is asked. A change whose answer was lost is
//! reported as [`Error::Unknown`] and never repeated. Where that matters, create keys with an id of your choice: then a
//! second attempt cannot create a second key, and reading the id tells whether the first attempt succeeded.

mod calls;
mod client;
mod clock;
mod credentials;
mod error;
mod exchange;
mod fingerprint;
mod inspect;
mod media;
mod pick;
mod pool;
mod request;
mod retry;
mod session;
mod settings;
mod tls;
mod transport;
mod upload;
mod wipe;

pub use calls::audit::Audit;
pub use calls::cluster::Cluster;
pub use calls::config::Config;
pub use calls::health::Health;
pub use calls::keys::{KeyFilter, KeyPage, KeyPageRequest, KeyPages, Keys};
pub use calls::system::System;
pub use calls::users::{Namespaces, Users};
pub use client::Client;
pub use error::{Cause, Error, NodeFailure};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use inspect::{Inspection, TlsInfo};
pub use request::Changed;
pub use retry::Repeat;
pub use session::Session;
pub use settings::Settings;
pub use tls::Trust;
pub use upload::Upload;
