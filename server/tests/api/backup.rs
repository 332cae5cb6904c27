//! Backup and restore through the API.

use std::time::Duration;

use casemate_api::State;
use casemate_core::store::Store;
use serde_json::{Value, json};

use crate::rig::{BASE, Client, Rig, SYSTEM_TIME, UNLOCK, ed25519, passphrase_of, sign_something};
use crate::wire::Reply;

const BACKUP: &str = "the backup passphrase";
const FORM: &str = "multipart/form-data; boundary=b";

/// A form as the SDKs send it: arguments first, every part with the same type, an empty line before.
fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = b"\r\n".to_vec();
    for (name, content) in parts {
        let head = format!(
            "--b\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--b--\r\n");
    body
}

fn restore(client: Client<'_>, arguments: Value, file: &[u8]) -> Reply {
    let arguments = arguments.to_string();
    let body = form(&[("arguments", arguments.as_bytes()), ("backup_file", file)]);
    client.content_type(FORM).post("/system/restore", body)
}

fn with_passphrase() -> Value {
    json!({"backupPassphrase": BACKUP})
}

fn set_backup_passphrase(rig: &Rig, new: &str, current: Value) -> Reply {
    rig.admin().put("/config/backup-passphrase", json!({"newPassphrase": new, "currentPassphrase": current}))
}

/// The usual world with a backup passphrase, and its backup.
fn backed_up() -> (Rig, Vec<u8>) {
    let rig = Rig::operational();
    set_backup_passphrase(&rig, BACKUP, "".into()).is(204);
    let file = backup(&rig);
    (rig, file)
}

fn backup(rig: &Rig) -> Vec<u8> {
    rig.user("backup").post("/system/backup", "").is(200).body
}

/// Case 125.
#[test]
fn changing_the_backup_passphrase_requires_the_current_one() {
    let mut rig = Rig::operational();
    let wrong = "backup passphrase is incorrect.";
    set_backup_passphrase(&rig, BACKUP, Value::Null).is(400);
    set_backup_passphrase(&rig, BACKUP, "a passphrase".into()).is(403).says(wrong);
    set_backup_passphrase(&rig, "123456789", "".into()).is(400);
    set_backup_passphrase(&rig, &"x".repeat(201), "".into()).is(400);
    rig.advance(Duration::from_secs(1));
    set_backup_passphrase(&rig, BACKUP, "".into()).case(125, 204).empty();
    set_backup_passphrase(&rig, BACKUP, "".into()).case(125, 403).says(wrong);
    rig.reboot();
    rig.unlock().is(204);
    set_backup_passphrase(&rig, "the next backup passphrase", "wrong".into()).is(403).says(wrong);
    rig.advance(Duration::from_secs(1));
    set_backup_passphrase(&rig, "the next backup passphrase", BACKUP.into()).is(204);
    set_backup_passphrase(&rig, BACKUP, BACKUP.into()).is(403);
    rig.user("ns1~admin").put("/config/backup-passphrase", json!({})).is(403).empty();
    rig.admin().content_type("text/plain").put("/config/backup-passphrase", "{}").is(415);
}

/// Cases 32, 77 and 134.
#[test]
fn a_backup_is_for_backup_users_once_a_passphrase_is_set() {
    let rig = Rig::operational();
    let sentence = "Please configure backup key before doing a backup.";
    rig.user("backup").post("/system/backup", "").case(134, 412).says(sentence);
    rig.user("backup").header("accept", "application/json").post("/system/backup", "").case(32, 406).empty();
    rig.user("ns1~backup").post("/system/backup", "").case(77, 403).empty();
    rig.admin().post("/system/backup", "").is(403);
    rig.anonymous().post("/system/backup", "").is(401);
    set_backup_passphrase(&rig, BACKUP, "".into()).is(204);
    let reply = rig.user("backup").post("/system/backup", "").is(200);
    assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
    assert_eq!(reply.header("transfer-encoding"), Some("chunked"));
    assert!(reply.body.starts_with(b"_NETHSM_BACKUP_\x01") && reply.body.ends_with(b"\0\0\0_NETHSM_BACKUP_END_"));
    let secrets = [&b"operator"[..], b"certificate", UNLOCK.as_bytes(), BACKUP.as_bytes()];
    assert!(secrets.iter().all(|secret| !reply.body.windows(secret.len()).any(|window| window == *secret)));
}

