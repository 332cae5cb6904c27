//! A blocking client of the REST API of Casemate and NetHSM.
//!
//! It is the one transport under the command line, the PKCS#11 module and the replication between sites: several nodes
//! in turn, failover, repetition of what may be repeated, kept connections, and certificates by the system's roots, a CA
//! file or a pinned fingerprint. It has no runtime and starts no thread, so it can live in any process and survives
//! `fork`: a child makes connections of its own.
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
//! What a call does when a node fails is decided in `retry.rs`, which node is asked in `pick.rs`. A change whose answer was
//! lost comes back as [`Error::Unknown`] and is never repeated. Where that matters, create with an id of your own: then a
//! second attempt cannot make a second key, and a look at the id tells whether the first was carried out.

mod calls;
mod client;
mod clock;
mod credentials;
mod error;
mod exchange;
mod fingerprint;
mod media;
mod pick;
mod pool;
mod probe;
mod request;
mod retry;
mod session;
mod settings;
mod tls;
mod upload;
mod wipe;
mod wire;

pub use calls::audit::Audit;
pub use calls::cluster::Cluster;
pub use calls::config::Config;
pub use calls::health::Health;
pub use calls::keys::{KeyFilter, Keys};
pub use calls::system::System;
pub use calls::users::{Namespaces, Users};
pub use client::Client;
pub use error::{Cause, Error, Trouble};
pub use fingerprint::{Fingerprint, NoFingerprint};
pub use probe::{Probe, Shown};
pub use request::Changed;
pub use retry::Repeat;
pub use session::Session;
pub use settings::Settings;
pub use tls::Trust;
pub use upload::Upload;
