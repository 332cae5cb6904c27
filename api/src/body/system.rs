//! Bodies of `/info`, `/health*`, `/provision`, `/unlock`, `/random` and `/system*`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::secret::Passphrase;
use crate::words::State;

/// `GET /info`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Info {
    /// Who made it.
    pub vendor: Cow<'static, str>,
    /// What it is.
    pub product: Cow<'static, str>,
}

/// `GET /health/state`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HealthState {
    /// The state now.
    pub state: State,
}

/// `GET /health/diagnose`: the cluster backend of this node.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// Newest messages of the backend.
    pub cluster_logs: Vec<LogItem>,
    /// Whether its process runs.
    pub cluster_state: ClusterState,
}

/// One message of [`Diagnosis`].
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogItem {
    /// `error`, `warning` or `info`.
    pub level: Cow<'static, str>,
    /// The text.
    pub msg: String,
}

/// Process state of [`Diagnosis`].
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterState {
    /// Whether the backend's process runs.
    pub running: bool,
}

/// `POST /provision`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Provision {
    /// 10 to 200 bytes.
    pub unlock_passphrase: Passphrase,
    /// 10 to 200 bytes.
    pub admin_passphrase: Passphrase,
    /// RFC 3339 with offset zero.
    pub system_time: String,
}

/// `POST /unlock`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Unlock {
    /// 10 to 200 bytes.
    pub passphrase: Passphrase,
}

/// First part of `POST /system/restore`.
#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RestoreRequest {
    /// Of the backup; absent: the one that is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_passphrase: Option<Passphrase>,
    /// RFC 3339 with offset zero; absent: the backup's clock, or the HSM's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_time: Option<String>,
}

/// `POST /random`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RandomRequest {
    /// 1 to 1024 bytes.
    pub length: i64,
}

/// Reply of `/random`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Random {
    /// Base64.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub random: zeroize::Zeroizing<String>,
}

/// Reply of `/system/update`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReleaseNotes {
    /// What its makers say about the update.
    pub release_notes: String,
}

/// `GET /system/info`. Clients require all seven members.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SystemInfo {
    /// `major.minor`.
    pub software_version: String,
    /// Build identification.
    pub software_build: String,
    /// `N/A`: there is no firmware of ours below.
    pub firmware_version: String,
    /// `N/A`: there is no hardware of ours below.
    pub hardware_version: String,
    /// Ten characters, derived from the Device Key.
    pub device_id: String,
    /// Attestation keys, none yet.
    pub ak_pub: BTreeMap<String, String>,
    /// Platform configuration registers, none yet.
    pub pcr: BTreeMap<String, String>,
}
