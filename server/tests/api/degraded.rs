//! `/config/without-majority`, and what a member that reaches no majority serves.

use std::time::Duration;

use casemate_api::limits::{STALE_DEFAULT_S, STORE_AWAY_S};
use casemate_api::{State, sentences};
use casemate_core::runtime::stale::Tolerance;
use casemate_server::http::access::Rule;
use casemate_server::http::endpoint::Spec;
use casemate_server::http::endpoints::table;
use pollster::block_on;
use serde_json::{Value, json};

use crate::rig::{Rig, ed25519, passphrase_of, sign_something};
use crate::wire::Reply;

const PATH: &str = "/config/without-majority";

/// A member that goes on for so many seconds, cut off for `age`.
fn cut_off(max_s: u64, age: Duration) -> Rig {
    let rig = Rig::member();
    rig.admin().put(PATH, json!({"mode": "degraded", "maxStaleSeconds": max_s})).is(204).empty();
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    rig.confirm();
    rig.cut_off(true);
    rig.advance(age - unconfirmed(&rig));
    rig
}

/// The time since the last confirmation.
fn unconfirmed(rig: &Rig) -> Duration {
    rig.hsm.store_report().confirmed.unwrap().0
}

#[track_caller]
fn stale(reply: &Reply, seconds: &str) {
    assert_eq!(reply.header("casemate-stale"), Some(seconds), "{reply}");
}

fn needs_credentials(spec: &Spec) -> bool {
    spec.access.iter().any(|(state, rule)| *state == State::Operational && *rule != Rule::Public)
}

#[test]
fn the_setting_is_strict_until_an_administrator_sets_it() {
    let rig = Rig::operational();
    // A node on the etcd of others refuses it, as the next test shows.
    if rig.store_is_real() {
        return;
    }
    let admin = rig.admin();
    assert_eq!(admin.get(PATH).is(200).json(), json!({"mode": "strict"}));
    admin.put(PATH, json!({"mode": "degraded"})).is(204).empty();
    assert_eq!(admin.get(PATH).is(200).json(), json!({"mode": "degraded", "maxStaleSeconds": STALE_DEFAULT_S}));
    for seconds in [1, 86_400] {
        let setting = json!({"mode": "degraded", "maxStaleSeconds": seconds});
        admin.put(PATH, setting.clone()).is(204);
        assert_eq!(admin.get(PATH).is(200).json(), setting);
    }
    for seconds in [0, 86_401] {
        let refused = admin.put(PATH, json!({"mode": "degraded", "maxStaleSeconds": seconds})).is(400);
        refused.says("maxStaleSeconds must be between 1 and 86400.");
    }
    for bad in [
        json!({}),
        json!({"mode": "lenient"}),
        json!({"mode": "strict", "maxStaleSeconds": 5}),
        json!({"mode": "degraded", "maxStaleSeconds": "5"}),
        json!({"mode": "degraded", "maxStaleSeconds": -5}),
        json!({"mode": "degraded", "seconds": 5}),
    ] {
        admin.put(PATH, bad).is(400);
    }
    assert_eq!(admin.get(PATH).is(200).json()["maxStaleSeconds"], 86_400);
    admin.put(PATH, json!({"mode": "strict"})).is(204);
    assert_eq!(admin.get(PATH).is(200).json(), json!({"mode": "strict"}));
    rig.operator().get(PATH).is(403);
    rig.user("ns1~admin").put(PATH, json!({"mode": "strict"})).is(403);
}

#[test]
fn a_node_that_uses_the_etcd_of_others_does_not_take_it() {
    let rig = Rig::sharing();
    rig.provision().is(204);
    let refused = rig.admin().put(PATH, json!({"mode": "degraded"})).is(412);
    assert!(refused.text().contains("no etcd of its own"), "{refused}");
    rig.admin().put(PATH, json!({"mode": "strict"})).is(204);
}

#[test]
fn these_endpoints_and_no_others_are_served_without_a_majority() {
    let name = |spec: &Spec| format!("{} {}", spec.method, spec.path);
    let served: Vec<_> =
        table().iter().filter(|row| row.spec.tolerance == Tolerance::OwnData).map(|row| name(&row.spec)).collect();
    let wanted = [
        "GET /health/diagnose",
        "GET /metrics",
        "GET /metrics/prometheus",
        // It takes power away, which is what one wants of a node that somebody may have cut off on purpose.
        "POST /lock",
        "POST /random",
        "GET /keys",
        "GET /keys/{key}",
        "GET /keys/{key}/public.pem",
        "POST /keys/{key}/csr.pem",
        "POST /keys/{key}/decrypt",
        "POST /keys/{key}/encrypt",
        "POST /keys/{key}/sign",
        "GET /keys/{key}/cert",
        // The same.
        "POST /system/reboot",
        "POST /system/shutdown",
    ];
    assert_eq!(served, wanted);
}