#[test]
fn a_new_device_becomes_the_one_that_was_backed_up() {
    let (rig, file) = backed_up();
    let public = rig.admin().get("/keys/k/public.pem").is(200).text().to_owned();
    drop(rig);
    let mut rig = Rig::unprovisioned();
    let reply = restore(rig.anonymous(), with_passphrase(), &file).is(204).empty();
    assert_eq!(
        (reply.header("content-type"), reply.header("cache-control")),
        (Some("application/json"), Some("no-cache"))
    );
    assert_eq!(rig.hsm.state(), State::Locked);
    rig.admin().get("/keys").is(412);
    rig.unlock().is(204);
    assert_eq!(rig.admin().get("/keys/k/public.pem").is(200).text(), public);
    assert_eq!(rig.admin().get("/keys/k/cert").is(200).text(), "a certificate");
    // The users, their passphrases and their namespaces are those of the backup.
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    rig.user("ns1~operator").post("/keys/k/sign", sign_something()).is(200);
    rig.user("ns2~operator").post("/keys/k/sign", sign_something()).is(404);
    assert!(rig.admin().get("/config/unattended-boot").text().contains("off"));
    rig.reboot();
    assert_eq!(rig.hsm.state(), State::Locked);
    rig.unlock().is(204);
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    // So is the backup passphrase.
    let again = backup(&rig);
    restore(rig.admin(), json!({}), &again).is(204);
}

