//! Which certificate a node must show.
//!
//! A pinned fingerprint replaces the chain, not the handshake: the node still has to prove, by its signature over the
//! handshake, that it holds the key of the certificate it shows.

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

/// Whom a client believes to be its HSM.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Whoever shows a certificate for the host's name that the roots of the operating system vouch for.
    System,
    /// The same with the certificates of this PEM file as the only roots.
    CaFile(PathBuf),
    /// Whoever shows a certificate with one of these fingerprints and proves to hold its key. Names and dates of the
    /// certificate do not count: the pin is the identity. A certificate an HSM made for itself is trusted so.
    Pinned(Vec<Fingerprint>),
    /// Anyone. Passphrases and keys are then read by whoever stands between: for tests only.
    Anyone,
}

/// Why a certificate was not taken, with what it takes to trust it. Travels through rustls as the cause of its error.
#[derive(Clone, Debug)]
pub(crate) struct Rejected {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) wrong: Wrong,
}

/// What is wrong with a certificate.
#[derive(Clone, Debug)]
pub(crate) enum Wrong {
    /// It has expired, and nothing else.
    Expired,
    /// Others are pinned.
    NotPinned,
    /// Anything else.
    Other(String),
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wrong {
            Wrong::Expired => f.write_str("it has expired"),
            Wrong::NotPinned => f.write_str("it is not one of those that are pinned"),
            Wrong::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Rejected {}

impl Rejected {
    /// Finds it behind an error of a handshake.
    pub(crate) fn behind(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => cause.downcast_ref(),
            _ => None,
        }
    }
}

impl From<Rejected> for Cause {
    fn from(Rejected { fingerprint, wrong }: Rejected) -> Self {
        match wrong {
            Wrong::Expired => Cause::Expired { fingerprint },
            Wrong::NotPinned => Cause::NotPinned { fingerprint },
            Wrong::Other(why) => Cause::Untrusted { fingerprint, why },
        }
    }
}

/// TLS for `trust`. It is cloned for each generation of connections, because the store of its sessions has a lock.
pub(crate) fn config(trust: &Trust) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    config_with(Arc::new(Verifier::new(trust, &provider)?), provider)
}

/// TLS that takes every certificate and keeps what was shown, with what `trust` says about it. Nothing may be sent over
/// it: it is for looking.
pub(crate) fn looking(trust: &Trust) -> Result<(ClientConfig, Arc<Looker>), Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let looker = Arc::new(Looker { verifier: Verifier::new(trust, &provider)?, seen: Mutex::default() });
    Ok((config_with(Arc::clone(&looker) as Arc<dyn ServerCertVerifier>, provider)?, looker))
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
            Err(Error::Settings("the system has no root certificates: give a CA file or a fingerprint".into()))
        }
        _ => Ok(roots),
    }
}

fn roots_of(path: &PathBuf) -> Result<RootCertStore, Error> {
    let wrong = |why: String| Error::Settings(format!("the CA file {}: {why}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|why| wrong(why.to_string()))? {
        let certificate = certificate.map_err(|why| wrong(why.to_string()))?;
        roots.add(certificate).map_err(|why| wrong(why.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is no certificate in it".into()));
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
            Trust::CaFile(path) => Check::Chain(verifier(roots_of(path)?, provider)?),
            Trust::Pinned(pins) if pins.is_empty() => {
                return Err(Error::Settings("no fingerprint is pinned: give at least one".into()));
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
        let reject = |wrong: Wrong| {
            let rejected = Rejected { fingerprint: Fingerprint::of(leaf), wrong };
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejected))))
        };
        match &self.check {
            Check::Nothing => Ok(ServerCertVerified::assertion()),
            Check::Pins(pins) => {
                let shown = Fingerprint::of(leaf);
                if pins.iter().any(|pin| pin.is(&shown)) {
                    return Ok(ServerCertVerified::assertion());
                }
                Err(reject(Wrong::NotPinned))
            }
            Check::Chain(chain) => {
                chain.verify_server_cert(leaf, intermediates, name, ocsp, now).map_err(|why| match why {
                    rustls::Error::InvalidCertificate(
                        CertificateError::Expired | CertificateError::ExpiredContext { .. },
                    ) => reject(Wrong::Expired),
                    rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                        reject(Wrong::Other("it was not issued by a certificate authority that is trusted here".into()))
                    }
                    why => reject(Wrong::Other(why.to_string())),
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

/// Takes every certificate whose key the node proves to hold, and keeps it.
#[derive(Debug)]
pub(crate) struct Looker {
    verifier: Verifier,
    seen: Mutex<Option<Seen>>,
}

/// What a node showed.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Certificates in DER, the node's own first.
    pub(crate) chain: Vec<Vec<u8>>,
    /// What the trust says.
    pub(crate) verdict: Result<(), Rejected>,
    /// Whether the certificate names the host.
    pub(crate) names_host: bool,
}

impl Looker {
    /// What was shown, once.
    pub(crate) fn take(&self) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ServerCertVerifier for Looker {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = match self.verifier.verify_server_cert(leaf, intermediates, name, ocsp, now) {
            Ok(_) => Ok(()),
            Err(why) => Err(Rejected::behind(&why).cloned().unwrap_or_else(|| Rejected {
                fingerprint: Fingerprint::of(leaf),
                wrong: Wrong::Other(why.to_string()),
            })),
        };
        let names_host =
            ParsedCertificate::try_from(leaf).is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok());
        let chain = iter::once(leaf).chain(intermediates).map(|certificate| certificate.to_vec()).collect();
        let seen = Seen { chain, verdict, names_host };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
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
