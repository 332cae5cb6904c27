//! Elliptic curves in the standard's encodings: `CKA_EC_PARAMS` as object identifier or name, `CKA_EC_POINT` as DER
//! OCTET STRING or raw. Both forms are read; the first ones are written.

use casemate_api::KeyType;
use der::asn1::{ObjectIdentifier, OctetStringRef, PrintableStringRef};
use der::{Decode, Encode};

/// A curve that servers have keys on.
struct Curve {
    key_type: KeyType,
    /// RFC 5480, RFC 5639, SEC 2, RFC 8410.
    oid: ObjectIdentifier,
    /// The names by which applications choose it.
    names: &'static [&'static str],
    /// Bytes of a coordinate.
    field: usize,
    /// Bytes of a private scalar.
    scalar: usize,
}

const fn curve(key_type: KeyType, oid: &str, names: &'static [&'static str], field: usize) -> Curve {
    Curve { key_type, oid: ObjectIdentifier::new_unwrap(oid), names, field, scalar: field }
}

const CURVES: &[Curve] = &[
    curve(KeyType::EC_P256, "1.2.840.10045.3.1.7", &["secp256r1", "prime256v1", "P-256"], 32),
    curve(KeyType::EC_P384, "1.3.132.0.34", &["secp384r1", "P-384"], 48),
    curve(KeyType::EC_P521, "1.3.132.0.35", &["secp521r1", "P-521"], 66),
    curve(KeyType::EC_P256K1, "1.3.132.0.10", &["secp256k1"], 32),
    curve(KeyType::BrainpoolP256, "1.3.36.3.3.2.8.1.1.7", &["brainpoolP256r1"], 32),
    curve(KeyType::BrainpoolP384, "1.3.36.3.3.2.8.1.1.11", &["brainpoolP384r1"], 48),
    curve(KeyType::BrainpoolP512, "1.3.36.3.3.2.8.1.1.13", &["brainpoolP512r1"], 64),
    curve(KeyType::Curve25519, "1.3.101.112", &["edwards25519", "Ed25519"], 32),
];

/// What GnuPG called Ed25519 before RFC 8410.
const ED25519_OF_GNU: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.11591.15.1");

fn row(key_type: KeyType) -> Option<&'static Curve> {
    CURVES.iter().find(|curve| curve.key_type == key_type)
}

/// The key type on the curve of these `CKA_EC_PARAMS`; none: servers have no keys on it.
pub fn key_type_of(params: &[u8]) -> Option<KeyType> {
    if let Ok(oid) = ObjectIdentifier::from_der(params) {
        let found = CURVES.iter().find(|curve| curve.oid == oid).map(|curve| curve.key_type);
        return found.or((oid == ED25519_OF_GNU).then_some(KeyType::Curve25519));
    }
    let name = PrintableStringRef::from_der(params).ok()?;
    let named = |curve: &&Curve| curve.names.iter().any(|known| known.eq_ignore_ascii_case(name.as_str()));
    CURVES.iter().find(named).map(|curve| curve.key_type)
}

/// `CKA_EC_PARAMS` of a key type: its object identifier. None: it has no curve.
pub fn params(key_type: KeyType) -> Option<Vec<u8>> {
    row(key_type)?.oid.to_der().ok()
}

/// The object identifier of a key type's curve.
pub(crate) fn oid(key_type: KeyType) -> Option<ObjectIdentifier> {
    row(key_type).map(|curve| curve.oid)
}

/// The length of a coordinate in bytes.
pub fn field_bytes(key_type: KeyType) -> Option<usize> {
    row(key_type).map(|curve| curve.field)
}

