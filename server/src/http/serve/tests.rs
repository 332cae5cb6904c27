//! Real TLS over real sockets, with a client that can misbehave.

use std::sync::atomic::AtomicBool;
use std::time::Instant as Wall;

use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1 as client1, http2 as client2};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;

use super::*;
use crate::process::End;

/// Answers by path.
#[derive(Default)]
struct Paths {
    slow_began: AtomicBool,
    slow_dropped: Arc<AtomicBool>,
}

impl Service for Paths {
    fn call(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> BoxFuture<'static, Response<ReplyBody>> {
        assert_ne!(request.uri().path(), "/panic-at-once");
        Box::pin(async move {
            match request.uri().path() {
                "/panic" => panic!("on purpose"),
                path @ ("/slow" | "/stuck") => {
                    let _dropped = OnDrop(Arc::clone(&self.slow_dropped));
                    self.slow_began.store(true, Ordering::SeqCst);
                    let time = if path == "/slow" { Duration::from_millis(400) } else { Duration::from_secs(60) };
                    tokio::time::sleep(time).await;
                    Response::new(ReplyBody::whole("slow"))
                }
                "/stream" | "/broken" => {
                    let (writer, body) = ReplyBody::stream();
                    let whole = request.uri().path() == "/stream";
                    tokio::spawn(async move {
                        for piece in 0..10 {
                            writer.write(format!("{piece},")).await.unwrap();
                        }
                        if whole {
                            writer.finish().await.unwrap();
                        }
                    });
                    Response::new(body)
                }
                "/large" => Response::new(ReplyBody::whole(vec![b'x'; LARGE])),
                "/endless" => {
                    let (writer, body) = ReplyBody::stream();
                    tokio::spawn(async move { while writer.write(vec![b'x'; 1 << 20]).await.is_ok() {} });
                    Response::new(body)
                }
                "/empty" => Response::new(ReplyBody::empty()),
                "/echo" => {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    Response::new(ReplyBody::whole(body))
                }
                _ => Response::new(ReplyBody::whole(peer.address.to_string())),
            }
        })
    }
}

/// More than the kernel buffers.
const LARGE: usize = 16 << 20;

struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A server on a port of its own, with a certificate of its own.
struct Rig {
    service: Arc<Paths>,
    slot: Arc<CertSlot>,
    certificate: Vec<u8>,
    address: SocketAddr,
    stop: Stop,
    running: Option<Running>,
}

fn self_signed() -> (Vec<u8>, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec!["casemate.test".into()]).unwrap();
    (made.cert.der().to_vec(), made.signing_key.serialize_der())
}

impl Rig {
    fn new() -> Self {
        Self::with(Bounds::default())
    }

    fn with(bounds: Bounds) -> Self {
        let (certificate, key) = self_signed();
        let slot = Arc::new(CertSlot::new(vec![certificate.clone()], &key).unwrap());
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (service, stop) = (Arc::new(Paths::default()), Stop::new());
        let shared: Arc<dyn Service> = service.clone();
        let running = start(vec![listener], Arc::clone(&slot), 2, shared, bounds, &stop).unwrap();
        Self { service, slot, certificate, address, stop, running: Some(running) }
    }

    async fn connect(&self, alpn: &str) -> ClientStream<TcpStream> {
        self.secure(alpn, TcpStream::connect(self.address).await.unwrap()).await
    }

    /// A connection with a small kernel buffer for the client.
    async fn narrow(&self) -> ClientStream<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        self.secure("http/1.1", socket.connect(self.address).await.unwrap()).await
    }

    async fn secure(&self, alpn: &str, stream: TcpStream) -> ClientStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone().into()).unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let name = ServerName::try_from("casemate.test").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn h1(&self) -> client1::SendRequest<Full<Bytes>> {
        let (send, connection) = client1::handshake(TokioIo::new(self.connect("http/1.1").await)).await.unwrap();
        tokio::spawn(connection);
        send
    }

    async fn h2(&self) -> client2::SendRequest<Full<Bytes>> {
        let io = TokioIo::new(self.connect("h2").await);
        let (send, connection) = client2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        send
    }

    /// Requests a stop and returns how long it took.
    fn stop(&mut self) -> Duration {
        let began = wall();
        self.stop.request(End::Shutdown);
        self.running.take().unwrap().wait();
        began.elapsed()
    }
}

#[expect(clippy::disallowed_methods, reason = "the real time of a real server is measured")]
fn wall() -> Wall {
    Wall::now()
}

