//! Clusters. A `casemated` by itself is none, and says so. What takes two nodes is tested against a mock of two: it checks
//! what is asked in which order, not what a cluster makes of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Condvar, Mutex};

use casemate_testkit::{Does, Odd, reply};
use serde_json::{Value, json};

use crate::rig::{ADMIN, Folder, Hsm, OPERATOR, Ran, run};

#[test]
fn a_casemated_alone_is_its_only_member() {
    let hsm = Hsm::operational();
    let shown = hsm.admin(&["cluster", "status", "--json"]).json();
    assert_eq!((&shown["nodes"][0]["state"], &shown["nodes"][0]["running"]), (&json!("Operational"), &json!(false)));
    assert_eq!((shown["members"].as_array().unwrap().len(), &shown["quorum"]["voters"]), (1, &json!(1)));
    // Only a Failed node goes on alone.
    let force = ["cluster", "force-new", "--unlock-passphrase-file", &hsm.at("unlock")];
    assert!(hsm.nobody(&force).fails(2).contains("cluster of its own"));
    hsm.nobody(&[&force[..], &["--yes"]].concat()).fails(8);
    // What could be learnt is shown, and then what could not.
    hsm.admin(&["lock"]).ok();
    let ran = hsm.nobody(&["cluster", "status", "--json"]);
    let shown: Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!((&shown["nodes"][0]["state"], &shown["members"], ran.code), (&json!("Locked"), &Value::Null, 8));
}

#[test]
fn what_a_casemated_does_not_know_is_refused() {
    let hsm = Hsm::operational();
    let file = hsm.at("invitation");
    hsm.admin(&["cluster", "add", "https://192.0.2.8:2380", "--to", &file]).fails(10);
    assert!(!fs::exists(&file).unwrap());
    hsm.admin(&["cluster", "set-urls", "b2", "https://192.0.2.8:2380"]).fails(7);
    hsm.admin(&["cluster", "remove", "b2", "--yes"]).fails(7);
    assert_eq!(hsm.admin(&["cluster", "add", "192.0.2.8", "--to", &file]).code, 2);
    assert_eq!(hsm.admin(&["cluster", "remove", "../x", "--yes"]).code, 2);
    let said = hsm.admin(&["cluster", "join", &hsm.at("admin"), "--yes"]).fails(2);
    assert!(said.contains("is no invitation") && !said.contains(ADMIN), "{said}");
}

/// What happened at both mocks, in its order.
#[derive(Default)]
struct Story {
    events: Mutex<Vec<String>>,
    more: Condvar,
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
}

fn members(learner: bool) -> Value {
    json!([
        { "id": "a1", "name": "one", "urls": ["https://192.0.2.7:2380"], "learner": false },
        { "id": "b2", "name": "", "urls": ["https://192.0.2.8:2380"], "learner": learner },
    ])
}

