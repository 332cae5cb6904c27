//! Profiles that are added, shown and removed, and trust on first use.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::harness::{ADMIN, Hsm, Ran, run};
use crate::other_servers::Web;
use crate::pty::Person;

/// The fingerprint from the error about an untrusted certificate.
fn pin(hsm: &Hsm) -> String {
    let message = run(&["--host", &hsm.address, "info"], &[], b"").fails(4);
    message.split_once("--pin ").unwrap().1.split(',').next().unwrap().to_owned()
}

fn with(file: &str, arguments: &[&str]) -> Ran {
    run(arguments, &[("CASEMATE_CONFIG", file)], b"")
}

#[test]
fn a_person_trusts_an_hsm_once() {
    let hsm = Hsm::operational();
    let (file, pin, admin) = (hsm.at("new/folder/config.toml"), pin(&hsm), hsm.at("admin"));
    let add = [
        "profile",
        "add",
        "default",
        "--host",
        &hsm.address,
        "--user",
        "admin",
        "--passphrase-file",
        &admin,
        "--config",
        &file,
    ];
    let mut person = Person::runs(&add, &[]);
    person.sees(&pin);
    person.sees("Trust it from now on? [y/N] ");
    person.types("n");
    assert_eq!(person.ends().0, 13);
    assert!(fs::metadata(&file).is_err());

    let mut person = Person::runs(&add, &[]);
    person.sees("Trust it from now on? [y/N] ");
    person.types("y");
    let (code, out, shown) = person.ends();
    assert!(code == 0 && out.contains("casemate doctor"), "{shown}{out}");
    with(&file, &["user", "list"]).ok();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(&file).unwrap().contains(ADMIN));
    let shown = with(&file, &["profile", "show", "default", "--json"]).json();
    let (host, profile) = (&hsm.address, "default");
    let all = json!({
        "profile": profile, "hosts": [host], "pin": [pin], "user": "admin", "passphrase-file": admin, "trust": "pin",
    });
    assert_eq!(shown, all);
    assert!(with(&file, &["profile", "show", "default"]).ok().contains(&pin));
}

#[test]
fn nobody_is_trusted_without_a_person_or_a_pin() {
    let hsm = Hsm::start();
    let (file, pin) = (hsm.at("config.toml"), pin(&hsm));
    let add = ["--yes", "--host", &hsm.address, "profile", "add", "lab"];
    assert!(with(&file, &add).fails(4).contains(&format!("--pin {pin}")));
    assert!(with(&file, &[&["--insecure"], &add[..]].concat()).fails(2).contains("cannot be --insecure"));
    let wrong = "00".repeat(32);
    assert!(
        with(&file, &[&["--pin", &wrong], &add[..]].concat()).fails(4).contains("not one of the pinned certificates")
    );
    assert!(fs::metadata(&file).is_err());
    let added = with(&file, &[&["--json", "--pin", &pin], &add[..]].concat()).json();
    assert_eq!((&added["profile"], &added["pin"]), (&json!("lab"), &json!([pin])));
    with(&file, &["--profile", "lab", "info"]).ok();

    let web = Web::start("2100-01-01", "");
    with(&file, &["--host", &web.address, "--ca-file", &web.ca, "profile", "add", "ca"]).ok();
    let shown = with(&file, &["profile", "show", "ca", "--json"]).json();
    assert_eq!((&shown["trust"], &shown["ca-file"]), (&json!("ca-file"), &json!(web.ca)));
    let other = Web::start("2100-01-01", "");
    with(&file, &["--host", &web.address, "--ca-file", &other.ca, "profile", "add", "other"]).fails(4);
}

#[test]
fn what_was_written_by_hand_stays() {
    let hsm = Hsm::start();
    let pin = pin(&hsm);
    let text = "# Mine.\n[profile.old]  # the old one\nhosts = [ \"old.example\" ] # spare\n\n# The end.\n";
    let file = hsm.folder.file("config.toml", text);
    let link = hsm.at("link.toml");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    with(&link, &["--host", &hsm.address, "--pin", &pin, "profile", "add", "new.lab_2"]).ok();
    let now = fs::read_to_string(&file).unwrap();
    for line in text.lines() {
        assert!(now.contains(line), "{line}: {now}");
    }
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(with(&file, &["profile", "list"]).ok().contains("old.example"));
    let listed = with(&file, &["profile", "list", "--json"]).json();
    assert_eq!((&listed[0]["profile"], &listed[1]["profile"]), (&json!("new.lab_2"), &json!("old")));

    let again = with(&file, &["--host", &hsm.address, "--pin", &pin, "profile", "add", "old"]).fails(2);
    assert!(again.contains("profile rm old"), "{again}");
    assert!(with(&file, &["profile", "rm", "new.lab_2"]).fails(2).contains("--yes"));
    with(&file, &["profile", "rm", "new.lab_2", "--yes"]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    assert!(with(&file, &["profile", "show", "new.lab_2"]).fails(2).contains("its profiles: old"));
    assert!(with(&file, &["profile", "rm", "none", "--yes"]).fails(2).contains("has no profile none"));
    with(&file, &["profile", "add", "a b", "--host", "x"]).fails(2);
    assert!(with(&file, &["profile", "add", "x"]).fails(2).contains("use --host"));
    let left: Vec<_> = fs::read_dir(hsm.folder.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}
