//! What is available in which state, and the transitions between them.

use std::time::Duration;

use casemate_api::State;
use casemate_core::store::Store;
use pollster::block_on;
use serde_json::{Value, json};

use casemate_server::http::access::FailedState;

use crate::rig::{Rig, SYSTEM_TIME, UNLOCK, passphrase_of};

const NOT_AVAILABLE: &str = "Service not available";

/// Cases 1 to 4, 13, 17.
#[test]
fn the_state_is_checked_before_the_credentials() {
    let rig = Rig::unprovisioned();
    rig.anonymous().get("/system/info").case(1, 412).says(NOT_AVAILABLE);
    rig.login("admin", "whatever it is").get("/keys").is(412).says(NOT_AVAILABLE);
    let rig = Rig::locked();
    rig.anonymous().get("/health/ready").case(2, 412).says(NOT_AVAILABLE);
    rig.anonymous().post("/system/reboot", "").case(17, 412).says(NOT_AVAILABLE);
    let rig = Rig::operational();
    rig.anonymous().get("/health/alive").case(3, 412).says(NOT_AVAILABLE);
    rig.provision().case(4, 412).says(NOT_AVAILABLE);
    rig.unlock().case(13, 412).says(NOT_AVAILABLE);
}

/// Cases 15, 16, 18, 21, 22.
#[test]
fn some_endpoints_ask_for_credentials_only_while_operational() {
    let rig = Rig::operational();
    rig.anonymous().post("/system/shutdown", "").case(16, 401).empty();
    rig.anonymous().get("/health/diagnose").case(22, 401).empty();
    rig.anonymous().post("/system/factory-reset", "").is(401);
    assert_eq!((rig.sim.host.shutdowns(), rig.sim.host.erasures()), (0, 0));
    rig.admin().get("/health/diagnose").is(200);
    rig.admin().post("/system/shutdown", "").is(204).empty();
    rig.admin().post("/system/reboot", "").is(204).empty();
    assert_eq!((rig.sim.host.shutdowns(), rig.sim.host.reboots()), (1, 1));

    let rig = Rig::locked();
    let diagnosis = rig.anonymous().get("/health/diagnose").case(21, 200).json();
    assert!(diagnosis["clusterLogs"].is_array(), "{diagnosis}");
    assert_eq!(diagnosis["clusterState"]["running"], false, "{diagnosis}");
    rig.anonymous().post("/system/shutdown", "").case(15, 204).empty();
    assert_eq!(rig.sim.host.shutdowns(), 1);

    let rig = Rig::failed_under(FailedState::Open);
    rig.anonymous().post("/system/reboot", "").is(204).empty();
    if !rig.sim.store.is_shared() {
        rig.anonymous().post("/system/factory-reset", "").case(18, 204).empty();
        assert_eq!((rig.sim.host.erasures(), rig.sim.host.reboots()), (1, 2));
    }
    // Other nodes would go on counting on this one.
    let rig = Rig::failed_under(FailedState::Open);
    rig.sim.store.share(true);
    rig.anonymous().post("/system/factory-reset", "").is(401).empty();
    rig.login("unlock", UNLOCK).post("/system/factory-reset", "").is(204).empty();
    assert_eq!((rig.sim.host.erasures(), rig.sim.host.reboots()), (1, 1));
}

#[test]
fn a_diagnosis_tells_what_is_known_of_the_store_and_details_only_to_an_administrator() {
    let rig = Rig::locked();
    let kind = if rig.store_is_real() { "etcd" } else { "embedded" };
    let store = rig.anonymous().get("/health/diagnose").is(200).json()["store"].clone();
    assert_eq!(store["kind"], kind, "{store}");
    assert!(store.get("trouble").is_none() && store.get("details").is_none(), "{store}");
    let rig = Rig::operational();
    let store = rig.admin().get("/health/diagnose").is(200).json()["store"].clone();
    assert_eq!(store.get("details").is_some(), rig.store_is_real(), "{store}");
    assert_eq!(Rig::sharing().anonymous().get("/health/diagnose").is(200).json()["store"]["kind"], "etcd");

    let rig = Rig::failed();
    rig.advance(Duration::from_secs(7));
    let diagnosis = rig.anonymous().get("/health/diagnose").is(200).json();
    let store = &diagnosis["store"];
    // The store has been away for a minute, and the HSM has been Failed since then.
    assert_eq!(
        (&store["trouble"], &store["troubleS"], &store["failedS"]),
        (&json!("no-answer"), &json!(67), &json!(7))
    );
    let last = diagnosis["clusterLogs"].as_array().unwrap().last().unwrap();
    assert_eq!(last["level"], "error", "{diagnosis}");
    rig.sim.store.fail(false);
    block_on(rig.hsm.probe());
    let store = rig.admin().get("/health/diagnose").is(200).json()["store"].clone();
    assert!(store.get("trouble").is_none() && store.get("failedS").is_none(), "{store}");
}

