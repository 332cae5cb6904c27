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

/// Restrictions on the use of a key. Tags in bodies are any strings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Restrictions {
    /// Operators need at least one of these tags; empty: any Operator. Sorted in replies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

impl Restrictions {
    /// Whether there are no restrictions.
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
    /// At least one; all must be possible for the key type.
    pub mechanisms: Vec<Mechanism>,
    /// The key type.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// Key length in bits: RSA 1024 to 8192, Generic 128 to 8192; ignored for other types.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub length: i64,
    /// The id of the key; empty: the server chooses one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Restrictions on its use; default: none.
    #[serde(default, skip_serializing_if = "Restrictions::is_none")]
    pub restrictions: Restrictions,
    /// A label of at most 32 bytes of UTF-8; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
}

/// `PUT /keys/{id}` and `POST /keys` with a JSON body.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ImportKey {
    /// Not checked against the key type; mechanisms that do not fit cannot be used.
    pub mechanisms: Vec<Mechanism>,
    /// The key type.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// The key material.
    pub private: PrivateParts,
    /// Restrictions on its use; default: none.
    #[serde(default, skip_serializing_if = "Restrictions::is_none")]
    pub restrictions: Restrictions,
    /// A label of at most 32 bytes of UTF-8; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
}

/// Private key material of a JSON import; all members are strict, padded base64.
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
    /// Not checked against the key type; mechanisms that do not fit cannot be used.
    pub mechanisms: Vec<Mechanism>,
    /// Restrictions on its use; default: none.
    #[serde(default, skip_serializing_if = "Restrictions::is_none")]
    pub restrictions: Restrictions,
    /// A label of at most 32 bytes of UTF-8; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
}

/// `GET /keys/{id}`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Key {
    /// In the order of the mechanism table.
    pub mechanisms: Vec<Mechanism>,
    /// The key type.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// Number of successful sign, decrypt and encrypt calls.
    pub operations: u64,
    /// The public key; absent for Generic keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<PublicParts>,
    /// Restrictions on its use; always present, `{}` without tags.
    pub restrictions: Restrictions,
    /// The label; absent if empty.
    // An example in NetHSM's OpenAPI document has null.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Identifies the key: 32 hexadecimal digits that stay the same when it is renamed and are never given to another key. A restore
    /// gives all keys new ones. Ours; empty: a NetHSM, which has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// One item of `GET /keys?details`, which is ours: what `GET /keys/{id}` tells but the number of uses, which would change all the time.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KeyDetails {
    /// The key's id.
    pub id: String,
    /// As in [`Key::uid`].
    pub uid: String,
    /// In the order of the mechanism table.
    pub mechanisms: Vec<Mechanism>,
    /// The key type.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// The public key; absent for Generic keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<PublicParts>,
    /// Restrictions on its use; always present, `{}` without tags.
    pub restrictions: Restrictions,
    /// The label; absent if empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Whether `GET /keys/{id}/cert` has something to answer.
    pub certificate: bool,
}

/// The items of `GET /keys`: all of one kind.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum KeyList {
    /// With `details`.
    Details(Vec<KeyDetails>),
    /// Otherwise.
    Ids(Vec<KeyItem>),
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Public part of a key.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum PublicParts {
    /// RSA: base64 of big-endian integers without leading zero bytes.
    #[serde(rename_all = "camelCase")]
    Rsa {
        /// Modulus n.
        modulus: String,
        /// Public exponent e.
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
    /// The new id of the key, in the same namespace.
    pub new_id: String,
}

/// `PUT /keys/{id}/label`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetLabel {
    /// A label of at most 32 bytes of UTF-8; empty removes it.
    pub label: String,
}

/// `POST /keys/{id}/sign`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Sign {
    /// Operation and padding.
    pub mode: SignMode,
    /// Message or digest in base64; newlines are ignored.
    pub message: String,
}

/// Reply of `POST /keys/{id}/sign`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Signature {
    /// The signature in base64.
    pub signature: String,
}

/// `POST /keys/{id}/decrypt`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Decrypt {
    /// Operation and padding.
    pub mode: DecryptMode,
    /// Ciphertext in base64; newlines are ignored.
    pub encrypted: String,
    /// AES-CBC only: base64 of the 16-byte initialisation vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iv: Option<String>,
}

/// Reply of `POST /keys/{id}/decrypt`. The text is wiped when it has been sent.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Decrypted {
    /// The plaintext in base64.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub decrypted: zeroize::Zeroizing<String>,
}

/// `POST /keys/{id}/encrypt`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Encrypt {
    /// Operation and padding.
    pub mode: EncryptMode,
    /// Message in base64; newlines are ignored.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub message: zeroize::Zeroizing<String>,
    /// Base64 of the 16-byte initialisation vector; absent: random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iv: Option<String>,
}

/// Reply of `POST /keys/{id}/encrypt`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Encrypted {
    /// The ciphertext in base64.
    pub encrypted: String,
    /// Base64 of the initialisation vector.
    pub iv: String,
}

/// `POST /keys/{id}/csr.pem` and `POST /config/tls/csr.pem` (RFC 2986).
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DistinguishedName {
    /// Common name (CN).
    pub common_name: String,
    /// Country (C).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub country_name: String,
    /// Locality (L).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub locality_name: String,
    /// State or province (ST).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state_or_province_name: String,
    /// Organisation (O).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub organization_name: String,
    /// Organisational unit (OU).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub organizational_unit_name: String,
    /// E-mail address (emailAddress).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub email_address: String,
    /// Subject alternative names. Absent: the common name as DNS name. Empty: no extension. `IP:` before an address
    /// makes it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_alt_names: Option<Vec<String>>,
}
