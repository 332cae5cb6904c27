//! 5 and 6: members that go on without a majority for as long as they are set to.

use std::time::{Duration, Instant};

use casemate_api::limits::STORE_STALE_AFTER_MS;
use casemate_api::sentences::ONLY_USES;
use serde_json::{Value, json};

use super::cluster::{Cluster, NODES};
use super::daemon::{Answer, Client};

const SECOND: Duration = Duration::from_secs(1);
const USER: &str = "signer";
const PASSPHRASE: &str = "passphrase of the signer";

/// A user and a key of each round, as the one before has deleted its own.
struct Round<'a> {
    cluster: &'a Cluster,
    name: &'static str,
    /// The node that is cut off.
    node: usize,
    /// For how long a member goes on.
    max_s: u32,
}

#[test]
fn a_member_goes_on_without_a_majority_until_its_limit_and_learns_what_was_revoked() {
    let cluster = Cluster::start(1);
    cluster.set_up(NODES);
    cluster.join(NODES);
    let leader = cluster.some_leader();
    Round { cluster: &cluster, name: "leader", node: leader, max_s: 15 }.run();
    let follower = (cluster.some_leader() + 1) % NODES;
    Round { cluster: &cluster, name: "follower", node: follower, max_s: 15 }.run();
    Round { cluster: &cluster, name: "half", node: 0, max_s: 60 }.splits();
}

impl Round<'_> {
    fn run(&self) {
        let Self { cluster, node, .. } = *self;
        self.prepare();
        cluster.network.isolate(node);
        let cut = cluster.now();
        let limit = Duration::from_secs(self.max_s.into());

        let mut ages = Vec::new();
        let mut revoked = false;
        let mut last = Duration::ZERO;
        while cluster.now() < cut + limit + 5 * SECOND {
            let asked = cluster.now() - cut;
            let answer = self.sign();
            let told = cluster.now() - cut;
            if let Some(Answer { status: 200, stale, .. }) = answer {
                // What it knows is from before the cut.
                assert!(asked <= limit, "{}: it signed {asked:?} after the cut", self.name);
                assert!(stale.is_some() || asked < Duration::from_millis(STORE_STALE_AFTER_MS), "{asked:?}");
                // The age is rounded up, and what it knows may be a little older than the cut.
                assert!(stale.is_none_or(|age| Duration::from_secs(age) + SECOND > asked), "{stale:?} at {asked:?}");
                ages.extend(stale);
                last = told;
            }
            if !revoked && !ages.is_empty() {
                revoked = true;
                self.refuses_changes();
                self.revoke();
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        println!("{}: {} answers without a majority, the last {last:.1?} after the cut", self.name, ages.len());
        let log = || cluster.log(node);
        assert!(last + 5 * SECOND > limit, "{}: it did not sign for longer than {last:?}\n{}", self.name, log());
        assert!(ages.windows(2).all(|pair| pair[0] <= pair[1]), "{ages:?}");
        cluster.eventually(node, "it is Failed", || cluster.state(node) == "Failed");

        cluster.network.rejoin(node);
        cluster.eventually(node, "it is back", || cluster.state(node) == "Operational");
        cluster.settle();
        let refused = self.sign().map(|answer| answer.status);
        assert!(matches!(refused, Some(401 | 429)), "{}: its user is gone, and not: {refused:?}", self.name);
        let log = cluster.log(node);
        assert!(log.contains("this node reaches no majority, and serves what it knows"), "{log}");
    }

    /// Two of four nodes are cut off from the other two, so that they reach another member and no majority. They do not restart their
    /// etcds for that, as these would tell nothing until there is one.
    fn splits(&self) {
        let Self { cluster, node, .. } = *self;
        self.prepare();
        let pairs = [(0, 2), (0, 3), (1, 2), (1, 3)];
        pairs.iter().for_each(|(one, other)| cluster.network.cut(*one, *other));
        let cut = cluster.now();
        let (mut last, mut stale) = (Duration::ZERO, 0);
        while cluster.now() < cut + 30 * SECOND {
            // A list of keys is in no cache.
            let answer = self.operator().call("GET", "/keys", None).ok();
            if let Some(answer) = answer.filter(|answer| answer.status == 200) {
                last = cluster.now() - cut;
                stale = answer.stale.unwrap_or(stale);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        println!("{}: the last answer was {last:.1?} after the cut, {stale} s old", self.name);
        assert!(last > 25 * SECOND && stale > 20, "it listed keys for {last:?} only\n{}", cluster.log(node));
        pairs.iter().for_each(|(one, other)| cluster.network.heal(*one, *other));
        cluster.settle();
    }

    fn operator(&self) -> Client {
        self.cluster.client(self.node).log_in(&format!("{}{USER}", self.name), PASSPHRASE).alone()
    }

    fn key(&self) -> String {
        format!("/keys/{}", self.name)
    }

    /// Makes a user and a key, has the node use them, and waits until it knows the setting, which it does with its next beat.
    fn prepare(&self) {
        let admin = self.cluster.admin(self.node);
        let setting = json!({ "mode": "degraded", "maxStaleSeconds": self.max_s });
        admin.call("PUT", "/config/without-majority", Some(&setting)).unwrap().expect(204);
        admin.create_operator(&format!("{}{USER}", self.name), PASSPHRASE);
        let key = json!({ "id": self.name, "type": "Curve25519", "mechanisms": ["EdDSA_Signature"] });
        admin.call("POST", "/keys/generate", Some(&key)).unwrap().expect(201);
        self.cluster.eventually(self.node, "the key is used", || self.sign().is_some_and(|it| it.status == 200));
        std::thread::sleep(2 * SECOND);
    }

    fn sign(&self) -> Option<Answer> {
        let message = json!({ "mode": "EdDSA", "message": "c29tZXRoaW5n" });
        self.operator().call("POST", &format!("{}/sign", self.key()), Some(&message)).ok()
    }

    /// Whatever is no use of a key is refused at the node, and nothing waits for the others.
    fn refuses_changes(&self) {
        let admin = self.cluster.admin(self.node);
        let begun = Instant::now();
        for (method, path, body) in [
            ("POST", "/keys/generate", json!({ "type": "Curve25519", "mechanisms": ["EdDSA_Signature"] })),
            ("DELETE", &*self.key(), Value::Null),
            ("GET", "/users", Value::Null),
            ("POST", "/system/backup", json!({})),
            ("PUT", "/config/without-majority", json!({ "mode": "strict" })),
        ] {
            let answer = admin.call(method, path, (!body.is_null()).then_some(&body)).unwrap().expect(503);
            assert_eq!((&answer.json()["message"], answer.stale), (&Value::from(ONLY_USES), None), "{method} {path}");
        }
        println!("{}: five changes were refused in {:.1?}", self.name, begun.elapsed());
        let diagnosis = admin.call("GET", "/health/diagnose", None).unwrap().expect(200).json();
        assert!(diagnosis["store"]["staleS"].as_u64().is_some(), "{diagnosis}");
        admin.call("GET", "/health/ready", None).unwrap().expect(200);
    }

    /// Deletes the user and the key at another node.
    fn revoke(&self) {
        let at = (self.node + 1) % NODES;
        let admin = self.cluster.admin(at);
        for path in [self.key(), format!("/users/{}{USER}", self.name)] {
            self.cluster.eventually(at, &path, || {
                admin.call("DELETE", &path, None).is_ok_and(|answer| [204, 404].contains(&answer.status))
            });
        }
    }
}
