//! One step of a plan.

use casemate_api::{KeyId, NamespaceId, UserId};
use serde::Serialize;
use serde_json::Value;

use super::desired::describe;

/// One change.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What is done.
    pub(crate) action: StepAction,
    /// To which resource.
    pub(crate) resource: Resource,
    /// The namespace whose Administrator does it; `None`: an Administrator outside of namespaces.
    pub(crate) acting_in: Option<NamespaceId>,
    /// The value before, if there is one that can be shown; else null.
    pub(crate) from: Value,
    /// The value afterwards, likewise.
    pub(crate) to: Value,
    /// A note for people; may be empty.
    pub(crate) note: String,
    /// A consequence that cannot be undone, about which there is a second question.
    pub(crate) irreversible: Option<Irreversible>,
}

/// A consequence that cannot be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Irreversible {
    /// A key is deleted.
    DeletesKey,
    /// A key loses its last tag, so every Operator may use it.
    OpensKey,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StepAction {
    /// Creates the resource.
    Create,
    /// Changes the resource.
    Change,
    /// Deletes the resource.
    Delete,
}

/// Something that a plan can create, change or delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// A namespace.
    Namespace(NamespaceId),
    /// A user.
    User(UserId),
    /// A tag of a user.
    UserTag(UserId, String),
    /// A key.
    Key(Option<NamespaceId>, KeyId),
    /// A tag of a key.
    KeyTag(Option<NamespaceId>, KeyId, String),
    /// The label of a key.
    KeyLabel(Option<NamespaceId>, KeyId),
    /// The certificate of a key.
    KeyCertificate(Option<NamespaceId>, KeyId),
    /// A setting.
    Setting(Setting),
}

/// A setting of the HSM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// Where log lines are sent.
    Logging,
    /// Time servers.
    Ntp,
    /// Whether the HSM starts without the unlock passphrase.
    UnattendedBoot,
    /// The passphrase under which backups are sealed.
    BackupPassphrase,
    /// Its own certificate with its chain.
    TlsCertificate,
    /// Its addresses.
    Network,
}

impl Step {
    /// Whether `other` does the same to the same resource.
    pub(crate) fn is(&self, other: &Step) -> bool {
        self.action == other.action && self.resource == other.resource && self.acting_in == other.acting_in
    }
}

impl Setting {
    /// Its name for people and scripts.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Setting::Logging => "logging",
            Setting::Ntp => "ntp",
            Setting::UnattendedBoot => "unattended-boot",
            Setting::BackupPassphrase => "backup-passphrase",
            Setting::TlsCertificate => "tls-certificate",
            Setting::Network => "network",
        }
    }
}

impl Resource {
    /// The resource, as sentences name it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Resource::Namespace(namespace) => format!("namespace {namespace}"),
            Resource::User(user) => format!("user {user}"),
            Resource::UserTag(user, tag) => format!("tag {tag} of user {user}"),
            Resource::Key(namespace, id) => describe(id, namespace.as_ref()),
            Resource::KeyTag(namespace, id, tag) => format!("tag {tag} of {}", describe(id, namespace.as_ref())),
            Resource::KeyLabel(namespace, id) => format!("label of {}", describe(id, namespace.as_ref())),
            Resource::KeyCertificate(namespace, id) => format!("certificate of {}", describe(id, namespace.as_ref())),
            Resource::Setting(setting) => setting.name().into(),
        }
    }
}
