//! A small HTTPS server that answers as a test wants, also what no healthy HSM does.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A certificate and the key that is claimed to be its own.
pub struct Identity {
    /// What it shows.
    pub certificate: CertificateDer<'static>,
    /// PKCS #8 in DER.
    pub key: Vec<u8>,
}

/// A small HTTPS server in threads of the test; they end with the test process.
pub struct Odd {
    /// Address and port.
    pub address: String,
    requests: Arc<AtomicU64>,
}

/// What a server does with a request.
pub enum Does {
    /// Sends this and goes on.
    Says(Vec<u8>),
    /// Sends this and hangs up.
    HangsUpAfter(Vec<u8>),
    /// Nothing, for a minute.
    Stalls,
    /// One byte after another of a TLS record that is never whole, for a minute. It needs no keys: anybody on the way can.
    Drips,
}

/// A whole reply.
pub fn reply(status: u16, json: &str) -> Does {
    whole(status, "application/json", json)
}

/// A whole reply, 200 and of another type.
pub fn reply_as(kind: &str, body: &str) -> Does {
    whole(200, kind, body)
}

fn whole(status: u16, kind: &str, body: &str) -> Does {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n");
    Does::Says((head + body).into())
}

impl Odd {
    /// One with a certificate for `localhost`, which it made itself. `answer` gets the request line.
    pub fn start(answer: impl Fn(&str) -> Does + Send + Sync + 'static) -> Self {
        Self::start_reading(move |request, _| answer(request))
    }

    /// The same, where `answer` gets the body, too.
    pub fn start_reading(answer: impl Fn(&str, &[u8]) -> Does + Send + Sync + 'static) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        Self::serve(Identity { certificate: certificate.der().clone(), key: key.serialize_der() }, answer)
    }

    /// One with this certificate.
    pub fn start_as(identity: Identity, answer: impl Fn(&str) -> Does + Send + Sync + 'static) -> Self {
        Self::serve(identity, move |request, _| answer(request))
    }

    fn serve(identity: Identity, answer: impl Fn(&str, &[u8]) -> Does + Send + Sync + 'static) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key));
        let signing = provider.key_provider.load_private_key(key).unwrap();
        // Not checked against each other: a thief has the certificate and not the key.
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
                            Does::Says(bytes) => stream.get_mut().write_all(&bytes).unwrap(),
                            Does::HangsUpAfter(bytes) => {
                                let _ = stream.get_mut().write_all(&bytes);
                                return;
                            }
                            Does::Stalls => thread::sleep(Duration::from_secs(60)),
                            Does::Drips => return drip(&mut stream.get_mut().sock),
                        }
                    }
                });
            }
        });
        Self { address, requests }
    }

    /// Requests that were read whole.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// The head of a record of application data with 16 KiB (RFC 8446 §5.1), and then some of it.
fn drip(tcp: &mut TcpStream) {
    let _ = tcp.write_all(&[23, 3, 3, 64, 0]);
    for _ in 0..600 {
        thread::sleep(Duration::from_millis(100));
        if tcp.write_all(&[0]).is_err() {
            return;
        }
    }
}

/// Request line and body of the next whole request.
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
