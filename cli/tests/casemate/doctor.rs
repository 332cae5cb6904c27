//! `doctor`, on HSMs that are well and on all that is not.

use std::net::TcpListener;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use jiff::{SignedDuration, Timestamp};

use crate::harness::{ADMIN, EtcdServer, Hsm, OPERATOR, Ran, run};
use crate::other_servers::{Web, plain};

/// What the doctor found: its JSON, after this exit code.
#[track_caller]
fn found(ran: Ran, code: i32) -> Value {
    assert_eq!(ran.code, code, "{}", ran.err);
    let value: Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!(value["exit"], code);
    if code == 0 {
        assert_eq!(ran.err, "");
    } else {
        let error: Value = serde_json::from_str(&ran.err).unwrap();
        assert!(error["error"]["message"].as_str().unwrap().contains("checks failed"), "{error}");
    }
    value
}

/// Checks and how they ended, in order.
fn ends(value: &Value) -> Vec<(&str, &str)> {
    let text = |value: &'_ Value| -> &str { Box::leak(value.as_str().unwrap().to_owned().into_boxed_str()) };
    value["checks"].as_array().unwrap().iter().map(|check| (text(&check["check"]), text(&check["result"]))).collect()
}

/// How the clock was judged, which must fit what was measured.
#[track_caller]
fn judged_clock(value: &Value) -> &'static str {
    let clock = check(value, "clock");
    let near = clock["data"]["aheadMs"].as_i64().unwrap().abs() <= 5_000;
    let judged = if near { "ok" } else { "warn" };
    assert_eq!(clock["result"], judged, "{clock}");
    judged
}

#[track_caller]
fn check<'a>(value: &'a Value, name: &str) -> &'a Value {
    value["checks"].as_array().unwrap().iter().find(|check| check["check"] == name).expect(name)
}

fn pin(hsm: &Hsm) -> String {
    let value = found(run(&["--host", &hsm.address, "--json", "doctor"], &[], b""), 4);
    check(&value, "certificate")["data"]["fingerprint"].as_str().unwrap().to_owned()
}

#[test]
fn all_is_well_with_an_operational_hsm() {
    let hsm = Hsm::operational();
    let pin = pin(&hsm);
    let pinned = ["--host", &hsm.address, "--pin", &pin, "--user", "admin", "doctor"];
    let secret = [("CASEMATE_PASSPHRASE", ADMIN)];
    let value = found(run(&[&["--json"], &pinned[..]].concat(), &secret, b""), 0);
    let all =
        ["address", "connection", "tls", "certificate", "trust", "api", "state", "login", "version", "store", "clock"];
    let ends = ends(&value);
    assert_eq!(ends.iter().map(|(check, _)| *check).collect::<Vec<_>>(), all);
    // An HSM that took long to be set up is late by so much: only this machine knows how far.
    assert!(ends.iter().all(|(check, result)| *result == "ok" || *check == "clock"), "{ends:?}");
    assert_eq!(value["result"], judged_clock(&value));
    assert_eq!(check(&value, "tls")["data"]["version"], "TLS 1.3");
    assert_eq!(check(&value, "address")["data"]["addresses"], json!(["127.0.0.1"]));
    assert_eq!(check(&value, "login")["data"], json!({ "user": "admin", "role": "Administrator" }));
    let text = run(&pinned, &secret, b"").ok();
    assert_eq!(text.lines().count(), all.len());
    let well = format!("ok    {} ", hsm.address);
    assert!(text.lines().all(|line| line.starts_with(&well) || line.contains(" clock: ")), "{text}");
    assert!(!text.contains(ADMIN), "{text}");
}

#[test]
fn an_untrusted_certificate_ends_the_checks_and_tells_how_to_pin_it() {
    let hsm = Hsm::start();
    let pin = pin(&hsm);
    let ran = run(&["--host", &hsm.address, "doctor"], &[], b"");
    assert_eq!((ran.code, ran.err.as_str()), (4, "casemate: 1 of 5 checks failed.\n"));
    let text = String::from_utf8(ran.out).unwrap();
    let line = text.lines().last().unwrap();
    assert!(line.starts_with("fail  ") && line.contains(&format!("--pin {pin}")), "{text}");
    let wrong = "00".repeat(32);
    let value = found(run(&["--host", &hsm.address, "--pin", &wrong, "--json", "doctor"], &[], b""), 4);
    assert!(check(&value, "trust")["seen"].as_str().unwrap().contains("not one of the pinned certificates"));
}

