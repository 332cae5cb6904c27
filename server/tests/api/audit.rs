//! The audit log: what is recorded, what is not, and who may read it.

use std::path::PathBuf;
use std::time::Duration;

use casemate_api::State;
use casemate_core::Hsm;
use casemate_server::http::endpoint::{Intent, Spec};
use casemate_server::http::endpoints::table;
use casemate_server::tool::audit::verify;
use pollster::block_on;
use serde_json::{Value, json};

use crate::rig::{Content, Rig, UNLOCK, USERS, ed25519, passphrase_of, sign_something};

/// Every line of the log, read directly, as the API is not available in every state.
fn exported(hsm: &Hsm) -> String {
    block_on(async {
        let mut export = hsm.audit.export(None, None).await.unwrap();
        let mut text = String::new();
        while let Some(lines) = hsm.audit.page(&mut export).await.unwrap() {
            text.push_str(&lines);
        }
        text
    })
}

fn parsed(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The records of the log after the number `after`.
fn records(hsm: &Hsm, after: u64) -> Vec<Value> {
    let lines = parsed(&exported(hsm)).into_iter();
    lines.filter(|line| line["sequence"].as_u64().is_some_and(|sequence| sequence > after)).collect()
}

fn last(hsm: &Hsm) -> u64 {
    records(hsm, 0).last().unwrap()["sequence"].as_u64().unwrap()
}

/// Checks an export as an auditor would.
#[track_caller]
fn verified(text: &str, key: Option<&str>) -> String {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let file = |what: &str| -> PathBuf {
        std::env::temp_dir().join(format!("casemate-audit-{}-{number}-{what}", std::process::id()))
    };
    let (log, pem) = (file("log"), file("key"));
    std::fs::write(&log, text).unwrap();
    std::fs::write(&pem, key.unwrap_or_default()).unwrap();
    let mut out = Vec::new();
    let result = verify(&log, key.map(|_| pem.as_path()), &mut out);
    std::fs::remove_file(&log).unwrap();
    std::fs::remove_file(&pem).unwrap();
    result.unwrap_or_else(|fault| panic!("{}\n{text}", fault.sentence));
    String::from_utf8(out).unwrap()
}

/// A request that succeeds at this endpoint, from a caller who is allowed to make it.
fn good(spec: &Spec) -> (Rig, String, Content, Option<&'static str>) {
    let path = spec.path.replace("{key}", "k").replace("{user}", "operator").replace("{tag}", "t");
    let path = path.replace("{namespace}", "ns3").replace("{member}", "1a");
    let user = json!({"realName": "x", "role": "Operator", "passphrase": passphrase_of("x")});
    let body: Content = match (spec.method.as_str(), spec.path) {
        ("POST", "/provision") => json!({"unlockPassphrase": UNLOCK, "adminPassphrase": passphrase_of("admin"),
            "systemTime": crate::rig::SYSTEM_TIME})
        .into(),
        ("POST", "/unlock") => json!({"passphrase": UNLOCK}).into(),
        ("POST", "/keys") => ed25519().into(),
        ("PUT", "/keys/{key}") => ed25519().into(),
        ("POST", "/keys/generate") => {
            json!({"mechanisms": ["EdDSA_Signature"], "type": "Curve25519", "id": "new"}).into()
        }
        ("PUT", "/keys/{key}/cert") => "another certificate".into(),
        ("PUT", "/keys/{key}/label") => json!({"label": "a label"}).into(),
        ("POST", "/keys/{key}/move") => json!({"newId": "k2"}).into(),
        ("POST", "/users") | ("PUT", "/users/{user}") => user.into(),
        ("POST", "/users/{user}") => {
            return (Rig::operational(), "/users/ghost~".into(), user.into(), None);
        }
        ("POST", "/users/{user}/passphrase") => json!({"passphrase": "another passphrase"}).into(),
        ("PUT", "/config/unlock-passphrase") => {
            json!({"newPassphrase": "another passphrase", "currentPassphrase": UNLOCK}).into()
        }
        ("PUT", "/config/backup-passphrase") => {
            json!({"newPassphrase": "another passphrase", "currentPassphrase": ""}).into()
        }
        ("POST", "/cluster/members") => {
            return (crate::cluster::founder(), path, crate::cluster::serving().into(), None);
        }
        ("PUT", "/cluster/members/{member}") => json!({"urls": ["https://192.0.2.2:2380"]}).into(),
        ("POST", "/cluster/members/{member}/promote") => "".into(),
        ("POST", "/cluster/join") => {
            let founder = crate::cluster::founder();
            return (Rig::beside(&founder), path, crate::cluster::join_of(&founder).into(), None);
        }
        ("POST", "/system/restore") => {
            let form = Some("multipart/form-data; boundary=b");
            return (Rig::operational(), path, "no form".into(), form);
        }
        ("PUT", "/config/tls/cert.pem" | "/config/tls/cluster-ca.pem") => "no certificate".into(),
        ("POST", "/config/tls/generate") => json!({"type": "EC_P256"}).into(),
        ("PUT", "/config/network") => {
            json!({"ipAddress": "127.0.0.1", "netmask": "255.0.0.0", "gateway": "0.0.0.0"}).into()
        }
        ("PUT", "/config/logging") => json!({"ipAddress": "0.0.0.0", "port": 514, "logLevel": "info"}).into(),
        ("PUT", "/config/ntp") => json!({"ntpIP": "192.0.2.1"}).into(),
        ("PUT", "/config/time") => json!({"time": crate::rig::SYSTEM_TIME}).into(),
        ("POST", path) if path.ends_with("update") => "no image".into(),
        ("PUT", "/config/without-majority") => json!({"mode": "degraded"}).into(),
        ("PUT", "/config/unattended-boot") => json!({"status": "on"}).into(),
        ("DELETE", "/keys/{key}/label") => {
            let rig = Rig::operational();
            rig.admin().put("/keys/k/label", json!({"label": "a label"})).is(204);
            return (rig, "/keys/k/label".into(), "".into(), None);
        }
        ("DELETE", "/namespaces/{namespace}") => {
            return (Rig::operational(), "/namespaces/ns2".into(), "".into(), None);
        }
        ("PUT", "/namespaces/{namespace}/quota") => {
            return (Rig::operational(), "/namespaces/ns2/quota".into(), json!({"maxKeys": 9}).into(), None);
        }
        ("DELETE", _) => "".into(),
        ("PUT", path) if path.ends_with("/{tag}") || path == "/namespaces/{namespace}" => "".into(),
        ("POST", "/lock" | "/system/backup" | "/system/reboot" | "/system/shutdown" | "/system/factory-reset") => {
            "".into()
        }
        ("POST", "/cluster/force-new") => return (Rig::failed(), path, "".into(), None),
        (method, path) => panic!("say here what a good request for {method} {path} is"),
    };
    let media = match spec.path {
        "/keys/{key}/cert" => Some("application/octet-stream"),
        path if path.ends_with(".pem") => Some("application/x-pem-file"),
        _ => None,
    };
    let rig = match spec.path {
        "/provision" => Rig::unprovisioned(),
        "/unlock" => Rig::locked(),
        _ => Rig::operational(),
    };
    (rig, path, body, media)
}

/// Whether a change is committed in the shared store, and so has a revision.
fn commits(spec: &Spec, status: u16) -> bool {
    let local = ["/config/", "/system/", "/cluster", "/unlock", "/lock"];
    let shared = ["/config/backup-passphrase", "/config/tls/cluster-ca.pem", "/config/without-majority"];
    let is_local = local.iter().any(|part| spec.path.starts_with(part)) && !shared.contains(&spec.path);
    status < 300 && !is_local
}

#[test]
fn every_change_leaves_its_intent_and_its_outcome() {
    let mut seen = 0;
    for row in table().iter().filter(|row| row.spec.changes() && row.spec.intent != Intent::Never) {
        let spec = &row.spec;
        let endpoint = format!("{} {}", spec.method, spec.path);
        let (rig, path, body, media) = good(spec);
        let before = last(&rig.hsm);
        let by_admin = rig.hsm.state() == State::Operational;
        let who = if spec.path == "/system/backup" { "backup" } else { "admin" };
        let client = match rig.hsm.state() {
            State::Operational => rig.user(who),
            State::Failed => rig.login("unlock", UNLOCK),
            State::Unprovisioned | State::Locked => rig.anonymous(),
        };
        let client = media.map_or(client.clone(), |media| client.content_type(media));
        let reply = client.send(spec.method.as_str(), &path, body);
        assert!(reply.status < 500, "{endpoint}: {reply}");
        let found = records(&rig.hsm, before);
        let of = |kind: &str| found.iter().filter(|record| record["kind"] == kind).cloned().collect::<Vec<_>>();
        let (intents, outcomes) = (of("intent"), of("outcome"));
        assert_eq!(outcomes.len(), 1, "{endpoint}: {found:?}");
        assert_eq!(of("refusal").len(), 0, "{endpoint}: {found:?}");
        match spec.intent {
            Intent::Proven => {
                // It is recorded before it takes effect, without a caller.
                let state = format!("{:?}", rig.hsm.state());
                assert_eq!((intents.len(), found[0]["state"].as_str()), (0, Some(&*state)), "{endpoint}");
            }
            _ => {
                assert_eq!(intents.len(), 1, "{endpoint}: {found:?}");
                assert_eq!(found[0], intents[0], "{endpoint}: the intent comes first");
                assert_eq!(outcomes[0]["of"], intents[0]["sequence"], "{endpoint}");
            }
        }
        for record in intents.iter().chain(&outcomes) {
            assert_eq!(record["endpoint"], endpoint.as_str());
            assert_eq!(record["address"], "127.0.0.1", "{endpoint}");
            assert_eq!(record["user"].as_str(), by_admin.then_some(who), "{endpoint}");
            let target = (!spec.ids.is_empty()).then_some(path.as_str());
            assert_eq!(record["target"].as_str(), target, "{endpoint}");
        }
        assert_eq!(outcomes[0]["status"], reply.status, "{endpoint}: {reply}");
        assert_eq!(outcomes[0]["detail"].as_str(), reply.header("location"), "{endpoint}");
        assert_eq!(outcomes[0]["revision"].is_u64(), commits(spec, reply.status), "{endpoint}: {}", outcomes[0]);
        verified(&exported(&rig.hsm), None);
        seen += 1;
    }
    assert!(seen >= 25, "{seen}");
}

#[test]
fn refusals_are_recorded_with_what_is_known_of_the_caller() {
    let rig = Rig::operational();
    let before = last(&rig.hsm);
    rig.admin().put("/keys/k/restrictions/tags/t", "").is(204);
    rig.anonymous().get("/users").is(401);
    rig.login("admin", "not their passphrase").delete("/keys/k").is(401);
    rig.login("admin", &passphrase_of("admin")).delete("/keys/k").is(429);
    rig.operator().delete("/keys/k").is(403);
    rig.operator().post("/keys/k/sign", sign_something()).is(403);
    rig.user("ns1~admin").get("/audit").is(403);
    rig.anonymous().post("/unlock", json!({"passphrase": UNLOCK})).is(412);
    rig.user("ns1~admin").delete("/keys/missing").is(404);
    rig.user("ns1~admin").put("/keys/new", json!({"no": "key"})).is(400);
    let found = records(&rig.hsm, before);
    let refusals: Vec<_> = found.iter().filter(|record| record["kind"] == "refusal").collect();
    let said: Vec<_> = refusals
        .iter()
        .map(|record| {
            let text = |name: &str| record[name].as_str().unwrap_or("-").to_owned();
            (text("user"), text("endpoint"), text("target"), text("reason"), record["status"].as_u64().unwrap())
        })
        .collect();
    let expected = [
        ("-", "GET /users", "-", "unauthenticated", 401),
        ("-", "DELETE /keys/{key}", "/keys/k", "unauthenticated", 401),
        ("-", "DELETE /keys/{key}", "/keys/k", "too-many", 429),
        ("operator", "DELETE /keys/{key}", "/keys/k", "forbidden", 403),
        ("operator", "POST /keys/{key}/sign", "/keys/k/sign", "forbidden", 403),
        ("ns1~admin", "GET /audit", "-", "forbidden", 403),
        ("-", "POST /unlock", "-", "precondition", 412),
        ("ns1~admin", "DELETE /keys/{key}", "/keys/missing", "missing", 404),
        ("ns1~admin", "PUT /keys/{key}", "/keys/new", "invalid", 400),
    ];
    let expected = expected.map(|(user, endpoint, target, reason, status)| {
        (user.to_owned(), endpoint.to_owned(), target.to_owned(), reason.to_owned(), status)
    });
    assert_eq!(said, expected);
}

#[test]
fn attempts_to_unlock_are_recorded_as_refusals_and_cannot_fill_the_log() {
    let rig = Rig::locked();
    let before = last(&rig.hsm);
    rig.anonymous().post("/unlock", json!({"passphrase": "not the passphrase"})).is(403);
    for _ in 0..100 {
        rig.unlock().is(429);
    }
    let found = records(&rig.hsm, before);
    let of = |kind: &str| found.iter().filter(|record| record["kind"] == kind).collect::<Vec<_>>();
    assert_eq!((of("intent").len(), of("refusal").len(), of("refusals").len()), (0, 10, 1), "{found:?}");
    assert_eq!((&of("refusals")[0]["count"], &of("refusals")[0]["reason"]), (&91.into(), &"too-many".into()));
    assert_eq!(of("refusal")[0]["status"], 403);
    rig.advance(Duration::from_secs(1));
    rig.unlock().is(204);
    let kinds: Vec<_> = records(&rig.hsm, before + 11).iter().map(|record| record["kind"].clone()).collect();
    assert_eq!(kinds, ["state", "outcome"]);
}

#[test]
fn reading_and_the_use_of_keys_leave_no_record() {
    let rig = Rig::operational();
    let before = last(&rig.hsm);
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    rig.operator().post("/random", json!({"length": 8})).is(200);
    rig.operator().post("/keys/k/csr.pem", json!({"commonName": "x"})).is(200);
    rig.admin().get("/keys").is(200);
    rig.admin().get("/audit").is(200);
    rig.admin().get("/users/nobody").is(404);
    assert_eq!(records(&rig.hsm, before), Vec::<Value>::new());
}

#[test]
fn ranges_are_exported_and_verified_and_bad_ones_are_refused() {
    let rig = Rig::operational();
    let admin = rig.admin();
    for i in 0..10 {
        admin.put(&format!("/keys/r{i}"), ed25519()).is(204);
    }
    let reply = admin.get("/audit").is(200);
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    let whole = String::from_utf8(reply.body.clone()).unwrap();
    let key = String::from_utf8(admin.get("/audit/key.pem").is(200).body.clone()).unwrap();
    assert!(key.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{key}");
    let said = verified(&whole, Some(&key));
    assert!(said.contains("Records 1 to "), "{said}");
    let last = last(&rig.hsm);
    let (from, to) = (last - 9, last - 5);
    let range = admin.get(&format!("/audit?from={from}&to={to}")).is(200);
    let said = verified(std::str::from_utf8(&range.body).unwrap(), Some(&key));
    assert!(said.contains(&format!("Records {from} to {to} ")), "{said}");
    let held = format!("The log holds the records 1 to {last}.");
    for (query, sentence) in [
        ("from=0", held.as_str()),
        ("to=1000000", &held),
        ("from=18446744073709551615", &held),
        ("from=9&to=8", "from must not be greater than to."),
        ("from=x", "from must be the number of a record."),
        ("to=-1", "to must be the number of a record."),
        ("to=%2b1", "to must be the number of a record."),
        ("to=", "to must be the number of a record."),
    ] {
        admin.get(&format!("/audit?{query}")).is(400).says(sentence);
    }
}

#[test]
fn a_long_log_is_streamed_whole() {
    let rig = Rig::operational();
    let act = || casemate_core::audit::Act {
        user: None,
        address: [10, 0, 0, 1].into(),
        endpoint: "POST /keys".into(),
        target: String::new(),
    };
    let done = casemate_core::audit::ActOutcome { status: 201, ..Default::default() };
    (0..2500).for_each(|_| rig.hsm.audit.outcome(&act(), &done));
    let reply = rig.admin().get("/audit").is(200);
    let text = std::str::from_utf8(&reply.body).unwrap();
    assert!(text.lines().count() > 2500);
    verified(text, None);
}

#[test]
fn only_administrators_without_a_namespace_read_the_log() {
    let rig = Rig::operational();
    for (user, _) in USERS {
        rig.user(user).get("/audit").is(403).empty();
        rig.user(user).get("/audit/key.pem").is(403).empty();
    }
    rig.anonymous().get("/audit").is(401);
    rig.admin().get("/audit").is(200);
}

#[test]
fn no_secret_reaches_the_log() {
    let rig = Rig::unprovisioned();
    rig.provision().is(204);
    let admin = rig.admin();
    let wrong = "a wrong passphrase";
    rig.login("admin", wrong).get("/users").is(401);
    // Anyone may type a passphrase where a name belongs.
    rig.login("my passphrase as a name", "x").get("/users").is(401);
    rig.advance(Duration::from_secs(1));
    let user = json!({"realName": "a real name", "role": "Operator", "passphrase": "an operator's passphrase"});
    admin.put("/users/operator", user).is(201);
    admin.post("/users/operator/passphrase", json!({"passphrase": "another passphrase"})).is(204);
    admin.put("/keys/k", ed25519()).is(204);
    let body = json!({"newPassphrase": "a new unlock passphrase", "currentPassphrase": UNLOCK});
    admin.put("/config/unlock-passphrase", body).is(204);
    admin.post("/lock", "").is(204);
    rig.anonymous().post("/unlock", json!({"passphrase": wrong})).is(403);
    let text = exported(&rig.hsm);
    assert!(
        text.contains("/users/operator/passphrase") && text.contains("POST /unlock"),
        "the search finds what is there"
    );
    let admins = passphrase_of("admin");
    for secret in [
        UNLOCK,
        &admins,
        wrong,
        "my passphrase as a name",
        "an operator's passphrase",
        "another passphrase",
        "a new unlock passphrase",
        "a real name",
        "nWGxne",
        "Basic",
    ] {
        assert!(!text.contains(secret), "{secret}\n{text}");
    }
}

#[test]
fn without_a_log_nothing_is_changed_but_power_can_be_given_up() {
    let rig = Rig::operational();
    let before = last(&rig.hsm);
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    rig.sim.local.fail(true);
    rig.admin()
        .put("/keys/new", ed25519())
        .is(503)
        .says("The audit log cannot be written. Check the log and the disk.");
    rig.admin().delete("/keys/k").is(503);
    rig.admin().get("/keys/new").is(404);
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    rig.admin().post("/lock", "").is(204);
    rig.sim.local.fail(false);
    let found = records(&rig.hsm, before);
    let kinds: Vec<_> = found.iter().map(|record| record["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["state", "outcome"], "{found:?}");
    assert_eq!((&found[1]["endpoint"], found[1]["of"].as_u64()), (&"POST /lock".into(), None));
}

#[test]
fn boots_and_states_are_recorded_across_a_power_cycle() {
    let mut rig = Rig::operational();
    let before = last(&rig.hsm);
    rig.admin().post("/lock", "").is(204);
    rig.unlock().is(204);
    block_on(rig.hsm.stop());
    rig.reboot();
    let said: Vec<_> = records(&rig.hsm, before)
        .iter()
        .map(|record| format!("{} {}", record["kind"].as_str().unwrap(), record["state"].as_str().unwrap_or("-")))
        .collect();
    let expected = ["intent -", "state Locked", "outcome -", "state Operational", "outcome -", "stop -", "boot Locked"];
    assert_eq!(said, expected);
    verified(&exported(&rig.hsm), None);
}
