//! The plan: the steps that turn the actual state into the desired one. A pure function: it sends no request and changes
//! nothing.
//!
//! The order is safe wherever it is interrupted. The first Administrator of a new namespace is created from outside,
//! before the namespace exists, and creates everything else in it. Keys are generated with their tags, because every
//! Operator may use a key without tags. Deletions come after creations and changes, except of users who would get into
//! a new namespace: they are deleted before it is created. The network is last, as changing it may cut the connection.

use std::collections::{BTreeMap, BTreeSet};

use casemate_api::{KeyId, NamespaceId, Tag, UserId};
use serde::Serialize;
use serde_json::{Value, json};

use super::actual::{self, Actual, namespace_admin};
use super::desired::{self, Desired};
use super::step::{Irreversible, Resource, Setting, Step, StepAction};

/// What a plan may contain besides creations and changes.
#[derive(Clone, Copy, Default)]
pub(crate) struct PlanOptions {
    /// Delete users and tags that are not in the file.
    pub(crate) prune: bool,
    /// Delete keys that are not in the file.
    pub(crate) prune_keys: bool,
    /// Set the Backup Passphrase, unless one is set.
    pub(crate) set_backup_passphrase: bool,
}

/// The contents of the certificate files that the set-up file names.
#[derive(Clone, Default)]
pub(crate) struct Files {
    /// The certificates of keys, by namespace and id.
    pub(crate) certificates: BTreeMap<(Option<NamespaceId>, KeyId), Vec<u8>>,
    /// The certificate of the HSM itself, with its chain, in PEM.
    pub(crate) tls_certificate: Option<String>,
}

/// The steps, the differences that no step can remove, and what is not in the file.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// In the order in which they are carried out.
    pub(crate) steps: Vec<Step>,
    /// Differences that cannot be removed.
    pub(crate) stuck: Vec<Stuck>,
    /// What exists, is not in the file, and stays.
    pub(crate) extra: Vec<Resource>,
}

/// A difference that cannot be removed.
#[derive(Debug)]
pub(crate) struct Stuck {
    /// What differs.
    pub(crate) resource: Resource,
    /// How it differs, and what to do.
    pub(crate) why: String,
}

/// Compares the actual state with the desired one.
pub(crate) fn plan(actual: &Actual, desired: &Desired, files: &Files, options: PlanOptions) -> Plan {
    let mut plan = Plan::default();
    let closed = namespaces(&mut plan, actual, desired, options);
    let open = |namespace: &Option<NamespaceId>| namespace.as_ref().is_none_or(|namespace| !closed.contains(namespace));
    let users = || desired.users.iter().filter(|user| open(&user.name.namespace));
    for user in users().filter(|user| !actual.users.contains_key(&user.name)) {
        plan.create_user(user, user.name.namespace.clone());
    }
    for user in users() {
        plan.user(user, actual.users.get(&user.name).and_then(Option::as_ref), options);
    }
    let keys = || desired.keys.iter().filter(|key| open(&key.namespace));
    let find = |key: &desired::Key| actual.keys.get(&key.namespace).and_then(|keys| keys.get(&key.id));
    for key in keys().filter(|key| find(key).is_none()) {
        let resource = Resource::Key(key.namespace.clone(), key.id.clone());
        plan.step(StepAction::Create, resource, key.namespace.clone(), kind(key));
    }
    for key in keys() {
        let certificate = files.certificates.get(&(key.namespace.clone(), key.id.clone()));
        plan.key(key, find(key).and_then(Option::as_ref), certificate, options);
    }
    plan.others(actual, desired, options);
    plan.config(actual, desired, files, options);
    plan
}

