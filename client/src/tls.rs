//! Which certificates a client trusts.
//!
//! A pinned fingerprint replaces the check of the certificate chain, not the handshake: the node still has to prove, by
//! its signature over the handshake, that it holds the key of the certificate.

use std::fmt;
use std::iter;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::error::{Cause, Error};
use crate::fingerprint::Fingerprint;

/// Which certificates a client accepts.
#[derive(Clone, Debug)]
pub enum Trust {
    /// A certificate for the name of the host, issued under a root certificate of the operating system.
    System,
    /// A certificate for the name of the host, issued under a certificate in this PEM file.
    CaFile(PathBuf),
    /// A certificate with one of these fingerprints. Its names and dates do not matter: the pin is the identity. This
    /// is how the self-signed certificate of an HSM is trusted.
    Pinned(Vec<Fingerprint>),
    /// Any certificate. Whoever is between client and HSM can read passphrases and keys: for tests only.
    Anyone,
}

/// A certificate that is not trusted, and why. rustls carries it as the cause of its error.
#[derive(Clone, Debug)]
pub(crate) struct Rejection {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) reason: Reason,
}

/// Why a certificate is not trusted.
#[derive(Clone, Debug)]
pub(crate) enum Reason {
    /// It has expired; nothing else is wrong with it.
    Expired,
    /// Other certificates are pinned.
    NotPinned,
    /// Another reason.
    Other(String),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Expired => f.write_str("it has expired"),
            Reason::NotPinned => f.write_str("it is not one of the pinned certificates"),
            Reason::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Rejection {}

impl Rejection {
    /// The rejection that an error of rustls carries.
    pub(crate) fn in_error(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => cause.downcast_ref(),
            _ => None,
        }
    }
}

impl From<Rejection> for Cause {
    fn from(Rejection { fingerprint, reason }: Rejection) -> Self {
        match reason {
            Reason::Expired => Cause::Expired { fingerprint },
            Reason::NotPinned => Cause::NotPinned { fingerprint },
            Reason::Other(why) => Cause::Untrusted { fingerprint, why },
        }
    }
}

/// The TLS configuration for `trust`; [`Error::Settings`] if the root certificates cannot be read.
pub(crate) fn config(trust: &Trust) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    config_with(Arc::new(Verifier::new(trust, &provider)?), provider)
}

/// A TLS configuration that accepts every certificate and records it, with whether `trust` accepts it. It is for
/// inspection only: nothing may be sent over such a connection.
pub(crate) fn recording_config(trust: &Trust) -> Result<(ClientConfig, Arc<Recorder>), Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let recorder = Arc::new(Recorder { verifier: Verifier::new(trust, &provider)?, recorded: Mutex::default() });
    Ok((config_with(Arc::clone(&recorder) as Arc<dyn ServerCertVerifier>, provider)?, recorder))
}

fn config_with(verifier: Arc<dyn ServerCertVerifier>, provider: Arc<CryptoProvider>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| Error::Settings(format!("TLS cannot be set up: {why}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn system_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    match (added, found.errors.first()) {
        (0, Some(why)) => Err(Error::Settings(format!("the system's root certificates cannot be read: {why}"))),
        (0, None) => {
            Err(Error::Settings("the system has no root certificates; give a CA file or a fingerprint".into()))
        }
        _ => Ok(roots),
    }
}

fn roots_from(path: &PathBuf) -> Result<RootCertStore, Error> {
    let wrong = |why: String| Error::Settings(format!("the CA file {}: {why}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|why| wrong(why.to_string()))? {
        let certificate = certificate.map_err(|why| wrong(why.to_string()))?;
        roots.add(certificate).map_err(|why| wrong(why.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("it contains no certificate".into()));
    }
    Ok(roots)
}

fn verifier(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|why| Error::Settings(format!("the root certificates cannot be used: {why}")))
}

#[derive(Debug)]
enum Check {
    Chain(Arc<WebPkiServerVerifier>),
    Pins(Vec<Fingerprint>),
    Nothing,
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(trust: &Trust, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let check = match trust {
            Trust::System => Check::Chain(verifier(system_roots()?, provider)?),
            Trust::CaFile(path) => Check::Chain(verifier(roots_from(path)?, provider)?),
            Trust::Pinned(pins) if pins.is_empty() => {
                return Err(Error::Settings("no fingerprint is pinned; give at least one".into()));
            }
            Trust::Pinned(pins) => Check::Pins(pins.clone()),
            Trust::Anyone => Check::Nothing,
        };
        Ok(Self { check, provider: Arc::clone(provider) })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let reject = |reason: Reason| {
            let rejection = Rejection { fingerprint: Fingerprint::of(leaf), reason };
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejection))))
        };
        match &self.check {
            Check::Nothing => Ok(ServerCertVerified::assertion()),
            Check::Pins(pins) => {
                let presented = Fingerprint::of(leaf);
                if pins.iter().any(|pin| pin.matches(&presented)) {
                    return Ok(ServerCertVerified::assertion());
                }
                Err(reject(Reason::NotPinned))
            }
            Check::Chain(chain) => {
                chain.verify_server_cert(leaf, intermediates, name, ocsp, now).map_err(|why| match why {
                    rustls::Error::InvalidCertificate(
                        CertificateError::Expired | CertificateError::ExpiredContext { .. },
                    ) => reject(Reason::Expired),
                    rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => reject(Reason::Other(
                        "it was not issued by a certificate authority that is trusted here".into(),
                    )),
                    why => reject(Reason::Other(why.to_string())),
                })
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts and records every certificate whose key the node proves to hold.
#[derive(Debug)]
pub(crate) struct Recorder {
    verifier: Verifier,
    recorded: Mutex<Option<Recorded>>,
}

/// The certificates of one handshake.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// Certificates in DER, the node's own first.
    pub(crate) chain: Vec<Vec<u8>>,
    /// Whether the certificate is trusted.
    pub(crate) trusted: Result<(), Rejection>,
    /// Whether the certificate is for the name of the host.
    pub(crate) names_host: bool,
}

impl Recorder {
    /// The certificates of the last handshake; none if they were taken already.
    pub(crate) fn take(&self) -> Option<Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let trusted = match self.verifier.verify_server_cert(leaf, intermediates, name, ocsp, now) {
            Ok(_) => Ok(()),
            Err(why) => Err(Rejection::in_error(&why).cloned().unwrap_or_else(|| Rejection {
                fingerprint: Fingerprint::of(leaf),
                reason: Reason::Other(why.to_string()),
            })),
        };
        let names_host =
            ParsedCertificate::try_from(leaf).is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok());
        let chain = iter::once(leaf).chain(intermediates).map(|certificate| certificate.to_vec()).collect();
        let recorded = Recorded { chain, trusted, names_host };
        *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = Some(recorded);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
