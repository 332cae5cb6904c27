//! Kill -9 while the store moves from a file into an etcd of the node, or back, under writers: the HSM boots on one of the two, the
//! other is removed, and what was acknowledged is there once.
//!
//! `core/src/hsm/place_tests.rs` interrupts the move at each of its steps in a simulation. Here the stores, the disk and the
//! moments are real. `CASEMATE_MOVE_KILLS` is the number of kills (default 12, about a minute); `cargo xtask chaos` makes more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use casemate_core::platform::stores::PlaceKind;
use casemate_server::stores::Stores;
use casemate_testkit::{EtcdCertificates, etcd, free_port};
use serde_json::json;

use super::daemon::dice::Dice;
use super::daemon::{ADMIN, Answer, Client, Daemon, Folder};
use super::keys::{Hand, Store};
use super::{MS, check, moment, provision};

/// Time for a store to be there, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(120);

fn kills() -> u64 {
    std::env::var("CASEMATE_MOVE_KILLS").map_or(12, |text| text.parse().expect("a number of kills"))
}

struct Node {
    folder: Folder,
    settings: Vec<String>,
    certificates: EtcdCertificates,
}

/// How a move ended.
struct Moved {
    answer: Option<Answer>,
    /// What the store was before.
    from: PlaceKind,
}

impl Node {
    fn start(&self) -> Daemon {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let daemon = Daemon::start_with(&self.folder, &settings);
        let (client, begun) = (daemon.client(), Instant::now());
        // The etcd takes a moment to start.
        while client.state() != "Operational" {
            assert!(begun.elapsed() < SOON, "it does not boot:\n{}", daemon.log());
            std::thread::sleep(10 * MS);
        }
        daemon
    }

    /// What the store is, when nothing else is left of the other one.
    fn store(&self) -> PlaceKind {
        let begun = Instant::now();
        loop {
            match Stores::found_in(&self.folder.data()).as_slice() {
                [(place, _)] => return place.kind,
                found => assert!(begun.elapsed() < SOON, "one store is left, of {found:?}"),
            }
            std::thread::sleep(10 * MS);
        }
    }

    /// Has a certificate signed with which the node can be a member.
    fn certify(&self, admin: &Client) {
        let subject = json!({ "commonName": "node", "subjectAltNames": ["IP:127.0.0.1"] });
        let request = admin.call("POST", "/config/tls/csr.pem", Some(&subject)).unwrap().expect(200);
        let certificate = self.certificates.sign(std::str::from_utf8(&request.bytes).unwrap());
        admin.put_pem("/config/tls/cert.pem", &certificate).expect(201);
    }

    /// Moves the store to where it is not.
    fn change_store(&self, admin: &Client, from: PlaceKind) -> Result<Answer, ureq::Error> {
        match from {
            PlaceKind::File => admin.try_put_pem("/config/tls/cluster-ca.pem", &self.certificates.ca),
            PlaceKind::Etcd => admin.call("DELETE", "/cluster", None),
        }
    }

    /// Moves the store while the hands work, and kills the process `after` the move began; `None`: when it has ended.
    fn move_under_load(&self, hands: &mut [Hand], daemon: Daemon, after: Option<Duration>) -> Moved {
        let from = self.store();
        let admin = daemon.client().log_in("admin", ADMIN);
        let answer = std::thread::scope(|scope| {
            for hand in hands {
                // Threads of one client would wait for each other's connections.
                let admin = admin.alone();
                scope.spawn(move || hand.work(&admin));
            }
            std::thread::sleep(200 * MS);
            let mover = admin.alone();
            let moving = scope.spawn(move || self.change_store(&mover, from).ok());
            match after {
                Some(after) => std::thread::sleep(after),
                None => {
                    while !moving.is_finished() {
                        std::thread::sleep(MS);
                    }
                }
            }
            daemon.kill();
            moving.join().unwrap()
        });
        Moved { answer, from }
    }
}

#[test]
fn what_was_acknowledged_outlives_a_kill_while_the_store_moves() {
    let begun = Instant::now();
    let mut dice = Dice::new();
    let (peer, etcd) = (format!("127.0.0.1:{}", free_port()), etcd());
    let settings = ["--log", "info", "--peer-listen", &peer, "--etcd-program", etcd.to_str().unwrap()];
    let node = Node {
        folder: Folder::new(),
        settings: settings.map(str::to_owned).into(),
        certificates: EtcdCertificates::new(),
    };
    let settings: Vec<&str> = node.settings.iter().map(String::as_str).collect();
    let daemon = Daemon::start_with(&node.folder, &settings);
    provision(&daemon);
    node.certify(&daemon.client().log_in("admin", ADMIN));
    let mut daemon = daemon;
    let mut hands: Vec<Hand> = (0..4).map(|number| Hand::new(number, dice.split(), Store::Moves)).collect();

    // How long a move takes, there and back.
    let mut whole = [Duration::ZERO; 2];
    for (kind, status) in [(PlaceKind::File, 201), (PlaceKind::Etcd, 204)] {
        let started = Instant::now();
        let moved = node.move_under_load(&mut hands, daemon, None);
        whole[kind as usize] = started.elapsed();
        moved.answer.expect("it was answered").expect(status);
        assert!(moved.from == kind);
        daemon = node.start();
        assert!(node.store() != kind);
        check(&mut hands, &daemon, Hand::check_recent);
    }

    let (mut unanswered, mut done, mut undone) = (0, 0, 0);
    for round in 0..kills() {
        let kind = node.store();
        let after = moment(&mut dice, round, whole[kind as usize]);
        let Moved { answer, from } = node.move_under_load(&mut hands, daemon, Some(after));
        unanswered += hands.iter().map(Hand::open_ends).sum::<usize>();
        if dice.below(4) == 0 {
            // The boot that clears up is interrupted as well.
            let mut child = Daemon::spawn(&node.folder, &settings);
            std::thread::sleep(dice.between(Duration::ZERO, 500 * MS));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        daemon = node.start();
        match node.store() == from {
            true => {
                undone += 1;
                assert!(answer.is_none_or(|answer| ![201, 204].contains(&answer.status)), "the move was acknowledged");
            }
            false => done += 1,
        }
        check(&mut hands, &daemon, Hand::check_recent);
    }
    check(&mut hands, &daemon, Hand::check_all);
    let sum = |count: fn(&Hand) -> usize| hands.iter().map(count).sum::<usize>();
    println!(
        "{} kills while the store moved ({done} moves done, {undone} not), {} acknowledged changes, {unanswered} unanswered, {} keys \
         and {} users at the end; {:.0?} in all",
        kills(),
        sum(|hand| hand.acknowledged),
        sum(Hand::keys_left),
        sum(Hand::users_left),
        begun.elapsed(),
    );
    let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
    for (why, count) in hands.iter().flat_map(|hand| &hand.refused) {
        *refused.entry(why).or_default() += count;
    }
    println!("refused while it moved: {refused:#?}");
    assert!(kills() < 10 || unanswered > 0 && done > 0 && undone > 0, "no kill met the move: the test does not test");
}
