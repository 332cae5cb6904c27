//! Inspection of a node: its addresses, the connection, and its certificate, trusted or not.
//!
//! An inspection makes one connection of its own, sends no request over it and closes it. It helps to find out why
//! calls fail; calls go through [`crate::Session`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::uri::Authority;

use crate::client::Client;
use crate::clock;
use crate::error::{Cause, Error, NodeFailure, summarize};
use crate::fingerprint::Fingerprint;
use crate::tls::{Trust, recording_config};
use crate::transport::{NotSent, bare, dial, look_up, shake_hands};

/// The result of an inspection. After a step that failed, the later ones are `None`.
#[derive(Debug)]
pub struct Inspection {
    /// The addresses that the name of the node resolves to.
    pub addresses: Result<Vec<SocketAddr>, Cause>,
    /// The first address that accepted a connection, and how long that took.
    pub connection: Option<Result<(SocketAddr, Duration), Cause>>,
    /// The result of the TLS handshake.
    pub tls: Option<Result<TlsInfo, Cause>>,
}

/// What a TLS handshake tells about a node. The node has proved that it holds the key of the certificate.
#[derive(Debug)]
pub struct TlsInfo {
    /// The protocol version, such as `TLSv1_3`.
    pub version: String,
    /// How long the handshake took.
    pub took: Duration,
    /// Certificates in DER, the node's own first.
    pub chain: Vec<Vec<u8>>,
    /// The fingerprint of the node's own certificate.
    pub fingerprint: Fingerprint,
    /// Whether the certificate is for the name of the host. A pinned one need not be.
    pub names_host: bool,
    /// Whether the client trusts the certificate, or why not.
    pub trusted: Result<(), Cause>,
}

impl TlsInfo {
    /// An error unless the client trusts the certificate.
    pub fn expect_trusted(&self, node: &str) -> Result<(), Error> {
        self.trusted.clone().map_err(|cause| error_of(node, cause))
    }
}

/// The error of a call that fails at `node` for this cause.
fn error_of(node: &str, cause: Cause) -> Error {
    summarize(vec![NodeFailure { node: node.to_owned(), cause }], None)
}

impl Client {
    /// What a TLS handshake with `node` tells, whether its certificate is trusted or not; an error if there is no
    /// handshake.
    pub fn inspect_tls(&self, node: usize) -> Result<TlsInfo, Error> {
        let Inspection { addresses, connection, tls } = self.inspect(node)?;
        let name = self.0.name(node);
        addresses.map_err(|cause| error_of(&name, cause))?;
        connection.transpose().map_err(|cause| error_of(&name, cause))?;
        match tls {
            Some(shown) => shown.map_err(|cause| error_of(&name, cause)),
            None => Err(error_of(&name, Cause::TlsFailed("it was not tried".into()))),
        }
    }

    /// Which certificates this client trusts.
    pub fn trust(&self) -> &Trust {
        &self.0.settings.trust
    }

    /// Inspects `node`, an index into [`Client::nodes`]. Only a TLS handshake is made, no request.
    pub fn inspect(&self, node: usize) -> Result<Inspection, Error> {
        let name = self.nodes().get(node).ok_or_else(|| Error::NodeRequired { nodes: self.nodes().to_vec() })?;
        let authority: Authority =
            name.parse().map_err(|_| Error::Settings(format!("{name} is not the address of an HSM")))?;
        let (host, port) = (bare(authority.host()), authority.port_u16().unwrap_or(443));
        let (config, recorder) = recording_config(self.trust())?;

        let mut inspection = Inspection { addresses: Ok(Vec::new()), connection: None, tls: None };
        let addresses = match look_up(host, port) {
            Ok(addresses) => addresses,
            Err(why) => return Ok(Inspection { addresses: Err(why.0), ..inspection }),
        };
        let started = clock::now();
        let deadline = started + self.0.settings.connect;
        let tcp = dial(&addresses, deadline);
        inspection.addresses = Ok(addresses);
        let peer = tcp.and_then(|tcp| match tcp.peer_addr() {
            Ok(peer) => Ok((tcp, peer)),
            Err(why) => Err(NotSent(Cause::ConnectFailed(why.kind()))),
        });
        let (tcp, peer) = match peer {
            Ok(found) => found,
            Err(why) => return Ok(Inspection { connection: Some(Err(why.0)), ..inspection }),
        };
        inspection.connection = Some(Ok((peer, started.elapsed())));
        let started = clock::now();
        let handshake = shake_hands(&Arc::new(config), host, &tcp, deadline);
        let took = started.elapsed();
        inspection.tls = Some(handshake.map_err(|why| why.0).and_then(|tls| {
            let recorded = recorder.take().ok_or_else(|| Cause::TlsFailed("the node sent no certificate".into()))?;
            let leaf = recorded.chain.first().ok_or_else(|| Cause::TlsFailed("the node sent no certificate".into()))?;
            Ok(TlsInfo {
                version: tls.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default(),
                took,
                fingerprint: Fingerprint::of(leaf),
                names_host: recorded.names_host,
                trusted: recorded.trusted.map_err(Cause::from),
                chain: recorded.chain,
            })
        }));
        Ok(inspection)
    }
}
