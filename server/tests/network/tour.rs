//! A tour of a cluster's life, as an administrator of NetHSM knows it: three single nodes that hold keys become three members with
//! a witness, lose a member, lose their majority, and are whole again. The calls are those of `nitropy`, wherever it has them.
//!
//! What is asserted has these numbers:
//!
//! 1. The order in which CA and certificate are set, and each refusal.
//! 2. The registration of a member: not without a backup passphrase, not beside another learner; its reply.
//! 3. Joins that are refused, or fail and leave the node with its data.
//! 4. A join lasts until the promotion. Then the node is Locked, unlocked by the passphrase of the registrar, and has its own settings.
//! 5. What one member creates, another uses; what it deletes is gone at another, with a warm cache, within half a second.
//! 6. One of the members is killed, and the others serve.
//! 7. A removed member is Failed at once, and tells why.
//! 8. Without a majority a node is Failed after a minute, can be shut down by anybody, and is back by itself with the majority.
//! 9. Forcing a new cluster is refused outside of Failed, and without the unlock passphrase (the rest: `force.rs`).
//! 10. The CA of a cluster cannot be changed.
//! 11. A backup of the cluster is restored at a member; a second restore at the same time is refused.
//! 12. A witness, set up as documented, votes.
//! 13. Members over IPv6, and a member with two URLs.
//!
//! Where Casemate differs on purpose, what is asserted is what ADR 0005 says.

use std::io::{Cursor, Read};
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_testkit::{EtcdCertificates, Network, Place};
use serde_json::{Value, json};

use crate::daemon::Client;
use crate::grow::{id_of_new, join_of, members, post, promote, refused};
use crate::nitropy::Nitropy;
use crate::node::{self, BACKUP, Node, get, ids, sign, unlock_passphrase};
use crate::witness::{self, Witness};

#[test]
#[ignore = "it takes nitropy: `cargo xtask compat` runs it"]
fn over_ipv4() {
    tour(|place| SocketAddr::from((place.v4, 2380)));
}

#[test]
#[ignore = "it takes nitropy: `cargo xtask compat` runs it"]
fn over_ipv6() {
    tour(|place| SocketAddr::from((place.v6, 2380)));
}

/// The node of the network where the witness is.
const WITNESS: usize = 3;

/// What the tour takes along.
pub(crate) struct Tour<'a> {
    pub(crate) network: &'a Network,
    pub(crate) certificates: EtcdCertificates,
    pub(crate) nitropy: Nitropy,
}

fn tour(peer: impl Fn(&Place) -> SocketAddr) {
    let network = &Network::new(4);
    let tour = Tour { network, certificates: EtcdCertificates::new(), nitropy: Nitropy::installed() };
    let places = network.places();
    // The third one has two URLs (13).
    let listen = [vec![peer(&places[0])], vec![peer(&places[1])], node::peers(&places[2])];
    let mut nodes: Vec<Node> = ["first", "second", "third"]
        .into_iter()
        .zip(listen)
        .zip(places)
        .map(|((name, peers), place)| Node::start_empty(place, name, peers))
        .collect();
    nodes.iter().for_each(Node::provision);
    let [first, second, third] = nodes.as_mut_slice() else { unreachable!() };

    tour.ca_and_certificate(first);
    let left_over = tour.registration(first, second);
    tour.refused_joins(second, third, &left_over);
    tour.join(first, second);
    coherence(first, second);
    tour.two_urls(first, second, third);
    let mut witness = tour.witness(second, peer(&places[WITNESS]));
    one_is_killed(first, second, third);
    tour.ca_change(&[first, second, third]);
    tour.backup_and_restore(first, second, third);
    tour.removal(first, second, third);
    tour.no_majority(first, second, &mut witness);
    tour.comes_back(first, third);
}

/// Prints where the tour is.
fn step(number: &str, what: &str) {
    println!("{number}. {what}");
}

