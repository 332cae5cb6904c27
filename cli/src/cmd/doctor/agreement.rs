//! Whether several nodes are what a client takes them for: one service with the same users and keys.

use std::collections::{BTreeMap, BTreeSet};

use casemate_client::{Error, KeyFilter};
use serde_json::{Value, json};

use super::Report;
use super::node::Node;

/// Compares the nodes that took the login.
pub(super) fn look(nodes: &[Node], report: &mut Report) {
    let [first, _, ..] = nodes else {
        return report.skip("agreement", "fewer than two nodes took a login, so nothing can be compared");
    };
    versions(first, nodes, report);
    compare("namespaces", nodes, report, |node| {
        Ok(node.session.namespaces().list()?.into_iter().map(|item| item.id).collect())
    });
    compare("users", nodes, report, |node| {
        Ok(node.session.users().list()?.into_iter().map(|item| item.user).collect())
    });
    compare("keys", nodes, report, |node| {
        let keys = node.session.keys().list(&KeyFilter::default())?;
        Ok(keys.into_iter().map(|item| item.id).collect())
    });
}

fn versions(first: &Node, nodes: &[Node], report: &mut Report) {
    let versions: BTreeMap<_, _> =
        nodes.iter().filter_map(|node| Some((node.name.clone(), node.version.clone()?))).collect();
    if versions.len() < nodes.len() {
        return report.skip("versions", "this user may not see them");
    }
    let data = json!({ "versions": versions });
    if versions.values().all(|version| Some(version) == first.version.as_ref()) {
        return report.ok("versions", format!("all nodes run {}", first.version.as_deref().unwrap_or_default()), data);
    }
    let each: Vec<_> = versions.iter().map(|(node, version)| format!("{node} runs {version}")).collect();
    report.warn("versions", each.join(", "), "Update the older ones, one after another.", data);
}

/// Whether every node lists the same names.
fn compare(
    what: &'static str,
    nodes: &[Node],
    report: &mut Report,
    list: impl Fn(&Node) -> Result<BTreeSet<String>, Error>,
) {
    let mut lists = Vec::new();
    for node in nodes {
        match list(node) {
            Ok(names) => lists.push(names),
            Err(Error::Forbidden { .. }) => return report.skip(what, "this user may not list them"),
            Err(why) => return report.failure(what, &why.into()),
        }
    }
    let all: BTreeSet<_> = lists.iter().flatten().collect();
    let not_everywhere: Vec<_> =
        all.iter().filter(|name| !lists.iter().all(|list| list.contains(**name))).copied().collect();
    if not_everywhere.is_empty() {
        return report.ok(what, format!("the same {} at every node", all.len()), Value::Null);
    }
    let some: Vec<_> = not_everywhere.iter().take(SHOWN).map(|name| name.as_str()).collect();
    let more = if not_everywhere.len() > SHOWN { ", …" } else { "" };
    let seen = format!("{} of {} are not at every node: {}{more}", not_everywhere.len(), all.len(), some.join(", "));
    let next = "If nobody is changing them now, these nodes do not belong together: give only those that do.";
    report.warn(what, seen, next, json!({ "notEverywhere": not_everywhere }));
}

/// How many names are shown to people.
const SHOWN: usize = 5;