/// Plans the namespaces that are missing, each with its first Administrator. Returns those in which no user of the file
/// can act, and those into which users would come back that are not in the file.
fn namespaces<'a>(
    plan: &mut Plan,
    actual: &Actual,
    desired: &'a Desired,
    options: PlanOptions,
) -> BTreeSet<&'a NamespaceId> {
    let mut closed = BTreeSet::new();
    for namespace in &desired.namespaces {
        let namespace_admin = namespace_admin(actual, desired, namespace);
        if actual.namespaces.contains(namespace) && namespace_admin.is_some() {
            continue;
        }
        let Some(namespace_admin) = namespace_admin else {
            closed.insert(namespace);
            let why = "none of its Administrators in the file is an Administrator on the HSM, and nobody else can add one: \
                       have an Administrator of the namespace do it, or delete the namespace and all its keys";
            plan.stuck.push(Stuck { resource: Resource::Namespace(namespace.clone()), why: why.into() });
            continue;
        };
        let old = |user: &&UserId| user.namespace.as_ref() == Some(namespace);
        let (old, strangers): (Vec<_>, Vec<_>) =
            actual.users.keys().filter(old).partition(|user| is_wanted(actual, desired, user));
        let listed = |user: &&UserId| desired.users.iter().any(|wanted| wanted.name == **user);
        if !strangers.is_empty() && (!options.prune || strangers.iter().any(listed)) {
            closed.insert(namespace);
            let why = format!(
                "users of an earlier namespace of this name would come back with their old passphrases, and the file \
                 lists no users with these names and roles: {}; delete them with `casemate user delete`, or those that \
                 are not in the file with --prune",
                words(&strangers)
            );
            plan.stuck.push(Stuck { resource: Resource::Namespace(namespace.clone()), why });
            continue;
        }
        for stranger in strangers {
            // An Administrator outside can delete them only before the namespace exists.
            plan.step(StepAction::Delete, Resource::User(stranger.clone()), None, "of an earlier namespace");
        }
        if !actual.users.contains_key(&namespace_admin.name) {
            plan.create_user(namespace_admin, None);
        }
        let old = words(&old);
        let note = if old.is_empty() { String::new() } else { format!("its users come back: {old}") };
        plan.step(StepAction::Create, Resource::Namespace(namespace.clone()), None, note);
    }
    closed
}

/// Whether the file lists this existing user with its actual role.
fn is_wanted(actual: &Actual, desired: &Desired, user: &UserId) -> bool {
    let role = actual.users.get(user).and_then(|user| user.as_ref().map(|user| user.role));
    desired.users.iter().any(|wanted| wanted.name == *user && role == Some(wanted.role))
}

