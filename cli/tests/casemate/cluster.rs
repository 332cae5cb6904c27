//! Clusters. What takes two nodes is tested against a mock of two: it checks what is asked in which order, not what a cluster
//! makes of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};

use casemate_testkit::{EtcdCertificates, MockServer, Reaction, reply};
use serde_json::{Value, json};

use crate::harness::{ADMIN, EtcdServer, Folder, Hsm, OPERATOR, Ran, run};
use crate::pty::Person;

#[test]
fn a_casemated_alone_is_its_only_member() {
    let hsm = Hsm::operational();
    let shown = hsm.admin(&["cluster", "status", "--json"]).json();
    assert_eq!((&shown["nodes"][0]["state"], &shown["nodes"][0]["running"]), (&json!("Operational"), &json!(false)));
    assert_eq!((shown["members"].as_array().unwrap().len(), &shown["quorum"]["voters"]), (1, &json!(1)));
    // Only a Failed node goes on alone.
    let force = ["cluster", "force-new", "--unlock-passphrase-file", &hsm.at("unlock")];
    assert!(hsm.nobody(&force).fails(8).contains("is Operational: only a Failed node"));
    assert_eq!(hsm.admin(&["cluster", "members", "--json"]).json(), shown["members"]);
    // What could be learnt is shown, and then what could not.
    hsm.admin(&["lock"]).ok();
    let ran = hsm.nobody(&["cluster", "status", "--json"]);
    let shown: Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!((&shown["nodes"][0]["state"], &shown["members"], ran.code), (&json!("Locked"), &Value::Null, 8));
}

#[test]
fn a_casemated_alone_says_what_it_lacks_for_a_cluster() {
    let hsm = Hsm::operational();
    let file = hsm.at("invitation");
    let add = || hsm.admin(&["cluster", "add", "https://192.0.2.8:2380", "--to", &file]).fails(10);
    assert!(add().contains("(412): No backup passphrase is set"));
    hsm.admin(&["config", "backup-passphrase", "--first", "--new-passphrase-file", &hsm.at("op")]).ok();
    assert!(add().contains("cluster CA"));
    assert!(!fs::exists(&file).unwrap());
    hsm.admin(&["cluster", "set-urls", "b2", "https://192.0.2.8:2380"]).fails(7);
    let message = hsm.admin(&["cluster", "set-urls", "casemate", "https://192.0.2.8:2380"]).fails(10);
    assert!(message.contains("(412): This node is not in a cluster yet"), "{message}");
    hsm.admin(&["cluster", "remove", "b2", "--yes"]).fails(7);
    assert!(hsm.admin(&["cluster", "remove", "casemate", "--yes"]).fails(2).contains("the only voting member"));
    assert!(hsm.admin(&["cluster", "promote", "casemate"]).ok().contains("has a vote already"));
    assert_eq!(hsm.admin(&["cluster", "add", "192.0.2.8", "--to", &file]).code, 2);
    hsm.admin(&["cluster", "remove", "../x", "--yes"]).fails(7);
    let message = hsm.admin(&["cluster", "join", &hsm.at("admin"), "--yes"]).fails(2);
    assert!(message.contains("is not an invitation") && !message.contains(ADMIN), "{message}");
}

#[test]
fn the_last_member_goes_back_to_a_file() {
    let (hsm, certificates) = (Hsm::with_etcd(), EtcdCertificates::new());
    let request = hsm.admin(&["csr", "--tls", "--common-name", "one", "--san", "IP:127.0.0.1"]).ok();
    let certificate = hsm.folder.file("one.pem", certificates.sign(&request));
    let ca = hsm.folder.file("ca.pem", &certificates.ca);
    hsm.admin(&["cert", "set", "--tls", &certificate]).ok();
    hsm.admin(&["config", "tls", "cluster-ca", "set", &ca, "--yes"]).ok();
    let status = || hsm.admin(&["cluster", "status", "--json"]).json();
    let shown = status();
    assert_eq!((&shown["nodes"][0]["store"]["kind"], &shown["nodes"][0]["running"]), (&json!("etcd"), &json!(true)));

    assert!(hsm.admin(&["cluster", "dissolve"]).fails(2).contains("--yes"));
    hsm.operator(&["cluster", "dissolve", "--yes"]).fails(6);
    assert_eq!(status()["nodes"][0]["store"]["kind"], "etcd");
    let dissolve = || hsm.admin(&["cluster", "dissolve", "--yes"]).ok();
    assert!(dissolve().contains("in a file of its own"));
    assert_eq!(status()["nodes"][0]["store"]["kind"], "embedded");
    hsm.admin(&["user", "show", "op"]).ok();
    dissolve();
}

