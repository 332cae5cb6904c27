//! How a client behaves.

use std::time::Duration;

use casemate_api::limits::{CLIENT_CONNECT_MS, CLIENT_DEADLINE_MS, CLIENT_REQUEST_MS};

use crate::tls::Trust;

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
