//! Kill -9 at random moments, hundreds of times: what was acknowledged is there afterwards, what was not answered
//! happened completely or not at all, and no repair is needed.
//!
//! `CASEMATE_CRASH_ROUNDS` is the number of rounds (default 200, about two minutes). A run cannot be repeated exactly, because the
//! moment of a kill depends on the machine. A crash of the process is not one of the machine: whether the disk keeps synced
//! data is tested with the store.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test of processes: it lives in real time, and whatever goes wrong fails it"
)]

mod daemon;
#[path = "crash/keys.rs"]
mod keys;
#[path = "crash/moved.rs"]
mod moved;
#[path = "crash/restore.rs"]
mod restore;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::json;

use daemon::dice::Dice;
use daemon::{ADMIN, Answer, Client, Daemon, Folder, UNLOCK};
use keys::{Hand, OPERATOR, OPERATOR_PASSPHRASE, Store, TAGS};

fn rounds() -> u64 {
    std::env::var("CASEMATE_CRASH_ROUNDS").map_or(200, |text| text.parse().expect("a number of rounds"))
}

/// Rounds of the tests that hash passphrases several times per round.
fn slow_rounds() -> u64 {
    rounds().div_ceil(16).max(1)
}

const MS: Duration = Duration::from_millis(1);

