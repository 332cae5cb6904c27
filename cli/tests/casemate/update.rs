//! Updates with images that are really signed.

use std::fs;

use casemate_testkit::Vendor;
use serde_json::json;

use crate::harness::{ADMIN, Hsm};
use crate::pty::Person;

/// The version that the vendor's program was told to install.
fn installed(hsm: &Hsm) -> Option<String> {
    fs::read_to_string(hsm.folder.path("installed")).ok()
}

#[test]
fn an_update_is_uploaded_and_then_cancelled_or_committed() {
    let hsm = Hsm::updatable();
    let image = Vendor::image(&hsm.folder, "image", "9.8", "What is new:\nmuch");
    let message = hsm.admin(&["update", "upload", &image]).ok();
    assert!(message.starts_with("What is new:\nmuch\n") && message.contains("casemate update commit"), "{message}");
    hsm.admin(&["update", "upload", &image]).fails(9);
    hsm.admin(&["update", "cancel"]).ok();
    assert!(hsm.admin(&["update", "cancel"]).fails(10).contains("No update available"));
    let message = hsm.admin(&["update", "upload", &image, "--json"]).json();
    assert_eq!(message, json!({ "releaseNotes": "What is new:\nmuch" }));
    assert!(hsm.admin(&["update", "commit"]).fails(2).contains("--yes"));
    assert_eq!(installed(&hsm), None);
    hsm.admin(&["update", "commit", "--yes"]).ok();
    assert_eq!(installed(&hsm).as_deref(), Some("9.8\n"));
}

#[test]
fn an_update_is_installed_in_one_step() {
    let hsm = Hsm::updatable();
    let image = Vendor::image(&hsm.folder, "image", "9.9", "All new.");
    // Without a terminal it fails before it uploads anything.
    assert!(hsm.admin(&["update", "install", &image]).fails(2).contains("--yes"));
    assert!(hsm.admin(&["update", "cancel"]).fails(10).contains("No update available"));
    let message = hsm.admin(&["update", "install", &image, "--yes", "--json"]).json();
    assert_eq!(message, json!({ "releaseNotes": "All new.", "installed": true }));
    assert_eq!(installed(&hsm).as_deref(), Some("9.9\n"));
}

#[test]
fn an_image_that_was_altered_is_refused() {
    let hsm = Hsm::updatable();
    let image = Vendor::image(&hsm.folder, "image", "9.9", "All new.");
    let mut bytes = fs::read(&image).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let altered = hsm.folder.file("altered", bytes);
    assert!(hsm.admin(&["update", "install", &altered, "--yes"]).fails(10).contains("Signature check"));
    assert_eq!(installed(&hsm), None);
}

#[test]
fn an_update_that_is_declined_is_forgotten() {
    let hsm = Hsm::updatable();
    let image = Vendor::image(&hsm.folder, "image", "9.9", "All new.");
    let arguments = ["--host", &hsm.address, "--insecure", "--user", "admin", "update", "install", &image];
    let mut person = Person::runs(&arguments, &[("CASEMATE_PASSPHRASE", ADMIN)]);
    person.sees("cannot be undone. Continue? [y/N] ");
    person.types("n");
    let (code, out, rest) = person.ends();
    assert_eq!((code, out.as_str()), (13, "All new.\n"), "{rest}");
    assert!(hsm.admin(&["update", "cancel"]).fails(10).contains("No update available"));
    assert_eq!(installed(&hsm), None);
}
