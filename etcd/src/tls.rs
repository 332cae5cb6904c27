//! Whom the client trusts, and as whom it appears.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

/// TLS to etcd: 1.3, or 1.2 with servers that have nothing newer. Only certificates that the given CAs have issued for the
/// host name or address of an endpoint are accepted; the roots of the machine play no part.
#[derive(Clone)]
pub struct Tls(pub(crate) Arc<ClientConfig>);

impl Tls {
    /// Reads PEM files: CA certificates, and the chain and private key of the client, if etcd asks for a certificate.
    /// `Err` is a sentence for the operator; nothing of the key is in it.
    pub fn read(ca: &Path, client: Option<(&Path, &Path)>) -> Result<Self, String> {
        let read = |path: &Path| match fs::read(path) {
            Ok(bytes) => Ok(Zeroizing::new(bytes)),
            Err(error) => Err(format!("{}: {error}", path.display())),
        };
        let client = client.map(|(chain, key)| Ok::<_, String>((read(chain)?, read(key)?))).transpose()?;
        Self::from_pem(&read(ca)?, client.as_ref().map(|(chain, key)| (chain.as_slice(), key.as_slice())))
    }

    /// As [`Tls::read`], from the content of the files.
    pub fn from_pem(ca: &[u8], client: Option<(&[u8], &[u8])>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca, "the CA of etcd")? {
            roots.add(certificate).map_err(|error| format!("the CA of etcd: {error}"))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match client {
            Some((chain, key)) => {
                let chain = certificates(chain, "the client certificate for etcd")?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| "the client key for etcd is not a private key in PEM".to_owned())?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| format!("the client certificate for etcd cannot be used: {error}"))?
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

/// HTTP/2 (RFC 9113 §3.2).
pub(crate) const ALPN: &[u8] = b"h2";

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("{what} contains no certificate in PEM")),
        Err(error) => Err(format!("{what} is not valid PEM: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_is_said_in_one_sentence() {
        let refusal = |result: Result<Tls, String>| result.err().unwrap();
        assert_eq!(refusal(Tls::from_pem(b"", None)), "the CA of etcd contains no certificate in PEM");
        assert!(refusal(Tls::read(Path::new("/nowhere/ca.pem"), None)).starts_with("/nowhere/ca.pem: "));
    }
}
