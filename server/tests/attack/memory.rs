//! Memory: bodies that are announced and do not arrive, and bodies that arrive and do not end.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::Request;
use hyper::body::{Bytes, Frame, SizeHint};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::daemon::{ADMIN, Client, Daemon, Folder};
use crate::from::{HONEST, address, call, connect};

const STREAMS: usize = 128;

type Sender = http2::SendRequest<Promise>;

/// A body of a known length that never arrives.
struct Promise(u64);

impl hyper::body::Body for Promise {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

/// An HTTP/2 connection from `source`.
async fn connect_h2(daemon: &Daemon, source: IpAddr) -> Sender {
    let server: SocketAddr = daemon.address.parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    let tcp = socket.connect(server).await.unwrap();
    let mut config = (*crate::any_certificate::config()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::IpAddress(server.ip().into());
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Resident memory of the server, in MiB.
fn resident(daemon: &Daemon) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
}

/// The same, once it no longer grows; at most ten seconds later.
async fn resident_in_the_end(daemon: &Daemon) -> usize {
    let mut last = resident(daemon);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = resident(daemon);
        if now <= last + 1 {
            return now;
        }
        last = now;
    }
    last
}

/// A server with the key `k`, which the Operator `op` may use.
fn operational(folder: &Folder) -> Daemon {
    let daemon = Daemon::start(folder);
    daemon.client().provision().unwrap().expect(204);
    let admin = admin(&daemon);
    admin.create_operator("op", OPERATOR);
    let key = json!({ "mechanisms": ["EdDSA_Signature"], "type": "Curve25519", "id": "k" });
    admin.call("POST", "/keys/generate", Some(&key)).unwrap().expect(201);
    daemon
}

fn admin(daemon: &Daemon) -> Client {
    daemon.client().log_in("admin", ADMIN)
}

fn login() -> String {
    format!("op:{OPERATOR}")
}

/// Signs `bytes` bytes from `source`.
fn sign(daemon: &Daemon, source: IpAddr, bytes: usize) -> crate::wire::Reply {
    let body = json!({ "mode": "EdDSA", "message": BASE64_STANDARD.encode(vec![1; bytes]) }).to_string();
    call(&mut connect(daemon, source), "POST", "/keys/k/sign", Some(&login()), Some(&body))
}

#[test]
fn promised_bodies_take_no_memory_until_they_come() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder);
    daemon.client().provision().unwrap().expect(204);
    admin(&daemon).call("POST", "/lock", None).unwrap().expect(204);
    runtime().block_on(async {
        let before = resident(&daemon);
        let (mut connections, mut asked) = (Vec::new(), JoinSet::new());
        for number in 0..118 {
            let mut sender = connect_h2(&daemon, address(number % 4)).await;
            for _ in 0..STREAMS {
                let request = Request::post("https://hsm/api/v1/unlock").body(Promise(64 << 10)).unwrap();
                asked.spawn(sender.send_request(request));
            }
            // Lets them be sent.
            tokio::task::yield_now().await;
            sender.ready().await.unwrap();
            connections.push(sender);
        }
        let grown = resident_in_the_end(&daemon).await - before;
        assert!(asked.try_join_next().is_none(), "each waits for the body it was promised");
        println!("{} requests: {grown} MiB", asked.len());
        assert!(grown < 200, "{grown} MiB for {} promises", asked.len());
        assert_eq!(call(&mut connect(&daemon, HONEST), "GET", "/info", None, None).status, 200);
    });
}

#[test]
fn one_client_with_large_bodies_leaves_memory_to_others() {
    let folder = Folder::new();
    let daemon = operational(&folder);
    // The Operator is known from here on: large bodies do not wait for a hash.
    sign(&daemon, address(1), 100).is(200);
    let begin = || {
        let mut wire = connect(&daemon, address(1));
        let basic = BASE64_STANDARD.encode(login());
        wire.send(
            format!(
                "POST /api/v1/keys/k/sign HTTP/1.1\r\nhost: hsm\r\nauthorization: Basic {basic}\r\n\
                content-type: application/json\r\ncontent-length: {}\r\n\r\n",
                32 << 20,
            )
            .as_bytes(),
        );
        wire.send(&vec![b' '; 31 << 20]);
        wire
    };
    // Each counts three times.
    let held = (begin(), begin());
    let refused = begin().reply("POST").is(503);
    assert_eq!((refused.header("retry-after"), refused.header("connection")), (Some("1"), Some("close")));
    refused.says("Too many large bodies at once. Try again.");
    sign(&daemon, address(1), 100).is(200);
    sign(&daemon, HONEST, 100).is(200);
    sign(&daemon, HONEST, 10 << 20).is(200);
    drop(held);
    let again = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        sign(&daemon, address(1), 30 << 20).status == 200
    });
    assert!(again, "who has gone has given back what it held");
}

const OPERATOR: &str = "operator passphrase";
