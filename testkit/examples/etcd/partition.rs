//! How long a cluster writes nothing when its leader is cut off in silence, and how long the former leader reads nothing after
//! that has healed; with the kernel's usual times of TCP and with shorter ones.

use std::thread;
use std::time::{Duration, Instant};

use casemate_etcd::proto::TxnRequest;
use casemate_etcd::request::{get, put};
use casemate_testkit::{EtcdServer, Network};

use crate::Plan;
use crate::members::{client, leader, runtime};
use crate::times::Sorted;

/// Settings of the kernel at all nodes.
const KINDS: [(&str, &[(&str, &str)]); 3] = [
    ("usual", &[]),
    ("`net.ipv4.tcp_retries2=5`", &[("net.ipv4.tcp_retries2", "5")]),
    ("`net.ipv4.tcp_rto_max_ms=1000`", &[("net.ipv4.tcp_rto_max_ms", "1000")]),
];

/// Pause after a failure: so finely is it measured.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) fn measure(plan: &Plan) {
    println!("\n## Partition: the leader is cut off for {:.0?}, without any refusal\n", plan.cut);
    println!(
        "| TCP | trials | no write at the others: p50 | most | no read at the former leader after the end: p50 | most |"
    );
    println!("|---|---|---|---|---|---|");
    for (name, settings) in KINDS {
        let network = Network::new(3);
        let set = |node| settings.iter().all(|(name, value)| network.sysctl(node, name, value));
        if !(0..3).all(set) {
            println!("| {name} | this kernel does not have it ||||| ");
            continue;
        }
        let etcd = EtcdServer::across(&network, &[]);
        let trials: Vec<_> = (0..plan.cuts).map(|_| cut(&network, &etcd, plan.cut)).collect();
        let (writes, reads): (Vec<_>, Vec<_>) = trials.into_iter().unzip();
        let [writes, reads] = [writes, reads].map(Sorted::of);
        println!(
            "| {name} | {} | {:.2?} | {:.2?} | {:.2?} | {:.2?} |",
            writes.count(),
            writes.median(),
            writes.most(),
            reads.median(),
            reads.most()
        );
    }
    println!("\netcd of three members, each in a network namespace of its own; linearizable reads.");
}

/// The time from the cut to the first write at the other members, and from its end to the first read at the former leader.
fn cut(network: &Network, etcd: &EtcdServer, time: Duration) -> (Duration, Duration) {
    let leader = leader(etcd);
    let at_leader = client(etcd, &[leader]);
    let others = client(etcd, &[(leader + 1) % 3, (leader + 2) % 3]);
    let runtime = runtime();
    let write = || {
        let put = TxnRequest { success: vec![put("key", "value", 0)], ..TxnRequest::default() };
        runtime.block_on(others.txn(put)).is_ok()
    };
    let read = || runtime.block_on(at_leader.range(get("key"))).is_ok();
    first(write);
    first(read);
    let cut = Instant::now();
    network.isolate(leader);
    let written = first(write);
    thread::sleep(time.saturating_sub(cut.elapsed()));
    network.rejoin(leader);
    (written, first(read))
}

/// The time until the first success of `attempt`.
fn first(attempt: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !attempt() {
        thread::sleep(PAUSE);
    }
    begun.elapsed()
}