#[test]
fn a_member_without_a_majority_uses_keys_and_tells_how_old_it_is() {
    let rig = cut_off(60, Duration::from_millis(4_001));
    let (admin, operator) = (rig.admin(), rig.operator());
    stale(&operator.post("/keys/k/sign", sign_something()).is(200), "5");
    // One that goes on without its client.
    let long = "A".repeat(400_000);
    stale(&operator.post("/keys/k/sign", json!({"mode": "EdDSA", "message": long})).is(200), "5");
    stale(&operator.get("/keys/k/public.pem").is(200), "5");
    stale(&operator.get("/keys/k").is(200), "5");
    let keys = operator.get("/keys").is(200);
    assert_eq!(keys.json(), json!([{"id": "k"}]));
    stale(&keys, "5");
    stale(&operator.post("/random", json!({"length": 8})).is(200), "5");
    stale(&operator.get("/keys/missing").is(404), "5");
    let refused = rig.login("operator", "not their passphrase").get("/keys").is(401);
    stale(&refused, "5");

    rig.anonymous().get("/health/ready").is(200);
    assert_eq!(rig.anonymous().get("/health/state").is(200).json()["state"], "Operational");
    let diagnosis = admin.get("/health/diagnose").is(200).json();
    assert_eq!(diagnosis["store"]["staleS"], 4, "{diagnosis}");
    assert!(diagnosis["clusterLogs"].to_string().contains("goes on without a majority"), "{diagnosis}");
    let metrics = |rig: &Rig| {
        casemate_server::observe::prometheus::text(
            &casemate_server::observe::metrics::Metrics::new(Duration::ZERO),
            &rig.hsm,
            Duration::ZERO,
        )
    };
    assert!(metrics(&rig).contains("\ncasemate_stale_seconds 4.001\n"));

    rig.cut_off(false);
    // The watch has not ended. It is confirmed again with the next beats.
    rig.confirm();
    let reply = rig.operator().post("/keys/k/sign", sign_something()).is(200);
    assert_eq!(reply.header("casemate-stale"), None, "{reply}");
    assert!(metrics(&rig).contains("\ncasemate_stale_seconds 0\n"));
    rig.admin().put("/keys/k2", ed25519()).is(204);
}

#[test]
fn everything_else_is_refused_at_once_and_changes_nothing() {
    let rig = cut_off(3_600, Duration::from_secs(70));
    let rows = rig.sim.store.raw_rows();
    let mut refused = 0;
    for spec in table().into_iter().map(|row| row.spec).filter(|spec| needs_credentials(spec)) {
        if spec.tolerance == Tolerance::OwnData {
            continue;
        }
        let path = spec.path.replace("{key}", "k").replace("{user}", "operator").replace("{tag}", "t");
        let path = path.replace("{member}", "1a").replace("{namespace}", "ns1");
        let reply = rig.admin().send(spec.method.as_str(), &path, "{}").is(503).says(sentences::ONLY_USES);
        assert_eq!((reply.header("retry-after"), reply.header("casemate-stale")), (Some("1"), None), "{reply}");
        refused += 1;
    }
    assert!(refused > 50, "{refused}");
    block_on(rig.hsm.probe());
    assert_eq!(rig.hsm.state(), State::Operational);
    assert!(rig.sim.store.raw_rows() == rows);
    // A body is not even read.
    let user = json!({"realName": "", "role": "Operator", "passphrase": passphrase_of("new")});
    rig.admin().put("/users/new", user).is(503).says(sentences::ONLY_USES);
}

#[test]
fn nothing_is_served_after_the_limit() {
    let rig = cut_off(u64::from(STORE_AWAY_S) + 5, Duration::from_secs(u64::from(STORE_AWAY_S) + 4));
    let sign = || rig.operator().post("/keys/k/sign", sign_something());
    block_on(rig.hsm.probe());
    stale(&sign().is(200), "64");
    rig.advance(Duration::from_secs(1));
    let reply = sign().is(503);
    assert_eq!(reply.header("casemate-stale"), None, "{reply}");
    block_on(rig.hsm.probe());
    assert_eq!(rig.hsm.state(), State::Failed);
    sign().is(412);
}

#[test]
fn a_strict_member_serves_nothing_without_a_majority() {
    let rig = Rig::member();
    let sign = || rig.operator().post("/keys/k/sign", sign_something());
    sign().is(200);
    rig.confirm();
    rig.cut_off(true);
    for _ in 0..5 {
        rig.advance(Duration::from_secs(1));
        let refused = sign().is(503);
        assert_eq!(refused.header("casemate-stale"), None, "{refused}");
        assert_ne!(refused.json()["message"], Value::from(sentences::ONLY_USES));
    }
}

#[test]
fn a_member_without_a_majority_can_be_locked() {
    let rig = cut_off(60, Duration::from_secs(10));
    rig.operator().post("/lock", "").is(403);
    rig.admin().post("/lock", "").is(204);
    assert_eq!(rig.hsm.state(), State::Locked);
}