fn request(path: &str, body: &'static [u8]) -> Request<Full<Bytes>> {
    let uri = format!("https://casemate.test{path}");
    Request::post(uri).header("host", "casemate.test").body(Full::new(Bytes::from_static(body))).unwrap()
}

async fn text(reply: Response<Incoming>) -> String {
    String::from_utf8(reply.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    runtime().unwrap().block_on(future)
}

#[test]
fn a_connection_is_kept_for_many_requests() {
    let mut rig = Rig::new();
    run(async {
        let mut client = rig.h1().await;
        let first = text(client.send_request(request("/peer", b"")).await.unwrap()).await;
        assert!(first.starts_with("127.0.0.1:"));
        for _ in 0..100 {
            let reply = client.send_request(request("/peer", b"")).await.unwrap();
            assert_eq!(reply.headers().get("content-length").unwrap(), &first.len().to_string());
            assert!(!reply.headers().contains_key("date"), "the date is the HSM's, not the host's");
            assert_eq!(text(reply).await, first, "same connection");
        }
        let reply = client.send_request(request("/echo", b"body")).await.unwrap();
        assert_eq!(text(reply).await, "body");
        let empty = client.send_request(request("/empty", b"")).await.unwrap();
        assert_eq!(empty.headers().get("content-length").unwrap(), "0");
    });
    rig.stop();
}

#[test]
fn http2_runs_many_requests_at_once() {
    let mut rig = Rig::new();
    run(async {
        let client = rig.h2().await;
        let began = wall();
        let slow: Vec<_> = (0..20)
            .map(|_| {
                let mut client = client.clone();
                tokio::spawn(async move { text(client.send_request(request("/slow", b"")).await.unwrap()).await })
            })
            .collect();
        for reply in slow {
            assert_eq!(reply.await.unwrap(), "slow");
        }
        assert!(began.elapsed() < Duration::from_secs(4), "one after the other would take 8 s");
    });
    rig.stop();
}

#[test]
fn a_streamed_body_is_whole_or_the_connection_breaks() {
    let mut rig = Rig::new();
    run(async {
        for round in 0..2 {
            let mut client = rig.h1().await;
            let reply = client.send_request(request("/stream", b"")).await.unwrap();
            assert_eq!(text(reply).await, "0,1,2,3,4,5,6,7,8,9,", "{round}");
            let reply = client.send_request(request("/broken", b"")).await.unwrap();
            assert!(reply.into_body().collect().await.is_err());
        }
        let mut client = rig.h2().await;
        let reply = client.send_request(request("/broken", b"")).await.unwrap();
        assert!(reply.into_body().collect().await.is_err());
        let reply = client.send_request(request("/stream", b"")).await.unwrap();
        assert_eq!(text(reply).await.len(), 20);
    });
    rig.stop();
}

#[test]
fn who_writes_nothing_learns_too_that_the_client_has_gone() {
    run(async {
        let (writer, body) = ReplyBody::stream();
        writer.write("").await.unwrap();
        drop(body);
        assert!(writer.write("").await.is_err());
    });
}

#[test]
fn a_panic_is_answered_and_harms_nobody_else() {
    let mut rig = Rig::new();
    run(async {
        let mut client = rig.h1().await;
        for path in ["/panic", "/panic-at-once", "/panic"] {
            let reply = client.send_request(request(path, b"")).await.unwrap();
            assert_eq!(reply.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(text(reply).await, r#"{"message":"internal error"}"#);
        }
        assert_eq!(client.send_request(request("/empty", b"")).await.unwrap().status(), StatusCode::OK);
    });
    rig.stop();
}

/// Short limits for fresh connections only.
fn impatient() -> Bounds {
    let short = Duration::from_millis(300);
    Bounds { handshake: short, head: short, ..Bounds::default() }
}

/// Short limits for idle connections as well.
fn busy() -> Bounds {
    let short = Duration::from_millis(1_200);
    Bounds { idle: short, reply_grace: short, ..impatient() }
}

/// Reads until the server closes the connection, and returns when that was.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin), began: Wall) -> Duration {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    // How it is closed does not matter.
    let _ = read.expect("the server closes the connection");
    began.elapsed()
}

#[test]
fn a_client_that_sends_no_request_is_cut_off() {
    let mut rig = Rig::with(impatient());
    run(async {
        let mut silent = TcpStream::connect(rig.address).await.unwrap();
        closed(&mut silent, wall()).await;
        for alpn in ["http/1.1", "h2"] {
            let mut silent = rig.connect(alpn).await;
            closed(&mut silent, wall()).await;
        }
        let mut slow = rig.connect("http/1.1").await;
        let began = wall();
        let drip = async {
            for byte in b"GET / HTTP/1.1\r\nhost: x\r\nslow: ".iter().cycle() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if slow.write_all(&[*byte]).await.is_err() || slow.flush().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), drip).await.expect("a dripping head is cut off");
        assert!(began.elapsed() >= Duration::from_millis(280));
    });
    rig.stop();
}

#[test]
fn an_idle_connection_lives_longer_than_a_fresh_one_and_not_for_ever() {
    let mut rig = Rig::with(busy());
    run(async {
        let mut stream = rig.connect("http/1.1").await;
        stream.write_all(b"GET /empty HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let took = closed(&mut stream, wall()).await;
        assert!(took > Duration::from_millis(900), "{took:?}");
        // A running request is not idle: this one is answered although it takes longer than a fresh connection may.
        let mut client = rig.h1().await;
        assert_eq!(text(client.send_request(request("/slow", b"")).await.unwrap()).await, "slow");
    });
    rig.stop();
}

#[test]
fn a_client_that_does_not_read_a_reply_is_cut_off() {
    let mut rig = Rig::with(busy());
    run(async {
        let (mut send, connection) = client2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(0)
            .handshake(TokioIo::new(rig.connect("h2").await))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let reply = send.send_request(request("/peer", b"")).await.unwrap();
        let began = wall();
        // With a window of zero the body cannot arrive, so only the server can end the connection.
        let body = tokio::time::timeout(Duration::from_secs(20), reply.into_body().collect()).await.unwrap();
        assert!(body.is_err());
        assert!(began.elapsed() > Duration::from_millis(900));
        let _ = connection.await;
    });
    rig.stop();
}

/// Short limits for reading replies, and shorter ones for idle connections.
fn paced() -> Bounds {
    let (idle, reply_grace) = (Duration::from_millis(400), Duration::from_millis(1_500));
    Bounds { idle, reply_grace, reply_pace: 256 << 10, reply_credit: Duration::from_secs(3), ..impatient() }
}

/// Requests `path` and reads `bytes` every 10 ms for `patience`, then everything until the connection ends or `LARGE`
/// bytes were read; returns how many were.
async fn read_slowly(rig: &Rig, path: &str, bytes: usize, patience: Duration) -> usize {
    let mut stream = rig.narrow().await;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let (mut piece, mut got, begun) = (vec![0; bytes], 0, wall());
    while got < LARGE {
        if begun.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(more) => got += more,
        }
    }
    got
}

#[test]
fn a_client_that_reads_at_the_minimum_pace_gets_the_whole_reply() {
    let mut rig = Rig::with(paced());
    run(async {
        let patience = Duration::from_secs(25);
        let read = tokio::time::timeout(patience, read_slowly(&rig, "/large", 64 << 10, patience)).await;
        assert!(read.is_ok_and(|got| got >= LARGE));
    });
    rig.stop();
}

#[test]
fn a_client_below_the_minimum_pace_is_cut_off() {
    let mut rig = Rig::with(paced());
    run(async {
        let read =
            |path| tokio::time::timeout(Duration::from_secs(25), read_slowly(&rig, path, 200, Duration::from_secs(8)));
        let (large, endless) = tokio::join!(read("/large"), read("/endless"));
        for read in [large, endless] {
            assert!(read.is_ok_and(|got| got < LARGE));
        }
    });
    rig.stop();
}

#[test]
fn an_oversized_head_is_refused() {
    let mut rig = Rig::new();
    run(async {
        let mut stream = rig.connect("http/1.1").await;
        let head = format!("GET / HTTP/1.1\r\nhost: x\r\nlong: {}\r\n\r\n", "x".repeat(limits::HEAD_MAX_BYTES));
        // The refusal may come before everything was sent.
        let _ = stream.write_all(head.as_bytes()).await;
        let mut reply = [0; 12];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"HTTP/1.1 431");
        let mut fits = rig.h1().await;
        let mut request = request("/empty", b"");
        let long = "x".repeat(limits::HEAD_MAX_BYTES - 1024);
        request.headers_mut().insert("long", long.parse().unwrap());
        assert_eq!(fits.send_request(request).await.unwrap().status(), StatusCode::OK);
    });
    rig.stop();
}

