//! Backups, and what is made of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::{ADMIN, Hsm, OPERATOR, run};
use crate::pty::Person;

/// An HSM with the key `k`, a backup passphrase (that of the file `op`) and a user `backup`.
fn hsm() -> Hsm {
    let hsm = Hsm::operational();
    hsm.admin(&["key", "generate", "k", "--type", "EC_P256", "-m", "ECDSA_Signature"]).ok();
    hsm.admin(&["config", "backup-passphrase", "--first", "--new-passphrase-file", &hsm.at("op")]).ok();
    hsm.admin(&["user", "add", "backup", "--role", "Backup", "--new-passphrase-file", &hsm.at("op")]).ok();
    hsm
}

/// Creates a backup in the file `bak`; its path and the output.
fn backup(hsm: &Hsm) -> (String, Value) {
    let file = hsm.at("bak");
    let message = hsm.with(("backup", OPERATOR), &["backup", "--to", &file, "--json"], b"").json();
    (file, message)
}

fn names(hsm: &Hsm) -> Vec<String> {
    let folder = fs::read_dir(hsm.folder.path("")).unwrap();
    folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_backup_is_a_whole_file_for_its_owner_alone() {
    let hsm = hsm();
    let (file, message) = backup(&hsm);
    let bytes = fs::read(&file).unwrap();
    assert!(bytes.starts_with(b"_NETHSM_BACKUP_") && bytes.ends_with(b"_NETHSM_BACKUP_END_"));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    let sha256: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(message, json!({ "file": file, "bytes": bytes.len(), "sha256": sha256 }));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(names(&hsm).iter().all(|name| !name.ends_with(".part")));

    let user = ("backup", OPERATOR);
    assert!(hsm.with(user, &["backup", "--to", &file], b"").fails(1).contains("--force"));
    assert_eq!(fs::read(&file).unwrap(), bytes);
    let message = hsm.with(user, &["backup", "--to", &file, "--force"], b"").ok();
    assert!(message.contains("casemated backup verify"), "{message}");
    let piped = hsm.with(user, &["backup", "--to", "-"], b"");
    assert!(piped.code == 0 && piped.out.ends_with(b"_NETHSM_BACKUP_END_"));
    assert!(hsm.with(user, &["backup", "--to", "-", "--json"], b"").fails(2).contains("--to FILE"));
}

#[test]
fn a_backup_that_is_refused_leaves_no_file() {
    let hsm = Hsm::operational();
    hsm.admin(&["user", "add", "backup", "--role", "Backup", "--new-passphrase-file", &hsm.at("op")]).ok();
    let file = hsm.at("bak");
    // No backup passphrase is set.
    assert!(hsm.with(("backup", OPERATOR), &["backup", "--to", &file], b"").fails(10).contains("backup"));
    hsm.operator(&["backup", "--to", &file]).fails(6);
    assert!(hsm.operator(&["backup", "--to", "/nowhere/bak"]).fails(1).contains("/nowhere/bak"));
    assert!(names(&hsm).iter().all(|name| !name.contains("bak")), "{:?}", names(&hsm));
}

#[test]
fn a_backup_that_breaks_off_leaves_no_file() {
    let half =
        "HTTP/1.1 200 X\r\ncontent-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhalf-\r\n";
    let server = casemate_testkit::MockServer::start(move |_| casemate_testkit::Reaction::SendAndClose(half.into()));
    let folder = crate::harness::Folder::new();
    let file = folder.at("bak");
    let arguments = ["--host", &server.address, "--insecure", "--user", "b", "backup", "--to", &file];
    let message = crate::harness::run(&arguments, &[("CASEMATE_PASSPHRASE", OPERATOR)], b"").fails(1);
    assert!(message.contains("broke off after 5 bytes") && message.contains("Nothing was kept"), "{message}");
    assert_eq!(fs::read_dir(folder.path("")).unwrap().count(), 0);
}

#[test]
fn a_fresh_hsm_becomes_what_was_backed_up() {
    let (old, new) = (hsm(), Hsm::start());
    let (file, _) = backup(&old);
    assert!(new.nobody(&["restore", "/nowhere/bak", "--yes"]).fails(1).contains("/nowhere/bak cannot be read"));
    let restore = ["restore", &file, "--backup-passphrase-file", &old.at("op")];
    assert!(new.nobody(&restore).fails(2).contains("users, keys and settings of the backup"));
    let message = new.nobody(&[&restore[..], &["--yes"]].concat()).ok();
    assert!(message.contains("unlock passphrase from when the backup was created"), "{message}");
    new.nobody(&["unlock", "--unlock-passphrase-file", &new.at("unlock")]).ok();
    assert_eq!(new.admin(&["key", "list", "--json"]).json(), json!([{ "id": "k" }]));
}

#[test]
fn keys_come_back_into_the_hsm_they_were_deleted_in() {
    let hsm = hsm();
    let (file, _) = backup(&hsm);
    hsm.admin(&["key", "delete", "k", "--yes"]).ok();
    hsm.admin(&["key", "generate", "other", "--type", "EC_P256", "-m", "ECDSA_Signature"]).ok();
    let message = hsm.admin(&["restore", &file, "--stored-backup-passphrase"]).fails(2);
    assert!(message.contains("Replacing all users, namespaces and keys"), "{message}");
    let message = hsm.admin(&["restore", &file, "--stored-backup-passphrase", "--yes", "--json"]).json();
    assert_eq!(message, json!({ "restore": "partial", "state": "Operational" }));
    assert_eq!(hsm.admin(&["key", "list", "--json"]).json(), json!([{ "id": "k" }]));
    hsm.admin(&["lock"]).ok();
    hsm.admin(&["restore", &file, "--yes"]).fails(8);
}

#[test]
fn a_backup_comes_from_standard_input() {
    let (old, new) = (hsm(), Hsm::start());
    let (file, _) = backup(&old);
    let arguments = ["restore", "-", "--backup-passphrase-file", &old.at("op"), "--yes", "--json"];
    let message = new.with(("nobody", OPERATOR), &arguments, &fs::read(file).unwrap()).json();
    assert_eq!(message, json!({ "restore": "full", "state": "Locked" }));
}

#[test]
fn what_cannot_be_restored_changes_nothing() {
    let (old, new) = (hsm(), Hsm::start());
    let (file, _) = backup(&old);
    let passphrase = old.at("op");
    let restore =
        |file: &str, passphrase: &str| new.nobody(&["restore", file, "--backup-passphrase-file", passphrase, "--yes"]);
    assert!(restore(&file, &old.at("unlock")).fails(10).contains("passphrase"));
    let whole = fs::read(&file).unwrap();
    let half = old.folder.file("half", &whole[..whole.len() - 30]);
    restore(&half, &passphrase).fails(10);
    let other = old.folder.file("other", vec![7; 300_000]);
    assert!(restore(&other, &passphrase).fails(10).contains("Not a NetHSM backup file"));
    assert!(restore("/nowhere", &passphrase).fails(1).contains("/nowhere"));
    assert_eq!(new.nobody(&["state", "--json"]).json()[0]["state"], "Unprovisioned");
}

#[test]
fn a_person_is_asked_and_sees_how_far_it_is() {
    let hsm = hsm();
    let (file, _) = backup(&hsm);
    let passphrase = hsm.at("op");
    let arguments = ["--host", &hsm.address, "--insecure", "--user", "admin", "restore", &file];
    let arguments = [&arguments[..], &["--backup-passphrase-file", &passphrase]].concat();
    // On a terminal that can go back to the beginning of a line.
    let environment = [("CASEMATE_PASSPHRASE", ADMIN), ("TERM", "xterm")];
    let mut person = Person::runs(&arguments, &environment);
    person.sees("Continue? [y/N] ");
    person.types("n");
    assert_eq!(person.ends().0, 13);

    let mut person = Person::runs(&arguments, &environment);
    person.sees("Continue? [y/N] ");
    person.types("y");
    person.sees("KiB of ");
    let (code, out, rest) = person.ends();
    assert!(code == 0 && out.contains("It is Operational"), "{code} {out} {rest}");
}

#[test]
fn what_does_not_begin_like_a_backup_is_none() {
    for body in ["", "<html>a portal</html>"] {
        let server =
            casemate_testkit::MockServer::start(move |_| casemate_testkit::reply_as("application/octet-stream", body));
        let folder = crate::harness::Folder::new();
        let login = ["--insecure", "--host", &server.address, "--user", "backup"];
        let file = folder.at("bak");
        for to in [file.as_str(), "-"] {
            let made = run(&[&login[..], &["backup", "--to", to]].concat(), &[("CASEMATE_PASSPHRASE", OPERATOR)], b"");
            assert_eq!(made.code, 12, "{}", made.err);
        }
        assert_eq!(fs::read_dir(folder.path("")).unwrap().count(), 0);
    }
}
