//! The enumerations of the API, in its own spelling, and the only table of roles and actions.

use serde::{Deserialize, Serialize};

/// State of the HSM as `/health/state` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum State {
    /// No keys, no users: only provisioning and restoring are possible.
    Unprovisioned,
    /// Provisioned, but the Domain Key is not in memory.
    Locked,
    /// Provisioned, and the Domain Key is in memory.
    Operational,
    /// The store cannot be reached.
    Failed,
}

impl State {
    /// Every state, in the order of the documentation.
    pub const ALL: [State; 4] = [State::Unprovisioned, State::Locked, State::Operational, State::Failed];
}

/// Role of a user. Roles are not hierarchical: an Administrator cannot sign, an Operator cannot read metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Role {
    /// Manages users, keys and, without a namespace, the device.
    Administrator,
    /// Uses keys.
    Operator,
    /// Reads metrics.
    Metrics,
    /// Takes backups.
    Backup,
}

impl Role {
    /// Every role, in the order of the documentation.
    pub const ALL: [Role; 4] = [Role::Administrator, Role::Operator, Role::Metrics, Role::Backup];

    /// Whether this role may perform `action` at all. Namespaces, targets and tags may still forbid it in a particular
    /// case.
    pub fn may(self, action: Action) -> bool {
        use Action::*;
        match self {
            Role::Administrator => matches!(
                action,
                System | Audit | Config | Namespaces | UserRead | UserManage | UserPassphrase | KeyRead | KeyManage
            ),
            Role::Operator => matches!(action, UserRead | UserPassphrase | KeyRead | KeyUse | Random),
            Role::Metrics => matches!(action, Metrics),
            Role::Backup => matches!(action, Backup),
        }
    }
}

/// The kind of operation of an endpoint, for authorisation. Endpoints name an action; [`Role::may`] is the only place
/// that maps actions to roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Operate the device: info, lock, reboot, shutdown, factory reset, update, restore, diagnose.
    System,
    /// Read the audit log.
    Audit,
    /// Read and change the configuration.
    Config,
    /// Manage namespaces.
    Namespaces,
    /// Read a user; an Operator only itself.
    UserRead,
    /// List, create and delete users, and manage their tags.
    UserManage,
    /// Set a user's passphrase; an Operator only its own.
    UserPassphrase,
    /// List and read keys, read certificates, make certificate signing requests.
    KeyRead,
    /// Create, change and delete keys.
    KeyManage,
    /// Sign, decrypt, encrypt.
    KeyUse,
    /// Read random bytes.
    Random,
    /// Read metrics.
    Metrics,
    /// Take backups.
    Backup,
}

/// Type of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(non_camel_case_types, missing_docs, reason = "the API's own spelling")]
pub enum KeyType {
    RSA,
    /// Ed25519 (RFC 8032), named after its curve.
    Curve25519,
    EC_P256,
    EC_P384,
    EC_P521,
    /// secp256k1 (SEC 2).
    EC_P256K1,
    /// brainpoolP256r1 (RFC 5639).
    BrainpoolP256,
    /// brainpoolP384r1 (RFC 5639).
    BrainpoolP384,
    /// brainpoolP512r1 (RFC 5639).
    BrainpoolP512,
    /// Symmetric key bytes.
    Generic,
}

impl KeyType {
    /// Every key type, in the order of the API document.
    pub const ALL: [KeyType; 10] = [
        KeyType::RSA,
        KeyType::Curve25519,
        KeyType::EC_P256,
        KeyType::EC_P384,
        KeyType::EC_P521,
        KeyType::EC_P256K1,
        KeyType::BrainpoolP256,
        KeyType::BrainpoolP384,
        KeyType::BrainpoolP512,
        KeyType::Generic,
    ];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyType::RSA => "RSA",
            KeyType::Curve25519 => "Curve25519",
            KeyType::EC_P256 => "EC_P256",
            KeyType::EC_P384 => "EC_P384",
            KeyType::EC_P521 => "EC_P521",
            KeyType::EC_P256K1 => "EC_P256K1",
            KeyType::BrainpoolP256 => "BrainpoolP256",
            KeyType::BrainpoolP384 => "BrainpoolP384",
            KeyType::BrainpoolP512 => "BrainpoolP512",
            KeyType::Generic => "Generic",
        }
    }
}

/// A capability of a key. The order of the variants is the order in replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(non_camel_case_types, missing_docs, reason = "the API's own spelling")]
pub enum Mechanism {
    RSA_Decryption_RAW,
    RSA_Decryption_PKCS1,
    RSA_Decryption_OAEP_MD5,
    RSA_Decryption_OAEP_SHA1,
    RSA_Decryption_OAEP_SHA224,
    RSA_Decryption_OAEP_SHA256,
    RSA_Decryption_OAEP_SHA384,
    RSA_Decryption_OAEP_SHA512,
    RSA_Signature_PKCS1,
    RSA_Signature_PSS_MD5,
    RSA_Signature_PSS_SHA1,
    RSA_Signature_PSS_SHA224,
    RSA_Signature_PSS_SHA256,
    RSA_Signature_PSS_SHA384,
    RSA_Signature_PSS_SHA512,
    EdDSA_Signature,
    ECDSA_Signature,
    BIP340_Signature,
    AES_Encryption_CBC,
    AES_Decryption_CBC,
}

impl Mechanism {
    /// Every mechanism, in the order of the variants.
    pub const ALL: [Mechanism; 20] = [
        Mechanism::RSA_Decryption_RAW,
        Mechanism::RSA_Decryption_PKCS1,
        Mechanism::RSA_Decryption_OAEP_MD5,
        Mechanism::RSA_Decryption_OAEP_SHA1,
        Mechanism::RSA_Decryption_OAEP_SHA224,
        Mechanism::RSA_Decryption_OAEP_SHA256,
        Mechanism::RSA_Decryption_OAEP_SHA384,
        Mechanism::RSA_Decryption_OAEP_SHA512,
        Mechanism::RSA_Signature_PKCS1,
        Mechanism::RSA_Signature_PSS_MD5,
        Mechanism::RSA_Signature_PSS_SHA1,
        Mechanism::RSA_Signature_PSS_SHA224,
        Mechanism::RSA_Signature_PSS_SHA256,
        Mechanism::RSA_Signature_PSS_SHA384,
        Mechanism::RSA_Signature_PSS_SHA512,
        Mechanism::EdDSA_Signature,
        Mechanism::ECDSA_Signature,
        Mechanism::BIP340_Signature,
        Mechanism::AES_Encryption_CBC,
        Mechanism::AES_Decryption_CBC,
    ];
}

/// What a sign request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(non_camel_case_types, missing_docs, reason = "the API's own spelling")]
pub enum SignMode {
    PKCS1,
    PSS_MD5,
    PSS_SHA1,
    PSS_SHA224,
    PSS_SHA256,
    PSS_SHA384,
    PSS_SHA512,
    EdDSA,
    ECDSA,
    BIP340,
}

/// What a decrypt request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(non_camel_case_types, missing_docs, reason = "the API's own spelling")]
pub enum DecryptMode {
    RAW,
    PKCS1,
    OAEP_MD5,
    OAEP_SHA1,
    OAEP_SHA224,
    OAEP_SHA256,
    OAEP_SHA384,
    OAEP_SHA512,
    AES_CBC,
}

/// What an encrypt request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(non_camel_case_types, missing_docs, reason = "the API's own spelling")]
pub enum EncryptMode {
    AES_CBC,
}
