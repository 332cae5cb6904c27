//! The users of the tests, their passphrases and their key.

use casemate_api::body::keys::{ImportKey, PrivateParts, Restrictions};
use casemate_api::{KeyId, KeyType, Mechanism, Passphrase, SecretText, UserId};
use casemate_client::{Client, Session};

/// The unlock passphrase.
pub const UNLOCK: &str = "unlock passphrase";
/// The passphrase of the Administrator `admin`.
pub const ADMIN: &str = "admin passphrase";
/// The passphrase of the Operator `op`.
pub const OPERATOR: &str = "operator passphrase";

/// A passphrase as calls take it.
pub fn secret(text: &str) -> Passphrase {
    Passphrase::from_text(text.into())
}

/// Calls as the Administrator.
pub fn admin(client: &Client) -> Session {
    client.log_in(&UserId::parse("admin").unwrap(), secret(ADMIN))
}

/// Calls as the Operator.
pub fn operator(client: &Client) -> Session {
    client.log_in(&UserId::parse("op").unwrap(), secret(OPERATOR))
}

/// The id of a key.
pub fn key(id: &str) -> KeyId {
    KeyId::parse(id).unwrap()
}

/// The key of RFC 8032 §7.1, test 2.
pub fn ed25519() -> ImportKey {
    let seed = "TM0Imyj/ltqdtsNG7BFOD1uKMZ81q6Yk2oz27U+4pvs=";
    ImportKey {
        mechanisms: vec![Mechanism::EdDSA_Signature],
        key_type: KeyType::Curve25519,
        private: PrivateParts { data: SecretText::from_text(seed.into()), ..PrivateParts::default() },
        restrictions: Restrictions::default(),
        label: String::new(),
    }
}
