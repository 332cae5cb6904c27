//! Failures in the middle of a request: clients that disconnect, rights that end, stores that do not answer.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use casemate_api::limits::COUNTER_FLUSH_MS;
use casemate_core::runtime::Clock;
use casemate_core::store::Store;
use serde_json::json;

use crate::rig::{BASE, Client, Rig, ed25519, sign_something};
use crate::wire::{Reply, Wire};

/// A request whose head has passed the gate and whose body is still to come.
struct Upload {
    wire: Wire,
    body: String,
}

impl Upload {
    fn begin(rig: &Rig, client: &Client<'_>, path: &str, body: &serde_json::Value) -> Self {
        let (mut wire, body) = (rig.connect(), body.to_string());
        let mut head = client.head("POST", &format!("{BASE}{path}"), true);
        head.extend_from_slice(format!("content-length: {}\r\nexpect: 100-continue\r\n\r\n", body.len()).as_bytes());
        wire.send(&head);
        wire.reply("POST").is(100);
        Self { wire, body }
    }

    fn end(mut self) -> Reply {
        self.wire.send(self.body.as_bytes());
        self.wire.reply("POST")
    }
}

#[test]
fn rights_that_end_during_an_upload_do_not_outlive_it() {
    let rig = Rig::operational();
    rig.admin().put("/keys/k/restrictions/tags/t", "").is(204);
    for user in ["operator", "operator2"] {
        rig.admin().put(&format!("/users/{user}/tags/t"), "").is(204);
    }
    let sign = |user: &str| Upload::begin(&rig, &rig.user(user), "/keys/k/sign", &sign_something());
    let (untouched, untagged) = (sign("operator"), sign("operator"));
    untouched.end().is(200);
    rig.admin().delete("/users/operator/tags/t").is(204);
    untagged.end().is(403).says("tags restriction not met");

    let changed = sign("operator");
    rig.admin().post("/users/operator/passphrase", json!({"passphrase": "another passphrase"})).is(204);
    changed.end().is(401);
    let deleted = sign("operator2");
    rig.admin().delete("/users/operator2").is(204);
    deleted.end().is(401);

    let homeless = sign("ns1~operator");
    let (admin, key) = (rig.user("ns1~admin"), json!({"type": "EC_P256", "mechanisms": ["ECDSA_Signature"]}));
    let creating = Upload::begin(&rig, &admin, "/keys/generate", &key);
    rig.admin().delete("/namespaces/ns1").is(204);
    homeless.end().is(403);
    creating.end().is(403);
    // A namespace of the same name is another one.
    rig.admin().put("/namespaces/ns1", "").is(204);
    assert_eq!(rig.user("ns1~admin").get("/keys").is(200).text(), "[]");
}

/// Reading the current state must not count the same wrong passphrase twice.
#[test]
fn wrong_credentials_are_one_failure_with_conditions_too() {
    let rig = Rig::operational();
    let wrong = rig.login("admin", "not the passphrase").header("if-match", "*");
    wrong.put("/keys/k", ed25519()).is(401);
    wrong.put("/keys/k", ed25519()).is(429);
    rig.advance(Duration::from_secs(1));
    wrong.delete("/keys/k").is(401);
    rig.advance(Duration::from_secs(1));
    rig.admin().get("/keys/k").is(200);
    // Nor does a condition get an answer for a caller without rights.
    rig.user("metrics").header("if-match", "\"x\"").delete("/keys/k").is(403);
    rig.user("ns2~admin").header("if-match", "*").delete("/keys/k").is(412);
}

/// Browsers remember credentials: a page of another site must not use them.
#[test]
fn a_page_of_another_site_changes_nothing() {
    let rig = Rig::operational();
    for site in ["cross-site", "same-site", "anything"] {
        let page = rig.admin().header("sec-fetch-site", site);
        page.delete("/keys/k").is(403);
        page.post("/lock", "").is(403);
        page.put("/users/u", json!({})).is(403);
    }
    rig.admin().header("sec-fetch-site", "same-origin").get("/keys/k").is(200);
    for site in ["same-origin", "none"] {
        rig.admin().header("sec-fetch-site", site).put("/keys/k/label", json!({"label": site})).is(204);
    }
}

