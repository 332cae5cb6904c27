//! What clients asked of the nodes and what they were told, and when: the history that `linear.rs` explains.
//!
//! Two promises of the product decide how long the interval is in which a call took effect:
//!
//! - What a node answers **from its caches** was true at most [`STORE_CONFIRMED_MS`] before (`core/src/rows/confirm.rs`), and is not
//!   older than what the same node has acknowledged. So the interval of such an answer begins that much before the call. Which
//!   answers these are, [`KeyOp::may_be_cached`] and [`UserOp::may_be_cached`] say. All other answers, among them every refusal, are of a
//!   moment during the call, as are all changes.
//! - A change **whose outcome the client was not told** takes effect at any later moment or never, but not after its node was
//!   opened again (`core/src/rows/fence.rs`).

use std::sync::Mutex;
use std::time::Duration;

use casemate_api::limits::STORE_CONFIRMED_MS;

use super::cluster::lock;
use super::key::{Key, KeyOp};
use super::linear::{Call, Object, explain};
use super::user::{User, UserOp};

/// One call of a client, with its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<Op> {
    pub(crate) op: Op,
    pub(crate) node: usize,
    /// The process of the node, by number.
    pub(crate) process: usize,
    pub(crate) invoked: Duration,
    /// When the client had its answer, or gave up.
    pub(crate) answered: Duration,
    /// Whether the client was told the outcome. If not, `op` is what it may have done.
    pub(crate) told: bool,
    /// Whether the answer may be from a cache.
    pub(crate) cached: bool,
}

/// Everything that happened at one object.
pub(crate) struct Track<O: Object> {
    pub(crate) name: String,
    pub(crate) records: Mutex<Vec<Record<O::Op>>>,
}

/// Everything that happened.
pub(crate) struct History {
    pub(crate) keys: Vec<Track<Key>>,
    pub(crate) users: Vec<Track<User>>,
}

impl KeyOp {
    /// Whether a node may answer this from its caches: showing a key, and making a signature with it.
    ///
    /// A key in a namespace that comes and goes is found under the number of the namespace, which may be cached, too: then
    /// everything that is told about it is as old as that, and only changes, which expect the namespace unchanged, are not.
    pub(crate) fn may_be_cached(&self, namespace: Namespace) -> bool {
        match self {
            KeyOp::Shown(..) | KeyOp::Signed(..) => true,
            KeyOp::NamespaceExists | KeyOp::NamespaceMissing => false,
            other => namespace == Namespace::ComesAndGoes && !Key::changes(other),
        }
    }
}

/// Whether the namespace of a key is created and deleted by the test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Namespace {
    Stays,
    ComesAndGoes,
}

impl UserOp {
    /// Whether a node may answer this from its caches: showing a user, and a login with the right passphrase.
    pub(crate) fn may_be_cached(&self) -> bool {
        matches!(self, UserOp::Shown(_) | UserOp::LoggedIn(_))
    }
}

/// The records as calls with their intervals. `opened`: when each process of each node was opened.
pub(crate) fn calls<O: Object>(records: &[Record<O::Op>], opened: &[Vec<Duration>]) -> Vec<Call<O::Op>> {
    let bound = Duration::from_millis(STORE_CONFIRMED_MS);
    let acknowledged = |(_, record): &(usize, &Record<O::Op>)| record.told && O::changes(&record.op);
    let acknowledged: Vec<_> = (0..).zip(records).filter(acknowledged).collect();
    let call = |record: &Record<O::Op>| {
        let from = if record.cached { record.invoked.saturating_sub(bound) } else { record.invoked };
        let until = match record.told {
            true => Some(record.answered),
            false => opened[record.node].get(record.process + 1).copied(),
        };
        let seen_here = |(_, earlier): &&(usize, &Record<O::Op>)| {
            record.cached && earlier.node == record.node && (from..record.invoked).contains(&earlier.answered)
        };
        let after = acknowledged.iter().filter(seen_here).map(|(at, _)| *at).collect();
        Call { op: record.op, from, until, certain: record.told, after }
    };
    records.iter().map(call).collect()
}

impl<O: Object> Track<O> {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), records: Mutex::default() }
    }

    /// Whether what clients were told has an explanation; else what could not be explained, and what happened around it.
    pub(crate) fn check(&self, opened: &[Vec<Duration>]) -> Result<(), String> {
        let mut records = lock(&self.records).clone();
        records.sort_by_key(|record| record.invoked);
        explain::<O>(&calls::<O>(&records, opened)).map_err(|unexplained| {
            let wrong = &records[unexplained.call];
            let (from, to) = (wrong.invoked.saturating_sub(AROUND), wrong.answered + AROUND / 4);
            let near = records.iter().filter(|record| record.answered >= from && record.invoked <= to);
            let unknown = records.iter().filter(|record| !record.told && record.answered < from);
            let lines: Vec<String> = unknown.chain(near).map(|record| format!("{record:?}")).collect();
            format!(
                "{}: no order explains {wrong:?}; before it the state was one of {:?}. Around it, and unknown before it:\n{}",
                self.name,
                unexplained.states,
                lines.join("\n")
            )
        })
    }
}

/// How much of the history a failure shows.
const AROUND: Duration = Duration::from_secs(4);

impl History {
    /// Whether what clients were told has an explanation for every object; else all that have none.
    pub(crate) fn check(&self, opened: &[Vec<Duration>]) -> Result<(), String> {
        let keys = self.keys.iter().map(|track| track.check(opened));
        let users = self.users.iter().map(|track| track.check(opened));
        let wrong: Vec<String> = keys.chain(users).filter_map(Result::err).collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n\n")) }
    }
}