#[test]
fn each_state_has_a_next_step() {
    let hsm = Hsm::start();
    let value = found(hsm.nobody(&["--json", "doctor"]), 8);
    assert!(check(&value, "state")["next"].as_str().unwrap().contains("casemate provision"));
    assert_eq!(check(&value, "trust")["result"], "warn");
    assert_eq!(check(&value, "login")["result"], "skip");

    let hsm = Hsm::operational();
    hsm.admin(&["lock"]).ok();
    let value = found(hsm.admin(&["--json", "doctor"]), 8);
    assert_eq!(check(&value, "state")["data"]["state"], "Locked");
    assert!(check(&value, "state")["next"].as_str().unwrap().contains("casemate unlock"));
    assert_eq!(check(&value, "login")["seen"], "only an Operational HSM accepts logins");
}

#[test]
fn a_wrong_passphrase_fails_and_a_missing_one_is_not_asked_for() {
    let hsm = Hsm::operational();
    let value = found(hsm.with(("admin", "not the passphrase"), &["--json", "doctor"], b""), 5);
    assert_eq!(check(&value, "login")["result"], "fail");
    let host = ["--host", &hsm.address, "--insecure", "--json"];
    let value = found(run(&[&host[..], &["--user", "admin", "doctor"]].concat(), &[], b""), 0);
    assert_eq!((check(&value, "login")["result"].as_str(), value["result"].as_str()), (Some("skip"), Some("warn")));
    let lost = [&host[..], &["--user", "admin", "--passphrase-file", "/nowhere", "doctor"]].concat();
    let value = found(run(&lost, &[], b""), 1);
    assert!(check(&value, "passphrase")["seen"].as_str().unwrap().contains("/nowhere"));
}

#[test]
fn an_operator_is_told_what_it_may_not_see() {
    let hsm = Hsm::operational();
    let value = found(hsm.with(("op", OPERATOR), &["--json", "doctor"], b""), 0);
    assert_eq!(check(&value, "login")["data"]["role"], "Operator");
    assert_eq!(check(&value, "version")["result"], "skip");
    judged_clock(&value);
}

#[test]
fn a_wrong_clock_is_a_warning() {
    let hsm = Hsm::start();
    let (unlock, admin) = (hsm.at("unlock"), hsm.at("admin"));
    let files = ["--unlock-passphrase-file", &unlock, "--admin-passphrase-file", &admin];
    hsm.nobody(&[&["provision", "--system-time", "2040-01-01T00:00:00Z"], &files[..]].concat()).ok();
    let value = found(hsm.admin(&["--json", "doctor"]), 0);
    assert_eq!(check(&value, "clock")["result"], "warn");
    assert!(check(&value, "clock")["data"]["aheadMs"].as_i64().unwrap() > 5_000);
}

#[test]
fn hosts_that_are_not_hsms_are_told_apart() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let web = Web::start("2100-01-01", "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>");
    let expired = Web::start("2021-01-01", "");
    for (host, ca, code, last) in [
        ("nowhere.invalid:8443", None, 3, "address"),
        (&closed, None, 3, "connection"),
        (&plain(), None, 3, "tls"),
        (&expired.address, Some(&expired.ca), 4, "trust"),
        (&web.address, Some(&web.ca), 12, "api"),
    ] {
        let trust = ca.map_or(vec!["--insecure"], |ca| vec!["--ca-file", ca]);
        let value = found(run(&[&["--host", host, "--json"], &trust[..], &["doctor"]].concat(), &[], b""), code);
        assert_eq!(ends(&value).last(), Some(&(last, "fail")), "{value}");
    }
    let value = found(run(&["--host", &web.address, "--ca-file", &web.ca, "--json", "doctor"], &[], b""), 12);
    assert_eq!(check(&value, "certificate")["data"]["names"], json!(["localhost"]));
    let by_address = web.address.replace("localhost", "127.0.0.1");
    let value = found(run(&["--host", &by_address, "--ca-file", &web.ca, "--json", "doctor"], &[], b""), 4);
    assert_eq!(check(&value, "certificate")["data"]["namesHost"], false);
}