/// Four threads change keys and users as fast as they can, until the process is killed under them.
#[test]
fn what_was_acknowledged_outlives_any_kill() {
    let begun = Instant::now();
    let mut dice = Dice::new();
    let folder = Folder::new();
    let mut daemon = Daemon::start(&folder);
    provision(&daemon);

    let mut hands: Vec<Hand> = (0..4).map(|number| Hand::new(number, dice.split(), Store::Stays)).collect();
    let mut starts = Vec::new();
    let mut unanswered = 0;
    for _ in 0..rounds() {
        // A new user takes a tenth of a second of hashing, so some rounds last longer.
        let longest = if dice.below(5) == 0 { 600 * MS } else { 150 * MS };
        work_until_killed(&mut hands, daemon, dice.between(2 * MS, longest));
        unanswered += hands.iter().map(Hand::open_ends).sum::<usize>();
        if dice.below(4) == 0 {
            // Recovery itself is interrupted by kills as well.
            let mut child = Daemon::spawn(&folder, &[]);
            std::thread::sleep(dice.between(Duration::ZERO, 60 * MS));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        daemon = Daemon::start(&folder);
        starts.push(daemon.took);
        check(&mut hands, &daemon, Hand::check_recent);
    }
    check(&mut hands, &daemon, Hand::check_all);
    assert_eq!(daemon.terminate().0, Some(0));

    starts.sort();
    let sum = |count: fn(&Hand) -> usize| hands.iter().map(count).sum::<usize>();
    println!(
        "{} kills, {} acknowledged changes, {unanswered} unanswered, {} keys and {} users at the end; restart {:?} in the middle, {:?} at most; {:?} in all",
        rounds(),
        sum(|hand| hand.acknowledged),
        sum(Hand::keys_left),
        sum(Hand::users_left),
        starts.get(starts.len() / 2).unwrap_or(&Duration::ZERO),
        starts.last().unwrap_or(&Duration::ZERO),
        begun.elapsed(),
    );
    assert!(rounds() < 20 || unanswered > 0, "no kill met a request: the test does not test");
}

/// Provisions an HSM that boots unattended and has the Operator who signs.
fn provision(daemon: &Daemon) {
    daemon.client().provision().unwrap().expect(204);
    let admin = daemon.client().log_in("admin", ADMIN);
    admin.boot_unattended("on");
    admin.create_operator(OPERATOR, OPERATOR_PASSPHRASE);
    for tag in TAGS {
        admin.call("PUT", &format!("/users/{OPERATOR}/tags/{tag}"), None).unwrap().expect(204);
    }
}

fn work_until_killed(hands: &mut [Hand], daemon: Daemon, after: Duration) {
    let admin = daemon.client().log_in("admin", ADMIN);
    std::thread::scope(|scope| {
        for hand in hands {
            // Threads of one client would wait for each other's connections.
            let admin = admin.alone();
            scope.spawn(move || hand.work(&admin));
        }
        std::thread::sleep(after);
        daemon.kill();
    });
}

/// Compares the actual state with the answers: all names, and of each hand what `look` checks.
fn check(hands: &mut [Hand], daemon: &Daemon, look: fn(&mut Hand, &Client, &Client)) {
    let client = daemon.client();
    assert_eq!(client.state(), "Operational", "unattended boot");
    let (admin, operator) = (client.log_in("admin", ADMIN), client.log_in(OPERATOR, OPERATOR_PASSPHRASE));
    let names = |path: &str, member: &str| -> Vec<String> {
        let list = admin.call("GET", path, None).unwrap().expect(200).json();
        list.as_array().unwrap().iter().map(|item| item[member].as_str().unwrap().to_owned()).collect()
    };
    // Each first login hashes for a tenth of a second: both at once.
    let (keys, users) = std::thread::scope(|scope| {
        let operator = operator.alone();
        scope.spawn(move || operator.call("GET", "/keys/0-0", None).unwrap().expect(404));
        (names("/keys", "id"), names("/users", "user"))
    });
    let of_hands: usize = hands.iter_mut().map(|hand| hand.check_names(&keys, &users)).sum();
    assert_eq!(of_hands, keys.len() + users.len() - 2, "besides admin and the operator nobody made anything else");
    std::thread::scope(|scope| {
        for hand in hands {
            let (admin, operator) = (admin.alone(), operator.alone());
            scope.spawn(move || look(hand, &admin, &operator));
        }
    });
}

/// Sends a request that ends with the process, and kills the process `after` that. Returns the answer, if there was
/// one.
fn killed_during(
    daemon: Daemon,
    after: Duration,
    request: impl FnOnce() -> Result<Answer, ureq::Error> + Send,
) -> Option<Answer> {
    std::thread::scope(|scope| {
        let (send, started) = mpsc::channel();
        let answer = scope.spawn(move || {
            send.send(()).unwrap();
            request().ok()
        });
        started.recv().unwrap();
        std::thread::sleep(after);
        daemon.kill();
        answer.join().unwrap()
    })
}

/// Moments for kills: half of them anywhere in a request that takes `whole`, half of them near its end, where it
/// writes.
fn moment(dice: &mut Dice, round: u64, whole: Duration) -> Duration {
    match round % 2 {
        0 => dice.between(Duration::ZERO, whole + 10 * MS),
        _ => dice.between(whole.saturating_sub(30 * MS), whole + 20 * MS),
    }
}

fn assert_both_passphrases_work(client: &Client) {
    client.unlock(UNLOCK).expect(204);
    client.log_in("admin", ADMIN).call("GET", "/system/info", None).unwrap().expect(200);
}

#[test]
fn a_kill_leaves_provisioning_undone_or_done() {
    let mut dice = Dice::new();
    let mut whole = Duration::from_millis(400);
    let (mut done, mut undone) = (0, 0);
    for round in 0..slow_rounds() {
        let folder = Folder::new();
        let daemon = Daemon::start(&folder);
        let client = daemon.client();
        assert_eq!(client.state(), "Unprovisioned");
        let answer = killed_during(daemon, moment(&mut dice, round, whole), || client.provision());

        let daemon = Daemon::start(&folder);
        let client = daemon.client();
        match client.state().as_str() {
            "Locked" => {
                done += 1;
                assert_both_passphrases_work(&client);
            }
            "Unprovisioned" => {
                undone += 1;
                assert!(answer.is_none(), "it was answered with {}", answer.unwrap().status);
                let begun = Instant::now();
                client.provision().unwrap().expect(204);
                whole = begun.elapsed();
                assert_eq!(client.state(), "Operational");
                drop(daemon);
                let daemon = Daemon::start(&folder);
                assert_both_passphrases_work(&daemon.client());
            }
            other => panic!("{other}"),
        }
    }
    println!("provisioning: {done} done, {undone} undone; it takes {whole:?}");
}

#[test]
fn a_kill_leaves_a_factory_reset_undone_or_done() {
    let mut dice = Dice::new();
    let provisioned = Folder::new();
    let daemon = Daemon::start(&provisioned);
    daemon.client().provision().unwrap().expect(204);
    let admin = daemon.client().log_in("admin", ADMIN);
    admin.boot_unattended("on");
    let key = json!({ "type": "EC_P256", "mechanisms": ["ECDSA_Signature"], "id": "key" });
    admin.call("POST", "/keys/generate", Some(&key)).unwrap().expect(201);
    assert_eq!(daemon.terminate().0, Some(0));
    let device_key = std::fs::read(provisioned.data().join("device-key")).unwrap();

    let (mut done, mut undone) = (0, 0);
    for _ in 0..slow_rounds() {
        let folder = Folder::new();
        provisioned.copy_data_to(&folder);
        let daemon = Daemon::start(&folder);
        let admin = daemon.client().log_in("admin", ADMIN);
        admin.call("GET", "/keys/key", None).unwrap().expect(200);
        let after = dice.between(Duration::ZERO, 25 * MS);
        let answer = killed_during(daemon, after, || admin.call("POST", "/system/factory-reset", None));

        let daemon = Daemon::start(&folder);
        let client = daemon.client();
        match client.state().as_str() {
            "Operational" => {
                undone += 1;
                assert!(answer.is_none(), "it was answered with {}", answer.unwrap().status);
                let admin = client.log_in("admin", ADMIN);
                admin.call("GET", "/keys/key", None).unwrap().expect(200);
            }
            "Unprovisioned" => {
                done += 1;
                assert_ne!(std::fs::read(folder.data().join("device-key")).unwrap(), device_key);
                assert!(!folder.data().join("factory-reset").exists(), "the reset is finished");
                client.provision().unwrap().expect(204);
                let keys = client.log_in("admin", ADMIN).call("GET", "/keys", None).unwrap().expect(200);
                assert_eq!(keys.json(), json!([]));
            }
            other => panic!("{other}"),
        }
    }
    println!("factory reset: {done} done, {undone} undone");
}

#[test]
fn a_kill_leaves_one_unlock_passphrase() {
    const NEW: &str = "another unlock passphrase";
    let mut dice = Dice::new();
    let provisioned = Folder::new();
    let daemon = Daemon::start(&provisioned);
    daemon.client().provision().unwrap().expect(204);
    assert_eq!(daemon.terminate().0, Some(0));

    let body = json!({ "newPassphrase": NEW, "currentPassphrase": UNLOCK });
    let mut whole = Duration::from_millis(600);
    let (mut done, mut undone) = (0, 0);
    for round in 0..slow_rounds() {
        let folder = Folder::new();
        provisioned.copy_data_to(&folder);
        let daemon = Daemon::start(&folder);
        let client = daemon.client();
        client.unlock(UNLOCK).expect(204);
        let admin = client.log_in("admin", ADMIN);
        admin.call("GET", "/system/info", None).unwrap().expect(200);
        let change = || admin.call("PUT", "/config/unlock-passphrase", Some(&body));
        let answer = killed_during(daemon, moment(&mut dice, round, whole), change);

        let daemon = Daemon::start(&folder);
        let client = daemon.client();
        assert_eq!(client.state(), "Locked");
        match client.unlock(NEW).status {
            204 => {
                done += 1;
                client.log_in("admin", ADMIN).call("POST", "/lock", None).unwrap().expect(204);
                client.unlock(UNLOCK).expect(403);
            }
            403 => {
                undone += 1;
                assert!(answer.is_none(), "it was answered with {}", answer.unwrap().status);
                // A failed attempt blocks the next one for a second.
                std::thread::sleep(1010 * MS);
                client.unlock(UNLOCK).expect(204);
                let admin = client.log_in("admin", ADMIN);
                let begun = Instant::now();
                admin.call("PUT", "/config/unlock-passphrase", Some(&body)).unwrap().expect(204);
                whole = begun.elapsed();
            }
            other => panic!("{other}"),
        }
    }
    println!("unlock passphrase: {done} changed, {undone} not; it takes {whole:?}");
}
