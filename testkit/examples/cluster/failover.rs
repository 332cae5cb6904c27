//! What a client of three members notices when one of them is killed: the longest time without a success, and failed calls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use casemate_client::{Client, Settings, Trust};
use casemate_testkit::{EtcdCertificates, admin, ed25519, fingerprint, key, operator};

use crate::growth::eddsa;
use crate::member::Member;
use crate::times::{Sorted, ms};

/// Time before the kill, and after it.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(6);

/// Pause between two signatures.
const PAUSE: Duration = Duration::from_millis(1);

/// What one client went through.
#[derive(Default)]
struct Seen {
    /// When each call succeeded.
    successes: Vec<Instant>,
    failures: Vec<String>,
}

pub(crate) fn measure(kills: usize) {
    let certificates = EtcdCertificates::new();
    let mut members = [(); 3].map(|()| Member::start(&certificates));
    members[0].found(&certificates);
    for member in &members[1..] {
        member.found(&certificates);
        member.join(&members[0]);
    }
    println!("\n## A client of three members when one is killed\n");
    println!(
        "| killed | kills | signature, longest gap: p50 | most | failed | creation, longest gap: p50 | most | failed |\n\
         |---|---|---|---|---|---|---|---|"
    );
    let mut reasons = Vec::new();
    for leader in [false, true] {
        let mut gaps = [Vec::new(), Vec::new()];
        let mut failed = [0; 2];
        for _ in 0..kills {
            let found = loop {
                match members.iter().position(Member::leads) {
                    Some(found) => break found,
                    None => thread::sleep(PAUSE),
                }
            };
            let victim = if leader { found } else { (found + 1) % 3 };
            let seen = kill(&mut members, victim);
            for ((seen, gaps), failed) in seen.into_iter().zip(&mut gaps).zip(&mut failed) {
                *failed += seen.1.len();
                reasons.extend(seen.1);
                gaps.push(seen.0);
            }
        }
        let [signatures, creations] = gaps.map(Sorted::of);
        println!(
            "| {} | {kills} | {} | {} | {} | {} | {} | {} |",
            if leader { "the member whose etcd leads" } else { "another one" },
            ms(signatures.median()),
            ms(signatures.most()),
            failed[0],
            ms(creations.median()),
            ms(creations.most()),
            failed[1],
        );
    }
    println!(
        "\n`kill -9` of casemated, with which its etcd ends. One client of the client library signs with a key and one imports keys, each \
         one call after the other with three nodes in turn, and its defaults besides: a call is repeated at other nodes if that is safe."
    );
    reasons.sort();
    reasons.dedup();
    reasons.iter().for_each(|why| println!("- {why}"));
}

/// The longest gaps and the failures of the two clients around the death of a member, which is started again afterwards.
fn kill(members: &mut [Member; 3], victim: usize) -> [(Duration, Vec<String>); 2] {
    let (addresses, pins): (Vec<String>, Vec<_>) =
        members.iter().map(|member| (member.hsm.address.clone(), fingerprint(&member.hsm.address))).unzip();
    let client =
        || Client::new(Settings { trust: Trust::Pinned(pins.clone()), ..Settings::of(addresses.clone()) }).unwrap();
    let (signing, creating) = (operator(&client()), admin(&client()));
    let sign = || {
        thread::sleep(PAUSE);
        signing.keys().sign(&key("k"), &eddsa()).map(drop).map_err(|error| error.to_string())
    };
    let create = || creating.keys().import(&ed25519()).map(drop).map_err(|error| error.to_string());
    // The passphrases are verified at all nodes before.
    let warm = |call: &dyn Fn() -> Result<(), String>| (0..30).filter(|_| call().is_ok()).count();
    while warm(&sign) < 30 || warm(&create) < 30 {}
    let over = AtomicBool::new(false);
    let (killed, seen) = thread::scope(|scope| {
        let signed = scope.spawn(|| go_on(&over, sign));
        let created = scope.spawn(|| go_on(&over, create));
        thread::sleep(BEFORE);
        let killed = Instant::now();
        members[victim].hsm.kill();
        thread::sleep(AFTER);
        over.store(true, Ordering::Relaxed);
        (killed, [signed, created].map(|thread| thread.join().unwrap()))
    });
    members[victim].hsm.restart();
    let at_victim = members[victim].operator();
    while at_victim.keys().sign(&key("k"), &eddsa()).is_err() {
        thread::sleep(Duration::from_millis(50));
    }
    seen.map(|seen| (longest(&seen.successes, killed), seen.failures))
}

/// Calls until it is over.
fn go_on(over: &AtomicBool, call: impl Fn() -> Result<(), String>) -> Seen {
    let mut seen = Seen::default();
    while !over.load(Ordering::Relaxed) {
        match call() {
            Ok(()) => seen.successes.push(Instant::now()),
            Err(why) => seen.failures.push(why),
        }
    }
    seen
}

/// The longest time between two successes that is not over before `killed`.
fn longest(moments: &[Instant], killed: Instant) -> Duration {
    assert!(moments.last().is_some_and(|last| *last > killed), "it works again within {AFTER:?}");
    let gaps = moments.windows(2).filter(|pair| pair[1] > killed);
    gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}
