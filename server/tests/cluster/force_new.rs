//! Members that their cluster has lost, or that have lost their cluster, become nodes of their own.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;

use casemate_testkit::EtcdCertificates;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::daemon::Client;

use super::node::{Node, generate, get, ids};
use super::{grow, members, refused, start};

/// A cluster of two, which both serve.
fn two(certificates: &EtcdCertificates) -> [Node; 2] {
    let [first, second] = start(["first", "second"], certificates);
    first.put_cluster_ca(certificates);
    second.put_cluster_ca(certificates);
    first.set_backup_passphrase();
    grow(&first, &second);
    [first, second]
}

/// Makes a Failed node that had joined the node `first`, or is it, a node of its own, and unlocks it.
fn force_new(node: &Node) {
    let call = |client: &Client| {
        let answer = client.call("POST", "/cluster/force-new", None);
        answer.unwrap_or_else(|error| panic!("{error}\n{}", node.log()))
    };
    call(&node.anybody()).expect(401);
    call(&node.admin_of("first")).expect(401);
    call(&node.unlock_holder("nobody")).expect(401);
    let mut answer = None;
    node.eventually("a passphrase may be tried", || answer.insert(call(&node.unlock_holder("first"))).status != 429);
    let note = answer.unwrap().expect(204).note;
    assert_eq!(note.as_deref(), Some(casemate_api::sentences::FORCED_NEW));
    node.unlock("first");
    let listed = members(&node.admin_of("first"));
    assert_eq!((listed.len(), &listed[0]["name"]), (1, &json!("casemate")));
    assert_eq!(get(&node.admin_of("first"), "/health/diagnose")["store"]["kind"], "embedded");
}

/// Kills a process, as a power cut would.
fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

/// Creates keys at `node` in several threads until `end` was done, and returns the ids of those that were acknowledged.
fn write_until(node: &Node, end: impl FnOnce()) -> Vec<String> {
    let written = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for writer in 0..4 {
            let (client, written) = (node.admin(), &written);
            scope.spawn(move || {
                for at in 0.. {
                    let id = format!("k{writer}-{at:05}");
                    let key = json!({ "id": id, "type": "Curve25519", "mechanisms": ["EdDSA_Signature"] });
                    match client.call("POST", "/keys/generate", Some(&key)) {
                        Ok(answer) if answer.status == 201 => written.lock().unwrap().push(id),
                        _ => return,
                    }
                }
            });
        }
        node.eventually("keys are created", || written.lock().unwrap().len() > 100);
        end();
    });
    written.into_inner().unwrap()
}