#[test]
fn nobody_resets_or_reboots_a_failed_hsm_without_the_unlock_passphrase() {
    let rig = Rig::failed();
    for path in ["/system/reboot", "/system/factory-reset"] {
        rig.anonymous().post(path, "").is(401).empty();
        rig.admin().post(path, "").is(401).empty();
        rig.login("unlock", "not the unlock passphrase").post(path, "").is(401).empty();
        rig.login("unlock", UNLOCK).post(path, "").is(429);
        rig.advance(Duration::from_secs(1));
    }
    assert_eq!((rig.sim.host.erasures(), rig.sim.host.reboots()), (0, 0));
    // If the local store is unreachable as well, the caller cannot be verified; with access to the machine no port is
    // needed.
    rig.sim.local.fail(true);
    rig.login("unlock", UNLOCK).post("/system/factory-reset", "").is(503);
    assert_eq!(rig.sim.host.erasures(), 0);
    rig.sim.local.fail(false);
    // A guess without a verdict stays counted.
    rig.advance(Duration::from_secs(1));
    rig.login("unlock", UNLOCK).post("/system/reboot", "").is(204).empty();
    rig.login("unlock", UNLOCK).post("/system/factory-reset", "").is(204).empty();
    assert_eq!((rig.sim.host.erasures(), rig.sim.host.reboots()), (1, 2));
    assert_eq!(rig.anonymous().post("/system/shutdown", "").status, 204);
}

/// It has no unlock passphrase, and nothing to erase.
#[test]
fn an_hsm_that_fails_before_it_was_provisioned_waits_for_its_store() {
    let rig = Rig::unprovisioned();
    rig.sim.store.fail(true);
    pollster::block_on(rig.hsm.probe());
    assert_eq!(rig.hsm.state(), State::Unprovisioned);
    rig.sim.clock.advance(Duration::from_secs(u64::from(casemate_api::limits::STORE_AWAY_S)));
    pollster::block_on(rig.hsm.probe());
    assert_eq!(rig.hsm.state(), State::Failed);
    rig.login("unlock", UNLOCK).post("/system/factory-reset", "").is(401);
    rig.anonymous().post("/system/reboot", "").is(401);
    rig.sim.store.fail(false);
    pollster::block_on(rig.hsm.probe());
    assert_eq!(rig.hsm.state(), State::Unprovisioned);
}

/// Cases 19 and 20.
#[test]
fn while_failed_the_unlock_passphrase_speaks_for_the_administrators() {
    let force = |rig: &Rig, user: &str, passphrase: &str| rig.login(user, passphrase).post("/cluster/force-new", "");
    let rig = Rig::operational();
    force(&rig, "unlock", UNLOCK).case(19, 412).says(NOT_AVAILABLE);
    let rig = Rig::failed();
    rig.anonymous().post("/cluster/force-new", "").case(20, 401).empty();
    force(&rig, "admin", &passphrase_of("admin")).is(401).empty();
    force(&rig, "admin", UNLOCK).is(401).empty();
    force(&rig, "unlock", "not the unlock passphrase").is(401).empty();
    force(&rig, "unlock", UNLOCK).is(429);
    rig.advance(Duration::from_secs(1));
    // A single node has no cluster to create again.
    let refused = force(&rig, "unlock", UNLOCK).is(400);
    assert!(refused.message().starts_with("cluster error: backend is not an etcd of this node."), "{refused}");
    assert_eq!((rig.sim.host.reboots(), rig.hsm.state()), (0, State::Failed));
}

