//! Session objects: public keys, secret keys, certificates and data that live in the module, and the profiles of the
//! provider.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use casemate_api::KeyType;
use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::certificate::Certificate;
use super::{AttributeError, PublicKey, Template, spki, ulong};
use crate::ec;
use crate::rv::Rv;

/// An object of the module.
pub(super) struct LocalObject {
    pub(super) class: CK_OBJECT_CLASS,
    /// The session that it ends with; none: it is a profile.
    pub(super) session: Option<CK_SESSION_HANDLE>,
    attributes: BTreeMap<CK_ATTRIBUTE_TYPE, Zeroizing<Vec<u8>>>,
    pub(super) key_type: Option<KeyType>,
    pub(super) public: Option<PublicKey>,
}

type Attributes = BTreeMap<CK_ATTRIBUTE_TYPE, Zeroizing<Vec<u8>>>;

const FALSE: &[u8] = &[CK_FALSE];
const TRUE: &[u8] = &[CK_TRUE];

impl LocalObject {
    /// The session object of this template, all of whose attributes are known. `generated_by`: the mechanism, if the module has made its value.
    pub(super) fn new(
        session: CK_SESSION_HANDLE,
        template: &Template,
        generated_by: Option<CK_MECHANISM_TYPE>,
    ) -> Result<Self, Rv> {
        let class = template.ulong(CKA_CLASS)?.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
        let mut attributes = Attributes::new();
        for (attribute, value) in template.iter().filter(|(attribute, _)| attribute & CKA_VENDOR_DEFINED == 0) {
            attributes.insert(attribute, value.to_vec().into());
        }
        let mut object = Self { class, session: Some(session), attributes, key_type: None, public: None };
        object.default(CKA_TOKEN, FALSE);
        object.default(CKA_MODIFIABLE, TRUE);
        object.default(CKA_COPYABLE, TRUE);
        object.default(CKA_DESTROYABLE, TRUE);
        object.default(CKA_LABEL, b"");
        object.default(CKA_PRIVATE, if class == CKO_SECRET_KEY { TRUE } else { FALSE });
        match class {
            CKO_DATA => {
                for attribute in [CKA_APPLICATION, CKA_OBJECT_ID, CKA_VALUE] {
                    object.default(attribute, b"");
                }
            }
            CKO_CERTIFICATE => object.complete_certificate(template)?,
            CKO_PUBLIC_KEY => object.complete_public(template, generated_by)?,
            CKO_SECRET_KEY => object.complete_secret(template, generated_by)?,
            _ => return Err(Rv(CKR_TEMPLATE_INCONSISTENT)),
        }
        Ok(object)
    }

    /// A profile that the module conforms to.
    pub(super) fn profile(id: CK_PROFILE_ID) -> Self {
        let mut object =
            Self { class: CKO_PROFILE, session: None, attributes: Attributes::new(), key_type: None, public: None };
        object.default(CKA_CLASS, &ulong(CKO_PROFILE));
        object.default(CKA_PROFILE_ID, &ulong(id));
        object.default(CKA_TOKEN, TRUE);
        for flag in [CKA_PRIVATE, CKA_MODIFIABLE, CKA_COPYABLE, CKA_DESTROYABLE] {
            object.default(flag, FALSE);
        }
        object.default(CKA_LABEL, b"");
        object
    }

    fn default(&mut self, attribute: CK_ATTRIBUTE_TYPE, value: &[u8]) {
        self.attributes.entry(attribute).or_insert_with(|| value.to_vec().into());
    }

    fn complete_key(&mut self, generated_by: Option<CK_MECHANISM_TYPE>) {
        for attribute in [CKA_ID, CKA_START_DATE, CKA_END_DATE] {
            self.default(attribute, b"");
        }
        self.default(CKA_DERIVE, FALSE);
        self.default(CKA_LOCAL, if generated_by.is_some() { TRUE } else { FALSE });
        self.default(CKA_KEY_GEN_MECHANISM, &ulong(generated_by.unwrap_or(CK_UNAVAILABLE_INFORMATION)));
    }

