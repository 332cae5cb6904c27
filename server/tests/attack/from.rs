//! Clients at several addresses of this machine, which has all of 127.0.0.0/8.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::any_certificate;
use crate::daemon::Daemon;
use crate::wire::{Reply, Wire};

/// The `n`th address of this machine; the tests' honest clients are at [`HONEST`].
pub fn address(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + n).into()
}

/// The address of honest clients.
pub const HONEST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A connection from `source` that accepts every certificate.
pub fn connect(daemon: &Daemon, source: IpAddr) -> Wire {
    let server: SocketAddr = daemon.address.parse().unwrap();
    Wire::connect(any_certificate::config(), source, server)
}

/// The text of a request with JSON or without a body; `login` is `user:passphrase`.
pub fn request(method: &str, path: &str, login: Option<&str>, body: Option<&str>) -> String {
    let mut text = format!("{method} /api/v1{path} HTTP/1.1\r\nhost: hsm\r\n");
    if let Some(login) = login {
        text.push_str(&format!("authorization: Basic {}\r\n", BASE64_STANDARD.encode(login)));
    }
    if let Some(body) = body {
        text.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    } else {
        text.push_str("content-length: 0\r\n\r\n");
    }
    text
}

/// One request and its reply over `wire`.
pub fn call(wire: &mut Wire, method: &str, path: &str, login: Option<&str>, body: Option<&str>) -> Reply {
    wire.send(request(method, path, login, body).as_bytes());
    wire.reply(method)
}
