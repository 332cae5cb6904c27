//! One step of a plan: what is done to what.

use casemate_api::{KeyId, NamespaceId, UserId};
use serde::Serialize;
use serde_json::Value;

use super::want::called;

/// One call that changes something.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What is done.
    pub(crate) act: Act,
    /// To what.
    pub(crate) thing: Thing,
    /// In which namespace somebody has to do it; none is root.
    pub(crate) by: Option<NamespaceId>,
    /// What was, if something is changed that can be told; else null.
    pub(crate) from: Value,
    /// What shall be, likewise.
    pub(crate) to: Value,
    /// More for people; may be empty.
    pub(crate) note: String,
    /// What it does besides, that cannot be taken back: asked about once more.
    pub(crate) grave: Option<Grave>,
}

/// What cannot be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grave {
    /// What a key was used for is lost with it.
    DeletesKey,
    /// A key loses its last tag: every Operator may use it.
    OpensKey,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Act {
    /// It was not there.
    Create,
    /// It was different.
    Change,
    /// It shall not be there.
    Delete,
}

/// What can be done something to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Thing {
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
    /// Where log lines go.
    Logging,
    /// Time servers.
    Ntp,
    /// Whether it starts by itself.
    UnattendedBoot,
    /// What backups are sealed with.
    BackupPassphrase,
    /// The chain of its own certificate.
    TlsCertificate,
    /// Its address.
    Network,
}

impl Step {
    /// Whether `other` is the same step. The words for people do not count.
    pub(crate) fn is(&self, other: &Step) -> bool {
        self.act == other.act && self.thing == other.thing && self.by == other.by
    }
}

impl Setting {
    /// How people and scripts call it.
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

impl Thing {
    /// How people call it.
    pub(crate) fn called(&self) -> String {
        match self {
            Thing::Namespace(namespace) => format!("namespace {namespace}"),
            Thing::User(user) => format!("user {user}"),
            Thing::UserTag(user, tag) => format!("tag {tag} of user {user}"),
            Thing::Key(place, id) => called(id, place.as_ref()),
            Thing::KeyTag(place, id, tag) => format!("tag {tag} of {}", called(id, place.as_ref())),
            Thing::KeyLabel(place, id) => format!("label of {}", called(id, place.as_ref())),
            Thing::KeyCertificate(place, id) => format!("certificate of {}", called(id, place.as_ref())),
            Thing::Setting(setting) => setting.name().into(),
        }
    }
}
