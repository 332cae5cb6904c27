//! The users, passphrases and the key that tests share.

use casemate_api::body::keys::{ImportKey, PrivateParts, Restrictions};
use casemate_api::{KeyId, KeyType, Mechanism, Passphrase, SecretText, UserId};
use casemate_client::{Client, Session};

/// The unlock passphrase.
pub const UNLOCK: &str = "unlock passphrase";
/// The passphrase of the Administrator `admin`.
pub const ADMIN: &str = "admin passphrase";
/// The passphrase of the Operator `op`.
pub const OPERATOR: &str = "operator passphrase";

/// The backup passphrase of nodes that share a store.
pub const BACKUP: &str = "backup passphrase";

/// `text` as a passphrase.
pub fn secret(text: &str) -> Passphrase {
    Passphrase::from_text(text.into())
}

/// A session of the Administrator `admin`.
pub fn admin(client: &Client) -> Session {
    client.log_in(&UserId::parse("admin").unwrap(), secret(ADMIN))
}

/// A session of the Operator `op`.
pub fn operator(client: &Client) -> Session {
    client.log_in(&UserId::parse("op").unwrap(), secret(OPERATOR))
}

/// `id` as the id of a key.
pub fn key(id: &str) -> KeyId {
    KeyId::parse(id).unwrap()
}

/// The Ed25519 key of RFC 8032 §7.1, test 2, as an import.
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
