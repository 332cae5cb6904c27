//! What shall be: the content of a file, checked as far as it can be without an HSM.

use std::collections::BTreeSet;
use std::path::PathBuf;

use casemate_api::body::config::{Logging, Network, Ntp, Switch};
use casemate_api::limits::{GENERIC_GENERATE_BITS, LABEL_MAX_BYTES, RSA_GENERATE_BITS};
use casemate_api::{KeyId, KeyType, Mechanism, NamespaceId, Role, Tag, UserId, mechanisms};

use crate::prompt::Source;

/// Everything that shall be.
#[derive(Clone, Default)]
pub(crate) struct Want {
    /// Namespaces.
    pub(crate) namespaces: Vec<NamespaceId>,
    /// Users, in the order of the file.
    pub(crate) users: Vec<User>,
    /// Keys, in the order of the file.
    pub(crate) keys: Vec<Key>,
    /// Settings of the HSM.
    pub(crate) config: Config,
}

/// A user that shall be.
#[derive(Clone)]
pub(crate) struct User {
    /// The name, with its namespace.
    pub(crate) name: UserId,
    /// The only role.
    pub(crate) role: Role,
    /// Any text; none: whatever it is.
    pub(crate) real_name: Option<String>,
    /// Only Operators have some.
    pub(crate) tags: Vec<Tag>,
    /// Where the passphrase is; needed to create the user, and to work in a namespace as its Administrator.
    pub(crate) passphrase: Option<Source>,
}

/// A key that shall be.
#[derive(Clone)]
pub(crate) struct Key {
    /// Its id.
    pub(crate) id: KeyId,
    /// The namespace it lives in.
    pub(crate) namespace: Option<NamespaceId>,
    /// Its type.
    pub(crate) key_type: KeyType,
    /// Bits of RSA and Generic keys.
    pub(crate) length: Option<i64>,
    /// What it may do.
    pub(crate) mechanisms: Vec<Mechanism>,
    /// An Operator needs one of them; empty: none, and every Operator may use it; absent: whatever they are.
    pub(crate) tags: Option<Vec<Tag>>,
    /// Empty: none; absent: whatever it is.
    pub(crate) label: Option<String>,
    /// File with the certificate; absent: whatever it is.
    pub(crate) certificate_file: Option<PathBuf>,
}

/// Settings that shall hold; what is absent stays as it is.
#[derive(Clone, Default)]
pub(crate) struct Config {
    /// Where log lines go.
    pub(crate) logging: Option<Logging>,
    /// Time servers.
    pub(crate) ntp: Option<Ntp>,
    /// Whether it starts by itself.
    pub(crate) unattended_boot: Option<Switch>,
    /// Where the Backup Passphrase is.
    pub(crate) backup_passphrase: Option<Source>,
    /// File with the chain of the HSM's own certificate.
    pub(crate) tls_certificate_file: Option<PathBuf>,
    /// The address.
    pub(crate) network: Option<Network>,
}

impl Want {
    /// The Administrators of `namespace` as whom one can work in it.
    pub(crate) fn workers<'a>(&'a self, namespace: &NamespaceId) -> impl Iterator<Item = &'a User> {
        let of = |user: &&User| user.name.namespace.as_ref() == Some(namespace);
        self.users.iter().filter(of).filter(|user| user.role == Role::Administrator && user.passphrase.is_some())
    }

    /// What makes no sense, as one sentence.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut namespaces = BTreeSet::new();
        for namespace in &self.namespaces {
            if !namespaces.insert(namespace) {
                return Err(format!("The namespace {namespace} is there twice: keep one."));
            }
            if self.workers(namespace).next().is_none() {
                return Err(format!(
                    "The namespace {namespace} needs an Administrator with a passphrase-file, -env or -command among \
                     [[users]]: only its own Administrators manage what is in it."
                ));
            }
        }
        let unknown = |of: Option<&NamespaceId>| of.filter(|of| !namespaces.contains(of)).map(ToString::to_string);
        let mut users = BTreeSet::new();
        for user in &self.users {
            let name = &user.name;
            if !users.insert(name) {
                return Err(format!("The user {name} is there twice: keep one."));
            }
            if let Some(namespace) = unknown(name.namespace.as_ref()) {
                return Err(format!("The user {name} is in no namespace of the file: add {namespace} to namespaces."));
            }
            if user.role != Role::Operator && !user.tags.is_empty() {
                return Err(format!("The user {name} has tags, but only Operators have some: remove them."));
            }
        }
        let mut keys = BTreeSet::new();
        for key in &self.keys {
            if !keys.insert((&key.namespace, &key.id)) {
                return Err(format!("The {} is there twice: keep one.", key.called()));
            }
            if let Some(namespace) = unknown(key.namespace.as_ref()) {
                return Err(format!(
                    "The {} is in no namespace of the file: add {namespace} to namespaces.",
                    key.called()
                ));
            }
            key.check()?;
        }
        Ok(())
    }
}

impl Key {
    /// How sentences call it.
    pub(crate) fn called(&self) -> String {
        called(&self.id, self.namespace.as_ref())
    }

    fn check(&self) -> Result<(), String> {
        let (called, kind) = (self.called(), self.key_type.as_str());
        if self.mechanisms.is_empty() {
            return Err(format!("The {called} needs at least one mechanism."));
        }
        if let Some(wrong) = self.mechanisms.iter().find(|wrong| !mechanisms::fits(self.key_type, **wrong)) {
            return Err(format!("The {called} cannot have the mechanism {wrong:?}: its type is {kind}."));
        }
        let range = match self.key_type {
            KeyType::RSA => Some(RSA_GENERATE_BITS),
            KeyType::Generic => Some(GENERIC_GENERATE_BITS),
            _ => None,
        };
        match (range, self.length) {
            (None, None) => {}
            (None, Some(_)) => {
                return Err(format!("The {called} has a length, but {kind} keys have only one: remove it."));
            }
            (Some(range), length) => {
                let bits = length.and_then(|bits| usize::try_from(bits).ok());
                if !bits.is_some_and(|bits| range.contains(&bits)) {
                    let (least, most) = (range.start(), range.end());
                    return Err(format!("The {called} needs a length of {least} to {most} bits: its type is {kind}."));
                }
            }
        }
        match &self.label {
            Some(label) if label.len() > LABEL_MAX_BYTES => {
                Err(format!("The label of the {called} is too long: it may have {LABEL_MAX_BYTES} bytes."))
            }
            _ => Ok(()),
        }
    }
}

/// How sentences call a key.
pub(crate) fn called(id: &KeyId, namespace: Option<&NamespaceId>) -> String {
    match namespace {
        Some(namespace) => format!("key {id} in {namespace}"),
        None => format!("key {id}"),
    }
}
