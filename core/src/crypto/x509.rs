//! Certificate signing requests (RFC 2986), self-signed certificates (RFC 5280), and private keys as PKCS#8 (RFC 5958).
//!
//! The API allows a signing request for every key that can sign, whatever mechanisms it lists.

use std::net::IpAddr;

use aws_lc_rs::digest;
use casemate_api::KeyType;
use casemate_api::body::keys::DistinguishedName;
use casemate_api::mechanisms::Mode;
use casemate_api::words::SignMode;
use der::asn1::{Any, BitString, GeneralizedTime, Ia5String, ObjectIdentifier, OctetString, OctetStringRef, UintRef};
use der::asn1::{PrintableString, UtcTime};
use der::pem::LineEnding;
use der::{DateTime, Decode, Encode, Sequence, Tag};
use pkcs1::RsaPrivateKeyRef;
use pkcs8::PrivateKeyInfoRef;
use pkcs8::spki::{AlgorithmIdentifierOwned, AlgorithmIdentifierRef, SubjectPublicKeyInfoOwned};
use sec1::EcPrivateKey;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, SubjectAltName};
use x509_cert::ext::{Extension, Extensions};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::request::{CertReq, CertReqInfo, ExtensionReq};
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::{Time, Validity};
use zeroize::Zeroizing;

use crate::Error;
use crate::crypto::material::Material;
use crate::crypto::mech::rsa_numbers::{Numbers, minimal};
use crate::crypto::mech::{self, LoadedKey, MechError};
use crate::crypto::public::{OID_EC, OID_ED25519, OID_RSA, Public, curve_oid};

const OID_CN: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const OID_C: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.6");
const OID_L: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.7");
const OID_ST: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.8");
const OID_O: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.10");
const OID_OU: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.11");
const OID_EMAIL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1");
const OID_SAN: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const OID_BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const OID_EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const OID_SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
/// sha256WithRSAEncryption (RFC 8017 A.2.4).
const OID_RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
/// ecdsa-with-SHA256, -SHA384, -SHA512 (RFC 5758 §3.2).
const OID_ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const OID_ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const OID_ECDSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");

/// The DER of a DigestInfo for SHA-256 up to the digest (RFC 8017 §9.2, note 1).
const DIGEST_INFO_SHA256: [u8; 19] = *b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";

fn unencodable(why: der::Error) -> Error {
    Error::internal(format!("DER: {why}"))
}

/// A `CERTIFICATE REQUEST` for the key, with the subject in the order CN, C, L, ST, O, OU, emailAddress and the
/// alternative names, if any, as an extension request. The caller checks whether the common name may be empty.
///
/// # Errors
/// [`Error::Invalid`] for Generic keys and for alternative names that are not ASCII.
pub fn csr_pem(loaded: &LoadedKey, subject: &DistinguishedName) -> Result<String, Error> {
    let public_key = spki(loaded)?;
    let mut attributes = x509_cert::attr::Attributes::default();
    if let Some(names) = requested_names(subject)? {
        let extension = extension(OID_SAN, false, &SubjectAltName(names)).map_err(unencodable)?;
        let request = ExtensionReq(vec![extension]).try_into().map_err(unencodable)?;
        attributes.insert(request).map_err(unencodable)?;
    }
    let info = CertReqInfo {
        version: x509_cert::request::Version::V1,
        subject: subject_name(subject).map_err(unencodable)?,
        public_key,
        attributes,
    };
    let (algorithm, signature) = sign(loaded, &info.to_der().map_err(unencodable)?)?;
    let request = CertReq { info, algorithm, signature }.to_der().map_err(unencodable)?;
    der::pem::encode_string("CERTIFICATE REQUEST", LineEnding::LF, &request)
        .map_err(|why| Error::internal(format!("PEM: {why}")))
}

/// TBSCertificate (RFC 5280 §4.1) with the fields written here: version 3, no unique identifiers.
#[derive(Sequence)]
struct TbsCertificate {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: u8,
    serial: SerialNumber,
    signature: AlgorithmIdentifierOwned,
    issuer: Name,
    validity: Validity,
    subject: Name,
    public_key: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Extensions,
}

