//! What has to be done so that what is becomes what shall be. A pure function: it asks nobody and changes nothing.
//!
//! The order works at any point of it: the first Administrator of a new namespace is made by root's while the namespace
//! is not there yet, everybody else in it by that one; keys have their tags from their first moment, because a key without
//! tags is for every Operator; what is deleted goes after all that comes, but users whom a new namespace would let in again
//! go before it; the network comes last, as it may cut the line.

use std::collections::{BTreeMap, BTreeSet};

use casemate_api::{KeyId, NamespaceId, Tag, UserId};
use serde::Serialize;
use serde_json::{Value, json};

use super::have::{self, Have, worker};
use super::step::{Act, Grave, Setting, Step, Thing};
use super::want::{self, Want};

/// What may be done besides making and changing.
#[derive(Clone, Copy, Default)]
pub(crate) struct May {
    /// Delete users and tags that are not in the file.
    pub(crate) prune: bool,
    /// Delete keys that are not in the file.
    pub(crate) prune_keys: bool,
    /// Set the Backup Passphrase, unless there is one.
    pub(crate) set_backup_passphrase: bool,
}

/// The contents of the certificate files that the file names.
#[derive(Clone, Default)]
pub(crate) struct Files {
    /// Of the keys, by namespace and id.
    pub(crate) certificates: BTreeMap<(Option<NamespaceId>, KeyId), Vec<u8>>,
    /// Of the HSM itself.
    pub(crate) tls_certificate: Option<String>,
}

/// What has to be done, what cannot be done, and what is left alone.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// In the order in which it is done.
    pub(crate) steps: Vec<Step>,
    /// What differs and cannot be changed.
    pub(crate) stuck: Vec<Stuck>,
    /// What is there and not in the file.
    pub(crate) extra: Vec<Thing>,
}

/// Something that differs and cannot be changed.
#[derive(Debug)]
pub(crate) struct Stuck {
    /// What.
    pub(crate) thing: Thing,
    /// In which way, and what to do.
    pub(crate) why: String,
}

/// Compares.
pub(crate) fn plan(have: &Have, want: &Want, files: &Files, may: May) -> Plan {
    let mut plan = Plan::default();
    let closed = namespaces(&mut plan, have, want, may);
    let open = |namespace: &Option<NamespaceId>| namespace.as_ref().is_none_or(|namespace| !closed.contains(namespace));
    let users = || want.users.iter().filter(|user| open(&user.name.namespace));
    for user in users().filter(|user| !have.users.contains_key(&user.name)) {
        plan.create_user(user, user.name.namespace.clone());
    }
    for user in users() {
        plan.user(user, have.users.get(&user.name).and_then(Option::as_ref), may);
    }
    let keys = || want.keys.iter().filter(|key| open(&key.namespace));
    let there = |key: &want::Key| have.keys.get(&key.namespace).and_then(|keys| keys.get(&key.id));
    for key in keys().filter(|key| there(key).is_none()) {
        let thing = Thing::Key(key.namespace.clone(), key.id.clone());
        plan.step(Act::Create, thing, key.namespace.clone(), kind(key));
    }
    for key in keys() {
        let certificate = files.certificates.get(&(key.namespace.clone(), key.id.clone()));
        plan.key(key, there(key).and_then(Option::as_ref), certificate, may);
    }
    plan.others(have, want, may);
    plan.config(have, want, files, may);
    plan
}

/// Plans the namespaces that are missing, each with the Administrator it starts with. Returns those in which nobody of the
/// file can work, or into which users would come back whom the file does not want.
fn namespaces<'a>(plan: &mut Plan, have: &Have, want: &'a Want, may: May) -> BTreeSet<&'a NamespaceId> {
    let mut closed = BTreeSet::new();
    for namespace in &want.namespaces {
        let worker = worker(have, want, namespace);
        if have.namespaces.contains(namespace) && worker.is_some() {
            continue;
        }
        let Some(worker) = worker else {
            closed.insert(namespace);
            let why = "none of its Administrators in the file is one on the HSM, and nobody else can make one: have an \
                       Administrator of the namespace add it, or delete the namespace with all its keys by hand";
            plan.stuck.push(Stuck { thing: Thing::Namespace(namespace.clone()), why: why.into() });
            continue;
        };
        let old = |user: &&UserId| user.namespace.as_ref() == Some(namespace);
        let (old, strangers): (Vec<_>, Vec<_>) =
            have.users.keys().filter(old).partition(|user| is_wanted(have, want, user));
        let listed = |user: &&UserId| want.users.iter().any(|wanted| wanted.name == **user);
        if !strangers.is_empty() && (!may.prune || strangers.iter().any(listed)) {
            closed.insert(namespace);
            let why = format!(
                "users that an earlier namespace of this name left would come back with their old passphrases, and the \
                 file has none of these names and roles: {}; delete them by hand, or with --prune those that are not in \
                 the file",
                words(&strangers)
            );
            plan.stuck.push(Stuck { thing: Thing::Namespace(namespace.clone()), why });
            continue;
        }
        for stranger in strangers {
            // Before the namespace is there root's Administrator can delete them; afterwards they can do anything.
            plan.step(Act::Delete, Thing::User(stranger.clone()), None, "left by an earlier namespace");
        }
        if !have.users.contains_key(&worker.name) {
            plan.create_user(worker, None);
        }
        let old = words(&old);
        let note = if old.is_empty() { String::new() } else { format!("its users come back: {old}") };
        plan.step(Act::Create, Thing::Namespace(namespace.clone()), None, note);
    }
    closed
}

