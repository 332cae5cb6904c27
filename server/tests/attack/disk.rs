//! A full disk: who fills it, what still works then, and that the HSM does not become Failed.
//!
//! The data folder is on a small tmpfs, which requires root.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::daemon::{ADMIN, Client, Daemon, Folder, UNLOCK};

/// A small volume as the data folder of a [`Folder`], unmounted when dropped.
struct Volume(PathBuf);

impl Volume {
    fn on(folder: &Folder) -> Self {
        let data = folder.data();
        fs::create_dir(&data).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=48m,mode=0700", "casemate-test"];
        let mounted = Command::new("mount").args(options).arg(&data).status().unwrap();
        assert!(mounted.success(), "this test needs the right to mount a tmpfs: run it as root");
        Self(data)
    }

    /// Uses up every byte that is left, as another program may.
    fn fill(&self) -> PathBuf {
        let beside = self.0.join("beside");
        let mut file = File::create(&beside).unwrap();
        let mut chunk = vec![7; 1 << 20];
        while !chunk.is_empty() {
            if file.write_all(&chunk).is_err() {
                chunk.truncate(chunk.len() / 2);
            }
        }
        beside
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

const TENANT: &str = "tenant passphrase";

/// Provisioned, with a key of the root to sign with, and a namespace with an Administrator.
fn set_up(daemon: &Daemon) -> (Client, Client) {
    daemon.client().provision().unwrap().expect(204);
    let admin = daemon.client().log_in("admin", ADMIN);
    admin.create_operator("operator", ADMIN);
    let key = json!({"id": "k", "type": "Curve25519", "mechanisms": ["EdDSA_Signature"]});
    admin.call("POST", "/keys/generate", Some(&key)).unwrap().expect(201);
    let tenant = json!({"realName": "", "role": "Administrator", "passphrase": TENANT});
    admin.call("PUT", "/users/tenant~admin", Some(&tenant)).unwrap().expect(201);
    admin.call("PUT", "/namespaces/tenant", None).unwrap().expect(204);
    (admin, daemon.client().log_in("tenant~admin", TENANT))
}

/// Imports a large key; returns the status.
fn import(client: &Client, id: &str) -> (u16, Value) {
    let data = BASE64_STANDARD.encode(vec![9; 600 << 10]);
    let key = json!({"type": "Generic", "mechanisms": ["AES_Encryption_CBC"], "private": {"data": data}});
    let answer = client.call("PUT", &format!("/keys/{id}"), Some(&key)).unwrap();
    (answer.status, answer.json())
}

/// Imports until it is refused; returns how many keys there are then.
fn import_until_refused(client: &Client) -> usize {
    for n in 0..100 {
        let (status, body) = import(client, &format!("large{n}"));
        if status != 204 {
            assert_eq!(status, 507, "after {n} keys: {body}");
            let message = body["message"].as_str().unwrap();
            assert!(message.contains("nearly full"), "it says what to do: {message}");
            return n;
        }
    }
    panic!("the volume never was full");
}

fn sign(daemon: &Daemon) {
    let operator = daemon.client().log_in("operator", ADMIN);
    let message = json!({"mode": "EdDSA", "message": BASE64_STANDARD.encode("message")});
    operator.call("POST", "/keys/k/sign", Some(&message)).unwrap().expect(200);
}

fn unlock(daemon: &Daemon) {
    daemon.client().unlock(UNLOCK).expect(204);
}

/// What must be possible on a full disk, across a kill and a start.
fn everything_but_creation_works(folder: &Folder, daemon: Daemon) -> Daemon {
    let admin = daemon.client().log_in("admin", ADMIN);
    let tenant = daemon.client().log_in("tenant~admin", TENANT);
    sign(&daemon);
    tenant.call("DELETE", "/keys/large0", None).unwrap().expect(204);
    admin.call("POST", "/users/operator/passphrase", Some(&json!({"passphrase": ADMIN}))).unwrap().expect(204);
    admin.call("POST", "/lock", None).unwrap().expect(204);
    unlock(&daemon);
    sign(&daemon);
    daemon.kill();
    let daemon = Daemon::start(folder);
    unlock(&daemon);
    sign(&daemon);
    assert_eq!(daemon.client().state(), "Operational");
    daemon
}

/// Once there is room again, which the server may notice a moment later.
fn creation_works_again(client: &Client) {
    let begun = Instant::now();
    loop {
        let (status, body) = import(client, "again");
        if status == 204 {
            return;
        }
        assert_eq!(status, 507, "{body}");
        assert!(begun.elapsed() < Duration::from_secs(20), "there is room, and still: {body}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_tenant_that_fills_the_disk_only_blocks_creations() {
    let folder = Folder::new();
    let _volume = Volume::on(&folder);
    let daemon = Daemon::start(&folder);
    let (_, tenant) = set_up(&daemon);
    let keys = import_until_refused(&tenant);
    assert!(keys > 10, "most of the volume is for keys: {keys}");
    let daemon = everything_but_creation_works(&folder, daemon);
    let admin = daemon.client().log_in("admin", ADMIN);
    admin.call("DELETE", "/namespaces/tenant", None).unwrap().expect(204);
    creation_works_again(&admin);
}

#[test]
fn a_volume_filled_to_the_last_byte_by_another_program_only_blocks_creations() {
    let folder = Folder::new();
    let volume = Volume::on(&folder);
    let daemon = Daemon::start(&folder);
    let (admin, tenant) = set_up(&daemon);
    for id in ["large0", "large1"] {
        assert_eq!(import(&tenant, id).0, 204);
    }
    let reserve = volume.0.join("reserve");
    await_file(&reserve);
    let beside = volume.fill();
    assert_eq!(import(&tenant, "more").0, 507);
    let daemon = everything_but_creation_works(&folder, daemon);
    drop(admin);
    assert_eq!(daemon.client().state(), "Operational");
    fs::remove_file(beside).unwrap();
    let admin = daemon.client().log_in("admin", ADMIN);
    creation_works_again(&admin);
    await_file(&reserve);
    admin.call("DELETE", "/namespaces/tenant", None).unwrap().expect(204);
}

fn await_file(file: &Path) {
    let begun = Instant::now();
    while !file.exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} is there", file.display());
        std::thread::sleep(Duration::from_millis(50));
    }
}