#[test]
fn guesses_at_the_unlock_passphrase_do_not_gain_by_coming_at_once() {
    let rig = Rig::failed();
    let guess = || rig.login("unlock", "not the unlock passphrase").post("/cluster/force-new", "").status;
    let mut statuses: Vec<u16> = std::thread::scope(|scope| {
        let guesses: Vec<_> = (0..6).map(|_| scope.spawn(guess)).collect();
        guesses.into_iter().map(|guess| guess.join().unwrap()).collect()
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [401, 429, 429, 429, 429, 429]);
}

#[test]
fn a_node_of_its_own_is_its_only_member() {
    let rig = Rig::operational();
    let members = rig.admin().get("/cluster/members").is(200).json();
    assert_eq!(members.as_array().map(Vec::len), Some(1), "{members}");
    assert_eq!((&members[0]["urls"], &members[0]["learner"]), (&json!([]), &json!(false)));
    assert!(u64::from_str_radix(members[0]["id"].as_str().unwrap(), 16).is_ok(), "{members}");
}

#[test]
fn the_health_endpoints_tell_the_state() {
    for (state, alive, ready) in [
        (State::Unprovisioned, 200, 412),
        (State::Locked, 200, 412),
        (State::Operational, 412, 200),
        (State::Failed, 412, 412),
    ] {
        let rig = Rig::in_state(state);
        assert_eq!(rig.anonymous().get("/health/state").is(200).text(), format!("{{\"state\":\"{state:?}\"}}"));
        rig.anonymous().get("/health/alive").is(alive);
        rig.anonymous().get("/health/ready").is(ready);
        rig.anonymous().get("/info").is(200);
    }
}

fn provision_with(member: &str, value: Value) -> Value {
    let mut body =
        json!({"unlockPassphrase": UNLOCK, "adminPassphrase": passphrase_of("admin"), "systemTime": SYSTEM_TIME});
    body[member] = value;
    body
}

/// Cases 5 to 8.
#[test]
fn provisioning_refuses_invalid_requests_and_then_accepts_a_valid_one() {
    let rig = Rig::unprovisioned();
    let try_with = |member, value: Value| rig.anonymous().post("/provision", provision_with(member, value));
    let short = "passphrase adminPassphrase is not >= 10 and <= 200 characters";
    try_with("adminPassphrase", "123456789".into()).case(5, 400).says(short);
    let short = "passphrase unlockPassphrase is not >= 10 and <= 200 characters";
    try_with("unlockPassphrase", "123456789".into()).is(400).says(short);
    try_with("unlockPassphrase", "x".repeat(201).into()).is(400);
    try_with("systemTime", "2020-01-01T00:00:00+01:00".into()).case(6, 400);
    for time in ["2020-01-01", "2020-01-01T00:00:00", "soon", ""] {
        try_with("systemTime", time.into()).is(400);
    }
    try_with("systemTime", Value::Null).is(400);
    try_with("more", "than asked".into()).is(400);
    rig.anonymous().post("/provision", "").is(400).says("Invalid JSON: Blank input data.");
    assert_eq!(rig.hsm.state(), State::Unprovisioned);

    let body = provision_with("systemTime", "2030-01-02T03:04:05.5+00:00".into());
    rig.anonymous().content_type("text/plain").post("/provision", body).case(7, 204).case(8, 204).empty();
    assert_eq!(rig.hsm.state(), State::Operational);
    let reply = rig.admin().get("/users").is(200);
    assert_eq!(reply.text(), r#"[{"user":"admin"}]"#);
    assert_eq!(reply.header("date"), Some("Wed, 02 Jan 2030 03:04:05 GMT"), "the time is the one that was set");
    assert_eq!(rig.admin().get("/users/admin").text(), r#"{"realName":"admin","role":"Administrator"}"#);
    assert_eq!(rig.admin().get("/keys").text(), "[]");
    assert_eq!(rig.admin().get("/namespaces").text(), "[]");
}

/// Passphrases are measured in bytes: 100 characters of two bytes each are just short enough.
#[test]
fn provisioning_takes_passphrases_of_10_and_of_200_bytes() {
    let rig = Rig::unprovisioned();
    let longest = "ü".repeat(100);
    let body = json!({"unlockPassphrase": "0123456789", "adminPassphrase": longest, "systemTime": SYSTEM_TIME});
    rig.anonymous().post("/provision", body).is(204);
    rig.login("admin", &longest).get("/keys").is(200);
}

/// Cases 9 to 12.
#[test]
fn a_failed_attempt_to_unlock_blocks_its_address_for_a_second() {
    let rig = Rig::locked();
    let busy = "Service unavailable: too many requests";
    let wrong = || rig.anonymous().post("/unlock", json!({"passphrase": "not the passphrase"}));
    // Not even JSON: refused, and not counted.
    rig.anonymous().post("/unlock", "{").is(400);
    rig.anonymous().post("/unlock", "").is(400);
    rig.anonymous().post("/unlock", json!({"passphrase": "12345"})).case(9, 400);
    rig.unlock().case(9, 429).says(busy);
    // The syntax is still checked first.
    rig.anonymous().post("/unlock", "{").is(400);

    rig.advance(Duration::from_secs(1));
    wrong().case(10, 403).says("not authenticated");
    wrong().case(11, 429).says(busy);
    rig.unlock().case(12, 429).says(busy);
    rig.advance(Duration::from_millis(999));
    rig.unlock().is(429);

    rig.advance(Duration::from_millis(1));
    rig.anonymous().post("/unlock", json!({"pass": "phrase"})).is(400);
    rig.unlock().is(429).says(busy);
    assert_eq!(rig.hsm.state(), State::Locked);
    rig.unlock_from("127.0.0.2").is(204).empty();
    assert_eq!(rig.hsm.state(), State::Operational);
    rig.admin().get("/keys/k").is(200);
}

/// Case 14.
#[test]
fn only_an_administrator_of_the_root_locks() {
    let rig = Rig::operational();
    for user in ["operator", "metrics", "backup", "ns1~admin", "ns1~operator", "ghost~admin"] {
        rig.user(user).post("/lock", "").case(14, 403).empty();
    }
    assert_eq!(rig.hsm.state(), State::Operational);
    rig.admin().post("/lock", "").is(204).empty();
    assert_eq!(rig.hsm.state(), State::Locked);
    rig.admin().post("/lock", "").is(412);
}

#[test]
fn the_hsm_fails_with_its_store_and_comes_back_with_it() {
    let rig = Rig::failed();
    rig.admin().get("/keys").is(412);
    rig.unlock().is(412);
    rig.sim.store.fail(false);
    pollster::block_on(rig.hsm.probe());
    assert_eq!(rig.hsm.state(), State::Operational);
    rig.admin().get("/keys/k").is(200);
}

#[test]
fn a_briefly_unreachable_store_is_an_error_and_not_a_state() {
    let rig = Rig::operational();
    rig.admin().get("/keys").is(200);
    rig.sim.store.fail(true);
    rig.admin().get("/keys").is(503);
    rig.sim.store.fail(false);
    rig.admin().get("/keys").is(200);
}

/// A caller authenticated as a user while the HSM was Operational has not shown the unlock passphrase, which is
/// required once it is Failed.
#[test]
fn a_user_who_logs_in_while_the_hsm_becomes_failed_cannot_reset_or_reboot_it() {
    for path in ["/system/factory-reset", "/system/reboot"] {
        let rig = Rig::operational();
        // Only the local store is unreachable: users are still found, and the login waits for its slow hash.
        rig.sim.local.fail(true);
        let status = std::thread::scope(|scope| {
            let before = rig.sim.store.gets();
            let asking = scope.spawn(|| rig.operator().post(path, "").status);
            // Their row was read; the hash follows.
            while rig.sim.store.gets() == before {
                std::thread::yield_now();
            }
            rig.sim.clock.advance(Duration::from_secs(u64::from(casemate_api::limits::STORE_AWAY_S)));
            pollster::block_on(rig.hsm.probe());
            assert_eq!(rig.hsm.state(), State::Failed);
            asking.join().unwrap()
        });
        assert_eq!(status, 412, "{path}");
        assert_eq!((rig.sim.host.erasures(), rig.sim.host.reboots()), (0, 0), "{path}");
    }
}