#[test]
fn nodes_that_do_not_share_keys_and_users_are_noticed() {
    let (one, two) = (Hsm::operational(), Hsm::operational());
    one.admin(&["key", "generate", "web", "-t", "EC_P256", "-m", "ECDSA_Signature"]).ok();
    let both = ["--insecure", "--user", "admin", "--json", "--host", &one.address, "--host", &two.address, "doctor"];
    let value = found(run(&both, &[("CASEMATE_PASSPHRASE", ADMIN)], b""), 0);
    assert_eq!(check(&value, "versions")["result"], "ok");
    assert_eq!(check(&value, "users")["result"], "ok");
    assert_eq!(check(&value, "keys")["result"], "warn");
    assert_eq!(check(&value, "keys")["data"], json!({ "notEverywhere": ["web"] }));

    // The same name for another key is worse than none.
    two.admin(&["key", "generate", "web", "-t", "EC_P256", "-m", "ECDSA_Signature"]).ok();
    let pem = two.folder.file("pem", rcgen::KeyPair::generate().unwrap().serialize_pem());
    for hsm in [&one, &two] {
        hsm.admin(&["key", "import", "same", "--pem", &pem, "-m", "ECDSA_Signature"]).ok();
    }
    let value = found(run(&both, &[("CASEMATE_PASSPHRASE", ADMIN)], b""), 0);
    assert_eq!(check(&value, "keys")["result"], "ok");
    assert_eq!(check(&value, "public-keys")["data"], json!({ "different": ["web"] }));
}

/// A server that answers like an HSM with software 9.9, without a `Date`, and with this clock.
fn like_an_hsm(until: &str, time: &'static str) -> Web {
    Web::answering(until, move |request| {
        let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches("/api/v1");
        let json = match path {
            "/info" => json!({ "vendor": "V", "product": "P" }),
            "/health/state" => json!({ "state": "Operational" }),
            "/health/diagnose" => json!({ "clusterLogs": [], "clusterState": { "running": false } }),
            "/users/admin" => json!({ "realName": "", "role": "Administrator" }),
            "/system/info" => json!({
                "softwareVersion": "9.9", "softwareBuild": "x", "firmwareVersion": "", "hardwareVersion": "",
                "deviceId": "1", "akPub": {}, "pcr": {},
            }),
            "/config/time" => json!({ "time": time }),
            "/users" => json!([{ "user": "admin" }, { "user": "op" }]),
            _ => json!([]),
        };
        let json = json.to_string();
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{json}", json.len())
    })
}

#[test]
fn nodes_of_different_versions_are_noticed() {
    let (one, two) = (Hsm::operational(), like_an_hsm("2100-01-01", "2000-01-01T00:00:00Z"));
    let both = ["--insecure", "--user", "admin", "--json", "--host", &one.address, "--host", &two.address, "doctor"];
    let value = found(run(&both, &[("CASEMATE_PASSPHRASE", ADMIN)], b""), 0);
    assert_eq!(check(&value, "versions")["result"], "warn");
    assert_eq!(check(&value, "versions")["data"]["versions"][&two.address], "9.9 (x)");
    assert_eq!(check(&value, "users")["result"], "ok");
    let stores = value["checks"].as_array().unwrap().iter().filter(|check| check["check"] == "store");
    assert_eq!(
        stores.map(|store| &store["result"]).collect::<Vec<_>>(),
        ["ok", "skip"],
        "the other one has no such member"
    );
    // Without a date in its answers the clock is asked for with the login.
    let clocks: Vec<_> = value["checks"].as_array().unwrap().iter().filter(|check| check["check"] == "clock").collect();
    assert_eq!((clocks.len(), &clocks[1]["result"]), (2, &json!("warn")));
    assert!(clocks[1]["data"]["aheadMs"].as_i64().unwrap() < -600_000_000_000);
    let alone = run(&["--host", &two.address, "--insecure", "--json", "doctor"], &[], b"");
    assert_eq!(check(&found(alone, 0), "clock")["result"], "skip");
}

#[test]
fn a_certificate_that_ends_soon_is_a_warning() {
    let soon = (Timestamp::now() + SignedDuration::from_hours(24 * 10)).strftime("%Y-%m-%d").to_string();
    let web = like_an_hsm(&soon, "2000-01-01T00:00:00Z");
    let value = found(run(&["--host", &web.address, "--ca-file", &web.ca, "--json", "doctor"], &[], b""), 0);
    assert_eq!(
        (&check(&value, "certificate")["result"], &check(&value, "trust")["result"]),
        (&json!("warn"), &json!("ok"))
    );
    assert!((8..=10).contains(&check(&value, "certificate")["data"]["daysLeft"].as_i64().unwrap()));
    // A pin does not look at dates.
    let pin = check(&value, "certificate")["data"]["fingerprint"].as_str().unwrap();
    let value = found(run(&["--host", &web.address, "--pin", pin, "--json", "doctor"], &[], b""), 0);
    assert_eq!(check(&value, "certificate")["result"], "ok");
}

