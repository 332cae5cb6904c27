//! Kills during a restore: afterwards the HSM has either the complete old state or the complete new one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::daemon::{ADMIN, Client, Daemon, Folder, UNLOCK};
use crate::{Dice, MS, killed_during, moment, rounds};

const BACKUP: &str = "backup passphrase";
const OPERATOR: &str = "operator";
const OPERATOR_PASSPHRASE: &str = "operator passphrase";
const KEYS: usize = 150;

/// An HSM with keys called `new-…`, its backup, and the same HSM later, with only keys called `old-…`.
struct World {
    provisioned: Folder,
    backup: Vec<u8>,
}

fn make_keys(admin: &Client, prefix: &str, count: usize) {
    for number in 0..count {
        let id = format!("{prefix}-{number}");
        let key = json!({ "type": "Curve25519", "mechanisms": ["EdDSA_Signature"], "id": id, "label": prefix });
        admin.call("POST", "/keys/generate", Some(&key)).unwrap().expect(201);
    }
}

impl World {
    fn new() -> Self {
        let provisioned = Folder::new();
        let daemon = Daemon::start(&provisioned);
        daemon.client().provision().unwrap().expect(204);
        let admin = daemon.client().log_in("admin", ADMIN);
        admin.boot_unattended("on");
        admin.create_operator(OPERATOR, OPERATOR_PASSPHRASE);
        let user = json!({ "realName": "", "role": "Backup", "passphrase": BACKUP });
        admin.call("PUT", "/users/backup", Some(&user)).unwrap().expect(201);
        make_keys(&admin, "new", KEYS);
        let passphrase = json!({ "newPassphrase": BACKUP, "currentPassphrase": "" });
        admin.call("PUT", "/config/backup-passphrase", Some(&passphrase)).unwrap().expect(204);
        let backup = daemon.client().log_in("backup", BACKUP);
        let backup = backup.call("POST", "/system/backup", None).unwrap().expect(200).bytes;
        for number in 0..KEYS {
            admin.call("DELETE", &format!("/keys/new-{number}"), None).unwrap().expect(204);
        }
        make_keys(&admin, "old", KEYS / 3);
        assert_eq!(daemon.terminate().0, Some(0));
        Self { provisioned, backup }
    }
}

/// Which of the two states an Operational HSM has: `old` or `new`. It must have one of them completely.
fn state_of(daemon: &Daemon) -> &'static str {
    let client = daemon.client();
    let admin = client.log_in("admin", ADMIN);
    let list = admin.call("GET", "/keys", None).unwrap().expect(200).json();
    let ids: BTreeSet<String> =
        list.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
    let all = |prefix: &str, count: usize| (0..count).map(|number| format!("{prefix}-{number}")).collect();
    let (state, count) = if ids == all("new", KEYS) {
        ("new", KEYS)
    } else {
        assert_eq!(ids, all("old", KEYS / 3), "half a restore");
        ("old", KEYS / 3)
    };
    // Every key opens, and some are used.
    let operator = client.log_in(OPERATOR, OPERATOR_PASSPHRASE);
    let sign = json!({ "mode": "EdDSA", "message": "YQ==" });
    for number in 0..count {
        let key = admin.call("GET", &format!("/keys/{state}-{number}"), None).unwrap().expect(200).json();
        assert_eq!(key["label"], state);
        if number % 50 == 0 {
            operator.call("POST", &format!("/keys/{state}-{number}/sign"), Some(&sign)).unwrap().expect(200);
        }
    }
    state
}

#[test]
fn a_kill_leaves_a_restore_in_place_undone_or_done() {
    let mut dice = Dice::new();
    let World { provisioned, backup } = World::new();
    let mut whole = Duration::from_millis(300);
    let (mut done, mut undone) = (0, 0);
    for round in 0..rounds().div_ceil(4) {
        let folder = Folder::new();
        provisioned.copy_data_to(&folder);
        let daemon = Daemon::start(&folder);
        let admin = daemon.client().log_in("admin", ADMIN);
        admin.call("GET", "/system/info", None).unwrap().expect(200);
        // The salt of the file is the HSM's own, so no passphrase is needed.
        let after = moment(&mut dice, round, whole);
        let answer = killed_during(daemon, after, || admin.restore(&json!({}), &backup));

        let daemon = Daemon::start(&folder);
        assert_eq!(daemon.client().state(), "Operational", "unattended boot stays on");
        match state_of(&daemon) {
            "new" => done += 1,
            _ => {
                undone += 1;
                assert!(answer.is_none(), "it was answered with {}", answer.unwrap().status);
                let admin = daemon.client().log_in("admin", ADMIN);
                let begun = Instant::now();
                admin.restore(&json!({}), &backup).unwrap().expect(204);
                whole = begun.elapsed();
                assert_eq!(state_of(&daemon), "new");
            }
        }
    }
    println!("restore in place: {done} done, {undone} undone; it takes {whole:?}");
}

#[test]
fn a_kill_leaves_a_restore_of_a_new_device_undone_or_done() {
    let mut dice = Dice::new();
    let World { backup, .. } = World::new();
    let arguments = json!({ "backupPassphrase": BACKUP });
    let mut whole = Duration::from_millis(600);
    let (mut done, mut undone) = (0, 0);
    for round in 0..rounds().div_ceil(8) {
        let folder = Folder::new();
        let daemon = Daemon::start(&folder);
        let client = daemon.client();
        let after = moment(&mut dice, round, whole);
        let answer = killed_during(daemon, after, || client.restore(&arguments, &backup));

        let mut daemon = Daemon::start(&folder);
        if daemon.client().state() == "Unprovisioned" {
            undone += 1;
            assert!(answer.is_none(), "it was answered with {}", answer.unwrap().status);
            let begun = Instant::now();
            daemon.client().restore(&arguments, &backup).unwrap().expect(204);
            whole = begun.elapsed();
        } else {
            done += 1;
        }
        // The first unlock converts the restored entries into our rows, and is interrupted by kills as well.
        assert_eq!(daemon.client().state(), "Locked");
        let client = daemon.client();
        let after = dice.between(200 * MS, 900 * MS);
        let unlock = json!({ "passphrase": UNLOCK });
        killed_during(daemon, after, || client.call("POST", "/unlock", Some(&unlock)));
        daemon = Daemon::start(&folder);
        assert_eq!(daemon.client().state(), "Locked");
        daemon.client().unlock(UNLOCK).expect(204);
        assert_eq!(state_of(&daemon), "new");
    }
    println!("restore of a new device: {done} done, {undone} undone; it takes {whole:?}");
}
