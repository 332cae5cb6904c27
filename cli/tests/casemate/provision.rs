//! Setting up a new HSM: by hand on a terminal, with passphrases that are made, and in scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use casemate_api::{Passphrase, UserId};
use casemate_client::{Client, Settings, Trust};
use serde_json::{Value, json};

use crate::harness::{Hsm, run};
use crate::pty::Person;

const UNLOCK: &str = "gravel tumble oyster kite";
const ADMIN: &str = "walnut copper drizzle seven";

fn person(hsm: &Hsm, arguments: &[&str]) -> Person {
    Person::runs(&[&["--host", &hsm.address, "--insecure"], arguments].concat(), &[])
}

#[test]
fn a_person_is_led_from_a_new_hsm_to_a_sheet() {
    let hsm = Hsm::start();
    let mut person = person(&hsm, &["provision"]);
    person.sees("is Unprovisioned. The SHA-256 fingerprint of its certificate is");
    // A short one is not taken, a weak one only if it is meant.
    let mut shown = person.sees("New Unlock Passphrase (leave empty to generate one): ");
    person.types_unseen("short");
    shown += &person.sees("10 to 200 bytes");
    shown += &person.sees("New Unlock Passphrase (leave empty to generate one): ");
    person.types_unseen("casemate1234");
    shown += &person.sees("This is weak: it can be guessed with fewer than");
    shown += &person.sees("Choose at least four random words, or leave it empty to generate one.");
    shown += &person.sees("Use it anyway? [y/N] ");
    person.types("");
    shown += &person.sees("New Unlock Passphrase (leave empty to generate one): ");
    person.types_unseen(UNLOCK);
    shown += &person.sees("New Unlock Passphrase, again: ");
    person.types_unseen("another");
    shown += &person.sees("The two entries differ. Try again.");
    shown += &person.sees("New Unlock Passphrase (leave empty to generate one): ");
    person.types_unseen(UNLOCK);
    shown += &person.sees("New Unlock Passphrase, again: ");
    person.types_unseen(UNLOCK);
    shown += &person.sees("New passphrase of admin (leave empty to generate one): ");
    person.types_unseen(ADMIN);
    shown += &person.sees("New passphrase of admin, again: ");
    person.types_unseen(ADMIN);
    shown += &person.sees("Set a Backup Passphrase as well?");
    shown += &person.sees("[Y/n] ");
    person.types("");
    shown += &person.sees("New Backup Passphrase (leave empty to generate one): ");
    person.types_unseen("");
    shown += &person.sees("Backup Passphrase: ");
    let made = person.sees("\r\n");
    person.sees("Have you written them down? [y/N] ");
    person.types("y");
    let (code, out, rest) = person.ends();
    shown += &rest;

    assert_eq!(code, 0, "{rest}");
    assert_eq!(made.len(), 35, "{made}");
    for text in ["Device id", &hsm.address, "Unlock Passphrase", "passphrase of admin", "Backup Passphrase", "Next:"] {
        assert!(out.contains(text), "{text}: {out}");
    }
    for secret in [UNLOCK, ADMIN, "casemate1234", &made] {
        assert!(!out.contains(secret) && !shown.contains(secret), "{secret} is shown");
    }
    let (unlock, admin) = (hsm.folder.file("u", UNLOCK), hsm.folder.file("a", ADMIN));
    let as_admin = ["--user", "admin", "--passphrase-file", &admin];
    hsm.nobody(&[&as_admin[..], &["lock"]].concat()).ok();
    hsm.nobody(&["unlock", "--unlock-passphrase-file", &unlock]).ok();
    let again = ["provision", "--unlock-passphrase-file", &unlock, "--admin-passphrase-file", &admin];
    assert!(hsm.nobody(&again).fails(8).contains("already set up"));
    // Whoever changes the Backup Passphrase has to know it.
    let client = Client::new(Settings { trust: Trust::Anyone, ..Settings::of([&hsm.address]) }).unwrap();
    let secret = |text: &str| Passphrase::from_text(text.to_owned());
    let session = client.log_in(&UserId::parse("admin").unwrap(), secret(ADMIN));
    session.config().set_backup_passphrase(secret(""), secret(UNLOCK)).unwrap_err();
    session.config().set_backup_passphrase(secret(&made), secret(UNLOCK)).unwrap();
}

#[test]
fn a_passphrase_that_is_made_is_set_only_when_it_is_written_down() {
    let hsm = Hsm::start();
    let mut person = person(&hsm, &["provision", "--generate"]);
    person.sees("Have you written them down? [y/N] ");
    person.types("n");
    let (code, out, rest) = person.ends();
    assert_eq!((code, out.as_str()), (13, ""), "{rest}");
    assert!(hsm.nobody(&["state"]).ok().contains("Unprovisioned"));
}

#[test]
fn nothing_is_asked_of_an_hsm_that_is_set_up() {
    let hsm = Hsm::operational();
    let (code, _, shown) = person(&hsm, &["provision"]).ends();
    assert_eq!(code, 8);
    assert!(shown.contains("is Operational, so it is already set up") && shown.contains("factory-reset"), "{shown}");
    assert!(!shown.contains("assphrase"), "{shown}");
    hsm.admin(&["lock"]).ok();
    let (code, _, shown) = person(&hsm, &["provision"]).ends();
    assert!(code == 8 && shown.contains("unlock it with `casemate unlock`"), "{shown}");
}

#[test]
fn passphrases_are_made_into_a_new_file_that_only_the_owner_reads() {
    let hsm = Hsm::start();
    let file = hsm.at("sheet");
    let make = ["--json", "provision", "--generate", "--passphrases-to", &file];
    let value: Value = hsm.nobody(&make).json();
    assert_eq!(value["passphrases"], json!(["Unlock Passphrase", "passphrase of admin", "Backup Passphrase"]));
    assert_eq!((value["node"].as_str(), value["done"].as_bool()), (Some(hsm.address.as_str()), Some(true)));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let admin = of("passphrase of admin: ");
    assert!(!value.to_string().contains(&admin));
    let info = hsm.with(("admin", &admin), &["system", "info", "--json"], b"").json();
    assert_eq!(info["deviceId"], value["deviceId"]);
    // The fingerprint is the one to pin.
    let pin = value["fingerprint"].as_str().unwrap();
    run(&["--host", &hsm.address, "--pin", pin, "info"], &[], b"").ok();

    let other = Hsm::start();
    assert!(other.nobody(&make).fails(1).contains("already exists"));
    assert!(other.nobody(&["state"]).ok().contains("Unprovisioned"));
    assert!(other.nobody(&["provision", "--generate"]).fails(2).contains("--passphrases-to"));
    assert_eq!(other.nobody(&["provision", "--passphrases-to", &file]).code, 2);
}

#[test]
fn a_weak_passphrase_in_a_file_is_a_warning_and_no_refusal() {
    let hsm = Hsm::start();
    let (weak, admin, backup) = (
        hsm.folder.file("w", "casemate1234"),
        hsm.folder.file("a", ADMIN),
        hsm.folder.file("b", "backup of many words"),
    );
    let files =
        ["--unlock-passphrase-file", &weak, "--admin-passphrase-file", &admin, "--backup-passphrase-file", &backup];
    let ran = hsm.nobody(&[&["provision"], &files[..]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.starts_with("casemate: warning: The Unlock Passphrase in "), "{}", ran.err);
    assert!(ran.err.contains("is weak") && !ran.err.contains("casemate1234"), "{}", ran.err);
}
