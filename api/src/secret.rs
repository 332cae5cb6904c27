//! Secrets in request bodies. They are wiped when dropped, and cannot be printed, compared or cloned. Only requests
//! serialise them: a client writes them into a body that it wipes. The one reply with any is that with a joiner kit, which is
//! sealed.
//!
//! ```compile_fail
//! let p = casemate_api::Passphrase::from_text("0123456789".into());
//! println!("{p:?}"); // no Debug
//! ```
//! ```compile_fail
//! let p = casemate_api::Passphrase::from_text("0123456789".into());
//! let q = p.clone(); // no Clone
//! ```
//! ```compile_fail
//! let p = casemate_api::Passphrase::from_text("0123456789".into());
//! let _ = p == casemate_api::Passphrase::from_text("0123456789".into()); // no PartialEq
//! ```
//! ```compile_fail
//! let p = casemate_api::SecretText::from_text("AQAB".into());
//! println!("{p}"); // no Display
//! ```

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::limits::{PASSPHRASE_MAX_BYTES, PASSPHRASE_MIN_BYTES};

/// An unlock, backup or user passphrase as sent by a client. Its bytes are not normalised.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Accepts any text; [`Passphrase::has_valid_length`] is a separate check, because current passphrases are never
    /// refused for their length.
    pub fn from_text(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Whether the passphrase may be set: 10 to 200 bytes
    /// ([`PASSPHRASE_MIN_BYTES`], [`PASSPHRASE_MAX_BYTES`]).
    pub fn has_valid_length(&self) -> bool {
        (PASSPHRASE_MIN_BYTES..=PASSPHRASE_MAX_BYTES).contains(&self.0.len())
    }

    /// The bytes. Every use is a place from which the secret could leak: keep them few.
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl<'de> Deserialize<'de> for Passphrase {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from_text)
    }
}

impl Serialize for Passphrase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Base64 text of private key material as sent by a client. Absent members are the empty text.
#[derive(Default)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Accepts any text.
    pub fn from_text(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text. Every use is a place from which the secret could leak: keep them few.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from_text)
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(feature = "schema")]
mod schema {
    use super::{Passphrase, SecretText};
    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use std::borrow::Cow;

    impl JsonSchema for Passphrase {
        fn schema_name() -> Cow<'static, str> {
            "Passphrase".into()
        }
        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({"type": "string", "minLength": 10, "maxLength": 200})
        }
    }

    impl JsonSchema for SecretText {
        fn schema_name() -> Cow<'static, str> {
            "Base64Secret".into()
        }
        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({"type": "string", "format": "byte"})
        }
    }
}
