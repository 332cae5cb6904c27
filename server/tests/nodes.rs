//! Three nodes on one etcd of three members, under load from several clients, while nodes and members are killed at random:
//! whatever the clients were told has an explanation in one order of all calls (`nodes/linear.rs`), with the allowances that
//! `nodes/history.rs` names.
//!
//! `CASEMATE_NODES_SECONDS` is how long the clients work (default 25), `CASEMATE_NODES_SEED` decides what they do and what goes
//! wrong. A run cannot be repeated exactly, because the processes do not run in step with it. `cargo xtask chaos` is the long form.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test of processes: it lives in real time, and whatever goes wrong fails it"
)]

#[path = "nodes/cluster.rs"]
mod cluster;
mod daemon;
#[path = "nodes/faults.rs"]
mod faults;
#[path = "nodes/figures.rs"]
mod figures;
#[path = "nodes/history.rs"]
mod history;
#[path = "nodes/key.rs"]
mod key;
#[path = "nodes/linear.rs"]
mod linear;
#[path = "nodes/load.rs"]
mod load;
#[path = "nodes/planted.rs"]
mod planted;
#[path = "nodes/user.rs"]
mod user;

use std::time::{Duration, Instant};

use cluster::{Cluster, NODES};
use daemon::dice::Dice;
use load::Load;

/// Clients that do everything, as many at each node; besides, one at each signs. When a node is down or paused, those at the others go on.
const CLIENTS: usize = 12;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn what_clients_are_told_has_one_explanation_whatever_is_killed() {
    let seconds = setting("CASEMATE_NODES_SECONDS", 25);
    let seed = setting("CASEMATE_NODES_SEED", 1);
    let mut dice = Dice::seeded(seed);
    let load = Load::new(Cluster::start());
    let cluster = &load.cluster;
    let begin = cluster.now();
    println!("seed {seed}, {seconds} s with {} clients; the cluster was set up in {begin:.1?}", CLIENTS + NODES);
    let end = begin + Duration::from_secs(seconds);
    let (etcd, nodes) = std::thread::scope(|scope| {
        let (for_etcd, for_nodes) = (dice.split(), dice.split());
        let etcd = scope.spawn(move || faults::trouble_etcd(cluster, for_etcd, end));
        let nodes = scope.spawn(move || faults::trouble_nodes(cluster, for_nodes, end));
        for client in 0..CLIENTS {
            let (load, dice) = (&load, dice.split());
            scope.spawn(move || load.work(client % NODES, dice, || cluster.now() >= end));
        }
        for node in 0..NODES {
            let (load, dice) = (&load, dice.split());
            scope.spawn(move || load.keep_signing(node, dice, || cluster.now() >= end));
        }
        (etcd.join().unwrap(), nodes.join().unwrap())
    });
    // Until then a wrong passphrase may block a login, and a node may have something old in its caches.
    let a_second = || std::thread::sleep(Duration::from_millis(1_100));
    a_second();
    load.use_for_sure(&mut dice);
    a_second();
    let looked = load.look();

    figures::print(&load, begin, end);
    println!("etcd: {etcd:?}\nnodes: {nodes:?}");
    let checked = Instant::now();
    if let Err(why) = load.history.check(&cluster.opened()) {
        panic!("seed {seed}: {why}");
    }
    println!("explained in {:.1?}", checked.elapsed());
    for node in 0..NODES {
        let log = cluster.log(node);
        let bad = log.lines().find(|line| line.contains("panicked") || line.contains("internal error"));
        assert_eq!(bad, None, "node {node}");
    }
    let found = planted::mistakes_are_found(&load.history, &cluster.opened(), looked);
    println!("{found} planted mistakes were found");
}
