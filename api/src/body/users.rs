//! Bodies of `/users*` and `/namespaces*`.

use serde::{Deserialize, Serialize};

use crate::secret::Passphrase;
use crate::words::Role;

/// `PUT /users/{id}` and `POST /users`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewUser {
    /// Any text, may be empty.
    pub real_name: String,
    /// The user's only role.
    pub role: Role,
    /// 10 to 200 bytes.
    pub passphrase: Passphrase,
}

/// `GET /users/{id}`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// As given at creation.
    pub real_name: String,
    /// The user's only role.
    pub role: Role,
}

/// One item of `GET /users`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UserItem {
    /// `name` or `namespace~name`.
    pub user: String,
}

/// `POST /users/{id}/passphrase`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewPassphrase {
    /// 10 to 200 bytes.
    pub passphrase: Passphrase,
}

/// One item of `GET /namespaces`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NamespaceItem {
    /// The namespace.
    pub id: String,
}

/// `PUT /namespaces/{namespace}/quota`; what is absent or null is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewNamespaceQuota {
    /// Most keys.
    pub max_keys: Option<u64>,
    /// Most bytes of keys and certificates, as they are stored.
    pub max_bytes: Option<u64>,
}

/// `GET /namespaces/{namespace}/quota`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NamespaceQuota {
    /// Most keys; null: not bounded.
    pub max_keys: Option<u64>,
    /// Most bytes of keys and certificates, as they are stored; null: not bounded.
    pub max_bytes: Option<u64>,
    /// Keys there are.
    pub keys: u64,
    /// Bytes of keys and certificates there are.
    pub bytes: u64,
}
