//! A tenant with a large RSA key against clients with short requests: parsing a key takes as long as half a signature
//! with it, but must never run on a thread that serves requests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::daemon::{ADMIN, Daemon, Folder};
use crate::from::{HONEST, address, call, connect};
use crate::wire::Wire;

const PASSPHRASE: &str = "a passphrase";
const BOSS: &str = "t~boss:a passphrase";
const WORKER: &str = "t~worker:a passphrase";
const OPERATOR: &str = "operator:a passphrase";

/// Connections with short requests: several, so that every serving thread has one.
const CLIENTS: u32 = 4;
/// How long they are measured.
const WATCHED: Duration = Duration::from_secs(5);
/// Share of this time that may be spent in requests that took longer than half a load. It was three quarters when keys
/// were parsed on the serving threads, and is at most an eighth on a machine with five times as much work as cores.
const SHARE_MAX: f64 = 0.4;

#[test]
fn a_large_key_that_changes_all_the_time_does_not_hold_up_short_requests() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder);
    daemon.client().provision().unwrap().expect(204);
    set_up(&daemon);
    let large = BASE64_STANDARD.encode([7; 51]);
    let large = json!({ "mode": "PKCS1", "message": large }).to_string();
    let sign = |wire: &mut Wire| call(wire, "POST", "/keys/large/sign", Some(WORKER), Some(&large)).is(200);

    // Parsing a key of this size takes half as long as signing with it. In one run on one machine both are slower or
    // faster together, so nothing here is compared with wall-clock time.
    let mut wire = connect(&daemon, HONEST);
    let mut signature = (0..9).map(|_| timed(|| drop(sign(&mut wire)))).collect::<Vec<_>>();
    signature.sort_unstable();
    let half_a_load = signature[4] / 4;

    let over = AtomicBool::new(false);
    let (slow, count) = thread::scope(|scope| {
        for n in 0..3 {
            let (daemon, over, sign) = (&daemon, &over, &sign);
            scope.spawn(move || {
                let mut wire = connect(daemon, address(n));
                let mut label = n;
                while !over.load(Ordering::Relaxed) {
                    label += 3;
                    let text = json!({ "label": label.to_string() }).to_string();
                    call(&mut wire, "PUT", "/keys/large/label", Some(BOSS), Some(&text)).is(204);
                    call(&mut wire, "GET", "/keys/large", Some(WORKER), None).is(200);
                    // Not every time: signatures keep the cores busy, which is different from holding up a thread.
                    if label % 8 == 0 {
                        sign(&mut wire);
                    }
                }
            });
        }
        let daemon = &daemon;
        let honest: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || watch(daemon, n % 2 == 0))).collect();
        let took: Vec<_> = honest.into_iter().flat_map(|honest| honest.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        let slow: Duration = took.iter().filter(|took| **took > half_a_load).sum();
        (slow, took.len())
    });
    let share = slow.as_secs_f64() / (WATCHED * CLIENTS).as_secs_f64();
    println!("{count} short requests, {share:.2} of the time in those slower than {half_a_load:.1?}");
    assert!(share < SHARE_MAX, "{share:.2} of the time went by in requests slower than {half_a_load:.1?}");
}

/// The duration of each short request: Ed25519 signatures, or health checks.
fn watch(daemon: &Daemon, signs: bool) -> Vec<Duration> {
    let mut wire = connect(daemon, HONEST);
    let body = json!({ "mode": "EdDSA", "message": BASE64_STANDARD.encode([7; 32]) }).to_string();
    let mut ask = || match signs {
        true => call(&mut wire, "POST", "/keys/small/sign", Some(OPERATOR), Some(&body)).is(200),
        false => call(&mut wire, "GET", "/health/state", None, None).is(200),
    };
    let begun = Instant::now();
    let mut took = Vec::new();
    while begun.elapsed() < WATCHED {
        took.push(timed(|| drop(ask())));
        thread::sleep(Duration::from_millis(5));
    }
    took
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

/// An operator with a small key, and a tenant with a large one.
fn set_up(daemon: &Daemon) {
    let admin = format!("admin:{ADMIN}");
    let mut wire = connect(daemon, HONEST);
    let mut change = |login: &str, method: &str, path: &str, body: serde_json::Value| {
        let body = (!body.is_null()).then(|| body.to_string());
        let status = call(&mut wire, method, path, Some(login), body.as_deref()).status;
        assert!(matches!(status, 201 | 204), "{method} {path}: {status}");
    };
    let user = |role: &str| json!({ "realName": "", "role": role, "passphrase": PASSPHRASE });
    change(&admin, "PUT", "/users/operator", user("Operator"));
    let small = json!({ "id": "small", "type": "Curve25519", "mechanisms": ["EdDSA_Signature"] });
    change(&admin, "POST", "/keys/generate", small);
    change(&admin, "PUT", "/users/t~boss", user("Administrator"));
    change(&admin, "PUT", "/namespaces/t", serde_json::Value::Null);
    change(BOSS, "PUT", "/users/t~worker", user("Operator"));
    let prime = |hex: &str| {
        let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        BASE64_STANDARD.encode(bytes.collect::<Vec<_>>())
    };
    let line = include_str!("../api/rsa_primes.txt").lines().find(|line| line.starts_with("8192 ")).unwrap();
    let [_, p, q] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    let private = json!({ "primeP": prime(p), "primeQ": prime(q), "publicExponent": "AQAB" });
    let large = json!({ "type": "RSA", "mechanisms": ["RSA_Signature_PKCS1"], "private": private });
    change(BOSS, "PUT", "/keys/large", large);
}
