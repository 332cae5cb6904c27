//! A CA for clusters, and what it issues.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SubjectPublicKeyInfo,
};

/// A CA, and what it has issued to clients, in PEM.
pub struct EtcdCertificates {
    /// The certificate of the CA.
    pub ca: String,
    /// The clients' certificate and key.
    pub client: EtcdIdentity,
    issuer: Issuer<'static, KeyPair>,
    params: CertificateParams,
    key: SubjectPublicKeyInfo,
}

/// A certificate and its key, in PEM.
pub struct EtcdIdentity {
    /// The certificate.
    pub certificate: String,
    /// The key, PKCS #8.
    pub key: String,
}

impl EtcdCertificates {
    /// Makes a new CA and new certificates.
    #[expect(clippy::new_without_default, reason = "each one is another")]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        params.distinguished_name = named(&format!("etcd test CA {}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let own = KeyPair::generate().unwrap();
        let key = SubjectPublicKeyInfo::from_pem(&own.public_key_pem()).unwrap();
        let ca = params.self_signed(&own).unwrap().pem();
        let issuer = Issuer::new(params.clone(), own);
        let client = identity(&issuer, "casemate", Vec::new(), vec![ExtendedKeyUsagePurpose::ClientAuth]);
        Self { ca, client, issuer, params, key }
    }

    /// Issues a certificate for both sides of a connection at `127.0.0.1`, and its key.
    pub fn issue(&self, name: &str) -> EtcdIdentity {
        self.issue_at(name, &[Ipv4Addr::LOCALHOST.into()])
    }

    /// As [`EtcdCertificates::issue`], but at these addresses and `localhost`.
    pub fn issue_at(&self, name: &str, addresses: &[IpAddr]) -> EtcdIdentity {
        let hosts = addresses.iter().map(ToString::to_string).chain(["localhost".into()]).collect();
        identity(&self.issuer, name, hosts, both_sides())
    }

    /// Signs the key of another CA, so that what that one has issued leads to this one as well. Returns the certificate, in PEM.
    pub fn cross_sign(&self, other: &EtcdCertificates) -> String {
        other.params.signed_by(&other.key, &self.issuer).unwrap().pem()
    }

    /// Signs a request (PEM) of a member, with the names in it. Returns the certificate, in PEM.
    pub fn sign(&self, request: &str) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(request).unwrap();
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        request.params.extended_key_usages = both_sides();
        request.signed_by(&self.issuer).unwrap().pem()
    }
}

fn both_sides() -> Vec<ExtendedKeyUsagePurpose> {
    vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
}

fn identity(
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    hosts: Vec<String>,
    purposes: Vec<ExtendedKeyUsagePurpose>,
) -> EtcdIdentity {
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = purposes;
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    EtcdIdentity { certificate: certificate.pem(), key: key.serialize_pem() }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}
