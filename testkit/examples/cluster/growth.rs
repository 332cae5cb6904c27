//! A node with many keys becomes a cluster of one and of three, and is started again: how long that takes, and the memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use casemate_api::SignMode;
use casemate_api::body::keys::Sign;
use casemate_testkit::{EtcdCertificates, ed25519, key};

use crate::member::Member;
use crate::process;

/// Clients that create keys at the same time.
const MANY: usize = 64;

pub(crate) fn measure(sizes: &[usize]) {
    println!("\n## Growing, by the number of keys\n");
    println!(
        "| keys | step | time | casemated: memory (most) | its etcd: memory (most) | database |\n|---|---|---|---|---|---|"
    );
    for keys in sizes {
        grow(*keys);
    }
    println!(
        "\nImported Ed25519 keys. A restart is `kill -9` of casemated, with which its etcd ends, and a start; its time is that to the \
         first signature, with unattended boot. A join is from the registration to its answer, with the promotion tried every 20 ms."
    );
}

fn grow(keys: usize) {
    let certificates = EtcdCertificates::new();
    let mut first = Member::start(&certificates);
    let row = |name: &str, took: Duration, member: &Member| {
        let memory = |pid| {
            let (now, most) = process::memory(pid);
            format!("{now:.0} ({most:.0}) MiB")
        };
        let etcd = member.etcd_pid();
        println!(
            "| {keys} | {name} | {:.2} s | {} | {} | {} |",
            took.as_secs_f64(),
            memory(member.hsm.pid()),
            etcd.map_or("–".into(), memory),
            etcd.map_or("–".into(), |_| format!("{:.0} MiB", member.database())),
        );
    };
    row("creation in a file", timed(|| create(&first, keys)), &first);
    row("restart with a file", restart(&mut first), &first);
    let moved = first.found(&certificates);
    row("the move into an etcd", moved, &first);
    row("restart of the only member", restart(&mut first), &first);
    let [second, mut third] = [(); 2].map(|()| Member::start(&certificates));
    for (name, member) in [("join of the second", &second), ("join of the third", &third)] {
        member.found(&certificates);
        row(name, member.join(&first), member);
    }
    row("restart of one of three", restart(&mut third), &third);
    row("the first one at the end", Duration::ZERO, &first);
}

/// Kills it, and starts it: the time until it signs.
fn restart(member: &mut Member) -> Duration {
    member.hsm.kill();
    let begun = Instant::now();
    member.hsm.restart();
    let operator = member.operator();
    while operator.keys().sign(&key("k"), &eddsa()).is_err() {
        thread::sleep(Duration::from_millis(5));
    }
    begun.elapsed()
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

/// A request for a signature with the key `k`.
pub(crate) fn eddsa() -> Sign {
    Sign { mode: SignMode::EdDSA, message: "c29tZXRoaW5n".into() }
}

/// Imports that many keys by many clients, under ids that the server chooses.
fn create(member: &Member, keys: usize) {
    let begun = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..MANY {
            let (session, begun) = (member.admin(), &begun);
            scope.spawn(move || {
                while begun.fetch_add(1, Ordering::Relaxed) < keys {
                    session.keys().import(&ed25519()).unwrap();
                }
            });
        }
    });
}
