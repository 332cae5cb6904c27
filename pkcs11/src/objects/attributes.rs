//! The attributes of objects (PKCS#11 3.2 §4). Nothing here asks the server: what an object shows was read when it was
//! found.

use casemate_api::KeyType;
use cryptoki_sys::*;
use der::Encode;
use der::asn1::{BitStringRef, Null, ObjectIdentifier, UintRef};

use super::key::TokenKey;
use super::local::bits;
use super::{AttributeError, Part, PublicKey, id, ulong, usage};
use crate::ec;

type Value = Result<Vec<u8>, AttributeError>;

/// The value of an attribute of a key's object.
pub(super) fn value(key: &TokenKey, part: Part, alias: bool, attribute: CK_ATTRIBUTE_TYPE) -> Value {
    let common = match attribute {
        CKA_CLASS => number(class(key, part)),
        CKA_TOKEN => flag(!alias && key.status(|status| status.session.is_none())),
        CKA_PRIVATE => flag(is_private(part)),
        CKA_MODIFIABLE | CKA_DESTROYABLE => flag(true),
        // The private half cannot leave the HSM, and a server has each key once.
        CKA_COPYABLE => flag(!is_private(part)),
        CKA_LABEL => Ok(label(key).into_bytes()),
        CKA_ID => Ok(id::of_key(&key.name().id)),
        CKA_UNIQUE_ID => Ok(match key.uid {
            Some(uid) => format!("{}:{uid:032x}", part.name()),
            None => format!("{}:{}", part.name(), key.name().id),
        }
        .into_bytes()),
        CKA_SUBJECT => Ok(key.certificate().map(|certificate| certificate.subject.clone()).unwrap_or_default()),
        _ => Err(AttributeError::Unknown),
    };
    match part {
        Part::Certificate => match attribute {
            CKA_CLASS | CKA_TOKEN | CKA_PRIVATE | CKA_MODIFIABLE | CKA_DESTROYABLE | CKA_COPYABLE | CKA_LABEL
            | CKA_ID | CKA_UNIQUE_ID | CKA_SUBJECT => common,
            _ => of_certificate(key, attribute),
        },
        Part::Private if key.key_type == KeyType::Generic => match attribute {
            CKA_SUBJECT => Err(AttributeError::Unknown),
            _ => common.or_else(|_| of_secret(key, attribute)),
        },
        Part::Private => common.or_else(|_| of_private(key, attribute)),
        Part::Public => common.or_else(|_| of_public(key, attribute)),
    }
}

/// The uid in a `CKA_UNIQUE_ID`.
pub(super) fn uid_in(unique_id: &[u8]) -> Option<u128> {
    let (_, digits) = str::from_utf8(unique_id).ok()?.split_once(':')?;
    u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32)
}

/// The class of an object.
pub(super) fn class(key: &TokenKey, part: Part) -> CK_OBJECT_CLASS {
    match part {
        Part::Private if key.key_type == KeyType::Generic => CKO_SECRET_KEY,
        Part::Private => CKO_PRIVATE_KEY,
        Part::Public => CKO_PUBLIC_KEY,
        Part::Certificate => CKO_CERTIFICATE,
    }
}

/// Whether an object is seen only after a login.
pub(super) fn is_private(part: Part) -> bool {
    part == Part::Private
}

/// The label; of a key without one its id, unless that is a `CKA_ID` in hex, so that no key is without a name.
pub(super) fn label(key: &TokenKey) -> String {
    let name = key.name();
    if !name.label.is_empty() {
        return name.label;
    }
    if id::is_encoded(&name.id) { String::new() } else { name.id.as_str().to_owned() }
}

/// The standard's type of a key.
fn key_type(key: &TokenKey) -> CK_KEY_TYPE {
    match key.key_type {
        KeyType::RSA => CKK_RSA,
        KeyType::Curve25519 => CKK_EC_EDWARDS,
        KeyType::Generic if is_aes(key) => CKK_AES,
        KeyType::Generic => CKK_GENERIC_SECRET,
        _ => CKK_EC,
    }
}

fn is_aes(key: &TokenKey) -> bool {
    usage::can(&key.mechanisms, key.key_type, CKA_ENCRYPT) || usage::can(&key.mechanisms, key.key_type, CKA_DECRYPT)
}

/// What private, secret and public keys have alike.
fn of_any_key(key: &TokenKey, attribute: CK_ATTRIBUTE_TYPE) -> Value {
    match attribute {
        CKA_KEY_TYPE => number(key_type(key)),
        CKA_START_DATE | CKA_END_DATE => Ok(Vec::new()),
        CKA_DERIVE => flag(false),
        // Servers do not tell where a key comes from: only what this module has made is called so.
        CKA_LOCAL => flag(key.generated_by.is_some()),
        CKA_KEY_GEN_MECHANISM => number(key.generated_by.unwrap_or(CK_UNAVAILABLE_INFORMATION)),
        CKA_ALLOWED_MECHANISMS => {
            let allowed = usage::allowed(key.key_type, &key.mechanisms);
            Ok(allowed.into_iter().flat_map(CK_MECHANISM_TYPE::to_ne_bytes).collect())
        }
        _ => Err(AttributeError::Unknown),
    }
}

