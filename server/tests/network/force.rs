//! The last part of the tour (9): a node whose cluster is lost, or has removed it, goes on alone, and takes new members.

use std::net::SocketAddr;

use casemate_testkit::{EtcdCertificates, Network};
use serde_json::json;

use crate::grow::members;
use crate::nitropy::Nitropy;
use crate::node::{Node, get, ids, unlock_passphrase};
use crate::tour::{Tour, serve};

#[test]
#[ignore = "it takes nitropy: `cargo xtask compat` runs it"]
fn a_lost_cluster_is_forced_anew() {
    let network = &Network::new(3);
    let tour = Tour { network, certificates: EtcdCertificates::new(), nitropy: Nitropy::installed() };
    let mut nodes: Vec<Node> = ["first", "second", "third"]
        .into_iter()
        .zip(network.places())
        .map(|(name, place)| Node::start_empty(place, name, vec![SocketAddr::from((place.v4, 2380))]))
        .collect();
    nodes.iter().for_each(Node::provision);
    nodes.iter().for_each(|node| tour.trust(node));
    let [first, second, third] = nodes.as_mut_slice() else { unreachable!() };
    first.set_backup_passphrase();
    tour.join_as_member(first, second, |_| ());
    second.unlock("first");
    serve(second, first, "of-the-cluster");
    let signatures = ["first", "of-the-cluster"].map(|key| first.signs(key));

    // The majority is lost for good.
    second.kill();
    let anybody = first.anybody();
    first.eventually("it is Failed", || anybody.state() == "Failed");
    let force =
        |node: &Node, passphrase: &str| tour.nitropy.try_as(node, ("unlock", passphrase), &["force-new-cluster"]);
    assert!(force(first, "not the unlock passphrase").unwrap_err().contains("401"));
    first.eventually("it is forced", || force(first, &unlock_passphrase("first")).is_ok());
    first.eventually("it is Locked", || {
        anybody.call("GET", "/health/state", None).is_ok_and(|answer| answer.json()["state"] == "Locked")
    });
    first.unlock("first");
    let alone = |node: &Node| {
        let admin = node.admin_of("first");
        assert_eq!(members(&admin).len(), 1);
        assert_eq!(get(&admin, "/health/diagnose")["store"]["kind"], json!("embedded"));
        assert_eq!(ids(&admin, "/keys"), ["first", "of-the-cluster"]);
        assert_eq!(ids(&admin, "/users"), ["admin", "first", "op"]);
        assert_eq!(["first", "of-the-cluster"].map(|key| node.signs(key)), signatures);
    };
    alone(first);
    first.kill();
    first.restart("first");
    alone(first);

    // It takes a new member, for which its store moves into an etcd again.
    tour.join_as_member(first, third, |_| ());
    third.unlock("first");
    serve(first, third, "of-the-new-cluster");
    serve(third, first, "of-the-new-cluster-too");
    assert_eq!(members(&first.admin()).len(), 2);

    // A member that was removed goes on with what it had, too.
    let id = third.device_id("first");
    let listed = members(&first.admin());
    let id = listed.iter().find(|member| member["name"] == id).unwrap()["id"].as_str().unwrap();
    tour.nitropy.admin(first, "first", &["remove-cluster-member", id]);
    third.eventually("it is Failed", || third.anybody().state() == "Failed");
    third.eventually("it is forced", || force(third, &unlock_passphrase("first")).is_ok());
    third.eventually("it is Locked", || {
        third.anybody().call("GET", "/health/state", None).is_ok_and(|answer| answer.json()["state"] == "Locked")
    });
    third.unlock("first");
    assert_eq!(third.signs("of-the-new-cluster-too"), first.signs("of-the-new-cluster-too"));
    assert_eq!(members(&third.admin_of("first")).len(), 1);
}
