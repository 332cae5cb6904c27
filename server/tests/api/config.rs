//! Configuration: the unlock passphrase, and what the HSM does at boot.

use std::time::Duration;

use casemate_api::State;
use serde_json::{Value, json};

use crate::rig::{Rig, UNLOCK};

/// Case 124.
#[test]
fn changing_the_unlock_passphrase_requires_the_current_one() {
    let mut rig = Rig::operational();
    let change = |rig: &Rig, new: &str, current: Value| {
        rig.admin().put("/config/unlock-passphrase", json!({"newPassphrase": new, "currentPassphrase": current}))
    };
    let new = "the next unlock passphrase";
    let wrong = "unlock passphrase is incorrect.";
    change(&rig, new, "not the passphrase".into()).case(124, 403).says(wrong);
    rig.advance(Duration::from_secs(1));
    change(&rig, new, "".into()).case(124, 403).says(wrong);
    change(&rig, new, Value::Null).is(400);
    change(&rig, "123456789", UNLOCK.into()).is(400);
    change(&rig, &"x".repeat(201), UNLOCK.into()).is(400);
    rig.advance(Duration::from_secs(1));
    change(&rig, new, UNLOCK.into()).is(204).empty();
    rig.admin().post("/lock", "").is(204);
    rig.unlock().is(403);
    rig.advance(Duration::from_secs(1));
    rig.anonymous().post("/unlock", json!({"passphrase": new})).is(204);
    rig.reboot();
    rig.unlock().is(403);
    rig.advance(Duration::from_secs(1));
    rig.anonymous().post("/unlock", json!({"passphrase": new})).is(204);
    rig.operator().post("/keys/k/sign", crate::rig::sign_something()).is(200);
}

/// Case 133.
#[test]
fn unattended_boot_is_on_or_off() {
    let mut rig = Rig::operational();
    let put = |rig: &Rig, body: Value| rig.admin().put("/config/unattended-boot", body);
    let get = |rig: &Rig| rig.admin().get("/config/unattended-boot").is(200).text().to_owned();
    assert_eq!(get(&rig), r#"{"status":"off"}"#);
    for bad in [
        json!({"status": "maybe"}),
        json!({"status": "On"}),
        json!({"status": true}),
        json!({}),
        json!("on"),
        json!(["on"]),
    ] {
        put(&rig, bad).case(133, 400);
    }
    rig.reboot();
    assert_eq!(rig.hsm.state(), State::Locked);
    rig.unlock().is(204);

    put(&rig, json!({"status": "on"})).is(204).empty();
    put(&rig, json!({"status": "on"})).is(204);
    assert_eq!(get(&rig), r#"{"status":"on"}"#);
    rig.reboot();
    assert_eq!(rig.hsm.state(), State::Operational);
    rig.operator().post("/keys/k/sign", crate::rig::sign_something()).is(200);
    // Locking does not prevent the next unattended boot.
    rig.admin().post("/lock", "").is(204);
    assert_eq!(rig.hsm.state(), State::Locked);
    rig.reboot();
    assert_eq!(rig.hsm.state(), State::Operational);
    // The unlock passphrase is not involved.
    let body = json!({"newPassphrase": "another unlock passphrase", "currentPassphrase": UNLOCK});
    rig.admin().put("/config/unlock-passphrase", body).is(204);
    rig.reboot();
    assert_eq!(rig.hsm.state(), State::Operational);

    put(&rig, json!({"status": "off"})).is(204);
    assert_eq!(get(&rig), r#"{"status":"off"}"#);
    rig.reboot();
    assert_eq!(rig.hsm.state(), State::Locked);
    rig.unlock().is(403);
}

#[test]
fn a_locked_hsm_does_not_reveal_whether_it_boots_unattended() {
    let rig = Rig::locked();
    rig.admin().get("/config/unattended-boot").is(412);
    rig.admin().put("/config/unattended-boot", json!({"status": "on"})).is(412);
}
