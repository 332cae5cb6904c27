//! The commands of clusters with real members: `casemated` processes with etcds of their own.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use casemate_api::SignMode;
use casemate_api::body::keys::Sign;
use casemate_testkit::{ADMIN, BACKUP, EtcdCertificates, Folder, Member, UNLOCK, admin};
use casemate_testkit::{Hsm, ed25519, key, operator, secret};
use serde_json::{Value, json};

use crate::harness::{Ran, run};

/// Time for what comes soon, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(180);

#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < SOON, "not in time: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A folder with the passphrases.
struct Files(Folder);

impl Files {
    fn new() -> Self {
        let folder = Folder::new();
        folder.file("admin", ADMIN);
        folder.file("backup", BACKUP);
        Self(folder)
    }

    /// The options for a new member.
    fn new_member(&self, new: &Member) -> Vec<String> {
        let options = [
            ("--new", new.hsm.address.clone()),
            ("--url", new.url()),
            ("--new-user-passphrase-file", self.0.at("admin")),
            ("--backup-passphrase-file", self.0.at("backup")),
        ];
        options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).chain(["--yes".into()]).collect()
    }
}

/// The arguments of a command of the Administrator for these nodes.
fn arguments(nodes: &[&Hsm], command: &[&str]) -> Vec<String> {
    let hosts = nodes.iter().map(|hsm| format!("--host={}", hsm.address));
    hosts
        .chain(["--insecure", "--user", "admin", "cluster"].map(str::to_owned))
        .chain(command.iter().map(|word| (*word).into()))
        .collect()
}

fn cluster(nodes: &[&Hsm], command: &[&str]) -> Ran {
    let arguments = arguments(nodes, command);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run(&arguments, &[("CASEMATE_PASSPHRASE", ADMIN)], b"")
}

/// Runs a command for a new member, which may say on standard error how far it is.
#[track_caller]
fn adds(nodes: &[&Hsm], command: &[&str], options: &[String]) -> Value {
    let command: Vec<&str> =
        command.iter().copied().chain(options.iter().map(String::as_str)).chain(["--json"]).collect();
    cluster(nodes, &command).json()
}