    fn complete_public(&mut self, template: &Template, generated_by: Option<CK_MECHANISM_TYPE>) -> Result<(), Rv> {
        let public = public_key(template)?;
        self.key_type = Some(match &public {
            PublicKey::Rsa { .. } => KeyType::RSA,
            PublicKey::Ec { curve, .. } => *curve,
            PublicKey::Ed25519(_) => KeyType::Curve25519,
        });
        self.complete_key(generated_by);
        self.default(CKA_SUBJECT, b"");
        // Silence about use means every use of the type, as with keys of the server.
        let rsa = matches!(public, PublicKey::Rsa { .. });
        let some = template.bool(CKA_VERIFY)? == Some(true) || template.bool(CKA_ENCRYPT)? == Some(true);
        self.default(CKA_VERIFY, if some { FALSE } else { TRUE });
        self.default(CKA_ENCRYPT, if some || !rsa { FALSE } else { TRUE });
        for flag in [CKA_VERIFY_RECOVER, CKA_WRAP, CKA_TRUSTED] {
            self.default(flag, FALSE);
        }
        match &public {
            PublicKey::Rsa { modulus, exponent } => {
                self.attributes.insert(CKA_MODULUS, modulus.clone().into());
                self.attributes.insert(CKA_PUBLIC_EXPONENT, exponent.clone().into());
                self.attributes.insert(CKA_MODULUS_BITS, ulong(bits(modulus)).to_vec().into());
            }
            PublicKey::Ec { point, .. } | PublicKey::Ed25519(point) => {
                let point = ec::encoded_point(point).ok_or(Rv(CKR_ATTRIBUTE_VALUE_INVALID))?;
                self.attributes.insert(CKA_EC_POINT, point.into());
            }
        }
        if let Some(info) = spki(&public) {
            self.default(CKA_PUBLIC_KEY_INFO, &info);
        }
        self.public = Some(public);
        Ok(())
    }

    fn complete_secret(&mut self, template: &Template, generated_by: Option<CK_MECHANISM_TYPE>) -> Result<(), Rv> {
        let key_type = template.ulong(CKA_KEY_TYPE)?.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
        let length = template.bytes(CKA_VALUE).ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?.len();
        if length == 0 || key_type == CKK_AES && !matches!(length, 16 | 24 | 32) {
            return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
        }
        if key_type != CKK_AES && !is_hmac(key_type) {
            return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
        }
        self.complete_key(generated_by);
        self.attributes.insert(CKA_VALUE_LEN, ulong(length as CK_ULONG).to_vec().into());
        let uses: &[CK_ATTRIBUTE_TYPE] = match key_type {
            CKK_AES => &[CKA_ENCRYPT, CKA_DECRYPT],
            _ => &[CKA_SIGN, CKA_VERIFY],
        };
        let mut some = false;
        for flag in uses {
            some |= template.bool(*flag)? == Some(true);
        }
        for flag in [CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY] {
            self.default(flag, if !some && uses.contains(&flag) { TRUE } else { FALSE });
        }
        for flag in [CKA_WRAP, CKA_UNWRAP, CKA_WRAP_WITH_TRUSTED, CKA_TRUSTED] {
            self.default(flag, FALSE);
        }
        let sensitive = template.bool(CKA_SENSITIVE)? == Some(true);
        let extractable = template.bool(CKA_EXTRACTABLE)? != Some(false);
        self.default(CKA_SENSITIVE, FALSE);
        self.default(CKA_EXTRACTABLE, TRUE);
        let always = |is: bool| if is && generated_by.is_some() { TRUE } else { FALSE };
        self.default(CKA_ALWAYS_SENSITIVE, always(sensitive));
        self.default(CKA_NEVER_EXTRACTABLE, always(!extractable));
        Ok(())
    }

