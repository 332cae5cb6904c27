//! Public keys in the forms other programs take: JSON Web Keys and OpenSSH.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use casemate_api::KeyType;
use casemate_api::body::keys::{Key, PublicParts};
use serde_json::{Value, json};

use crate::exit::{Failure, local};

/// As a JSON Web Key (RFC 7517, RFC 7518 §6, RFC 8037, RFC 8812); brainpool curves and Generic keys have none.
pub(crate) fn jwk(key: &Key) -> Result<Value, Failure> {
    let curve = match (key.key_type, &key.public) {
        (_, Some(PublicParts::Rsa { modulus, public_exponent })) => {
            return Ok(json!({ "kty": "RSA", "n": url(&decode(modulus)?), "e": url(&decode(public_exponent)?) }));
        }
        (KeyType::Curve25519, Some(PublicParts::Data { data })) => {
            return Ok(json!({ "kty": "OKP", "crv": "Ed25519", "x": url(&decode(data)?) }));
        }
        (KeyType::EC_P256, _) => "P-256",
        (KeyType::EC_P384, _) => "P-384",
        (KeyType::EC_P521, _) => "P-521",
        (KeyType::EC_P256K1, _) => "secp256k1",
        (other, _) => return Err(none(other, "JSON Web Key")),
    };
    let Some(PublicParts::Data { data }) = &key.public else { return Err(none(key.key_type, "JSON Web Key")) };
    let point = decode(data)?;
    // An uncompressed point is 04, x, y (SEC 1 §2.3.3).
    match point.split_first() {
        Some((4, both)) if both.len() % 2 == 0 => {
            let (x, y) = both.split_at(both.len() / 2);
            Ok(json!({ "kty": "EC", "crv": curve, "x": url(x), "y": url(y) }))
        }
        _ => Err(Failure::Local("The HSM's public key is not an uncompressed point.".into())),
    }
}

/// As a line of `authorized_keys` (RFC 4253 §6.6, RFC 5656, RFC 8709).
pub(crate) fn openssh(id: &str, key: &Key) -> Result<String, Failure> {
    let (name, parts) = match (key.key_type, &key.public) {
        (_, Some(PublicParts::Rsa { modulus, public_exponent })) => {
            ("ssh-rsa", vec![mpint(&decode(public_exponent)?), mpint(&decode(modulus)?)])
        }
        (KeyType::Curve25519, Some(PublicParts::Data { data })) => ("ssh-ed25519", vec![decode(data)?]),
        (KeyType::EC_P256, Some(PublicParts::Data { data })) => {
            ("ecdsa-sha2-nistp256", vec![b"nistp256".to_vec(), decode(data)?])
        }
        (KeyType::EC_P384, Some(PublicParts::Data { data })) => {
            ("ecdsa-sha2-nistp384", vec![b"nistp384".to_vec(), decode(data)?])
        }
        (KeyType::EC_P521, Some(PublicParts::Data { data })) => {
            ("ecdsa-sha2-nistp521", vec![b"nistp521".to_vec(), decode(data)?])
        }
        (other, _) => return Err(none(other, "OpenSSH form")),
    };
    let mut blob = Vec::new();
    for part in std::iter::once(name.as_bytes().to_vec()).chain(parts) {
        let length = u32::try_from(part.len()).map_err(local("The public key is too long"))?;
        blob.extend_from_slice(&length.to_be_bytes());
        blob.extend_from_slice(&part);
    }
    // OpenSSH pads its base64.
    Ok(format!("{name} {} {id}", BASE64_STANDARD.encode(blob)))
}

/// A positive integer: a leading zero keeps its top bit from being a sign (RFC 4251 §5).
fn mpint(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let bytes = bytes.get(start..).unwrap_or_default();
    match bytes.first() {
        Some(first) if *first >= 0x80 => [&[0], bytes].concat(),
        _ => bytes.to_vec(),
    }
}

fn decode(text: &str) -> Result<Vec<u8>, Failure> {
    BASE64_STANDARD_NO_PAD.decode(text.trim_end_matches('=')).map_err(local("The HSM's public key is not valid base64"))
}

fn url(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn none(key: KeyType, form: &str) -> Failure {
    Failure::Usage(format!("A key of type {} has no {form}. Use --format pem if it has a public key.", key.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_api::body::keys::Restrictions;

    fn key(key_type: KeyType, data: &[u8]) -> Key {
        Key {
            mechanisms: Vec::new(),
            key_type,
            operations: 0,
            public: Some(PublicParts::Data { data: BASE64_STANDARD.encode(data) }),
            restrictions: Restrictions::default(),
            label: String::new(),
            uid: String::new(),
        }
    }

    #[test]
    fn a_point_is_split_into_its_halves() {
        let point = [&[4][..], &[1; 32], &[2; 32]].concat();
        let jwk = jwk(&key(KeyType::EC_P256, &point)).unwrap();
        assert_eq!(jwk, json!({ "kty": "EC", "crv": "P-256", "x": url(&[1; 32]), "y": url(&[2; 32]) }));
    }

    #[test]
    fn types_without_the_form_say_so() {
        assert!(jwk(&key(KeyType::BrainpoolP256, &[4; 65])).is_err());
        assert!(openssh("k", &key(KeyType::EC_P256K1, &[4; 65])).is_err());
    }

    #[test]
    fn integers_keep_their_sign_and_lose_leading_zeros() {
        assert_eq!(mpint(&[0, 0, 0x7f]), [0x7f]);
        assert_eq!(mpint(&[0x80]), [0, 0x80]);
    }
}