#[track_caller]
fn has_all(node: &Node, acknowledged: &[String]) {
    let kept: BTreeSet<String> = ids(&node.admin_of("first"), "/keys").into_iter().collect();
    let lost: Vec<_> = acknowledged.iter().filter(|id| !kept.contains(*id)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
}

/// The members confirm a change when both have it, but the one that did not lead learns a moment later that it was confirmed.
#[test]
fn what_a_member_received_last_is_kept() {
    let certificates = EtcdCertificates::new();
    let [first, mut second] = two(&certificates);
    let pid = first.pid();
    let acknowledged = write_until(&first, || kill(pid));
    second.kill();
    second.start_process();
    second.await_state("Failed");
    force_new(&second);
    has_all(&second, &acknowledged);
}

#[test]
fn members_whose_majority_is_lost_keep_what_was_acknowledged() {
    let certificates = EtcdCertificates::new();
    let [mut first, mut second] = two(&certificates);
    let signature = first.signs("first");
    // The majority is lost between two writes.
    let pid = first.pid();
    let acknowledged = write_until(&first, || {
        second.kill();
        kill(pid);
    });
    first.kill();

    // It boots straight into Failed.
    first.start_process();
    first.await_state("Failed");
    let newest = || get(&first.anybody(), "/health/diagnose")["store"]["storedRevision"].as_u64();
    first.eventually("its etcd tells what it has", || newest().is_some_and(|newest| newest > 0));
    // Its certificate may be the reason why nobody hears it.
    first.put_certificate_as(&first.unlock_holder("first"), &certificates);
    force_new(&first);
    has_all(&first, &acknowledged);
    assert_eq!(first.signs("first"), signature);
    first.create_key("first", "afterwards");
    let log = first.admin().call("GET", "/audit", None).unwrap().expect(200).bytes;
    let log = String::from_utf8(log).unwrap();
    let outcome =
        log.lines().filter(|line| line.contains("POST /cluster/force-new")).find(|line| line.contains("outcome"));
    let outcome: serde_json::Value = serde_json::from_str(outcome.unwrap()).unwrap();
    assert!(outcome["status"] == 204 && outcome["revision"].as_u64().is_some_and(|last| last > 0), "{outcome}");

    // The other one cannot come back in: neither as the member that it was, nor as the one that is registered with its address.
    second.start_process();
    second.await_state("Failed");
    first.register(&second.url()).expect(201);
    thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(second.anybody().state(), "Failed");
    let listed = members(&first.admin());
    let names: Vec<_> = listed.iter().map(|member| member["name"].clone()).collect();
    assert!(names.contains(&first.device_id("first")) && names.contains(&json!("")), "{names:?}");
    first.create_key("first", "with-a-stranger");
    let stranger = listed.iter().find(|member| member["name"] == "").unwrap()["id"].as_str().unwrap().to_owned();
    first.admin().call("DELETE", &format!("/cluster/members/{stranger}"), None).unwrap().expect(204);

    // It is reset, which takes the passphrase, and joins as a new one.
    second.anybody().call("POST", "/system/factory-reset", None).unwrap().expect(401);
    second.unlock_holder("first").call("POST", "/system/factory-reset", None).unwrap().expect(204);
    second.eventually("it is reset", || {
        second
            .anybody()
            .call("GET", "/health/state", None)
            .is_ok_and(|answer| answer.json()["state"] == "Unprovisioned")
    });
    second.provision();
    second.put_certificate(&certificates);
    second.put_cluster_ca(&certificates);
    grow(&first, &second);
    assert_eq!(ids(&second.admin_of("first"), "/keys"), ids(&first.admin(), "/keys"));
}

#[test]
fn a_removed_member_keeps_what_the_cluster_had() {
    let certificates = EtcdCertificates::new();
    let [first, mut second] = two(&certificates);
    (0..200).for_each(|at| drop(generate(&first.admin(), &format!("k{at:03}")).expect(201)));
    let (keys, signature) = (ids(&first.admin(), "/keys"), first.signs("first"));
    let name = second.device_id("first");
    let id = members(&first.admin()).into_iter().find(|member| member["name"] == name).unwrap()["id"].clone();
    let path = format!("/cluster/members/{}", id.as_str().unwrap());
    first
        .eventually("it is removed", || matches!(first.admin().call("DELETE", &path, None).unwrap().status, 204 | 404));
    second.await_state("Failed");
    let diagnosis = get(&second.anybody(), "/health/diagnose");
    assert_eq!(diagnosis["clusterState"], json!({ "running": false, "exited": 0 }));
    assert_eq!(diagnosis["clusterSnapshot"]["version"], "3.6.0", "{diagnosis}");
    assert!(diagnosis["clusterSnapshot"]["totalKey"].as_u64().unwrap() > 200, "{diagnosis}");
    refused(second.anybody().call("POST", "/unlock", Some(&json!({ "passphrase": "x" }))).unwrap(), 412, "");
    // Also after a reboot.
    second.kill();
    second.start_process();
    second.await_state("Failed");
    force_new(&second);
    assert_eq!(ids(&second.admin_of("first"), "/keys"), keys);
    assert_eq!(second.signs("first"), signature);
    second.create_key("first", "its-own");
    // The one that has removed it goes on by itself.
    first.create_key("first", "of-the-other");
    assert!(!ids(&first.admin(), "/keys").contains(&"its-own".to_owned()));
}