/// What the doctor says about the store, once it is `wanted`.
#[track_caller]
fn store(ask: impl Fn() -> Ran, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..120 {
        let ran = ask();
        let value: Value = serde_json::from_slice(&ran.out).unwrap();
        let store = check(&value, "store").clone();
        if wanted(&store) {
            return store;
        }
        sleep(Duration::from_millis(500));
    }
    panic!("{}", String::from_utf8_lossy(&ask().out));
}

#[test]
fn a_shared_store_is_judged_whole_without_a_member_without_a_majority_and_away() {
    let mut etcd = EtcdServer::three();
    let mut hsm = Hsm::founder(&etcd);
    let as_admin = |hsm: &Hsm| hsm.admin(&["--json", "doctor"]);
    let well = store(|| as_admin(&hsm), |store| store["result"] == "ok");
    let seen = well["seen"].as_str().unwrap();
    assert!(seen.starts_with("in etcd 3.") && seen.contains("3 of 3 endpoints can be used, confirmed "), "{seen}");
    assert!(seen.contains(" at revision ") && seen.ends_with(" MiB of 2048 MiB used"), "{seen}");
    let details = &well["data"]["details"];
    let addresses: Vec<&Value> = details["endpoints"].as_array().unwrap().iter().map(|one| &one["address"]).collect();
    assert_eq!(json!(addresses), json!(etcd.endpoints()));
    assert!(details["appliedRevision"].as_u64() >= details["confirmedRevision"].as_u64(), "{details}");
    assert_eq!(check(&found(hsm.operator(&["--json", "doctor"]), 0), "store")["result"], "skip");

    etcd.kill(2);
    // Until there is a new leader, it is worse.
    let warned = store(|| as_admin(&hsm), |store| store["result"] == "warn" && store["data"]["endpointsUsable"] == 2);
    assert!(warned["seen"].as_str().unwrap().contains(&etcd.endpoints()[2]), "{warned}");
    assert!(warned["next"].as_str().unwrap().starts_with("Repair the endpoints"), "{warned}");

    // A node that boots without a majority is Failed at once. Whoever asks it may be anybody.
    etcd.kill(1);
    hsm.kill();
    hsm.restart();
    let nobody = |hsm: &Hsm| hsm.nobody(&["--json", "doctor"]);
    let failed = |trouble: &str| {
        let store = store(|| nobody(&hsm), |store| store["data"]["trouble"] == trouble);
        assert_eq!(store["result"], "fail", "{store}");
        assert!(store["data"]["failedS"].is_u64() && store["data"]["troubleS"].is_u64(), "{store}");
        let public = store.to_string();
        assert!(
            !public.contains("127.0.0.1") || public.matches("127.0.0.1").count() == 1,
            "only the node itself: {store}"
        );
        assert!(store["data"].get("details").is_none() && !public.contains("3.6"), "{store}");
        store
    };
    let store_of = failed("no-majority");
    assert!(
        store_of["seen"].as_str().unwrap().starts_with("etcd has had no majority of its members for "),
        "{store_of}"
    );
    etcd.kill(0);
    let store_of = failed("no-answer");
    assert_eq!(
        store_of["next"].as_str().unwrap().split(';').next().unwrap(),
        "Check that etcd runs, and the network between it and the HSM"
    );

    etcd.start_all();
    let back = store(|| nobody(&hsm), |store| store["result"] == "ok");
    assert!(back["data"].get("trouble").is_none() && back["data"].get("failedS").is_none(), "{back}");
}

#[test]
fn a_prefix_without_the_data_of_this_hsm_is_named() {
    let mut etcd = EtcdServer::single();
    let mut hsm = Hsm::founder(&etcd);
    hsm.kill();
    etcd.kill(0);
    hsm.restart_with(&["--etcd-prefix=/elsewhere/"]);
    let ask = || hsm.nobody(&["--json", "doctor"]);
    store(ask, |store| store["data"]["trouble"] == "no-answer");
    etcd.restart(0);
    let judged = store(ask, |store| store["data"]["trouble"] == "other-data");
    assert_eq!(judged["result"], "fail");
    assert!(judged["next"].as_str().unwrap().contains("Do not reset it."), "{judged}");
}
