//! Private keys from PEM (RFC 7468): PKCS#8 (RFC 5958), PKCS#1 (RFC 8017 A.1.2) and SEC 1 (RFC 5915).
//!
//! All parsing of PEM and DER is done by `rustls-pki-types` and the RustCrypto format crates; this file decides what is
//! accepted.

use casemate_api::KeyType;
use der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef, UintRef};
use der::{Decode, Tag, Tagged};
use pkcs1::RsaPrivateKeyRef;
use pkcs8::PrivateKeyInfoRef;
use rustls_pki_types::pem::{PemObject, SectionKind};
use sec1::EcPrivateKey;
use zeroize::Zeroizing;

use super::import::{Primes, checked_ec, checked_exponent, checked_rsa};
use super::material::{Material, scalar_bytes};
use super::public::{OID_EC, OID_ED25519, OID_RSA, Public, curve_type};
use crate::Error;
use crate::crypto::mech::LoadedKey;
use crate::crypto::mech::ffi::RsaKey;
use crate::crypto::mech::rsa_numbers::{Numbers, minimal};
use crate::crypto::secret::Seed;

impl Material {
    /// Reads the only private key of a PEM file: `PRIVATE KEY`, `RSA PRIVATE KEY` or `EC PRIVATE KEY`. Other blocks,
    /// text between blocks and comments are skipped, so an encrypted key is not found. Takes as long as
    /// [`Material::from_parts`].
    ///
    /// # Errors
    /// [`Error::Invalid`]: `No private key`, `Multiple private keys`, or a sentence that says what is wrong with it.
    pub fn from_pem(text: &[u8]) -> Result<Self, Error> {
        from_pem(text, Primes::Test)
    }

    /// Like [`Material::from_pem`], for a key that an HSM has already imported or generated: RSA primes are not tested
    /// again, so it takes about as long as loading the key.
    pub(crate) fn from_known_pem(text: &[u8]) -> Result<Self, Error> {
        from_pem(text, Primes::Known)
    }

    /// Reads a private key as PKCS#8 in DER. Takes as long as [`Material::from_parts`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, Error> {
        pkcs8(der, Primes::Test)
    }
}

fn from_pem(text: &[u8], primes: Primes) -> Result<Material, Error> {
    let mut found = None;
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = block.map_err(|_| Error::invalid("The PEM text is damaged."))?;
        let der = Zeroizing::new(der);
        if !matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey) {
            continue;
        }
        if found.replace((kind, der)).is_some() {
            return Err(Error::invalid("Multiple private keys"));
        }
    }
    match found {
        Some((SectionKind::RsaPrivateKey, der)) => rsa(&der, primes),
        Some((SectionKind::EcPrivateKey, der)) => ec(&der, None),
        Some((_, der)) => pkcs8(&der, primes),
        None => Err(Error::invalid("No private key")),
    }
}

fn damaged<T>(_: T) -> Error {
    Error::invalid("The private key is not valid DER.")
}

fn unsupported<T>(_: T) -> Error {
    Error::invalid("The private key is of an unsupported type.")
}

fn pkcs8(der: &[u8], primes: Primes) -> Result<Material, Error> {
    let info = PrivateKeyInfoRef::from_der(der).map_err(damaged)?;
    let key = info.private_key.as_bytes();
    let parameters = info.algorithm.parameters;
    match info.algorithm.oid {
        // NULL by RFC 8017 A.1; some writers leave it out.
        OID_RSA if parameters.is_none_or(|any| any == AnyRef::NULL) => rsa(key, primes),
        OID_EC => {
            let curve = parameters.filter(|any| any.tag() == Tag::ObjectIdentifier).ok_or(()).map_err(unsupported)?;
            ec(key, Some(curve.decode_as::<ObjectIdentifier>().map_err(damaged)?))
        }
        OID_ED25519 if parameters.is_none() => {
            // CurvePrivateKey ::= OCTET STRING (RFC 8410 §7)
            let seed = <&OctetStringRef>::from_der(key).map_err(damaged)?;
            let material = Seed::from_slice(seed.as_bytes()).map(Material::Ed25519).ok_or(()).map_err(damaged)?;
            same_public(&material, info.public_key.and_then(|bits| bits.as_bytes()))?;
            Ok(material)
        }
        _ => Err(unsupported(())),
    }
}

