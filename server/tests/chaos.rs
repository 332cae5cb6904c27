//! Chaos on members that run their own etcd, each on a node of a network: they are killed and cut off from each other under load, and
//! whatever clients were told has an explanation in one order of all calls (`nodes/linear.rs`).
//!
//! In `cargo test` each fault happens once. `CASEMATE_CHAOS_SECONDS` makes them happen in a random order for so long, with the times that the
//! documents name; `CASEMATE_CHAOS_SEED` decides which. `cargo xtask chaos members` does that and prints the figures.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test of processes: it lives in real time, and whatever goes wrong fails it"
)]

#[path = "chaos/cluster.rs"]
mod cluster;
mod daemon;
#[path = "chaos/degraded.rs"]
mod degraded;
#[path = "chaos/faults.rs"]
mod faults;
#[path = "nodes/figures.rs"]
mod figures;
#[path = "chaos/harm.rs"]
mod harm;
#[path = "nodes/history.rs"]
mod history;
#[path = "chaos/joins.rs"]
mod joins;
#[path = "nodes/key.rs"]
mod key;
#[path = "nodes/linear.rs"]
mod linear;
#[path = "nodes/load.rs"]
mod load;
#[path = "nodes/planted.rs"]
mod planted;
#[path = "chaos/revoked.rs"]
mod revoked;
#[path = "nodes/user.rs"]
mod user;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cluster::{Cluster, NODES};
use daemon::dice::Dice;
use faults::{ALL, Times, Trouble};
use load::Load;

/// Clients that do everything, as many at each node; besides, one at each signs.
const CLIENTS: usize = 9;

/// With what a short run does.
const SHORT: Times = Times { isolation: Duration::from_secs(8), cut: Duration::from_secs(5) };
const LONG: Times = Times { isolation: Duration::from_secs(30), cut: Duration::from_secs(15) };

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn what_clients_are_told_has_one_explanation_whatever_happens_to_members() {
    let seconds = setting("CASEMATE_CHAOS_SECONDS", 0);
    let seed = setting("CASEMATE_CHAOS_SEED", 1);
    let mut dice = Dice::seeded(seed);
    let load = Load::new(Cluster::start(0));
    let cluster = &load.cluster;
    let begin = cluster.now();
    println!("seed {seed}, {} clients; the cluster was set up in {begin:.1?}", CLIENTS + NODES);
    let ended = AtomicBool::new(false);
    let mut troubles: Vec<Trouble> = Vec::new();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (load, dice, ended) = (&load, dice.split(), &ended);
            scope.spawn(move || load.work(client % NODES, dice, || is_over(ended)));
        }
        for node in 0..NODES {
            let (load, dice, ended) = (&load, dice.split(), &ended);
            scope.spawn(move || load.keep_signing(node, dice, || is_over(ended)));
        }
        // Whatever goes wrong here, the clients end.
        let _end = AtEnd(&ended);
        std::thread::sleep(Duration::from_secs(2));
        if seconds == 0 {
            troubles.extend(ALL.map(|fault| fault.happen(cluster, SHORT, &mut dice)));
        }
        let mut deck = Vec::new();
        while cluster.now() < begin + Duration::from_secs(seconds) {
            if deck.is_empty() {
                deck.extend(ALL);
            }
            let fault = deck.swap_remove(dice.below(deck.len()));
            troubles.push(fault.happen(cluster, LONG, &mut dice));
        }
    });
    let end = cluster.now();
    // Until then a wrong passphrase may block a login, and a node may have something old in its caches.
    std::thread::sleep(Duration::from_millis(1_100));
    load.use_for_sure(&mut dice);
    let looked = load.look();

    figures::print(&load, begin, end);
    print!("{}", faults::table(&load, &troubles));
    let checked = Instant::now();
    if let Err(why) = load.history.check(&cluster.opened()) {
        panic!("seed {seed}: {why}");
    }
    println!("explained in {:.1?}", checked.elapsed());
    let found = planted::mistakes_are_found(&load.history, &cluster.opened(), looked);
    println!("{found} planted mistakes were found");
    troubles.iter().for_each(|trouble| trouble.check(&load));
    for node in 0..NODES {
        let log = cluster.log(node);
        let bad = log.lines().find(|line| line.contains("panicked") || line.contains("internal error"));
        assert_eq!(bad, None, "node {node}");
    }
}

fn is_over(ended: &AtomicBool) -> bool {
    ended.load(Ordering::Relaxed)
}

/// Ends the clients when it is dropped.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
