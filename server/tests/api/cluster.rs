//! Nodes that share a store: joiner kits, and joining with them.

use std::time::Duration;

use casemate_api::State;
use serde_json::{Value, json};

use crate::rig::{Rig, UNLOCK, ed25519, passphrase_of, sign_something};
use crate::wire::Reply;

/// The backup passphrase of [`founder`].
const BACKUP: &str = "the backup passphrase";

/// The first node of a cluster, Operational and with a backup passphrase.
pub fn founder() -> Rig {
    let rig = Rig::sharing();
    rig.provision().is(204);
    let change = json!({"newPassphrase": BACKUP, "currentPassphrase": ""});
    rig.admin().put("/config/backup-passphrase", change).is(204);
    rig
}

/// An invitation for a serving node.
pub fn serving() -> Value {
    json!({"urls": ["https://192.0.2.2:8443"], "serving": true})
}

/// The body with which another node joins the cluster of `founder`.
pub fn join_of(founder: &Rig) -> Value {
    let mut body = founder.admin().post("/cluster/members", serving()).is(201).json();
    body["backupPassphrase"] = BACKUP.into();
    body
}

fn tells(reply: &Reply, part: &str) {
    assert!(reply.message().contains(part), "{part:?} is not in {reply}");
}

#[test]
fn a_node_joins_with_the_reply_of_another_and_the_backup_passphrase() {
    let founder = founder();
    founder.admin().put("/keys/k", ed25519()).is(204);
    let invitation = founder.admin().post("/cluster/members", serving()).is(201).json();
    let members = founder.admin().get("/cluster/members").is(200).json();
    assert_eq!(invitation["members"], members, "a serving node is no member");
    assert_eq!((members.as_array().unwrap().len(), &members[0]["name"]), (1, &json!(founder.hsm.device_id())));

    let joiner = Rig::beside(&founder);
    joiner.anonymous().post("/cluster/join", join_of(&founder)).is(204).empty();
    assert_eq!(joiner.hsm.state(), State::Locked);
    joiner.unlock().is(204);
    let name = joiner.admin().get("/cluster/members").is(200).json()[0]["name"].clone();
    assert_eq!(name, joiner.hsm.device_id());
    let operator = json!({"realName": "", "role": "Operator", "passphrase": passphrase_of("operator")});
    joiner.admin().put("/users/operator", operator).is(201);
    let by = |rig: &Rig| rig.operator().post("/keys/k/sign", sign_something()).is(200).json();
    assert_eq!(by(&founder), by(&joiner));
    let change = json!({"newPassphrase": "its own passphrase", "currentPassphrase": UNLOCK});
    joiner.admin().put("/config/unlock-passphrase", change).is(204);
    joiner.admin().post("/lock", "").is(204);
    joiner.unlock().is(403);
    joiner.advance(Duration::from_secs(1));
    joiner.anonymous().post("/unlock", json!({"passphrase": "its own passphrase"})).is(204);
}

#[test]
fn an_invitation_is_refused_where_nothing_can_join() {
    let alone = Rig::operational();
    if !alone.store_is_real() {
        tells(&alone.admin().post("/cluster/members", serving()).is(412), "store = \"etcd\"");
    }
    let rig = Rig::sharing();
    rig.provision().is(204);
    let invite = |body: Value| rig.admin().post("/cluster/members", body);
    tells(&invite(serving()).is(412), "PUT /config/backup-passphrase");
    tells(&invite(json!({"urls": ["https://192.0.2.2:2380"]})).is(412), "that its settings name");
    invite(json!({"urls": ["https://192.0.2.2:2380"], "serving": false})).is(412);
    for bad in [
        json!({"urls": ["http://192.0.2.2:8443"], "serving": true}),
        json!({"urls": [], "serving": true}),
        json!({"urls": "https://192.0.2.2:8443", "serving": true}),
        json!({"serving": true}),
        json!({"urls": ["https://192.0.2.2:8443"], "serving": true, "witness": true}),
    ] {
        invite(bad).is(400);
    }
    rig.admin().post("/cluster/members", "{").is(400);
}

#[test]
fn a_join_is_refused_with_the_reason_and_changes_nothing() {
    let founder = founder();
    let joiner = Rig::beside(&founder);
    let good = join_of(&founder);
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        joiner.anonymous().post("/cluster/join", body)
    };
    joiner.anonymous().post("/cluster/join", "{").is(400);
    tells(&with("joinerKit", "a kit".into()).is(400), "joinerKit");
    tells(&with("systemTime", "today".into()).is(400), "timestamp");
    with("witness", true.into()).is(400);
    for missing in ["backupPassphrase", "joinerKit"] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(missing);
        tells(&joiner.anonymous().post("/cluster/join", body).is(400), missing);
    }
    with("backupPassphrase", "another passphrase".into())
        .is(400)
        .says("Could not decrypt unlock-salt: invalid passphrase");
    with("backupPassphrase", BACKUP.into()).is(429);
    joiner.advance(Duration::from_secs(1));
    tells(&with("joinerKit", join_of(&self::founder())["joinerKit"].clone()).is(412), "another cluster");
    assert_eq!(joiner.hsm.state(), State::Unprovisioned);

    // `members` may be missing.
    with("members", json!([])).is(204);
    joiner.anonymous().post("/cluster/join", good.clone()).is(412);
    let alone = Rig::unprovisioned();
    if !alone.store_is_real() {
        tells(&alone.anonymous().post("/cluster/join", good).is(412), "store = \"etcd\"");
    }
}
