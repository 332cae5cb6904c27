//! Configuration of a running server through the API: its certificate, names and additional addresses.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use casemate_api::body::config::Network;
use casemate_core::platform::{Applied, ListenError, ServeError, Swap};
use casemate_core::rows::tls_identity::TlsIdentity;

use crate::http::serve::{self, CertError, CertSlot, ExtraListener, ExtraListeners};

/// The part of a running server that can be changed.
pub struct Serving {
    slot: Arc<CertSlot>,
    extra: ExtraListeners,
    /// Addresses from the settings; they do not change.
    settled: Vec<SocketAddr>,
    /// Addresses from the network configuration.
    added: Mutex<Vec<ExtraListener>>,
}

impl Serving {
    /// The server that presents the certificate of `slot`, listens at `settled` and opens further listeners through
    /// `extra`.
    pub fn new(slot: Arc<CertSlot>, extra: ExtraListeners, settled: Vec<SocketAddr>) -> Self {
        Self { slot, extra, settled, added: Mutex::default() }
    }

    /// Checks a key and chain, and returns the function that installs them for later connections.
    pub fn serve_with(&self, identity: &TlsIdentity) -> Result<Swap, ServeError> {
        let ready = CertSlot::prepare(identity.chain.clone(), &identity.private_key).map_err(|why| match why {
            CertError::OtherKey => ServeError::OtherKey,
            CertError::Unusable => ServeError::Unusable,
        })?;
        let slot = self.slot.clone();
        Ok(Box::new(move || slot.install(ready)))
    }

    /// The listening addresses, as names for a certificate.
    pub fn names(&self) -> Vec<String> {
        let added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        names(self.settled.iter().copied().chain(added.iter().map(|listener| listener.address)))
    }

    /// Also listens at the addresses of `network`, at the first port of the settings, and no longer at those of the
    /// previous configuration.
    pub fn use_network(&self, network: &Network) -> Applied {
        let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = std::iter::once(IpAddr::from(network.ip_address));
        let wanted: Vec<_> = wanted.chain(network.ipv6.iter().map(|v6| v6.cidr.address.into())).collect();
        let mut applied = Applied::default();
        let mut extra = Vec::new();
        for ip in wanted {
            let address = SocketAddr::new(ip, self.settled.first().map_or(0, SocketAddr::port));
            if let Some(at) = added.iter().position(|listener| listener.address == address) {
                extra.push(added.swap_remove(at));
                applied.serving.push(address);
                continue;
            }
            match self.open(address) {
                Ok(listener) => {
                    extra.extend(listener);
                    applied.serving.push(address);
                }
                Err(why) => applied.not_served.push((ip, why)),
            }
        }
        // Listeners that remain here are closed.
        *added = extra;
        applied
    }

    /// `None` if the server already listens there.
    fn open(&self, address: SocketAddr) -> Result<Option<ExtraListener>, ListenError> {
        // An IPv4-mapped IPv6 address is treated as IPv4.
        let ip = address.ip().to_canonical();
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(ListenError::NotOneMachine);
        }
        // Any port shows whether this machine has the address.
        TcpListener::bind((ip, 0)).map_err(|why| match why.kind() {
            io::ErrorKind::AddrNotAvailable => ListenError::NotOfThisMachine,
            _ => ListenError::Other(why.into()),
        })?;
        if self.settled.iter().any(|settled| covers(*settled, address)) {
            return Ok(None);
        }
        let listener =
            serve::bind(address).map_err(|why| ListenError::Port { port: address.port(), cause: why.into() })?;
        self.extra.open(listener).map(Some).map_err(|why| ListenError::Other(why.into()))
    }
}

/// Whether a server listening at `listening` is also reached at `address`. `[::]` accepts IPv4, too.
fn covers(listening: SocketAddr, address: SocketAddr) -> bool {
    let takes =
        listening.ip() == address.ip() || listening.ip().is_unspecified() && (listening.is_ipv6() || address.is_ipv4());
    takes && listening.port() == address.port()
}

/// The certificate names of a server that listens at these addresses.
pub fn names(listening: impl IntoIterator<Item = SocketAddr>) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "IP:127.0.0.1".to_owned(), "IP:::1".to_owned()];
    for address in listening {
        let name = format!("IP:{}", address.ip());
        if !address.ip().is_unspecified() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_their_family_and_ipv6_both() {
        let covers = |listening: &str, address: &str| covers(listening.parse().unwrap(), address.parse().unwrap());
        assert!(covers("0.0.0.0:1", "127.0.0.2:1") && covers("[::]:1", "127.0.0.2:1") && covers("[::]:1", "[::1]:1"));
        assert!(covers("127.0.0.2:1", "127.0.0.2:1"));
        assert!(!covers("0.0.0.0:1", "[::1]:1") && !covers("127.0.0.1:1", "127.0.0.2:1"));
        assert!(!covers("0.0.0.0:1", "127.0.0.2:2") && !covers("127.0.0.2:1", "127.0.0.2:2"));
    }
}
