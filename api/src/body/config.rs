//! Bodies of `/config*`.

use serde::{Deserialize, Serialize};

use crate::secret::Passphrase;

/// `PUT /config/unlock-passphrase`.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ChangePassphrase {
    /// 10 to 200 bytes.
    pub new_passphrase: Passphrase,
    /// The passphrase that holds now; never refused for its length.
    pub current_passphrase: Passphrase,
}

/// `GET` and `PUT /config/unattended-boot`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UnattendedBoot {
    /// Whether the HSM boots to Operational by itself.
    pub status: Switch,
}

/// A switch as the API spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}
