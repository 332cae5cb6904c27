//! Users and namespaces.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Rig, ed25519, passphrase_of, sign_something};

fn new_user(role: &str) -> Value {
    json!({"realName": "Somebody", "role": role, "passphrase": "a good passphrase"})
}

fn with_passphrase(length: usize) -> Value {
    json!({"realName": "", "role": "Operator", "passphrase": "x".repeat(length)})
}

/// Cases 42 to 46.
#[test]
fn users_are_created_with_a_name_or_without() {
    let rig = Rig::operational();
    let admin = rig.admin();
    let mut body = new_user("Operator");
    body["more"] = "than asked".into();
    admin.post("/users", body).case(42, 400);
    let relaxed = r#"{realName:"x",role:"Operator",passphrase:"1234567890"}"#;
    let reply = admin.post("/users", relaxed).case(43, 201);
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(reply.text(), format!("{{\"id\":\"{id}\"}}"));
    assert!(id.len() == 20 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id}");
    assert_eq!(reply.header("location"), Some(&*format!("/api/v1/users/{id}")));
    rig.login(&id, "1234567890").get("/keys").is(200);

    let length = "passphrase passphrase is not >= 10 and <= 200 characters";
    admin.post("/users", with_passphrase(201)).case(44, 400).says(length);
    admin.post("/users", with_passphrase(200)).is(201);
    admin.post("/users", with_passphrase(9)).is(400).says(length);
    admin.post("/users", with_passphrase(10)).is(201);

    let reply = admin.put("/users/operator", new_user("Operator")).case(45, 409);
    assert_eq!(reply.clone().says("user already exists").header("location"), None);
    let reply = admin.put("/users/u", new_user("Backup")).case(46, 201).empty();
    assert_eq!(reply.header("location"), Some("/api/v1/users/u"));
    assert_eq!(admin.get("/users/u").text(), r#"{"realName":"Somebody","role":"Backup"}"#);
    // The body is checked before the existing id.
    admin.put("/users/operator", with_passphrase(9)).is(400);
}

/// Case 47.
#[test]
fn user_ids_obey_the_rule_of_ids() {
    let rig = Rig::operational();
    let longest = "u".repeat(128);
    for id in ["_u", "-u", ".u", &format!("{longest}u"), "test+user", "u%20u", "%C3%BC"] {
        rig.admin().put(&format!("/users/{id}"), new_user("Operator")).case(47, 400);
    }
    for id in [&longest, "u_-.u", "0"] {
        rig.admin().put(&format!("/users/{id}"), new_user("Operator")).is(201);
    }
    // The id is parsed where rights are checked: every authenticated caller learns that it is malformed.
    rig.operator().get("/users/_u").is(400);
    rig.operator().post("/users/_u/passphrase", json!({})).is(400);
    for user in ["operator", "metrics", "backup"] {
        rig.user(user).get("/users/_u").is(400);
        rig.user(user).delete("/users/_u").is(400);
        rig.user(user).get("/users/_u/tags").is(400);
        rig.user(user).put("/users/_u/tags/t", "").is(400);
        rig.user(user).post("/users/_u/passphrase", "").is(400);
        // Creating a user checks the role first.
        rig.user(user).put("/users/_u", new_user("Operator")).is(403);
    }
    rig.anonymous().get("/users/_u").is(401);
}

/// Cases 48 to 55.
#[test]
fn users_of_a_namespace_are_created_before_it_exists_or_by_its_own_administrators() {
    let rig = Rig::operational();
    let (admin, ns1) = (rig.admin(), rig.user("ns1~admin"));
    admin.put("/users/ns1~u", new_user("Operator")).case(48, 403).message();
    admin.put("/users/ns1~u", "{").case(49, 400);
    admin.put("/users/ns9~u", new_user("Administrator")).case(50, 201);
    rig.login("ns9~u", "a good passphrase").get("/keys").case(51, 403);
    admin.put("/namespaces/ns9", "").is(204);
    rig.login("ns9~u", "a good passphrase").get("/keys").is(200);

    ns1.put("/users/op", new_user("Operator")).case(52, 403).message();
    ns1.put("/users/ns2~u", new_user("Operator")).is(403).message();
    let reply = ns1.put("/users/ns1~u", new_user("Operator")).case(53, 201);
    assert_eq!(reply.header("location"), Some("/api/v1/users/ns1~u"));
    let reply = ns1.post("/users/ns1~", new_user("Operator")).case(54, 201);
    let location = reply.header("location").unwrap();
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(location, format!("/api/v1/users/{id}"));
    assert!(id.starts_with("ns1~") && id.len() == 24, "{id}");
    rig.login(&id, "a good passphrase").get("/keys").is(200);
    ns1.post("/users/ns2~", new_user("Operator")).is(403).message();
    admin.post("/users/ns1~", new_user("Operator")).is(403).message();
    admin.post("/users/ghost~/", new_user("Operator")).is(201);
    // Without a namespace in the path, it is the caller's.
    let reply = ns1.post("/users", new_user("Operator")).is(201);
    assert!(reply.json()["id"].as_str().unwrap().starts_with("ns1~"), "{reply}");

    for path in ["/users/ns1", "/users/~", "/users/~x", "/users/ns1~x"] {
        admin.post(path, new_user("Operator")).case(55, 400);
    }
    rig.operator().post("/users/ns1", new_user("Operator")).is(403);
}

/// Cases 56 to 60.
#[test]
fn the_root_reads_users_of_a_namespace_and_deletes_them_once_it_is_gone() {
    let rig = Rig::operational();
    let admin = rig.admin();
    admin.get("/users/ns1~operator").case(56, 200);
    admin.delete("/users/ns1~operator").case(57, 403).empty();
    admin.delete("/users/ns1~missing").case(58, 403).empty();
    admin.put("/users/ns1~operator/tags/t", "").is(403);
    assert_eq!(admin.get("/users/ns1~operator/tags").is(200).text(), "[]");
    admin.delete("/namespaces/ns1").is(204).empty();
    rig.user("ns1~operator").get("/keys").is(403);
    admin.delete("/users/ns1~operator").case(59, 204).empty();
    admin.delete("/users/ns1~operator").is(404).empty();
    admin.delete("/users/admin").case(60, 400).says("Users cannot delete themselves");
    rig.user("ns2~admin").delete("/users/ns2~admin").case(60, 400);
    rig.user("ns2~admin").delete("/users/ns2~operator").is(204);
    // The last Administrator is not protected.
    admin.put("/users/admin2", new_user("Administrator")).is(201);
    rig.login("admin2", "a good passphrase").delete("/users/admin").is(204);
    rig.admin().get("/keys").is(401);
}

/// Cases 64, 66.
#[test]
fn passphrases_are_set_without_the_old_one() {
    let rig = Rig::operational();
    let new = json!({"passphrase": "a new passphrase"});
    rig.admin().post("/users/operator/passphrase", new.clone()).is(204).empty();
    rig.login("operator", "a new passphrase").get("/keys").is(200);
    rig.operator().get("/keys").is(401);
    rig.user("ns1~operator").post("/users/ns1~operator/passphrase", new.clone()).case(64, 204);
    rig.user("ns2~admin").post("/users/ns1~operator/passphrase", new.clone()).is(403);
    rig.admin().post("/users/missing/passphrase", "{").case(66, 404).empty();
    rig.admin().post("/users/metrics/passphrase", json!({"passphrase": "123456789"})).is(400);
    rig.admin().post("/users/metrics/passphrase", json!({"passphrase": "x".repeat(201)})).is(400);
    rig.user("metrics").get("/metrics").is(200);
    // The current passphrase is not required where it is not asked for.
    rig.admin().untyped().post("/users/ghost~admin/passphrase", new).is(204);
}

/// Cases 67 to 70.
#[test]
fn tags_are_for_operators() {
    let rig = Rig::operational();
    let admin = rig.admin();
    admin.get("/users/backup/tags").case(67, 404).empty();
    admin.get("/users/missing/tags").is(404).empty();
    let only = "tag operations only exist on operator users";
    admin.put("/users/backup/tags/t", "").case(68, 400).says(only);
    admin.put("/users/operator/tags/t", "").case(69, 204).empty();
    admin.put("/users/operator/tags/t", "").case(69, 304).empty();
    admin.put("/users/operator/tags/a", "").is(204);
    assert_eq!(admin.get("/users/operator/tags").is(200).text(), r#"["a","t"]"#);
    assert_eq!(rig.operator().get("/users/operator/tags").is(200).text(), r#"["a","t"]"#);
    admin.delete("/users/operator/tags/t").is(204).empty();
    admin.delete("/users/operator/tags/t").case(70, 404).empty();
    admin.delete("/users/backup/tags/t").is(404).empty();
    admin.delete("/users/missing/tags/t").is(404).empty();
    admin.put("/users/missing/tags/t", "").is(404).says("");
    for tag in ["-t", "t%20t", "%C3%BC", &"t".repeat(129)] {
        admin.put(&format!("/users/operator/tags/{tag}"), "").is(400);
    }
    admin.put(&format!("/users/operator/tags/{}", "t".repeat(128)), "").is(204);
    rig.operator().put("/users/operator/tags/t", "").is(403);
}

/// Case 71.
#[test]
fn the_root_lists_all_users_and_a_namespace_its_own() {
    let rig = Rig::operational();
    let all = concat!(
        r#"[{"user":"admin"},{"user":"backup"},{"user":"ghost~admin"},{"user":"ghost~metrics"},"#,
        r#"{"user":"ghost~operator"},{"user":"metrics"},{"user":"ns1~admin"},{"user":"ns1~backup"},"#,
        r#"{"user":"ns1~metrics"},{"user":"ns1~operator"},{"user":"ns2~admin"},{"user":"ns2~operator"},"#,
        r#"{"user":"operator"},{"user":"operator2"}]"#
    );
    assert_eq!(rig.admin().get("/users").is(200).text(), all);
    let own = r#"[{"user":"ns2~admin"},{"user":"ns2~operator"}]"#;
    assert_eq!(rig.user("ns2~admin").get("/users").case(71, 200).text(), own);
    rig.operator().get("/users").is(403);
}

/// Cases 73, 74.
#[test]
fn namespaces_are_listed_created_and_deleted() {
    let rig = Rig::operational();
    let admin = rig.admin();
    assert_eq!(admin.get("/namespaces").text(), r#"[{"id":"ns1"},{"id":"ns2"}]"#);
    admin.put("/namespaces/ns1", "").case(73, 400).says("Namespace ns1 already exists");
    admin.delete("/namespaces/missing").case(74, 404).empty();
    for id in ["-ns", "n%20s", "ns1~x", &"n".repeat(129)] {
        admin.put(&format!("/namespaces/{id}"), "").is(400);
        admin.delete(&format!("/namespaces/{id}")).is(400);
    }
    // A name that another one starts with is a different name.
    admin.put("/namespaces/ns", "").is(204);
    admin.delete("/namespaces/ns").is(204).empty();
    assert_eq!(admin.get("/namespaces").text(), r#"[{"id":"ns1"},{"id":"ns2"}]"#);
    rig.user("ns1~admin").get("/keys/k").is(200);
}

#[test]
fn a_deleted_namespace_takes_its_keys_along_and_leaves_its_users_powerless() {
    let rig = Rig::operational();
    let (ns1, operator) = (rig.user("ns1~admin"), rig.user("ns1~operator"));
    operator.post("/keys/k/sign", sign_something()).is(200);
    rig.admin().delete("/namespaces/ns1").is(204);
    operator.post("/keys/k/sign", sign_something()).is(403).empty();
    ns1.get("/keys").is(403);
    rig.user("ns1~metrics").get("/metrics").is(403);
    // When it is created again, its users are back, but none of its keys.
    rig.admin().put("/namespaces/ns1", "").is(204);
    assert_eq!(ns1.get("/keys").is(200).text(), "[]");
    ns1.get("/keys/k").is(404);
    ns1.get("/keys/k/cert").is(404);
    operator.post("/keys/k/sign", sign_something()).is(404);
    ns1.put("/keys/k", ed25519()).is(204);
    ns1.get("/keys/k/cert").is(404);
    // The root's key of that name was never touched.
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
}

/// Keys of the root and of each namespace are separate.
#[test]
fn nobody_sees_or_uses_a_key_of_another_namespace() {
    let rig = Rig::operational();
    rig.user("ns1~admin").put("/keys/ours", ed25519()).is(204);
    for user in ["admin", "ns2~admin"] {
        let other = rig.user(user);
        other.get("/keys/ours").is(404).empty();
        other.get("/keys/ours/public.pem").is(404);
        other.get("/keys/ours/cert").is(404);
        other.post("/keys/ours/csr.pem", json!({"commonName": "c"})).is(404);
        other.delete("/keys/ours").is(404);
        other.post("/keys/ours/move", json!({"newId": "mine"})).is(404);
        other.put("/keys/ours/label", json!({"label": "mine"})).is(404);
        other.put("/keys/ours/restrictions/tags/mine", "").is(404);
        assert!(!other.get("/keys").text().contains("ours"));
        assert_eq!(other.get("/keys/our*").text(), "[]");
        // The same id again, in another namespace.
        other.put("/keys/ours", ed25519()).is(204);
        other.delete("/keys/ours").is(204);
    }
    rig.operator().post("/keys/ours/sign", sign_something()).is(404);
    rig.user("ns2~operator").post("/keys/ours/sign", sign_something()).is(404);
    rig.user("ns1~operator").post("/keys/ours/sign", sign_something()).is(200);
    assert_eq!(rig.user("ns1~admin").get("/keys").text(), r#"[{"id":"k"},{"id":"ours"}]"#);
}

/// Case 79.
#[test]
fn random_bytes_come_in_lengths_of_1_to_1024() {
    let rig = Rig::operational();
    let random = |length: i64| rig.operator().post("/random", json!({"length": length}));
    let range = "Invalid data for JSON schema: length: length must be between 1 and 1024";
    for length in [0, 1025, -1, i64::MAX, i64::MIN] {
        random(length).case(79, 400).says(range);
    }
    for (length, base64) in [(1, 4), (1024, 1368)] {
        let text = random(length).is(200).json()["random"].as_str().unwrap().to_owned();
        assert_eq!(text.len(), base64, "{text}");
    }
    assert_ne!(random(32).body, random(32).body);
}

/// A wrong passphrase does not reveal whether the user exists.
#[test]
fn a_namespace_reveals_nothing_about_users_of_another() {
    let rig = Rig::operational();
    let ns1 = rig.user("ns1~admin");
    for user in ["operator", "missing", "ns2~operator", "ns2~missing", "ghost~operator"] {
        ns1.get(&format!("/users/{user}")).is(403).empty();
        ns1.delete(&format!("/users/{user}")).is(403).empty();
        ns1.get(&format!("/users/{user}/tags")).is(403).empty();
        ns1.put(&format!("/users/{user}/tags/t"), "").is(403).empty();
        ns1.post(&format!("/users/{user}/passphrase"), json!({"passphrase": passphrase_of("x")})).is(403).empty();
    }
    rig.advance(Duration::from_secs(1));
    rig.user("operator").get("/keys").is(200);
}
