//! Every entry of the endpoint table, in every state, called by every kind of caller.
//!
//! The probes are requests that do no harm where they are allowed: bodies that are refused after the gate, objects that
//! do not exist. Harmful ones are followed by a fresh rig.

use std::fmt::Write as _;
use std::time::Duration;

use casemate_api::State;
use casemate_server::http::endpoint::Spec;
use casemate_server::http::endpoints::table;

use crate::golden;
use crate::rig::{Client, Content, Rig, ed25519, passphrase_of, sign_something};

/// The columns: heading and caller.
const CALLERS: [(&str, Who); 12] = [
    ("nobody", Who::Nobody),
    ("wrong", Who::WrongPassphrase),
    ("R-Adm", Who::User("admin")),
    ("R-Op", Who::User("operator")),
    ("R-Met", Who::User("metrics")),
    ("R-Bak", Who::User("backup")),
    ("N-Adm", Who::User("ns1~admin")),
    ("N-Op", Who::User("ns1~operator")),
    ("N-Met", Who::User("ns1~metrics")),
    ("N-Bak", Who::User("ns1~backup")),
    ("G-Adm", Who::User("ghost~admin")),
    ("G-Op", Who::User("ghost~operator")),
];

#[derive(Clone, Copy)]
enum Who {
    Nobody,
    WrongPassphrase,
    User(&'static str),
}

impl Who {
    fn on(self, rig: &Rig) -> Client<'_> {
        match self {
            Who::Nobody => rig.anonymous(),
            Who::WrongPassphrase => rig.login("metrics", "not their passphrase"),
            Who::User(user) => rig.user(user),
        }
    }
}

/// A harmless request for an endpoint.
fn probe(spec: &Spec) -> (String, Content, Option<&'static str>) {
    let path = match (spec.method.as_str(), spec.path) {
        // If allowed, these end in 400 or 404: nothing is changed.
        ("PUT", "/keys/{key}/cert") | ("DELETE", "/keys/{key}" | "/keys/{key}/cert") => {
            spec.path.replace("{key}", "missing")
        }
        ("PUT", path) if path.ends_with("{tag}") => {
            path.replace("{key}", "k").replace("{user}", "operator").replace("{tag}", "-t")
        }
        ("DELETE", "/users/{user}") => "/users/missing".into(),
        ("POST", "/users/{user}") => "/users/ghost~".into(),
        ("PUT", "/namespaces/{namespace}") => "/namespaces/ns1".into(),
        ("DELETE", "/namespaces/{namespace}") => "/namespaces/missing".into(),
        (_, "/namespaces/{namespace}/quota") => "/namespaces/ns1/quota".into(),
        (_, path) => path
            .replace("{key}", "k")
            .replace("{user}", "operator")
            .replace("{tag}", "absent")
            .replace("{member}", "1a"),
    };
    assert!(!path.contains('{'), "a probe for {path}");
    let body: Content = match spec.path {
        // Not even JSON, so that it is not counted as a failed attempt.
        "/unlock" => "{".into(),
        "/keys/{key}/sign" => sign_something().into(),
        "/keys/{key}/cert" if spec.method == "PUT" => "a certificate".into(),
        _ if spec.method == "PUT" || spec.method == "POST" => "{}".into(),
        _ => "".into(),
    };
    let media = (spec.path == "/keys/{key}/cert").then_some("application/octet-stream");
    (path, body, media)
}

/// One endpoint in one state: the answer to each caller.
fn line(rig: &mut Rig, state: State, spec: &Spec) -> String {
    let mut statuses = Vec::new();
    for (_, who) in CALLERS {
        let (path, body, media) = probe(spec);
        let client = who.on(rig);
        let client = media.map_or(client.clone(), |media| client.content_type(media));
        let status = client.send(spec.method.as_str(), &path, body).status;
        statuses.push(status);
        let reset = spec.path == "/system/factory-reset" && status < 300;
        if rig.hsm.state() != state || reset {
            *rig = Rig::in_state(state);
        }
        if status == 401 {
            rig.advance(Duration::from_secs(1));
        }
    }
    let mut line = format!("{:<6} {:<37} {:<13}", spec.method.as_str(), spec.path, format!("{state:?}"));
    match statuses.iter().all(|status| *status == statuses[0]) {
        true => write!(line, " {} for all", statuses[0]).unwrap(),
        false => statuses.iter().for_each(|status| write!(line, " {status:<6}").unwrap()),
    }
    line.trim_end().to_owned() + "\n"
}

