//! For whom work is done: queues and threads are shared fairly between parties, and guesses are counted by neighbourhood.

use std::net::IpAddr;

/// Number of a namespace, new for each creation: a namespace created again under the same name starts empty. The root is 0.
pub type NamespaceNumber = u32;

/// The number of the root namespace, which always exists.
pub const ROOT: NamespaceNumber = 0;

/// For whom work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The HSM itself: housekeeping, restores.
    Hsm,
    /// A client that has not authenticated.
    Address(Neighbourhood),
    /// All users of one namespace, or of the root.
    Namespace(NamespaceNumber),
}

impl Party {
    /// All users of the root.
    pub const ROOT: Party = Party::Namespace(ROOT);
}

/// The origin of a client, as far as clients can be told apart: a client with one IPv6 address usually has the whole /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Neighbourhood {
    /// An IPv4 address, also if mapped into IPv6 (RFC 4291 §2.5.5.2).
    V4(u32),
    /// The first 64 bits of an IPv6 address.
    V6(u64),
}

impl From<IpAddr> for Neighbourhood {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Neighbourhood {
        address.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn an_ipv4_client_is_the_same_through_ipv6_and_an_ipv6_network_is_one_neighbourhood() {
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        // The first bytes are equal, but the clients are not.
        assert_ne!(of("10.0.0.1"), of("a00:1::"));
    }
}
