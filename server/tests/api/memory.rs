//! The memory that one client may use, on a server with a small budget.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_core::hsm::update::Version;
use casemate_server::http::access::FailedState;
use casemate_server::http::edge::Edge;
use casemate_server::http::serve::{self, Bounds, CertSlot, Running};
use casemate_server::observe::metrics::Metrics;
use casemate_server::process::{End, Stop};
use casemate_server::update::Updates;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::rig::{BASE, Rig, passphrase_of};
use crate::wire::{Reply, Wire, trusting};

const GREEDY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Another server for the HSM of a rig.
struct Small {
    address: SocketAddr,
    client: Arc<ClientConfig>,
    stop: Stop,
    running: Option<Running>,
}

impl Small {
    fn new(rig: &Rig, memory: usize) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
        let slot = CertSlot::new(vec![made.cert.der().to_vec()], &made.signing_key.serialize_der()).unwrap();
        let updates = Updates::new("/nonexistent".into(), None, Version { major: 3, minor: 1 });
        let metrics = Arc::new(Metrics::new(Duration::ZERO));
        let edge = Edge::new(rig.hsm.clone(), rig.sim.clock.clone(), metrics, updates, FailedState::default());
        let listener = serve::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, client, stop) = (listener.local_addr().unwrap(), trusting(made.cert.der().to_vec()), Stop::new());
        let bounds = Bounds { memory, grace: Duration::from_secs(2), ..Bounds::default() };
        let running = serve::start(vec![listener], Arc::new(slot), 1, edge, bounds, &stop).unwrap();
        Self { address, client, stop, running: Some(running) }
    }

    fn connect(&self, source: IpAddr) -> Wire {
        Wire::connect(self.client.clone(), source, self.address)
    }

    /// Sends a request followed only by `more`.
    fn ask(&self, source: IpAddr, line: &str, more: &str) -> Wire {
        let mut wire = self.connect(source);
        wire.send(format!("{line} HTTP/1.1\r\nhost: hsm\r\n{more}\r\n").as_bytes());
        wire
    }

    fn info(&self, source: IpAddr) -> Reply {
        self.ask(source, &format!("GET {BASE}/info"), "").reply("GET")
    }

    /// Waits until a client is served again.
    #[expect(clippy::disallowed_methods, reason = "a real server is waited for")]
    fn serves_again(&self, source: IpAddr) -> bool {
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            self.info(source).status == 200
        })
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.stop.request(End::Shutdown);
        if let Some(running) = self.running.take() {
            running.wait();
        }
    }
}

#[test]
fn a_client_cannot_use_more_memory_than_is_left_for_others() {
    let rig = Rig::locked();
    let server = Small::new(&rig, 48 << 10);
    let unlock = format!("POST {BASE}/unlock");
    let promise = || server.ask(GREEDY, &unlock, "content-length: 100\r\n");
    let held = (promise(), promise());
    // They may still be on their way.
    let refused = (0..200).map(|_| server.info(GREEDY)).find(|reply| reply.status != 200).expect("half is all it gets");
    let refused = refused.is(503).says("The HSM is busy. Try again.");
    assert_eq!((refused.header("retry-after"), refused.header("connection")), (Some("1"), None));
    let refused = promise().reply("POST").is(503);
    assert_eq!(refused.header("connection"), Some("close"), "its body was not read");
    server.info(OTHER).is(200);
    drop(held);
    assert!(server.serves_again(GREEDY), "who has gone has given back what it held");
    // A head counts, too.
    let long = format!("long: {}\r\n", "x".repeat(30 << 10));
    server.ask(GREEDY, &format!("GET {BASE}/info"), &long).reply("GET").is(503);
}

#[test]
fn a_client_that_reads_no_replies_gets_no_more_of_them() {
    let rig = Rig::operational();
    let certificate = vec![b'c'; 1 << 19];
    rig.admin().delete("/keys/k/cert").is(204);
    rig.admin().content_type("application/octet-stream").put("/keys/k/cert", certificate.clone()).is(201);
    let server = Small::new(&rig, 8 << 20);
    let login = format!("Basic {}", BASE64_STANDARD.encode(format!("operator:{}", passphrase_of("operator"))));
    let get = format!("GET {BASE}/keys/k/cert");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = (*server.client).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::IpAddress(server.address.ip().into());
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        let mut http = http2::Builder::new(TokioExecutor::new());
        let (mut hsm, connection) = http.initial_stream_window_size(0).handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        let mut given = Vec::new();
        // More than half of what is left besides the sixteenth that is reserved for new clients.
        for _ in 0..9 {
            let request = Request::get(format!("https://hsm{BASE}/keys/k/cert")).header("authorization", &login);
            // Flow control does not hold up heads.
            let reply = hsm.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
            if reply.status() != 200 {
                assert_eq!((reply.status().as_u16(), &reply.headers()["retry-after"]), (503, &"1".parse().unwrap()));
                break;
            }
            given.push(reply);
        }
        assert_eq!(given.len(), 7);
        let login = format!("authorization: {login}\r\n");
        assert_eq!(server.ask(OTHER, &get, &login).reply("GET").is(200).body, certificate);
        server.ask(GREEDY, &get, &login).reply("GET").is(503);
    });
    // Its connection ends with the runtime.
    drop(runtime);
    assert!(server.serves_again(GREEDY));
}
