//! Nothing long runs on a thread that serves requests, for all keys and all operations with them. Counted, not timed:
//! long work announces itself (`casemate_core::runtime::stall`).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::KeyType;
use casemate_api::mechanisms::{Input, Mode, TABLE};
use casemate_core::runtime::stall::begun;
use serde_json::{Value, json};

use crate::keys::generic;
use crate::rig::{Rig, ed25519};

/// More kilobytes than a thread handles in a moment.
const LONG: usize = 300 << 10;

fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn hex(text: &str) -> Vec<u8> {
    base16ct::mixed::decode_vec(text).unwrap()
}

fn all_mechanisms(key_type: KeyType) -> Vec<String> {
    TABLE.iter().filter(|row| row.key == key_type).map(|row| format!("{:?}", row.mechanism)).collect()
}

/// Performs every possible operation with a key; `bits` is the length of an RSA modulus.
fn use_in_all_ways(rig: &Rig, id: &str, key_type: KeyType, bits: usize) {
    let path = format!("/keys/{id}");
    let modulus = bits.div_ceil(8);
    let operate = || {
        for row in TABLE.iter().filter(|row| row.key == key_type) {
            let input = match row.input {
                Input::Digest(length) => vec![7; length],
                Input::UpToModulusLess11 => vec![7; modulus - 11],
                Input::Modulus | Input::Integer => [vec![0], vec![7; modulus - 1]].concat(),
                Input::Message | Input::Blocks16 => vec![7; 48],
            };
            let iv = base64(&[1; 16]);
            let reply = match row.mode {
                Mode::Sign(mode) => {
                    rig.operator().post(&format!("{path}/sign"), json!({"mode": mode, "message": base64(&input)}))
                }
                Mode::Decrypt(mode) => rig
                    .operator()
                    .post(&format!("{path}/decrypt"), json!({"mode": mode, "encrypted": base64(&input), "iv": iv})),
                Mode::Encrypt(mode) => rig
                    .operator()
                    .post(&format!("{path}/encrypt"), json!({"mode": mode, "message": base64(&input), "iv": iv})),
            };
            // Some inputs are not padded properly, and some hashes are too long for the smallest keys.
            assert!([200, 400].contains(&reply.status), "{id} {row:?}: {reply}");
        }
    };
    let has_public = key_type != KeyType::Generic;
    operate();
    rig.admin().put(&format!("{path}/label"), json!({"label": "a label"})).is(204);
    rig.admin().get(&path).is(200);
    rig.admin().get("/keys?label=a%20label").is(200);
    rig.admin().put(&format!("{path}/restrictions/tags/t"), "").is(204);
    if has_public {
        rig.admin().get(&format!("{path}/public.pem")).is(200);
        rig.admin().post(&format!("{path}/csr.pem"), json!({"commonName": "c"})).is(200);
    }
    rig.admin().delete(&format!("{path}/restrictions/tags/t")).is(204);
    rig.admin().post(&format!("{path}/move"), json!({"newId": format!("{id}2")})).is(200);
    rig.admin().post(&format!("{path}2/move"), json!({"newId": id})).is(200);
    operate();
}

/// RSA keys of all sizes: an id, the bits of the modulus, and what imports the key.
fn rsa_keys() -> Vec<(String, usize, Value)> {
    let mechanisms = all_mechanisms(KeyType::RSA);
    let lines = include_str!("rsa_primes.txt").lines().filter(|line| !line.starts_with('#'));
    let key = |(number, line): (usize, &str)| {
        let [bits, p, q] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let private = json!({"primeP": base64(&hex(p)), "primeQ": base64(&hex(q)), "publicExponent": "AQAB"});
        let import = json!({"mechanisms": mechanisms, "type": "RSA", "private": private});
        (format!("rsa{number}"), bits.parse().unwrap(), import)
    };
    lines.enumerate().map(key).collect()
}

