//! Plans, without an HSM.

use std::collections::{BTreeMap, BTreeSet};

use casemate_api::body::config::{LogLevel, Logging, Switch};
use casemate_api::{KeyId, KeyType, Mechanism, NamespaceId, Role, Tag, UserId};

use super::actual::{self, Actual};
use super::desired::{self, Desired};
use super::plan::{Files, PlanOptions, plan};
use super::show::{self, Extra, lines};
use super::step::Irreversible;
use crate::prompt::Source;

fn ns(text: &str) -> NamespaceId {
    NamespaceId::parse(text).unwrap()
}

fn id(text: &str) -> KeyId {
    KeyId::parse(text).unwrap()
}

fn name(text: &str) -> UserId {
    UserId::parse(text).unwrap()
}

fn tags(tags: &[&str]) -> Vec<Tag> {
    tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect()
}

fn user(text: &str, role: Role) -> desired::User {
    desired::User {
        name: name(text),
        role,
        real_name: None,
        tags: Vec::new(),
        passphrase: Some(Source::Variable("X".into())),
    }
}

fn key(namespace: Option<&str>, text: &str) -> desired::Key {
    desired::Key {
        id: id(text),
        namespace: namespace.map(ns),
        key_type: KeyType::EC_P256,
        length: None,
        mechanisms: vec![Mechanism::ECDSA_Signature],
        tags: None,
        label: None,
        certificate_file: None,
    }
}

fn is_user(role: Role, tags: &[&str]) -> Option<actual::User> {
    Some(actual::User { role, real_name: "R".into(), tags: tags.iter().map(ToString::to_string).collect() })
}

fn is_key(tags: &[&str]) -> Option<actual::Key> {
    Some(actual::Key {
        key_type: KeyType::EC_P256,
        length: None,
        mechanisms: BTreeSet::from([Mechanism::ECDSA_Signature]),
        tags: tags.iter().map(ToString::to_string).collect(),
        label: "L".into(),
        certificate: Some(b"old".to_vec()),
    })
}

const ALL: PlanOptions = PlanOptions { prune: true, prune_keys: true, set_backup_passphrase: true };

/// An HSM with a namespace `n`, its Administrator, an Operator and a key in it, and a key outside.
fn actual() -> Actual {
    Actual {
        own_user: Some(name("admin")),
        namespaces: BTreeSet::from([ns("n")]),
        users: BTreeMap::from([
            (name("admin"), None),
            (name("n~a"), is_user(Role::Administrator, &[])),
            (name("n~o"), is_user(Role::Operator, &["t"])),
        ]),
        keys: BTreeMap::from([
            (None, BTreeMap::from([(id("k"), is_key(&[]))])),
            (Some(ns("n")), BTreeMap::from([(id("k"), is_key(&["t", "ä"]))])),
        ]),
        ..Actual::default()
    }
}

fn desired() -> Desired {
    Desired {
        namespaces: vec![ns("n")],
        users: vec![
            user("n~a", Role::Administrator),
            desired::User { tags: tags(&["t"]), ..user("n~o", Role::Operator) },
        ],
        keys: vec![key(None, "k"), desired::Key { tags: Some(tags(&["t"])), ..key(Some("n"), "k") }],
        ..Desired::default()
    }
}

fn shown(actual: &Actual, desired: &Desired, options: PlanOptions) -> Vec<String> {
    lines(&plan(actual, desired, &Files::default(), options), Extra::Hidden)
}

#[test]
fn an_hsm_as_in_the_file_needs_no_step() {
    let plan = plan(&actual(), &desired(), &Files::default(), PlanOptions::default());
    assert!(plan.is_empty(), "{plan:?}");
    assert_eq!(lines(&plan, Extra::Shown), ["  tag ä of key k in n: not in the file", "  user admin: not in the file"]);
}

#[test]
fn an_empty_hsm_gets_everything_in_an_order_that_works() {
    let mut desired = desired();
    desired.users.insert(0, user("n~first", Role::Operator));
    desired.config.unattended_boot = Some(Switch::On);
    desired.config.backup_passphrase = Some(Source::Variable("X".into()));
    let actual =
        Actual { own_user: Some(name("admin")), users: BTreeMap::from([(name("admin"), None)]), ..Actual::default() };
    let options = PlanOptions { set_backup_passphrase: true, ..PlanOptions::default() };
    let plan = plan(&actual, &desired, &Files::default(), options);
    assert_eq!(
        lines(&plan, Extra::Hidden),
        [
            "+ user n~a (Administrator)",
            "+ namespace n",
            "+ user n~first (Operator)",
            "+ user n~o (Operator)",
            "+ tag t of user n~o",
            "+ key k (EC_P256)",
            "+ key k in n (EC_P256)",
            "~ unattended-boot: null becomes \"on\"",
            "+ backup-passphrase (unless one is set)",
        ]
    );
    let acting_in: Vec<_> = plan.steps.iter().map(|step| step.acting_in.is_some()).collect();
    assert_eq!(
        acting_in,
        [false, false, true, true, true, false, true, false, false],
        "who is made before the namespace is"
    );
}

