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
    /// What the file of the backend says, while its process does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_snapshot: Option<ClusterSnapshot>,
    /// What the node knows of its store. An extension of Casemate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreDiagnosis>,
}

/// The file of the backend, as `etcdutl snapshot status` tells about it.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ClusterSnapshot {
    /// CRC-32C over its entries.
    pub hash: u32,
    /// The newest revision in it.
    pub revision: i64,
    /// Its entries, among them old revisions of rows.
    pub total_key: u64,
    /// The bytes of it that are in use.
    pub total_size: u64,
    /// The version of its form, such as `3.6.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// The store of [`Diagnosis`]. Members that are not known are left out.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct StoreDiagnosis {
    /// Where it is.
    pub kind: StoreKind,
    /// Why it cannot be used now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<StoreTrouble>,
    /// Seconds for which it could not be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble_s: Option<u64>,
    /// Seconds for which the HSM has been Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_s: Option<u64>,
    /// While Failed, the newest revision that the etcd of this node has stored: among members that have lost their majority, the one
    /// with the highest knows most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_revision: Option<u64>,
    /// How many endpoints the settings name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<usize>,
    /// How many of them can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints_usable: Option<usize>,
    /// Milliseconds since a majority of the store confirmed that this node had seen everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_ms: Option<u64>,
    /// Seconds for which no majority has confirmed that, while the node goes on all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_s: Option<u64>,
    /// Seconds for which what others write has been watched without a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch_s: Option<u64>,
    /// Only for an Administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<StoreDetails>,
}

/// Where the store of a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StoreKind {
    /// In the folder of the node.
    Embedded,
    /// In an etcd that others may share.
    Etcd,
}

/// Why a store cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StoreTrouble {
    /// Nothing answers.
    NoAnswer,
    /// It and the node do not accept each other.
    Refused,
    /// Its version is not used.
    Unsupported,
    /// It has no majority of its members.
    NoMajority,
    /// It does not hold the data of the HSM.
    OtherData,
}

/// What of a [`StoreDiagnosis`] concerns nobody without credentials.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct StoreDetails {
    /// The endpoints, in the order in which they are tried: the first one is in use.
    pub endpoints: Vec<StoreEndpoint>,
    /// The version of etcd; empty while it is not known.
    pub version: String,
    /// Bytes of its database; 0 while that is not known.
    pub bytes: u64,
    /// Bytes that the database may have; 0 if etcd does not tell.
    pub quota_bytes: u64,
    /// Whether somebody else than the nodes compacts etcd.
    pub compacted_by_others: bool,
    /// The revision up to which this node had seen everything when that was confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_revision: Option<u64>,
    /// The newest revision that this node has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_revision: Option<u64>,
}

/// An endpoint of [`StoreDetails`].
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct StoreEndpoint {
    /// `host:port`.
    pub address: String,
    /// Why it cannot be used; empty if it can.
    pub trouble: String,
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
    /// Its exit code, if it has ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exited: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signaled: Option<i32>,
    /// Whether it was stopped by the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<bool>,
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
