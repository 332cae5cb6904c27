//! Use of keys: the order of refusals, and the results.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::keys::{generic, rsa_1024};
use crate::rig::{Rig, ed25519, sign_something};
use crate::wire::Reply;

fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn bytes_of(reply: Reply, member: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(reply.is(200).json()[member].as_str().unwrap()).unwrap()
}

fn sign(rig: &Rig, key: &str, mode: &str, message: &[u8]) -> Reply {
    rig.operator().post(&format!("/keys/{key}/sign"), json!({"mode": mode, "message": base64(message)}))
}

fn decrypt(rig: &Rig, key: &str, mode: &str, encrypted: &[u8]) -> Reply {
    rig.operator().post(&format!("/keys/{key}/decrypt"), json!({"mode": mode, "encrypted": base64(encrypted)}))
}

/// Cases 106 to 109.
#[test]
fn refusals_of_use_come_in_the_order_of_the_contract() {
    let rig = Rig::operational();
    let mut restricted = ed25519();
    restricted["restrictions"] = json!({"tags": ["t"]});
    rig.admin().put("/keys/r", restricted).is(204);
    let post = |path: &str, body: serde_json::Value| rig.operator().post(path, body);
    let not_met = "tags restriction not met";
    post("/keys/r/sign", sign_something()).case(106, 403).says(not_met);
    post("/keys/r/sign", json!({"mode": "Unknown", "message": ""})).case(107, 400);
    post("/keys/r/sign", json!({"mode": "EdDSA", "message": "no base64"})).is(403).says(not_met);
    post("/keys/k/sign", json!({"mode": "ECDSA", "message": "no base64"})).is(400);
    let refused = "Key mechanisms do not allow requested";
    post("/keys/k/sign", json!({"mode": "ECDSA", "message": ""})).case(108, 400).says(&format!("{refused} signing."));
    let body = json!({"mode": "AES_CBC", "encrypted": ""});
    post("/keys/k/decrypt", body).is(400).says(&format!("{refused} decryption."));
    let body = json!({"mode": "AES_CBC", "message": ""});
    post("/keys/k/encrypt", body).is(400).says(&format!("{refused} encryption."));
    rig.operator().post("/keys/missing/sign", "{").case(109, 404).empty();
    // An unused mechanism of the key does not make it another kind of key.
    rig.admin().put("/keys/odd", rsa_1024(&["EdDSA_Signature"])).is(204);
    sign(&rig, "odd", "EdDSA", b"m").is(400);
    rig.admin().put("/keys/odd-bytes", generic(&["EdDSA_Signature", "RSA_Decryption_RAW"], &[1; 32])).is(204);
    sign(&rig, "odd-bytes", "EdDSA", b"m").is(400);
    decrypt(&rig, "odd-bytes", "RAW", &[2]).is(400);
    assert_eq!(rig.admin().get("/keys/odd").json()["operations"], 0);
}

/// RFC 8032 §7.1, test 1.
#[test]
fn eddsa_signs_messages() {
    let rig = Rig::operational();
    let wanted = "5VZDAMNgrHKQhuLMgG6CioSHfx645dl02HPgZSJJAVVfuIIVkKM7rMYeOXAc+bRr0lv18FlbviRlUUFDjnoQCw==";
    let reply = sign(&rig, "k", "EdDSA", b"").is(200);
    assert_eq!(reply.text(), format!("{{\"signature\":\"{wanted}\"}}"));
}

/// Case 110.
#[test]
fn ecdsa_signs_digests_of_one_length() {
    let rig = Rig::operational();
    for (key_type, length) in [("EC_P256", 32), ("EC_P384", 48), ("EC_P521", 64), ("BrainpoolP512", 64)] {
        let body = json!({"type": key_type, "mechanisms": ["ECDSA_Signature"], "id": key_type});
        rig.admin().post("/keys/generate", body).is(201);
        sign(&rig, key_type, "ECDSA", &vec![1; length]).case(110, 200);
        for wrong in [0, length - 1, length + 1, length + 2] {
            sign(&rig, key_type, "ECDSA", &vec![1; wrong]).case(110, 400);
        }
        let twice = [0, 1].map(|_| bytes_of(sign(&rig, key_type, "ECDSA", &vec![1; length]), "signature"));
        assert_ne!(twice[0], twice[1], "the nonce is random");
        assert_eq!(twice[0][0], 0x30, "DER");
    }
    sign(&rig, "EC_P521", "ECDSA", &[1; 66]).case(110, 400);
}