#[test]
fn an_etcd_that_the_settings_name_is_not_dissolved() {
    let etcd = EtcdServer::single();
    let message = Hsm::founder(&etcd).admin(&["cluster", "dissolve", "--yes"]).fails(10);
    assert!(message.contains("in an etcd that its settings name"), "{message}");
}

/// What happened at both mocks, in its order.
#[derive(Default)]
struct Story {
    events: Mutex<Vec<String>>,
    more: Condvar,
    /// A file that somebody else makes while a member is declared.
    appears: Mutex<Option<String>>,
}

impl Story {
    fn tell(&self, event: impl Into<String>) {
        self.events.lock().unwrap().push(event.into());
        self.more.notify_all();
    }

    fn count(&self, event: &str) -> usize {
        self.events.lock().unwrap().iter().filter(|one| one.starts_with(event)).count()
    }

    fn at(&self, event: &str) -> Option<usize> {
        self.events.lock().unwrap().iter().position(|one| one.starts_with(event))
    }

    fn wait_for(&self, event: &str) {
        let mut events = self.events.lock().unwrap();
        while !events.iter().any(|one| one.starts_with(event)) {
            events = self.more.wait(events).unwrap();
        }
    }
}

/// How the joiner of a [`pair`] behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Joiner {
    /// It joins, and answers when it was promoted, as NetHSM does.
    Joins,
    /// It cannot reach the cluster.
    Fails,
    /// The same, and the member does not take its declaration back.
    Sticks,
    /// It is not among the members that its declaration is answered with.
    Unseen,
}

/// The members, with the one of a [`pair`] that joins.
fn members(learner: bool) -> Value {
    json!([
        { "id": "a1", "name": "one", "urls": ["https://192.0.2.7:2380"], "learner": false },
        // Declared by somebody else, and not started yet.
        { "id": "c3", "name": "", "urls": ["https://192.0.2.6:2380"], "learner": false },
        { "id": "b2", "name": if learner { "" } else { "two" }, "urls": ["https://192.0.2.8:2380"], "learner": learner },
    ])
}

/// As [`pair`], after the declaration.
fn declared_pair(joiner: Joiner) -> (MockServer, MockServer, Arc<Story>) {
    let (member, new, story) = pair(joiner);
    story.tell("add");
    (member, new, story)
}

