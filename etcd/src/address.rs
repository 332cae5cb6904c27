//! Where an endpoint is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use rustls::pki_types::ServerName;

/// An endpoint of etcd: a host name or an IP address, and the client port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Reads `host:port`, `192.0.2.1:2379` or `[2001:db8::1]:2379`. `Err` is a sentence for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is not an address of etcd: write host:port, or [address]:port for IPv6");
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { host: address.ip().to_string(), port: address.port() });
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        // A number may have a sign for Rust, a port may not.
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
        match ServerName::try_from(host) {
            Ok(ServerName::DnsName(_)) => Ok(Self { host: host.to_ascii_lowercase(), port }),
            _ => Err(wrong()),
        }
    }

    /// The host name or the address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether only this machine can be behind it. A name is believed only if it is `localhost`; what that resolves to is
    /// looked at once more before it is used.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host.parse::<IpAddr>().map_or(self.host == "localhost", |ip| ip.is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
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
        ] {
            assert!(Address::parse(text).unwrap_err().contains("host:port"), "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for text in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "LocalHost:1"] {
            assert!(Address::parse(text).unwrap().is_loopback(), "{text}");
        }
        for text in ["192.0.2.1:1", "localhost.example.com:1", "[::ffff:192.0.2.1]:1", "0.0.0.0:1"] {
            assert!(!Address::parse(text).unwrap().is_loopback(), "{text}");
        }
    }
}
