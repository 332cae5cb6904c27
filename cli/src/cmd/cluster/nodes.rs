//! `cluster nodes`: all nodes of the profile, with a vote or without, and the members that are not in it.

use casemate_api::State;
use casemate_api::body::cluster::ClusterMember;
use casemate_api::body::system::{StoreDiagnosis, StoreKind};
use casemate_client::{Error, Session};
use jiff::Timestamp;
use serde::Serialize;

use super::status::shown;
use crate::exit::Failure;
use crate::profile::Context;

/// What is shown.
#[derive(Serialize)]
struct Nodes {
    nodes: Vec<Node>,
    /// Members that are none of the nodes: of HSMs that the profile does not have, and of witnesses.
    others: Vec<ClusterMember>,
}

/// What a node does for its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Role {
    /// It is a member with a vote.
    Votes,
    /// It is a member that has no vote yet.
    Learner,
    /// It uses an etcd of others.
    Serving,
    /// It is in no cluster.
    Alone,
}

/// What is known of a node.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) node: String,
    pub(super) state: Option<State>,
    role: Option<Role>,
    /// Also its name among the members.
    pub(super) device_id: Option<String>,
    version: Option<String>,
    store: Option<StoreDiagnosis>,
    /// By how many seconds its clock is ahead of that of this machine.
    clock_ahead_s: Option<i64>,
    error: Option<String>,
    #[serde(skip)]
    members: Vec<ClusterMember>,
}

/// Shows the nodes; fails afterwards if something could not be read.
pub(crate) fn run(context: &Context) -> Result<(), Failure> {
    let (nodes, failed) = look(context, &context.session()?);
    let mut others: Vec<ClusterMember> = Vec::new();
    for member in nodes.iter().filter(|node| node.is_member()).flat_map(|node| &node.members) {
        let is_node = nodes.iter().any(|node| node.device_id.as_deref() == Some(&member.name));
        if !is_node && !others.iter().any(|other| other.id == member.id) {
            others.push(member.clone());
        }
    }
    show(context, &Nodes { nodes, others })?;
    failed.map_or(Ok(()), |why| Err(why.into()))
}

/// Asks all nodes, and returns the first error as well.
pub(super) fn look(context: &Context, session: &Session) -> (Vec<Node>, Option<Error>) {
    let mut failed = None;
    let mut nodes = Vec::new();
    for (at, name) in context.client.nodes().iter().enumerate() {
        let mut node = Node::unknown(name);
        let known = context.client.anonymous().at(at).and_then(|anonymous| node.ask(&anonymous, &session.at(at)?));
        if let Err(why) = known {
            node.error = Some(why.to_string());
            failed.get_or_insert(why);
        }
        nodes.push(node);
    }
    (nodes, failed)
}

impl Node {
    fn unknown(name: &str) -> Self {
        Self {
            node: name.into(),
            state: None,
            role: None,
            device_id: None,
            version: None,
            store: None,
            clock_ahead_s: None,
            error: None,
            members: Vec::new(),
        }
    }

    pub(super) fn is_member(&self) -> bool {
        matches!(self.role, Some(Role::Votes | Role::Learner))
    }

    /// What everybody is told first. Only an Operational node knows users.
    fn ask(&mut self, anonymous: &Session, session: &Session) -> Result<(), Error> {
        let state = anonymous.health().state()?;
        self.state = Some(state);
        let now = Timestamp::now();
        let there = anonymous.health().date()?.and_then(|date| jiff::fmt::rfc2822::parse(&date).ok());
        // Fractions of a second are cut off there, half a second on average; this is rounded.
        let ahead = |there: Timestamp| (there.as_millisecond() - now.as_millisecond() + 1_000).div_euclid(1_000);
        self.clock_ahead_s = there.map(|there| ahead(there.timestamp()));
        if state != State::Operational {
            self.store = anonymous.health().diagnose()?.store;
            return Ok(());
        }
        self.store = session.health().diagnose()?.store;
        let info = session.system().info()?;
        self.members = session.cluster().members()?;
        self.role = Some(role(&info.device_id, self.store.as_ref(), &self.members));
        (self.device_id, self.version) = (Some(info.device_id), Some(info.software_version));
        Ok(())
    }
}

fn role(device_id: &str, store: Option<&StoreDiagnosis>, members: &[ClusterMember]) -> Role {
    match members.iter().find(|member| member.name == device_id && !member.urls.is_empty()) {
        Some(member) if member.learner => Role::Learner,
        Some(_) => Role::Votes,
        None if store.is_some_and(|store| store.kind == StoreKind::Etcd) => Role::Serving,
        None => Role::Alone,
    }
}

fn show(context: &Context, nodes: &Nodes) -> Result<(), Failure> {
    let rows = nodes.nodes.iter().map(|node| {
        let role = node.role.map_or("", |role| match role {
            Role::Votes => "votes",
            Role::Learner => "learner",
            Role::Serving => "serving",
            Role::Alone => "alone",
        });
        vec![
            node.node.clone(),
            node.state.map_or_else(|| "no answer".into(), |state| format!("{state:?}")),
            role.into(),
            node.device_id.clone().unwrap_or_default(),
            node.version.clone().unwrap_or_default(),
            node.store.as_ref().map_or_else(String::new, shown),
            node.store
                .as_ref()
                .and_then(|store| store.details.as_ref())
                .map_or_else(String::new, |it| it.version.clone()),
            node.clock_ahead_s.map_or_else(String::new, |seconds| format!("{seconds:+} s")),
        ]
    });
    let others = nodes.others.iter().map(|member| {
        let role = if member.learner { "learner" } else { "votes" };
        let nothing = String::new;
        vec![
            member.urls.join(" "),
            "not asked".into(),
            role.into(),
            member.name.clone(),
            nothing(),
            nothing(),
            nothing(),
            nothing(),
        ]
    });
    let heads = &["node", "state", "role", "name", "version", "store", "etcd", "clock"];
    context.out.list(nodes, heads, rows.chain(others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_off_the_members_and_the_store() {
        let member = |name: &str, urls: &[&str], learner| ClusterMember {
            id: "a".into(),
            name: name.into(),
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            learner,
        };
        let store = |kind: &str| serde_json::from_str::<StoreDiagnosis>(&format!(r#"{{"kind":"{kind}"}}"#)).unwrap();
        let (etcd, file) = (store("etcd"), store("embedded"));
        let url = "https://192.0.2.1:2380";
        let of = |store, members: &[ClusterMember]| role("me", store, members);
        assert_eq!(of(Some(&etcd), &[member("me", &[url], false), member("x", &[url], false)]), Role::Votes);
        assert_eq!(of(Some(&etcd), &[member("me", &[url], true)]), Role::Learner);
        assert_eq!(of(Some(&etcd), &[member("me", &[], false)]), Role::Serving);
        assert_eq!(of(Some(&file), &[member("casemate", &[], false)]), Role::Alone);
        assert_eq!(of(None, &[]), Role::Alone);
    }
}