/// A mock of a member and of an HSM that joins.
fn pair(joiner: Joiner) -> (MockServer, MockServer, Arc<Story>) {
    let story = Arc::new(Story::default());
    let told = Arc::clone(&story);
    let member = MockServer::start_reading(move |request, body| {
        let body = String::from_utf8_lossy(body);
        match line(request).as_str() {
            "GET /health/state" => reply(200, r#"{"state":"Operational"}"#),
            "GET /health/diagnose" => reply(
                200,
                r#"{"clusterLogs":[{"level":"warn","msg":"slow disk","ts":"x"}],"clusterState":{"running":true},
                    "store":{"kind":"etcd","confirmedMs":120}}"#,
            ),
            "GET /cluster/members" => {
                let mut members = members(told.count("promoted") == 0);
                if told.count("add") == told.count("removed") || joiner == Joiner::Unseen {
                    members.as_array_mut().unwrap().pop();
                }
                reply(200, &members.to_string())
            }
            "POST /cluster/members" => {
                told.tell(format!("add {body}"));
                if let Some(file) = &*told.appears.lock().unwrap() {
                    fs::write(file, "theirs").unwrap();
                }
                let mut members = members(true);
                let asked: Value = serde_json::from_str(&body).unwrap();
                // In an order of its own.
                members[2]["urls"] = asked["urls"].as_array().unwrap().iter().rev().cloned().collect();
                if joiner == Joiner::Unseen {
                    members.as_array_mut().unwrap().pop();
                }
                reply(201, &json!({ "members": members, "joinerKit": "S0lU" }).to_string())
            }
            "POST /cluster/members/b2/promote" if told.count("join") == 0 || told.count("early") == 0 => {
                told.tell("early");
                reply(412, r#"{"message":"can only promote a learner member which is in sync with leader"}"#)
            }
            "POST /cluster/members/b2/promote" if matches!(joiner, Joiner::Fails | Joiner::Sticks) => {
                reply(412, r#"{"message":"can only promote a learner member which is in sync with leader"}"#)
            }
            "POST /cluster/members/b2/promote" => {
                told.tell("promoted");
                Reaction::Send(b"HTTP/1.1 204 X\r\n\r\n".to_vec())
            }
            "PUT /cluster/members/b2" => {
                told.tell(format!("urls {body}"));
                Reaction::Send(b"HTTP/1.1 204 X\r\n\r\n".to_vec())
            }
            "DELETE /cluster/members/b2" if joiner == Joiner::Sticks => reply(400, r#"{"message":"no leader"}"#),
            "DELETE /cluster/members/b2" => {
                told.tell("removed");
                Reaction::Send(b"HTTP/1.1 204 X\r\n\r\n".to_vec())
            }
            other => panic!("the member was asked {other}"),
        }
    });
    let told = Arc::clone(&story);
    let new = MockServer::start_reading(move |request, body| match line(request).as_str() {
        "GET /health/state" if told.count("joined") == 0 => reply(200, r#"{"state":"Operational"}"#),
        "GET /health/state" if told.count("unlocked") == 0 => reply(200, r#"{"state":"Locked"}"#),
        "GET /health/state" => reply(200, r#"{"state":"Operational"}"#),
        "GET /cluster/members" if told.count("joined") == 0 => {
            // HSMs that were set up in the same way may have the same id before they join.
            reply(200, r#"[{"id":"a1","name":"two","urls":[],"learner":false}]"#)
        }
        "GET /cluster/members" => reply(200, &members(false).to_string()),
        "GET /system/info" => reply(
            200,
            r#"{"softwareVersion":"5.0","softwareBuild":"","firmwareVersion":"","hardwareVersion":"","deviceId":"X","akPub":{},"pcr":{}}"#,
        ),
        "POST /cluster/join" => {
            told.tell(format!("join {}", String::from_utf8_lossy(body)));
            if matches!(joiner, Joiner::Fails | Joiner::Sticks) {
                return reply(400, r#"{"message":"joining cluster failed: nobody is there"}"#);
            }
            told.wait_for("promoted");
            told.tell("joined");
            Reaction::Send(b"HTTP/1.1 204 X\r\n\r\n".to_vec())
        }
        other => panic!("the joiner was asked {other}"),
    });
    (member, new, story)
}

/// Method and path of a request line, without the base.
fn line(request: &str) -> String {
    request.split_once(" HTTP/").unwrap().0.replacen("/api/v1", "", 1)
}

fn at(node: &MockServer, arguments: &[&str]) -> Ran {
    let arguments = [&["--host", &node.address, "--insecure", "--user", "admin", "cluster"], arguments].concat();
    run(&arguments, &[("CASEMATE_PASSPHRASE", ADMIN)], b"")
}

fn grow(member: &MockServer, new: &MockServer, folder: &Folder, more: &[&str]) -> Ran {
    let (admin, backup) = (folder.file("admin", ADMIN), folder.file("backup", OPERATOR));
    let grow = ["grow", "--new", &new.address, "--new-user-passphrase-file", &admin];
    let grow = [&grow[..], &["--backup-passphrase-file", &backup, "--url", "https://192.0.2.8:2380"], more].concat();
    at(member, &grow)
}

#[test]
fn one_step_declares_joins_and_promotes_in_this_order() {
    let ((member, new, story), folder) = (pair(Joiner::Joins), Folder::new());
    assert!(grow(&member, &new, &folder, &[]).fails(2).contains("Erasing all users and keys"));
    assert_eq!(story.at("add"), None);
    let message = grow(&member, &new, &folder, &["--yes", "--json"]).json();
    assert_eq!(message, json!({ "node": new.address, "id": "b2", "state": "Locked" }));
    let order = ["add", "join {", "promoted", "joined"].map(|event| story.at(event).unwrap());
    assert!(order.is_sorted(), "{:?}", story.events.lock().unwrap());
    assert!(story.count("early") >= 1);
    let events = story.events.lock().unwrap();
    let body = |name: &str| -> Value {
        let event = events.iter().find_map(|event| event.strip_prefix(name)).unwrap();
        serde_json::from_str(event).unwrap()
    };
    assert_eq!(body("add "), json!({ "urls": ["https://192.0.2.8:2380"] }));
    let join = json!({ "members": members(true), "joinerKit": "S0lU", "backupPassphrase": OPERATOR });
    assert_eq!(body("join "), join);
}

#[test]
fn a_sixth_member_is_told_to_do_without_a_vote() {
    let five: Vec<Value> = (1..=5)
        .map(|at| json!({ "id": format!("a{at}"), "name": at.to_string(), "urls": [format!("https://192.0.2.{at}:2380")], "learner": false }))
        .collect();
    let five = json!(five).to_string();
    let member = MockServer::start(move |request| match line(request).as_str() {
        "GET /cluster/members" => reply(200, &five),
        other => panic!("the member was asked {other}"),
    });
    let ((_member, new, story), folder) = (pair(Joiner::Joins), Folder::new());
    let message = grow(&member, &new, &folder, &["--yes"]).fails(2);
    assert!(message.contains("5 members with a vote") && message.contains("--serving"), "{message}");
    assert_eq!(story.at("join"), None);
}

#[test]
fn a_join_that_fails_takes_the_learner_back() {
    let ((member, new, story), folder) = (pair(Joiner::Fails), Folder::new());
    let message = grow(&member, &new, &folder, &["--yes", "--json"]).fails(10);
    assert!(message.contains("joining cluster failed: nobody is there"), "{message}");
    assert_eq!((story.count("removed"), story.count("promoted")), (1, 0));
}

#[test]
fn a_learner_that_could_not_be_taken_back_is_named_in_the_error() {
    let ((member, new, _), folder) = (pair(Joiner::Sticks), Folder::new());
    let message = grow(&member, &new, &folder, &["--yes", "--json"]).fails(10);
    assert!(
        message.contains("joining cluster failed") && message.contains("`casemate cluster remove b2`"),
        "{message}"
    );
}

#[test]
fn a_member_cannot_join_itself() {
    let ((member, _new, story), folder) = (pair(Joiner::Joins), Folder::new());
    assert!(grow(&member, &member, &folder, &["--yes"]).fails(2).contains("--host"));
    assert_eq!(story.at("add"), None);
}

#[test]
fn the_error_has_the_member_whose_invitation_was_not_saved() {
    let ((member, _new, story), folder) = (pair(Joiner::Joins), Folder::new());
    let add = ["add", "https://192.0.2.8:2380", "--to"];
    let ran = at(&member, &[&add[..], &["-"]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, "The member b2 is declared.\n"));
    assert_eq!(serde_json::from_slice::<Value>(&ran.out).unwrap()["joinerKit"], "S0lU");
    // It is declared only once.
    let message = at(&member, &[&add[..], &["-"]].concat()).fails(9);
    assert!(message.contains("declared already") && message.contains("`casemate cluster remove b2`"), "{message}");
    let remove = || at(&member, &["remove", "b2", "--yes"]).ok();
    remove();
    // The reader has gone.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_casemate"))
        .args(["--host", &member.address, "--insecure", "--user", "admin", "cluster", "add", add[1], "--to", "-"])
        .env_clear()
        .env("CASEMATE_PASSPHRASE", ADMIN)
        .stdout(writer)
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && message.contains("`casemate cluster remove b2`"), "{message}");
    remove();
    // Somebody else took the name of the file.
    let file = folder.at("invitation");
    *story.appears.lock().unwrap() = Some(file.clone());
    let message = at(&member, &[&add[..], &[&file]].concat()).fails(1);
    assert!(message.contains("already exists") && message.contains("`casemate cluster remove b2`"), "{message}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
    remove();
    *story.appears.lock().unwrap() = Some(folder.at("configuration"));
    let witness = ["witness", "w", add[1], "--to", &folder.at("configuration")];
    let ran = at(&member, &witness);
    assert!(ran.code == 1 && ran.err.contains("`casemate cluster remove b2`"), "{ran:?}");
}

#[test]
fn an_invitation_without_the_new_member_is_kept_and_nobody_is_promoted() {
    let ((member, new, story), folder) = (pair(Joiner::Unseen), Folder::new());
    let file = folder.at("invitation");
    let message = at(&member, &["add", "https://192.0.2.8:2380", "--to", &file]).fails(12);
    assert!(message.contains("no new member with these addresses"), "{message}");
    assert!(fs::read_to_string(&file).unwrap().contains("S0lU"));
    grow(&member, &new, &folder, &["--yes"]).fails(12);
    assert_eq!((story.count("join"), story.count("promoted"), story.count("removed")), (0, 0, 0));
}

#[test]
fn a_witness_is_declared_and_its_etcd_configured() {
    let ((member, _new, story), folder) = (pair(Joiner::Joins), Folder::new());
    let file = folder.at("witness.yaml");
    let witness = |name: &str, more: &[&str]| {
        let urls = ["https://192.0.2.8:2380", "https://[2001:db8::8]:2380"];
        at(&member, &[&["witness", name][..], &urls, &["--to", &file], more].concat())
    };
    assert!(witness("one", &[]).fails(2).contains("Another member is called one"));
    // A member without a name is listed by its id.
    witness("c3", &[]).fails(2);
    assert_eq!(witness("a,b=c", &[]).code, 2);
    assert_eq!(at(&member, &["witness", "w", "https://w.example:2380", "--to", &file]).code, 2);
    assert_eq!((story.at("add"), fs::exists(&file).unwrap()), (None, false));
    let ran = witness("w-1", &["--json", "--key", "/k"]);
    assert!(ran.code == 0 && ran.err.contains("A witness stores all data"), "{ran:?}");
    assert_eq!(serde_json::from_slice::<Value>(&ran.out).unwrap(), json!({ "id": "b2", "file": file }));
    assert_eq!(story.count(r#"add {"urls":["https://192.0.2.8:2380","https://[2001:db8::8]:2380"]}"#), 1);
    let own = "https://192.0.2.8:2380,https://[2001:db8::8]:2380";
    let configuration = json!({
        "name": "w-1",
        "data-dir": "/var/lib/etcd/witness",
        "initial-cluster": "one=https://192.0.2.7:2380,c3=https://192.0.2.6:2380,\
                            w-1=https://[2001:db8::8]:2380,w-1=https://192.0.2.8:2380",
        "initial-cluster-state": "existing",
        "initial-advertise-peer-urls": own,
        "listen-peer-urls": own,
        "listen-client-urls": "http://127.0.0.1:2379",
        "advertise-client-urls": "http://127.0.0.1:2379",
        "max-txn-ops": 512,
        "quota-backend-bytes": 5_694_816_256_u64,
        "heartbeat-interval": 50,
        "election-timeout": 350,
        "auto-compaction-retention": "2h",
        "peer-transport-security": {
            "cert-file": "/etc/etcd/witness.crt",
            "key-file": "/k",
            "client-cert-auth": true,
            "trusted-ca-file": "/etc/etcd/cluster-ca.crt",
            "skip-client-san-verification": true,
        },
    });
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), configuration);
    witness("w-1", &["--force"]).fails(9);
    // Nobody replaces it unasked, and nothing is declared then.
    at(&member, &["remove", "b2", "--yes"]).ok();
    witness("w-1", &[]).fails(1);
    assert_eq!(story.count("add"), 1);
    let shown = String::from_utf8(witness("w-1", &["--force"]).out).unwrap();
    for text in ["for 192.0.2.8 and 2001:db8::8", &format!("etcd --config-file {file}"), "cluster promote b2"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
}

#[test]
fn steps_can_be_taken_one_by_one() {
    let ((member, new, story), folder) = (pair(Joiner::Joins), Folder::new());
    let file = folder.at("invitation");
    let message = at(&member, &["add", "https://192.0.2.8:2380", "--to", &file, "--json"]).json();
    assert_eq!(message, json!({ "id": "b2", "file": file }));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let backup = folder.file("backup", OPERATOR);
            let ran = at(&new, &["join", &file, "--backup-passphrase-file", &backup, "--yes"]);
            assert!(ran.code == 0 && ran.err.contains("cluster promote ID"), "{ran:?}");
            assert!(String::from_utf8(ran.out).unwrap().contains("It is Locked"));
        });
        story.wait_for("join ");
        at(&member, &["promote", "b2"]).ok();
    });
    assert!(at(&member, &["promote", "B2"]).ok().contains("has a vote already"));
    assert_eq!(story.count("promoted"), 1);
    at(&member, &["set-urls", "b2", "https://192.0.2.9:2380", "--json"]).ok();
    assert!(story.at(r#"urls {"urls":["https://192.0.2.9:2380"]}"#).is_some());
    assert!(at(&member, &["set-urls", "b2", "https://192.0.2.8:2380"]).ok().contains("already"));
    assert_eq!(story.count("urls"), 1);
    assert!(at(&member, &["remove", "b2"]).fails(2).contains("--yes"));
    // Another member has never started.
    assert!(at(&member, &["remove", "two", "--yes"]).fails(2).contains("or give --force"));
    at(&member, &["remove", "two", "--yes", "--force"]).ok();
    assert!(at(&member, &["remove", "b2", "--yes"]).fails(7).contains("no member b2, or no longer"));
    assert_eq!(story.count("removed"), 1);
}

#[test]
fn a_join_that_is_done_is_not_done_again() {
    let ((member, new, story), folder) = (pair(Joiner::Joins), Folder::new());
    let file = folder.at("invitation");
    at(&member, &["add", "https://192.0.2.8:2380", "--to", &file]).ok();
    let backup = folder.file("backup", OPERATOR);
    let join = |node| at(node, &["join", &file, "--backup-passphrase-file", &backup, "--yes"]);
    // By mistake, at a member.
    assert!(join(&member).ok().contains("in this cluster already"));
    story.tell("joined");
    assert!(join(&new).fails(8).contains("If it has joined already, unlock it"));
    story.tell("unlocked");
    assert!(join(&new).ok().contains("in this cluster already"));
    assert_eq!(story.count("join {"), 0);
}

#[test]
fn a_member_is_not_removed_if_the_others_have_never_started() {
    // One of the three is a learner, another has a vote and no name.
    let (member, _new, story) = declared_pair(Joiner::Joins);
    let message = at(&member, &["remove", "one", "--yes"]).fails(2);
    assert!(message.contains("1 of 1 voting members have to work, and 0 have ever started"), "{message}");
    let ran = at(&member, &["remove", "b2"]);
    assert!(ran.code == 2 && ran.err.contains("--yes"), "{ran:?}");
    assert_eq!(story.count("removed"), 0);
    let mut person = Person::runs(
        &["--host", &member.address, "--insecure", "--user", "admin", "cluster", "remove", "b2"],
        &[("CASEMATE_PASSPHRASE", ADMIN)],
    );
    person.sees(
        "Removing the member b2, which then offers no service and has no vote, cannot be undone. Continue? [y/N] ",
    );
    person.types("y");
    assert_eq!((person.ends().0, story.count("removed")), (0, 1));
}

#[test]
fn a_cluster_of_one_is_made_after_two_questions() {
    let story = Arc::new(Story::default());
    let told = Arc::clone(&story);
    let node = MockServer::start(move |request| match line(request).as_str() {
        "GET /health/state" => reply(200, r#"{"state":"Failed"}"#),
        "POST /cluster/force-new" => {
            told.tell("forced");
            Reaction::Send(b"HTTP/1.1 204 X\r\n\r\n".to_vec())
        }
        other => panic!("the node was asked {other}"),
    });
    let folder = Folder::new();
    let unlock = folder.file("unlock", OPERATOR);
    let force = ["--host", &node.address, "--insecure", "cluster", "force-new", "--unlock-passphrase-file", &unlock];
    assert!(run(&force, &[], b"").fails(2).contains("--yes"));
    for (answer, code, forced) in [("n", 13, 0), ("y", 0, 1)] {
        let mut person = Person::runs(&force, &[]);
        assert!(person.sees("Continue? [y/N] ").contains("loses every change that it has not received"));
        person.types("y");
        person
            .sees("Are all other nodes shut down or lost for good, so that no two clusters use the same keys? [y/N] ");
        person.types(answer);
        assert_eq!((person.ends().0, story.count("forced")), (code, forced));
    }
    run(&[&force[..], &["--yes"]].concat(), &[], b"").ok();
    assert_eq!(story.count("forced"), 2);
}

#[test]
fn a_learner_that_does_not_catch_up_in_time_is_an_error() {
    let (member, _new, _) = declared_pair(Joiner::Fails);
    let message = at(&member, &["promote", "b2", "--time-limit", "0"]).fails(10);
    assert!(message.contains("did not catch up within 0 s") && message.contains("in sync"), "{message}");
}

#[test]
fn the_status_shows_nodes_members_and_quorum() {
    let (member, _new, _) = declared_pair(Joiner::Joins);
    let shown = at(&member, &["status"]).ok();
    for text in [
        "Operational",
        "warn: slow disk",
        "etcd, confirmed 120 ms ago",
        "a1",
        "learner",
        "Voting members: 2; at least 2",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    let json = at(&member, &["status", "--json"]).json();
    assert_eq!(json["quorum"], json!({ "voters": 2, "needed": 2 }));
    assert_eq!(json["members"], members(true));
    let node = &json["nodes"][0];
    assert_eq!(node["store"], json!({ "kind": "etcd", "confirmedMs": 120 }));
    assert_eq!(at(&member, &["members", "--json"]).json(), members(true));
    assert_eq!((&node["running"], &node["messages"][0]["msg"]), (&json!(true), &json!("slow disk")));
}

#[test]
fn an_unprovisioned_hsm_joins_with_an_invitation_without_a_vote() {
    let story = Arc::new(Story::default());
    let told = Arc::clone(&story);
    let first = MockServer::start_reading(move |request, body| match line(request).as_str() {
        "POST /cluster/members" => {
            told.tell(format!("add {}", String::from_utf8_lossy(body)));
            reply(201, r#"{"members":[{"id":"a1","name":"one","urls":[],"learner":false}],"joinerKit":"S0lU"}"#)
        }
        other => panic!("the first node was asked {other}"),
    });
    let told = Arc::clone(&story);
    let new = MockServer::start_reading(move |request, body| match line(request).as_str() {
        "GET /health/state" if told.count("join") == 0 => reply(200, r#"{"state":"Unprovisioned"}"#),
        "GET /health/state" => reply(200, r#"{"state":"Locked"}"#),
        "POST /cluster/join" => {
            assert!(!request.to_ascii_lowercase().contains("authorization"), "{request}");
            told.tell(format!("join {}", String::from_utf8_lossy(body)));
            Reaction::Send(b"HTTP/1.1 204 X\r\n\r\n".to_vec())
        }
        other => panic!("the joiner was asked {other}"),
    });
    let folder = Folder::new();
    let (file, backup) = (folder.at("invitation"), folder.file("backup", OPERATOR));
    let add = ["add", "--serving", "https://192.0.2.8:8443", "--to", &file];
    assert_eq!(at(&first, &[&add[..], &["--json"]].concat()).json(), json!({ "file": file }));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let join = ["join", &file, "--backup-passphrase-file", &backup, "--system-time", "2026-01-31T12:00:00Z", "--json"];
    let done = at(&new, &join).json();
    assert_eq!(done, json!({ "node": new.address, "id": null, "state": "Locked" }));
    let events = story.events.lock().unwrap();
    let bodies: Vec<Value> =
        events.iter().map(|event| serde_json::from_str(event.split_once(' ').unwrap().1).unwrap()).collect();
    assert_eq!(bodies[0], json!({ "urls": ["https://192.0.2.8:8443"], "serving": true }));
    assert_eq!((&bodies[1]["joinerKit"], &bodies[1]["systemTime"]), (&json!("S0lU"), &json!("2026-01-31T12:00:00Z")));
}
