//! The client itself: HSMs, and sessions with them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use casemate_api::{Passphrase, UserId};

use crate::error::Error;
use crate::pool::Pool;
use crate::session::Session;
use crate::settings::Settings;

/// HSMs that can be talked to. Clones share connections and what is known about the nodes.
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Pool>);

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
