//! A node without a vote: its users and keys are in the etcds of the members, which it reaches at their client ports.

use std::fs;
use std::time::Instant;

use casemate_testkit::EtcdCertificates;
use serde_json::{Value, json};

use super::daemon::{Client, Daemon, Folder};
use super::node::{BACKUP, Node, SOON, admin_passphrase, get, ids, sign, unlock_passphrase};
use super::shown::shown;
use super::{grow, join_of, members, refused, start_as};

/// A process that uses the etcds of some members.
struct Serving {
    folder: Folder,
    settings: Vec<String>,
    daemon: Option<Daemon>,
}

impl Serving {
    /// Starts one that is Unprovisioned.
    fn start(certificates: &EtcdCertificates, members: &[&Node]) -> Self {
        let folder = Folder::new();
        let mut settings: Vec<String> = ["--log", "info", "--store", "etcd"].map(str::to_owned).to_vec();
        let identity = &certificates.client;
        for (flag, pem) in
            [("--etcd-ca", &certificates.ca), ("--etcd-cert", &identity.certificate), ("--etcd-key", &identity.key)]
        {
            let file = folder.file(flag.trim_start_matches('-'));
            fs::write(&file, pem).unwrap();
            settings.extend([flag.to_owned(), file.to_str().unwrap().to_owned()]);
        }
        settings.extend(members.iter().map(|member| format!("--etcd-endpoints={}", member.clients())));
        let mut serving = Self { folder, settings, daemon: None };
        serving.start_process();
        serving
    }

    fn start_process(&mut self) {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        self.daemon = Some(Daemon::start_with(&self.folder, &settings));
    }

    fn anybody(&self) -> Client {
        self.daemon.as_ref().unwrap().client()
    }

    fn admin(&self) -> Client {
        self.anybody().log_in("admin", &admin_passphrase("first"))
    }

    #[track_caller]
    fn eventually(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < SOON, "not in time: {what}\n{}", self.daemon.as_ref().unwrap().log());
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    fn unlock(&self) {
        self.eventually("it is Locked", || self.anybody().state() == "Locked");
        let body = json!({ "passphrase": unlock_passphrase("first") });
        self.eventually("it is unlocked", || {
            self.anybody().call("POST", "/unlock", Some(&body)).unwrap().status == 204
        });
    }

    /// Makes a key, which everybody uses.
    fn makes(&self, key: &str, everybody: &[&Node]) {
        let body = json!({ "id": key, "type": "Curve25519", "mechanisms": ["EdDSA_Signature"] });
        let is_there = || self.admin().call("GET", &format!("/keys/{key}"), None).unwrap().status == 200;
        self.eventually("a key is made", || {
            is_there() || self.admin().call("POST", "/keys/generate", Some(&body)).unwrap().status == 201
        });
        everybody.iter().for_each(|node| assert_eq!(self.signs(key), node.signs(key)));
    }

    fn signs(&self, key: &str) -> Vec<u8> {
        let operator = self.anybody().log_in("op", super::node::OPERATOR);
        let mut signature = Vec::new();
        self.eventually("it signs", || {
            let answer = sign(&operator, key);
            assert!(matches!(answer.status, 200 | 503), "{}", String::from_utf8_lossy(&answer.bytes));
            signature = answer.bytes;
            answer.status == 200
        });
        signature
    }
}

/// The revision up to which a node has seen everything.
fn revision(admin: &Client) -> Value {
    get(admin, "/health/diagnose")["store"]["details"]["confirmedRevision"].take()
}

#[test]
fn a_node_without_a_vote_uses_the_etcds_of_the_members() {
    let certificates = EtcdCertificates::new();
    let [mut first, second, mut third] = start_as(Node::start_open, ["first", "second", "third"], &certificates);
    for node in [&first, &second, &third] {
        node.put_cluster_ca(&certificates);
    }
    refused(first.invite(), 412, "backup passphrase");
    first.set_backup_passphrase();
    // More than one revision, so that those of the file and of etcd differ.
    first.create_key("first", "before");
    grow(&first, &second);
    grow(&first, &third);

    // Nobody gets in without a certificate of the CA.
    let strangers = EtcdCertificates::new();
    for node in [&first, &second, &third] {
        let clients = node.clients();
        assert!(shown(clients, &certificates, &certificates.client).is_ok());
        assert!(shown(clients, &certificates, &strangers.client).is_err());
        assert!(shown(clients, &certificates, None).is_err());
    }

    let mut serving = Serving::start(&certificates, &[&first, &second, &third]);
    let invitation = first.invite().expect(201).json();
    assert_eq!(invitation["members"].as_array().unwrap().len(), 3, "it is no member");
    let mut join = join_of(&invitation);
    join["systemTime"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(join["backupPassphrase"], BACKUP);
    serving.anybody().call("POST", "/cluster/join", Some(&join)).unwrap().expect(204);
    serving.unlock();
    assert_eq!(ids(&serving.admin(), "/keys"), ["before", "first"]);
    assert_eq!(members(&serving.admin()).len(), 1);
    assert_eq!(serving.signs("before"), second.signs("before"));
    serving.makes("there", &[&first, &second, &third]);
    second.create_key("first", "here");
    assert_eq!(serving.signs("here"), third.signs("here"));
    let counts_alike = |serving: &Serving, member: &Node| {
        serving.eventually("they count revisions alike", || {
            revision(&serving.admin()) == revision(&member.admin_of("first"))
        });
    };
    counts_alike(&serving, &first);

    // The members are lost one after the other, and come back.
    first.kill();
    serving.makes("without-first", &[&second, &third]);
    first.restart("first");
    third.kill();
    serving.makes("without-third", &[&first, &second]);
    third.restart("first");

    // It comes back itself.
    serving.daemon.take().unwrap().kill();
    serving.start_process();
    serving.unlock();
    assert_eq!(serving.signs("without-first"), third.signs("without-first"));
    counts_alike(&serving, &third);
}