#[test]
fn nothing_long_runs_on_a_serving_thread() {
    let mut rig = Rig::operational();
    for (id, _, import) in rsa_keys() {
        rig.admin().put(&format!("/keys/{id}"), import).is(204);
    }
    for key_type in KeyType::ALL {
        let (id, mechanisms) = (key_type.as_str(), all_mechanisms(key_type));
        let wanted = json!({"mechanisms": mechanisms, "type": id, "length": 1024, "id": id});
        let length = if key_type == KeyType::Generic { json!(256) } else { json!(1024) };
        let mut wanted = wanted;
        wanted["length"] = length;
        rig.admin().post("/keys/generate", wanted).is(201);
    }
    // Everything is read again.
    rig.reboot();
    rig.unlock().is(204);
    for (id, bits, _) in rsa_keys() {
        use_in_all_ways(&rig, &id, KeyType::RSA, bits);
    }
    for key_type in KeyType::ALL {
        use_in_all_ways(&rig, key_type.as_str(), key_type, 1024);
    }
    assert_unstalled(&["loading a key", "using a key", "making primes", "testing a prime"]);
}

#[test]
fn no_long_body_is_handled_on_a_serving_thread() {
    let rig = Rig::operational();
    let long = base64(&vec![7; LONG]);
    rig.admin().put("/keys/aes", generic(&["AES_Encryption_CBC", "AES_Decryption_CBC"], &[7; 32])).is(204);
    rig.admin().put("/keys/ed", ed25519()).is(204);
    rig.admin().put("/keys/bytes", generic(&[], &vec![7; LONG])).is(204);
    let post = |path: &str, body: Value| rig.operator().post(path, body);
    post("/keys/ed/sign", json!({"mode": "EdDSA", "message": long})).is(200);
    let iv = base64(&[1; 16]);
    post("/keys/aes/encrypt", json!({"mode": "AES_CBC", "message": long, "iv": iv})).is(200);
    post("/keys/aes/decrypt", json!({"mode": "AES_CBC", "encrypted": long, "iv": iv})).is(200);
    post("/keys/aes/decrypt", json!({"mode": "AES_CBC", "encrypted": "", "iv": long})).is(400);
    post("/keys/aes/encrypt", json!({"mode": "AES_CBC", "message": "", "iv": long})).is(400);
    post("/keys/ed/sign", json!({"mode": "EdDSA", "message": long, "unknown": ""})).is(400);
    rig.admin().content_type("application/octet-stream").put("/keys/ed/cert", vec![7; LONG]).is(201);
    rig.admin().get("/keys/ed/cert").is(200);
    let part = |name: &str| format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{long}\r\n");
    let form = [part("arguments"), part("key_file"), "--b--\r\n".to_owned()].concat();
    rig.admin().content_type("multipart/form-data; boundary=b").put("/keys/form", form.as_str()).is(400);
    rig.anonymous().post("/provision", format!("{{a:\"{long}\"}}").as_str()).is(412);
    rig.admin().put("/config/backup-passphrase", json!({"newPassphrase": long, "currentPassphrase": ""})).is(400);
    assert_unstalled(&[
        "reading a large body",
        "decoding a long message",
        "encoding a long output",
        "using a key",
        "tagging a large reply",
        "taking a large form apart",
    ]);
}

#[test]
fn no_large_tls_key_is_handled_on_a_serving_thread() {
    let rig = Rig::operational();
    rig.admin().post("/config/tls/generate", json!({"type": "RSA", "length": 2048})).is(204);
    assert_unstalled(&["making primes", "loading a key", "using a key"]);
}

/// The `known` work has begun, but neither that nor anything else on a serving thread of any test of this process.
fn assert_unstalled(known: &[&str]) {
    let begun = begun();
    for what in known {
        assert!(begun.get(what).is_some_and(|begun| begun.elsewhere > 0), "{what}: {begun:?}");
    }
    assert!(begun.values().all(|begun| begun.serving == 0), "{begun:?}");
}
