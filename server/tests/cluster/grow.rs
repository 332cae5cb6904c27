//! How a node becomes a member, call by call.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::thread;

use casemate_testkit::free_port;
use serde_json::{Value, json};

use super::daemon::{Answer, Client};
use super::node::{BACKUP, Node, get};

/// The members that a node lists.
pub(crate) fn members(client: &Client) -> Vec<Value> {
    get(client, "/cluster/members").as_array().unwrap().clone()
}

/// How a node is listed that has the id `id`.
pub(crate) fn member(id: &Value, name: &Value, node: &Node, learner: bool) -> Value {
    json!({ "id": id, "name": name, "urls": [node.url()], "learner": learner })
}

/// `POST` without a body.
pub(crate) fn post(client: &Client, path: &str) -> Answer {
    client.call("POST", path, None).unwrap()
}

/// The call was refused with this status, for a reason that has `part` in it.
#[track_caller]
pub(crate) fn refused(answer: Answer, status: u16, part: &str) {
    let message = answer.expect(status).json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains(part), "{message}");
}

/// The body with which a node joins, from the reply to its registration.
pub(crate) fn join_of(invitation: &Value) -> Value {
    let mut body = invitation.clone();
    body["backupPassphrase"] = BACKUP.into();
    body
}

/// The id of the member without a name.
pub(crate) fn id_of_new(invitation: &Value) -> Value {
    let members = invitation["members"].as_array().unwrap();
    members.iter().find(|member| member["name"] == "").unwrap()["id"].clone()
}

/// The path at which the member `id` is promoted.
pub(crate) fn promote(id: &Value) -> String {
    format!("/cluster/members/{}/promote", id.as_str().unwrap())
}

/// Registers `new` at `first`, joins, promotes and unlocks it. Returns its id.
pub(crate) fn grow(first: &Node, new: &Node) -> Value {
    let admin = first.admin();
    let name = new.device_id(new.name());
    let before = members(&admin);
    let invitation = first.register(&new.url()).expect(201).json();
    let id = id_of_new(&invitation);
    let now = invitation["members"].as_array().unwrap();
    assert_eq!(now.len(), before.len() + 1);
    assert!(now.contains(&member(&id, &"".into(), new, true)), "{now:?}");
    refused(first.register(&format!("https://127.0.0.1:{}", free_port())), 409, id.as_str().unwrap());
    refused(post(&admin, &promote(&id)), 412, "caught up");
    thread::scope(|scope| {
        let joining = scope.spawn(|| new.join(&join_of(&invitation)));
        first.eventually("the learner is promoted", || {
            let answer = post(&admin, &promote(&id));
            assert!(matches!(answer.status, 204 | 412 | 503), "{}", String::from_utf8_lossy(&answer.bytes));
            answer.status == 204 || joining.is_finished()
        });
        joining.join().unwrap().expect(204);
    });
    new.unlock("first");
    let now = members(&new.admin_of("first"));
    assert_eq!(now.len(), before.len() + 1);
    assert!(now.contains(&member(&id, &name, new, false)), "{now:?}");
    refused(post(&admin, &promote(&id)), 412, "learner");
    id
}
