//! Single nodes become a cluster, and one node again: real `casemated` processes that run real etcds of their own.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test of processes: it lives in real time, and whatever goes wrong fails it"
)]

mod daemon;
#[path = "cluster/force_new.rs"]
mod force_new;
#[path = "cluster/grow.rs"]
mod grow;
#[path = "cluster/node.rs"]
mod node;
#[path = "cluster/serving.rs"]
mod serving;
#[path = "member/shown.rs"]
mod shown;

use std::thread;

use casemate_testkit::{EtcdCertificates, free_port};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;

use grow::{grow, id_of_new, join_of, member, members, post, refused};
use node::{Node, get, ids, sign};

/// Starts nodes with these names side by side.
fn start<const N: usize>(names: [&'static str; N], certificates: &EtcdCertificates) -> [Node; N] {
    start_as(Node::start, names, certificates)
}

fn start_as<const N: usize>(
    start: fn(&'static str, &EtcdCertificates) -> Node,
    names: [&'static str; N],
    certificates: &EtcdCertificates,
) -> [Node; N] {
    thread::scope(|scope| {
        let starting = names.map(|name| scope.spawn(move || start(name, certificates)));
        starting.map(|node| node.join().unwrap())
    })
}

/// A key that was created at `one` is used at `other`.
fn serve(one: &Node, other: &Node, key: &str) {
    one.create_key("first", key);
    assert_eq!(other.signs(key), one.signs(key));
}

#[test]
fn three_nodes_become_a_cluster_that_survives_the_loss_of_one() {
    let certificates = EtcdCertificates::new();
    let [mut first, second, third] = start(["first", "second", "third"], &certificates);
    let admin = first.admin();
    let signature = first.signs("first");
    first.signs("first");
    let uses = || get(&first.admin(), "/keys/first")["operations"].clone();
    assert_eq!(uses(), 2);
    let alone = members(&admin);
    assert_eq!((alone.len(), &alone[0]["name"], &alone[0]["learner"]), (1, &"casemate".into(), &false.into()));

    // The move.
    for node in [&first, &second, &third] {
        node.put_cluster_ca(&certificates);
    }
    assert_eq!(first.signs("first"), signature);
    assert_eq!(uses(), 3);
    assert_eq!(ids(&admin, "/users"), ["admin", "first", "op"]);
    let founder = members(&admin);
    assert_eq!(founder, [member(&founder[0]["id"], &first.device_id("first"), &first, false)]);
    refused(first.register(&second.url()), 412, "backup passphrase");
    first.set_backup_passphrase();
    refused(first.invite(), 412, "client-listen");
    post(&admin, "/cluster/members/abc/promote").expect(404);
    refused(post(&admin, "/cluster/members/xyz/promote"), 400, "hexadecimal");

    // The joins.
    grow(&first, &second);
    let id_of_third = grow(&first, &third);
    refused(admin.put_pem("/config/tls/cluster-ca.pem", &certificates.ca), 412, "Dismantle");
    for node in [&first, &second, &third] {
        let admin = node.admin_of("first");
        assert_eq!(ids(&admin, "/keys"), ["first"]);
        assert_eq!(ids(&admin, "/users"), ["admin", "first", "op"]);
        assert_eq!(node.signs("first"), signature);
        assert_eq!(members(&admin).len(), 3);
    }

    // Any of them serves.
    serve(&second, &third, "passing");
    let delete = || admin.call("DELETE", "/keys/passing", None).unwrap();
    first.eventually("a key is deleted", || matches!(delete().status, 204 | 404));
    let operator = second.operator();
    second.eventually("the key is gone", || sign(&operator, "passing").status == 404);

    // One is lost, and comes back by itself.
    first.kill();
    serve(&second, &third, "meanwhile");
    serve(&third, &second, "meanwhile-too");
    first.restart("first");
    assert_eq!(ids(&first.admin(), "/keys"), ["first", "meanwhile", "meanwhile-too"]);
    assert_eq!(first.signs("meanwhile"), second.signs("meanwhile"));

    // One is removed.
    let path = format!("/cluster/members/{}", id_of_third.as_str().unwrap());
    let remove = || first.admin().call("DELETE", &path, None).unwrap();
    first.eventually("a member is removed", || matches!(remove().status, 204 | 404));
    let anybody = third.anybody();
    third.eventually("it is Failed", || anybody.state() == "Failed");
    let diagnosis = get(&anybody, "/health/diagnose");
    assert_eq!(diagnosis["clusterState"], json!({ "running": false, "exited": 0 }));
    assert!(diagnosis["clusterLogs"].to_string().contains("has removed this node"), "{diagnosis}");
    assert_eq!(members(&second.admin_of("first")).len(), 2);
    serve(&first, &second, "afterwards");
    serve(&second, &first, "afterwards-too");
    remove().expect(404);
}

#[test]
fn a_node_that_cannot_join_goes_on_with_its_own_data() {
    let certificates = EtcdCertificates::new();
    let [first, second] = start(["first", "second"], &certificates);
    for node in [&first, &second] {
        node.put_cluster_ca(&certificates);
    }
    first.set_backup_passphrase();
    let signature = second.signs("second");
    let goes_on = |key: &str| {
        assert_eq!(second.anybody().state(), "Operational");
        assert_eq!(second.signs("second"), signature);
        second.create_key("second", key);
    };

    let invitation = first.register(&second.url()).expect(201).json();
    let join = join_of(&invitation);
    let mut elsewhere = join.clone();
    let listed = elsewhere["members"].as_array_mut().unwrap();
    let other = listed.iter_mut().find(|member| member["name"] != "").unwrap();
    other["urls"] = json!([format!("https://127.0.0.1:{}", free_port())]);
    refused(second.join(&elsewhere), 400, "joining cluster failed");
    goes_on("one");
    let mut guessed = join.clone();
    guessed["backupPassphrase"] = "not the backup passphrase".into();
    refused(second.join(&guessed), 400, "invalid passphrase");
    goes_on("two");

    // It is removed before it was promoted.
    let id = id_of_new(&invitation);
    thread::scope(|scope| {
        let joining = scope.spawn(|| {
            // A wrong passphrase stops guessing for a second.
            let mut answer = second.join(&join);
            second.eventually("a passphrase may be tried", || {
                if answer.status == 429 {
                    answer = second.join(&join);
                }
                answer.status != 429
            });
            answer
        });
        let log_of_etcd = second.folder.data().join("etcd.2/data/member/wal");
        second.eventually("its etcd has joined", || log_of_etcd.exists());
        let path = format!("/cluster/members/{}", id.as_str().unwrap());
        first.admin().call("DELETE", &path, None).unwrap().expect(204);
        refused(joining.join().unwrap(), 400, "joining cluster failed");
    });
    // The etcd from before takes a moment to start.
    second.eventually("its store answers", || sign(&second.operator(), "second").status == 200);
    goes_on("three");
    assert_eq!(ids(&second.admin(), "/keys"), ["one", "second", "three", "two"]);
    assert_eq!(members(&first.admin()).len(), 1);
    refused(second.join(&join), 400, "has not registered this node");
    goes_on("four");
}

#[test]
fn the_only_member_shows_a_new_certificate_and_goes_back_to_a_file() {
    let certificates = EtcdCertificates::new();
    let [mut node] = start_as(Node::start_open, ["first"], &certificates);
    let signature = node.signs("first");
    node.put_cluster_ca(&certificates);
    let peer = certificates.issue("peer");
    let shown = || [node.peer(), node.clients()].map(|at| shown::shown(at, &certificates, &peer).unwrap());
    let before = shown();
    let leaf = node.put_certificate(&certificates);
    let renewed = CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap();
    assert_ne!(before[0], renewed.as_ref());
    assert_eq!(shown(), [renewed.to_vec(), renewed.to_vec()]);

    // Another CA, which has signed the key of the first.
    let other = EtcdCertificates::new();
    let chain = format!("{}{}", leaf, other.cross_sign(&certificates));
    node.admin().put_pem("/config/tls/cert.pem", &chain).expect(201);
    node.put_cluster_ca(&other);
    let of_other = other.issue("peer of the other CA");
    let accepts = || shown::shown(node.peer(), &other, &of_other).is_ok();
    node.eventually("its etcd trusts the other CA", accepts);
    assert!(shown::shown(node.peer(), &certificates, &peer).is_err(), "and no longer the first");

    node.create_key("first", "in-etcd");
    node.admin().call("DELETE", "/cluster", None).unwrap().expect(204);
    let is_back = |node: &Node| {
        assert_eq!(ids(&node.admin(), "/keys"), ["first", "in-etcd"]);
        assert_eq!(ids(&node.admin(), "/users"), ["admin", "first", "op"]);
        assert_eq!(node.signs("first"), signature);
        assert_eq!(members(&node.admin())[0]["name"], "casemate");
        let diagnosis = get(&node.admin(), "/health/diagnose");
        assert_eq!(diagnosis["store"]["kind"], "embedded");
        for port in [node.peer(), node.clients()] {
            assert!(std::net::TcpStream::connect(port).is_err(), "it listens for nobody");
        }
    };
    is_back(&node);
    node.kill();
    node.restart("first");
    is_back(&node);
}