/// Whether the file lists a user that is there with the role it has.
fn is_wanted(have: &Have, want: &Want, user: &UserId) -> bool {
    let role = have.users.get(user).and_then(|user| user.as_ref().map(|user| user.role));
    want.users.iter().any(|wanted| wanted.name == *user && role == Some(wanted.role))
}

fn words(users: &[&UserId]) -> String {
    users.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Plan {
    /// Whether the HSM is as the file says.
    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.stuck.is_empty()
    }

    fn step(&mut self, act: Act, thing: Thing, by: Option<NamespaceId>, note: impl Into<String>) {
        let grave = (act == Act::Delete && matches!(thing, Thing::Key(..))).then_some(Grave::DeletesKey);
        self.steps.push(Step { act, thing, by, from: Value::Null, to: Value::Null, note: note.into(), grave });
    }

    fn change(&mut self, thing: Thing, by: Option<NamespaceId>, from: Value, to: Value) {
        self.steps.push(Step { act: Act::Change, thing, by, from, to, note: String::new(), grave: None });
    }

    fn stuck(&mut self, thing: Thing, what: &str, is: &str, shall: &str, remedy: &str) {
        self.stuck.push(Stuck { thing, why: format!("its {what} is {is}, the file says {shall}: {remedy}") });
    }

    fn create_user(&mut self, user: &want::User, by: Option<NamespaceId>) {
        let thing = Thing::User(user.name.clone());
        // The one who makes the namespace was planned before all others.
        if !self.steps.iter().any(|step| step.thing == thing) {
            self.step(Act::Create, thing, by, format!("{:?}", user.role));
        }
    }

    fn user(&mut self, user: &want::User, is: Option<&have::User>, may: May) {
        let (name, by) = (&user.name, &user.name.namespace);
        if let Some(is) = is {
            let remedy = "delete the user by hand to have it made anew";
            if is.role != user.role {
                let (is, shall) = (format!("{:?}", is.role), format!("{:?}", user.role));
                return self.stuck(Thing::User(name.clone()), "role", &is, &shall, remedy);
            }
            if let Some(shall) = user.real_name.as_ref().filter(|shall| **shall != is.real_name) {
                let (is, shall) = (format!("{:?}", is.real_name), format!("{shall:?}"));
                self.stuck(Thing::User(name.clone()), "real name", &is, &shall, remedy);
            }
        }
        let none = BTreeSet::new();
        let is = is.map_or(&none, |is| &is.tags);
        for tag in once(&user.tags).filter(|tag| !is.contains(tag.as_str())) {
            self.step(Act::Create, Thing::UserTag(name.clone(), tag.to_string()), by.clone(), "");
        }
        for tag in is.iter().filter(|tag| !user.tags.iter().any(|shall| shall.as_str() == *tag)) {
            self.leave(Thing::UserTag(name.clone(), tag.clone()), by.clone(), may.prune && Tag::parse(tag).is_ok());
        }
    }

    fn key(&mut self, key: &want::Key, is: Option<&have::Key>, certificate: Option<&Vec<u8>>, may: May) {
        let (place, id) = (&key.namespace, &key.id);
        let label = || Thing::KeyLabel(place.clone(), id.clone());
        let stored = || Thing::KeyCertificate(place.clone(), id.clone());
        let Some(is) = is else {
            // Tags and label are given when it is generated.
            if certificate.is_some() {
                self.step(Act::Create, stored(), place.clone(), "");
            }
            return;
        };
        self.unchangeable(key, is);
        self.key_tags(key, is, may);
        if let Some(shall) = key.label.as_ref().filter(|shall| **shall != is.label) {
            self.change(label(), place.clone(), json!(is.label), json!(shall));
        }
        match (certificate, &is.certificate) {
            (Some(_), None) => self.step(Act::Create, stored(), place.clone(), ""),
            (Some(shall), Some(is)) if shall != is => self.step(Act::Change, stored(), place.clone(), ""),
            _ => {}
        }
    }

    fn key_tags(&mut self, key: &want::Key, is: &have::Key, may: May) {
        let Some(shall) = &key.tags else { return };
        let (place, thing) =
            (&key.namespace, |tag: &str| Thing::KeyTag(key.namespace.clone(), key.id.clone(), tag.into()));
        for tag in once(shall).filter(|tag| !is.tags.contains(tag.as_str())) {
            self.step(Act::Create, thing(tag.as_str()), place.clone(), "");
        }
        let goes = |tag: &str| may.prune && Tag::parse(tag).is_ok();
        let opens = shall.is_empty() && is.tags.iter().all(|tag| goes(tag));
        for tag in is.tags.iter().filter(|tag| !shall.iter().any(|shall| shall.as_str() == *tag)) {
            self.leave(thing(tag), place.clone(), goes(tag));
        }
        if opens && let Some(last) = self.steps.last_mut().filter(|_| !is.tags.is_empty()) {
            last.note = "then every Operator may use the key".into();
            last.grave = Some(Grave::OpensKey);
        }
    }

    fn unchangeable(&mut self, key: &want::Key, is: &have::Key) {
        let thing = || Thing::Key(key.namespace.clone(), key.id.clone());
        let remedy = "delete the key by hand to have it made anew";
        if is.key_type != key.key_type {
            return self.stuck(thing(), "type", is.key_type.as_str(), key.key_type.as_str(), remedy);
        }
        if let (Some(is), Some(shall)) = (is.length, key.length)
            && is != shall
        {
            self.stuck(thing(), "length", &format!("{is}"), &format!("{shall}"), remedy);
        }
        let shall: BTreeSet<_> = key.mechanisms.iter().copied().collect();
        if is.mechanisms != shall {
            let words = |all: &BTreeSet<_>| all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(" ");
            self.stuck(thing(), "list of mechanisms", &words(&is.mechanisms), &words(&shall), remedy);
        }
    }

    /// What is not in the file: deleted, or left alone and told.
    fn leave(&mut self, thing: Thing, by: Option<NamespaceId>, delete: bool) {
        if delete {
            self.step(Act::Delete, thing, by, "");
        } else {
            self.extra.push(thing);
        }
    }

    /// Users, keys and namespaces that are not in the file. A namespace is never deleted: all its keys would go with it.
    /// Where the file lists none of a kind it may be about something else, or cut off: there none is deleted.
    fn others(&mut self, have: &Have, want: &Want, may: May) {
        for (place, keys) in &have.keys {
            let wanted: BTreeSet<_> =
                want.keys.iter().filter(|key| key.namespace == *place).map(|key| &key.id).collect();
            for id in keys.keys().filter(|id| !wanted.contains(id)) {
                let delete = may.prune_keys && !wanted.is_empty();
                self.leave(Thing::Key(place.clone(), id.clone()), place.clone(), delete);
            }
        }
        let wanted: BTreeSet<_> = want.users.iter().map(|user| &user.name).collect();
        let places: BTreeSet<_> = wanted.iter().map(|user| user.namespace.as_ref()).collect();
        for user in have.users.keys().filter(|user| !wanted.contains(user)) {
            let place = user.namespace.as_ref();
            if self.steps.iter().any(|step| step.act == Act::Delete && step.thing == Thing::User(user.clone())) {
                continue;
            }
            // In a namespace only its own Administrators delete anybody. One that is not there was planned before.
            let can = place.is_none_or(|place| have.namespaces.contains(place) && worker(have, want, place).is_some());
            let delete = may.prune && can && places.contains(&place) && have.myself.as_ref() != Some(user);
            self.leave(Thing::User(user.clone()), place.cloned(), delete);
        }
        let wanted: BTreeSet<_> = want.namespaces.iter().collect();
        let others = have.namespaces.iter().filter(|namespace| !wanted.contains(namespace));
        self.extra.extend(others.cloned().map(Thing::Namespace));
    }

    fn config(&mut self, have: &Have, want: &Want, files: &Files, may: May) {
        let (is, shall) = (&have.config, &want.config);
        self.setting(Setting::Logging, is.logging.as_ref(), shall.logging.as_ref());
        self.setting(Setting::Ntp, is.ntp.as_ref(), shall.ntp.as_ref());
        self.setting(Setting::UnattendedBoot, is.unattended_boot.as_ref(), shall.unattended_boot.as_ref());
        if may.set_backup_passphrase && shall.backup_passphrase.is_some() {
            let thing = Thing::Setting(Setting::BackupPassphrase);
            self.step(Act::Create, thing, None, "unless there is one");
        }
        if let Some(shall) = &files.tls_certificate
            && is.tls_certificate.as_deref().map(blocks) != Some(blocks(shall))
        {
            self.step(Act::Change, Thing::Setting(Setting::TlsCertificate), None, "");
        }
        self.setting(Setting::Network, is.network.as_ref(), shall.network.as_ref());
    }

    fn setting<T: Serialize + PartialEq>(&mut self, setting: Setting, is: Option<&T>, shall: Option<&T>) {
        if shall.is_some() && is != shall {
            self.change(Thing::Setting(setting), None, json!(is), json!(shall));
        }
    }
}

/// Each tag once, in the order of the file.
fn once(tags: &[Tag]) -> impl Iterator<Item = &Tag> {
    tags.iter().enumerate().filter(|(at, tag)| !tags.iter().take(*at).any(|other| other == *tag)).map(|(_, tag)| tag)
}

/// What a new key will be, in a few words.
fn kind(key: &want::Key) -> String {
    match key.length {
        Some(length) => format!("{} {length}", key.key_type.as_str()),
        None => key.key_type.as_str().into(),
    }
}

/// The certificates in a PEM file, without what does not count: line ends, and text around the blocks.
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
