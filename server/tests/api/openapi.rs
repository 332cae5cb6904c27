//! The OpenAPI document: complete, and in agreement with NetHSM's own where that is available.

use std::collections::{BTreeMap, BTreeSet};

use casemate_server::http::endpoints::table;
use serde_json::Value;

use crate::rig::Rig;

/// What a document says about one operation, as far as policy is concerned.
#[derive(Debug, PartialEq, Eq)]
struct Policy {
    states: BTreeSet<String>,
    roles: BTreeSet<String>,
    namespaces: BTreeSet<String>,
}

/// Every operation of a document, by method and path with the names of ids left out.
fn operations(document: &Value) -> BTreeMap<String, Policy> {
    let mut found = BTreeMap::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let path: Vec<_> = path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect();
        for (method, operation) in item.as_object().expect("methods") {
            if !["get", "put", "post", "delete"].contains(&method.as_str()) {
                continue;
            }
            let words = |member: &str| -> BTreeSet<String> {
                let list = operation[member].as_array().cloned().unwrap_or_default();
                list.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
            };
            let policy = Policy {
                states: words("x-annotation-state"),
                roles: words("x-annotation-role"),
                namespaces: words("x-annotation-caller-namespace"),
            };
            found.insert(format!("{} {}", method.to_uppercase(), path.join("/")), policy);
        }
    }
    found
}

fn ours() -> Value {
    let reply = Rig::unprovisioned().anonymous().send_to("GET", "/openapi.json", "").is(200);
    reply.json()
}

#[test]
fn every_route_is_documented_and_nothing_else() {
    let document = ours();
    let documented: BTreeSet<_> = operations(&document).into_keys().collect();
    let routes = table().into_iter().map(|row| {
        let path: Vec<_> =
            row.spec.path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect();
        format!("{} {}", row.spec.method, path.join("/"))
    });
    assert_eq!(documented, routes.collect());
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}

/// Operations on which the two documents differ, and why. It may only shrink.
const EXPLAINED: &[(&str, &str)] = &[
    ("POST /system/restore", "the file calls it public; an Operational NetHSM asks for an Administrator"),
    ("POST /system/reboot", "the file leaves out that the unlock passphrase is asked for while Failed"),
    ("POST /system/factory-reset", "the file leaves out that the unlock passphrase is asked for while Failed"),
    ("PUT /config/tls/cert.pem", "the file leaves out that only the root may"),
    ("POST /cluster/join", "an Operational NetHSM joins and loses its data; a Casemate joins while Unprovisioned"),
    ("POST /system/shutdown", "the file has Root only, but without credentials nobody has a namespace"),
];

/// Operations of NetHSM that are not implemented yet: those of voting members.
const MISSING: &[&str] = &["DELETE /cluster/members/{}", "PUT /cluster/members/{}", "POST /cluster/members/{}/promote"];

/// Operations that NetHSM does not have, and why we do.
const OURS: &[(&str, &str)] = &[
    ("GET /metrics/prometheus", "figures in the text that Prometheus reads"),
    ("GET /audit", "the audit log, which NetHSM has not"),
    ("GET /audit/key.pem", "the key with which an exported audit log is verified"),
];

#[test]
#[expect(clippy::disallowed_methods, reason = "the one place where the file is named")]
fn the_policy_is_the_one_of_nethsm() {
    let Ok(file) = std::env::var("NETHSM_OPENAPI") else {
        eprintln!("SKIPPED: NETHSM_OPENAPI does not name NetHSM's OpenAPI file, so the policies were NOT compared");
        return;
    };
    let text = std::fs::read_to_string(&file).unwrap_or_else(|why| panic!("{file}: {why}"));
    let theirs: Value = serde_norway::from_str(&text).unwrap();
    let (ours, theirs) = (operations(&ours()), operations(&theirs));
    let mut differences = Vec::new();
    for (operation, policy) in &theirs {
        let explained = EXPLAINED.iter().any(|(known, _)| known == operation);
        let missing = MISSING.contains(&operation.as_str());
        match ours.get(operation) {
            None if missing => {}
            None => differences.push(format!("{operation} is missing")),
            Some(_) if missing => differences.push(format!("{operation} is not missing any more: shorten the list")),
            Some(own) if own == policy && explained => {
                differences.push(format!("{operation} is the same now: shorten the list"));
            }
            Some(own) if own == policy || explained => {}
            Some(own) => differences.push(format!("{operation}\n  ours   {own:?}\n  theirs {policy:?}")),
        }
    }
    let own = |operation: &str| OURS.iter().any(|(known, _)| *known == operation);
    let extra = ours.keys().filter(|operation| !theirs.contains_key(*operation) && !own(operation));
    differences.extend(extra.map(|operation| format!("{operation} is ours alone")));
    let known = |operation: &str| theirs.contains_key(operation);
    let unknown = EXPLAINED.iter().map(|(operation, _)| operation).chain(MISSING).filter(|operation| !known(operation));
    differences.extend(unknown.map(|operation| format!("{operation} is in a list, but not in the file")));
    let vain = OURS.iter().filter(|(operation, _)| theirs.contains_key(*operation) || !ours.contains_key(*operation));
    differences.extend(vain.map(|(operation, _)| format!("{operation} is in the list of ours, but is not ours alone")));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