/// Cases 111 to 114.
#[test]
fn rsa_signs_digests_and_pads_what_it_is_given() {
    let rig = Rig::operational();
    let all = ["RSA_Signature_PKCS1", "RSA_Signature_PSS_SHA256", "RSA_Signature_PSS_SHA512", "RSA_Decryption_RAW"];
    rig.admin().put("/keys/rsa", rsa_1024(&all)).is(204);
    sign(&rig, "rsa", "PSS_SHA256", &[1; 31]).case(111, 400).says("digested data of invalid size");
    assert_eq!(bytes_of(sign(&rig, "rsa", "PSS_SHA256", &[1; 32]), "signature").len(), 128);
    sign(&rig, "rsa", "PSS_SHA512", &[1; 64]).case(112, 400);
    let digest = [7; 20];
    let signature = bytes_of(sign(&rig, "rsa", "PKCS1", &digest).case(113, 200), "signature");
    // The private operation on the padded block, computed here: nothing was added to the input.
    let padded = [&[0, 1][..], &[0xff; 128 - 3 - 20], &[0], &digest].concat();
    assert_eq!(signature, bytes_of(decrypt(&rig, "rsa", "RAW", &padded), "decrypted"), "case 113");
    sign(&rig, "rsa", "PKCS1", &[1; 118]).case(114, 400);
    sign(&rig, "rsa", "PKCS1", &[1; 117]).is(200);
}

/// Case 115.
#[test]
fn messages_may_be_broken_into_lines() {
    let rig = Rig::operational();
    let send = |message: &str| rig.operator().post("/keys/k/sign", json!({"mode": "EdDSA", "message": message}));
    let whole = send("c29tZXRoaW5n").is(200);
    assert_eq!(send("c29t\nZXRo\naW5n\n").case(115, 200).body, whole.body);
    for bad in ["c29t ZXRoaW5n", "c29t\r\nZXRoaW5n", "c29tZXRoaW5", "c29tZXRoaW5nIQ", "c29tZXRoaW5-"] {
        let message = send(bad).case(115, 400).message();
        assert!(message.starts_with("Couldn't decode data from base64: "), "{message}");
    }
}

