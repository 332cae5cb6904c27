//! The requests of attackers: weighted kinds, each generated from random numbers.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::line::Ask;

/// A hostile request and how it is sent.
pub struct Attack {
    /// Name of the kind, for the table of outcomes.
    pub kind: &'static str,
    pub ask: Ask,
    pub manner: Manner,
}

/// How a request is sent.
pub enum Manner {
    /// Complete, and the reply is read.
    Whole,
    /// Only the head; the body never arrives.
    HeadOnly,
    /// The head and half of the body, then the connection is closed.
    Half,
    /// Complete, but the reply is not read.
    Unread,
    /// Only the body, in place of a request.
    Raw,
}

/// Generates a request of one kind.
type Make = fn(&mut Chance, &[Vec<u8>]) -> (Ask, Manner);

/// Every kind, with its share of [`WEIGHTS`] requests.
#[rustfmt::skip]
const MIX: &[(u32, &str, Make)] = &[
    ( 700, "wrong passphrases for names nobody has",        |chance, _| (Ask::get("/keys").login(format!("n{}:{WRONG}", chance.below(1 << 40))), Manner::Whole)),
    ( 500, "wrong passphrases for the honest operator",     |chance, _| (Ask::get("/keys").login(format!("operator:{WRONG} {}", chance.below(1 << 40))), Manner::Whole)),
    (1800, "no credentials",                                |chance, _| (Ask::get(*chance.one_of(&["/keys", "/users", "/system/info", "/audit", "/config/network", "/health/state"])), Manner::Whole)),
    (1700, "paths that are none",                           |chance, _| (Ask::get(format!("/{}", "x%2F".repeat(chance.below(480) as usize))), Manner::Whole)),
    ( 300, "bodies that never come, without credentials",   |_, _| (Ask::post("/unlock", *b"{\"passphrase\":\"0123456789\"}"), Manner::HeadOnly)),
    ( 300, "bodies that never come, of the tenant",         |chance, _| (large(chance), Manner::HeadOnly)),
    ( 300, "bodies that break off",                         |chance, _| (large(chance), Manner::Half)),
    ( 150, "large bodies of garbage",                       |chance, _| (large(chance), Manner::Whole)),
    (1500, "signatures of garbage",                         |chance, _| (bad_signature(chance), Manner::Whole)),
    ( 200, "imports of RSA keys of odd sizes",              |chance, _| (odd_rsa(chance), Manner::Whole)),
    (   2, "generations of RSA-4096 and RSA-8192",          |chance, _| (generation(chance), Manner::Whole)),
    (1200, "fuzzing seeds as bodies",                       |chance, seeds| (seed_as_body(chance, seeds), Manner::Whole)),
    ( 300, "fuzzing seeds in place of requests",            |chance, seeds| (Ask::post("/keys", seed(chance, seeds)).login(boss()), Manner::Raw)),
    ( 300, "replies that are not read",                     |chance, _| (Ask::get(*chance.one_of(&["/keys", "/users"])).login(boss()), Manner::Unread)),
    ( 150, "creations of users",                            |chance, _| (Ask::put(somebody(chance), user("Operator", WRONG)).login(boss()), Manner::Whole)),
    ( 150, "deletions of users",                            |chance, _| (Ask { method: "DELETE", ..Ask::get(somebody(chance)).login(boss()) }, Manner::Whole)),
    ( 448, "attempts to unlock what is not locked",         |_, _| (Ask::post("/unlock", json!({ "passphrase": WRONG }).to_string()), Manner::Whole)),
];

/// Sum of the weights.
const WEIGHTS: u64 = 10_000;

const ADMIN: &str = "admin:the administrator's passphrase";
const OPERATOR: &str = "operator:the operator's passphrase";
const CLERK: &str = "clerk:the clerk's passphrase";
const BOSS: &str = "tenant~boss:the tenant's passphrase";
const WORKER: &str = "tenant~worker:the worker's passphrase";
const WRONG: &str = "not the passphrase";
/// The message to sign: as long as a SHA-256 digest.
const DIGEST: [u8; 32] = [7; 32];

/// One attack of the mix.
pub fn attack(chance: &mut Chance, seeds: &[Vec<u8>]) -> Attack {
    let mut at = chance.below(WEIGHTS);
    for (weight, kind, make) in MIX {
        match at.checked_sub(u64::from(*weight)) {
            Some(rest) => at = rest,
            None => {
                let (ask, manner) = make(chance, seeds);
                return Attack { kind, ask, manner };
            }
        }
    }
    panic!("the weights sum up to {WEIGHTS}")
}

/// The requests that prepare a new server for a siege, in this order.
pub fn setting() -> Vec<Ask> {
    let key = json!({ "id": "honest", "type": "EC_P256", "mechanisms": ["ECDSA_Signature"] });
    let rsa = json!({ "id": "k", "type": "RSA", "length": 2048, "mechanisms": ["RSA_Signature_PSS_SHA256"] });
    let provision = json!({
        "unlockPassphrase": "the unlock passphrase", "adminPassphrase": secret(ADMIN), "systemTime": "2026-01-01T00:00:00Z",
    });
    let admin = || Some(ADMIN.to_owned());
    vec![
        Ask::post("/provision", provision.to_string()),
        Ask::put("/users/operator", user("Operator", secret(OPERATOR))).login(admin()),
        Ask::post("/keys/generate", key.to_string()).login(admin()),
        honest_signature(),
        Ask::put("/users/clerk", user("Operator", secret(CLERK))).login(admin()),
        // Before the namespace is created: afterwards only its own administrators may do this.
        Ask::put("/users/tenant~boss", user("Administrator", secret(BOSS))).login(admin()),
        Ask::put("/namespaces/tenant", []).login(admin()),
        Ask::put("/users/tenant~worker", user("Operator", secret(WORKER))).login(boss()),
        Ask::post("/keys/generate", rsa.to_string()).login(boss()),
        // So that the worker's credentials are cached, and its requests get further than the queue of logins.
        Ask::get("/keys").login(WORKER.to_owned()),
    ]
}

