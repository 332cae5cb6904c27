//! Commands about an HSM as a whole.

use serde_json::json;

use crate::harness::{Hsm, run};

#[test]
fn without_arguments_there_is_a_short_help() {
    let help = run(&[], &[], b"").ok();
    assert!(help.contains("provision") && help.contains("--passphrase-file"), "{help}");
}

#[test]
fn an_hsm_goes_through_its_states() {
    let hsm = Hsm::start();
    let state = |hsm: &Hsm| hsm.nobody(&["state", "--json"]).json();
    assert_eq!(state(&hsm), json!([{ "node": hsm.address, "state": "Unprovisioned" }]));
    assert_eq!(hsm.nobody(&["info"]).ok().lines().count(), 2);
    assert!(hsm.nobody(&["info", "--json"]).json()["product"].is_string());

    let message = hsm
        .nobody(&[
            "provision",
            "--unlock-passphrase-file",
            &hsm.at("unlock"),
            "--admin-passphrase-file",
            &hsm.at("admin"),
        ])
        .ok();
    assert!(message.contains("Write both passphrases down"), "{message}");
    assert!(hsm.nobody(&["state"]).ok().contains("Operational"));

    assert!(hsm.admin(&["lock"]).ok().contains("Locked"));
    assert_eq!(state(&hsm)[0]["state"], "Locked");
    let wrong = hsm.nobody(&["unlock", "--unlock-passphrase-file", &hsm.at("admin")]).fails(6);
    assert!(wrong.contains("the unlock passphrase is wrong"), "{wrong}");
    // A wrong passphrase blocks the next one for a second.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    hsm.nobody(&["unlock", "--unlock-passphrase-file", &hsm.at("unlock")]).ok();
    assert_eq!(state(&hsm)[0]["state"], "Operational");
}

#[test]
fn random_bytes_come_in_three_forms() {
    let hsm = Hsm::operational();
    assert_eq!(hsm.operator(&["random", "33", "--format", "raw"]).out.len(), 33);
    assert_eq!(hsm.operator(&["random", "33", "--format", "hex"]).ok().len(), 67);
    assert_eq!(hsm.operator(&["random", "33"]).ok().len(), 45);
    assert_eq!(hsm.operator(&["random", "33", "--json"]).json()["random"].as_str().unwrap().len(), 44);
    assert_eq!(hsm.operator(&["random", "1025"]).code, 2);
}

#[test]
fn metrics_are_for_their_own_role() {
    let hsm = Hsm::operational();
    hsm.admin(&["user", "add", "m", "--role", "Metrics", "--new-passphrase-file", &hsm.at("op")]).ok();
    let metrics = hsm.with(("m", crate::harness::OPERATOR), &["metrics", "--json"], b"").json();
    assert!(metrics.as_object().is_some_and(|all| !all.is_empty()), "{metrics}");
    hsm.with(("m", crate::harness::OPERATOR), &["metrics"], b"").ok();
    hsm.operator(&["metrics"]).fails(6);
}

#[test]
fn the_unlock_passphrase_and_unattended_boot_are_set() {
    let hsm = Hsm::operational();
    assert_eq!(hsm.admin(&["config", "unattended-boot", "show", "--json"]).json(), json!({ "status": "off" }));
    assert_eq!(hsm.admin(&["config", "unattended-boot", "set", "on"]).ok(), "Unattended boot is on.\n");
    assert_eq!(hsm.admin(&["config", "unattended-boot", "set", "off", "--json"]).json(), json!({ "status": "off" }));
    let (current, new) = (hsm.at("unlock"), hsm.at("op"));
    let change = ["config", "unlock-passphrase", "--current-passphrase-file", &current, "--new-passphrase-file", &new];
    hsm.admin(&change).ok();
    hsm.admin(&["lock"]).ok();
    hsm.nobody(&["unlock", "--unlock-passphrase-file", &new]).ok();
}

#[test]
fn the_system_shows_its_versions_and_is_erased_only_on_purpose() {
    let hsm = Hsm::operational();
    assert!(hsm.admin(&["system", "info"]).ok().contains("Device id"));
    assert!(hsm.admin(&["system", "info", "--json"]).json()["deviceId"].is_string());
    for verb in ["reboot", "shutdown", "factory-reset"] {
        assert!(hsm.admin(&["system", verb]).fails(2).contains("--yes"));
    }
    assert!(hsm.nobody(&["state"]).ok().contains("Operational"));
}

#[test]
fn an_hsm_is_restarted_shut_down_and_erased() {
    for (verb, message) in [("reboot", "reboots"), ("shutdown", "shuts down"), ("factory-reset", "erases everything")] {
        let hsm = Hsm::operational();
        assert!(hsm.admin(&["system", verb, "--yes"]).ok().contains(message));
    }
}
