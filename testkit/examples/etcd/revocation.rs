//! How long a deleted key, and a deleted user, can still be used at another node, which has both in its caches and is asked
//! without pause: from the acknowledged deletion at one node to the last signature, and to the first refusal, at the other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use casemate_api::body::users::NewUser;
use casemate_api::{KeyId, Role, UserId};
use casemate_client::{Error, Session};
use casemate_testkit::{EtcdServer, key, secret};

use crate::Plan;
use crate::node::{Node, ecdsa};
use crate::times::{Sorted, ms};

const PASSPHRASE: &str = "a passphrase of an operator";

pub(crate) fn measure(plan: &Plan) {
    let etcd = EtcdServer::three();
    let first = Node::first(&etcd);
    let second = first.joining(&etcd, 1);
    let admin = first.admin();
    let operator = second.operator();
    let of_key: Vec<_> = (0..plan.revocations)
        .map(|trial| {
            let id = format!("revoked{trial}");
            first.generate_p256(&id);
            let id = key(&id);
            revoke(trial, &operator, &id, || admin.keys().delete(&id).unwrap())
        })
        .collect();
    first.generate_p256("k");
    let of_user: Vec<_> = (0..plan.revocations)
        .map(|trial| {
            let name = UserId::parse(&format!("revoked{trial}")).unwrap();
            let user = NewUser { real_name: String::new(), role: Role::Operator, passphrase: secret(PASSPHRASE) };
            admin.users().create_as(&name, &user).unwrap();
            let session = second.user(&name, secret(PASSPHRASE));
            revoke(trial, &session, &key("k"), || admin.users().delete(&name).unwrap())
        })
        .collect();
    println!("\n## Revocation: from the acknowledged deletion at one node to its effect at another\n");
    println!("| | trials | p50 | p99 | most |\n|---|---|---|---|---|");
    for (name, delays) in [("key", of_key), ("user", of_user)] {
        let (last, first): (Vec<_>, Vec<_>) = delays.into_iter().unzip();
        for (what, delays) in [("last signature", last), ("first refusal", first)] {
            let delays = Sorted::of(delays);
            let [p50, p99, most] = [delays.median(), delays.at(0.99), delays.most()].map(ms);
            println!("| deleted {name}: {what} | {} | {p50} | {p99} | {most} |", delays.count());
        }
    }
    println!(
        "\netcd of three members, each node at another member; P-256, one connection without pauses. What was answered before \
         the acknowledgement counts as 0. A user's first refusal takes a passphrase hash. Promised: 1 s."
    );
}

/// Signs until that is refused, and meanwhile revokes. Returns the times from the end of `revoke` to the last signature and to
/// the refusal.
fn revoke(trial: usize, session: &Session, id: &KeyId, revoke: impl FnOnce()) -> (Duration, Duration) {
    let signed = AtomicUsize::new(0);
    thread::scope(|scope| {
        let signing = scope.spawn(|| {
            let mut last = Instant::now();
            loop {
                match session.keys().sign(id, &ecdsa()) {
                    Ok(_) => last = Instant::now(),
                    Err(Error::NotFound { .. } | Error::Unauthenticated { .. }) => return (last, Instant::now()),
                    Err(other) => panic!("{other}"),
                }
                signed.fetch_add(1, Ordering::Relaxed);
            }
        });
        while signed.load(Ordering::Relaxed) < WARM && !signing.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        // At any moment between two questions of the node to etcd.
        thread::sleep(Duration::from_millis(trial as u64 * 37 % 250));
        assert!(!signing.is_finished(), "nothing is revoked yet");
        revoke();
        let acknowledged = Instant::now();
        let (last, refused) = signing.join().unwrap();
        (last.saturating_duration_since(acknowledged), refused.saturating_duration_since(acknowledged))
    })
}

/// Signatures before a revocation.
const WARM: usize = 20;
