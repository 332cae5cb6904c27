//! Quotas of namespaces: who sets them, who sees them, and that they cannot be exceeded.

use std::thread;

use serde_json::{Value, json};

use crate::rig::{Rig, ed25519, passphrase_of};

fn quota(rig: &Rig, namespace: &str) -> Value {
    rig.admin().get(&format!("/namespaces/{namespace}/quota")).is(200).json()
}

fn set(rig: &Rig, quota: &Value) {
    rig.admin().put("/namespaces/ns1/quota", quota.clone()).is(204).empty();
}

#[test]
fn a_namespace_holds_no_more_keys_than_its_quota() {
    let rig = Rig::operational();
    let (ns1, ns2) = (rig.user("ns1~admin"), rig.user("ns2~admin"));
    let before = quota(&rig, "ns1");
    assert_eq!((&before["maxKeys"], &before["maxBytes"]), (&Value::Null, &Value::Null), "there is none by default");
    let keys = before["keys"].as_u64().unwrap();
    set(&rig, &json!({"maxKeys": keys + 2}));
    for id in ["q1", "q2"] {
        ns1.put(&format!("/keys/{id}"), ed25519()).is(204);
    }
    let full = format!("The namespace ns1 has reached its quota of {} keys.", keys + 2);
    ns1.put("/keys/q3", ed25519()).is(507).says(&full);
    let generate = json!({"type": "EC_P256", "mechanisms": ["ECDSA_Signature"]});
    ns1.post("/keys/generate", generate).is(507).says(&full);
    // It applies to this namespace alone, and limits nothing but keys.
    ns2.put("/keys/q3", ed25519()).is(204);
    rig.admin().put("/keys/q3", ed25519()).is(204);
    ns1.put("/keys/q1/label", json!({"label": "a label"})).is(204);
    ns1.post("/keys/q1/move", json!({"newId": "q4"})).is(200);
    ns1.delete("/keys/q4").is(204);
    ns1.put("/keys/q3", ed25519()).is(204);
    ns1.put("/keys/q5", ed25519()).is(507);
    set(&rig, &json!({"maxKeys": null, "maxBytes": null}));
    ns1.put("/keys/q5", ed25519()).is(204);
    // It counts what was created before it was set.
    set(&rig, &json!({"maxKeys": keys + 3}));
    ns1.put("/keys/q6", ed25519()).is(507);
    assert_eq!(quota(&rig, "ns1")["keys"], keys + 3);
}

#[test]
fn bytes_count_whatever_they_are_of_and_come_back_with_deletions() {
    let rig = Rig::operational();
    let ns1 = rig.user("ns1~admin");
    let used = || quota(&rig, "ns1")["bytes"].as_u64().unwrap();
    set(&rig, &json!({"maxBytes": 1 << 20}));
    let begun = used();
    ns1.put("/keys/q1", ed25519()).is(204);
    let with_key = used();
    assert!(with_key > begun);
    ns1.put("/keys/q1/label", json!({"label": "12345678"})).is(204);
    assert_eq!(used(), with_key + 8);
    ns1.put("/keys/q1/restrictions/tags/berlin", "").is(204);
    let marked = used();
    assert!(marked > with_key + 8);
    let octets = || ns1.clone().content_type("application/octet-stream");
    octets().put("/keys/q1/cert", vec![7; 1_000]).is(201);
    assert!(used() > marked + 1_000);
    octets().put("/keys/q1/cert", vec![7; 1_000]).is(409);
    octets().delete("/keys/q1/cert").is(204);
    assert_eq!(used(), marked);
    octets().put("/keys/q1/cert", vec![7; 1_000]).is(201);
    ns1.put("/keys/q1", ed25519()).is(400);
    ns1.put("/keys/q2", ed25519()).is(204);
    let kept = used();
    set(&rig, &json!({"maxBytes": kept + 4}));
    ns1.put("/keys/q3", ed25519())
        .is(507)
        .says(&format!("The namespace ns1 has reached its quota of {} bytes.", kept + 4));
    octets().put("/keys/q2/cert", "a certificate").is(507);
    ns1.put("/keys/q2/label", json!({"label": "12345"})).is(507);
    ns1.put("/keys/q2/label", json!({"label": "1234"})).is(204);
    ns1.put("/keys/q2/label", json!({"label": "123"})).is(204);
    ns1.delete("/keys/q1").is(204);
    ns1.delete("/keys/q2").is(204);
    assert_eq!(used(), begun);
}