#[test]
fn no_more_connections_are_served_than_allowed() {
    let mut rig = Rig::with(Bounds { connections: 1, ..Bounds::default() });
    run(async {
        let first = rig.h1().await;
        let second = tokio::time::timeout(Duration::from_millis(300), rig.connect("http/1.1")).await;
        assert!(second.is_err(), "the second waits");
        drop(first);
        tokio::time::timeout(Duration::from_secs(20), rig.h1()).await.expect("now there is room");
    });
    rig.stop();
}

#[test]
fn one_client_cannot_take_all_connections() {
    let mut rig = Rig::with(Bounds { per_client: 2, ..Bounds::default() });
    run(async {
        let (_first, second) = (rig.h1().await, rig.h2().await);
        assert!(refused_soon(rig.address).await, "closed before the handshake");
        let other = TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = other.connect(rig.address).await.unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(300), other.read(&mut [0])).await;
        assert!(quiet.is_err(), "somebody else is let in");
        drop(second);
        let again = async {
            while refused_soon(rig.address).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), again).await.expect("now there is room");
    });
    rig.stop();
}

/// Whether a connection is closed without a byte being sent.
async fn refused_soon(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    tokio::time::timeout(Duration::from_millis(300), stream.read(&mut [0])).await.is_ok()
}

