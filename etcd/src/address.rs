//! Where an endpoint is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use rustls::pki_types::ServerName;

/// An endpoint of etcd: a host name or an IP address and the client port, or a Unix socket of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub(crate) Place);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// A host name or an IP address without brackets.
    Host {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

impl Address {
    /// Reads `host:port`, `192.0.2.1:2379` or `[2001:db8::1]:2379`. `Err` is a sentence for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is not an address of etcd: write host:port, or [address]:port for IPv6");
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self(Place::Host { host: address.ip().to_string(), port: address.port() }));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        // A number may have a sign for Rust, a port may not.
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
        match ServerName::try_from(host) {
            Ok(ServerName::DnsName(_)) => Ok(Self(Place::Host { host: host.to_ascii_lowercase(), port })),
            _ => Err(wrong()),
        }
    }

    /// The Unix socket at `path`, which may be longer than the 107 bytes that the address of a socket has room for. There is
    /// no TLS on it: the modes of its folders say who may use it.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self(Place::Unix(path.into()))
    }

    /// The port; `None` for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self.0 {
            Place::Host { port, .. } => Some(port),
            Place::Unix(_) => None,
        }
    }

    /// Whether only this machine can be behind it. A name is believed only if it is `localhost`; what that resolves to is
    /// looked at once more before it is used.
    pub(crate) fn is_loopback(&self) -> bool {
        match &self.0 {
            Place::Host { host, .. } => host.parse::<IpAddr>().map_or(host == "localhost", |ip| ip.is_loopback()),
            Place::Unix(_) => true,
        }
    }

    /// What stands in the URIs of requests.
    pub(crate) fn authority(&self) -> String {
        match &self.0 {
            Place::Host { .. } => self.to_string(),
            Place::Unix(_) => "localhost".into(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Host { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Host { host, port } => write!(f, "{host}:{port}"),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_of_both_families_are_read_and_written() {
        for text in ["etcd-1.example.com:2379", "192.0.2.1:2379", "[2001:db8::1]:2379", "localhost:1"] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "host",
            ":2379",
            "host:",
            "host:70000",
            "host:+1",
            "2001:db8::1:2379",
            "https://host:2379",
            "a b:1",
            "h/x:1",
            "unix:/s",
        ] {
            assert!(Address::parse(text).unwrap_err().contains("host:port"), "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for text in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "LocalHost:1"] {
            assert!(Address::parse(text).unwrap().is_loopback(), "{text}");
        }
        assert!(Address::unix("/s").is_loopback());
        for text in ["192.0.2.1:1", "localhost.example.com:1", "[::ffff:192.0.2.1]:1", "0.0.0.0:1"] {
            assert!(!Address::parse(text).unwrap().is_loopback(), "{text}");
        }
    }
}
