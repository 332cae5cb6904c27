//! What remains of a phase that has ended: nothing that can be used or read.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::State;
use casemate_core::Hsm;
use casemate_core::hsm::phase::Operational;
use casemate_core::platform::DeviceKeeper;
use casemate_core::runtime::Clock;
use casemate_core::sim::SimStore;
use pollster::block_on;
use serde_json::json;

use crate::keys::generic;
use crate::rig::{BASE, Rig, UNLOCK, ed25519, passphrase_of, sign_something};

/// Long enough for a server to do what it should not do; tests that expect nothing to happen wait this long.
const A_WHILE: Duration = Duration::from_millis(200);

fn weak(rig: &Rig) -> Weak<Operational> {
    Arc::downgrade(&rig.hsm.operational().expect("an Operational HSM"))
}

#[test]
fn keys_can_be_used_while_operational_only() {
    for state in State::ALL {
        let rig = Rig::in_state(state);
        let status = if state == State::Operational { 200 } else { 412 };
        rig.operator().post("/keys/k/sign", sign_something()).is(status);
        rig.operator().get("/keys/k").is(status);
    }
}

#[test]
fn locking_leaves_nothing_of_the_phase_behind() {
    let rig = Rig::operational();
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    let op = weak(&rig);
    rig.admin().post("/lock", "").is(204);
    assert_eq!((op.strong_count(), rig.hsm.state()), (0, State::Locked));
    rig.operator().post("/keys/k/sign", sign_something()).is(412);
    rig.unlock().is(204);
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    assert_eq!(op.strong_count(), 0, "a new phase is a new one");
    assert_eq!(rig.admin().get("/keys/k").json()["operations"], 2, "what was counted before was written");
}

#[test]
fn locking_waits_for_the_last_holder_and_refuses_it_everything() {
    let rig = Rig::operational();
    rig.admin().get("/keys").is(200);
    let hold = rig.hsm.operational().unwrap();
    let id = casemate_api::UserId::parse("admin").unwrap();
    assert!(block_on(hold.user(&id)).is_ok());
    thread::scope(|scope| {
        let (done, answer) = channel();
        let rig = &rig;
        scope.spawn(move || done.send(rig.admin().post("/lock", "")));
        assert_eq!(answer.recv_timeout(A_WHILE).err(), Some(RecvTimeoutError::Timeout), "somebody holds the phase");
        assert_eq!(rig.hsm.state(), State::Locked);
        rig.operator().post("/keys/k/sign", sign_something()).is(412);
        assert!(block_on(hold.user(&id)).is_err(), "a closed phase knows no users");
        drop(hold);
        answer.recv().unwrap().is(204);
    });
}

#[test]
fn locking_does_not_wait_for_ever() {
    let rig = Rig::operational();
    rig.admin().get("/keys").is(200);
    let hold = rig.hsm.operational().unwrap();
    thread::scope(|scope| {
        let (done, answer) = channel();
        let rig = &rig;
        scope.spawn(move || done.send(rig.admin().post("/lock", "")));
        assert_eq!(answer.recv_timeout(A_WHILE).err(), Some(RecvTimeoutError::Timeout));
        rig.advance(Duration::from_millis(4_999));
        assert_eq!(answer.recv_timeout(A_WHILE).err(), Some(RecvTimeoutError::Timeout));
        rig.advance(Duration::from_millis(1));
        answer.recv().unwrap().is(204);
    });
    drop(hold);
}

/// An upload that passed the gate and whose rest does not arrive.
#[test]
fn an_upload_that_trickles_does_not_keep_the_hsm_from_locking() {
    let rig = Rig::operational();
    rig.admin().get("/keys").is(200);
    let body = sign_something().to_string();
    let (first, rest) = body.as_bytes().split_at(5);
    let begin = || {
        let mut wire = rig.connect();
        let mut head = rig.operator().head("POST", &format!("{BASE}/keys/k/sign"), true);
        head.extend_from_slice(format!("content-length: {}\r\nexpect: 100-continue\r\n\r\n", body.len()).as_bytes());
        wire.send(&head);
        // Only the reader of the body asks for this, so the gate was passed.
        wire.reply("POST").is(100);
        wire.send(first);
        wire
    };
    let (mut upload, mut longer) = (begin(), begin());
    let op = weak(&rig);
    rig.admin().post("/lock", "").is(204);
    assert_eq!(op.strong_count(), 0);
    upload.send(rest);
    upload.reply("POST").is(412).says("Service not available");
    // One that ends after the next unlock is processed by the new phase.
    rig.unlock().is(204);
    longer.send(rest);
    longer.reply("POST").is(200);
}

