//! Keys: created, read, listed, changed, deleted.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::rig::{Rig, ed25519, sign_something};
use crate::wire::Reply;

/// Two primes of 512 bits and 65537; for tests only.
pub fn rsa_1024(mechanisms: &[&str]) -> Value {
    json!({"mechanisms": mechanisms, "type": "RSA", "private": {
        "primeP": "x8xYC43Obt1Tilgq4ngLb7Vb+bw6DrnkaVvDHAAuep+AKk8yMzinSRPV5mPcvS5Ga7JaA3fysApEY7qwQjR0Nw==",
        "primeQ": "wtdErSmbkCZy6xdOsDWtLLh8MhINdEz702abM0lJYCSnQ3Mtir5PRpC0FLd3YL6mxQ/dZgD6xABZXh0JX/aObw==",
        "publicExponent": "AQAB"}})
}

/// A key of plain bytes.
pub fn generic(mechanisms: &[&str], bytes: &[u8]) -> Value {
    json!({"mechanisms": mechanisms, "type": "Generic", "private": {"data": BASE64_STANDARD.encode(bytes)}})
}

fn generate(rig: &Rig, body: Value) -> Reply {
    rig.admin().post("/keys/generate", body)
}

/// Cases 80, 81.
#[test]
fn key_ids_obey_the_rule_of_ids() {
    let rig = Rig::operational();
    rig.user("ns1~admin").get("/keys/ns1~k").case(80, 400);
    rig.admin().get("/keys/ns1~k").case(80, 400);
    rig.admin().get("/keys/*").case(81, 400);
    assert_eq!(rig.admin().get("/keys/nomatch*").case(81, 200).text(), "[]");
    for id in ["-k", "_k", ".k", "k%20k", &"k".repeat(129), "k*"] {
        rig.admin().put(&format!("/keys/{id}"), ed25519()).is(400);
        rig.admin().delete(&format!("/keys/{id}")).is(400);
        rig.operator().post(&format!("/keys/{id}/sign"), "not even JSON").is(400);
    }
    rig.admin().put(&format!("/keys/{}", "k".repeat(128)), ed25519()).is(204);
    // A literal segment has that name.
    rig.admin().put("/keys/generate", ed25519()).is(405);
}

