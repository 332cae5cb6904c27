//! Credentials: how they are parsed, and the effect of a wrong guess.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::rig::{Client, Rig, UNLOCK, passphrase_of, sign_something};
use crate::wire::Reply;

const ASK: &str = "Basic realm=\"NetHSM\"";
const INVALID: &str = "Basic realm=\"invalid authorization\"";

#[track_caller]
fn refused(reply: Reply, challenge: &str) {
    let reply = reply.is(401).empty();
    assert_eq!(reply.header("www-authenticate"), Some(challenge), "{reply}");
    assert_eq!(reply.header("content-type"), None, "{reply}");
}

fn with<'a>(rig: &'a Rig, authorization: &str) -> Client<'a> {
    rig.anonymous().header("authorization", authorization)
}

#[test]
fn missing_credentials_are_requested_and_wrong_ones_are_called_invalid() {
    let rig = Rig::operational();
    refused(rig.anonymous().get("/keys"), ASK);
    refused(rig.login("admin", "not the passphrase").get("/keys"), INVALID);
    refused(rig.login("nobody", "not the passphrase").get("/keys"), INVALID);
}

/// Case 23, 24.
#[test]
fn a_failed_login_blocks_that_user_from_that_address_for_a_second() {
    let rig = Rig::operational();
    // Correct credentials: even they do not help within the second.
    rig.admin().get("/keys").is(200);
    rig.login("admin", "not the passphrase").get("/keys").case(23, 401);
    rig.admin().get("/keys").case(23, 429).says("Too many requests");
    rig.admin().from("127.0.0.2").get("/keys").case(24, 200);
    rig.operator().get("/keys").is(200);
    rig.advance(Duration::from_millis(999));
    rig.admin().get("/keys").is(429);
    rig.advance(Duration::from_millis(1));
    rig.admin().get("/keys").is(200);
    // Unknown names are limited in the same way.
    rig.login("nobody", "not the passphrase").get("/keys").is(401);
    rig.login("nobody", "not the passphrase").get("/keys").is(429);
}

/// Case 25.
#[test]
fn credentials_that_cannot_be_read_are_refused_and_not_counted() {
    let rig = Rig::operational();
    let good = BASE64_STANDARD.encode(format!("admin:{}", passphrase_of("admin")));
    for _ in 0..2 {
        for broken in ["Basic %%%", "Basic YWRtaW4", "Basic", "Basic ", "Bearer abc", "Basic YWRtaW4="] {
            refused(with(&rig, broken).get("/keys"), INVALID);
        }
        // The scheme must be spelled exactly so.
        refused(with(&rig, &format!("basic {good}")).get("/keys"), INVALID);
        refused(with(&rig, &format!("Basic  {good}")).get("/keys"), INVALID);
        refused(with(&rig, &format!("Basic {}", good.trim_end_matches('='))).get("/keys"), INVALID);
        for name in ["", "_admin", "a b", "ns1~", "~admin", "ns1~a~b", "ü"] {
            refused(rig.login(name, "not the passphrase").get("/keys"), INVALID);
        }
    }
    with(&rig, &format!("Basic {good}")).get("/keys").is(200);
}

#[test]
fn a_passphrase_may_hold_colons_and_any_bytes() {
    let rig = Rig::operational();
    for (user, passphrase) in [("colon", "a:b:c:d:e:f:"), ("umlaut", "pässwörter"), ("nul", "nul\0nul\0nul\0")] {
        let body = json!({"realName": "", "role": "Operator", "passphrase": passphrase});
        rig.admin().put(&format!("/users/{user}"), body).is(201);
        rig.login(user, passphrase).get("/keys").is(200);
    }
    // The same characters in Latin-1 are different bytes.
    let latin1: Vec<u8> = "umlaut:pässwörter".chars().map(|c| c as u8).collect();
    refused(with(&rig, &format!("Basic {}", BASE64_STANDARD.encode(latin1))).get("/keys"), INVALID);
}

