//! Bodies of `/cluster*`.

use serde::{Deserialize, Serialize};

use crate::secret::{Passphrase, SecretText};

/// One member of `GET /cluster/members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterMember {
    /// 64 bits in hexadecimal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Its name; empty until it has joined.
    pub name: String,
    /// URLs at which other members reach it.
    pub urls: Vec<String>,
    /// Whether it is a learner, which does not vote yet.
    #[serde(default)]
    pub learner: bool,
}

/// `POST /cluster/members` and `PUT /cluster/members/{id}`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MemberUrls {
    /// URLs at which other members reach it, as `https://HOST:PORT`.
    pub urls: Vec<String>,
}

/// Reply of `POST /cluster/members`: what the new member needs for `POST /cluster/join`, except the Backup Passphrase.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Invitation {
    /// All members, including the new one as a learner.
    pub members: Vec<ClusterMember>,
    /// Keys of the cluster, encrypted under the Backup Passphrase; base64.
    pub joiner_kit: SecretText,
}

/// `POST /cluster/join`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Join {
    /// Members, from the [`Invitation`].
    pub members: Vec<ClusterMember>,
    /// Encrypted keys, from the [`Invitation`].
    pub joiner_kit: SecretText,
    /// Backup Passphrase of the HSM that made the invitation.
    pub backup_passphrase: Passphrase,
}