#[test]
fn an_upload_that_stops_is_given_up() {
    let rig = Rig::operational();
    let mut wire = rig.connect();
    let mut head = rig.operator().head("POST", &format!("{BASE}/keys/k/sign"), true);
    head.extend_from_slice(b"content-length: 100\r\nexpect: 100-continue\r\n\r\n");
    wire.send(&head);
    wire.reply("POST").is(100);
    while rig.sim.clock.next_wake().is_none() {
        thread::yield_now();
    }
    rig.advance(Duration::from_secs(10));
    let reply = wire.reply("POST").is(408);
    assert_eq!(reply.header("connection"), Some("close"), "{reply}");
}

/// A list of three pages, the second of which is slow.
#[test]
fn a_long_list_is_aborted_when_the_hsm_locks() {
    aborted_when_the_hsm_locks("/keys", 1);
}

/// Its first part, of some 350 keys, takes less than 40 reads, and the whole more than 60.
#[test]
fn a_long_list_with_details_is_aborted_when_the_hsm_locks() {
    aborted_when_the_hsm_locks("/keys?details", 40);
}

/// A long list at `path` of which all reads but the first `quick` are slow.
fn aborted_when_the_hsm_locks(path: &str, quick: usize) {
    let rig = Rig::operational();
    if rig.store_is_real() {
        return;
    }
    thread::scope(|scope| {
        for part in 0..3 {
            let admin = rig.admin();
            scope.spawn(move || (0..700).for_each(|n| _ = admin.put(&format!("/keys/{part}-{n}"), ed25519()).is(204)));
        }
    });
    let whole = rig.admin().get(path).is(200);
    assert_eq!(whole.json().as_array().unwrap().len(), 2101);
    assert_eq!(whole.header("content-length"), None, "more than a page is streamed");

    // The first reads are those of the first page; each further one waits a second.
    let (clock, reads) = (rig.sim.clock.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = reads.clone();
    rig.sim.store.delay(move || match counted.fetch_add(1, Ordering::SeqCst) {
        number if number < quick => Box::pin(std::future::ready(())),
        _ => clock.sleep(Duration::from_secs(1)),
    });
    let mut wire = rig.connect();
    wire.send(&[rig.admin().head("GET", &format!("{BASE}{path}"), false), b"\r\n".to_vec()].concat());
    while rig.sim.clock.next_wake().is_none() {
        thread::yield_now();
    }
    let op = weak(&rig);
    let held = op.strong_count();
    thread::scope(|scope| {
        let lock = scope.spawn(|| rig.admin().post("/lock", ""));
        // The phase is closed when only the list holds it: a page that comes between the state and that is still one of it.
        while rig.hsm.state() != State::Locked || op.strong_count() >= held {
            thread::yield_now();
        }
        rig.advance(Duration::from_secs(1));
        lock.join().unwrap().is(204);
    });
    assert_eq!((op.strong_count(), reads.load(Ordering::SeqCst)), (0, quick + 1));
    let broken = wire.try_reply("GET");
    assert!(broken.is_err(), "half a list is not taken for a whole one: {broken:?}");
}

#[test]
fn of_two_concurrent_unlocks_the_second_finds_it_done() {
    let rig = Rig::locked();
    let statuses = thread::scope(|scope| {
        let unlocking = ["127.0.0.1", "127.0.0.2"].map(|source| {
            let rig = &rig;
            scope.spawn(move || rig.unlock_from(source).status)
        });
        unlocking.map(|unlocking| unlocking.join().unwrap())
    });
    assert!(statuses == [204, 412] || statuses == [412, 204], "{statuses:?}");
    assert_eq!(rig.hsm.state(), State::Operational);
}

#[test]
fn a_wrong_guess_does_not_keep_another_address_from_unlocking() {
    let rig = Rig::locked();
    let guess = json!({"passphrase": "not the passphrase"});
    thread::scope(|scope| {
        scope.spawn(|| rig.anonymous().from("127.0.0.2").post("/unlock", guess).status);
        rig.unlock().is(204);
    });
}

#[test]
fn a_cold_boot_is_locked_and_everything_is_there_after_unlocking() {
    let mut rig = Rig::operational();
    let lists = |rig: &Rig| ["/keys", "/users", "/namespaces"].map(|path| rig.admin().get(path).is(200).body);
    rig.admin().put("/users/operator/tags/t", "").is(204);
    let (before, key) = (lists(&rig), rig.admin().get("/keys/k").body);
    let info = rig.admin().get("/system/info").body;
    rig.reboot();
    assert_eq!(rig.hsm.state(), State::Locked);
    rig.unlock().is(204);
    assert_eq!((lists(&rig), rig.admin().get("/keys/k").body), (before, key));
    assert_eq!(rig.admin().get("/users/operator/tags").text(), r#"["t"]"#);
    assert_eq!(rig.admin().get("/system/info").body, info, "the device is the same one");
    assert_eq!(rig.admin().get("/keys").header("date"), Some("Wed, 02 Jan 2030 03:04:05 GMT"));
}

/// Makes the calls of both stores fail from the `first` on.
fn break_stores(rig: &Rig, first: usize, how: fn(&SimStore)) {
    let calls = Arc::new(AtomicUsize::new(0));
    for store in [&rig.sim.store, &rig.sim.local] {
        let (calls, broken) = (calls.clone(), [rig.sim.store.clone(), rig.sim.local.clone()]);
        store.delay(move || {
            if calls.fetch_add(1, Ordering::SeqCst) >= first {
                broken.iter().for_each(|store| how(store));
            }
            Box::pin(std::future::ready(()))
        });
    }
}

fn heal_stores(rig: &Rig) {
    for store in [&rig.sim.store, &rig.sim.local] {
        store.no_delay();
        store.fail(false);
        store.lose_answers(0);
    }
}

/// Provisioning, cut off at each of its calls of a store.
fn interrupt_provisioning(how: fn(&SimStore)) {
    for first in 0.. {
        assert!(first < 50, "provisioning takes fewer calls than that");
        let mut rig = Rig::unprovisioned();
        break_stores(&rig, first, how);
        let reply = rig.provision();
        heal_stores(&rig);
        if reply.status == 204 {
            assert!(first > 3, "something was cut off");
            return;
        }
        assert_eq!(reply.status, 503, "cut off at call {first}: {reply}");
        // Once the last write is done it is no longer open to everyone, though its data could not be opened.
        let state = rig.hsm.state();
        assert!(matches!(state, State::Unprovisioned | State::Locked), "cut off at call {first}: {state:?}");
        rig.reboot();
        if state == State::Locked {
            assert_eq!(rig.hsm.state(), State::Locked, "cut off at call {first}: it has happened");
        }
        match rig.hsm.state() {
            State::Unprovisioned => {
                let audit = |(path, _): &(casemate_core::store::Path, Vec<u8>)| path.as_bytes().starts_with(b"audit/");
                let local = rig.sim.local.raw_rows().into_iter().filter(|row| !audit(row)).count();
                let fence =
                    |(path, _): &(casemate_core::store::Path, Vec<u8>)| path.as_bytes().starts_with(b"\0fence/");
                let left = (rig.sim.store.raw_rows().into_iter().filter(|row| !fence(row)).count(), local);
                assert_eq!(left, (0, 1), "cut off at call {first}: nothing is left but the TLS key and the audit log");
                if first % 4 == 2 {
                    rig.provision().is(204);
                    rig.admin().get("/users").is(200);
                }
            }
            // Only the answer was cut off.
            State::Locked => {
                rig.unlock().is(204);
                rig.admin().get("/users").is(200);
            }
            other => panic!("cut off at call {first}: {other:?}"),
        }
    }
}

#[test]
fn a_provisioning_that_is_cut_off_anywhere_is_undone_at_boot() {
    interrupt_provisioning(|store| store.fail(true));
}

#[test]
fn a_provisioning_whose_writes_go_unanswered_ends_whole_or_undone() {
    interrupt_provisioning(|store| store.lose_answers(1));
}

/// A failed provisioning can be repeated without a boot in between.
#[test]
fn provisioning_can_be_tried_again() {
    let rig = Rig::unprovisioned();
    rig.sim.store.fail(true);
    rig.provision().is(503);
    rig.sim.store.fail(false);
    rig.provision().is(204);
    rig.admin().get("/users").is(200);
}

#[test]
fn nothing_secret_is_stored_in_clear() {
    let rig = Rig::operational();
    let admin = rig.admin();
    let bytes = *b"forty-two bytes that nobody else would use";
    let mut key = generic(&["AES_Encryption_CBC"], &bytes);
    key["label"] = "a label to hide".into();
    key["restrictions"] = json!({"tags": ["a-tag-to-hide"]});
    admin.put("/keys/hidden", key).is(204);
    admin.content_type("application/octet-stream").put("/keys/hidden/cert", "a certificate to hide").is(201);
    let user = json!({"realName": "a name to hide", "role": "Operator", "passphrase": "a passphrase to hide"});
    rig.admin().put("/users/u", user).is(201);
    rig.admin().put("/users/u/tags/another-tag-to-hide", "").is(204);
    rig.login("u", "a passphrase to hide").get("/keys").is(200);
    rig.admin().put("/config/unattended-boot", json!({"status": "on"})).is(204);
    rig.hsm.operational().map(|op| block_on(op.flush_counters())).unwrap().unwrap();

    let seed = BASE64_STANDARD.decode(ed25519()["private"]["data"].as_str().unwrap()).unwrap();
    let device = rig.sim.device.load().unwrap();
    let identity = block_on(rig.hsm.tls_identity(|_| unreachable!("it is stored"))).unwrap();
    let mut secrets: Vec<(&str, Vec<u8>)> = vec![
        ("key bytes", bytes.to_vec()),
        ("half of them", bytes[..16].to_vec()),
        ("a seed", seed),
        ("the Device Key", device.expose().to_vec()),
        ("the TLS key", identity.private_key.to_vec()),
        ("its end", identity.private_key[identity.private_key.len() - 32..].to_vec()),
        ("a label", b"a label to hide".to_vec()),
        ("a tag", b"a-tag-to-hide".to_vec()),
        ("a user's tag", b"another-tag-to-hide".to_vec()),
        ("a real name", b"a name to hide".to_vec()),
        ("a certificate", b"a certificate to hide".to_vec()),
        ("a passphrase", b"a passphrase to hide".to_vec()),
        ("the unlock passphrase", UNLOCK.into()),
        ("the admin passphrase", passphrase_of("admin").into()),
    ];
    for (name, secret) in secrets.clone() {
        secrets.push((name, base16ct::lower::encode_string(&secret).into()));
        secrets.push((name, BASE64_STANDARD.encode(&secret).trim_end_matches('=').into()));
    }
    let rows: Vec<_> = rig.sim.store.raw_rows().into_iter().chain(rig.sim.local.raw_rows()).collect();
    assert!(rows.len() > USERS_AND_MORE);
    let stored = |wanted: &[u8]| {
        let within = |bytes: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
        rows.iter().find(|(path, value)| within(path.as_bytes()) || within(value))
    };
    assert!(stored(b"hidden").is_some(), "the search finds what is there: ids are in clear");
    for (name, secret) in &secrets {
        assert!(secret.len() >= 10 && stored(secret).is_none(), "{name} is stored in clear: {:?}", stored(secret));
    }
}

const USERS_AND_MORE: usize = crate::rig::USERS.len() + 5;

#[test]
fn rows_that_are_moved_or_changed_do_not_open() {
    let rig = Rig::operational();
    rig.admin().put("/keys/other", generic(&[], b"other bytes")).is(204);
    let rows = rig.sim.store.raw_rows();
    let row = |id: &[u8]| {
        let ends = |(path, _): &&(casemate_core::store::Path, Vec<u8>)| path.as_bytes().ends_with(id);
        rows.iter().find(|row| row.0.as_bytes().get(5) == Some(&3) && ends(row)).unwrap().clone()
    };
    let ((k, bytes), (_, others)) = (row(b"\0\0\0\0k"), row(b"other"));
    for forged in [others, bytes[..bytes.len() - 1].to_vec(), Vec::new(), {
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        flipped
    }] {
        let mut rig = Rig::operational();
        rig.sim.store.tamper(k.clone(), forged);
        rig.reboot();
        rig.unlock().is(204);
        rig.operator().post("/keys/k/sign", sign_something()).is(500);
        rig.admin().get("/keys/k").is(500);
        rig.admin().get("/keys").is(200);
    }
}

#[test]
fn a_factory_reset_destroys_the_device_key_and_with_it_all_that_is_stored() {
    let rig = Rig::operational();
    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    let (op, old) = (weak(&rig), rig.sim.device.load().unwrap());
    rig.admin().post("/system/factory-reset", "").is(204).empty();
    assert_eq!(op.strong_count(), 0);
    assert_eq!((rig.sim.host.erasures(), rig.sim.host.reboots()), (1, 1));
    assert!(!old.ct_eq(&rig.sim.device.load().unwrap()));
    for (path, status) in [("/keys/k", 412), ("/users", 412), ("/health/ready", 412), ("/health/state", 200)] {
        rig.admin().get(path).is(status);
    }
    rig.unlock().is(412);
    // Even if the files were still there, they do not open under the next Device Key.
    let rows = rig.sim.local.raw_rows().len() + rig.sim.store.raw_rows().len();
    assert!(rows > 0, "the simulated host erases nothing");
    assert!(block_on(Hsm::boot(rig.sim.platform())).is_err());
}

#[test]
fn an_hsm_that_is_reset_does_not_come_back_with_its_store() {
    let rig = Rig::failed();
    rig.login("unlock", UNLOCK).post("/system/factory-reset", "").is(204);
    rig.sim.store.fail(false);
    block_on(rig.hsm.probe());
    assert_eq!(rig.hsm.state(), State::Failed);
    rig.operator().post("/keys/k/sign", sign_something()).is(412);
}