#[test]
fn credentials_are_ignored_where_none_are_needed() {
    let rig = Rig::operational();
    for path in ["/info", "/health/state", "/health/ready"] {
        rig.login("admin", "not the passphrase").get(path).is(200);
        with(&rig, "Basic %%%").get(path).is(200);
    }
    let rig = Rig::locked();
    rig.login("admin", "not the passphrase").get("/health/diagnose").is(200);
}

/// Cases 61 to 65, 72, 75, 76, 78, 105.
#[test]
fn roles_do_not_include_each_other() {
    let rig = Rig::operational();
    rig.operator().delete("/users/operator2").case(61, 403).empty();
    rig.operator().get("/users/operator2").case(62, 403).empty();
    rig.operator().get("/users/operator").case(62, 200);
    for user in ["metrics", "backup", "ns1~metrics"] {
        rig.user(user).get(&format!("/users/{user}")).case(63, 403).empty();
    }
    rig.user("metrics").post("/users/metrics/passphrase", json!({"passphrase": "0123456789"})).case(64, 403).empty();
    rig.admin().post("/users/ns1~operator/passphrase", json!({"passphrase": "0123456789"})).case(65, 403).empty();
    rig.user("ns1~admin").get("/namespaces").case(72, 403).empty();
    rig.user("ns1~admin").get("/config/unattended-boot").case(75, 403).empty();
    rig.admin().get("/metrics").case(76, 403).empty();
    rig.user("ns1~metrics").get("/metrics").case(76, 200);
    rig.admin().post("/random", json!({"length": 1})).case(78, 403).empty();
    rig.user("ns1~operator").post("/random", json!({"length": 1})).case(78, 200);
    rig.admin().post("/keys/k/sign", sign_something()).case(105, 403).empty();
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
}

/// Case 51.
#[test]
fn a_user_of_a_missing_namespace_is_authenticated_but_has_no_rights() {
    let rig = Rig::operational();
    let ghost = rig.user("ghost~admin");
    ghost.get("/keys").case(51, 403).empty();
    ghost.get("/users/ghost~admin").is(403);
    ghost.put("/users/ghost~new", json!({})).is(403);
    refused(rig.login("ghost~admin", "not the passphrase").get("/keys"), INVALID);
    rig.advance(Duration::from_secs(1));
    rig.admin().put("/namespaces/ghost", "").is(204);
    ghost.get("/keys").case(51, 200);
    rig.user("ghost~metrics").get("/metrics").is(200);
}

#[test]
fn a_changed_passphrase_or_a_deleted_user_counts_at_the_next_request() {
    let rig = Rig::operational();
    rig.operator().get("/keys").is(200);
    // Case 64.
    rig.operator().post("/users/operator/passphrase", json!({"passphrase": "another passphrase"})).case(64, 204);
    refused(rig.operator().get("/keys"), INVALID);
    rig.advance(Duration::from_secs(1));
    rig.login("operator", "another passphrase").get("/keys").is(200);
    rig.admin().delete("/users/operator").is(204);
    refused(rig.login("operator", "another passphrase").get("/keys"), INVALID);
    rig.advance(Duration::from_secs(1));
    // The name is free again, and a new user of that name is a different one.
    let body = json!({"realName": "", "role": "Metrics", "passphrase": "yet another passphrase"});
    rig.admin().put("/users/operator", body).is(201);
    refused(rig.login("operator", "another passphrase").get("/metrics"), INVALID);
    rig.advance(Duration::from_secs(1));
    rig.login("operator", "yet another passphrase").get("/metrics").is(200);
}

#[test]
fn a_wrong_current_passphrase_blocks_the_next_for_a_second() {
    let rig = Rig::operational();
    let change = |path: &str, current: &str| {
        rig.admin().put(path, json!({"newPassphrase": "the next passphrase", "currentPassphrase": current}))
    };
    for (path, right) in [("/config/unlock-passphrase", UNLOCK), ("/config/backup-passphrase", "")] {
        change(path, "not the passphrase").is(403);
        change(path, right).is(429).says("Too many requests");
        rig.advance(Duration::from_millis(999));
        change(path, right).is(429);
        rig.advance(Duration::from_millis(1));
        change(path, right).is(204);
        // After a correct one, the next may follow at once.
        change(path, "the next passphrase").is(204);
    }
}
