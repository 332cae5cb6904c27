//! What a certificate says about itself (RFC 5280), read for people.

use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// What matters of a certificate.
pub(super) struct Facts {
    /// Whom it is for.
    pub(super) subject: String,
    /// Who vouches for it.
    pub(super) issuer: String,
    /// Whether that is itself, by name.
    pub(super) self_issued: bool,
    /// The hosts it names.
    pub(super) names: Vec<String>,
    /// From when it holds (RFC 3339).
    pub(super) not_before: String,
    /// Until when.
    pub(super) not_after: String,
    /// Whole days until then; negative: it has expired.
    pub(super) days_left: i64,
}

/// Reads a certificate in DER; none: it is none.
pub(super) fn read(der: &[u8]) -> Option<Facts> {
    let certificate = Certificate::from_der(der).ok()?;
    let tbs = certificate.tbs_certificate();
    let validity = tbs.validity();
    // Seconds, because the last moment of 9999, which stands for no end, is past what jiff knows.
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