#[test]
fn running_requests_finish_when_the_server_stops() {
    let mut rig = Rig::new();
    run(async {
        let (mut h1, mut h2, _idle1, _idle2) = (rig.h1().await, rig.h2().await, rig.h1().await, rig.h2().await);
        let _fresh = TcpStream::connect(rig.address).await.unwrap();
        let one = tokio::spawn(async move { text(h1.send_request(request("/slow", b"")).await.unwrap()).await });
        let two = tokio::spawn(async move { text(h2.send_request(request("/slow", b"")).await.unwrap()).await });
        while !rig.service.slow_began.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let address = rig.address;
        let stopped = tokio::task::spawn_blocking(move || rig.stop());
        assert_eq!((one.await.unwrap().as_str(), two.await.unwrap().as_str()), ("slow", "slow"));
        let took = stopped.await.unwrap();
        assert!(took < Duration::from_secs(6), "idle connections hold nothing up: {took:?}");
        assert!(TcpStream::connect(address).await.is_err(), "the port is free again");
    });
}

#[test]
fn requests_that_outlive_their_grace_are_cut_off() {
    let mut rig = Rig::with(Bounds { grace: Duration::from_millis(100), ..Bounds::default() });
    run(async {
        let mut client = rig.h1().await;
        let request = tokio::spawn(async move { client.send_request(request("/stuck", b"")).await });
        while !rig.service.slow_began.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let dropped = Arc::clone(&rig.service.slow_dropped);
        let took = tokio::task::spawn_blocking(move || rig.stop()).await.unwrap();
        assert!(took < Duration::from_secs(6), "{took:?}");
        assert!(dropped.load(Ordering::SeqCst), "what the request held is gone");
        assert!(request.await.unwrap().is_err());
    });
}

#[test]
fn the_certificate_is_replaced_while_connections_live() {
    let mut rig = Rig::new();
    run(async {
        let mut old = rig.h1().await;
        let (certificate, key) = self_signed();
        let other_key = self_signed().1;
        assert!(matches!(rig.slot.replace(vec![certificate.clone()], &other_key), Err(CertError::OtherKey)));
        assert!(matches!(rig.slot.replace(vec![], &key), Err(CertError::Unusable)));
        assert!(matches!(rig.slot.replace(vec![certificate.clone()], b"x"), Err(CertError::Unusable)));
        rig.connect("h2").await;
        rig.slot.replace(vec![certificate.clone()], &key).unwrap();
        rig.certificate = certificate.clone();
        let stream = rig.connect("h2").await;
        let shown = stream.get_ref().1.peer_certificates().unwrap().first().unwrap().to_vec();
        assert_eq!(shown, certificate);
        assert_eq!(old.send_request(request("/empty", b"")).await.unwrap().status(), StatusCode::OK);
    });
    rig.stop();
}

#[test]
fn a_taken_port_is_an_early_error() {
    let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let second = bind(first.local_addr().unwrap());
    assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn connections_leave_descriptors_for_others() {
    for (files, connections, per_client) in [(1024, 896, 224), (100, 1, 1), (1 << 20, 10_000, 2_500)] {
        let bounds = Bounds::within(files);
        assert_eq!((bounds.connections, bounds.per_client), (connections, per_client));
    }
}
