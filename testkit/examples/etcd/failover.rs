//! How long a node creates no key, and signs nothing, when the member of etcd that it uses is killed, or the one
//! that leads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use casemate_testkit::{EtcdServer, ed25519, key};

use crate::Plan;
use crate::members::leader;
use crate::node::{Node, ecdsa};
use crate::times::{Sorted, ms};

/// Time before the kill, and after it.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(10);

/// Pause between two signatures, and after a failure: so finely is the gap measured.
const PAUSE: Duration = Duration::from_millis(1);

enum Role {
    Leader,
    Follower,
}

/// Which member the node uses, and which one is killed.
const KINDS: [(&str, Role, Role); 3] = [
    ("the leader, which the node uses", Role::Leader, Role::Leader),
    ("the leader, while the node uses another", Role::Follower, Role::Leader),
    ("another member, which the node uses", Role::Follower, Role::Follower),
];

pub(crate) fn measure(plan: &Plan) {
    let mut etcd = EtcdServer::three();
    let mut node = Node::first(&etcd);
    node.generate_p256("k");
    let mut gaps = KINDS.map(|_| [Vec::new(), Vec::new()]);
    for trial in 0..plan.kills {
        for ((_, used, killed), [creations, signatures]) in KINDS.iter().zip(&mut gaps) {
            let leader = leader(&etcd);
            let member = |role: &Role| match role {
                Role::Leader => leader,
                Role::Follower => (leader + 1 + trial % 2) % 3,
            };
            node.restart(&etcd, member(used));
            let [creation, signature] = kill(&node, &mut etcd, member(killed));
            creations.push(creation);
            signatures.push(signature);
            etcd.restart(member(killed));
        }
    }
    println!("\n## Failover: longest time without a success at one node when a member of etcd is killed\n");
    println!("| killed | trials | creation: p50 | most | signature: p50 | most |\n|---|---|---|---|---|---|");
    for ((name, ..), gaps) in KINDS.iter().zip(gaps) {
        let [creation, signature] = gaps.map(Sorted::of);
        println!(
            "| {name} | {} | {} | {} | {} | {} |",
            creation.count(),
            ms(creation.median()),
            ms(creation.most()),
            ms(signature.median()),
            ms(signature.most())
        );
    }
    println!(
        "\netcd of three members, `kill -9` of one. One client creates keys and one signs with a P-256 key, each one after the \
         other; a failed request is repeated at once. etcd elects a leader after 1 to 2 s."
    );
}

/// The longest times without a creation, and without a signature, around the death of `victim`.
fn kill(node: &Node, etcd: &mut EtcdServer, victim: usize) -> [Duration; 2] {
    let (admin, operator) = (node.admin(), node.operator());
    let create = || admin.keys().import(&ed25519()).is_ok();
    let sign = || {
        thread::sleep(PAUSE);
        operator.keys().sign(&key("k"), &ecdsa()).is_ok()
    };
    // The passphrases are verified before.
    while !create() || !sign() {}
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let created = scope.spawn(|| successes(&over, create));
        let signed = scope.spawn(|| successes(&over, sign));
        thread::sleep(BEFORE);
        let killed = Instant::now();
        etcd.kill(victim);
        thread::sleep(AFTER);
        over.store(true, Ordering::Relaxed);
        [created, signed].map(|thread| longest(&thread.join().unwrap(), killed, killed + AFTER))
    })
}

/// The moments at which `attempt` succeeded.
fn successes(over: &AtomicBool, attempt: impl Fn() -> bool) -> Vec<Instant> {
    let mut moments = Vec::new();
    while !over.load(Ordering::Relaxed) {
        if attempt() {
            moments.push(Instant::now());
        } else {
            thread::sleep(PAUSE);
        }
    }
    moments
}

/// The longest time between two of `moments`, or the last and `end`, that is not over before `killed`.
fn longest(moments: &[Instant], killed: Instant, end: Instant) -> Duration {
    assert!(moments.first().is_some_and(|first| *first < killed), "it worked before");
    assert!(moments.last().is_some_and(|last| *last > killed), "it works again within {AFTER:?}");
    let later = moments.iter().skip(1).chain([&end]);
    let gaps = moments.iter().zip(later).filter(|(_, later)| **later > killed);
    gaps.map(|(earlier, later)| later.saturating_duration_since(*earlier)).max().unwrap_or_default()
}
