//! What can be seen of a node from outside: its addresses, the way there, and the certificate it shows, trusted or not.
//!
//! A probe makes one connection of its own, sends no request over it and closes it. It is for people who look for what is
//! wrong; calls go through [`crate::Session`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::uri::Authority;

use crate::client::Client;
use crate::clock;
use crate::error::{Cause, Error, Trouble, sum_up};
use crate::fingerprint::Fingerprint;
use crate::tls::{Trust, looking};
use crate::wire::{Setback, bare, dial, look_up, shake_hands};

/// One look at a node. A step that failed leaves those after it empty.
#[derive(Debug)]
pub struct Probe {
    /// What its name stands for.
    pub addresses: Result<Vec<SocketAddr>, Cause>,
    /// The first address that took a connection, and how long that took.
    pub connection: Option<Result<(SocketAddr, Duration), Cause>>,
    /// What it showed in the TLS handshake.
    pub tls: Option<Result<Shown, Cause>>,
}

/// What a node shows of itself in a TLS handshake. It holds the key of the certificate.
#[derive(Debug)]
pub struct Shown {
    /// Such as `TLSv1_3`.
    pub version: String,
    /// How long the handshake took.
    pub took: Duration,
    /// Certificates in DER, the node's own first.
    pub chain: Vec<Vec<u8>>,
    /// SHA-256 of the node's own.
    pub fingerprint: Fingerprint,
    /// Whether the certificate is for this host. A pinned one need not be.
    pub names_host: bool,
    /// Whether the client trusts it, and if not, why not.
    pub trusted: Result<(), Cause>,
}

impl Shown {
    /// An error unless the client trusts it.
    pub fn expect_trusted(&self, node: &str) -> Result<(), Error> {
        self.trusted.clone().map_err(|cause| of(node, cause))
    }
}

/// The error of a call to a node with this trouble.
fn of(node: &str, cause: Cause) -> Error {
    sum_up(vec![Trouble { node: node.to_owned(), cause }], None)
}

impl Client {
    /// What a node shows in a TLS handshake, trusted or not; an error if it comes to none.
    pub fn shown(&self, node: usize) -> Result<Shown, Error> {
        let Probe { addresses, connection, tls } = self.probe(node)?;
        let name = self.0.name(node);
        addresses.map_err(|cause| of(&name, cause))?;
        connection.transpose().map_err(|cause| of(&name, cause))?;
        match tls {
            Some(shown) => shown.map_err(|cause| of(&name, cause)),
            None => Err(of(&name, Cause::NoTls("it was not tried".into()))),
        }
    }

    /// Whom this client believes.
    pub fn trust(&self) -> &Trust {
        &self.0.settings.trust
    }

    /// Looks at a node, an index into [`Client::nodes`]. Nothing is sent but the TLS handshake.
    pub fn probe(&self, node: usize) -> Result<Probe, Error> {
        let name = self.nodes().get(node).ok_or_else(|| Error::WhichNode { nodes: self.nodes().to_vec() })?;
        let authority: Authority =
            name.parse().map_err(|_| Error::Settings(format!("{name} is no address of an HSM")))?;
        let (host, port) = (bare(authority.host()), authority.port_u16().unwrap_or(443));
        let (config, looker) = looking(self.trust())?;

        let mut probe = Probe { addresses: Ok(Vec::new()), connection: None, tls: None };
        let addresses = match look_up(host, port) {
            Ok(addresses) => addresses,
            Err(why) => return Ok(Probe { addresses: Err(why.0), ..probe }),
        };
        let begun = clock::now();
        let deadline = begun + self.0.settings.connect;
        let tcp = dial(&addresses, deadline);
        probe.addresses = Ok(addresses);
        let peer = tcp.and_then(|tcp| match tcp.peer_addr() {
            Ok(peer) => Ok((tcp, peer)),
            Err(why) => Err(Setback(Cause::NoConnection(why.kind()))),
        });
        let (tcp, peer) = match peer {
            Ok(found) => found,
            Err(why) => return Ok(Probe { connection: Some(Err(why.0)), ..probe }),
        };
        probe.connection = Some(Ok((peer, begun.elapsed())));
        let begun = clock::now();
        let shaken = shake_hands(&Arc::new(config), host, &tcp, deadline);
        let took = begun.elapsed();
        probe.tls = Some(shaken.map_err(|why| why.0).and_then(|tls| {
            let seen = looker.take().ok_or_else(|| Cause::NoTls("it showed no certificate".into()))?;
            let leaf = seen.chain.first().ok_or_else(|| Cause::NoTls("it showed no certificate".into()))?;
            Ok(Shown {
                version: tls.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default(),
                took,
                fingerprint: Fingerprint::of(leaf),
                names_host: seen.names_host,
                trusted: seen.verdict.map_err(Cause::from),
                chain: seen.chain,
            })
        }));
        Ok(probe)
    }
}
