//! How a client behaves.

use std::time::Duration;

use casemate_api::limits::{CLIENT_CONNECT_MS, CLIENT_DEADLINE_MS, CLIENT_REQUEST_MS};

use crate::tls::Trust;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The nodes: `host`, `host:port` or `https://host:port`, by default with port 443. They share users and keys.
    pub nodes: Vec<String>,
    /// Which certificates are trusted.
    pub trust: Trust,
    /// Time limit for connecting and the TLS handshake. Name lookup is done by the system within its own limits, which
    /// are not part of this one or of those below.
    pub connect: Duration,
    /// Time limit for one attempt at one node; in an upload or download, for each read and each write.
    pub request: Duration,
    /// Time limit for a call with all its attempts. Uploads and downloads have none.
    pub deadline: Duration,
    /// How many times all nodes are asked before a call fails.
    pub rounds: u32,
    /// Pause before all nodes are asked again.
    pub pause: Duration,
}

impl Settings {
    /// The defaults for these nodes: the limits of `api/src/limits.rs`, one round, and the root certificates of the
    /// system.
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