/// Starts such a command in the background.
fn begins(nodes: &[&Hsm], command: &[&str], options: &[String]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_casemate"))
        .args(arguments(nodes, command))
        .args(options)
        .env_clear()
        .env("CASEMATE_PASSPHRASE", ADMIN)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn members(nodes: &[&Hsm]) -> Vec<Value> {
    cluster(nodes, &["members", "--json"]).json().as_array().unwrap().clone()
}

fn id_at(members: &[Value], url: &str) -> Option<String> {
    let found = members.iter().find(|member| member["urls"] == json!([url]));
    found.map(|member| member["id"].as_str().unwrap().to_owned())
}

/// Unlocks a node that has joined.
fn unlock(hsm: &Hsm) {
    eventually("it is unlocked", || hsm.client().anonymous().unlock(secret(UNLOCK)).is_ok());
}

fn signs(hsm: &Hsm) {
    let request = Sign { mode: SignMode::EdDSA, message: "cg==".into() };
    eventually("it signs", || operator(&hsm.client()).keys().sign(&key("k"), &request).is_ok());
}

/// The cluster of one that others join, with the key `k`.
fn founder(certificates: &EtcdCertificates) -> Member {
    let first = Member::start(certificates);
    first.found(certificates);
    admin(&first.hsm.client()).keys().import_as(&key("k"), &ed25519()).unwrap();
    first
}

/// A node that can join.
fn joiner(certificates: &EtcdCertificates) -> Member {
    able(Member::start(certificates), certificates)
}

fn able(node: Member, certificates: &EtcdCertificates) -> Member {
    admin(&node.hsm.client()).config().set_cluster_ca(&certificates.ca).unwrap();
    node
}

#[test]
fn members_come_and_go_step_by_step() {
    let (certificates, files) = (EtcdCertificates::new(), Files::new());
    let first = founder(&certificates);
    let one: &[&Hsm] = &[&first.hsm];
    let second = joiner(&certificates);

    // Declared, joined, promoted.
    let (url, invitation) = (second.url(), files.0.at("invitation"));
    let id = cluster(one, &["add", &url, "--to", &invitation, "--json"]).json()["id"].as_str().unwrap().to_owned();
    assert!(cluster(one, &["promote", &id, "--time-limit", "0"]).fails(10).contains("did not catch up"));
    assert!(cluster(one, &["add", &url, "--to", &files.0.at("other")]).fails(9).contains("declared already"));
    let backup = files.0.at("backup");
    let join = ["join", &invitation, "--backup-passphrase-file", &backup, "--yes"];
    thread::scope(|scope| {
        let joining = scope.spawn(|| cluster(&[&second.hsm], &join));
        cluster(one, &["promote", &id]).ok();
        let ran = joining.join().unwrap();
        assert!(ran.code == 0 && String::from_utf8_lossy(&ran.out).contains("It is Locked"), "{ran:?}");
    });
    assert!(cluster(one, &["promote", &id]).ok().contains("has a vote already"));
    let status = cluster(one, &["status", "--json"]).json();
    assert_eq!(status["quorum"], json!({ "voters": 2, "needed": 2 }));

    // Addresses, under both names of a member.
    let name =
        members(one).iter().find(|member| member["id"] == id.as_str()).unwrap()["name"].as_str().unwrap().to_owned();
    assert!(cluster(one, &["set-urls", &name, &url]).ok().contains("already"));
    cluster(one, &["set-urls", &name, &url, "https://127.0.0.1:9"]).ok();
    assert_eq!(
        members(one).iter().find(|member| member["id"] == id.as_str()).unwrap()["urls"].as_array().unwrap().len(),
        2
    );
    cluster(one, &["set-urls", &id, &url]).ok();
    assert!(id_at(&members(one), &url).is_some());

    // A witness is declared, and taken back.
    let witness = ["witness", "oslo", "https://192.0.2.9:2380", "--to", &files.0.at("oslo.yaml"), "--json"];
    let ran = cluster(one, &witness);
    let witness: Value = serde_json::from_slice(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    cluster(one, &["remove", witness["id"].as_str().unwrap(), "--yes"]).ok();

    assert!(cluster(one, &["dissolve", "--yes"]).fails(10).contains("other members"));
    cluster(one, &["remove", &name, "--yes"]).ok();
    cluster(one, &["remove", &name, "--yes"]).fails(7);
    cluster(one, &["dissolve", "--yes"]).ok();
    assert_eq!(cluster(one, &["status", "--json"]).json()["nodes"][0]["store"]["kind"], "embedded");
    signs(&first.hsm);
}

#[test]
fn a_member_is_added_by_a_command_that_is_killed_and_run_again() {
    let (certificates, files) = (EtcdCertificates::new(), Files::new());
    let first = founder(&certificates);
    let one: &[&Hsm] = &[&first.hsm];
    let second = joiner(&certificates);
    let options = files.new_member(&second);
    let learner = || members(one).into_iter().find(|member| member["urls"] == json!([second.url()]));

    // It ends when the member is declared, and again when it follows.
    for follows in [false, true] {
        let mut growing = begins(one, &["grow"], &options);
        eventually("the new member is declared, or follows", || {
            learner().is_some_and(|member| (member["name"] != "") == follows || member["learner"] == false)
        });
        growing.kill().unwrap();
        growing.wait().unwrap();
    }
    let grown = adds(one, &["grow"], &options);
    assert_eq!((&grown["node"], &grown["state"]), (&json!(second.hsm.address), &json!("Locked")));
    // Once more changes nothing.
    assert_eq!(adds(one, &["grow"], &options), grown);
    assert_eq!(members(one).len(), 2);
    unlock(&second.hsm);
    signs(&second.hsm);
    let ran = cluster(one, &["grow", "--new", &second.hsm.address, "--url", &first.url(), "--yes"]);
    assert!(ran.code == 9 && ran.err.contains("has this address already"), "{ran:?}");
}

#[test]
fn members_are_replaced_and_all_nodes_are_shown() {
    let (certificates, files) = (EtcdCertificates::new(), Files::new());
    let first = founder(&certificates);
    let [mut second, third, fifth] = [(); 3].map(|()| joiner(&certificates));
    for new in [&second, &third] {
        adds(&[&first.hsm], &["grow"], &files.new_member(new));
        unlock(&new.hsm);
    }
    let serving = Hsm::start_serving(&certificates, &[&first, &second, &third]);
    let grow =
        ["grow", "--serving", "--new", &serving.address, "--backup-passphrase-file", &files.0.at("backup"), "--json"];
    let grown = cluster(&[&first.hsm], &grow).json();
    assert_eq!(grown["state"], "Locked");
    let again = String::from_utf8(cluster(&[&first.hsm], &grow[..grow.len() - 1]).out).unwrap();
    assert!(again.contains("shares an etcd already and is Locked"), "{again}");
    unlock(&serving);
    signs(&serving);
    assert_eq!(cluster(&[&first.hsm], &grow).code, 8);

    let shown = cluster(&[&first.hsm, &second.hsm, &serving], &["nodes", "--json"]).json();
    let of =
        |member: &str| shown["nodes"].as_array().unwrap().iter().map(|node| node[member].clone()).collect::<Vec<_>>();
    assert_eq!(of("role"), ["votes", "votes", "serving"]);
    assert_eq!(of("state"), ["Operational", "Operational", "Operational"]);
    assert!(of("clockAheadS").iter().all(|seconds| seconds.as_i64().unwrap().abs() < 60), "{shown}");
    assert_eq!(
        (&shown["others"][0]["name"], shown["others"].as_array().unwrap().len()),
        (&json!(third.device_id()), 1)
    );
    assert_eq!(shown["nodes"][2]["store"]["details"]["endpoints"].as_array().unwrap().len(), 3);

    // Who has no vote knows no other members.
    assert_eq!(members(&[&serving, &second.hsm]).len(), 3);
    assert_eq!(cluster(&[&serving, &first.hsm], &["status", "--json"]).json()["quorum"]["voters"], 3);

    // One is lost. Its successor has the same address, so that it has to be gone before.
    let (lost, gone) = (second.device_id(), id_at(&members(&[&first.hsm]), &second.url()).unwrap());
    second.hsm.kill();
    let fourth = able(Member::start_at(second.peer.clone(), &certificates), &certificates);
    let nodes = [&serving, &first.hsm, &second.hsm, &third.hsm];
    let mut replacing = begins(&nodes, &["replace", &lost], &files.new_member(&fourth));
    let is_there = || members(&[&first.hsm]).iter().any(|member| member["id"] == gone.as_str());
    eventually("the lost member is removed", || !is_there());
    replacing.kill().unwrap();
    replacing.wait().unwrap();
    // The name is no longer known.
    let replaced = adds(&nodes, &["replace", &gone], &files.new_member(&fourth));
    assert_eq!((&replaced["node"], &replaced["removed"]), (&json!(fourth.hsm.address), &Value::Null));
    unlock(&fourth.hsm);
    signs(&fourth.hsm);

    let itself = cluster(
        &[&first.hsm],
        &[
            "grow",
            "--new",
            &third.hsm.address,
            "--url",
            "https://127.0.0.1:9",
            "--yes",
            "--new-user-passphrase-file",
            &files.0.at("admin"),
            "--backup-passphrase-file",
            &files.0.at("backup"),
        ],
    );
    assert!(itself.fails(2).contains("already"));

    // One that works leaves when its successor has a vote.
    let nodes = [&first.hsm, &third.hsm, &fourth.hsm];
    let leaves = first.device_id();
    let removed = id_at(&members(&nodes), &first.url()).unwrap();
    let replaced = adds(&nodes, &["replace", &leaves], &files.new_member(&fifth));
    assert_eq!((&replaced["node"], &replaced["removed"]), (&json!(fifth.hsm.address), &json!(removed)));
    unlock(&fifth.hsm);
    signs(&fifth.hsm);
    signs(&serving);
    let now = members(&[&third.hsm]);
    assert_eq!((now.len(), now.iter().filter(|member| member["learner"] == false).count()), (3, 3));
    eventually("the member that left is Failed", || {
        first.hsm.client().anonymous().health().state().is_ok_and(|state| format!("{state:?}") == "Failed")
    });
}