    fn complete_certificate(&mut self, template: &Template) -> Result<(), Rv> {
        if template.ulong(CKA_CERTIFICATE_TYPE)?.is_some_and(|given| given != CKC_X_509) {
            return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
        }
        let value = template.bytes(CKA_VALUE).ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
        let certificate = Certificate::read(value).ok_or(Rv(CKR_ATTRIBUTE_VALUE_INVALID))?;
        self.default(CKA_CERTIFICATE_TYPE, &ulong(CKC_X_509));
        self.default(CKA_CERTIFICATE_CATEGORY, &ulong(CK_CERTIFICATE_CATEGORY_UNSPECIFIED));
        self.default(CKA_TRUSTED, FALSE);
        self.default(CKA_ID, b"");
        self.default(CKA_SUBJECT, &certificate.subject);
        self.default(CKA_ISSUER, &certificate.issuer);
        self.default(CKA_SERIAL_NUMBER, &certificate.serial_number);
        self.default(CKA_START_DATE, &certificate.start_date);
        self.default(CKA_END_DATE, &certificate.end_date);
        self.default(CKA_PUBLIC_KEY_INFO, &certificate.public_key_info);
        Ok(())
    }

    /// The value of an attribute.
    pub(super) fn value(&self, attribute: CK_ATTRIBUTE_TYPE) -> Result<Vec<u8>, AttributeError> {
        if attribute == CKA_VALUE
            && self.class == CKO_SECRET_KEY
            && (self.is(CKA_SENSITIVE) || !self.is(CKA_EXTRACTABLE))
        {
            return Err(AttributeError::Sensitive);
        }
        self.attributes.get(&attribute).map(|value| value.to_vec()).ok_or(AttributeError::Unknown)
    }

    /// Whether a boolean attribute is true.
    pub(super) fn is(&self, attribute: CK_ATTRIBUTE_TYPE) -> bool {
        self.attributes.get(&attribute).is_some_and(|value| value.as_slice() == TRUE)
    }

    /// The value of a secret key.
    pub(super) fn secret(&self) -> Option<&[u8]> {
        let secret = self.class == CKO_SECRET_KEY;
        self.attributes.get(&CKA_VALUE).filter(|_| secret).map(|value| value.as_slice())
    }

    /// A copy for `session` with `changes`, which may make it more protected but not less.
    pub(super) fn copied(&self, session: CK_SESSION_HANDLE, changes: &Template) -> Result<Self, Rv> {
        let mut attributes = self.attributes.clone();
        for (attribute, value) in changes.iter() {
            let current = attributes.get(&attribute).map(|current| current.as_slice());
            if current == Some(value) {
                continue;
            }
            let allowed = match attribute {
                CKA_LABEL | CKA_ID | CKA_SUBJECT | CKA_PRIVATE | CKA_MODIFIABLE | CKA_DESTROYABLE | CKA_COPYABLE
                | CKA_START_DATE | CKA_END_DATE => is_known(self.class, attribute),
                CKA_SENSITIVE => value == TRUE,
                CKA_EXTRACTABLE => value == FALSE,
                // Whom to trust is said by the SO, and nowhere kept; where an object lives, by its creation.
                CKA_ENCRYPT | CKA_DECRYPT | CKA_SIGN | CKA_SIGN_RECOVER | CKA_VERIFY | CKA_VERIFY_RECOVER
                | CKA_WRAP | CKA_UNWRAP | CKA_DERIVE | CKA_ENCAPSULATE | CKA_DECAPSULATE => {
                    self.attributes.contains_key(&attribute)
                }
                CKA_WRAP_WITH_TRUSTED => value == TRUE,
                _ => false,
            };
            if !allowed {
                let known = is_known(self.class, attribute);
                return Err(Rv(if known { CKR_ATTRIBUTE_READ_ONLY } else { CKR_ATTRIBUTE_TYPE_INVALID }));
            }
            attributes.insert(attribute, value.to_vec().into());
        }
        for flag in FLAGS {
            changes.bool(*flag)?;
        }
        Ok(Self {
            class: self.class,
            session: Some(session),
            attributes,
            key_type: self.key_type,
            public: self.public.clone(),
        })
    }
}

