//! Servers that are not HSMs. They run in threads of the test and end with its process.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use jiff::civil::Date;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::harness::Folder;

/// A web server with a certificate for `localhost`, and the authority that issued it.
pub(crate) struct Web {
    pub(crate) address: String,
    /// File with the authority.
    pub(crate) ca: String,
    _folder: Folder,
}

impl Web {
    /// Starts one that gives the same answer to every request and closes the connection. Its certificate is valid until
    /// a day such as 2100-01-01.
    pub(crate) fn start(until: &str, answer: &'static str) -> Self {
        Self::answering(until, move |_| answer.to_owned())
    }

    /// Starts one whose answers depend on the request.
    pub(crate) fn answering(until: &str, answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let until: Date = until.parse().unwrap();
        let folder = Folder::new();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = folder.file("ca.pem", authority.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(authority, key);
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until.year().into(), until.month().unsigned_abs(), until.day().unsigned_abs());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], private)
            .unwrap();
        let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        thread::spawn(move || {
            for tcp in listener.incoming() {
                let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(tls, tcp.unwrap());
                // The client may refuse the certificate, or close without a request.
                let mut request = [0; 4096];
                if let Ok(read @ 1..) = stream.read(&mut request) {
                    let answer = answer(&String::from_utf8_lossy(&request[..read]));
                    let _ = stream.write_all(answer.as_bytes());
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                }
            }
        });
        Self { address, ca, _folder: folder }
    }
}

/// Starts a server without TLS; its address.
pub(crate) fn plain() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for tcp in listener.incoming() {
            let mut tcp = tcp.unwrap();
            let _ = tcp.read(&mut [0; 4096]);
            let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
    });
    address
}