#[test]
fn every_endpoint_answers_every_caller_in_every_state_as_in_the_golden_file() {
    let rows = table();
    let mut lines = vec![Vec::new(); rows.len()];
    for state in State::ALL {
        let mut rig = Rig::in_state(state);
        for (row, lines) in rows.iter().zip(&mut lines) {
            lines.push(line(&mut rig, state, &row.spec));
        }
    }
    let mut golden = String::from(
        "# Status of a harmless request: of every endpoint, in every state, for every caller.\n\
         # R: without a namespace. N: of a namespace that exists. G: of one that does not.\n\
         # wrong: a known user with a wrong passphrase.\n\n",
    );
    let mut heading = format!("{:<6} {:<37} {:<13}", "", "", "");
    CALLERS.iter().for_each(|(name, _)| write!(heading, " {name:<6}").unwrap());
    golden.push_str(heading.trim_end());
    golden.push('\n');
    for of_row in lines {
        of_row.iter().for_each(|line| golden.push_str(line));
        golden.push('\n');
    }
    golden::compare("policy.txt", &golden);
}

/// What is done to a user, as requests that change nothing where they are let in.
const OPERATIONS: [(&str, &str); 7] = [
    ("GET", "/users/{}"),
    ("PUT", "/users/{}"),
    ("DELETE", "/users/{}-missing"),
    ("POST", "/users/{}/passphrase"),
    ("GET", "/users/{}/tags"),
    ("PUT", "/users/{}/tags/-t"),
    ("DELETE", "/users/{}/tags/absent"),
];

const TARGETS: [(&str, &str); 7] = [
    ("an Operator", "operator2"),
    ("a Metrics user", "metrics"),
    ("a Backup user", "backup"),
    ("an Operator of ns1", "ns1~operator"),
    ("a Metrics user of ns1", "ns1~metrics"),
    ("an Operator of ns2", "ns2~operator"),
    ("an Operator of no namespace", "ghost~operator"),
];

const ACTORS: [&str; 11] = [
    "admin",
    "operator",
    "operator2",
    "metrics",
    "backup",
    "ns1~admin",
    "ns1~operator",
    "ns1~metrics",
    "ns1~backup",
    "ns2~admin",
    "ghost~admin",
];

#[test]
fn access_to_users_is_as_in_the_golden_file() {
    let rig = Rig::operational();
    let mut golden = String::from(
        "# Status of a request about a user that changes nothing where it is let in, by caller. A star marks a refusal\n\
         # with a sentence.\n\
         # PUT has a good body for a user that exists, so 409 means let in; a passphrase has a bad body and a tag a bad\n\
         # name, so 400 means let in; DELETE is for users that do not exist, so 404 means let in.\n\n",
    );
    let mut heading = format!("{:<29}", "");
    ACTORS.iter().for_each(|actor| write!(heading, " {actor:<13}").unwrap());
    let mut section = |title: &str, rows: &[(&str, &str, String, Content)]| {
        golden.push_str(&format!("{title}\n{}\n", heading.trim_end()));
        for (name, method, path, body) in rows {
            let mut line = format!("  {name:<27}");
            for actor in ACTORS {
                let reply = rig.user(actor).send(method, path, body.clone());
                let star = if reply.status == 403 && !reply.body.is_empty() { "*" } else { "" };
                write!(line, " {:<13}", format!("{}{star}", reply.status)).unwrap();
            }
            golden.push_str(line.trim_end());
            golden.push('\n');
        }
        golden.push('\n');
    };
    let body = |method: &str, path: &str| -> Content {
        let new = serde_json::json!({"realName": "", "role": "Operator", "passphrase": passphrase_of("x")});
        match (method, path) {
            ("PUT", "/users/{}") => new.into(),
            ("POST", _) => serde_json::json!({}).into(),
            _ => "".into(),
        }
    };
    for (method, path) in OPERATIONS {
        let rows: Vec<_> = TARGETS
            .iter()
            .map(|(name, target)| (*name, method, path.replace("{}", target), body(method, path)))
            .collect();
        section(&format!("{method} {}", path.replace("{}", "<user>")), &rows);
    }
    let picked: Vec<_> = ["ns1", "ns2", "ghost"]
        .iter()
        .map(|namespace| (*namespace, "POST", format!("/users/{namespace}~"), body("PUT", "/users/{}")))
        .collect();
    section("POST /users/<namespace>~, 201 creates one", &picked);
    golden::compare("user-targets.txt", &golden);
    // The probes did no harm.
    assert_eq!(rig.admin().get("/users/operator2").is(200).json()["role"], "Operator");
    rig.admin().put("/keys/again", ed25519()).is(204);
}