#[test]
fn a_change_is_carried_out_even_if_its_client_leaves() {
    let rig = Rig::operational();
    if rig.store_is_real() {
        return;
    }
    rig.admin().get("/keys/k").is(200);
    let (clock, asked) = (rig.sim.clock.clone(), Arc::new(AtomicBool::new(false)));
    let asking = asked.clone();
    rig.sim.store.delay(move || {
        asking.store(true, Ordering::SeqCst);
        clock.sleep(Duration::from_secs(1))
    });
    let mut wire = rig.connect();
    wire.send(&[rig.admin().head("DELETE", &format!("{BASE}/keys/k"), false), b"\r\n".to_vec()].concat());
    while !asked.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    drop(wire);
    // Long enough for the server to notice.
    thread::park_timeout(Duration::from_millis(100));
    let gone = || rig.sim.store.raw_rows().iter().all(|(path, _)| !path.as_bytes().ends_with(b"\0\0\0\0k"));
    assert!(!gone(), "the store did not answer yet");
    for _ in 0..100 {
        rig.advance(Duration::from_secs(1));
        thread::park_timeout(Duration::from_millis(2));
    }
    rig.sim.store.no_delay();
    assert!(gone());
    rig.admin().get("/keys/k").is(404);
}

/// Lost answers leave open whether a write was applied; GET must return what a boot would read.
#[test]
fn what_is_shown_is_what_is_stored_even_if_answers_were_lost() {
    let mut rig = Rig::operational();
    let shown = |rig: &Rig| {
        let admin = |path: &str| rig.admin().get(path);
        let keys: Vec<_> = (0..8).map(|n| admin(&format!("/keys/k{n}"))).map(|r| (r.status, r.body)).collect();
        let lists = ["/keys", "/users", "/namespaces", "/users/operator/tags"].map(|path| admin(path).is(200).body);
        (keys, lists)
    };
    let mut unsure = 0;
    for n in 0..8 {
        let key = format!("/keys/k{n}");
        for step in 0..6 {
            rig.sim.store.lose_answers(1);
            let reply = match step {
                0 => rig.admin().put(&key, ed25519()),
                1 => rig.admin().put(&format!("{key}/label"), json!({"label": "l"})),
                2 => rig.admin().put(&format!("{key}/restrictions/tags/t{n}"), ""),
                3 => rig.admin().put(&format!("/users/operator/tags/t{n}"), ""),
                4 => rig.admin().put(&format!("/namespaces/n{n}"), ""),
                _ if n % 2 == 0 => rig.admin().delete(&key),
                _ => rig.admin().put(&format!("{key}/label"), json!({"label": ""})),
            };
            rig.sim.store.lose_answers(0);
            assert!([204, 304, 404, 503].contains(&reply.status), "{reply}");
            unsure += usize::from(reply.status == 503);
        }
    }
    // On a shared store what was not applied is sent again, so few outcomes remain unknown.
    let expected = if rig.sim.store.is_shared() { 0..20 } else { 5..40 };
    assert!(expected.contains(&unsure), "some answers were lost for good: {unsure}");
    let before = shown(&rig);
    rig.reboot();
    rig.unlock().is(204);
    assert_eq!(shown(&rig), before);
}

#[test]
fn a_deleted_namespace_is_swept_later_if_the_store_becomes_unreachable() {
    let rig = Rig::operational();
    if rig.store_is_real() {
        return;
    }
    let (ns1, admin) = (rig.user("ns1~admin"), rig.admin());
    (0..100).for_each(|n| _ = ns1.put(&format!("/keys/k{n}"), ed25519()).is(204));
    let rows = || {
        let of_namespaces = |(path, _): &(casemate_core::store::Path, Vec<u8>)| {
            matches!(path.as_bytes().get(5), Some(3..=5)) && path.as_bytes().get(6..10) != Some(&[0; 4])
        };
        rig.sim.store.raw_rows().into_iter().filter(of_namespaces).count()
    };
    assert_eq!(rows(), 102, "101 keys and a certificate");
    admin.get("/keys").is(200);
    // Unreachable after the first transaction of the sweep.
    let (store, commits) = (rig.sim.store.clone(), rig.sim.store.commits());
    rig.sim.store.delay(move || {
        if store.commits() >= commits + 2 {
            store.fail(true);
        }
        Box::pin(std::future::ready(()))
    });
    let reply = admin.delete("/namespaces/ns1");
    assert!([204, 503].contains(&reply.status), "{reply}");
    rig.sim.store.no_delay();
    rig.sim.store.fail(false);
    let left = rows();
    assert!(left > 0 && left < 102, "{left}");
    ns1.get("/keys").is(403);
    admin.put("/namespaces/ns1", "").is(204);
    assert_eq!(ns1.get("/keys").is(200).text(), "[]");

    let mut house = pin!(rig.hsm.clone().keep_house());
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(house.as_mut().poll(&mut context), Poll::Pending);
    rig.advance(Duration::from_millis(COUNTER_FLUSH_MS));
    assert_eq!(house.as_mut().poll(&mut context), Poll::Pending);
    assert_eq!(rows(), 0);
}
