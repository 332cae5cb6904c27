//! The desired state: the content of a file, checked as far as that is possible without an HSM.

use std::collections::BTreeSet;
use std::path::PathBuf;

use casemate_api::body::config::{Logging, Network, Ntp, Switch};
use casemate_api::limits::{GENERIC_GENERATE_BITS, LABEL_MAX_BYTES, RSA_GENERATE_BITS};
use casemate_api::{KeyId, KeyType, Mechanism, NamespaceId, Role, Tag, UserId, mechanisms};

use crate::prompt::Source;

/// The desired state.
#[derive(Clone, Default)]
pub(crate) struct Desired {
    /// Namespaces.
    pub(crate) namespaces: Vec<NamespaceId>,
    /// Users, in the order of the file.
    pub(crate) users: Vec<User>,
    /// Keys, in the order of the file.
    pub(crate) keys: Vec<Key>,
    /// Settings of the HSM.
    pub(crate) config: Config,
}

/// A desired user.
#[derive(Clone)]
pub(crate) struct User {
    /// The name, with its namespace.
    pub(crate) name: UserId,
    /// The role.
    pub(crate) role: Role,
    /// Any text; `None`: not compared.
    pub(crate) real_name: Option<String>,
    /// Only Operators have tags.
    pub(crate) tags: Vec<Tag>,
    /// Where the passphrase is: needed to create the user, and to act in a namespace as its Administrator.
    pub(crate) passphrase: Option<Source>,
}

/// A desired key.
#[derive(Clone)]
pub(crate) struct Key {
    /// Its id.
    pub(crate) id: KeyId,
    /// Its namespace.
    pub(crate) namespace: Option<NamespaceId>,
    /// Its type.
    pub(crate) key_type: KeyType,
    /// The length of RSA and Generic keys in bits.
    pub(crate) length: Option<i64>,
    /// The mechanisms it may be used with.
    pub(crate) mechanisms: Vec<Mechanism>,
    /// An Operator needs one of them; empty: every Operator may use the key; `None`: not compared.
    pub(crate) tags: Option<Vec<Tag>>,
    /// Empty: no label; `None`: not compared.
    pub(crate) label: Option<String>,
    /// The file with the certificate; `None`: not compared.
    pub(crate) certificate_file: Option<PathBuf>,
}

/// Desired settings; those that are `None` stay as they are.
#[derive(Clone, Default)]
pub(crate) struct Config {
    /// Where log lines are sent.
    pub(crate) logging: Option<Logging>,
    /// Time servers.
    pub(crate) ntp: Option<Ntp>,
    /// Whether the HSM starts without the unlock passphrase.
    pub(crate) unattended_boot: Option<Switch>,
    /// Where the Backup Passphrase is.
    pub(crate) backup_passphrase: Option<Source>,
    /// The file with the HSM's own certificate and its chain.
    pub(crate) tls_certificate_file: Option<PathBuf>,
    /// The addresses.
    pub(crate) network: Option<Network>,
}

impl Desired {
    /// The Administrators of `namespace` whose passphrases are known.
    pub(crate) fn admins_of<'a>(&'a self, namespace: &NamespaceId) -> impl Iterator<Item = &'a User> {
        let of = |user: &&User| user.name.namespace.as_ref() == Some(namespace);
        self.users.iter().filter(of).filter(|user| user.role == Role::Administrator && user.passphrase.is_some())
    }

    /// Finds contradictions; the error is one sentence.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut namespaces = BTreeSet::new();
        for namespace in &self.namespaces {
            if !namespaces.insert(namespace) {
                return Err(format!("The namespace {namespace} is listed twice: remove one."));
            }
            if self.admins_of(namespace).next().is_none() {
                return Err(format!(
                    "The namespace {namespace} needs an Administrator with a passphrase-file, -env or -command among \
                     [[users]]: only its own Administrators can manage its users and keys."
                ));
            }
        }
        let unknown = |of: Option<&NamespaceId>| of.filter(|of| !namespaces.contains(of)).map(ToString::to_string);
        let mut users = BTreeSet::new();
        for user in &self.users {
            let name = &user.name;
            if !users.insert(name) {
                return Err(format!("The user {name} is listed twice: remove one."));
            }
            if let Some(namespace) = unknown(name.namespace.as_ref()) {
                return Err(format!("The namespace of the user {name} is not listed: add {namespace} to namespaces."));
            }
            if user.role != Role::Operator && !user.tags.is_empty() {
                return Err(format!("The user {name} has tags, but only Operators can have tags: remove them."));
            }
        }
        let mut keys = BTreeSet::new();
        for key in &self.keys {
            if !keys.insert((&key.namespace, &key.id)) {
                return Err(format!("The {} is listed twice: remove one.", key.describe()));
            }
            if let Some(namespace) = unknown(key.namespace.as_ref()) {
                return Err(format!(
                    "The namespace of the {} is not listed: add {namespace} to namespaces.",
                    key.describe()
                ));
            }
            key.check()?;
        }
        Ok(())
    }
}

impl Key {
    /// The key, as sentences name it.
    pub(crate) fn describe(&self) -> String {
        describe(&self.id, self.namespace.as_ref())
    }

    fn check(&self) -> Result<(), String> {
        let (described, kind) = (self.describe(), self.key_type.as_str());
        if self.mechanisms.is_empty() {
            return Err(format!("The {described} needs at least one mechanism."));
        }
        if let Some(wrong) = self.mechanisms.iter().find(|wrong| !mechanisms::fits(self.key_type, **wrong)) {
            return Err(format!("The {described} cannot have the mechanism {wrong:?}: its type is {kind}."));
        }
        let range = match self.key_type {
            KeyType::RSA => Some(RSA_GENERATE_BITS),
            KeyType::Generic => Some(GENERIC_GENERATE_BITS),
            _ => None,
        };
        match (range, self.length) {
            (None, None) => {}
            (None, Some(_)) => {
                return Err(format!("The {described} has a length, but all {kind} keys have the same: remove it."));
            }
            (Some(range), length) => {
                let bits = length.and_then(|bits| usize::try_from(bits).ok());
                if !bits.is_some_and(|bits| range.contains(&bits)) {
                    let (least, most) = (range.start(), range.end());
                    return Err(format!(
                        "The {described} needs a length of {least} to {most} bits: its type is {kind}."
                    ));
                }
            }
        }
        match &self.label {
            Some(label) if label.len() > LABEL_MAX_BYTES => {
                Err(format!("The label of the {described} is too long: at most {LABEL_MAX_BYTES} bytes are allowed."))
            }
            _ => Ok(()),
        }
    }
}

/// A key, as sentences name it.
pub(crate) fn describe(id: &KeyId, namespace: Option<&NamespaceId>) -> String {
    match namespace {
        Some(namespace) => format!("key {id} in {namespace}"),
        None => format!("key {id}"),
    }
}
