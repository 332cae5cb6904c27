//! Checks whether several nodes are one service with the same users and keys, as a client assumes.

use std::collections::{BTreeMap, BTreeSet};

use casemate_api::KeyId;
use casemate_client::{Error, KeyFilter};
use serde_json::{Value, json};

use super::node::Node;
use super::report::Report;

/// Compares the nodes that accepted the login.
pub(super) fn check(nodes: &[Node], report: &mut Report) {
    let [first, _, ..] = nodes else {
        return report.skip("agreement", "fewer than two nodes accepted a login, so nothing can be compared");
    };
    versions(first, nodes, report);
    compare("namespaces", nodes, report, |node| {
        Ok(node.session.namespaces().list()?.into_iter().map(|item| item.id).collect())
    });
    compare("users", nodes, report, |node| {
        Ok(node.session.users().list()?.into_iter().map(|item| item.user).collect())
    });
    let keys = compare("keys", nodes, report, |node| {
        let keys = node.session.keys().list(&KeyFilter::default())?;
        Ok(keys.into_iter().map(|item| item.id).collect())
    });
    if let Some(keys) = keys {
        same_keys(&keys, nodes, report);
    }
}

/// Checks whether an id is that of the same key on every node: otherwise signatures would depend on the node that is
/// asked.
fn same_keys(everywhere: &BTreeSet<String>, nodes: &[Node], report: &mut Report) {
    let (mut others, mut compared) = (Vec::new(), 0);
    for id in everywhere.iter().filter_map(|id| KeyId::parse(id).ok()).take(KEYS_MAX) {
        let mut seen = BTreeSet::new();
        for node in nodes {
            match node.session.keys().read(&id) {
                Ok(key) => {
                    seen.insert(json!([key.key_type, key.public]).to_string());
                }
                // It was deleted after it was listed.
                Err(Error::NotFound { .. }) => {}
                Err(why) => return report.failure("public-keys", &why.into()),
            }
        }
        compared += 1;
        if seen.len() > 1 {
            others.push(id.to_string());
        }
    }
    if others.is_empty() {
        return report.ok("public-keys", format!("the same on every node, {compared} compared"), Value::Null);
    }
    let seen = format!("different keys with the same id: {}", others.join(", "));
    let next = "These nodes do not belong together: use only those that do.";
    report.warn("public-keys", seen, next, json!({ "different": others }));
}

fn versions(first: &Node, nodes: &[Node], report: &mut Report) {
    let versions: BTreeMap<_, _> =
        nodes.iter().filter_map(|node| Some((node.name.clone(), node.version.clone()?))).collect();
    if versions.len() < nodes.len() {
        return report.skip("versions", "this user may not read them");
    }
    let data = json!({ "versions": versions });
    if versions.values().all(|version| Some(version) == first.version.as_ref()) {
        return report.ok("versions", format!("all nodes run {}", first.version.as_deref().unwrap_or_default()), data);
    }
    let each: Vec<_> = versions.iter().map(|(node, version)| format!("{node} runs {version}")).collect();
    report.warn("versions", each.join(", "), "Update the older ones, one after another.", data);
}

/// Checks whether every node lists the same names. Returns those that are on every node.
fn compare(
    what: &'static str,
    nodes: &[Node],
    report: &mut Report,
    list: impl Fn(&Node) -> Result<BTreeSet<String>, Error>,
) -> Option<BTreeSet<String>> {
    let mut lists = Vec::new();
    for node in nodes {
        match list(node) {
            Ok(names) => lists.push(names),
            Err(Error::Forbidden { .. }) => {
                report.skip(what, "this user may not list them");
                return None;
            }
            Err(why) => {
                report.failure(what, &why.into());
                return None;
            }
        }
    }
    let all: BTreeSet<_> = lists.iter().flatten().cloned().collect();
    let (everywhere, elsewhere): (BTreeSet<_>, BTreeSet<_>) =
        all.into_iter().partition(|name| lists.iter().all(|list| list.contains(name)));
    if elsewhere.is_empty() {
        report.ok(what, format!("the same {} on every node", everywhere.len()), Value::Null);
        return Some(everywhere);
    }
    let some: Vec<_> = elsewhere.iter().take(SHOWN).map(String::as_str).collect();
    let more = if elsewhere.len() > SHOWN { ", …" } else { "" };
    let total = elsewhere.len() + everywhere.len();
    let seen = format!("{} of {total} are not on every node: {}{more}", elsewhere.len(), some.join(", "));
    let next = "Unless they are just being changed, these nodes do not belong together: use only those that do.";
    report.warn(what, seen, next, json!({ "notEverywhere": elsewhere }));
    Some(everywhere)
}

/// How many names are shown to people.
const SHOWN: usize = 5;
/// How many keys are compared: each takes a request to every node.
const KEYS_MAX: usize = 32;
