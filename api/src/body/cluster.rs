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

/// `POST /cluster/members`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// URLs at which it is reached, as `https://HOST:PORT`.
    pub urls: Vec<String>,
    /// Whether it shares the store of the other nodes without a vote in it. An extension of Casemate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub serving: bool,
}

/// `PUT /cluster/members/{id}`.
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
    /// All members, including the new one as a learner. A node that only shares the store is no member.
    pub members: Vec<ClusterMember>,
    /// Keys of the cluster, encrypted under the Backup Passphrase; base64.
    pub joiner_kit: SecretText,
}

/// `POST /cluster/join`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Join {
    /// Members, from the [`Invitation`]. A Casemate ignores them.
    #[serde(default)]
    pub members: Vec<ClusterMember>,
    /// Encrypted keys, from the [`Invitation`].
    pub joiner_kit: SecretText,
    /// Backup Passphrase of the HSM that made the invitation.
    pub backup_passphrase: Passphrase,
    /// The time to set, RFC 3339 with offset zero. An extension of Casemate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_time: Option<String>,
}