#[test]
fn of_many_concurrent_creations_only_as_many_succeed_as_the_quota_allows() {
    let rig = Rig::operational();
    let keys = quota(&rig, "ns1")["keys"].as_u64().unwrap();
    for round in 0..5_u64 {
        set(&rig, &json!({"maxKeys": keys + 3 * (round + 1)}));
        let create = |n: u64| {
            let rig = &rig;
            move || rig.user("ns1~admin").put(&format!("/keys/r{round}n{n}"), ed25519()).status
        };
        let mut statuses: Vec<u16> = thread::scope(|scope| {
            let threads: Vec<_> = (0..9).map(|n| scope.spawn(create(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        statuses.sort_unstable();
        assert_eq!(statuses, [204, 204, 204, 507, 507, 507, 507, 507, 507]);
    }
}

/// After a change without confirmation the namespace is counted again, whether the change was applied or not.
#[test]
fn the_count_is_that_of_the_store_even_if_answers_were_lost() {
    let mut rig = Rig::operational();
    set(&rig, &json!({"maxKeys": 1_000}));
    for n in 0..30 {
        rig.sim.store.lose_answers(1);
        let key = format!("/keys/k{}", n / 2);
        let ns1 = rig.user("ns1~admin");
        let reply = if n % 2 == 0 { ns1.put(&key, ed25519()) } else { ns1.delete(&key) };
        rig.sim.store.lose_answers(0);
        assert!([204, 404, 503].contains(&reply.status), "{reply}");
    }
    let counted = quota(&rig, "ns1");
    rig.reboot();
    rig.unlock().is(204);
    assert_eq!(quota(&rig, "ns1"), counted);
}

#[test]
fn the_root_sets_quotas_and_a_namespace_sees_its_own() {
    let rig = Rig::operational();
    let bound = json!({"maxKeys": 7, "maxBytes": 100_000});
    set(&rig, &bound);
    let seen = rig.user("ns1~admin").get("/namespaces/ns1/quota").is(200).json();
    assert_eq!((&seen["maxKeys"], &seen["maxBytes"]), (&bound["maxKeys"], &bound["maxBytes"]));
    rig.user("ns1~admin").put("/namespaces/ns1/quota", json!({})).is(403);
    rig.user("ns1~admin").get("/namespaces/ns2/quota").is(403);
    rig.user("ns1~admin").get("/namespaces/missing/quota").is(403);
    rig.user("ns1~operator").get("/namespaces/ns1/quota").is(403);
    rig.user("ghost~admin").get("/namespaces/ghost/quota").is(403);
    for (path, status) in [("missing", 404), ("-", 400)] {
        rig.admin().get(&format!("/namespaces/{path}/quota")).is(status);
        rig.admin().put(&format!("/namespaces/{path}/quota"), json!({})).is(status);
    }
    for bad in [json!({"maxKeys": -1}), json!({"maxKeys": "1"}), json!({"keys": 1})] {
        rig.admin().put("/namespaces/ns1/quota", bad).is(400);
    }
    // It survives a boot, goes with its namespace, and can be set when the disk is full.
    let mut rig = rig;
    rig.reboot();
    rig.unlock().is(204);
    assert_eq!(quota(&rig, "ns1")["maxKeys"], 7);
    rig.admin().delete("/namespaces/ns1").is(204);
    rig.admin().put("/namespaces/ns1", "").is(204);
    assert_eq!(quota(&rig, "ns1"), json!({"maxKeys": null, "maxBytes": null, "keys": 0, "bytes": 0}));
    rig.sim.store.fill(true);
    set(&rig, &bound);
    assert_eq!(rig.login("ns1~admin", &passphrase_of("ns1~admin")).get("/keys").is(200).text(), "[]");
}
