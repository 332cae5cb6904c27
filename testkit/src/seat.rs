//! Addresses and ports for the members of etcd.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::net::Place;

/// Where a member is.
pub(crate) struct Seat {
    /// `None`: where the test process is.
    pub(crate) place: Option<Place>,
    /// At which addresses it serves. The first one is told to others.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) client_port: u16,
    pub(crate) peer_port: u16,
}

impl Seat {
    /// At loopback, at ports that nobody uses.
    pub(crate) fn here() -> Self {
        let addresses = vec![Ipv4Addr::LOCALHOST.into()];
        Self { place: None, addresses, client_port: free_port(), peer_port: free_port() }
    }

    /// At the usual ports of a node.
    pub(crate) fn at(place: &Place) -> Self {
        let addresses = vec![place.v4.into(), place.v6.into()];
        Self { place: Some(place.clone()), addresses, client_port: 2379, peer_port: 2380 }
    }

    /// Its addresses with this port.
    pub(crate) fn sockets(&self, port: u16) -> Vec<SocketAddr> {
        self.addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
    }

    /// The address that others use, with this port.
    pub(crate) fn socket(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses[0], port)
    }
}

/// A port that nobody uses. It is below the ports that Linux gives to outgoing connections, so that it stays free while a
/// member is down.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at the same time begin at different places.
    let offset = (std::process::id().wrapping_mul(211) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let port = FIRST + (NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(offset)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("all ports are in use");
}
