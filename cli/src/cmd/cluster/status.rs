//! `cluster status`: members, quorum and nodes of a cluster. If a node does not answer, the others are shown
//! nevertheless.

use casemate_api::State;
use casemate_api::body::cluster::ClusterMember;
use casemate_api::body::system::{LogItem, StoreDiagnosis, StoreKind, StoreTrouble};
use casemate_client::{Error, Session};
use serde::Serialize;

use super::members::{HEADS, majority_of, member_among, row};
use crate::exit::Failure;
use crate::profile::Context;

/// What is shown.
#[derive(Serialize)]
struct Status {
    nodes: Vec<Node>,
    /// `null`: not known.
    members: Option<Vec<ClusterMember>>,
    /// `null`: not known.
    quorum: Option<Quorum>,
}

/// The state of one node.
#[derive(Serialize)]
struct Node {
    node: String,
    state: Option<State>,
    /// Whether its cluster backend runs.
    running: Option<bool>,
    /// Messages of the backend, in its order.
    messages: Vec<LogItem>,
    /// What the node knows of its store; a NetHSM does not tell.
    store: Option<StoreDiagnosis>,
    error: Option<String>,
}

/// How many members have a vote, and how many of them have to work.
#[derive(Serialize)]
struct Quorum {
    voters: usize,
    needed: usize,
}

/// Shows the status; fails afterwards if something could not be read.
pub(crate) fn run(context: &Context) -> Result<(), Failure> {
    let anonymous = context.client.anonymous();
    let mut failed = None;
    let mut states = Vec::new();
    for at in 0..context.client.nodes().len() {
        states.push(anonymous.at(at)?.health().state());
    }
    // Only an Operational node requires a login.
    let known = states.iter().any(|state| matches!(state, Ok(State::Operational)));
    let session = if known { context.session()? } else { anonymous };
    let mut nodes = Vec::new();
    for ((at, name), state) in context.client.nodes().iter().enumerate().zip(states) {
        nodes.push(node(&session.at(at)?, name, state, &mut failed));
    }
    let members = match member_among(context, session).cluster().members() {
        Ok(members) => Some(members),
        Err(why) => {
            failed.get_or_insert(why);
            None
        }
    };
    let quorum = members.as_ref().map(|members| {
        let voters = members.iter().filter(|member| !member.learner).count();
        Quorum { voters, needed: majority_of(voters) }
    });
    show(context, &Status { nodes, members, quorum })?;
    failed.map_or(Ok(()), |why| Err(why.into()))
}

fn node(session: &Session, name: &str, state: Result<State, Error>, failed: &mut Option<Error>) -> Node {
    let result = state.and_then(|state| session.health().diagnose().map(|diagnosis| (state, diagnosis)));
    let mut node =
        Node { node: name.into(), state: None, running: None, messages: Vec::new(), store: None, error: None };
    match result {
        Ok((state, diagnosis)) => {
            node.state = Some(state);
            node.running = Some(diagnosis.cluster_state.running);
            node.messages = diagnosis.cluster_logs;
            node.store = diagnosis.store;
        }
        Err(why) => {
            node.error = Some(why.to_string());
            failed.get_or_insert(why);
        }
    }
    node
}

fn show(context: &Context, status: &Status) -> Result<(), Failure> {
    if context.out.json {
        return context.out.line(status, "");
    }
    let rows = status.nodes.iter().map(|node| {
        let state = node.state.map_or_else(|| "no answer".into(), |state| format!("{state:?}"));
        let runs = match node.running {
            Some(true) => "runs",
            Some(false) => "does not run",
            None => "",
        };
        let message = node.messages.last().map_or_else(String::new, |item| format!("{}: {}", item.level, item.msg));
        vec![node.node.clone(), state, runs.into(), node.store.as_ref().map_or_else(String::new, shown), message]
    });
    context.out.list(&(), &["node", "state", "backend", "store", "last message"], rows)?;
    let (Some(members), Some(quorum)) = (&status.members, &status.quorum) else { return Ok(()) };
    context.out.line(&(), "")?;
    context.out.list(&(), HEADS, members.iter().map(row))?;
    let text = format!("Voting members: {}; at least {} of them have to work.", quorum.voters, quorum.needed);
    context.out.line(&(), &text)
}

/// The store of a node in a few words; `casemate doctor` says more.
pub(super) fn shown(store: &StoreDiagnosis) -> String {
    let kind = match store.kind {
        StoreKind::Embedded => "embedded",
        StoreKind::Etcd => "etcd",
    };
    let trouble = store.trouble.map(|trouble| match trouble {
        StoreTrouble::NoAnswer => "no answer",
        StoreTrouble::Refused => "refuses",
        StoreTrouble::Unsupported => "version not supported",
        StoreTrouble::NoMajority => "no majority",
        StoreTrouble::OtherData => "other data",
    });
    match (trouble, store.trouble_s, store.confirmed_ms) {
        (Some(trouble), Some(seconds), _) => format!("{kind}: {trouble} for {seconds} s"),
        (Some(trouble), None, _) => format!("{kind}: {trouble}"),
        (None, _, Some(ms)) => format!("{kind}, confirmed {ms} ms ago"),
        (None, _, None) => kind.into(),
    }
}