/// Certificate (RFC 5280 §4.1).
#[derive(Sequence)]
struct Certificate {
    tbs: TbsCertificate,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

/// A self-signed certificate in DER for a TLS server, valid from 1970 to the end of 9999, not a CA. `common_name` is
/// subject and issuer; in `alt_names` the prefix `IP:` marks an address, everything else is a DNS name. `serial` should
/// be random; its sign bit is cleared.
///
/// # Errors
/// [`Error::Invalid`] for Generic keys and for alternative names that are not ASCII.
pub fn self_signed_der(
    loaded: &LoadedKey,
    common_name: &str,
    alt_names: &[String],
    serial: [u8; 16],
) -> Result<Vec<u8>, Error> {
    let tbs =
        tbs_certificate(spki(loaded)?, algorithm(loaded.key_type())?, common_name, general_names(alt_names)?, serial)
            .map_err(unencodable)?;
    let (algorithm, signature) = sign(loaded, &tbs.to_der().map_err(unencodable)?)?;
    Certificate { tbs, algorithm, signature }.to_der().map_err(unencodable)
}

fn tbs_certificate(
    public_key: SubjectPublicKeyInfoOwned,
    signature: AlgorithmIdentifierOwned,
    common_name: &str,
    names: Vec<GeneralName>,
    mut serial: [u8; 16],
) -> der::Result<TbsCertificate> {
    const VERSION_3: u8 = 2;
    // Positive and not zero, as RFC 5280 §4.1.2.2 requires.
    let [first, ..] = &mut serial;
    *first = *first & 0x7f | 0x40;
    let name = name([(OID_CN, common_name)])?;
    let mut extensions = vec![
        extension(OID_BASIC_CONSTRAINTS, true, &BasicConstraints { ca: false, path_len_constraint: None })?,
        extension(OID_EXTENDED_KEY_USAGE, false, &ExtendedKeyUsage(vec![OID_SERVER_AUTH]))?,
    ];
    if !names.is_empty() {
        extensions.push(extension(OID_SAN, false, &SubjectAltName(names))?);
    }
    let not_before = Time::UtcTime(UtcTime::from_date_time(DateTime::new(1970, 1, 1, 0, 0, 0)?)?);
    let not_after = Time::GeneralTime(GeneralizedTime::from_date_time(DateTime::new(9999, 12, 31, 23, 59, 59)?));
    Ok(TbsCertificate {
        version: VERSION_3,
        serial: SerialNumber::new(&serial)?,
        signature,
        issuer: name.clone(),
        validity: Validity::new(not_before, not_after),
        subject: name,
        public_key,
        extensions,
    })
}

/// The private key as PKCS#8 (RFC 5958): PKCS#1 inside for RSA, SEC 1 with the public key for EC, the seed (RFC 8410)
/// for Ed25519.
///
/// # Errors
/// [`Error::Invalid`] for Generic keys, which have no such form.
pub fn pkcs8_der(material: &Material) -> Result<Zeroizing<Vec<u8>>, Error> {
    pkcs8(material, PublicKey::Enclosed)
}

/// Like [`pkcs8_der`], but without the public key of EC, as NetHSM stores it.
///
/// # Errors
/// [`Error::Invalid`] for Generic keys, which have no such form.
pub(crate) fn pkcs8_without_public(material: &Material) -> Result<Zeroizing<Vec<u8>>, Error> {
    pkcs8(material, PublicKey::LeftOut)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PublicKey {
    Enclosed,
    LeftOut,
}

fn pkcs8(material: &Material, public: PublicKey) -> Result<Zeroizing<Vec<u8>>, Error> {
    let wrap = |oid, parameters: Option<&Any>, key: &[u8]| {
        let algorithm = AlgorithmIdentifierRef { oid, parameters: parameters.map(Into::into) };
        let info = PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(key)?);
        info.to_der().map(Zeroizing::new)
    };
    match material {
        Material::Rsa { p, q, e } => {
            let numbers = Numbers::from_primes(p.expose(), q.expose(), *e)
                .map_err(|_| MechError("the numbers of an RSA key do not agree"))?;
            let key = rsa_private_key(&numbers).map_err(unencodable)?;
            Any::new(Tag::Null, []).and_then(|null| wrap(OID_RSA, Some(&null), &key)).map_err(unencodable)
        }
        Material::Ec { key_type, scalar } => {
            let Public::Ec { point, .. } = LoadedKey::load(material)?.public() else {
                return Err(Error::internal("an EC key without a point"));
            };
            let point = Some(point.as_slice()).filter(|_| public == PublicKey::Enclosed);
            let key = EcPrivateKey { private_key: scalar.expose(), parameters: None, public_key: point };
            let curve = curve_oid(*key_type).ok_or(Error::internal("an EC key without a curve"))?;
            let key = key.to_der().map(Zeroizing::new).map_err(unencodable)?;
            Any::encode_from(&curve).and_then(|curve| wrap(OID_EC, Some(&curve), &key)).map_err(unencodable)
        }
        Material::Ed25519(seed) => {
            let key = OctetStringRef::new(seed.expose()).and_then(|seed| seed.to_der()).map(Zeroizing::new);
            wrap(OID_ED25519, None, &key.map_err(unencodable)?).map_err(unencodable)
        }
        Material::Generic(_) => Err(Error::invalid("Generic keys have no PKCS#8 form")),
    }
}

fn rsa_private_key(numbers: &Numbers) -> der::Result<Zeroizing<Vec<u8>>> {
    let e = numbers.e.to_be_bytes();
    let key = RsaPrivateKeyRef {
        modulus: UintRef::new(&numbers.n)?,
        public_exponent: UintRef::new(minimal(&e))?,
        private_exponent: UintRef::new(&numbers.d)?,
        prime1: UintRef::new(&numbers.p)?,
        prime2: UintRef::new(&numbers.q)?,
        exponent1: UintRef::new(&numbers.dp)?,
        exponent2: UintRef::new(&numbers.dq)?,
        coefficient: UintRef::new(&numbers.qinv)?,
        other_prime_infos: None,
    };
    key.to_der().map(Zeroizing::new)
}

fn spki(loaded: &LoadedKey) -> Result<SubjectPublicKeyInfoOwned, Error> {
    let spki = loaded.public().spki().map_err(unencodable)?;
    spki.ok_or(Error::invalid("Generic keys can't create certificates"))
}

/// The signature algorithm for a key type. The hash follows the size of the curve; RSA has SHA-256.
fn algorithm(key_type: KeyType) -> Result<AlgorithmIdentifierOwned, Error> {
    let (oid, parameters) = match key_type {
        KeyType::RSA => (OID_RSA_SHA256, Some(Any::new(Tag::Null, []).map_err(unencodable)?)),
        KeyType::Curve25519 => (OID_ED25519, None),
        KeyType::EC_P256 | KeyType::EC_P256K1 | KeyType::BrainpoolP256 => (OID_ECDSA_SHA256, None),
        KeyType::EC_P384 | KeyType::BrainpoolP384 => (OID_ECDSA_SHA384, None),
        KeyType::EC_P521 | KeyType::BrainpoolP512 => (OID_ECDSA_SHA512, None),
        KeyType::Generic => return Err(Error::invalid("Generic keys can't create certificates")),
    };
    Ok(AlgorithmIdentifierOwned { oid, parameters })
}

/// Signs the DER of a request or certificate.
fn sign(loaded: &LoadedKey, der: &[u8]) -> Result<(AlgorithmIdentifierOwned, BitString), Error> {
    let key_type = loaded.key_type();
    let hashed = |hash| digest::digest(hash, der).as_ref().to_vec();
    let (mode, input) = match key_type {
        KeyType::RSA => (SignMode::PKCS1, [&DIGEST_INFO_SHA256[..], &hashed(&digest::SHA256)].concat()),
        KeyType::Curve25519 => (SignMode::EdDSA, der.to_vec()),
        KeyType::EC_P256 | KeyType::EC_P256K1 | KeyType::BrainpoolP256 => (SignMode::ECDSA, hashed(&digest::SHA256)),
        KeyType::EC_P384 | KeyType::BrainpoolP384 => (SignMode::ECDSA, hashed(&digest::SHA384)),
        KeyType::EC_P521 | KeyType::BrainpoolP512 => (SignMode::ECDSA, hashed(&digest::SHA512)),
        KeyType::Generic => return Err(Error::invalid("Generic keys can't create certificates")),
    };
    let signature = mech::run(loaded, Mode::Sign(mode), &input, None)?;
    Ok((algorithm(key_type)?, BitString::from_bytes(&signature).map_err(unencodable)?))
}

fn extension(oid: ObjectIdentifier, critical: bool, value: &impl Encode) -> der::Result<Extension> {
    Ok(Extension { extn_id: oid, critical, extn_value: OctetString::new(value.to_der()?)? })
}

fn subject_name(subject: &DistinguishedName) -> der::Result<Name> {
    name([
        (OID_CN, &*subject.common_name),
        (OID_C, &subject.country_name),
        (OID_L, &subject.locality_name),
        (OID_ST, &subject.state_or_province_name),
        (OID_O, &subject.organization_name),
        (OID_OU, &subject.organizational_unit_name),
        (OID_EMAIL, &subject.email_address),
    ])
}

/// A name with one attribute per RDN; empty attributes are left out. All are UTF8String, except that countryName and
/// emailAddress have the types of RFC 5280 if the text allows it.
fn name<'a>(attributes: impl IntoIterator<Item = (ObjectIdentifier, &'a str)>) -> der::Result<Name> {
    let mut sequence = RdnSequence::default();
    for (oid, text) in attributes {
        if text.is_empty() {
            continue;
        }
        let value = match oid {
            OID_C if PrintableString::new(text).is_ok() => Any::new(Tag::PrintableString, text.as_bytes())?,
            OID_EMAIL if text.is_ascii() => Any::new(Tag::Ia5String, text.as_bytes())?,
            _ => Any::new(Tag::Utf8String, text.as_bytes())?,
        };
        sequence.push(RelativeDistinguishedName::try_from(vec![AttributeTypeAndValue { oid, value }])?);
    }
    Name::from_der(&sequence.to_der()?)
}

