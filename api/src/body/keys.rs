//! Bodies of `/keys*`.

use serde::{Deserialize, Serialize};

use crate::secret::SecretText;
use crate::words::{DecryptMode, EncryptMode, KeyType, Mechanism, SignMode};

/// One item of `GET /keys`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KeyItem {
    /// The key's id.
    pub id: String,
}

/// What limits the use of a key. Tags in bodies are any strings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Restrictions {
    /// An Operator needs at least one of these; none means any Operator. Sorted in replies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

impl Restrictions {
    /// Whether nothing is restricted.
    pub fn is_none(&self) -> bool {
        self.tags.is_empty()
    }
}

fn is_zero(length: &i64) -> bool {
    *length == 0
}

/// `POST /keys/generate`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GenerateKey {
    /// At least one, all fitting the type.
    pub mechanisms: Vec<Mechanism>,
    /// The key type.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// Bits: RSA 1024 to 8192, Generic 128 to 8192; ignored for the others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub length: i64,
    /// Empty: the server picks one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Default: none.
    #[serde(default, skip_serializing_if = "Restrictions::is_none")]
    pub restrictions: Restrictions,
    /// At most 32 bytes of UTF-8; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
}

/// `PUT /keys/{id}` and `POST /keys` with a JSON body.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ImportKey {
    /// Not compared with the type; what does not fit cannot be used.
    pub mechanisms: Vec<Mechanism>,
    /// The key type.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// The key material.
    pub private: PrivateParts,
    /// Default: none.
    #[serde(default, skip_serializing_if = "Restrictions::is_none")]
    pub restrictions: Restrictions,
    /// At most 32 bytes of UTF-8; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
}

/// Private key material of a JSON import, all members strict padded base64.
#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PrivateParts {
    /// RSA: first prime, big-endian.
    #[serde(default, skip_serializing_if = "SecretText::is_empty")]
    pub prime_p: SecretText,
    /// RSA: second prime, big-endian.
    #[serde(default, skip_serializing_if = "SecretText::is_empty")]
    pub prime_q: SecretText,
    /// RSA: public exponent, big-endian.
    #[serde(default, skip_serializing_if = "SecretText::is_empty")]
    pub public_exponent: SecretText,
    /// EC: scalar of exactly the curve's length, big-endian; Curve25519: 32-byte seed; Generic: the bytes.
    #[serde(default, skip_serializing_if = "SecretText::is_empty")]
    pub data: SecretText,
}

/// First part of a PEM import.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ImportArguments {
    /// Not compared with the type; what does not fit cannot be used.
    pub mechanisms: Vec<Mechanism>,
    /// Default: none.
    #[serde(default, skip_serializing_if = "Restrictions::is_none")]
    pub restrictions: Restrictions,
    /// At most 32 bytes of UTF-8; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
}

/// `GET /keys/{id}`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Key {
    /// In canonical order.
    pub mechanisms: Vec<Mechanism>,
    /// The key type.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// Successful sign, decrypt and encrypt calls.
    pub operations: u64,
    /// Absent for Generic keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<PublicParts>,
    /// Always present; `{}` without tags.
    pub restrictions: Restrictions,
    /// Absent if empty.
    // In an example of NetHSM's OpenAPI document it is null.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub label: String,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Public part of a key.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum PublicParts {
    /// RSA: base64 of big-endian integers without leading zero bytes.
    #[serde(rename_all = "camelCase")]
    Rsa {
        /// n
        modulus: String,
        /// e
        public_exponent: String,
    },
    /// EC: base64 of the uncompressed point; Curve25519: base64 of 32 bytes.
    Data {
        /// The public key.
        data: String,
    },
}

/// `POST /keys/{id}/move`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MoveKey {
    /// The id the key shall have, in the same namespace.
    pub new_id: String,
}

/// `PUT /keys/{id}/label`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetLabel {
    /// At most 32 bytes of UTF-8; empty removes it.
    pub label: String,
}

/// `POST /keys/{id}/sign`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Sign {
    /// What to do.
    pub mode: SignMode,
    /// Base64; newlines are ignored.
    pub message: String,
}

/// Reply of sign.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Signature {
    /// Base64.
    pub signature: String,
}

/// `POST /keys/{id}/decrypt`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Decrypt {
    /// What to do.
    pub mode: DecryptMode,
    /// Base64; newlines are ignored.
    pub encrypted: String,
    /// AES-CBC: base64 of 16 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iv: Option<String>,
}

/// Reply of decrypt. The text wipes itself once it is sent.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Decrypted {
    /// Base64.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub decrypted: zeroize::Zeroizing<String>,
}

/// `POST /keys/{id}/encrypt`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Encrypt {
    /// What to do.
    pub mode: EncryptMode,
    /// Base64; newlines are ignored.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub message: zeroize::Zeroizing<String>,
    /// Base64 of 16 bytes; absent: random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iv: Option<String>,
}

/// Reply of encrypt.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Encrypted {
    /// Base64.
    pub encrypted: String,
    /// Base64 of the initialisation vector that was used.
    pub iv: String,
}

/// `POST /keys/{id}/csr.pem` and `POST /config/tls/csr.pem` (RFC 2986).
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DistinguishedName {
    /// CN
    pub common_name: String,
    /// C
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub country_name: String,
    /// L
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub locality_name: String,
    /// ST
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state_or_province_name: String,
    /// O
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub organization_name: String,
    /// OU
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub organizational_unit_name: String,
    /// emailAddress
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub email_address: String,
    /// Absent: the common name as DNS name. Empty: no extension. `IP:` in front of an address makes it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_alt_names: Option<Vec<String>>,
}