/// What private and secret keys have alike: the value stays in the HSM.
fn of_protected(key: &TokenKey, attribute: CK_ATTRIBUTE_TYPE) -> Value {
    match attribute {
        CKA_SENSITIVE => flag(true),
        CKA_EXTRACTABLE | CKA_UNWRAP | CKA_WRAP_WITH_TRUSTED => flag(false),
        CKA_ALWAYS_SENSITIVE | CKA_NEVER_EXTRACTABLE => flag(key.generated_by.is_some()),
        CKA_SIGN | CKA_DECRYPT => flag(usage::can(&key.mechanisms, key.key_type, attribute)),
        CKA_VALUE => Err(AttributeError::Sensitive),
        _ => of_any_key(key, attribute),
    }
}

fn of_private(key: &TokenKey, attribute: CK_ATTRIBUTE_TYPE) -> Value {
    match attribute {
        CKA_SIGN_RECOVER | CKA_ALWAYS_AUTHENTICATE | CKA_DECAPSULATE => flag(false),
        CKA_PRIVATE_EXPONENT | CKA_PRIME_1 | CKA_PRIME_2 | CKA_EXPONENT_1 | CKA_EXPONENT_2 | CKA_COEFFICIENT
            if key.key_type == KeyType::RSA =>
        {
            Err(AttributeError::Sensitive)
        }
        CKA_VALUE if key.key_type == KeyType::RSA => Err(AttributeError::Unknown),
        // Applications look for the halves of a pair by them, on either side.
        CKA_MODULUS | CKA_MODULUS_BITS | CKA_PUBLIC_EXPONENT | CKA_EC_PARAMS | CKA_EC_POINT | CKA_PUBLIC_KEY_INFO => {
            of_public_parts(key, attribute)
        }
        _ => of_protected(key, attribute),
    }
}

fn of_secret(key: &TokenKey, attribute: CK_ATTRIBUTE_TYPE) -> Value {
    match attribute {
        CKA_ENCRYPT => flag(usage::can(&key.mechanisms, key.key_type, CKA_ENCRYPT)),
        CKA_VERIFY | CKA_WRAP | CKA_TRUSTED => flag(false),
        CKA_VALUE_LEN => number(key.value_bytes.ok_or(AttributeError::Unknown)? as CK_ULONG),
        _ => of_protected(key, attribute),
    }
}

fn of_public(key: &TokenKey, attribute: CK_ATTRIBUTE_TYPE) -> Value {
    match attribute {
        CKA_VERIFY => flag(usage::can(&key.mechanisms, key.key_type, CKA_SIGN)),
        CKA_ENCRYPT => flag(usage::can(&key.mechanisms, key.key_type, CKA_DECRYPT)),
        CKA_VERIFY_RECOVER | CKA_WRAP | CKA_TRUSTED | CKA_ENCAPSULATE => flag(false),
        CKA_MODULUS | CKA_MODULUS_BITS | CKA_PUBLIC_EXPONENT | CKA_EC_PARAMS | CKA_EC_POINT | CKA_PUBLIC_KEY_INFO => {
            of_public_parts(key, attribute)
        }
        _ => of_any_key(key, attribute),
    }
}

fn of_public_parts(key: &TokenKey, attribute: CK_ATTRIBUTE_TYPE) -> Value {
    let public = key.public.as_ref().ok_or(AttributeError::Unknown)?;
    match (attribute, public) {
        (CKA_PUBLIC_KEY_INFO, _) => spki(public).ok_or(AttributeError::Unknown),
        (CKA_MODULUS, PublicKey::Rsa { modulus, .. }) => Ok(modulus.clone()),
        (CKA_MODULUS_BITS, PublicKey::Rsa { modulus, .. }) => number(bits(modulus)),
        (CKA_PUBLIC_EXPONENT, PublicKey::Rsa { exponent, .. }) => Ok(exponent.clone()),
        (CKA_EC_PARAMS, PublicKey::Ec { .. } | PublicKey::Ed25519(_)) => {
            ec::params(key.key_type).ok_or(AttributeError::Unknown)
        }
        (CKA_EC_POINT, PublicKey::Ec { point, .. } | PublicKey::Ed25519(point)) => {
            ec::encoded_point(point).ok_or(AttributeError::Unknown)
        }
        _ => Err(AttributeError::Unknown),
    }
}