/// The module computes with public keys of anybody, such as that of a certificate from the network: with these it takes
/// milliseconds. FIPS 186-5 has longer exponents, which nobody uses.
const RSA_MODULUS_BITS: RangeInclusive<CK_ULONG> = 1024..=16384;
const RSA_EXPONENT_BITS: RangeInclusive<CK_ULONG> = 2..=33;

/// The public key of a template, or of a private key's.
pub(super) fn public_key(template: &Template) -> Result<PublicKey, Rv> {
    let incomplete = Rv(CKR_TEMPLATE_INCOMPLETE);
    match template.ulong(CKA_KEY_TYPE)?.ok_or(incomplete)? {
        CKK_RSA => {
            let modulus = template.bytes(CKA_MODULUS).ok_or(incomplete)?;
            let exponent = template.bytes(CKA_PUBLIC_EXPONENT).ok_or(incomplete)?;
            let (modulus, exponent) = (trimmed(modulus), trimmed(exponent));
            let odd = exponent.last().is_some_and(|last| last % 2 == 1);
            if !RSA_MODULUS_BITS.contains(&bits(modulus)) || !RSA_EXPONENT_BITS.contains(&bits(exponent)) || !odd {
                return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
            }
            Ok(PublicKey::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() })
        }
        CKK_EC | CKK_EC_EDWARDS => {
            let curve = ec::key_type_of(template.bytes(CKA_EC_PARAMS).ok_or(incomplete)?);
            let curve = curve.ok_or(Rv(CKR_CURVE_NOT_SUPPORTED))?;
            let point = ec::point(curve, template.bytes(CKA_EC_POINT).ok_or(incomplete)?);
            let point = point.ok_or(Rv(CKR_ATTRIBUTE_VALUE_INVALID))?;
            Ok(if curve == KeyType::Curve25519 { PublicKey::Ed25519(point) } else { PublicKey::Ec { curve, point } })
        }
        _ => Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)),
    }
}

/// A big-endian integer without leading zeros.
pub(super) fn trimmed(integer: &[u8]) -> &[u8] {
    let start = integer.iter().position(|byte| *byte != 0).unwrap_or(integer.len());
    integer.get(start..).unwrap_or_default()
}

/// The length of a big-endian integer without leading zero bytes.
pub(crate) fn bits(integer: &[u8]) -> CK_ULONG {
    let zeros = integer.first().map_or(0, |byte| byte.leading_zeros());
    8 * integer.len() as CK_ULONG - CK_ULONG::from(zeros)
}

fn is_hmac(key_type: CK_KEY_TYPE) -> bool {
    matches!(
        key_type,
        CKK_GENERIC_SECRET | CKK_SHA_1_HMAC | CKK_SHA224_HMAC | CKK_SHA256_HMAC | CKK_SHA384_HMAC | CKK_SHA512_HMAC
    )
}

/// Attributes that are true or false.
pub(super) const FLAGS: &[CK_ATTRIBUTE_TYPE] = &[
    CKA_TOKEN,
    CKA_PRIVATE,
    CKA_MODIFIABLE,
    CKA_COPYABLE,
    CKA_DESTROYABLE,
    CKA_SENSITIVE,
    CKA_EXTRACTABLE,
    CKA_ENCRYPT,
    CKA_DECRYPT,
    CKA_SIGN,
    CKA_SIGN_RECOVER,
    CKA_VERIFY,
    CKA_VERIFY_RECOVER,
    CKA_WRAP,
    CKA_UNWRAP,
    CKA_DERIVE,
    CKA_WRAP_WITH_TRUSTED,
    CKA_TRUSTED,
    CKA_ALWAYS_AUTHENTICATE,
    CKA_ENCAPSULATE,
    CKA_DECAPSULATE,
];

