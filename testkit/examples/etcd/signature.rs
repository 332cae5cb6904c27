//! CPU time of a server for a warm P-256 signature, on a store of its own and on etcd.
//!
//! Both servers are on the first core with one serving thread each, and the clients on the last. The windows of the two take turns, so
//! that other work on the machine affects both equally.

use std::thread;

use casemate_client::Session;
use casemate_testkit::{EtcdServer, key};

use crate::node::{Node, ecdsa};
use crate::times::Sorted;
use crate::{Plan, process};

/// Clients that sign at the same time, each on one connection.
const CLIENTS: usize = 8;

pub(crate) fn measure(plan: &Plan) {
    let etcd = EtcdServer::single();
    let cores = process::cores();
    process::stay_on(&cores[..1]);
    let nodes = [Node::embedded(), Node::first(&etcd)];
    process::stay_on(&cores[cores.len() - 1..]);
    let clients = nodes.each_ref().map(|node| {
        node.generate_p256("k");
        (0..CLIENTS).map(|_| node.operator()).collect::<Vec<_>>()
    });
    let window = |store: usize, signatures: usize| {
        let pid = nodes[store].hsm.pid();
        let before = process::cpu(pid);
        sign(&clients[store], signatures / CLIENTS);
        (process::cpu(pid) - before).as_secs_f64() * 1e6 / (signatures / CLIENTS * CLIENTS) as f64
    };
    // The first ones verify the passphrase and load the key.
    let mut costs = [Vec::new(), Vec::new()];
    for store in 0..2 {
        window(store, plan.signatures);
    }
    for round in 0..plan.windows {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        order.into_iter().for_each(|store| costs[store].push(window(store, plan.signatures)));
    }
    process::stay_on(&cores);
    let [redb, etcd] = costs.map(Sorted::of_numbers);
    println!("\n## Server CPU of a warm P-256 signature\n");
    println!("| | median | least | most |\n|---|---|---|---|");
    for (name, cost) in [("redb", &redb), ("etcd", &etcd)] {
        println!("| {name} | {:.1} µs | {:.1} µs | {:.1} µs |", cost.median(), cost.least(), cost.most());
    }
    let ratio = |pick: fn(&Sorted<f64>) -> f64| pick(&etcd) / pick(&redb);
    println!("| etcd by redb | {:.3} | {:.3} | – |", ratio(Sorted::median), ratio(Sorted::least));
    println!(
        "\n{} windows of {} signatures at each store, in turns; {CLIENTS} connections. Aim: at most 1.03.",
        plan.windows, plan.signatures
    );
}

/// Each of the clients signs that many times.
fn sign(clients: &[Session], times: usize) {
    thread::scope(|scope| {
        for client in clients {
            scope.spawn(move || {
                for _ in 0..times {
                    client.keys().sign(&key("k"), &ecdsa()).unwrap();
                }
            });
        }
    });
}
