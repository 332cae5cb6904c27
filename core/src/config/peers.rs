//! By what the members of a cluster know each other: the TLS identity of this node and the cluster CA. And whether etcd, which goes
//! by the rules of Go's TLS and by the clock of the machine, accepts them.

use der::Decode;
use der::asn1::ObjectIdentifier;
use jiff::Timestamp;
use x509_cert::Certificate;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};

use super::chain::leads_to;
use super::time_text;
use crate::device::Device;
use crate::error::Error;
use crate::platform::stores::PeerIdentity;
use crate::rows::path::DevicePath;
use crate::rows::tls_identity::TlsIdentity;

/// The identity of this node, from its own store. `authority`, if given, takes the place of the stored CA.
///
/// # Errors
/// [`Error::Precondition`] if there is no cluster CA.
pub(crate) async fn identity(device: &Device, authority: Option<Vec<u8>>) -> Result<PeerIdentity, Error> {
    let local = &device.store;
    let tls = local.get(DevicePath::Tls).await?.ok_or(Error::internal("there is no TLS identity"))?;
    let tls = TlsIdentity::decode(&tls).map_err(|why| Error::internal(format!("the TLS identity: {why}")))?;
    let authority = match authority {
        Some(authority) => Some(authority),
        None => local.get(DevicePath::ClusterCa).await?.map(|der| der.to_vec()),
    };
    let missing = "This node has no cluster CA, by which members know each other. Set one with PUT /config/tls/cluster-ca.pem first.";
    let authority = authority.ok_or_else(|| Error::Precondition(missing.into()))?;
    Ok(PeerIdentity { name: device.id.clone(), tls, authority })
}

/// Checks that other members will accept this node, at the time `wall` of the machine's clock, under its `urls`.
///
/// # Errors
/// [`Error::Precondition`] with what is wrong with the certificate.
pub(crate) fn check(identity: &PeerIdentity, urls: &[String], wall: Timestamp) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::Precondition(why.into()));
    let PeerIdentity { tls: TlsIdentity { chain, .. }, authority, .. } = identity;
    if !leads_to(chain, authority, wall) {
        return refuse(format!(
            "At {}, the time of the machine's clock, the TLS certificate is not valid under this CA. Members go by that clock, not by the time of the HSM: correct the clock, or install another certificate.",
            time_text(wall)
        ));
    }
    let unreadable = |why: der::Error| Error::internal(format!("a stored certificate cannot be read: {why}"));
    for der in chain.iter().chain([authority]) {
        if !is_usable_key(&Certificate::from_der(der).map_err(unreadable)?) {
            return refuse(
                "The key of the TLS certificate, or of a CA above it, is of a type that etcd does not take. Use RSA, EC_P256, EC_P384, EC_P521 or Curve25519 keys.".into(),
            );
        }
    }
    let leaf = chain.first().ok_or(Error::internal("the TLS chain is empty"))?;
    let leaf = Certificate::from_der(leaf).map_err(unreadable)?;
    if !is_for_both_sides(&leaf) {
        return refuse(
            "The TLS certificate has an extended key usage without both serverAuth and clientAuth. A member of a cluster is server and client: have it signed with both, or with no extended key usage.".into(),
        );
    }
    for url in urls {
        let host = host_of(url).ok_or_else(|| Error::invalid(format!("{url} is not like https://IP:PORT.")))?;
        if !names(&leaf, host) {
            return refuse(format!(
                "The TLS certificate is not for {host}, where others reach this node ({url}). Have one signed with the alternative name IP:{host}."
            ));
        }
    }
    Ok(())
}

/// The host of an URL `https://HOST:PORT`, without brackets. `None` if it is not of that form.
pub fn host_of(url: &str) -> Option<&str> {
    let (host, port) = url.strip_prefix("https://")?.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok())?,
        None => Some(host).filter(|host| !host.is_empty() && !host.contains([':', '/', '@', '?', '#', ' ']))?,
    };
    Some(bare)
}

/// Go takes RSA, the NIST curves and Ed25519.
fn is_usable_key(certificate: &Certificate) -> bool {
    let algorithm = &certificate.tbs_certificate().subject_public_key_info().algorithm;
    let curve = || algorithm.parameters.as_ref().and_then(|curve| curve.decode_as::<ObjectIdentifier>().ok());
    algorithm.oid == RSA
        || algorithm.oid == ED25519
        || (algorithm.oid == EC && curve().is_some_and(|curve| NIST_CURVES.contains(&curve)))
}

/// Whether it may be used by servers and by clients (RFC 5280 §4.2.1.12).
fn is_for_both_sides(leaf: &Certificate) -> bool {
    match leaf.tbs_certificate().get_extension::<ExtendedKeyUsage>() {
        Ok(None) => true,
        Ok(Some((_, usage))) => {
            let has = |purpose| usage.0.contains(&purpose);
            has(ANY_PURPOSE) || (has(SERVER_AUTH) && has(CLIENT_AUTH))
        }
        Err(_) => false,
    }
}

/// The addresses among the alternative names of a certificate, in DER.
pub fn alternative_addresses(certificate: &[u8]) -> Vec<std::net::IpAddr> {
    let Ok(leaf) = Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some((_, alternative))) = leaf.tbs_certificate().get_extension::<SubjectAltName>() else {
        return Vec::new();
    };
    let address = |name: &GeneralName| match name {
        GeneralName::IpAddress(ip) => match ip.as_bytes() {
            [a, b, c, d] => Some(std::net::IpAddr::from([*a, *b, *c, *d])),
            bytes => <[u8; 16]>::try_from(bytes).ok().map(std::net::IpAddr::from),
        },
        _ => None,
    };
    alternative.0.iter().filter_map(address).collect()
}

/// Whether one of its alternative names is this address or host name.
fn names(leaf: &Certificate, host: &str) -> bool {
    let Ok(Some((_, alternative))) = leaf.tbs_certificate().get_extension::<SubjectAltName>() else { return false };
    let octets = host.parse::<std::net::IpAddr>().map(|ip| match ip {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    });
    alternative.0.iter().any(|name| match (name, &octets) {
        (GeneralName::IpAddress(ip), Ok(octets)) => ip.as_bytes() == octets,
        (GeneralName::DnsName(name), Err(_)) => name.as_str().eq_ignore_ascii_case(host),
        _ => false,
    })
}

// RFC 8017, RFC 5480, RFC 8410.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const NIST_CURVES: [ObjectIdentifier; 3] = [
    ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"),
    ObjectIdentifier::new_unwrap("1.3.132.0.34"),
    ObjectIdentifier::new_unwrap("1.3.132.0.35"),
];
// RFC 5280 §4.2.1.12.
const ANY_PURPOSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");