#[test]
fn a_namespace_is_worked_in_by_the_first_of_its_administrators_that_is_there() {
    let mut desired = desired();
    desired.users.insert(0, user("n~z", Role::Administrator));
    let plan = plan(&actual(), &desired, &Files::default(), PlanOptions::default());
    assert_eq!(lines(&plan, Extra::Hidden), ["+ user n~z (Administrator)"]);
    assert_eq!(plan.steps[0].acting_in, Some(ns("n")));

    let mut actual = actual();
    actual.users.insert(name("n~a"), is_user(Role::Operator, &[]));
    let plan = super::plan::plan(&actual, &desired, &Files::default(), ALL);
    assert_eq!(plan.steps.iter().filter(|step| step.acting_in.is_some()).count(), 0, "nobody can act there: {plan:?}");
    assert!(lines(&plan, Extra::Hidden).iter().any(|line| line.starts_with("! namespace n: none of")), "{plan:?}");
}

#[test]
fn tags_labels_and_certificates_are_changed_and_the_rest_is_not() {
    let mut desired = desired();
    desired.users[1].role = Role::Metrics;
    desired.users[0].real_name = Some("S".into());
    let inner = &mut desired.keys[1];
    inner.tags = Some(tags(&["u", "u", "t"]));
    inner.label = Some(String::new());
    desired.keys[0].key_type = KeyType::EC_P384;
    let files = Files {
        certificates: BTreeMap::from([((Some(ns("n")), id("k")), b"new".to_vec()), ((None, id("k")), b"old".to_vec())]),
        ..Files::default()
    };
    assert_eq!(
        lines(&plan(&actual(), &desired, &files, PlanOptions::default()), Extra::Hidden),
        [
            "+ tag u of key k in n",
            "~ label of key k in n: \"L\" becomes \"\"",
            "~ certificate of key k in n",
            "! user n~a: its real name is \"R\", but \"S\" in the file: delete the user, and apply again to create a new one",
            "! user n~o: its role is Operator, but Metrics in the file: delete the user, and apply again to create a new one",
            "! key k: its type is EC_P256, but EC_P384 in the file: delete the key, and apply again to generate a new one",
        ]
    );
}

#[test]
fn only_what_may_go_goes() {
    let mut actual = actual();
    for extra in ["x", "n~x", "theirs~x", "gone~x"] {
        actual.users.insert(name(extra), None);
    }
    actual.namespaces.insert(ns("theirs"));
    actual.keys.get_mut(&None).unwrap().insert(id("x"), None);
    actual.users.insert(name("r"), is_user(Role::Backup, &[]));
    let desired = Desired {
        keys: desired().keys,
        namespaces: desired().namespaces,
        users: vec![user("r", Role::Backup), user("n~a", Role::Administrator)],
        ..Desired::default()
    };
    let users = ["- user x", "- user n~o", "- user n~x"];
    assert_eq!(shown(&actual, &desired, PlanOptions { prune: true, ..PlanOptions::default() }), users);
    assert_eq!(shown(&actual, &desired, PlanOptions { prune_keys: true, ..PlanOptions::default() }), ["- key x"]);
    assert_eq!(shown(&actual, &desired, PlanOptions::default()), [""; 0]);
    let left = lines(&plan(&actual, &desired, &Files::default(), ALL), Extra::Shown);
    let left: Vec<_> = left.iter().filter(|line| line.ends_with(": not in the file")).map(|line| line.trim()).collect();
    assert_eq!(
        left,
        [
            // No call can name it.
            "tag ä of key k in n: not in the file",
            "user admin: not in the file",
            "user gone~x: not in the file",
            "user theirs~x: not in the file",
            "namespace theirs: not in the file",
        ]
    );
}

#[test]
fn nothing_goes_where_the_file_lists_nothing() {
    let mut actual = actual();
    actual.users.insert(name("x"), None);
    assert_eq!(shown(&actual, &Desired::default(), ALL), [""; 0], "an empty file");

    // A file about a namespace is not about root, and one about its users not about its keys.
    let mut inner = desired();
    inner.keys.clear();
    assert_eq!(shown(&actual, &inner, ALL), [""; 0]);
    inner.keys = vec![key(Some("n"), "other")];
    assert_eq!(shown(&actual, &inner, ALL), ["+ key other in n (EC_P256)", "- key k in n"]);
    // A file with a key of root is not about root's users.
    let mut outer = desired();
    outer.keys[0] = key(None, "other");
    assert_eq!(shown(&actual, &outer, ALL), ["+ key other (EC_P256)", "- key k"]);
}

