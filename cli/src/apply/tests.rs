//! Plans, without an HSM.

use std::collections::{BTreeMap, BTreeSet};

use casemate_api::body::config::{LogLevel, Logging, Switch};
use casemate_api::{KeyId, KeyType, Mechanism, NamespaceId, Role, Tag, UserId};

use super::have::{self, Have};
use super::plan::{Files, May, plan};
use super::show::{self, Extra, lines};
use super::step::Grave;
use super::want::{self, Want};
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

fn user(text: &str, role: Role) -> want::User {
    want::User {
        name: name(text),
        role,
        real_name: None,
        tags: Vec::new(),
        passphrase: Some(Source::Variable("X".into())),
    }
}

fn key(namespace: Option<&str>, text: &str) -> want::Key {
    want::Key {
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

fn is_user(role: Role, tags: &[&str]) -> Option<have::User> {
    Some(have::User { role, real_name: "R".into(), tags: tags.iter().map(ToString::to_string).collect() })
}

fn is_key(tags: &[&str]) -> Option<have::Key> {
    Some(have::Key {
        key_type: KeyType::EC_P256,
        length: None,
        mechanisms: BTreeSet::from([Mechanism::ECDSA_Signature]),
        tags: tags.iter().map(ToString::to_string).collect(),
        label: "L".into(),
        certificate: Some(b"old".to_vec()),
    })
}

const ALL: May = May { prune: true, prune_keys: true, set_backup_passphrase: true };

/// An HSM with a namespace `n`, its Administrator, an Operator and a key in it, and a key outside.
fn have() -> Have {
    Have {
        myself: Some(name("admin")),
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
        ..Have::default()
    }
}

fn want() -> Want {
    Want {
        namespaces: vec![ns("n")],
        users: vec![user("n~a", Role::Administrator), want::User { tags: tags(&["t"]), ..user("n~o", Role::Operator) }],
        keys: vec![key(None, "k"), want::Key { tags: Some(tags(&["t"])), ..key(Some("n"), "k") }],
        ..Want::default()
    }
}

fn shown(have: &Have, want: &Want, may: May) -> Vec<String> {
    lines(&plan(have, want, &Files::default(), may), Extra::Untold)
}

#[test]
fn what_is_as_it_shall_be_needs_no_step() {
    let plan = plan(&have(), &want(), &Files::default(), May::default());
    assert!(plan.is_empty(), "{plan:?}");
    assert_eq!(lines(&plan, Extra::Told), ["  tag ä of key k in n: not in the file", "  user admin: not in the file"]);
}

#[test]
fn an_empty_hsm_gets_everything_in_an_order_that_works() {
    let mut want = want();
    want.users.insert(0, user("n~first", Role::Operator));
    want.config.unattended_boot = Some(Switch::On);
    want.config.backup_passphrase = Some(Source::Variable("X".into()));
    let have = Have { myself: Some(name("admin")), users: BTreeMap::from([(name("admin"), None)]), ..Have::default() };
    let may = May { set_backup_passphrase: true, ..May::default() };
    let plan = plan(&have, &want, &Files::default(), may);
    assert_eq!(
        lines(&plan, Extra::Untold),
        [
            "+ user n~a (Administrator)",
            "+ namespace n",
            "+ user n~first (Operator)",
            "+ user n~o (Operator)",
            "+ tag t of user n~o",
            "+ key k (EC_P256)",
            "+ key k in n (EC_P256)",
            "~ unattended-boot: null becomes \"on\"",
            "+ backup-passphrase (unless there is one)",
        ]
    );
    let by: Vec<_> = plan.steps.iter().map(|step| step.by.is_some()).collect();
    assert_eq!(by, [false, false, true, true, true, false, true, false, false], "who is made before the namespace is");
}

#[test]
fn a_namespace_is_worked_in_by_the_first_of_its_administrators_that_is_there() {
    let mut want = want();
    want.users.insert(0, user("n~z", Role::Administrator));
    let plan = plan(&have(), &want, &Files::default(), May::default());
    assert_eq!(lines(&plan, Extra::Untold), ["+ user n~z (Administrator)"]);
    assert_eq!(plan.steps[0].by, Some(ns("n")));

    let mut have = have();
    have.users.insert(name("n~a"), is_user(Role::Operator, &[]));
    let plan = super::plan::plan(&have, &want, &Files::default(), ALL);
    assert_eq!(plan.steps.iter().filter(|step| step.by.is_some()).count(), 0, "nobody can work there: {plan:?}");
    assert!(lines(&plan, Extra::Untold).iter().any(|line| line.starts_with("! namespace n: none of")), "{plan:?}");
}

#[test]
fn tags_labels_and_certificates_are_changed_and_the_rest_is_not() {
    let mut want = want();
    want.users[1].role = Role::Metrics;
    want.users[0].real_name = Some("S".into());
    let inner = &mut want.keys[1];
    inner.tags = Some(tags(&["u", "u", "t"]));
    inner.label = Some(String::new());
    want.keys[0].key_type = KeyType::EC_P384;
    let files = Files {
        certificates: BTreeMap::from([((Some(ns("n")), id("k")), b"new".to_vec()), ((None, id("k")), b"old".to_vec())]),
        ..Files::default()
    };
    assert_eq!(
        lines(&plan(&have(), &want, &files, May::default()), Extra::Untold),
        [
            "+ tag u of key k in n",
            "~ label of key k in n: \"L\" becomes \"\"",
            "~ certificate of key k in n",
            "! user n~a: its real name is \"R\", the file says \"S\": delete the user by hand to have it made anew",
            "! user n~o: its role is Operator, the file says Metrics: delete the user by hand to have it made anew",
            "! key k: its type is EC_P256, the file says EC_P384: delete the key by hand to have it made anew",
        ]
    );
}

#[test]
fn only_what_may_go_goes() {
    let mut have = have();
    for extra in ["x", "n~x", "theirs~x", "gone~x"] {
        have.users.insert(name(extra), None);
    }
    have.namespaces.insert(ns("theirs"));
    have.keys.get_mut(&None).unwrap().insert(id("x"), None);
    have.users.insert(name("r"), is_user(Role::Backup, &[]));
    let want = Want {
        keys: want().keys,
        namespaces: want().namespaces,
        users: vec![user("r", Role::Backup), user("n~a", Role::Administrator)],
        ..Want::default()
    };
    let users = ["- user x", "- user n~o", "- user n~x"];
    assert_eq!(shown(&have, &want, May { prune: true, ..May::default() }), users);
    assert_eq!(shown(&have, &want, May { prune_keys: true, ..May::default() }), ["- key x"]);
    assert_eq!(shown(&have, &want, May::default()), [""; 0]);
    let left = lines(&plan(&have, &want, &Files::default(), ALL), Extra::Told);
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
    let mut have = have();
    have.users.insert(name("x"), None);
    assert_eq!(shown(&have, &Want::default(), ALL), [""; 0], "an empty file");

    // A file about a namespace says nothing about root, and one about its users nothing about its keys.
    let mut inner = want();
    inner.keys.clear();
    assert_eq!(shown(&have, &inner, ALL), [""; 0]);
    inner.keys = vec![key(Some("n"), "other")];
    assert_eq!(shown(&have, &inner, ALL), ["+ key other in n (EC_P256)", "- key k in n"]);
    // A key of root says nothing about root's users.
    let mut outer = want();
    outer.keys[0] = key(None, "other");
    assert_eq!(shown(&have, &outer, ALL), ["+ key other (EC_P256)", "- key k"]);
}

#[test]
fn a_key_keeps_its_tags_unless_the_file_says_that_it_has_none() {
    let mut have = have();
    let mut set = |tags: &[&str]| {
        have.keys.get_mut(&None).unwrap().insert(id("k"), is_key(tags));
        have.clone()
    };
    let plan = |have: &Have, key| {
        let plan = plan(have, &Want { keys: vec![key], ..want() }, &Files::default(), ALL);
        let outside = plan.steps.iter().filter(|step| step.by.is_none());
        outside.map(|step| (show::line(step), step.grave)).collect::<Vec<_>>()
    };
    let shall = |these: &[&str]| want::Key { tags: Some(tags(these)), ..key(None, "k") };
    assert_eq!(plan(&set(&["t", "u"]), key(None, "k")), [], "what is not in the file is not compared");
    assert_eq!(plan(&set(&["t", "u"]), shall(&["t"])), [("- tag u of key k".into(), None)]);
    assert_eq!(
        plan(&set(&["t", "u"]), shall(&[])),
        [
            ("- tag t of key k".into(), None),
            ("- tag u of key k (then every Operator may use the key)".into(), Some(Grave::OpensKey))
        ]
    );
    let exchanged = [("+ tag v of key k".into(), None), ("- tag t of key k".into(), None)];
    assert_eq!(plan(&set(&["t"]), shall(&["v"])), exchanged);
    // A tag that no call can name stays, and the key with it closed.
    assert_eq!(plan(&set(&["t", "ä"]), shall(&[])), [("- tag t of key k".into(), None)]);
    assert_eq!(plan(&set(&[]), shall(&[])), []);
}

#[test]
fn a_namespace_made_again_lets_in_only_whom_the_file_lists() {
    let mut have = have();
    have.namespaces.clear();
    have.keys.remove(&Some(ns("n")));
    let again = "+ namespace n (its users come back: n~a, n~o)";
    let key = "+ key k in n (EC_P256)";
    assert_eq!(shown(&have, &want(), May::default()), [again, key]);

    have.users.insert(name("n~x"), None);
    let left = shown(&have, &want(), May::default());
    assert!(left.len() == 1 && left[0].starts_with("! namespace n: users that an earlier namespace"), "{left:?}");
    assert!(left[0].contains(" roles: n~x; delete them"), "{left:?}");
    let prune = May { prune: true, ..May::default() };
    let plan = plan(&have, &want(), &Files::default(), prune);
    assert_eq!(lines(&plan, Extra::Untold), ["- user n~x (left by an earlier namespace)", again, key]);
    assert_eq!(plan.steps[0].by, None, "nobody works in a namespace that is not there");

    // Who comes back with another role than that of the file is nobody that the file knows.
    have.users.remove(&name("n~x"));
    have.users.insert(name("n~o"), is_user(Role::Administrator, &[]));
    let left = shown(&have, &want(), prune);
    assert!(left.len() == 1 && left[0].contains(" roles: n~o; delete them"), "{left:?}");
}

#[test]
fn certificates_differ_if_their_bytes_do() {
    let pem = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    let mut have = have();
    have.config.tls_certificate = Some(pem("AAAA\nBB=="));
    let files = |text: String| Files { tls_certificate: Some(text), ..Files::default() };
    let steps = |text: String| plan(&have, &want(), &files(text), May::default()).steps.len();
    assert_eq!(steps(format!("text\r\n{}", pem("AAAABB==").replace('\n', "\r\n"))), 0);
    assert_eq!(steps(pem("AAAABC==")), 1);
    assert_eq!(steps(pem("AAAABB==") + &pem("AAAA")), 1);
}

#[test]
fn the_network_comes_last() {
    let mut want = want();
    let network = |last: u8| casemate_api::body::config::Network {
        ip_address: [10, 0, 0, last].into(),
        netmask: [255, 0, 0, 0].into(),
        gateway: [0; 4].into(),
        ipv6: None,
    };
    let logging = |log_level| Logging { ip_address: [10, 0, 0, 9].into(), port: 514, log_level };
    want.config.network = Some(network(2));
    want.config.logging = Some(logging(LogLevel::Error));
    want.users.push(user("new", Role::Backup));
    let mut have = have();
    have.config.network = Some(network(1));
    have.config.logging = Some(logging(LogLevel::Info));
    let shown = shown(&have, &want, ALL);
    assert!(
        shown[shown.len() - 1].starts_with("~ network: ") && shown[shown.len() - 2].starts_with("~ logging: "),
        "{shown:?}"
    );
}