/// Whether objects of a class have an attribute that an application may give. Nested templates (`CKA_WRAP_TEMPLATE` and its
/// like) are none of them: nothing is wrapped or derived here, and their values are pointers into the application.
pub(super) fn is_known(class: CK_OBJECT_CLASS, attribute: CK_ATTRIBUTE_TYPE) -> bool {
    let common = matches!(
        attribute,
        CKA_CLASS | CKA_TOKEN | CKA_PRIVATE | CKA_MODIFIABLE | CKA_COPYABLE | CKA_DESTROYABLE | CKA_LABEL
    );
    let of_keys = matches!(
        attribute,
        CKA_KEY_TYPE | CKA_ID | CKA_START_DATE | CKA_END_DATE | CKA_DERIVE | CKA_ALLOWED_MECHANISMS
    );
    common
        || match class {
            CKO_DATA => matches!(attribute, CKA_APPLICATION | CKA_OBJECT_ID | CKA_VALUE),
            CKO_CERTIFICATE => matches!(
                attribute,
                CKA_CERTIFICATE_TYPE
                    | CKA_CERTIFICATE_CATEGORY
                    | CKA_TRUSTED
                    | CKA_CHECK_VALUE
                    | CKA_START_DATE
                    | CKA_END_DATE
                    | CKA_PUBLIC_KEY_INFO
                    | CKA_SUBJECT
                    | CKA_ID
                    | CKA_ISSUER
                    | CKA_SERIAL_NUMBER
                    | CKA_VALUE
                    | CKA_URL
                    | CKA_HASH_OF_SUBJECT_PUBLIC_KEY
                    | CKA_HASH_OF_ISSUER_PUBLIC_KEY
                    | CKA_JAVA_MIDP_SECURITY_DOMAIN
                    | CKA_NAME_HASH_ALGORITHM
            ),
            CKO_PUBLIC_KEY => {
                of_keys
                    || matches!(
                        attribute,
                        CKA_SUBJECT
                            | CKA_ENCRYPT
                            | CKA_VERIFY
                            | CKA_VERIFY_RECOVER
                            | CKA_WRAP
                            | CKA_TRUSTED
                            | CKA_PUBLIC_KEY_INFO
                            | CKA_ENCAPSULATE
                            | CKA_MODULUS
                            | CKA_MODULUS_BITS
                            | CKA_PUBLIC_EXPONENT
                            | CKA_EC_PARAMS
                            | CKA_EC_POINT
                    )
            }
            CKO_PRIVATE_KEY => {
                of_keys
                    || matches!(
                        attribute,
                        CKA_SUBJECT
                            | CKA_SENSITIVE
                            | CKA_DECRYPT
                            | CKA_SIGN
                            | CKA_SIGN_RECOVER
                            | CKA_UNWRAP
                            | CKA_EXTRACTABLE
                            | CKA_WRAP_WITH_TRUSTED
                            | CKA_ALWAYS_AUTHENTICATE
                            | CKA_PUBLIC_KEY_INFO
                            | CKA_DECAPSULATE
                            | CKA_MODULUS
                            | CKA_PUBLIC_EXPONENT
                            | CKA_PRIVATE_EXPONENT
                            | CKA_PRIME_1
                            | CKA_PRIME_2
                            | CKA_EXPONENT_1
                            | CKA_EXPONENT_2
                            | CKA_COEFFICIENT
                            | CKA_EC_PARAMS
                            | CKA_EC_POINT
                            | CKA_VALUE
                            // Some applications give it with the private half.
                            | CKA_MODULUS_BITS
                    )
            }
            CKO_SECRET_KEY => {
                of_keys
                    || matches!(
                        attribute,
                        CKA_SENSITIVE
                            | CKA_ENCRYPT
                            | CKA_DECRYPT
                            | CKA_SIGN
                            | CKA_VERIFY
                            | CKA_WRAP
                            | CKA_UNWRAP
                            | CKA_EXTRACTABLE
                            | CKA_CHECK_VALUE
                            | CKA_WRAP_WITH_TRUSTED
                            | CKA_TRUSTED
                            | CKA_VALUE
                            | CKA_VALUE_LEN
                    )
            }
            _ => false,
        }
}
