//! A key and a user that are deleted while a node that knows them reaches no other node.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use casemate_api::limits::STORE_CONFIRMED_MS;
use serde_json::json;

use super::cluster::{Cluster, lock};
use super::daemon::Client;

const USER: &str = "leaver";
const PASSPHRASE: &str = "passphrase of the leaver";
const KEY: &str = "revoked";

pub(crate) struct Revoked<'a> {
    cluster: &'a Cluster,
    /// The node that is cut off.
    node: usize,
    ended: AtomicBool,
    /// When both deletions were acknowledged.
    gone: Mutex<Option<Duration>>,
}

impl<'a> Revoked<'a> {
    /// Makes both, and has the node use them.
    pub(crate) fn prepare(cluster: &'a Cluster, node: usize) -> Self {
        let revoked = Self { cluster, node, ended: AtomicBool::new(false), gone: Mutex::default() };
        let admin = cluster.admin(node);
        let user = json!({ "realName": "", "role": "Operator", "passphrase": PASSPHRASE });
        let key = json!({ "id": KEY, "type": "Curve25519", "mechanisms": ["EdDSA_Signature"] });
        let there = |method: &str, path: &str, body: &serde_json::Value| {
            cluster.eventually(node, path, || {
                // 400, 409: it is there after an attempt of unknown outcome.
                admin.call(method, path, Some(body)).is_ok_and(|answer| [201, 400, 409].contains(&answer.status))
            });
        };
        there("PUT", &format!("/users/{USER}"), &user);
        there("POST", "/keys/generate", &key);
        let operator = revoked.operator();
        cluster.eventually(node, "the key is used", || status(&operator) == Some(200));
        revoked
    }

    fn operator(&self) -> Client {
        self.cluster.client(self.node).log_in(USER, PASSPHRASE).alone()
    }

    /// Uses both at the node until the end, and checks that it refuses when it may no longer know better.
    pub(crate) fn keep_using(&self) {
        let operator = self.operator();
        while !self.ended.load(Ordering::Relaxed) {
            let gone = *lock(&self.gone);
            let asked = self.cluster.now();
            let status = status(&operator);
            if let Some(gone) = gone
                && asked > gone + Duration::from_millis(STORE_CONFIRMED_MS)
            {
                assert!(status != Some(200), "a key was used at {asked:?} that was deleted at {gone:?}, with its user");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Deletes both at another node.
    pub(crate) fn revoke(&self, at: usize) {
        let admin = self.cluster.admin(at);
        for path in [format!("/keys/{KEY}"), format!("/users/{USER}")] {
            self.cluster.eventually(at, &path, || {
                admin.call("DELETE", &path, None).is_ok_and(|answer| [204, 404].contains(&answer.status))
            });
        }
        *lock(&self.gone) = Some(self.cluster.now());
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        // A login of a user who is gone is refused for a second after the one before.
        let operator = self.operator();
        let found = status(&operator);
        assert!(matches!(found, Some(401 | 429)), "the user is gone, and not: {found:?}");
        let admin = self.cluster.admin(self.node);
        admin.call("GET", &format!("/keys/{KEY}"), None).unwrap().expect(404);
    }
}

/// The status of an attempt to sign, if it was answered.
fn status(operator: &Client) -> Option<u16> {
    let message = json!({ "mode": "EdDSA", "message": "c29tZXRoaW5n" });
    let answer = operator.call("POST", &format!("/keys/{KEY}/sign"), Some(&message));
    answer.ok().map(|answer| answer.status)
}
