//! Bodies of `/users*` and `/namespaces*`.

use serde::{Deserialize, Serialize};

use crate::secret::Passphrase;
use crate::words::Role;

/// `PUT /users/{id}` and `POST /users`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewUser {
    /// The full name: any text, may be empty.
    pub real_name: String,
    /// The only role of the user.
    pub role: Role,
    /// The passphrase, 10 to 200 bytes.
    pub passphrase: Passphrase,
}

/// `GET /users/{id}`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The full name, as given at creation.
    pub real_name: String,
    /// The only role of the user.
    pub role: Role,
}

/// One item of `GET /users`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UserItem {
    /// User id: `name` or `namespace~name`.
    pub user: String,
}

/// `POST /users/{id}/passphrase`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewPassphrase {
    /// The new passphrase, 10 to 200 bytes.
    pub passphrase: Passphrase,
}

/// One item of `GET /namespaces`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NamespaceItem {
    /// Namespace id.
    pub id: String,
}

/// `PUT /namespaces/{namespace}/quota`; a member that is absent or null is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewNamespaceQuota {
    /// Maximum number of keys.
    pub max_keys: Option<u64>,
    /// Maximum size of keys and certificates as stored, in bytes.
    pub max_bytes: Option<u64>,
}

/// `GET /namespaces/{namespace}/quota`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NamespaceQuota {
    /// Maximum number of keys; null: not limited.
    pub max_keys: Option<u64>,
    /// Maximum size of keys and certificates as stored, in bytes; null: not limited.
    pub max_bytes: Option<u64>,
    /// Current number of keys.
    pub keys: u64,
    /// Current size of keys and certificates as stored, in bytes.
    pub bytes: u64,
}
