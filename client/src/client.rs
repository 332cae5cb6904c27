//! The client: a set of nodes, and sessions with them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use casemate_api::{Passphrase, UserId};

use crate::error::Error;
use crate::pool::Pool;
use crate::session::Session;
use crate::settings::Settings;

/// A client of one or several nodes. Clones share connections and what is known about the nodes.
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Pool>);

impl Client {
    /// Checks the settings and reads the root certificates; does not connect yet. Fails with [`Error::Settings`].
    pub fn new(settings: Settings) -> Result<Self, Error> {
        Pool::new(settings).map(|pool| Self(Arc::new(pool)))
    }

    /// The nodes as `host:port`, in the order of the settings.
    pub fn nodes(&self) -> &[String] {
        &self.0.nodes
    }

    /// A session without credentials.
    pub fn anonymous(&self) -> Session {
        Session::new(Arc::clone(&self.0), None)
    }

    /// A session of `user`. Nothing is sent yet: every request carries the credentials, so a wrong passphrase is found
    /// out by the first one.
    pub fn log_in(&self, user: &UserId, passphrase: Passphrase) -> Session {
        Session::new(Arc::clone(&self.0), Some((user, passphrase)))
    }

    /// The number of TLS handshakes so far. After a fork, the child goes on from the number of its parent.
    pub fn handshakes(&self) -> u64 {
        self.0.handshakes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.0.nodes).finish()
    }
}
