//! A small HTTPS server that answers as a test wants, also in ways in which no healthy HSM does.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A certificate, and a key that need not belong to it.
pub struct Identity {
    /// The certificate that the server presents.
    pub certificate: CertificateDer<'static>,
    /// The private key that the server uses, PKCS #8 in DER.
    pub key: Vec<u8>,
}

/// A small HTTPS server in threads of the test. They end with the test process.
pub struct MockServer {
    /// `address:port`.
    pub address: String,
    requests: Arc<AtomicU64>,
}

/// What the server does with a request.
pub enum Reaction {
    /// Sends these bytes and waits for the next request.
    Send(Vec<u8>),
    /// Sends these bytes and closes the connection.
    SendAndClose(Vec<u8>),
    /// Sends nothing for a minute.
    Stall,
    /// Sends single bytes of a TLS record that never ends, for a minute. Anybody on the network path could do that, as
    /// it takes no key.
    Drip,
}

/// A complete reply with a JSON body.
pub fn reply(status: u16, json: &str) -> Reaction {
    complete(status, "application/json", json)
}

/// A complete reply with status 200 and another content type.
pub fn reply_as(content_type: &str, body: &str) -> Reaction {
    complete(200, content_type, body)
}

fn complete(status: u16, content_type: &str, body: &str) -> Reaction {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n");
    Reaction::Send((head + body).into())
}

impl MockServer {
    /// Starts one with a self-signed certificate for `localhost`. `answer` gets the request line.
    pub fn start(answer: impl Fn(&str) -> Reaction + Send + Sync + 'static) -> Self {
        Self::start_reading(move |request, _| answer(request))
    }

    /// As [`MockServer::start`], but `answer` gets the request line and the body.
    pub fn start_reading(answer: impl Fn(&str, &[u8]) -> Reaction + Send + Sync + 'static) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        Self::serve(Identity { certificate: certificate.der().clone(), key: key.serialize_der() }, answer)
    }

    /// Starts one with this certificate. `answer` gets the request line.
    pub fn start_as(identity: Identity, answer: impl Fn(&str) -> Reaction + Send + Sync + 'static) -> Self {
        Self::serve(identity, move |request, _| answer(request))
    }

    fn serve(identity: Identity, answer: impl Fn(&str, &[u8]) -> Reaction + Send + Sync + 'static) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key));
        let signing = provider.key_provider.load_private_key(key).unwrap();
        // Certificate and key are not compared, so that a test can play a thief who has the certificate but not the key.
        let certified = rustls::sign::CertifiedKey::new(vec![identity.certificate], signing);
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        let (config, answer) = (Arc::new(config), Arc::new(answer));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&requests);
        thread::spawn(move || {
            for tcp in listener.incoming() {
                let (config, answer, counter) = (Arc::clone(&config), Arc::clone(&answer), Arc::clone(&counter));
                thread::spawn(move || {
                    let tls = ServerConnection::new(config).unwrap();
                    let mut stream = BufReader::new(StreamOwned::new(tls, tcp.unwrap()));
                    while let Some((request, body)) = read_request(&mut stream) {
                        // Probes are not counted.
                        if !request.contains("/health/ready") {
                            counter.fetch_add(1, Ordering::Relaxed);
                        }
                        match answer(&request, &body) {
                            Reaction::Send(bytes) => stream.get_mut().write_all(&bytes).unwrap(),
                            Reaction::SendAndClose(bytes) => {
                                let _ = stream.get_mut().write_all(&bytes);
                                return;
                            }
                            Reaction::Stall => thread::sleep(Duration::from_secs(60)),
                            Reaction::Drip => return drip(&mut stream.get_mut().sock),
                        }
                    }
                });
            }
        });
        Self { address, requests }
    }

    /// How many requests were read completely, without probes of readiness.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Sends the header of an application data record of 16 KiB (RFC 8446 §5.1), then a part of its content, byte by byte.
fn drip(tcp: &mut TcpStream) {
    let _ = tcp.write_all(&[23, 3, 3, 64, 0]);
    for _ in 0..600 {
        thread::sleep(Duration::from_millis(100));
        if tcp.write_all(&[0]).is_err() {
            return;
        }
    }
}

/// The request line and the body of the next request; none if the connection ends before.
fn read_request(stream: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut first = String::new();
    if stream.read_line(&mut first).ok()? == 0 {
        return None;
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((first, body))
}