/// The point in `CKA_EC_POINT`: `04`, x and y, or the 32 bytes of Ed25519. None: it is not one of this curve, or it is
/// compressed.
pub fn point(key_type: KeyType, value: &[u8]) -> Option<Vec<u8>> {
    let curve = row(key_type)?;
    let fits = |bytes: &[u8]| match key_type {
        KeyType::Curve25519 => bytes.len() == curve.field,
        _ => bytes.len() == 1 + 2 * curve.field && bytes.first() == Some(&4),
    };
    // The lengths differ, so that one form is never taken for the other.
    if fits(value) {
        return Some(value.to_vec());
    }
    let inner = <&OctetStringRef>::from_der(value).ok()?.as_bytes();
    fits(inner).then(|| inner.to_vec())
}

/// A point as `CKA_EC_POINT`.
pub fn encoded_point(point: &[u8]) -> Option<Vec<u8>> {
    OctetStringRef::new(point).ok()?.to_der().ok()
}

/// A private scalar with exactly the bytes of its curve: leading zeros are added or left out. None: it is too long, or
/// the type has no curve.
pub(crate) fn scalar(key_type: KeyType, value: &[u8]) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let length = row(key_type)?.scalar;
    if key_type == KeyType::Curve25519 {
        return (value.len() == length).then(|| value.to_vec().into());
    }
    let start = value.iter().position(|byte| *byte != 0)?;
    let digits = value.get(start..)?;
    let zeros = length.checked_sub(digits.len())?;
    let mut scalar = zeroize::Zeroizing::new(Vec::with_capacity(length));
    scalar.resize(zeros, 0);
    scalar.extend_from_slice(digits);
    Some(scalar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_are_read_as_they_are_written_and_by_name() {
        for curve in CURVES {
            assert_eq!(key_type_of(&params(curve.key_type).unwrap()), Some(curve.key_type));
            for name in curve.names {
                let name = PrintableStringRef::new(name).unwrap().to_der().unwrap();
                assert_eq!(key_type_of(&name), Some(curve.key_type));
            }
        }
        // As `openssl ecparam -name prime256v1 -outform DER` and OpenSC write them.
        assert_eq!(params(KeyType::EC_P256).unwrap(), b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07");
        assert_eq!(key_type_of(b"\x13\x0cedwards25519"), Some(KeyType::Curve25519));
        assert_eq!(key_type_of(b"\x06\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01"), Some(KeyType::Curve25519));
        for other in [&b""[..], b"\x06", b"\x06\x03\x2b\x65\x6e", b"\x13\x0acurve25519", b"\x30\x00"] {
            assert_eq!(key_type_of(other), None, "{other:?}");
        }
        assert_eq!(params(KeyType::RSA), None);
    }

    #[test]
    fn points_are_read_raw_and_as_octet_string() {
        for curve in CURVES {
            let mut raw = vec![7; if curve.key_type == KeyType::Curve25519 { 32 } else { 1 + 2 * curve.field }];
            if curve.key_type != KeyType::Curve25519 {
                raw[0] = 4;
            }
            let encoded = encoded_point(&raw).unwrap();
            assert_eq!(encoded[0], 4);
            assert_eq!(point(curve.key_type, &raw).as_ref(), Some(&raw));
            assert_eq!(point(curve.key_type, &encoded).as_ref(), Some(&raw));
            for wrong in [&raw[1..], &encoded[..encoded.len() - 1], &[], &[4], &[4, 0x41]] {
                assert_eq!(point(curve.key_type, wrong), None);
            }
        }
        let mut compressed = vec![2; 33];
        compressed[1] = 9;
        assert_eq!(point(KeyType::EC_P256, &compressed), None);
    }

    #[test]
    fn scalars_get_the_length_of_their_curve() {
        assert_eq!(scalar(KeyType::EC_P521, &[1]).unwrap().len(), 66);
        assert_eq!(scalar(KeyType::EC_P256, &[[0; 4].as_slice(), &[9; 32]].concat()).unwrap().as_slice(), [9; 32]);
        assert!(scalar(KeyType::EC_P256, &[9; 33]).is_none());
        assert!(scalar(KeyType::EC_P256, &[0; 32]).is_none(), "zero is no key");
        assert!(scalar(KeyType::Curve25519, &[1; 31]).is_none());
        assert!(scalar(KeyType::RSA, &[1]).is_none());
    }
}
