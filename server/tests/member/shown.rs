//! What a member of etcd shows to others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use casemate_testkit::{EtcdCertificates, EtcdIdentity};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

/// The certificate (DER) at a port of a member, for somebody with the identity `own`, if they have one. `Err`: they do not accept each
/// other.
pub(crate) fn shown<'a>(
    listen: SocketAddr,
    certificates: &EtcdCertificates,
    own: impl Into<Option<&'a EtcdIdentity>>,
) -> Result<Vec<u8>, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificates.ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let config = match own.into() {
        Some(own) => {
            let chain = vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = TcpStream::connect(listen).map_err(|error| error.to_string())?;
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    stream.write_all(b"GET /version HTTP/1.0\r\n\r\n").map_err(|error| error.to_string())?;
    let mut reply = [0; 12];
    stream.read_exact(&mut reply).map_err(|error| error.to_string())?;
    assert_eq!(&reply, b"HTTP/1.0 200");
    Ok(session.peer_certificates().unwrap()[0].to_vec())
}
