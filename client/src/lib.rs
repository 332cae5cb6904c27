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
mod clock;
mod error;
mod pick;
mod pool;
mod probe;
mod retry;
mod session;
mod tls;
mod upload;
mod wipe;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use casemate_api::limits::{CLIENT_CONNECT_MS, CLIENT_DEADLINE_MS, CLIENT_REQUEST_MS};
use casemate_api::{Passphrase, UserId};

pub use calls::audit::Audit;
pub use calls::cluster::Cluster;
pub use calls::config::Config;
pub use calls::health::Health;
pub use calls::keys::{KeyFilter, Keys};
pub use calls::system::System;
pub use calls::users::{Namespaces, Users};
pub use error::{Cause, Error, Trouble};
pub use probe::{Probe, Shown};
pub use retry::Repeat;
pub use session::{Changed, Session};
pub use tls::{Fingerprint, NoFingerprint, Trust};
pub use upload::Upload;

use pool::Pool;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The HSMs: `host`, `host:port` or `https://host:port`; port 443 unless given. They share users and keys.
    pub nodes: Vec<String>,
    /// Which certificates are believed.
    pub trust: Trust,
    /// Time to connect and shake hands. Looking a name up is the system's and within its own limits, here and below; an
    /// address needs none.
    pub connect: Duration,
    /// Time for one attempt at one node; in an upload or download, for each read and each write.
    pub request: Duration,
    /// Time for a call with all its repetitions. Uploads and downloads end when they end.
    pub deadline: Duration,
    /// How many times all nodes are asked before a call is given up.
    pub rounds: u32,
    /// Pause between two rounds.
    pub pause: Duration,
}

impl Settings {
    /// The usual behaviour, with the system's roots.
    pub fn of<N: Into<String>>(nodes: impl IntoIterator<Item = N>) -> Self {
        Self {
            nodes: nodes.into_iter().map(Into::into).collect(),
            trust: Trust::System,
            connect: Duration::from_millis(CLIENT_CONNECT_MS),
            request: Duration::from_millis(CLIENT_REQUEST_MS),
            deadline: Duration::from_millis(CLIENT_DEADLINE_MS),
            rounds: 1,
            pause: Duration::ZERO,
        }
    }
}

/// HSMs that can be talked to. Clones share connections and what is known about the nodes.
#[derive(Clone)]
pub struct Client(Arc<Pool>);

impl Client {
    /// Checks the settings and reads the root certificates; connects to nobody yet.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        Pool::new(settings).map(|pool| Self(Arc::new(pool)))
    }

    /// The nodes as `host:port`, in the order of the settings.
    pub fn nodes(&self) -> &[String] {
        &self.0.nodes
    }

    /// Calls without credentials.
    pub fn anonymous(&self) -> Session {
        Session::new(Arc::clone(&self.0), None)
    }

    /// Calls as `user`. Nothing is sent yet: every request carries the credentials, and a wrong passphrase shows at the
    /// first one.
    pub fn log_in(&self, user: &UserId, passphrase: Passphrase) -> Session {
        Session::new(Arc::clone(&self.0), Some((user, passphrase)))
    }

    /// TLS handshakes so far in this process; a fork begins with those of its parent.
    pub fn handshakes(&self) -> u64 {
        self.0.handshakes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.0.nodes).finish()
    }
}
