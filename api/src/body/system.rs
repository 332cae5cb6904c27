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
    /// The manufacturer.
    pub vendor: Cow<'static, str>,
    /// The product.
    pub product: Cow<'static, str>,
}

/// `GET /health/state`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HealthState {
    /// The current state.
    pub state: State,
}

/// `GET /health/diagnose`: the cluster backend of this node.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// Latest messages of the backend.
    pub cluster_logs: Vec<LogItem>,
    /// State of its process.
    pub cluster_state: ClusterState,
}

/// One message of [`Diagnosis`].
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogItem {
    /// `error`, `warning` or `info`.
    pub level: Cow<'static, str>,
    /// The message.
    pub msg: String,
}

/// Process state of [`Diagnosis`].
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterState {
    /// Whether the process of the backend is running.
    pub running: bool,
}

/// `POST /provision`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Provision {
    /// The unlock passphrase, 10 to 200 bytes.
    pub unlock_passphrase: Passphrase,
    /// The passphrase of the user `admin`, 10 to 200 bytes.
    pub admin_passphrase: Passphrase,
    /// The current time, RFC 3339 in UTC.
    pub system_time: String,
}

/// `POST /unlock`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Unlock {
    /// The unlock passphrase, 10 to 200 bytes.
    pub passphrase: Passphrase,
}

/// First part of `POST /system/restore`.
#[derive(Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RestoreRequest {
    /// Backup passphrase of the backup; absent: the configured one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_passphrase: Option<Passphrase>,
    /// The current time, RFC 3339 in UTC; absent: the backup's clock, or the HSM's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_time: Option<String>,
}

/// `POST /random`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RandomRequest {
    /// Number of bytes, 1 to 1024.
    pub length: i64,
}

/// Reply of `POST /random`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Random {
    /// The random bytes in base64.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub random: zeroize::Zeroizing<String>,
}

/// Reply of `POST /system/update`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReleaseNotes {
    /// Release notes in the image.
    pub release_notes: String,
}

/// `GET /system/info`. Clients require all seven members.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SystemInfo {
    /// `major.minor`.
    pub software_version: String,
    /// Identification of the build.
    pub software_build: String,
    /// Firmware version: `N/A`, as Casemate has no firmware of its own.
    pub firmware_version: String,
    /// Hardware version: `N/A`, as Casemate has no hardware of its own.
    pub hardware_version: String,
    /// Device id: ten characters, derived from the Device Key.
    pub device_id: String,
    /// Attestation keys: none yet.
    pub ak_pub: BTreeMap<String, String>,
    /// Platform configuration registers: none yet.
    pub pcr: BTreeMap<String, String>,
}
