//! Certificate chains of TLS servers: read from PEM (RFC 7468), and verified up to an authority.
//!
//! DER is read by `x509-cert`, paths are built and signatures verified by `rustls-webpki` on AWS-LC: RSA of 2048 bits
//! and more (PKCS #1 and PSS), ECDSA on the NIST and Brainpool curves, Ed25519, with SHA-2 of 256 bits and more. Other
//! signatures (SHA-1, short RSA, secp256k1) are not accepted.

use std::time::Duration;

use casemate_api::limits::{TLS_CHAIN_MAX_BYTES, TLS_CHAIN_MAX_CERTIFICATES};
use der::pem::LineEnding;
use der::{Decode, Encode};
use jiff::Timestamp;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use super::brainpool;
use crate::error::Error;

/// Reads the certificates of a PEM text in order, as DER; other blocks and text between blocks are skipped.
///
/// # Errors
/// [`Error::Invalid`] if there is no certificate (`No certificate`), one cannot be read, or together they exceed
/// [`TLS_CHAIN_MAX_CERTIFICATES`] or [`TLS_CHAIN_MAX_BYTES`].
pub fn parse_chain(pem: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut chain: Vec<Vec<u8>> = Vec::new();
    for block in CertificateDer::pem_slice_iter(pem) {
        let der = block.map_err(|_| Error::invalid("The PEM text is damaged."))?.to_vec();
        if Certificate::from_der(&der).is_err() {
            return Err(Error::invalid(format!("Certificate {} cannot be read.", chain.len() + 1)));
        }
        chain.push(der);
    }
    let bytes: usize = chain.iter().map(Vec::len).sum();
    if chain.is_empty() {
        return Err(Error::invalid("No certificate"));
    }
    if chain.len() > TLS_CHAIN_MAX_CERTIFICATES || bytes > TLS_CHAIN_MAX_BYTES {
        return Err(Error::invalid(format!(
            "The chain is too long, max {TLS_CHAIN_MAX_CERTIFICATES} certificates and {TLS_CHAIN_MAX_BYTES} bytes."
        )));
    }
    Ok(chain)
}

/// A chain as PEM.
pub(super) fn chain_pem(chain: &[Vec<u8>]) -> Result<String, Error> {
    let block = |der: &Vec<u8>| der::pem::encode_string("CERTIFICATE", LineEnding::LF, der);
    let blocks = chain.iter().map(block).collect::<Result<Vec<_>, _>>();
    blocks.map(|blocks| blocks.concat()).map_err(|why| Error::internal(format!("PEM: {why}")))
}

/// The public key in a certificate, as the DER of its SubjectPublicKeyInfo.
pub(super) fn public_key(certificate: &[u8]) -> Result<Vec<u8>, Error> {
    let unreadable = |why: der::Error| Error::internal(format!("a stored certificate cannot be read: {why}"));
    let certificate = Certificate::from_der(certificate).map_err(unreadable)?;
    certificate.tbs_certificate().subject_public_key_info().to_der().map_err(unreadable)
}

/// Whether the certificate is that of a CA: its basic constraints and, if present, its key usage allow it to sign
/// certificates (RFC 5280 §4.2.1.3, §4.2.1.9).
pub(super) fn is_authority(certificate: &[u8]) -> bool {
    let Ok(certificate) = Certificate::from_der(certificate) else { return false };
    let tbs = certificate.tbs_certificate();
    let authority = matches!(tbs.get_extension::<BasicConstraints>(), Ok(Some((_, constraints))) if constraints.ca);
    let usage = match tbs.get_extension::<KeyUsage>() {
        Ok(usage) => usage.is_none_or(|(_, usage)| usage.key_cert_sign()),
        Err(_) => false,
    };
    authority && usage
}

/// Checks that each certificate is signed by the next one at the time `now`; the last one is trusted. A chain of one
/// passes. `Invalid` with the reason otherwise.
pub fn check_chain(chain: &[Vec<u8>], now: Timestamp) -> Result<(), Error> {
    let [leaf, between @ .., last] = chain else { return Ok(()) };
    let used = path(leaf, between, last, now).map_err(|why| {
        let clock = super::time_text(now);
        let why = match why {
            webpki::Error::CertExpired { .. } => format!("at the HSM's time, {clock}, a certificate has expired"),
            webpki::Error::CertNotValidYet { .. } => {
                format!("at the HSM's time, {clock}, a certificate is not valid yet")
            }
            webpki::Error::CaUsedAsEndEntity => "the first certificate is that of an authority".into(),
            webpki::Error::EndEntityUsedAsCa => {
                "a certificate between first and last is not that of an authority".into()
            }
            webpki::Error::UnsupportedCertVersion => "a certificate is not of X.509 version 3".into(),
            _ => "they are not signed by one another, or in a way that is not supported".to_owned(),
        };
        Error::invalid(format!("The certificates do not lead from the first to the last: {why}."))
    })?;
    if used.iter().eq(between) {
        return Ok(());
    }
    Err(Error::invalid("Each certificate must be signed by the next one, and none may be left over."))
}

/// Whether `authority` has signed the chain, at the time `now`.
pub(super) fn leads_to(chain: &[Vec<u8>], authority: &[u8], now: Timestamp) -> bool {
    let Some((leaf, rest)) = chain.split_first() else { return false };
    path(leaf, rest, authority, now).is_ok()
}

/// Accepts any purpose: the TLS client checks the extended key usage.
struct AnyPurpose;

impl ExtendedKeyUsageValidator for AnyPurpose {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// Builds a path from `leaf` to `anchor`; returns the certificates in between that it uses, in order.
fn path(leaf: &[u8], between: &[Vec<u8>], anchor: &[u8], now: Timestamp) -> Result<Vec<Vec<u8>>, webpki::Error> {
    let (leaf, anchor) = (CertificateDer::from(leaf), CertificateDer::from(anchor));
    let between: Vec<_> = between.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0)));
    let known = webpki::ALL_VERIFICATION_ALGS.iter().copied();
    let algorithms: Vec<&dyn SignatureVerificationAlgorithm> = known.chain(brainpool::algorithms()).collect();
    let leaf = EndEntityCert::try_from(&leaf)?;
    let anchors = [anchor_from_trusted_cert(&anchor)?];
    let path = leaf.verify_for_usage(&algorithms, &anchors, &between, now, AnyPurpose, None, None)?;
    let used = path.intermediate_certificates().map(|certificate| certificate.der().to_vec()).collect();
    Ok(used)
}