/// Cases 116 to 118.
#[test]
fn aes_cbc_works_on_whole_blocks() {
    let rig = Rig::operational();
    let both = ["AES_Encryption_CBC", "AES_Decryption_CBC"];
    // NIST SP 800-38A, F.2.1: AES-128 in CBC mode, first block.
    let hex = |text: &str| base16ct::lower::decode_vec(text).unwrap();
    let (key, iv) = (hex("2b7e151628aed2a6abf7158809cf4f3c"), hex("000102030405060708090a0b0c0d0e0f"));
    let (plain, cipher) = (hex("6bc1bee22e409f96e93d7e117393172a"), hex("7649abac8119b246cee98e9b12e9197d"));
    rig.admin().put("/keys/aes", generic(&both, &key)).is(204);
    let encrypt = |message: &[u8], iv: serde_json::Value| {
        let body = json!({"mode": "AES_CBC", "message": base64(message), "iv": iv});
        rig.operator().post("/keys/aes/encrypt", body)
    };
    let decrypt_with = |encrypted: &[u8], iv: serde_json::Value| {
        let body = json!({"mode": "AES_CBC", "encrypted": base64(encrypted), "iv": iv});
        rig.operator().post("/keys/aes/decrypt", body)
    };
    let wanted = format!("{{\"encrypted\":\"{}\",\"iv\":\"{}\"}}", base64(&cipher), base64(&iv));
    assert_eq!(encrypt(&plain, base64(&iv).into()).is(200).text(), wanted);
    assert_eq!(bytes_of(decrypt_with(&cipher, base64(&iv).into()), "decrypted"), plain);

    decrypt(&rig, "aes", "AES_CBC", &cipher).case(116, 400).says("AES-CBC decrypt requires IV");
    decrypt_with(&cipher, serde_json::Value::Null).case(116, 400);
    let body = json!({"mode": "AES_CBC", "message": base64(&plain)});
    let without = rig.operator().post("/keys/aes/encrypt", body).case(117, 200).json();
    let picked = without["iv"].clone();
    let encrypted = BASE64_STANDARD.decode(without["encrypted"].as_str().unwrap()).unwrap();
    assert_eq!(bytes_of(decrypt_with(&encrypted, picked.clone()), "decrypted"), plain, "case 117");
    assert_ne!(encrypt(&plain, serde_json::Value::Null).is(200).json()["iv"], picked, "a fresh one each time");

    let message = encrypt(&[0; 15], base64(&iv).into()).case(118, 400).message();
    assert!(message.contains("argument length"), "case 118: {message}");
    encrypt(&plain, base64(&iv[1..]).into()).is(400);
    decrypt_with(&cipher[1..], base64(&iv).into()).is(400);
    assert_eq!(bytes_of(encrypt(&[], base64(&iv).into()), "encrypted"), b"");
}

/// Cases 119, 120.
#[test]
fn rsa_decrypts_numbers_below_the_modulus() {
    let rig = Rig::operational();
    rig.admin().put("/keys/rsa", rsa_1024(&["RSA_Decryption_RAW", "RSA_Decryption_PKCS1"])).is(204);
    let modulus = rig.admin().get("/keys/rsa").json()["public"]["modulus"].as_str().unwrap().to_owned();
    let modulus = BASE64_STANDARD.decode(modulus).unwrap();
    let failure = "Decryption failure";
    let mut more = modulus.clone();
    *more.last_mut().unwrap() += 1;
    for number in [&[][..], &[0], &[1], &[0; 128], &modulus, &more, &[0xff; 128]] {
        decrypt(&rig, "rsa", "RAW", number).case(119, 400).says(failure);
    }
    assert_eq!(bytes_of(decrypt(&rig, "rsa", "RAW", &[2]), "decrypted").len(), 128);
    for length in [0, 127, 129] {
        decrypt(&rig, "rsa", "PKCS1", &vec![2; length]).case(120, 400).says(failure);
    }
    decrypt(&rig, "rsa", "PKCS1", &[2; 128]).is(400).says(failure);
}

/// Cases 121 to 123.
#[test]
fn public_keys_and_signing_requests_are_for_keys_with_a_public_half() {
    let rig = Rig::operational();
    rig.admin().put("/keys/bytes", generic(&[], &[1; 16])).is(204);
    rig.admin().get("/keys/bytes/public.pem").case(121, 400).says("Generic keys have no public key");
    let subject = json!({"commonName": "c"});
    rig.operator().post("/keys/bytes/csr.pem", subject.clone()).is(400);
    assert!(rig.admin().get("/keys/bytes").json().get("public").is_none());

    let reply = rig.operator().post("/keys/k/csr.pem", subject.clone()).case(122, 200);
    assert!(reply.text().starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"), "{reply}");
    rig.admin().post("/keys/k/csr.pem", subject).is(200);
    rig.admin().post("/keys/k/csr.pem", json!({"countryName": "DE"})).case(123, 400);
    let empty = json!({"commonName": ""});
    rig.admin().post("/keys/k/csr.pem", empty).is(400).says("JSON field commonName is empty.");
    rig.user("metrics").post("/keys/k/csr.pem", json!({"commonName": "c"})).is(403);

    let pem = rig.operator().get("/keys/k/public.pem").is(200);
    let body = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    assert_eq!(pem.text(), format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"));
}