fn words(users: &[&UserId]) -> String {
    users.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Plan {
    /// Whether the HSM is as described in the file.
    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.stuck.is_empty()
    }

    fn step(
        &mut self,
        action: StepAction,
        resource: Resource,
        acting_in: Option<NamespaceId>,
        note: impl Into<String>,
    ) {
        let irreversible =
            (action == StepAction::Delete && matches!(resource, Resource::Key(..))).then_some(Irreversible::DeletesKey);
        self.steps.push(Step {
            action,
            resource,
            acting_in,
            from: Value::Null,
            to: Value::Null,
            note: note.into(),
            irreversible,
        });
    }

    fn change(&mut self, resource: Resource, acting_in: Option<NamespaceId>, from: Value, to: Value) {
        self.steps.push(Step {
            action: StepAction::Change,
            resource,
            acting_in,
            from,
            to,
            note: String::new(),
            irreversible: None,
        });
    }

    fn stuck(&mut self, resource: Resource, what: &str, actual: &str, desired: &str, remedy: &str) {
        self.stuck
            .push(Stuck { resource, why: format!("its {what} is {actual}, but {desired} in the file: {remedy}") });
    }

    fn create_user(&mut self, user: &desired::User, acting_in: Option<NamespaceId>) {
        let resource = Resource::User(user.name.clone());
        // The one who creates the namespace was planned before all others.
        if !self.steps.iter().any(|step| step.resource == resource) {
            self.step(StepAction::Create, resource, acting_in, format!("{:?}", user.role));
        }
    }

    fn user(&mut self, user: &desired::User, actual: Option<&actual::User>, options: PlanOptions) {
        let (name, acting_in) = (&user.name, &user.name.namespace);
        if let Some(actual) = actual {
            let remedy = "delete the user, and apply again to create a new one";
            if actual.role != user.role {
                let (actual, desired) = (format!("{:?}", actual.role), format!("{:?}", user.role));
                return self.stuck(Resource::User(name.clone()), "role", &actual, &desired, remedy);
            }
            if let Some(desired) = user.real_name.as_ref().filter(|desired| **desired != actual.real_name) {
                let (actual, desired) = (format!("{:?}", actual.real_name), format!("{desired:?}"));
                self.stuck(Resource::User(name.clone()), "real name", &actual, &desired, remedy);
            }
        }
        let none = BTreeSet::new();
        let actual = actual.map_or(&none, |actual| &actual.tags);
        for tag in once(&user.tags).filter(|tag| !actual.contains(tag.as_str())) {
            self.step(StepAction::Create, Resource::UserTag(name.clone(), tag.to_string()), acting_in.clone(), "");
        }
        for tag in actual.iter().filter(|tag| !user.tags.iter().any(|desired| desired.as_str() == *tag)) {
            self.leave(
                Resource::UserTag(name.clone(), tag.clone()),
                acting_in.clone(),
                options.prune && Tag::parse(tag).is_ok(),
            );
        }
    }

    fn key(
        &mut self,
        key: &desired::Key,
        actual: Option<&actual::Key>,
        certificate: Option<&Vec<u8>>,
        options: PlanOptions,
    ) {
        let (namespace, id) = (&key.namespace, &key.id);
        let label = || Resource::KeyLabel(namespace.clone(), id.clone());
        let stored = || Resource::KeyCertificate(namespace.clone(), id.clone());
        let Some(actual) = actual else {
            // Tags and label are set when the key is generated.
            if certificate.is_some() {
                self.step(StepAction::Create, stored(), namespace.clone(), "");
            }
            return;
        };
        self.unchangeable(key, actual);
        self.key_tags(key, actual, options);
        if let Some(desired) = key.label.as_ref().filter(|desired| **desired != actual.label) {
            self.change(label(), namespace.clone(), json!(actual.label), json!(desired));
        }
        match (certificate, &actual.certificate) {
            (Some(_), None) => self.step(StepAction::Create, stored(), namespace.clone(), ""),
            (Some(desired), Some(actual)) if desired != actual => {
                self.step(StepAction::Change, stored(), namespace.clone(), "")
            }
            _ => {}
        }
    }

    fn key_tags(&mut self, key: &desired::Key, actual: &actual::Key, options: PlanOptions) {
        let Some(desired) = &key.tags else { return };
        let (namespace, resource) =
            (&key.namespace, |tag: &str| Resource::KeyTag(key.namespace.clone(), key.id.clone(), tag.into()));
        for tag in once(desired).filter(|tag| !actual.tags.contains(tag.as_str())) {
            self.step(StepAction::Create, resource(tag.as_str()), namespace.clone(), "");
        }
        let goes = |tag: &str| options.prune && Tag::parse(tag).is_ok();
        let opens = desired.is_empty() && actual.tags.iter().all(|tag| goes(tag));
        for tag in actual.tags.iter().filter(|tag| !desired.iter().any(|desired| desired.as_str() == *tag)) {
            self.leave(resource(tag), namespace.clone(), goes(tag));
        }
        if opens && let Some(last) = self.steps.last_mut().filter(|_| !actual.tags.is_empty()) {
            last.note = "then every Operator may use the key".into();
            last.irreversible = Some(Irreversible::OpensKey);
        }
    }

    fn unchangeable(&mut self, key: &desired::Key, actual: &actual::Key) {
        let resource = || Resource::Key(key.namespace.clone(), key.id.clone());
        let remedy = "delete the key, and apply again to generate a new one";
        if actual.key_type != key.key_type {
            return self.stuck(resource(), "type", actual.key_type.as_str(), key.key_type.as_str(), remedy);
        }
        if let (Some(actual), Some(desired)) = (actual.length, key.length)
            && actual != desired
        {
            self.stuck(resource(), "length", &format!("{actual}"), &format!("{desired}"), remedy);
        }
        let desired: BTreeSet<_> = key.mechanisms.iter().copied().collect();
        if actual.mechanisms != desired {
            let words = |all: &BTreeSet<_>| all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(" ");
            self.stuck(resource(), "list of mechanisms", &words(&actual.mechanisms), &words(&desired), remedy);
        }
    }

    /// Plans to delete what is not in the file, or notes that it stays.
    fn leave(&mut self, resource: Resource, acting_in: Option<NamespaceId>, delete: bool) {
        if delete {
            self.step(StepAction::Delete, resource, acting_in, "");
        } else {
            self.extra.push(resource);
        }
    }

    /// Users, keys and namespaces that are not in the file. A namespace is never deleted, as all its keys would be
    /// deleted with it. In a namespace for which the file lists no user or no key, none is deleted: the file may be
    /// about other things, or incomplete.
    fn others(&mut self, actual: &Actual, desired: &Desired, options: PlanOptions) {
        for (namespace, keys) in &actual.keys {
            let wanted: BTreeSet<_> =
                desired.keys.iter().filter(|key| key.namespace == *namespace).map(|key| &key.id).collect();
            for id in keys.keys().filter(|id| !wanted.contains(id)) {
                let delete = options.prune_keys && !wanted.is_empty();
                self.leave(Resource::Key(namespace.clone(), id.clone()), namespace.clone(), delete);
            }
        }
        let wanted: BTreeSet<_> = desired.users.iter().map(|user| &user.name).collect();
        let namespaces: BTreeSet<_> = wanted.iter().map(|user| user.namespace.as_ref()).collect();
        for user in actual.users.keys().filter(|user| !wanted.contains(user)) {
            let namespace = user.namespace.as_ref();
            if self
                .steps
                .iter()
                .any(|step| step.action == StepAction::Delete && step.resource == Resource::User(user.clone()))
            {
                continue;
            }
            // In a namespace only its own Administrators can delete users. Those of namespaces to be created were
            // planned before.
            let can = namespace.is_none_or(|namespace| {
                actual.namespaces.contains(namespace) && namespace_admin(actual, desired, namespace).is_some()
            });
            let delete =
                options.prune && can && namespaces.contains(&namespace) && actual.own_user.as_ref() != Some(user);
            self.leave(Resource::User(user.clone()), namespace.cloned(), delete);
        }
        let wanted: BTreeSet<_> = desired.namespaces.iter().collect();
        let others = actual.namespaces.iter().filter(|namespace| !wanted.contains(namespace));
        self.extra.extend(others.cloned().map(Resource::Namespace));
    }

    fn config(&mut self, actual: &Actual, desired: &Desired, files: &Files, options: PlanOptions) {
        let (actual, desired) = (&actual.config, &desired.config);
        self.setting(Setting::Logging, actual.logging.as_ref(), desired.logging.as_ref());
        self.setting(Setting::Ntp, actual.ntp.as_ref(), desired.ntp.as_ref());
        self.setting(Setting::UnattendedBoot, actual.unattended_boot.as_ref(), desired.unattended_boot.as_ref());
        if options.set_backup_passphrase && desired.backup_passphrase.is_some() {
            let resource = Resource::Setting(Setting::BackupPassphrase);
            self.step(StepAction::Create, resource, None, "unless one is set");
        }
        if let Some(desired) = &files.tls_certificate
            && actual.tls_certificate.as_deref().map(blocks) != Some(blocks(desired))
        {
            self.step(StepAction::Change, Resource::Setting(Setting::TlsCertificate), None, "");
        }
        self.setting(Setting::Network, actual.network.as_ref(), desired.network.as_ref());
    }

    fn setting<T: Serialize + PartialEq>(&mut self, setting: Setting, actual: Option<&T>, desired: Option<&T>) {
        if desired.is_some() && actual != desired {
            self.change(Resource::Setting(setting), None, json!(actual), json!(desired));
        }
    }
}

/// Each tag once, in the order of the file.
fn once(tags: &[Tag]) -> impl Iterator<Item = &Tag> {
    tags.iter().enumerate().filter(|(at, tag)| !tags.iter().take(*at).any(|other| other == *tag)).map(|(_, tag)| tag)
}

/// Type and length of a new key, for people.
fn kind(key: &desired::Key) -> String {
    match key.length {
        Some(length) => format!("{} {length}", key.key_type.as_str()),
        None => key.key_type.as_str().into(),
    }
}

/// The certificates in a PEM file (RFC 7468) in base64, without line ends and without text around the blocks.
fn blocks(pem: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in pem.lines().map(str::trim) {
        match &mut block {
            _ if line == "-----BEGIN CERTIFICATE-----" => block = Some(String::new()),
            Some(text) if line == "-----END CERTIFICATE-----" => {
                blocks.push(std::mem::take(text));
                block = None;
            }
            Some(text) => text.push_str(line),
            None => {}
        }
    }
    blocks
}