/// A mock of a member and of an HSM that shall join.
fn pair(joiner: Joiner) -> (Odd, Odd, Arc<Story>) {
    let story = Arc::new(Story::default());
    let told = Arc::clone(&story);
    let member = Odd::start_reading(move |request, body| {
        let body = String::from_utf8_lossy(body);
        match line(request).as_str() {
            "GET /health/state" => reply(200, r#"{"state":"Operational"}"#),
            "GET /health/diagnose" => reply(
                200,
                r#"{"clusterLogs":[{"level":"warn","msg":"slow disk","ts":"x"}],"clusterState":{"running":true}}"#,
            ),
            "GET /cluster/members" => reply(200, &members(told.count("promoted") == 0).to_string()),
            "POST /cluster/members" => {
                told.tell(format!("add {body}"));
                reply(201, &json!({ "members": members(true), "joinerKit": "S0lU" }).to_string())
            }
            "POST /cluster/members/b2/promote" if told.count("join") == 0 || told.count("early") == 0 => {
                told.tell("early");
                reply(412, r#"{"message":"can only promote a learner member which is in sync with leader"}"#)
            }
            "POST /cluster/members/b2/promote" if joiner == Joiner::Fails => {
                reply(412, r#"{"message":"can only promote a learner member which is in sync with leader"}"#)
            }
            "POST /cluster/members/b2/promote" => {
                told.tell("promoted");
                Does::Says(b"HTTP/1.1 204 X\r\n\r\n".to_vec())
            }
            "PUT /cluster/members/b2" => {
                told.tell(format!("urls {body}"));
                Does::Says(b"HTTP/1.1 204 X\r\n\r\n".to_vec())
            }
            "DELETE /cluster/members/b2" => {
                told.tell("removed");
                Does::Says(b"HTTP/1.1 204 X\r\n\r\n".to_vec())
            }
            other => panic!("the member was asked {other}"),
        }
    });
    let told = Arc::clone(&story);
    let new = Odd::start_reading(move |request, body| match line(request).as_str() {
        "GET /health/state" if told.count("joined") == 0 => reply(200, r#"{"state":"Operational"}"#),
        "GET /health/state" => reply(200, r#"{"state":"Locked"}"#),
        "GET /system/info" => reply(
            200,
            r#"{"softwareVersion":"5.0","softwareBuild":"","firmwareVersion":"","hardwareVersion":"","deviceId":"X","akPub":{},"pcr":{}}"#,
        ),
        "POST /cluster/join" => {
            told.tell(format!("join {}", String::from_utf8_lossy(body)));
            if joiner == Joiner::Fails {
                return reply(400, r#"{"message":"joining cluster failed: nobody is there"}"#);
            }
            told.wait_for("promoted");
            told.tell("joined");
            Does::Says(b"HTTP/1.1 204 X\r\n\r\n".to_vec())
        }
        other => panic!("the joiner was asked {other}"),
    });
    (member, new, story)
}

/// Method and path of a request line, without the base.
fn line(request: &str) -> String {
    request.split_once(" HTTP/").unwrap().0.replacen("/api/v1", "", 1)
}

fn at(node: &Odd, arguments: &[&str]) -> Ran {
    let arguments = [&["--host", &node.address, "--insecure", "--user", "admin", "cluster"], arguments].concat();
    run(&arguments, &[("CASEMATE_PASSPHRASE", ADMIN)], b"")
}

fn grow(member: &Odd, new: &Odd, folder: &Folder, more: &[&str]) -> Ran {
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
    let said = grow(&member, &new, &folder, &["--yes", "--json"]).json();
    assert_eq!(said, json!({ "node": new.address, "id": "b2", "state": "Locked" }));
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
fn a_join_that_fails_takes_the_learner_back() {
    let ((member, new, story), folder) = (pair(Joiner::Fails), Folder::new());
    let said = grow(&member, &new, &folder, &["--yes", "--json"]).fails(10);
    assert!(said.contains("joining cluster failed: nobody is there"), "{said}");
    assert_eq!((story.count("removed"), story.count("promoted")), (1, 0));
}

#[test]
fn steps_can_be_taken_one_by_one() {
    let ((member, new, story), folder) = (pair(Joiner::Joins), Folder::new());
    let file = folder.at("invitation");
    let said = at(&member, &["add", "https://192.0.2.8:2380", "--to", &file, "--json"]).json();
    assert_eq!(said, json!({ "id": "b2", "file": file }));
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
    // It votes already.
    at(&member, &["promote", "B2"]).ok();
    assert_eq!(story.count("promoted"), 1);
    at(&member, &["set-urls", "b2", "https://192.0.2.9:2380", "--json"]).ok();
    assert!(story.at(r#"urls {"urls":["https://192.0.2.9:2380"]}"#).is_some());
    assert!(at(&member, &["remove", "b2"]).fails(2).contains("--yes"));
    at(&member, &["remove", "b2", "--yes"]).ok();
    assert_eq!(story.count("removed"), 1);
}

#[test]
fn a_learner_that_does_not_catch_up_in_time_is_said_to_be_late() {
    let (member, _new, _) = pair(Joiner::Fails);
    let said = at(&member, &["promote", "b2", "--time-limit", "0"]).fails(10);
    assert!(said.contains("did not catch up within 0 s") && said.contains("in sync"), "{said}");
}

#[test]
fn the_status_shows_nodes_members_and_quorum() {
    let (member, _new, _) = pair(Joiner::Joins);
    let shown = at(&member, &["status"]).ok();
    for text in ["Operational", "warn: slow disk", "a1", "learner", "Voting: 1; at least 1"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    let json = at(&member, &["status", "--json"]).json();
    assert_eq!(json["quorum"], json!({ "voters": 1, "needed": 1 }));
    assert_eq!(json["members"], members(true));
    let node = &json["nodes"][0];
    assert_eq!((&node["running"], &node["message"]["msg"]), (&json!(true), &json!("slow disk")));
}
