//! Conditions of changes (RFC 9110 §13): every change at a path whose GET has an ETag is evaluated against that ETag.

use std::collections::BTreeSet;

use casemate_api::{Role, State};
use casemate_core::identity::caller::CallerScope;
use casemate_server::http::access::Rule;
use casemate_server::http::endpoints::table;
use hyper::Method;
use serde_json::json;

use crate::rig::{Client, Content, Rig, ed25519};
use crate::wire::Reply;

/// A change at a path whose GET has an ETag.
struct Conditional {
    method: &'static str,
    /// The path in the table.
    pattern: &'static str,
    /// The path of the request.
    path: &'static str,
    media: &'static str,
    /// The body; `None`: the reply of GET.
    body: Option<Content>,
    /// The status if the condition holds and the object exists.
    status: u16,
}

const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";
const PEM: &str = "application/x-pem-file";

/// All of them; deletions after all other changes of the same object.
fn conditional() -> Vec<Conditional> {
    let change = |method, pattern, path, media, body: Option<Content>, status| Conditional {
        method,
        pattern,
        path,
        media,
        body,
        status,
    };
    let user = json!({"realName": "", "role": "Operator", "passphrase": "0123456789"});
    let nothing = || Some(Content::from(""));
    vec![
        change("PUT", "/config/unattended-boot", "/config/unattended-boot", JSON, None, 204),
        change("PUT", "/config/network", "/config/network", JSON, None, 204),
        change("PUT", "/config/logging", "/config/logging", JSON, None, 204),
        change("PUT", "/config/tls/cert.pem", "/config/tls/cert.pem", PEM, None, 201),
        change("PUT", "/users/{user}", "/users/ns1~operator", JSON, Some(user.clone().into()), 403),
        change("PUT", "/users/{user}", "/users/operator2", JSON, Some(user.into()), 409),
        change("DELETE", "/users/{user}", "/users/operator2", JSON, nothing(), 204),
        change("PUT", "/keys/{key}/cert", "/keys/k/cert", OCTETS, None, 409),
        change("DELETE", "/keys/{key}/cert", "/keys/k/cert", OCTETS, nothing(), 204),
        change("PUT", "/keys/{key}", "/keys/k", JSON, Some(ed25519().into()), 400),
        change("DELETE", "/keys/{key}", "/keys/k", JSON, nothing(), 204),
    ]
}

impl Conditional {
    /// Sends it with this condition.
    fn send(&self, client: Client<'_>, condition: &str, tag: &str, read: &Reply) -> Reply {
        let body = self.body.clone().unwrap_or_else(|| Content::from(read.body.clone()));
        client.content_type(self.media).header(condition, tag).send(self.method, self.path, body)
    }
}

/// Paths of GETs with an ETag, and the other methods that the table has there.
fn changes_of_tagged_paths() -> BTreeSet<(String, String)> {
    let table = table();
    let tagged: BTreeSet<_> = table.iter().filter(|row| row.spec.etag).map(|row| row.spec.path).collect();
    assert!(table.iter().all(|row| !row.spec.etag || row.spec.method == Method::GET));
    let others = table.iter().filter(|row| row.spec.method != Method::GET && tagged.contains(row.spec.path));
    others.map(|row| (row.spec.method.to_string(), row.spec.path.to_owned())).collect()
}

#[test]
fn every_change_takes_the_etag_that_get_gave_and_no_other() {
    let rig = Rig::operational();
    for change in conditional() {
        let name = format!("{} {}", change.method, change.path);
        let read = rig.admin().get(change.path).is(200);
        let tag = read.header("etag").expect("an ETag").to_owned();
        let admin = || rig.admin();
        for (condition, value) in [
            ("if-match", "\"other\"".to_owned()),
            ("if-match", "\"00000000000000000000000000000000\"".to_owned()),
            ("if-none-match", tag.clone()),
            ("if-none-match", format!("W/{tag}")),
            ("if-none-match", "*".to_owned()),
        ] {
            let reply = change.send(admin(), condition, &value, &read);
            assert_eq!(reply.status, 412, "{name} {condition} {value}: {reply}");
            assert_eq!(rig.admin().get(change.path).is(200).header("etag"), Some(&*tag), "{name}");
        }
        let reply = change.send(admin(), "if-match", &format!("\"other\", {tag}"), &read);
        assert_eq!(reply.status, change.status, "{name}: {reply}");
    }
    // A path with a name chosen by the HSM is not that of the user: nothing with an ETag exists there.
    let user = || json!({"realName": "", "role": "Operator", "passphrase": "0123456789"});
    rig.admin().header("if-match", "\"other\"").post("/users/ns1~", user()).is(412);
    rig.admin().header("if-none-match", "*").post("/users/ns1~", user()).is(412);
    rig.user("ns1~admin").header("if-match", "*").post("/users/ns1~", user()).is(201);
    rig.user("ns1~admin").header("if-none-match", "\"other\"").post("/users/ns1~", user()).is(201);

    let mut tried: BTreeSet<_> =
        conditional().iter().map(|change| (change.method.to_owned(), change.pattern.to_owned())).collect();
    tried.insert(("POST".into(), "/users/{user}".into()));
    assert_eq!(tried, changes_of_tagged_paths(), "each is tried here");
}

