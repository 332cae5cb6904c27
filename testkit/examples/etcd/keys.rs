//! Many keys in an etcd of one member: their creation, list and backup, and what they take of memory and of the database.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use casemate_api::body::users::NewUser;
use casemate_api::{Role, UserId};
use casemate_testkit::{EtcdServer, ed25519, secret};

use crate::creation::MANY;
use crate::node::Node;
use crate::{Plan, process};

/// The passphrase of the user with the role Backup.
const PASSPHRASE: &str = "a backup user's passphrase";

pub(crate) fn measure(plan: &Plan) {
    // The quota leaves room for the history of so many creations, which is kept until the nodes compact it.
    let etcd = EtcdServer::start(1, &["--quota-backend-bytes=8589934592"]);
    let mut node = Node::first(&etcd);
    let user = UserId::parse("backup").unwrap();
    let backup = NewUser { real_name: String::new(), role: Role::Backup, passphrase: secret(PASSPHRASE) };
    node.admin().users().create_as(&user, &backup).unwrap();
    println!("\n## {} keys in an etcd of one member\n", plan.keys);
    println!("| | time | | casemated: memory (most) | etcd: memory (most) | its database |\n|---|---|---|---|---|---|");

    let (took, _) = timed(|| create(&node, plan.keys));
    row(&node, &etcd, &format!("creation by {MANY} clients"), took, &rate(plan.keys, took, "keys"));

    node.restart(&etcd, 0);
    let admin = node.admin();
    // The passphrase is verified before.
    admin.users().read(&UserId::parse("admin").unwrap()).unwrap();
    for name in ["`GET /keys` after a restart", "`GET /keys` again"] {
        let (took, list) = timed(|| admin.get_bytes("/keys", "application/json").unwrap());
        let listed = list.windows(5).filter(|text| text == b"\"id\":").count();
        assert_eq!(listed, plan.keys, "the list is complete");
        row(&node, &etcd, name, took, &rate(listed, took, "keys"));
    }

    node.restart(&etcd, 0);
    let session = node.user(&user, secret(PASSPHRASE));
    let (took, bytes) = timed(|| session.system().backup(&mut io::sink()).unwrap());
    let mb = bytes as f64 / 1e6;
    let figures = format!("{mb:.1} MB, {:.1} MB/s, {}", mb / took.as_secs_f64(), rate(plan.keys, took, "keys"));
    row(&node, &etcd, "backup after a restart", took, &figures);
}

fn row(node: &Node, etcd: &EtcdServer, name: &str, took: Duration, figures: &str) {
    let memory = |pid| {
        let (now, most) = process::memory(pid);
        format!("{now:.0} ({most:.0}) MiB")
    };
    let database = fs::metadata(etcd.folder.path("m0/member/snap/db")).unwrap().len() as f64 / f64::from(1 << 20);
    println!(
        "| {name} | {:.1} s | {figures} | {} | {} | {database:.0} MiB |",
        took.as_secs_f64(),
        memory(node.hsm.pid()),
        memory(etcd.pid(0)),
    );
}

fn rate(count: usize, time: Duration, what: &str) -> String {
    format!("{:.0} {what}/s", count as f64 / time.as_secs_f64())
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let result = work();
    (begun.elapsed(), result)
}

/// Imports that many keys by many clients, under ids that the server chooses.
fn create(node: &Node, keys: usize) {
    let begun = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..MANY {
            let (client, begun) = (node.admin(), &begun);
            scope.spawn(move || {
                while begun.fetch_add(1, Ordering::Relaxed) < keys {
                    client.keys().import(&ed25519()).unwrap();
                }
            });
        }
    });
}