/// Cases 82, 83.
#[test]
fn lists_are_sorted_and_filtered_by_use_label_and_prefix() {
    let rig = Rig::operational();
    let tagged = |tags: &[&str], label: &str| {
        let mut body = ed25519();
        body["restrictions"] = json!({"tags": tags});
        body["label"] = label.into();
        body
    };
    rig.admin().put("/keys/pfx2", tagged(&["t"], "one")).is(204);
    rig.admin().put("/keys/pfx1", tagged(&[], "one")).is(204);
    rig.admin().put("/keys/Pfx", tagged(&["t", "u"], "zwei ü")).is(204);
    let list = |user: &str, path: &str| rig.user(user).get(path).is(200).text().to_owned();
    let all = r#"[{"id":"Pfx"},{"id":"k"},{"id":"pfx1"},{"id":"pfx2"}]"#;
    assert_eq!(list("operator", "/keys"), all);
    for query in ["?filter", "?filter=", "?filter=false", "?x=y&filter=true"] {
        assert_eq!(list("operator", &format!("/keys{query}")), r#"[{"id":"k"},{"id":"pfx1"}]"#, "case 82 {query}");
        assert_eq!(list("admin", &format!("/keys{query}")), all, "case 82 {query}");
    }
    assert_eq!(list("operator", "/keys/pfx*?filter"), r#"[{"id":"pfx1"},{"id":"pfx2"}]"#, "case 83");
    rig.admin().put("/users/operator/tags/t", "").is(204);
    assert_eq!(list("operator", "/keys?filter"), all);

    assert_eq!(list("admin", "/keys?label=one"), r#"[{"id":"pfx1"},{"id":"pfx2"}]"#);
    assert_eq!(list("admin", "/keys?label=zwei%20%C3%BC"), r#"[{"id":"Pfx"}]"#);
    assert_eq!(list("admin", "/keys?label=on"), "[]");
    assert_eq!(list("admin", "/keys?label="), r#"[{"id":"k"}]"#);
    assert_eq!(list("admin", "/keys/p*?label=one"), r#"[{"id":"pfx1"},{"id":"pfx2"}]"#);
    assert_eq!(list("operator2", "/keys?label=one&filter"), r#"[{"id":"pfx1"}]"#);
    rig.admin().get(&format!("/keys?label={}", "l".repeat(33))).is(400).says("Label is too long, max 32 bytes");
    rig.admin().get("/keys?label=%ff").is(400).says("Label is not valid UTF-8");
}

/// Cases 84 to 87.
#[test]
fn keys_are_imported_as_json() {
    let rig = Rig::operational();
    let admin = rig.admin();
    admin.put("/keys/k", ed25519()).case(84, 400).says("Key with id k already exists");
    admin.put("/keys/k", "{").case(84, 400);
    let reply = admin.put("/keys/new", ed25519()).case(85, 204).empty();
    assert_eq!(reply.header("location"), None);
    let reply = admin.post("/keys", ed25519()).case(86, 201);
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(reply.text(), format!("{{\"id\":\"{id}\"}}"));
    assert_eq!(reply.header("location"), Some(&*format!("/api/v1/keys/{id}")));
    assert_eq!(id.len(), 20);
    let text = admin.get(&format!("/keys/{id}")).is(200).text().to_owned();
    // The public key of RFC 8032 §7.1, test 1.
    let public = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    let uid = admin.get(&format!("/keys/{id}")).is(200).json()["uid"].as_str().unwrap().to_owned();
    let wanted = format!(
        r#"{{"mechanisms":["EdDSA_Signature"],"type":"Curve25519","operations":0,"public":{{"data":"{public}"}},"restrictions":{{}},"uid":"{uid}"}}"#
    );
    assert_eq!(text, wanted);
    // Import checks neither that mechanisms fit the type nor that there is one.
    admin.put("/keys/odd", rsa_1024(&["EdDSA_Signature"])).case(87, 204);
    admin.put("/keys/none", rsa_1024(&[])).is(204);
    let odd = admin.get("/keys/odd").is(200).json();
    assert_eq!(odd["public"]["publicExponent"], "AQAB");
    assert_eq!(odd["mechanisms"], json!(["EdDSA_Signature"]));
}

/// Case 94.
#[test]
fn imported_key_material_is_checked() {
    let rig = Rig::operational();
    let try_data = |key_type: &str, data: &[u8]| {
        let data = BASE64_STANDARD.encode(data);
        let body = json!({"mechanisms": [], "type": key_type, "private": {"data": data}});
        rig.admin().post("/keys", body)
    };
    try_data("EC_P256", &[1; 31]).case(94, 400);
    try_data("EC_P256", &[1; 33]).is(400);
    try_data("EC_P256", &[0; 32]).is(400);
    try_data("EC_P256", &[0xff; 32]).is(400);
    for (key_type, length) in [
        ("EC_P256", 32),
        ("EC_P256K1", 32),
        ("BrainpoolP256", 32),
        ("EC_P384", 48),
        ("BrainpoolP384", 48),
        ("EC_P521", 66),
        ("BrainpoolP512", 64),
        ("Curve25519", 32),
    ] {
        let mut scalar = vec![1; length];
        scalar[0] = 0;
        try_data(key_type, &scalar).is(201);
        try_data(key_type, &scalar[1..]).is(400);
    }
    try_data("EC_P224", &[1; 28]).is(400);
    try_data("Generic", &[]).is(201);
    let import =
        |private: Value| rig.admin().post("/keys", json!({"mechanisms": [], "type": "EC_P256", "private": private}));
    // Base64 of keys is strict.
    let good = BASE64_STANDARD.encode([1; 32]);
    import(json!({"data": good})).is(201);
    import(json!({"data": good.trim_end_matches('=')})).is(400);
    import(json!({"data": format!("{good}\n")})).is(400);
    import(json!({})).is(400);
    let mut equal_primes = rsa_1024(&[]);
    equal_primes["private"]["primeQ"] = equal_primes["private"]["primeP"].clone();
    rig.admin().post("/keys", equal_primes).is(400);
    let mut composite = rsa_1024(&[]);
    composite["private"]["primeP"] = BASE64_STANDARD.encode([0x81; 64]).into();
    rig.admin().post("/keys", composite).is(400);
}

const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIGgkfYfzN23aWE/pypiXtlT573qz8vy/DU6Wp6TJnY0J\n-----END PRIVATE KEY-----\n";

/// Case 95.
#[test]
fn keys_are_imported_as_pem_in_two_parts() {
    let rig = Rig::operational();
    let multipart = |parts: &[&str]| {
        let part = |body: &&str| format!("--b\r\ncontent-disposition: form-data; name=\"x\"\r\n\r\n{body}\r\n");
        format!("{}--b--\r\n", parts.iter().map(part).collect::<String>())
    };
    let send = |parts: &[&str]| {
        let client = rig.admin().content_type("multipart/form-data; boundary=b");
        client.put("/keys/pem", multipart(parts).as_str())
    };
    let arguments = r#"{"mechanisms":["EdDSA_Signature"],"label":"from PEM","restrictions":{"tags":["t"]}}"#;
    send(&[arguments, PEM, PEM]).case(95, 400);
    send(&[arguments]).is(400);
    send(&[PEM, arguments]).is(400);
    send(&[arguments, "no PEM"]).is(400);
    send(&[arguments, &format!("{PEM}{PEM}")]).is(400);
    let unbounded = rig.admin().content_type("multipart/form-data");
    unbounded.put("/keys/pem", multipart(&[arguments, PEM]).as_str()).is(400);
    rig.admin().get("/keys/pem").is(404);
    send(&[arguments, PEM]).is(204);
    let key = rig.admin().get("/keys/pem").is(200).json();
    assert_eq!((&key["type"], &key["label"]), (&json!("Curve25519"), &json!("from PEM")));
    assert_eq!(key["restrictions"], json!({"tags": ["t"]}));
    send(&[arguments, PEM]).is(400).says("Key with id pem already exists");
    let client = rig.admin().content_type("multipart/form-data; boundary=b");
    client.post("/keys", multipart(&[arguments, PEM]).as_str()).is(201);
}

/// Cases 88 to 93.
#[test]
fn keys_are_generated_with_mechanisms_that_fit() {
    let rig = Rig::operational();
    let rsa = |length: i64| json!({"type": "RSA", "mechanisms": ["RSA_Signature_PKCS1"], "length": length});
    generate(&rig, json!({"type": "RSA", "mechanisms": ["EdDSA_Signature"], "length": 1024})).case(88, 400);
    generate(&rig, json!({"type": "EC_P256", "mechanisms": []})).case(89, 400).says("Empty set of mechanisms");
    let range = "RSA key length must be between 1024 and 8192.";
    generate(&rig, rsa(1023)).case(90, 400).says(range);
    generate(&rig, rsa(8193)).is(400).says(range);
    generate(&rig, rsa(-1)).is(400).says(range);
    generate(&rig, json!({"type": "RSA", "mechanisms": ["RSA_Signature_PKCS1"]})).case(90, 400).says(range);
    generate(&rig, rsa(1024)).is(201);

    let generic = |length: i64| {
        generate(&rig, json!({"type": "Generic", "mechanisms": ["AES_Encryption_CBC"], "length": length, "id": "g"}))
    };
    let range = "Length must be between 128 and 8192.";
    generic(127).is(400).says(range);
    generic(8193).is(400).says(range);
    let reply = generic(129).case(91, 201);
    assert_eq!((reply.text(), reply.header("location")), (r#"{"id":"g"}"#, Some("/api/v1/keys/g")));
    let message = json!({"mode": "AES_CBC", "message": BASE64_STANDARD.encode([0; 16])});
    // 17 bytes are not an AES key, which is noticed when it is used.
    rig.operator().post("/keys/g/encrypt", message).is(400);

    let named =
        |id: &str, label: &str| json!({"type": "EC_P256", "mechanisms": ["ECDSA_Signature"], "id": id, "label": label});
    generate(&rig, named("k", "")).case(92, 400).says("Key with id k already exists");
    generate(&rig, named("new", &"l".repeat(33))).case(93, 400).says("Label is too long, max 32 bytes");
    generate(&rig, named("-new", "")).is(400);
    generate(&rig, named("new", &"ü".repeat(16))).is(201);
    assert_eq!(rig.admin().get("/keys/new").json()["label"], "ü".repeat(16));
    generate(&rig, json!({"type": "EC_P224", "mechanisms": ["ECDSA_Signature"]})).is(400);
    for (key_type, mechanism) in [
        ("Curve25519", "EdDSA_Signature"),
        ("EC_P256K1", "BIP340_Signature"),
        ("EC_P384", "ECDSA_Signature"),
        ("EC_P521", "ECDSA_Signature"),
        ("BrainpoolP256", "ECDSA_Signature"),
        ("BrainpoolP384", "ECDSA_Signature"),
        ("BrainpoolP512", "ECDSA_Signature"),
    ] {
        let body = json!({"type": key_type, "mechanisms": [mechanism, mechanism], "length": 7});
        let id = generate(&rig, body).is(201).json()["id"].as_str().unwrap().to_owned();
        let key = rig.admin().get(&format!("/keys/{id}")).is(200).json();
        assert_eq!((&key["type"], &key["mechanisms"]), (&json!(key_type), &json!([mechanism])));
    }
}

/// Cases 96, 97.
#[test]
fn a_key_moves_with_everything_it_has() {
    let rig = Rig::operational();
    let admin = rig.admin();
    let move_to = |id: &str, new: &str| admin.post(&format!("/keys/{id}/move"), json!({"newId": new}));
    admin.put("/keys/other", ed25519()).is(204);
    move_to("k", "other").case(96, 409).says("Key 'other' already exists");
    move_to("k", "k").case(96, 409).says("Key 'k' already exists");
    admin.post("/keys/missing/move", "{").case(97, 404).empty();
    for new in ["", "-k", "a b", &"k".repeat(129)] {
        move_to("k", new).is(400);
    }
    admin.put("/keys/k/label", json!({"label": "mine"})).is(204);
    admin.put("/keys/k/restrictions/tags/t", "").is(204);
    admin.put("/users/operator/tags/t", "").is(204);
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    let before = admin.get("/keys/k").is(200).text().to_owned();
    assert_eq!(move_to("k", "moved").is(200).text(), r#"{"id":"moved"}"#);
    assert_eq!(admin.get("/keys/moved").is(200).text(), before);
    assert_eq!(admin.get("/keys/moved/cert").is(200).text(), "a certificate");
    admin.get("/keys/k").is(404);
    rig.operator().post("/keys/k/sign", sign_something()).is(404);
    rig.operator().post("/keys/moved/sign", sign_something()).is(200);
    assert_eq!(admin.get("/keys/moved").json()["operations"], 2);
    // The freed id has nothing of the old key.
    admin.put("/keys/k", ed25519()).is(204);
    admin.get("/keys/k/cert").is(404);
    assert_eq!(admin.get("/keys/k").json()["operations"], 0);
}

/// Cases 98 to 101.
#[test]
fn a_label_is_set_once_and_removed_at_any_time() {
    let rig = Rig::operational();
    let admin = rig.admin();
    let label = |text: &str| json!({"label": text});
    admin.put("/keys/k/label", label("l")).is(204).empty();
    admin.put("/keys/k/label", label("l")).case(98, 304).empty();
    admin.put("/keys/k/label", label("")).is(204);
    admin.put("/keys/k/label", label("")).is(304);
    assert!(admin.get("/keys/k").json().get("label").is_none());
    admin.delete("/keys/k/label").case(99, 204).empty();
    admin.delete("/keys/missing/label").is(404).empty();
    assert!(!admin.put("/keys/missing/label", label("l")).case(100, 404).message().is_empty());
    admin.put("/keys/missing/label", json!({})).case(100, 400);
    admin.put("/keys/missing/label", label(&"l".repeat(33))).is(400).says("Label is too long, max 32 bytes");
    admin.put("/keys/k/label", label(&"l".repeat(32))).is(204);
    rig.operator().put("/keys/k/label", label("l")).case(101, 403).empty();
}

#[test]
fn tags_restrict_a_key() {
    let rig = Rig::operational();
    let admin = rig.admin();
    let tag = |tag: &str| format!("/keys/k/restrictions/tags/{tag}");
    admin.put(&tag("t"), "").is(204).empty();
    admin.put(&tag("t"), "").is(304).empty();
    admin.put(&tag("a"), "").is(204);
    assert_eq!(admin.get("/keys/k").json()["restrictions"], json!({"tags": ["a", "t"]}));
    admin.put(&tag("-t"), "").is(400);
    admin.put("/keys/missing/restrictions/tags/t", "").is(404).says("key not found");
    admin.delete(&tag("absent")).is(404).empty();
    admin.delete("/keys/missing/restrictions/tags/t").is(404).empty();
    let not_met = "tags restriction not met";
    rig.operator().post("/keys/k/sign", sign_something()).is(403).says(not_met);
    admin.put("/users/operator/tags/a", "").is(204);
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    admin.delete(&tag("a")).is(204).empty();
    rig.operator().post("/keys/k/sign", sign_something()).is(403).says(not_met);
    // Reading is not restricted.
    rig.operator().get("/keys/k").is(200);
    rig.operator().get("/keys/k/cert").is(200);
    rig.operator().post("/keys/k/csr.pem", json!({"commonName": "c"})).is(200);
    admin.delete(&tag("t")).is(204);
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    // Tags in a body are any strings, each once.
    let mut body = ed25519();
    body["restrictions"] = json!({"tags": ["b b", "ü", "a", "a"]});
    admin.put("/keys/tagged", body).is(204);
    assert_eq!(admin.get("/keys/tagged").json()["restrictions"], json!({"tags": ["a", "b b", "ü"]}));
}

/// Cases 102 to 104.
#[test]
fn a_certificate_is_stored_unchanged_and_only_once() {
    let rig = Rig::operational();
    let admin = rig.admin();
    let bytes: Vec<u8> = (0..=255).collect();
    let put = |id: &str, bytes: &[u8]| {
        admin.clone().content_type("application/octet-stream").put(&format!("/keys/{id}/cert"), bytes.to_vec())
    };
    admin.put("/keys/c", ed25519()).is(204);
    rig.operator().get("/keys/c/cert").case(103, 404).empty();
    admin.delete("/keys/c/cert").case(104, 404).says("There is no certificate for this KeyID.");
    let reply = put("c", &bytes).is(201).empty();
    assert_eq!(reply.header("location"), None);
    assert_eq!(rig.operator().get("/keys/c/cert").is(200).body, bytes);
    put("c", &bytes).case(102, 409).says("Key already contains a certificate");
    admin.delete("/keys/c/cert").is(204).empty();
    put("c", b"another").is(201);
    put("missing", b"c").is(404).says("keyID not found");
    admin.get("/keys/missing/cert").is(404).empty();
    admin.delete("/keys/missing/cert").is(404).empty();
    rig.operator().content_type("application/octet-stream").put("/keys/c/cert", "c").is(403);
    // The largest.
    admin.delete("/keys/c/cert").is(204);
    put("c", &vec![7; (1 << 20) + 1]).is(413);
    put("c", &vec![7; 1 << 20]).is(201);
    assert_eq!(admin.get("/keys/c/cert").is(200).body.len(), 1 << 20);
    // Deleting a key deletes its certificate.
    admin.delete("/keys/c").is(204).empty();
    admin.put("/keys/c", ed25519()).is(204);
    admin.get("/keys/c/cert").is(404);
}

#[test]
fn operations_are_counted_and_the_count_survives_a_reboot() {
    let mut rig = Rig::operational();
    let operations = |rig: &Rig| rig.admin().get("/keys/k").is(200).json()["operations"].as_u64().unwrap();
    assert_eq!(operations(&rig), 0);
    for _ in 0..3 {
        rig.operator().post("/keys/k/sign", sign_something()).is(200);
    }
    rig.operator().post("/keys/k/sign", json!({"mode": "ECDSA", "message": ""})).is(400);
    rig.operator().post("/keys/k/csr.pem", json!({"commonName": "c"})).is(200);
    assert_eq!(operations(&rig), 3);
    rig.admin().post("/system/reboot", "").is(204);
    rig.reboot();
    rig.unlock().is(204);
    assert_eq!(operations(&rig), 3);
}