fn of_certificate(key: &TokenKey, attribute: CK_ATTRIBUTE_TYPE) -> Value {
    let certificate = key.certificate().ok_or(AttributeError::Unknown)?;
    match attribute {
        CKA_CERTIFICATE_TYPE => number(CKC_X_509),
        // It belongs to a key that is here.
        CKA_CERTIFICATE_CATEGORY => number(CK_CERTIFICATE_CATEGORY_TOKEN_USER),
        CKA_TRUSTED => flag(false),
        CKA_VALUE => Ok(certificate.der.clone()),
        CKA_ISSUER => Ok(certificate.issuer.clone()),
        CKA_SERIAL_NUMBER => Ok(certificate.serial_number.clone()),
        CKA_PUBLIC_KEY_INFO => Ok(certificate.public_key_info.clone()),
        CKA_START_DATE => Ok(certificate.start_date.to_vec()),
        CKA_END_DATE => Ok(certificate.end_date.to_vec()),
        CKA_URL | CKA_HASH_OF_SUBJECT_PUBLIC_KEY | CKA_HASH_OF_ISSUER_PUBLIC_KEY => Ok(Vec::new()),
        CKA_JAVA_MIDP_SECURITY_DOMAIN => number(0),
        _ => Err(AttributeError::Unknown),
    }
}

fn flag(is: bool) -> Value {
    Ok(vec![CK_BBOOL::from(is)])
}

fn number(number: CK_ULONG) -> Value {
    Ok(ulong(number).to_vec())
}

/// `rsaEncryption` (RFC 8017 §A.1) and `id-ecPublicKey` (RFC 5480 §2.1.1).
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// The public key as SubjectPublicKeyInfo in DER (RFC 5280 §4.1, RFC 8410 §4).
pub(crate) fn spki(public: &PublicKey) -> Option<Vec<u8>> {
    use x509_cert::spki::{AlgorithmIdentifier, SubjectPublicKeyInfo};
    match public {
        PublicKey::Rsa { modulus, exponent } => {
            let parts = vec![UintRef::new(modulus).ok()?, UintRef::new(exponent).ok()?];
            let algorithm = AlgorithmIdentifier { oid: RSA, parameters: Some(Null) };
            let parts = parts.to_der().ok()?;
            SubjectPublicKeyInfo { algorithm, subject_public_key: BitStringRef::from_bytes(&parts).ok()? }.to_der().ok()
        }
        PublicKey::Ec { curve, point } => {
            let algorithm = AlgorithmIdentifier { oid: EC, parameters: Some(ec::oid(*curve)?) };
            SubjectPublicKeyInfo { algorithm, subject_public_key: BitStringRef::from_bytes(point).ok()? }.to_der().ok()
        }
        PublicKey::Ed25519(point) => {
            let algorithm = AlgorithmIdentifier::<Null> { oid: ec::oid(KeyType::Curve25519)?, parameters: None };
            SubjectPublicKeyInfo { algorithm, subject_public_key: BitStringRef::from_bytes(point).ok()? }.to_der().ok()
        }
    }
}

/// Every attribute that an object may show, for `C_GetObjectSize` and `C_CopyObject`.
pub(super) const ALL: &[CK_ATTRIBUTE_TYPE] = &[
    CKA_CLASS,
    CKA_TOKEN,
    CKA_PRIVATE,
    CKA_MODIFIABLE,
    CKA_COPYABLE,
    CKA_DESTROYABLE,
    CKA_LABEL,
    CKA_UNIQUE_ID,
    CKA_ID,
    CKA_SUBJECT,
    CKA_KEY_TYPE,
    CKA_START_DATE,
    CKA_END_DATE,
    CKA_DERIVE,
    CKA_LOCAL,
    CKA_KEY_GEN_MECHANISM,
    CKA_ALLOWED_MECHANISMS,
    CKA_SENSITIVE,
    CKA_EXTRACTABLE,
    CKA_ALWAYS_SENSITIVE,
    CKA_NEVER_EXTRACTABLE,
    CKA_ENCRYPT,
    CKA_DECRYPT,
    CKA_SIGN,
    CKA_SIGN_RECOVER,
    CKA_VERIFY,
    CKA_VERIFY_RECOVER,
    CKA_WRAP,
    CKA_UNWRAP,
    CKA_WRAP_WITH_TRUSTED,
    CKA_TRUSTED,
    CKA_ALWAYS_AUTHENTICATE,
    CKA_MODULUS,
    CKA_MODULUS_BITS,
    CKA_PUBLIC_EXPONENT,
    CKA_EC_PARAMS,
    CKA_EC_POINT,
    CKA_PUBLIC_KEY_INFO,
    CKA_CERTIFICATE_TYPE,
    CKA_CERTIFICATE_CATEGORY,
    CKA_ISSUER,
    CKA_SERIAL_NUMBER,
    CKA_URL,
    CKA_APPLICATION,
    CKA_OBJECT_ID,
    CKA_VALUE,
    CKA_VALUE_LEN,
    CKA_PROFILE_ID,
];
