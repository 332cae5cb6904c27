//! Users and namespaces.

use serde_json::json;

use crate::harness::{ADMIN, Hsm};

#[test]
fn users_are_added_shown_tagged_and_deleted() {
    let hsm = Hsm::operational();
    assert_eq!(hsm.admin(&["user", "list", "--json"]).json(), json!([{ "user": "admin" }, { "user": "op" }]));
    assert!(hsm.admin(&["user", "list"]).ok().contains("USER"));
    assert_eq!(hsm.admin(&["user", "tag", "add", "op", "web", "--json"]).json(), json!({ "changed": true }));
    assert_eq!(hsm.admin(&["user", "tag", "add", "op", "web"]).ok(), "Nothing to change.\n");
    assert_eq!(hsm.admin(&["user", "tag", "list", "op", "--json"]).json(), json!(["web"]));
    let shown = hsm.admin(&["user", "show", "op", "--json"]).json();
    assert_eq!(shown, json!({ "user": "op", "realName": "", "role": "Operator", "tags": ["web"] }));
    hsm.admin(&["user", "tag", "rm", "op", "web"]).ok();
    let again = hsm.admin(&["user", "add", "op", "--role", "Operator", "--new-passphrase-file", &hsm.at("op")]);
    again.fails(9);

    hsm.operator(&["user", "passphrase", "op", "--new-passphrase-file", &hsm.at("admin")]).ok();
    hsm.with(("op", ADMIN), &["key", "list"], b"").ok();
    assert!(hsm.admin(&["user", "delete", "op"]).fails(2).contains("--yes"));
    hsm.admin(&["user", "delete", "op", "--yes"]).ok();
    hsm.admin(&["user", "show", "op"]).fails(7);
}

#[test]
fn namespaces_are_added_listed_and_deleted() {
    let hsm = Hsm::operational();
    let made = hsm.admin(&["namespace", "add", "team", "--json"]).json();
    assert_eq!(made, json!({ "id": "team" }));
    assert_eq!(hsm.admin(&["namespace", "list", "--json"]).json(), json!([{ "id": "team" }]));
    assert!(hsm.admin(&["namespace", "list"]).ok().contains("team"));
    assert!(hsm.admin(&["namespace", "delete", "team"]).fails(2).contains("all its keys"));
    hsm.admin(&["namespace", "delete", "team", "-y"]).ok();
    assert_eq!(hsm.admin(&["namespace", "list", "--json"]).json(), json!([]));
}
