//! Public keys as the API shows them: numbers, points, and SPKI in PEM (RFC 5280 §4.1.2.7, RFC 7468 §13).

use casemate_api::KeyType;
use der::asn1::{Any, BitString, ObjectIdentifier, UintRef};
use der::pem::LineEnding;
use der::{Encode, Tag};
use pkcs8::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

/// rsaEncryption (RFC 8017 A.1).
pub(crate) const OID_RSA: ObjectIdentifier = pkcs1::ALGORITHM_OID;
/// id-ecPublicKey (RFC 5480 §2.1.1).
pub(crate) const OID_EC: ObjectIdentifier = sec1::ALGORITHM_OID;
/// id-Ed25519 (RFC 8410 §3).
pub(crate) const OID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Named curves (RFC 5480 §2.1.1.1, SEC 2 A.2.1, RFC 5639 §4.1).
const CURVES: [(KeyType, ObjectIdentifier); 7] = [
    (KeyType::EC_P256, ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7")),
    (KeyType::EC_P384, ObjectIdentifier::new_unwrap("1.3.132.0.34")),
    (KeyType::EC_P521, ObjectIdentifier::new_unwrap("1.3.132.0.35")),
    (KeyType::EC_P256K1, ObjectIdentifier::new_unwrap("1.3.132.0.10")),
    (KeyType::BrainpoolP256, ObjectIdentifier::new_unwrap("1.3.36.3.3.2.8.1.1.7")),
    (KeyType::BrainpoolP384, ObjectIdentifier::new_unwrap("1.3.36.3.3.2.8.1.1.11")),
    (KeyType::BrainpoolP512, ObjectIdentifier::new_unwrap("1.3.36.3.3.2.8.1.1.13")),
];

/// The object identifier of an EC type's curve; `None` for other types.
pub(crate) fn curve_oid(key_type: KeyType) -> Option<ObjectIdentifier> {
    CURVES.iter().find(|(known, _)| *known == key_type).map(|(_, oid)| *oid)
}

/// The EC type of a named curve.
pub(crate) fn curve_type(oid: ObjectIdentifier) -> Option<KeyType> {
    CURVES.iter().find(|(_, known)| *known == oid).map(|(key_type, _)| *key_type)
}

/// The public part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Public {
    /// RSA; both big-endian without leading zeros.
    Rsa {
        /// The modulus.
        n: Vec<u8>,
        /// The public exponent.
        e: Vec<u8>,
    },
    /// A point of a Weierstraß curve.
    Ec {
        /// Which curve.
        key_type: KeyType,
        /// Uncompressed: the byte 4, X, Y (SEC 1 §2.3.3).
        point: Vec<u8>,
    },
    /// Ed25519 (RFC 8032 §5.1.5).
    Ed25519([u8; 32]),
    /// Generic keys have no public part.
    None,
}

impl Public {
    /// A PEM block `PUBLIC KEY` with lines of 64 columns and a final newline; `None` for Generic keys.
    pub fn spki_pem(&self) -> Option<String> {
        let der = self.spki().ok()??.to_der().ok()?;
        der::pem::encode_string("PUBLIC KEY", LineEnding::LF, &der).ok()
    }

    /// SubjectPublicKeyInfo; `None` for Generic keys. Fails only if a number or point is malformed.
    pub(crate) fn spki(&self) -> der::Result<Option<SubjectPublicKeyInfoOwned>> {
        let (oid, parameters, key) = match self {
            Public::Rsa { n, e } => {
                let key = pkcs1::RsaPublicKey { modulus: UintRef::new(n)?, public_exponent: UintRef::new(e)? };
                (OID_RSA, Some(Any::new(Tag::Null, [])?), key.to_der()?)
            }
            Public::Ec { key_type, point } => {
                let curve = curve_oid(*key_type).map(|oid| Any::encode_from(&oid)).transpose()?;
                (OID_EC, curve, point.clone())
            }
            Public::Ed25519(key) => (OID_ED25519, None, key.to_vec()),
            Public::None => return Ok(None),
        };
        Ok(Some(SubjectPublicKeyInfoOwned {
            algorithm: AlgorithmIdentifierOwned { oid, parameters },
            subject_public_key: BitString::from_bytes(&key)?,
        }))
    }
}
