//! Creations a second: one client after its own answers, and many clients whose creations the store groups.
//!
//! An Ed25519 key is imported under an id that the server chooses: its own work on that is some 10 µs, so it is the store that is
//! measured, and the audit log, which is on the node's disk and durable before the answer, too.

use std::thread;
use std::time::{Duration, Instant};

use casemate_client::Session;
use casemate_testkit::{EtcdServer, ed25519};

use crate::Plan;
use crate::node::Node;
use crate::times::Sorted;

/// Clients at the same time whose creations are grouped.
pub(crate) const MANY: usize = 64;

pub(crate) fn measure(plan: &Plan) {
    let clusters = [EtcdServer::single(), EtcdServer::three()];
    let [one, three] = &clusters;
    let nodes =
        [("redb", Node::embedded()), ("etcd, 1 member", Node::first(one)), ("etcd, 3 members", Node::first(three))];
    let clients = nodes.each_ref().map(|(_, node)| (0..MANY).map(|_| node.admin()).collect::<Vec<_>>());
    let mut rates = nodes.each_ref().map(|_| [Vec::new(), Vec::new()]);
    for clients in &clients {
        // Connected, and the passphrase verified.
        create(clients, Duration::ZERO);
    }
    for _ in 0..plan.creation_windows {
        for (clients, [singly, grouped]) in clients.iter().zip(&mut rates) {
            singly.push(create(&clients[..1], plan.creation_window));
            grouped.push(create(clients, plan.creation_window));
        }
    }
    println!("\n## Creations a second\n");
    println!("| | one client | {MANY} clients |\n|---|---|---|");
    for ((name, _), rates) in nodes.iter().zip(rates) {
        let [singly, grouped] = rates.map(|rates| {
            let rates = Sorted::of_numbers(rates);
            format!("{:.0} ({:.0}–{:.0})", rates.median(), rates.least(), rates.most())
        });
        println!("| {name} | {singly} | {grouped} |");
    }
    println!(
        "\nImports of Ed25519 keys over HTTP/1.1. Median of {} windows of {:?} in turns (least to most).",
        plan.creation_windows, plan.creation_window
    );
}

/// Each of the clients creates keys, one after the other, at least one and until the time is over. Returns keys a second.
fn create(clients: &[Session], time: Duration) -> f64 {
    let begun = Instant::now();
    let created: usize = thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .map(|client| {
                scope.spawn(move || {
                    let mut created = 0;
                    while created == 0 || begun.elapsed() < time {
                        client.keys().import(&ed25519()).unwrap();
                        created += 1;
                    }
                    created
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    created as f64 / begun.elapsed().as_secs_f64()
}
