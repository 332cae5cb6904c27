//! The content of a certificate (RFC 5280), for people.

use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The relevant content of a certificate.
pub(super) struct Facts {
    /// The subject.
    pub(super) subject: String,
    /// The issuer.
    pub(super) issuer: String,
    /// Whether issuer and subject are the same.
    pub(super) self_issued: bool,
    /// The subject alternative names: hosts and IP addresses.
    pub(super) names: Vec<String>,
    /// The beginning of its validity (RFC 3339).
    pub(super) not_before: String,
    /// The end of its validity.
    pub(super) not_after: String,
    /// Whole days until the end; negative: it has expired.
    pub(super) days_left: i64,
}

/// Reads a certificate in DER; `None` if it is not valid.
pub(super) fn read(der: &[u8]) -> Option<Facts> {
    let certificate = Certificate::from_der(der).ok()?;
    let tbs = certificate.tbs_certificate();
    let validity = tbs.validity();
    // In seconds, because jiff cannot represent the last second of 9999, which means no end (RFC 5280 §4.1.2.5).
    let end = i64::try_from(validity.not_after.to_unix_duration().as_secs()).ok()?;
    let names = tbs.get_extension::<SubjectAltName>().ok().flatten().map(|(_, names)| names.0).unwrap_or_default();
    Some(Facts {
        subject: tbs.subject().to_string(),
        issuer: tbs.issuer().to_string(),
        self_issued: tbs.subject() == tbs.issuer(),
        names: names.iter().filter_map(name).collect(),
        not_before: validity.not_before.to_date_time().to_string(),
        not_after: validity.not_after.to_date_time().to_string(),
        days_left: (end - Timestamp::now().as_second()).div_euclid(24 * 60 * 60),
    })
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(bytes) => match bytes.as_bytes() {
            bytes if bytes.len() == 4 => <[u8; 4]>::try_from(bytes).ok().map(|ip| Ipv4Addr::from(ip).to_string()),
            bytes => <[u8; 16]>::try_from(bytes).ok().map(|ip| Ipv6Addr::from(ip).to_string()),
        },
        _ => None,
    }
}