impl Tour<'_> {
    fn ca_file(&self) -> String {
        self.file("ca.pem", &self.certificates.ca)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.nitropy.folder.file(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Installs a certificate of the CA and the CA at a node, which moves its store into an etcd.
    pub(crate) fn trust(&self, node: &Node) {
        node.put_certificate(&self.certificates);
        self.nitropy.admin(node, node.name(), &["set-cluster-ca-certificate", &self.ca_file()]);
    }

    fn ca_and_certificate(&self, first: &Node) {
        step("1", "the CA and the certificate of a node");
        let (admin, ca) = (first.admin(), &self.certificates.ca);
        let signature = first.signs("first");
        let path = "/config/tls/cluster-ca.pem";
        refused(admin.call("GET", path, None).unwrap(), 404, "cluster CA is absent unless configured");
        admin.put_pem(path, "no certificate").expect(400);
        let leaf = self.certificates.issue("leaf").certificate;
        refused(admin.put_pem(path, &leaf), 400, "not that of an authority");
        refused(admin.put_pem(path, ca), 412, "not signed by this CA");
        self.trust(first);
        assert!(self.nitropy.admin(first, "first", &["get-cluster-ca-certificate"]).contains(ca.trim()));
        let foreign = EtcdCertificates::new().sign(&first.certificate_request());
        refused(admin.put_pem("/config/tls/cert.pem", &foreign), 412, "CA");
        let generate = admin.call("POST", "/config/tls/generate", Some(&json!({ "type": "EC_P256" }))).unwrap();
        refused(generate, 412, "cannot generate cert if cluster CA has been set");
        assert_eq!(first.signs("first"), signature, "its key has survived");
        assert_eq!(ids(&admin, "/users"), ["admin", "first", "op"]);
    }

    /// Returns what a registration was answered that does not hold any more.
    fn registration(&self, first: &Node, second: &Node) -> Value {
        step("2", "the registration of a member");
        let admin = first.admin();
        refused(first.register(&second.url()), 412, "backup passphrase");
        first.set_backup_passphrase();
        let alone = members(&admin);
        let invitation = first.register(&second.url()).expect(201).json();
        let names: Vec<&String> = invitation.as_object().unwrap().keys().collect();
        assert_eq!(names, ["joinerKit", "members"]);
        BASE64_STANDARD.decode(invitation["joinerKit"].as_str().unwrap()).unwrap();
        let id = id_of_new(&invitation);
        let new = json!({ "id": id, "name": "", "urls": [second.url()], "learner": true });
        let listed = invitation["members"].as_array().unwrap();
        assert_eq!(listed.len(), 2);
        assert!(listed.contains(&alone[0]) && listed.contains(&new), "{listed:?}");
        for member in listed {
            let id = member["id"].as_str().unwrap();
            let number = u64::from_str_radix(id, 16).unwrap();
            assert_eq!(id, format!("{number:x}"));
        }
        refused(first.register("https://192.0.2.1:2380"), 409, "cluster has learners");

        let id = id.as_str().unwrap();
        let call = |method: &str, id: &str, body: Option<&Value>| {
            admin.call(method, &format!("/cluster/members/{id}"), body).unwrap()
        };
        let urls = json!({ "urls": [second.url()] });
        call("DELETE", "not-hexadecimal", None).expect(400);
        call("PUT", "not-hexadecimal", Some(&urls)).expect(400);
        call("DELETE", "1", None).expect(404);
        call("PUT", "1", Some(&urls)).expect(404);
        post(&admin, &promote(&"1".into())).expect(404);
        refused(post(&admin, &promote(&id.into())), 412, "caught up");
        self.nitropy.admin(first, "first", &["set-cluster-member-urls", "--url", "https://192.0.2.1:2380", id]);
        let said = self.nitropy.admin(first, "first", &["list-cluster-members"]);
        assert!(said.contains("2 cluster members") && said.contains("https://192.0.2.1:2380"), "{said}");
        self.nitropy.admin(first, "first", &["remove-cluster-member", id]);
        assert_eq!(members(&admin), alone);
        invitation
    }

    fn refused_joins(&self, second: &Node, third: &Node, left_over: &Value) {
        step("3", "joins that are refused, or fail");
        let good = join_of(left_over);
        refused(second.join(&good), 412, "CA");
        self.trust(second);
        let signature = second.signs("second");
        let others = good["members"].as_array().unwrap();
        let own = others.iter().find(|member| member["name"] == "").unwrap().clone();
        let other = others.iter().find(|member| member["name"] != "").unwrap().clone();
        let with = |name: &str, value: Value| {
            let mut body = good.clone();
            body[name] = value;
            body
        };
        let at = |url: &str| json!({ "name": "", "urls": [url] });
        let mut without = good.clone();
        without.as_object_mut().unwrap().remove("backupPassphrase");
        let bad = [
            ("a kit that is none", with("joinerKit", "bm9uZQ==".into())),
            ("no backup passphrase", without),
            ("one member", with("members", json!([own]))),
            ("a name twice", with("members", json!([own, other, other]))),
            ("no new member", with("members", json!([other, { "name": "x", "urls": ["https://192.0.2.1:2380"] }]))),
            ("no TLS", with("members", json!([other, at("http://192.0.2.1:2380")]))),
            ("no port", with("members", json!([other, at("https://192.0.2.1")]))),
            ("a URL twice", with("members", json!([other, { "name": "", "urls": other["urls"] }]))),
        ];
        for (what, body) in &bad {
            let answer = second.join(body);
            assert_eq!(answer.status, 400, "{what}: {}", answer.json());
        }
        let admin = second.admin();
        admin.send("POST", "/cluster/join", "application/json", b"{".to_vec()).unwrap().expect(400);

        // The cluster cannot be reached; it can, and has not registered this node.
        let mut unreachable = good.clone();
        for member in unreachable["members"].as_array_mut().unwrap() {
            if member["name"] != "" {
                member["urls"] = json!([third.url()]);
            }
        }
        refused(second.join(&unreachable), 400, "joining cluster failed");
        refused(second.join(&good), 400, "joining cluster failed");
        assert_eq!(second.anybody().state(), "Operational");
        assert_eq!(second.signs("second"), signature);
        assert_eq!(ids(&second.admin(), "/keys"), ["second"]);
        let mut guessed = good;
        guessed["backupPassphrase"] = "not the backup passphrase".into();
        refused(second.join(&guessed), 400, "invalid passphrase");
        // Another one is not tried before a second is over.
        thread::sleep(Duration::from_millis(1_100));
    }

    fn join(&self, first: &Node, second: &Node) {
        step("4", "a join lasts until the promotion");
        let before = second.admin();
        let logging = json!({ "ipAddress": "192.0.2.9", "port": 514, "logLevel": "info" });
        before.call("PUT", "/config/logging", Some(&logging)).unwrap().expect(204);
        let certificate = |client: &Client| client.call("GET", "/config/tls/cert.pem", None).unwrap().expect(200).bytes;
        let shown = certificate(&before);
        let signature = first.signs("first");
        self.join_as_member(first, second, |joining| {
            second.eventually("it follows", || second.folder.data().join("etcd.2/data/member/wal").exists());
            thread::sleep(Duration::from_secs(2));
            assert!(!joining(), "nobody has promoted it");
        });
        let anybody = second.anybody();
        assert_eq!(anybody.state(), "Locked");
        anybody.unlock(&unlock_passphrase("second")).expect(403);
        thread::sleep(Duration::from_millis(1_100));
        second.unlock("first");
        let admin = second.admin_of("first");
        assert_eq!((get(&admin, "/config/logging"), certificate(&admin)), (logging, shown));
        assert_eq!(ids(&admin, "/keys"), ["first"], "its own key is gone");
        assert_eq!(ids(&admin, "/users"), ["admin", "first", "op"]);
        assert_eq!(second.signs("first"), signature);
        // The unlock passphrase is that of this node alone.
        let [current, new] = ["first", "second"].map(unlock_passphrase);
        let change = json!({ "currentPassphrase": current, "newPassphrase": new });
        admin.call("PUT", "/config/unlock-passphrase", Some(&change)).unwrap().expect(204);
        for node in [first, second] {
            let admin = node.admin_of("first");
            node.eventually("it is locked", || post(&admin, "/lock").status == 204);
            node.unlock(node.name());
        }
    }

    /// Registers `new` at `first` by all of its URLs, has it join, promotes it, and waits for the end of the join. `meanwhile` is called
    /// before the promotion, with whether the join has ended.
    pub(crate) fn join_as_member(&self, first: &Node, new: &Node, meanwhile: impl FnOnce(&dyn Fn() -> bool)) {
        let data = self.nitropy.folder.file(&format!("{}.json", new.name()));
        let data = data.to_str().unwrap();
        let mut words = vec!["add-cluster-member".to_owned()];
        words.extend(new.urls().iter().map(|url| format!("--url={url}")));
        words.push(data.to_owned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let said = self.nitropy.admin(first, "first", &words);
        assert!(said.contains("learner: True"), "{said}");
        let listed = members(&first.admin());
        let id = listed.iter().find(|member| member["name"] == "").unwrap()["id"].as_str().unwrap().to_owned();
        thread::scope(|scope| {
            let join = || self.nitropy.admin(new, new.name(), &["join-cluster", "--backup-passphrase", BACKUP, data]);
            let joining = scope.spawn(join);
            meanwhile(&|| joining.is_finished());
            let promote = || {
                self.nitropy.try_as(
                    first,
                    ("admin", &node::admin_passphrase("first")),
                    &["promote-cluster-member", &id],
                )
            };
            first.eventually("it is promoted", || match promote() {
                Ok(_) => true,
                Err(why) => {
                    // Until it has caught up.
                    assert!(why.contains("Precondition failed") || why.contains("503"), "{why}");
                    joining.is_finished()
                }
            });
            joining.join().unwrap();
        });
        let listed = members(&first.admin());
        let member = listed.iter().find(|member| member["id"] == id.as_str()).unwrap();
        assert_eq!((&member["learner"], &member["urls"]), (&false.into(), &json!(new.urls())));
    }

    fn two_urls(&self, first: &Node, second: &Node, third: &Node) {
        step("13", "a member with two URLs");
        self.trust(third);
        assert_eq!(third.urls().len(), 2);
        self.join_as_member(first, third, |_| ());
        third.unlock("first");
        for node in [first, second, third] {
            let listed = members(&node.admin_of("first"));
            assert!(listed.iter().any(|member| member["urls"] == json!(third.urls())), "{listed:?}");
        }
        serve(third, second, "by-two-urls");
    }

    fn witness(&self, at: &Node, peer: SocketAddr) -> Witness {
        step("12", "a witness");
        let (admin, url) = (at.admin_of("first"), format!("https://{peer}"));
        let body = json!({ "urls": [url] });
        let invitation = admin.call("POST", "/cluster/members", Some(&body)).unwrap().expect(201).json();
        let witness = Witness::start(self.network, WITNESS, (&invitation, &url), &self.certificates);
        let id = id_of_new(&invitation);
        at.eventually("it is promoted", || post(&admin, &promote(&id)).status == 204);
        let listed = members(&admin);
        let member = json!({ "id": id, "name": witness::NAME, "urls": [url], "learner": false });
        assert!(listed.len() == 4 && listed.contains(&member), "{listed:?}");
        witness
    }

    fn ca_change(&self, nodes: &[&Node]) {
        step("10", "the CA of a cluster cannot be changed");
        for node in nodes {
            let admin = node.admin_of("first");
            refused(admin.put_pem("/config/tls/cluster-ca.pem", &self.certificates.ca), 412, "Dismantle");
        }
    }

    fn backup_and_restore(&self, first: &Node, second: &Node, third: &Node) {
        step("11", "a backup of the cluster is restored at a member");
        let admin = first.admin();
        let user = json!({ "realName": "", "role": "Backup", "passphrase": BACKUP });
        admin.call("PUT", "/users/backup", Some(&user)).unwrap().expect(201);
        let file = self.nitropy.folder.file("backup");
        let name = file.to_str().unwrap();
        self.nitropy.try_as(first, ("backup", BACKUP), &["backup", name]).unwrap();
        first.create_key("first", "later");
        first.eventually("a key is deleted", || {
            matches!(admin.call("DELETE", "/keys/by-two-urls", None).unwrap().status, 204 | 404)
        });
        self.nitropy.admin(second, "first", &["restore", "--backup-passphrase", BACKUP, name]);
        for node in [first, second, third] {
            let is_back = || {
                let admin = node.admin_of("first");
                let answer = admin.call("GET", "/keys", None).unwrap();
                answer.status == 200 && ids(&admin, "/keys") == ["by-two-urls", "first"]
            };
            node.eventually("it has what was restored", is_back);
            assert_eq!(node.anybody().state(), "Operational");
        }
        assert_eq!(third.signs("by-two-urls"), first.signs("by-two-urls"));

        let (admin, backup) = (second.admin_of("first"), fs::read(&file).unwrap());
        second.eventually("the second of two restores is refused", || is_refused_beside_another(&admin, &backup));
        serve(first, second, "after-the-restore");
    }

    fn removal(&self, first: &Node, second: &Node, third: &Node) {
        step("7", "a removed member");
        let listed = members(&first.admin());
        let id = third.device_id("first");
        let id = listed.iter().find(|member| member["name"] == id).unwrap()["id"].as_str().unwrap();
        self.nitropy.admin(first, "first", &["remove-cluster-member", id]);
        let (removed, anybody) = (Instant::now(), third.anybody());
        third.eventually("it is Failed", || anybody.state() == "Failed");
        // A minute would be that of a store that is away.
        assert!(removed.elapsed() < Duration::from_secs(30), "{:?}", removed.elapsed());
        let diagnosis = get(&anybody, "/health/diagnose");
        assert_eq!(diagnosis["clusterState"], json!({ "running": false, "exited": 0 }));
        assert_eq!(diagnosis["clusterSnapshot"]["version"], "3.6.0", "{diagnosis}");
        assert!(diagnosis["clusterLogs"].to_string().contains("has removed this node"), "{diagnosis}");
        let said = self.nitropy.admin(third, "first", &["get-cluster-diagnostics"]);
        let says = |name: &str, value: &str| {
            said.lines().any(|line| line.split_whitespace().eq([name, value])) || panic!("no {name} {value}: {said}")
        };
        assert!(says("running:", "False") && says("exited:", "0"));
        for (method, path) in [("GET", "/keys"), ("POST", "/lock"), ("GET", "/cluster/members")] {
            third.admin_of("first").call(method, path, None).unwrap().expect(412);
        }
        assert_eq!(members(&second.admin_of("first")).len(), 3);
        serve(first, second, "after-the-removal");
    }

    fn no_majority(&self, first: &Node, second: &mut Node, witness: &mut Witness) {
        step("8", "the majority is lost");
        let force = |client: &Client| client.call("POST", "/cluster/force-new", None).unwrap();
        let holder = |passphrase: &str| first.anybody().log_in("unlock", passphrase);
        force(&holder(&unlock_passphrase("first"))).expect(412);
        let signature = first.signs("first");

        [0, 1, WITNESS].iter().for_each(|node| self.network.isolate(*node));
        let begun = Instant::now();
        let anybody = first.anybody();
        first.eventually("it does not serve", || sign(&first.operator(), "first").status == 503);
        assert_eq!(anybody.state(), "Operational");
        first.eventually("it is Failed", || anybody.state() == "Failed");
        let after = begun.elapsed();
        println!("Failed {after:.1?} after the majority was lost");
        // Its last answer may be a second old, and it counts whole seconds.
        assert!(after >= Duration::from_secs(58), "{after:?}");
        sign(&first.operator(), "first").expect(412);
        for path in ["/system/reboot", "/system/factory-reset"] {
            post(&anybody, path).expect(401);
        }

        step("9", "forcing a new cluster takes the unlock passphrase");
        force(&anybody).expect(401);
        force(&holder("not the unlock passphrase")).expect(401);

        step("8", "it can be shut down by anybody, and is back by itself with the majority");
        second.eventually("it is Failed", || second.anybody().state() == "Failed");
        post(&second.anybody(), "/system/shutdown").expect(204);
        assert_eq!(second.await_end(), Some(0));
        witness.kill();
        witness.restart(self.network, WITNESS);
        [0, 1, WITNESS].iter().for_each(|node| self.network.rejoin(*node));
        first.eventually("it is back", || anybody.state() == "Operational");
        assert_eq!(first.signs("first"), signature, "nobody has unlocked it");
        second.start_process();
        second.unlock("second");
        serve(second, first, "with-a-majority");
    }

    fn comes_back(&self, first: &Node, third: &Node) {
        step("4", "a removed node is reset, and joins again");
        let holder = third.anybody().log_in("unlock", &unlock_passphrase("first"));
        post(&holder, "/system/factory-reset").expect(204);
        third.eventually("it is Unprovisioned", || {
            third
                .anybody()
                .call("GET", "/health/state", None)
                .is_ok_and(|answer| answer.json()["state"] == "Unprovisioned")
        });
        third.provision();
        self.trust(third);
        self.join_as_member(first, third, |_| ());
        third.unlock("first");
        assert_eq!(third.signs("first"), first.signs("first"));
        serve(third, first, "back");
    }
}

/// A key that was created at `one` is used at `other`.
pub(crate) fn serve(one: &Node, other: &Node, key: &str) {
    one.create_key("first", key);
    assert_eq!(other.signs(key), one.signs(key));
}

fn coherence(first: &Node, second: &Node) {
    step("5", "what one creates or deletes, the other one sees");
    for round in 0..3 {
        let key = format!("passing-{round}");
        serve(first, second, &key);
        let operator = second.operator();
        (0..10).for_each(|_| drop(sign(&operator, &key).expect(200)));
        first.admin().call("DELETE", &format!("/keys/{key}"), None).unwrap().expect(204);
        let deleted = Instant::now();
        while sign(&operator, &key).status != 404 {
            assert!(deleted.elapsed() < Duration::from_millis(500), "it signs with a key that was deleted");
        }
    }
}

/// Whether a restore is refused while another one still receives its file. If not, it was the other one that came too late.
fn is_refused_beside_another(admin: &Client, backup: &[u8]) -> bool {
    let arguments = json!({ "backupPassphrase": BACKUP });
    let mut body = Client::restore_body(&arguments, backup);
    let last = body.split_off(body.len() - 50);
    let (end, rest) = mpsc::channel();
    let slow = Slow { now: Cursor::new(body), rest };
    thread::scope(|scope| {
        let restoring = scope.spawn(|| admin.alone().restore_from(slow).unwrap());
        thread::sleep(Duration::from_secs(1));
        let second = admin.restore(&arguments, backup).unwrap();
        // It fails if the other one was refused.
        let _ = end.send(last);
        drop(end);
        let first = restoring.join().unwrap();
        if (first.status, second.status) == (503, 204) {
            return false;
        }
        first.expect(204);
        refused(second, 503, "A restore or a move of the store is running");
        true
    })
}

fn one_is_killed(first: &Node, second: &Node, third: &mut Node) {
    step("6", "one is killed, and the others serve");
    third.kill();
    // Three of four are a majority only with the witness.
    serve(first, second, "without-the-third");
    let admin = first.admin();
    first.eventually("a key is deleted", || {
        matches!(admin.call("DELETE", "/keys/without-the-third", None).unwrap().status, 204 | 404)
    });
    third.restart("first");
    assert_eq!(third.signs("by-two-urls"), first.signs("by-two-urls"));
}

/// A body whose end comes when somebody sends it.
struct Slow {
    now: Cursor<Vec<u8>>,
    rest: Receiver<Vec<u8>>,
}

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.now.read(buffer)? {
            0 => {
                // Nothing comes any more when the sender is gone.
                self.now = Cursor::new(self.rest.recv().unwrap_or_default());
                self.now.read(buffer)
            }
            read => Ok(read),
        }
    }
}