#[test]
fn a_key_keeps_its_tags_unless_the_file_has_an_empty_list() {
    let mut actual = actual();
    let mut set = |tags: &[&str]| {
        actual.keys.get_mut(&None).unwrap().insert(id("k"), is_key(tags));
        actual.clone()
    };
    let plan = |actual: &Actual, key| {
        let plan = plan(actual, &Desired { keys: vec![key], ..desired() }, &Files::default(), ALL);
        let outside = plan.steps.iter().filter(|step| step.acting_in.is_none());
        outside.map(|step| (show::line(step), step.irreversible)).collect::<Vec<_>>()
    };
    let desired = |these: &[&str]| desired::Key { tags: Some(tags(these)), ..key(None, "k") };
    assert_eq!(plan(&set(&["t", "u"]), key(None, "k")), [], "what is not in the file is not compared");
    assert_eq!(plan(&set(&["t", "u"]), desired(&["t"])), [("- tag u of key k".into(), None)]);
    assert_eq!(
        plan(&set(&["t", "u"]), desired(&[])),
        [
            ("- tag t of key k".into(), None),
            ("- tag u of key k (then every Operator may use the key)".into(), Some(Irreversible::OpensKey))
        ]
    );
    let exchanged = [("+ tag v of key k".into(), None), ("- tag t of key k".into(), None)];
    assert_eq!(plan(&set(&["t"]), desired(&["v"])), exchanged);
    // A tag that no call can name stays, and the key with it closed.
    assert_eq!(plan(&set(&["t", "ä"]), desired(&[])), [("- tag t of key k".into(), None)]);
    assert_eq!(plan(&set(&[]), desired(&[])), []);
}

#[test]
fn a_namespace_made_again_lets_in_only_whom_the_file_lists() {
    let mut actual = actual();
    actual.namespaces.clear();
    actual.keys.remove(&Some(ns("n")));
    let again = "+ namespace n (its users come back: n~a, n~o)";
    let key = "+ key k in n (EC_P256)";
    assert_eq!(shown(&actual, &desired(), PlanOptions::default()), [again, key]);

    actual.users.insert(name("n~x"), None);
    let left = shown(&actual, &desired(), PlanOptions::default());
    assert!(left.len() == 1 && left[0].starts_with("! namespace n: users of an earlier namespace"), "{left:?}");
    assert!(left[0].contains(" roles: n~x; delete them"), "{left:?}");
    let prune = PlanOptions { prune: true, ..PlanOptions::default() };
    let plan = plan(&actual, &desired(), &Files::default(), prune);
    assert_eq!(lines(&plan, Extra::Hidden), ["- user n~x (of an earlier namespace)", again, key]);
    assert_eq!(plan.steps[0].acting_in, None, "nobody can act in a namespace that does not exist");

    // A user who comes back with another role than in the file is not one of the file.
    actual.users.remove(&name("n~x"));
    actual.users.insert(name("n~o"), is_user(Role::Administrator, &[]));
    let left = shown(&actual, &desired(), prune);
    assert!(left.len() == 1 && left[0].contains(" roles: n~o; delete them"), "{left:?}");
}

#[test]
fn certificates_differ_if_their_bytes_do() {
    let pem = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    let mut actual = actual();
    actual.config.tls_certificate = Some(pem("AAAA\nBB=="));
    let files = |text: String| Files { tls_certificate: Some(text), ..Files::default() };
    let steps = |text: String| plan(&actual, &desired(), &files(text), PlanOptions::default()).steps.len();
    assert_eq!(steps(format!("text\r\n{}", pem("AAAABB==").replace('\n', "\r\n"))), 0);
    assert_eq!(steps(pem("AAAABC==")), 1);
    assert_eq!(steps(pem("AAAABB==") + &pem("AAAA")), 1);
}

#[test]
fn the_network_comes_last() {
    let mut desired = desired();
    let network = |last: u8| casemate_api::body::config::Network {
        ip_address: [10, 0, 0, last].into(),
        netmask: [255, 0, 0, 0].into(),
        gateway: [0; 4].into(),
        ipv6: None,
    };
    let logging = |log_level| Logging { ip_address: [10, 0, 0, 9].into(), port: 514, log_level };
    desired.config.network = Some(network(2));
    desired.config.logging = Some(logging(LogLevel::Error));
    desired.users.push(user("new", Role::Backup));
    let mut actual = actual();
    actual.config.network = Some(network(1));
    actual.config.logging = Some(logging(LogLevel::Info));
    let shown = shown(&actual, &desired, ALL);
    assert!(
        shown[shown.len() - 1].starts_with("~ network: ") && shown[shown.len() - 2].starts_with("~ logging: "),
        "{shown:?}"
    );
}
