//! The number of connections per client, so that a single one cannot use all of them.
//!
//! A client is an IPv4 address or the first 64 bits of an IPv6 address, the prefix of one subscriber (RFC 6177).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The connection counts of all clients that have any.
pub(super) struct Shares {
    most: usize,
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of one client; returned when dropped.
pub(super) struct Share {
    shares: Arc<Shares>,
    client: IpAddr,
}

impl Shares {
    /// Allows at most `most` connections per client.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// Counts one more connection from `address`; `None` if that client has reached its limit.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        let client = client_of(address);
        let mut held = self.lock();
        let count = held.get(&client).copied().unwrap_or(0);
        if count >= self.most {
            return None;
        }
        held.insert(client, count + 1);
        Some(Share { shares: Arc::clone(self), client })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.lock();
        match held.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            // A client without connections is removed, so that the map is never larger than the number of connections.
            Some(_) | None => _ = held.remove(&self.client),
        }
    }
}

/// Whom `address` belongs to.
pub(in crate::http) fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_share_and_no_more() {
        let shares = Shares::new(2);
        let take = |address: &str| shares.take(address.parse().unwrap());
        let first = take("192.0.2.1").unwrap();
        let _second = take("::ffff:192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none());
        let _other = take("192.0.2.2").unwrap();
        drop(first);
        let _third = take("192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none());

        let _near = (take("2001:db8::1").unwrap(), take("2001:db8::2:0:0:1").unwrap());
        assert!(take("2001:db8::ffff:0:0:1").is_none(), "the same 64 bits");
        assert!(take("2001:db8:0:1::1").is_some());
    }

    #[test]
    fn a_client_without_connections_is_forgotten() {
        let shares = Shares::new(2);
        let held: Vec<_> = (0..2).map(|_| shares.take([192, 0, 2, 1].into())).collect();
        drop(held);
        assert!(shares.lock().is_empty());
    }
}