/// `curve` is the one that PKCS#8 names. SEC 1 can name a curve as well; then both must agree.
fn ec(der: &[u8], curve: Option<ObjectIdentifier>) -> Result<Material, Error> {
    let key = EcPrivateKey::from_der(der).map_err(damaged)?;
    let named = key.parameters.as_ref().and_then(|curve| curve.named_curve());
    let curve = match (curve, named) {
        (Some(outer), Some(inner)) if outer != inner => {
            return Err(Error::invalid("The private key names two different curves."));
        }
        (Some(curve), _) | (None, Some(curve)) => curve,
        (None, None) => return Err(Error::invalid("The private key does not name its curve.")),
    };
    let key_type = curve_type(curve).ok_or(()).map_err(unsupported)?;
    let material = checked_ec(key_type, &padded(key_type, key.private_key))?;
    same_public(&material, key.public_key)?;
    Ok(material)
}

/// The scalar padded to its exact length. RFC 5915 requires that length, but some writers drop leading zeros.
fn padded(key_type: KeyType, scalar: &[u8]) -> Zeroizing<Vec<u8>> {
    let missing = scalar_bytes(key_type).unwrap_or(0).saturating_sub(scalar.len());
    let mut whole = Zeroizing::new(Vec::with_capacity(missing + scalar.len()));
    whole.resize(missing, 0);
    whole.extend_from_slice(scalar);
    whole
}

/// Refuses a key whose enclosed public key does not belong to it.
fn same_public(material: &Material, enclosed: Option<&[u8]>) -> Result<(), Error> {
    let Some(enclosed) = enclosed else { return Ok(()) };
    let same = match LoadedKey::load(material)?.public() {
        Public::Ec { point, .. } => match (enclosed.split_first(), point.split_first()) {
            // Compressed (SEC 1 §2.3.3): 2 or 3 by the parity of Y, then X.
            (Some((sign @ (2 | 3), x)), Some((_, own))) => {
                own.get(..own.len() / 2) == Some(x) && own.last().map(|lowest| lowest & 1 | 2) == Some(*sign)
            }
            _ => enclosed == point,
        },
        Public::Ed25519(key) => enclosed == key,
        Public::Rsa { .. } | Public::None => false,
    };
    if same { Ok(()) } else { Err(Error::invalid("The private key does not belong to the public key beside it.")) }
}

/// Reads PKCS#1 with two primes, and checks that all its numbers agree with each other.
fn rsa(der: &[u8], primes: Primes) -> Result<Material, Error> {
    let key = RsaPrivateKeyRef::from_der(der).map_err(damaged)?;
    if key.other_prime_infos.is_some() {
        return Err(Error::invalid("RSA keys of more than two primes are not supported."));
    }
    let e = checked_exponent(key.public_exponent.as_bytes())?;
    let material = checked_rsa(key.prime1.as_bytes(), key.prime2.as_bytes(), e, primes)?;
    if consistent(&key) { Ok(material) } else { Err(Error::invalid("The numbers of the RSA key do not agree.")) }
}