/// The request of the honest client.
pub fn honest_signature() -> Ask {
    let body = json!({ "mode": "ECDSA", "message": BASE64_STANDARD.encode(DIGEST) });
    Ask::post("/keys/honest/sign", body.to_string()).login(OPERATOR.to_owned())
}

/// The request of the honest client that logs in: its own user.
pub fn honest_login() -> Ask {
    Ask::get("/users/clerk").login(CLERK.to_owned())
}

/// The seeds of the fuzz targets, and an empty input.
pub fn seeds() -> io::Result<Vec<Vec<u8>>> {
    let mut seeds = vec![Vec::new()];
    for target in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds"))? {
        for seed in fs::read_dir(target?.path())? {
            seeds.push(fs::read(seed?.path())?);
        }
    }
    Ok(seeds)
}

fn boss() -> Option<String> {
    Some(BOSS.to_owned())
}

fn secret(login: &str) -> &str {
    login.split_once(':').map_or(login, |(_, secret)| secret)
}

fn user(role: &str, passphrase: &str) -> String {
    json!({ "realName": "", "role": role, "passphrase": passphrase }).to_string()
}

/// One of a few users of the tenant, so that some of them exist.
fn somebody(chance: &mut Chance) -> String {
    format!("/users/tenant~u{}", chance.below(20))
}

/// A body of up to a megabyte for a use of the tenant's key.
fn large(chance: &mut Chance) -> Ask {
    let length = (64 << 10) + chance.below((1 << 20) - (64 << 10));
    Ask::post("/keys/k/sign", chance.bytes(length as usize)).login(WORKER.to_owned())
}

fn bad_signature(chance: &mut Chance) -> Ask {
    let mode = *chance.one_of(&["PSS_SHA256", "PKCS1", "ECDSA", "EdDSA", "nonsense"]);
    let length = chance.below(100) as usize;
    let message = BASE64_STANDARD.encode(chance.bytes(length));
    let body = json!({ "mode": mode, "message": message });
    Ask::post("/keys/k/sign", body.to_string()).login(WORKER.to_owned())
}

fn odd_rsa(chance: &mut Chance) -> Ask {
    let mut part = |most| {
        let length = 1 + chance.below(most) as usize;
        let mut bytes = chance.bytes(length);
        // Odd and of full length, so that its processing gets as far as possible.
        bytes.first_mut().into_iter().for_each(|byte| *byte |= 0xc0);
        bytes.last_mut().into_iter().for_each(|byte| *byte |= 1);
        Value::from(BASE64_STANDARD.encode(bytes))
    };
    let private = json!({ "primeP": part(1100), "primeQ": part(1100), "publicExponent": part(5) });
    let body = json!({ "type": "RSA", "mechanisms": ["RSA_Signature_PKCS1"], "private": private });
    Ask::post("/keys", body.to_string()).login(boss())
}

fn generation(chance: &mut Chance) -> Ask {
    // One in ten takes seconds.
    let length = if chance.below(10) == 0 { 8192 } else { 4096 };
    let body = json!({ "type": "RSA", "length": length, "mechanisms": ["RSA_Signature_PKCS1"] });
    Ask::post("/keys/generate", body.to_string()).login(boss())
}

fn seed(chance: &mut Chance, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = chance.one_of(seeds).clone();
    // Every other one with one byte changed.
    if chance.below(2) == 0 && !bytes.is_empty() {
        let at = chance.below(bytes.len() as u64) as usize;
        let byte = chance.below(256) as u8;
        bytes.iter_mut().skip(at).take(1).for_each(|old| *old = byte);
    }
    bytes
}

fn seed_as_body(chance: &mut Chance, seeds: &[Vec<u8>]) -> Ask {
    let (method, path) = *chance.one_of(&[
        ("POST", "/keys"),
        ("POST", "/keys/generate"),
        ("POST", "/keys/k/sign"),
        ("POST", "/keys/k/decrypt"),
        ("POST", "/keys/k/csr.pem"),
        ("PUT", "/keys/k/cert"),
        ("PUT", "/keys/imported"),
        ("POST", "/users"),
        ("PUT", "/config/logging"),
        ("POST", "/system/restore"),
        ("POST", "/system/update"),
        ("POST", "/random"),
    ]);
    let media = *chance.one_of(&[
        "application/json",
        "application/x-pem-file",
        "application/octet-stream",
        "multipart/form-data; boundary=abc",
    ]);
    Ask { method, media, ..Ask::post(path, seed(chance, seeds)).login(boss()) }
}

/// Reproducible random numbers (SplitMix64), one generator per attacker.
pub struct Chance(pub u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, nearly uniform.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(length);
        bytes
    }
}