/// Case 141.
#[test]
fn a_restore_of_its_own_backup_leaves_the_hsm_operational_and_removes_what_came_later() {
    let (rig, file) = backed_up();
    rig.admin().put("/keys/later", ed25519()).is(204);
    rig.admin().put("/namespaces/later", "").is(204);
    rig.admin().delete("/keys/k").is(204);
    restore(rig.admin(), json!({}), &file).case(141, 204);
    assert_eq!(rig.hsm.state(), State::Operational);
    rig.admin().get("/keys/later").is(404);
    assert_eq!(rig.admin().get("/namespaces").text(), r#"[{"id":"ns1"},{"id":"ns2"}]"#);
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    rig.admin().put("/keys/later", ed25519()).is(204);
    // With an explicit passphrase and a time.
    let arguments = json!({"backupPassphrase": BACKUP, "systemTime": "2040-01-01T00:00:00Z"});
    let reply = restore(rig.admin(), arguments, &file).is(204);
    assert_eq!(reply.header("date"), Some("Sun, 01 Jan 2040 00:00:00 GMT"));
    // Absent and null are the same.
    restore(rig.admin(), json!({"backupPassphrase": null, "systemTime": null}), &file).is(204);
    assert_eq!(rig.admin().get("/keys").header("date"), Some("Sun, 01 Jan 2040 00:00:00 GMT"));
}

#[test]
fn the_backup_of_another_hsm_locks_this_one_and_its_users_are_gone() {
    let (_, file) = backed_up();
    let mut rig = Rig::unprovisioned();
    let body = json!({
        "unlockPassphrase": "another unlock passphrase",
        "adminPassphrase": "another admin passphrase",
        "systemTime": SYSTEM_TIME,
    });
    rig.anonymous().post("/provision", body).is(204);
    let another_admin = || rig.login("admin", "another admin passphrase");
    another_admin().put("/config/unattended-boot", json!({"status": "on"})).is(204);
    another_admin().put("/keys/own", ed25519()).is(204);
    // Not with its own backup passphrase, which is not set.
    restore(another_admin(), json!({}), &file).is(400).says("No backupPassphrase provided");
    if rig.sim.store.is_shared() {
        // It would make the other nodes useless.
        let reply = restore(another_admin(), with_passphrase(), &file).is(412);
        let refused = reply.text();
        assert!(refused.contains("another HSM"), "{refused}");
        another_admin().get("/keys/own").is(200);
        return;
    }
    let answer = restore(another_admin(), with_passphrase(), &file).is(204);
    assert_eq!(answer.header("casemate-note"), Some(casemate_api::sentences::RESTORE_CAN_BE_UNDONE));
    assert_eq!(rig.hsm.state(), State::Locked);
    rig.anonymous().post("/unlock", json!({"passphrase": "neither passphrase"})).is(403);
    rig.reboot();
    assert_eq!(rig.hsm.state(), State::Locked);
    rig.advance(Duration::from_secs(1));
    rig.unlock().is(204);
    rig.login("admin", "another admin passphrase").get("/keys").is(401);
    rig.advance(Duration::from_secs(1));
    assert_eq!(rig.admin().get("/keys").is(200).text(), r#"[{"id":"k"}]"#);
    // After it was unlocked, the restore can no longer be undone.
    rig.admin().post("/lock", "").is(204);
    rig.anonymous().post("/unlock", json!({"passphrase": "another unlock passphrase"})).is(403);
}

/// Cases 138 to 140 and 142 to 143.
#[test]
fn restores_are_refused_in_the_documented_order() {
    let (rig, file) = backed_up();
    restore(rig.anonymous(), json!({}), &file).case(139, 401);
    restore(rig.operator(), json!({}), &file).is(403).empty();
    restore(rig.user("ns1~admin"), json!({}), &file).is(403).empty();
    rig.admin().untyped().post("/system/restore", form(&[])).case(142, 415).empty();
    rig.admin().content_type("nonsense").post("/system/restore", form(&[])).is(415).empty();
    rig.admin().content_type(FORM).header("accept", "text/html").post("/system/restore", form(&[])).is(406).empty();
    let wrong = "Could not decrypt backup-version, authentication failed. Is the passphrase correct?";
    restore(rig.admin(), json!({"backupPassphrase": "wrong"}), &file).case(143, 400).says(wrong);

    let refused = |arguments: &str, file: &[u8]| {
        let body = form(&[("arguments", arguments.as_bytes()), ("backup_file", file)]);
        rig.admin().content_type(FORM).post("/system/restore", body).is(400).message()
    };
    assert!(refused("{", b"not read").starts_with("Invalid JSON: "));
    assert!(refused(r#"{"passphrase":"x"}"#, b"not read").starts_with("Invalid data for JSON schema: "));
    let time = r#"{"systemTime":"2020-01-01T00:00:00+01:00"}"#;
    assert_eq!(refused(time, b"not read"), "Error while parsing timestamp. Offset must be 0.");
    assert_eq!(refused(&format!("{{}}{}", " ".repeat(1023)), &file), "Meta data is too large.");
    assert_eq!(refused("{}", b"PK\x03\x04"), "Not a NetHSM backup file");
    assert!(refused("{}", b"_NETHSM_BACKUP_\x07").starts_with("Version mismatch on restore, "));
    let mut other_salt = file.clone();
    other_salt[20] ^= 1;
    assert_eq!(refused("{}", &other_salt), "No backupPassphrase provided");
    assert_eq!(refused("{}", b""), "Backup data cannot be empty.");
    assert_eq!(refused("{}", &file[..file.len() - 100]), "Unexpected end of data");
    assert_eq!(refused("{}", &file[..file.len() - 1]), "The backup file was truncated. Nothing was restored.");
    let mut altered = file.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    assert_eq!(refused("{}", &altered), "Could not decrypt backup, authentication failed. Is the passphrase correct?");

    let sent =
        |parts: &[(&str, &[u8])]| rig.admin().content_type(FORM).post("/system/restore", form(parts)).is(400).message();
    assert_eq!(sent(&[("arguments", b"{}")]), "Backup data cannot be empty.");
    assert_eq!(sent(&[]), "Body cannot be empty.");
    assert!(sent(&[("backup_file", &file), ("arguments", b"{}")]).contains("must come before"));
    assert!(sent(&[("arguments", b"{}"), ("backup_file", &file), ("x", b"y")]).contains("exactly two parts"));
    assert!(rig.admin().post("/system/restore", json!({})).is(400).message().contains("multipart/form-data"));
    let half = form(&[("arguments", b"{}"), ("backup_file", &file)]);
    let half = half[..half.len() - 8].to_vec();
    rig.admin().content_type(FORM).post("/system/restore", half).is(400);

    // None of these requests changed anything.
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    // Parts with unknown names: by order.
    let body = form(&[("a.json", b"{}"), ("b.bin", &file)]);
    rig.admin().content_type(FORM).post("/system/restore", body).is(204);

    rig.admin().post("/lock", "").is(204);
    restore(rig.admin(), with_passphrase(), &file).case(138, 412).says("Service not available");
    drop(rig);
    let rig = Rig::unprovisioned();
    restore(rig.anonymous(), json!({}), &file).case(140, 400).says("No backupPassphrase provided");
    assert_eq!(rig.hsm.state(), State::Unprovisioned);
}

/// Waits until a restore has recorded its step.
fn has_begun(rig: &Rig) {
    while !rig.sim.local.raw_rows().iter().any(|(path, _)| path.as_bytes() == b"step") {
        std::thread::yield_now();
    }
}

#[test]
fn an_aborted_restore_changes_nothing_and_does_not_block_the_next() {
    let (rig, file) = backed_up();
    let begin = || {
        let mut wire = rig.connect();
        let body = form(&[("arguments", b"{}"), ("backup_file", &file)]);
        let mut head = rig.admin().content_type(FORM).head("POST", &format!("{BASE}/system/restore"), false);
        head.extend_from_slice(format!("content-length: {}\r\nexpect: 100-continue\r\n\r\n", body.len()).as_bytes());
        wire.send(&head);
        wire.reply("POST").is(100);
        let (first, rest) = body.split_at(body.len() - 50);
        wire.send(first);
        (wire, rest.to_vec())
    };
    // While one waits for its client, other restores are refused, and the HSM can be locked.
    let (mut wire, rest) = begin();
    has_begun(&rig);
    restore(rig.admin(), json!({}), &file)
        .is(503)
        .says("A restore or a move of the store is running. Try again when it is over.");
    let op = std::sync::Arc::downgrade(&rig.hsm.operational().unwrap());
    rig.admin().post("/lock", "").is(204);
    assert_eq!(op.strong_count(), 0);
    wire.send(&rest);
    wire.reply("POST").is(412);
    rig.unlock().is(204);
    // One whose client disconnects.
    let (wire, _) = begin();
    has_begun(&rig);
    drop(wire);
    let mut tries = 0;
    while restore(rig.admin(), json!({}), &file).status != 204 {
        tries += 1;
        assert!(tries < 100_000);
        std::thread::yield_now();
    }
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
}

#[test]
fn a_caller_who_loses_their_rights_during_the_upload_restores_nothing() {
    let (rig, file) = backed_up();
    let second = json!({"realName": "x", "role": "Administrator", "passphrase": passphrase_of("second")});
    rig.admin().put("/users/second", second).is(201);
    let mut wire = rig.connect();
    let body = form(&[("arguments", b"{}"), ("backup_file", &file)]);
    let mut head = rig.user("second").content_type(FORM).head("POST", &format!("{BASE}/system/restore"), false);
    head.extend_from_slice(format!("content-length: {}\r\nexpect: 100-continue\r\n\r\n", body.len()).as_bytes());
    wire.send(&head);
    wire.reply("POST").is(100);
    let (first, rest) = body.split_at(body.len() - 50);
    wire.send(first);
    has_begun(&rig);
    rig.admin().delete("/users/second").is(204);
    wire.send(rest);
    wire.reply("POST").is(401);
    rig.user("second").get("/keys").is(401);
}

#[test]
fn a_backup_is_aborted_when_the_hsm_locks() {
    let (rig, _) = backed_up();
    // More than all buffers between the HSM and a client that does not read.
    for number in 0..40 {
        let id = format!("large{number}");
        rig.admin().put(&format!("/keys/{id}"), ed25519()).is(204);
        let certificate = rig.admin().content_type("application/octet-stream");
        certificate.put(&format!("/keys/{id}/cert"), vec![7; 1 << 20]).is(201);
    }
    let op = rig.hsm.operational().unwrap();
    let waiting = std::sync::Arc::weak_count(&op);
    let mut wire = rig.connect();
    let mut head = rig.user("backup").head("POST", &format!("{BASE}/system/backup"), false);
    head.extend_from_slice(b"content-length: 0\r\n\r\n");
    wire.send(&head);
    // Between two pieces the backup holds the phase weakly.
    while std::sync::Arc::weak_count(&op) == waiting {
        std::thread::yield_now();
    }
    let op = {
        let weak = std::sync::Arc::downgrade(&op);
        drop(op);
        weak
    };
    rig.admin().post("/lock", "").is(204);
    assert_eq!(op.strong_count(), 0, "nobody holds the phase while the client does not read");
    assert!(wire.try_reply("POST").is_err(), "half a backup is not taken for a whole one");
}

#[test]
fn a_backup_is_inspected_and_verified_without_an_hsm() {
    use casemate_api::Passphrase;
    use casemate_server::tool::backup::{BackupError, inspect, verify};
    let (_rig, file) = backed_up();
    let folder = std::env::temp_dir().join(format!("casemate-backup-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("backup.bin");
    std::fs::write(&path, &file).unwrap();
    let secret = |text: &str| Passphrase::from_text(text.into());

    let mut out = Vec::new();
    inspect(&path, secret(BACKUP), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.starts_with("version 1, device ") && text.contains("\nthe backup is complete; configuration: "),
        "{text}"
    );
    for path in ["/key/k", "/key/.ns1/k", "/authentication/ns1~operator", "/namespace/ns2"] {
        assert!(text.lines().any(|line| line.ends_with(&format!("  {path}"))), "{path}: {text}");
    }
    let mut out = Vec::new();
    verify(&path, secret(BACKUP), &secret(UNLOCK), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("works  /key/k  Curve25519 EdDSA_Signature\n"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("2 keys work, "), "{text}");

    let why = |result: Result<(), BackupError>| result.unwrap_err().to_string();
    assert!(why(inspect(&path, secret("wrong"), &mut Vec::new())).ends_with("Is the passphrase correct?"));
    assert!(why(verify(&path, secret(BACKUP), &secret("wrong"), &mut Vec::new())).contains("unlock passphrase"));
    std::fs::write(&path, &file[..file.len() - 30]).unwrap();
    assert!(inspect(&path, secret(BACKUP), &mut Vec::new()).is_err());
    std::fs::remove_dir_all(&folder).unwrap();
}