/// The alternative names of a request; `None`: no extension. Without a list the common name becomes the only one,
/// unless it is not ASCII and so cannot be a DNS name.
fn requested_names(subject: &DistinguishedName) -> Result<Option<Vec<GeneralName>>, Error> {
    match &subject.subject_alt_names {
        Some(names) if names.is_empty() => Ok(None),
        Some(names) => general_names(names).map(Some),
        None if subject.common_name.is_empty() || !subject.common_name.is_ascii() => Ok(None),
        None => Ok(Some(vec![dns_name(&subject.common_name)?])),
    }
}

/// DNS names first, then addresses.
fn general_names(texts: &[String]) -> Result<Vec<GeneralName>, Error> {
    let address = |text: &String| text.strip_prefix("IP:").and_then(|text| text.parse::<IpAddr>().ok());
    let mut names = Vec::with_capacity(texts.len());
    for text in texts.iter().filter(|text| address(text).is_none()) {
        names.push(dns_name(text)?);
    }
    names.extend(texts.iter().filter_map(address).map(GeneralName::from));
    Ok(names)
}

fn dns_name(text: &str) -> Result<GeneralName, Error> {
    let name = Ia5String::new(text)
        .map_err(|_| Error::invalid_field("subjectAltNames", "Subject alternative names must be ASCII."))?;
    Ok(GeneralName::DnsName(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::mech::tests::{any_key, in_openssl};
    use openssl::nid::Nid;
    use openssl::x509::{X509, X509NameRef, X509Req};

    fn subject(common_name: &str, names: Option<&[&str]>) -> DistinguishedName {
        DistinguishedName {
            common_name: common_name.into(),
            country_name: "DE".into(),
            locality_name: String::new(),
            state_or_province_name: "Köln".into(),
            organization_name: "O".into(),
            organizational_unit_name: "OU".into(),
            email_address: "a@example.org".into(),
            subject_alt_names: names.map(|names| names.iter().map(|name| name.to_string()).collect()),
        }
    }

    fn entries(name: &X509NameRef) -> Vec<(Nid, String)> {
        name.entries().map(|e| (e.object().nid(), e.data().to_string().unwrap())).collect()
    }

    #[test]
    fn requests_of_every_type_verify_in_openssl() {
        for key_type in KeyType::ALL {
            let material = any_key(key_type);
            let loaded = LoadedKey::load(&material).unwrap();
            let request = csr_pem(&loaded, &subject("example.org", None));
            if key_type == KeyType::Generic {
                assert_eq!(request.unwrap_err().to_string(), "Generic keys can't create certificates");
                continue;
            }
            let pem = request.unwrap();
            assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n") && pem.ends_with("-----\n"));
            let request = X509Req::from_pem(pem.as_bytes()).unwrap();
            let public = request.public_key().unwrap();
            assert!(request.verify(&public).unwrap(), "{key_type:?}");
            assert!(in_openssl(&material).public_eq(&public));
            let expected = [
                (Nid::COMMONNAME, "example.org"),
                (Nid::COUNTRYNAME, "DE"),
                (Nid::STATEORPROVINCENAME, "Köln"),
                (Nid::ORGANIZATIONNAME, "O"),
                (Nid::ORGANIZATIONALUNITNAME, "OU"),
                (Nid::PKCS9_EMAILADDRESS, "a@example.org"),
            ];
            assert_eq!(entries(request.subject_name()), expected.map(|(nid, text)| (nid, text.to_string())));
        }
    }

    /// The alternative names of a request, read by another parser than the code that wrote them.
    fn names(request: &str) -> Option<Vec<String>> {
        let (_, der) = der::pem::decode_vec(request.as_bytes()).unwrap();
        let request = CertReq::from_der(&der).unwrap();
        let attribute = request.info.attributes.iter().next()?;
        let extensions = attribute.values.iter().next().unwrap().decode_as::<Vec<Extension>>().unwrap();
        assert!(!extensions[0].critical);
        let names = SubjectAltName::from_der(extensions[0].extn_value.as_bytes()).unwrap().0;
        let text = |name: &GeneralName| match name {
            GeneralName::DnsName(name) => name.to_string(),
            GeneralName::IpAddress(ip) => format!("{:?}", ip.as_bytes()),
            other => panic!("{other:?}"),
        };
        Some(names.iter().map(text).collect())
    }

    #[test]
    fn alternative_names_follow_the_contract() {
        let loaded = LoadedKey::load(&any_key(KeyType::EC_P256)).unwrap();
        let names =
            |common_name: &str, list: Option<&[&str]>| names(&csr_pem(&loaded, &subject(common_name, list)).unwrap());
        assert_eq!(names("example.org", None).unwrap(), ["example.org"]);
        assert_eq!(names("any thing: at all", None).unwrap(), ["any thing: at all"]);
        assert_eq!(names("example.org", Some(&[])), None);
        let mixed = &["IP:10.0.0.1", "a.example", "IP:nonsense", "IP:::1", "b.example"];
        let expected = [
            "a.example",
            "IP:nonsense",
            "b.example",
            "[10, 0, 0, 1]",
            "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]",
        ];
        assert_eq!(names("example.org", Some(mixed)).unwrap(), expected);
        assert_eq!(names("Köln", None), None);
        let refused = csr_pem(&loaded, &subject("x", Some(&["Köln"]))).unwrap_err();
        assert!(matches!(refused, Error::Invalid { .. }));
    }

    #[test]
    fn openssl_reads_the_requested_names() {
        let loaded = LoadedKey::load(&any_key(KeyType::EC_P256)).unwrap();
        let pem = csr_pem(&loaded, &subject("x", Some(&["a.example", "IP:10.0.0.1"]))).unwrap();
        let extensions = X509Req::from_pem(pem.as_bytes()).unwrap().extensions().unwrap();
        assert_eq!(extensions.len(), 1);
    }

    #[test]
    fn self_signed_certificates_verify_in_openssl() {
        for key_type in KeyType::ALL {
            if key_type == KeyType::Generic {
                continue;
            }
            let material = any_key(key_type);
            let loaded = LoadedKey::load(&material).unwrap();
            let alt_names = ["localhost".to_string(), "IP:127.0.0.1".into()];
            for serial in [[0; 16], [0xff; 16]] {
                let der = self_signed_der(&loaded, "keyfender", &alt_names, serial).unwrap();
                let certificate = X509::from_der(&der).unwrap();
                assert!(certificate.verify(&in_openssl(&material)).unwrap(), "{key_type:?}");
                assert_eq!(certificate.version(), 2);
                assert_eq!(certificate.serial_number().to_bn().unwrap().num_bytes(), 16);
                assert!(!certificate.serial_number().to_bn().unwrap().is_negative());
                assert_eq!(certificate.not_before().to_string(), "Jan  1 00:00:00 1970 GMT");
                assert_eq!(certificate.not_after().to_string(), "Dec 31 23:59:59 9999 GMT");
                assert_eq!(entries(certificate.subject_name()), entries(certificate.issuer_name()));
                let names = certificate.subject_alt_names().unwrap();
                assert_eq!(names[0].dnsname(), Some("localhost"));
                assert_eq!(names[1].ipaddress(), Some(&[127, 0, 0, 1][..]));
                let text = String::from_utf8(certificate.to_text().unwrap()).unwrap();
                assert!(text.contains("CA:FALSE") && text.contains("TLS Web Server Authentication"), "{text}");
            }
            assert!(X509::from_der(&self_signed_der(&loaded, "k", &[], [1; 16]).unwrap()).is_ok());
        }
        let generic = LoadedKey::load(&any_key(KeyType::Generic)).unwrap();
        assert!(self_signed_der(&generic, "k", &[], [1; 16]).is_err());
    }
}