/// Whether the other numbers follow from the primes; AWS-LC compares them. d may be reduced modulo (p-1)(q-1) or their
/// least common multiple.
fn consistent(key: &RsaPrivateKeyRef<'_>) -> bool {
    let number = |number: UintRef<'_>| Zeroizing::new(minimal(number.as_bytes()).to_vec());
    let e = key.public_exponent.as_bytes().iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let numbers = Numbers {
        n: key.modulus.as_bytes().to_vec(),
        e,
        d: number(key.private_exponent),
        p: number(key.prime1),
        q: number(key.prime2),
        dp: number(key.exponent1),
        dq: number(key.exponent2),
        qinv: number(key.coefficient),
    };
    let fits = [&numbers.d, &numbers.dp, &numbers.dq, &numbers.qinv].iter().all(|x| x.len() <= numbers.n.len());
    fits && RsaKey::new(&numbers).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::mech::tests::{any_key, in_openssl, rsa2048};
    use proptest::prelude::*;

    fn refusal(text: &[u8]) -> String {
        match Material::from_pem(text) {
            Err(Error::Invalid { reason, .. }) => reason.into_owned(),
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("it was accepted"),
        }
    }

    /// Keys of every type that has a PEM form, in each form OpenSSL writes.
    fn forms(key_type: KeyType) -> Vec<(Material, Vec<u8>)> {
        let material = || any_key(key_type);
        let both = |form: fn(&Material) -> Vec<u8>| {
            let material = material();
            let pem = form(&material);
            (material, pem)
        };
        if key_type == KeyType::Generic {
            return vec![];
        }
        let pkcs8 = both(|m| in_openssl(m).private_key_to_pem_pkcs8().unwrap());
        match key_type {
            KeyType::RSA => vec![pkcs8, both(|m| in_openssl(m).rsa().unwrap().private_key_to_pem().unwrap())],
            KeyType::Curve25519 => vec![pkcs8],
            _ => vec![pkcs8, both(|m| in_openssl(m).ec_key().unwrap().private_key_to_pem().unwrap())],
        }
    }

    #[test]
    fn keys_written_by_openssl_are_read_in_every_form() {
        for key_type in KeyType::ALL {
            for (material, pem) in forms(key_type) {
                let read = Material::from_pem(&pem).unwrap();
                assert_eq!(read.key_type(), key_type);
                assert_eq!(LoadedKey::load(&read).unwrap().public(), LoadedKey::load(&material).unwrap().public());
            }
        }
    }

    #[test]
    fn keys_generated_by_openssl_are_read() {
        use openssl::ec::{Asn1Flag, EcGroup, EcKey, PointConversionForm};
        use openssl::nid::Nid;
        use openssl::pkey::PKey;
        for (nid, key_type) in [
            (Nid::X9_62_PRIME256V1, KeyType::EC_P256),
            (Nid::SECP384R1, KeyType::EC_P384),
            (Nid::SECP521R1, KeyType::EC_P521),
            (Nid::SECP256K1, KeyType::EC_P256K1),
            (Nid::BRAINPOOL_P256R1, KeyType::BrainpoolP256),
            (Nid::BRAINPOOL_P384R1, KeyType::BrainpoolP384),
            (Nid::BRAINPOOL_P512R1, KeyType::BrainpoolP512),
        ] {
            for flag in [Asn1Flag::NAMED_CURVE, Asn1Flag::EXPLICIT_CURVE] {
                let mut group = EcGroup::from_curve_name(nid).unwrap();
                group.set_asn1_flag(flag);
                let key = EcKey::generate(&group).unwrap();
                let mut ctx = openssl::bn::BigNumContext::new().unwrap();
                let point = key.public_key().to_bytes(&group, PointConversionForm::UNCOMPRESSED, &mut ctx).unwrap();
                let sec1 = key.private_key_to_pem().unwrap();
                let pkcs8 = PKey::from_ec_key(key).unwrap().private_key_to_pem_pkcs8().unwrap();
                for pem in [sec1, pkcs8] {
                    if flag == Asn1Flag::EXPLICIT_CURVE {
                        refusal(&pem); // only named curves
                        continue;
                    }
                    let read = LoadedKey::load(&Material::from_pem(&pem).unwrap()).unwrap().public();
                    assert_eq!(read, Public::Ec { key_type, point: point.clone() });
                }
            }
        }
        let unsupported = EcKey::generate(&EcGroup::from_curve_name(Nid::SECP224R1).unwrap()).unwrap();
        assert_eq!(refusal(&unsupported.private_key_to_pem().unwrap()), "The private key is of an unsupported type.");
        let x25519 = PKey::generate_x25519().unwrap().private_key_to_pem_pkcs8().unwrap();
        assert_eq!(refusal(&x25519), "The private key is of an unsupported type.");
    }

    #[test]
    fn a_file_must_hold_exactly_one_key() {
        let key = in_openssl(&any_key(KeyType::EC_P256));
        let pem = key.private_key_to_pem_pkcs8().unwrap();
        let sec1 = key.ec_key().unwrap().private_key_to_pem().unwrap();
        let public = key.public_key_to_pem().unwrap();
        let encrypted =
            key.private_key_to_pem_pkcs8_passphrase(openssl::symm::Cipher::aes_128_cbc(), b"0123456789").unwrap();
        assert_eq!(refusal(b""), "No private key");
        assert_eq!(refusal(b"hello\n"), "No private key");
        assert_eq!(refusal(&public), "No private key");
        assert_eq!(refusal(&encrypted), "No private key");
        assert_eq!(refusal(&[&pem[..], &pem].concat()), "Multiple private keys");
        assert_eq!(refusal(&[&pem[..], &sec1].concat()), "Multiple private keys");
        let unknown = b"-----BEGIN SOMETHING-----\nAAAA\n-----END SOMETHING-----\n";
        let around = [b"# a comment\r\nsome text\r\n", &public[..], &unknown[..], &pem, b"more text"].concat();
        assert!(Material::from_pem(&around).is_ok());
        let crlf = String::from_utf8(pem).unwrap().replace('\n', "\r\n");
        assert!(Material::from_pem(crlf.as_bytes()).is_ok());
        assert_eq!(refusal(&crlf.as_bytes()[..crlf.len() - 40]), "The PEM text is damaged.");
    }

    #[test]
    fn rsa_numbers_that_do_not_agree_are_refused() {
        use der::Encode;
        let material = rsa2048();
        let Material::Rsa { p, q, e } = &material else { panic!() };
        let good = Numbers::from_primes(p.expose(), q.expose(), *e).unwrap();
        let e = good.e.to_be_bytes();
        let key = |change: usize| {
            let number = |index: usize, number: &[u8]| {
                let mut number = number.to_vec();
                if index == change {
                    *number.last_mut().unwrap() ^= 2;
                }
                number
            };
            let parts = [&good.n[..], minimal(&e), &good.d, &good.p, &good.q, &good.dp, &good.dq, &good.qinv];
            let parts: Vec<_> = parts.iter().enumerate().map(|(i, part)| number(i, part)).collect();
            let uint = |i: usize| UintRef::new(&parts[i]).unwrap();
            let der = RsaPrivateKeyRef {
                modulus: uint(0),
                public_exponent: uint(1),
                private_exponent: uint(2),
                prime1: uint(3),
                prime2: uint(4),
                exponent1: uint(5),
                exponent2: uint(6),
                coefficient: uint(7),
                other_prime_infos: None,
            };
            der::pem::encode_string("RSA PRIVATE KEY", der::pem::LineEnding::LF, &der.to_der().unwrap()).unwrap()
        };
        for change in 0..8 {
            refusal(key(change).as_bytes());
        }
        assert!(Material::from_pem(key(8).as_bytes()).is_ok());
    }

    #[test]
    fn an_enclosed_public_key_must_belong_to_the_private_key() {
        use der::Encode;
        let (a, b) = (any_key(KeyType::EC_P256), any_key(KeyType::EC_P256));
        let Material::Ec { scalar, .. } = &a else { panic!() };
        let pem = |point: Option<&[u8]>| {
            let curve = super::super::public::curve_oid(KeyType::EC_P256).unwrap();
            let key = EcPrivateKey {
                private_key: scalar.expose(),
                parameters: Some(sec1::EcParameters::NamedCurve(curve)),
                public_key: point,
            };
            der::pem::encode_string("EC PRIVATE KEY", der::pem::LineEnding::LF, &key.to_der().unwrap()).unwrap()
        };
        let point = |material: &Material| match LoadedKey::load(material).unwrap().public() {
            Public::Ec { point, .. } => point,
            _ => panic!(),
        };
        let (own, other) = (point(&a), point(&b));
        let compressed = |flip: u8| [&[2 | (own[64] & 1) ^ flip], &own[1..33]].concat();
        for good in [None, Some(&own[..]), Some(&compressed(0))] {
            assert!(Material::from_pem(pem(good).as_bytes()).is_ok());
        }
        for bad in [&other[..], &compressed(1), &[], &[4], &own[..64]] {
            assert!(Material::from_pem(pem(Some(bad)).as_bytes()).is_err());
        }
        assert!(refusal(pem(Some(&other)).as_bytes()).contains("does not belong"));
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(text: Vec<u8>) {
            let _ = Material::from_pem(&text);
        }

        #[test]
        fn garbage_in_a_block_is_refused(label in 0usize..3, der: Vec<u8>) {
            let label = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"][label];
            let pem = der::pem::encode_string(label, der::pem::LineEnding::LF, &der).unwrap();
            prop_assert!(Material::from_pem(pem.as_bytes()).is_err());
        }

        #[test]
        fn damaged_keys_do_not_panic(which in 0usize..3, at: proptest::sample::Index, with: u8) {
            let material = any_key([KeyType::EC_P256, KeyType::Curve25519, KeyType::BrainpoolP256][which]);
            let mut der = crate::crypto::x509::pkcs8_der(&material).unwrap().to_vec();
            let len = der.len();
            der[at.index(len)] = with;
            let pem = der::pem::encode_string("PRIVATE KEY", der::pem::LineEnding::LF, &der).unwrap();
            let _ = Material::from_pem(pem.as_bytes());
        }
    }
}
