//! Software updates: received, verified, committed by a command of the host, or cancelled.

#![allow(clippy::disallowed_methods, reason = "real files and processes take real time")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use casemate_api::State;
use casemate_core::hsm::update::{UpdateKey, Version};
use casemate_server::update::{Trust, Updates};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;

use crate::rig::{BASE, Rig};

fn vendor() -> &'static PKey<Private> {
    static KEY: OnceLock<PKey<Private>> = OnceLock::new();
    KEY.get_or_init(|| PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap())
}

fn field(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[1..], bytes].concat()
}

/// An image in NetHSM's format, signed.
fn image(version: &str, content: &[u8]) -> Vec<u8> {
    let blocks = content.len().div_ceil(512);
    let mut signed = [field(b"What is new"), field(version.as_bytes())].concat();
    signed.extend(u32::try_from(blocks).unwrap().to_be_bytes());
    signed.extend(content);
    signed.resize(signed.len() + blocks * 512 - content.len(), 0);
    let signature = Signer::new(MessageDigest::sha256(), vendor()).unwrap().sign_oneshot_to_vec(&signed).unwrap();
    [b"_NETHSM_UPDATE_\0".to_vec(), field(&signature), signed].concat()
}

/// A folder for images, removed after the test, and an HSM that runs version 3.1.
struct World {
    rig: Rig,
    folder: PathBuf,
}

impl World {
    fn new(script: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("casemate-update-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let command = folder.join("install");
        std::fs::write(&command, format!("#!/bin/sh\ncd {}\n{script}\n", folder.display())).unwrap();
        std::fs::set_permissions(&command, std::fs::Permissions::from_mode(0o755)).unwrap();
        let key = UpdateKey::from_pem(&vendor().public_key_to_pem().unwrap()).unwrap();
        let trust = Some(Trust { key, command });
        let updates = Updates::new(folder.clone(), trust, Version { major: 3, minor: 1 });
        Self { rig: Rig::operational().with_updates(updates), folder }
    }

    fn upload(&self, image: Vec<u8>) -> crate::wire::Reply {
        self.rig.admin().content_type("application/octet-stream").post("/system/update", image)
    }

    /// The head of an upload of this length.
    fn head(&self, length: usize) -> Vec<u8> {
        let head = self.rig.admin().head("POST", &format!("{BASE}/system/update"), false);
        [head, format!("content-length: {length}\r\n\r\n").into_bytes()].concat()
    }

    fn waits(&self) -> bool {
        self.folder.join("update-image").exists()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const NONE: &str = "No update available. Please upload a system image to /system/update.";

/// Cases 135 and 136.
#[test]
fn an_update_is_uploaded_once_and_then_cancelled_or_committed() {
    let world = World::new("cp \"$1\" installed; echo \"$2\" > version");
    let admin = world.rig.admin();
    admin.post("/system/commit-update", "").case(135, 412).says(NONE);
    admin.post("/system/cancel-update", "").is(412).says(NONE);
    let content = vec![7; 3_000_000];
    let reply = world.upload(image("3.2", &content)).case(136, 200);
    assert_eq!(reply.text(), r#"{"releaseNotes":"What is new"}"#);
    assert!(world.waits());
    world.upload(image("3.2", b"x")).case(136, 409).says("Update already in progress.");
    admin.post("/system/cancel-update", "").is(204).empty();
    assert!(!world.waits());
    admin.post("/system/commit-update", "").is(412).says(NONE);

    world.upload(image("3.2", &content)).is(200);
    admin.post("/system/commit-update", "").is(204).empty();
    let installed = std::fs::read(world.folder.join("installed")).unwrap();
    assert_eq!(installed[..content.len()], content);
    assert_eq!(installed.len(), content.len().div_ceil(512) * 512);
    assert_eq!(std::fs::read_to_string(world.folder.join("version")).unwrap(), "3.2\n");
    assert!(!world.waits(), "the command has it now");
    assert_eq!(world.rig.sim.host.reboots(), 1);
}

/// Case 137.
#[test]
fn only_an_older_major_version_is_a_downgrade() {
    let world = World::new("true");
    world.upload(image("2.9", b"x")).case(137, 409).says("Software version downgrade not allowed.");
    assert!(!world.waits());
    world.upload(image("3.0", b"x")).case(137, 200);
}

#[test]
fn an_image_that_is_not_verified_leaves_nothing() {
    let world = World::new("true");
    let good = image("3.1", &[1; 2000]);
    let mut forged = good.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    for (bytes, message) in [
        (b"anything else".to_vec(), "Invalid update file"),
        (Vec::new(), "Unexpected end of data"),
        (good[..100].to_vec(), "Unexpected end of data"),
        (good[..good.len() - 1].to_vec(), "unexpected end of data"),
        ([&good[..], b"x"].concat(), "unexpected end of data"),
        (forged, "Signature check of update image failed."),
        (image("3", b"x"), "The version of the update is not of the form `major.minor`."),
    ] {
        world.upload(bytes).is(400).says(message);
        assert!(!world.waits(), "{message}");
        world.rig.admin().post("/system/commit-update", "").is(412).says(NONE);
    }
    world.upload(good).is(200);
}

#[test]
fn a_command_that_fails_leaves_the_image_to_be_committed_again() {
    let world = World::new("test -e ready");
    world.upload(image("3.1", b"x")).is(200);
    let admin = world.rig.admin();
    let message = "The update command failed. Check the log; the update can be committed again or cancelled.";
    admin.post("/system/commit-update", "").is(503).says(message);
    assert!(world.waits());
    assert_eq!(world.rig.sim.host.reboots(), 0);
    std::fs::write(world.folder.join("ready"), "").unwrap();
    admin.post("/system/commit-update", "").is(204);
    assert_eq!(world.rig.sim.host.reboots(), 1);
}

#[test]
fn a_waiting_image_is_forgotten_at_a_restart() {
    let mut world = World::new("true");
    world.upload(image("3.1", b"x")).is(200);
    world.rig.reboot();
    assert!(!world.waits());
    world.rig.unlock().is(204);
    world.rig.admin().post("/system/commit-update", "").is(412).says(NONE);
}

#[test]
fn without_a_key_there_are_no_updates() {
    let rig = Rig::operational();
    let reply = rig.admin().post("/system/update", image("3.1", b"x"));
    reply.is(412).says("Updates are not set up: set update-key and update-command in the settings.");
}

fn eventually(holds: impl Fn() -> bool) {
    assert!((0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        holds()
    }));
}

/// The phase is not held while an image arrives, and rights are checked again at its end.
#[test]
fn an_upload_neither_holds_up_a_lock_nor_outlives_it() {
    let world = World::new("true");
    let image = image("3.1", &[1; 4000]);
    let mut wire = world.rig.connect();
    wire.send(&world.head(image.len()));
    wire.send(&image[..1000]);
    eventually(|| world.waits());
    let begun = std::time::Instant::now();
    world.rig.admin().post("/lock", "").is(204);
    assert!(begun.elapsed() < Duration::from_secs(4), "the upload held the phase");
    assert_eq!(world.rig.hsm.state(), State::Locked);
    wire.send(&image[1000..]);
    wire.reply("POST").is(412);
    assert!(!world.waits());
}

#[test]
fn a_broken_upload_leaves_room_for_the_next() {
    let world = World::new("true");
    let image = image("3.1", &[1; 4000]);
    let mut wire = world.rig.connect();
    wire.send(&world.head(image.len()));
    wire.send(&image[..1000]);
    eventually(|| world.waits());
    drop(wire);
    eventually(|| !world.waits());
    world.upload(image).is(200);
}