/// A condition reveals what GET would: whoever may change at such a path must be allowed to read there.
#[test]
fn a_conditional_change_requires_the_right_to_read() {
    let table = table();
    for (method, path) in changes_of_tagged_paths() {
        let rule = |wanted: &str| {
            let row = table.iter().find(|row| row.spec.path == path && row.spec.method.as_str() == wanted).unwrap();
            match row.spec.access.as_slice() {
                [(State::Operational, Rule::Allowed(action, scope)), others @ ..] => (*action, *scope, others),
                others => panic!("{wanted} {path}: {others:?}"),
            }
        };
        let ((change, change_from, change_else), (read, read_from, read_else)) = (rule(&method), rule("GET"));
        assert!(change_else == read_else, "{method} {path}");
        for role in Role::ALL.into_iter().filter(|role| role.may(change)) {
            assert!(role.may(read), "{method} {path}: {role:?}");
        }
        assert!(read_from == CallerScope::Anywhere || change_from == CallerScope::Root, "{method} {path}");
    }
}

#[test]
fn a_missing_object_has_no_etag_and_can_be_created_conditionally() {
    let rig = Rig::operational();
    let user = json!({"realName": "", "role": "Operator", "passphrase": "0123456789"});
    rig.admin().put("/keys/bare", ed25519()).is(204);
    let cases: [(&str, &str, Content, u16); 4] = [
        ("/keys/bare/cert", OCTETS, "c".into(), 201),
        ("/keys/missing/cert", OCTETS, "c".into(), 404),
        ("/keys/new", JSON, ed25519().into(), 204),
        ("/users/new", JSON, user.into(), 201),
    ];
    for (path, media, body, status) in cases {
        let put = |condition: &str, value: &str| {
            rig.admin().content_type(media).header(condition, value).put(path, body.clone())
        };
        put("if-match", "*").is(412);
        put("if-match", "\"x\"").is(412);
        put("if-none-match", "*").is(status);
    }
}

/// Paths without such a GET: there is no ETag to evaluate, even if what they name has one elsewhere.
#[test]
fn an_etag_of_another_path_does_not_count() {
    let rig = Rig::operational();
    let key = rig.admin().get("/keys/k").is(200).header("etag").unwrap().to_owned();
    let user = rig.admin().get("/users/operator").is(200).header("etag").unwrap().to_owned();
    for tag in [&*key, &*user] {
        let admin = || rig.admin().header("if-match", tag);
        admin().delete("/keys/k/label").is(412);
        admin().put("/keys/k/label", json!({"label": "l"})).is(412);
        admin().post("/keys/k/move", json!({"newId": "l"})).is(412);
        admin().delete("/keys/k/cert").is(412);
        admin().delete("/users/operator/tags/t").is(412);
        admin().post("/users/operator/passphrase", json!({"passphrase": "0123456789"})).is(412);
    }
}

/// A condition must not reveal whether a user exists whom the caller may not read.
#[test]
fn a_condition_reveals_nothing_about_users_of_others() {
    let rig = Rig::operational();
    let user = json!({"realName": "", "role": "Operator", "passphrase": "0123456789"});
    let tag = rig.admin().get("/users/ns1~operator").is(200).header("etag").unwrap().to_owned();
    for (condition, value, status) in [
        ("if-match", "*", 403),
        ("if-match", &tag, 412),
        ("if-match", "\"x\"", 412),
        ("if-none-match", "*", 412),
        ("if-none-match", &tag, 403),
        ("if-none-match", "\"x\"", 403),
    ] {
        for id in ["ns1~operator", "ns1~missing", "missing~operator", "operator"] {
            let stranger = rig.user("ns2~admin").header(condition, value);
            let reply = stranger.put(&format!("/users/{id}"), user.clone());
            assert_eq!(reply.status, status, "{condition} {value} {id}: {reply}");
            stranger.delete(&format!("/users/{id}")).is(403);
        }
    }
}
