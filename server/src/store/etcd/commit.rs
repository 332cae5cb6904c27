//! Commits: many transactions of the HSM in one of etcd.
//!
//! While one request to etcd is under way, commits wait in a queue; then as many of them as fit become the next request. In
//! it each transaction is nested: guards, changes if they hold, and otherwise reads that tell which guard failed. etcd checks
//! all guards before it changes anything (measured with 3.4 to 3.7), so a group ends before a transaction that touches a row
//! which the group changes.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use casemate_api::limits::{ETCD_CALL_MS, STORE_TXN_MAX_BYTES, STORE_TXN_MAX_OPS};
use casemate_core::store::{Expect, Outcome, Path, StoreError, Txn};
use casemate_etcd::proto::response_op::Response;
use casemate_etcd::proto::{RangeRequest, ResponseOp, TxnRequest, TxnResponse};
use casemate_etcd::{Error, request};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Shared, read_error, revision, senseless};

/// Transactions of one caller.
pub(super) struct Commit {
    waiting: VecDeque<Txn>,
    outcomes: Vec<Outcome>,
    answer: oneshot::Sender<Result<Vec<Outcome>, StoreError>>,
    queued: Instant,
}

impl Commit {
    pub(super) fn new(txns: Vec<Txn>, answer: oneshot::Sender<Result<Vec<Outcome>, StoreError>>) -> Self {
        Self { outcomes: Vec::with_capacity(txns.len()), waiting: txns.into(), answer, queued: Instant::now() }
    }

    /// Whether nothing of it was sent in the time that a caller waits.
    fn is_late(&self) -> bool {
        self.outcomes.is_empty() && self.queued.elapsed() > Duration::from_millis(ETCD_CALL_MS)
    }

    fn answer(self) {
        // The caller may have been dropped.
        let _ = self.answer.send(Ok(self.outcomes));
    }

    /// Ends it because a request with `count` of its transactions was not carried out, or perhaps was (`None`). If nothing of
    /// it was sent before, an error says so. Otherwise what was not carried out has no known outcome either: the caller is to
    /// settle it, as later transactions must not be applied without the ones before them.
    fn fail(mut self, count: usize, error: Option<&StoreError>) {
        match error {
            Some(error) if self.outcomes.is_empty() => drop(self.answer.send(Err(error.clone()))),
            _ => {
                self.outcomes.extend(std::iter::repeat_n(Outcome::Unknown, count + self.waiting.len()));
                self.answer();
            }
        }
    }
}

/// Transactions for one request to etcd.
#[derive(Default)]
struct Group {
    txns: Vec<Txn>,
    /// Paths that it changes.
    changed: HashSet<Path>,
    bytes: usize,
    /// The largest number of guards, or of changes, of one transaction.
    ops: usize,
}

impl Group {
    /// Adds `txn` if it may be in the same request as those before it. Its keys begin with `prefix`.
    fn admits(&mut self, txn: &Txn, prefix: &[u8]) -> bool {
        let ops = self.ops.max(txn.expect.len()).max(txn.put.len() + txn.delete.len());
        let bytes = self.bytes + encoded_bytes(txn, prefix.len());
        // etcd counts the nested transactions and the operations of the largest one against one limit.
        let fits = self.txns.len() + 1 + ops <= STORE_TXN_MAX_OPS && bytes <= STORE_TXN_MAX_BYTES;
        let touched = paths(txn).any(|path| self.changed.contains(path));
        if !self.txns.is_empty() && (!fits || touched) {
            return false;
        }
        (self.ops, self.bytes) = (ops, bytes);
        self.changed.extend(txn.put.iter().map(|(path, _)| path).chain(&txn.delete).cloned());
        self.txns.push(txn.clone());
        true
    }
}

/// About how long `txn` is in a request, and not less.
fn encoded_bytes(txn: &Txn, prefix: usize) -> usize {
    /// Tags, lengths and numbers beside the key and the value of one operation.
    const FRAME: usize = 48;
    // Each guard is there twice: it is read if one of them fails.
    let guards: usize = txn.expect.iter().map(|(path, _)| path.as_bytes().len()).sum();
    let ops = 2 * txn.expect.len() + txn.put.len() + txn.delete.len();
    txn.bytes() + guards + ops * (prefix + FRAME)
}

fn paths(txn: &Txn) -> impl Iterator<Item = &Path> {
    let guards = txn.expect.iter().map(|(path, _)| path);
    guards.chain(txn.put.iter().map(|(path, _)| path)).chain(&txn.delete)
}

/// Serves the queue until it is closed.
pub(super) async fn write_all(shared: &Shared, mut queue: mpsc::Receiver<Commit>) {
    let mut commits: VecDeque<Commit> = VecDeque::new();
    loop {
        if commits.is_empty() {
            match queue.recv().await {
                Some(commit) => commits.push_back(commit),
                None => return,
            }
        }
        while let Ok(commit) = queue.try_recv() {
            commits.push_back(commit);
        }
        write_group(shared, &mut commits).await;
    }
}

/// Sends one request, and answers the commits that it completes.
async fn write_group(shared: &Shared, commits: &mut VecDeque<Commit>) {
    // Requests that get no answer take their time one after the other, and callers do not wait for all of them.
    let late = StoreError::Unreachable(format!("it was not sent within {ETCD_CALL_MS} ms"));
    for commit in std::mem::take(commits) {
        if commit.is_late() { commit.fail(0, Some(&late)) } else { commits.push_back(commit) }
    }
    let mut group = Group::default();
    let mut counts = Vec::new();
    'group: for commit in commits.iter_mut() {
        let mut count = 0;
        while let Some(txn) = commit.waiting.front() {
            if !group.admits(txn, &shared.prefix) {
                counts.push(count);
                break 'group;
            }
            commit.waiting.pop_front();
            count += 1;
        }
        counts.push(count);
    }
    let result = shared.send(&group.txns).await;
    let alone = group.txns.len() == 1;
    let mut txns = group.txns.into_iter();
    let mut outcomes = result.as_ref().map(|all| all.iter().copied()).unwrap_or_default();
    let mut rest = VecDeque::new();
    for (mut commit, count) in commits.drain(..counts.len()).zip(counts) {
        let own: Vec<Txn> = txns.by_ref().take(count).collect();
        match &result {
            Ok(_) => {
                commit.outcomes.extend(outcomes.by_ref().take(count));
                if commit.waiting.is_empty() { commit.answer() } else { rest.push_back(commit) }
            }
            // It had no part in the request.
            Err(_) if count == 0 && !commit.waiting.is_empty() => rest.push_back(commit),
            // One transaction is the cause, and others are refused because of it: a deletion with a creation for which there is
            // no room, for instance.
            Err(Some(StoreError::Full | StoreError::TooLarge)) if !alone => {
                rest.extend(send_singly(shared, commit, own).await);
            }
            Err(error) => commit.fail(count, error.as_ref()),
        }
    }
    rest.append(commits);
    *commits = rest;
}

/// Sends transactions of one commit one after the other, up to the first that is not carried out. Returns the commit if it
/// has more.
async fn send_singly(shared: &Shared, mut commit: Commit, txns: Vec<Txn>) -> Option<Commit> {
    let count = txns.len();
    for (sent, txn) in txns.into_iter().enumerate() {
        match shared.send(&[txn]).await {
            Ok(outcome) => commit.outcomes.extend(outcome),
            Err(error) => {
                commit.fail(count - sent, error.as_ref());
                return None;
            }
        }
    }
    if commit.waiting.is_empty() {
        commit.answer();
        return None;
    }
    Some(commit)
}

impl Shared {
    /// Sends `txns` as one transaction of etcd. `Err(None)`: the outcome is unknown; `Err(Some(_))`: nothing was done.
    async fn send(&self, txns: &[Txn]) -> Result<Vec<Outcome>, Option<StoreError>> {
        let nested = |txn: &Txn| request::nested(self.request(txn));
        let request = match txns {
            [] => return Ok(Vec::new()),
            [one] => self.request(one),
            many => TxnRequest { success: many.iter().map(nested).collect(), ..TxnRequest::default() },
        };
        let reply = match self.client.txn(request).await {
            Ok(reply) => reply,
            Err(Error::Unknown(why)) => {
                tracing::warn!(why, "the outcome of a write to etcd is not known yet");
                return Err(None);
            }
            Err(Error::NoSpace) if self.was_applied(txns).await? => return Err(None),
            Err(error) => return Err(Some(read_error(&error))),
        };
        // What cannot be understood was carried out nevertheless.
        self.outcomes(txns, reply).map_err(|_| None)
    }

    /// Whether any of `txns` was applied although etcd says that it has no space: it says so, too, after applying the one that
    /// has used the last of it. By then it is either applied or never will be.
    async fn was_applied(&self, txns: &[Txn]) -> Result<bool, Option<StoreError>> {
        for (path, value) in txns.iter().filter_map(|txn| txn.put.first()) {
            // If that cannot be read, the outcome remains unknown.
            let row = self.client.range(request::get(self.key(path))).await.map_err(|_| None)?;
            if row.kvs.first().is_some_and(|row| row.value == *value) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn request(&self, txn: &Txn) -> TxnRequest {
        let guard = |(path, expect): &(Path, Expect)| {
            let revision = match expect {
                Expect::Absent => 0,
                Expect::At(revision) => revision.0.cast_signed(),
            };
            request::at_revision(self.key(path), revision)
        };
        // etcd refuses a key that is changed twice.
        let deleted: HashSet<&Path> = txn.delete.iter().collect();
        let mut seen = HashSet::new();
        let puts = txn.put.iter().rev().filter(|(path, _)| !deleted.contains(path) && seen.insert(path));
        let puts = puts.map(|(path, value)| request::put(self.key(path), value.clone(), 0));
        let deletes = deleted.iter().map(|path| request::delete(self.key(path)));
        let look = |(path, _): &(Path, Expect)| {
            request::read(RangeRequest { keys_only: true, ..request::get(self.key(path)) })
        };
        TxnRequest {
            compare: txn.expect.iter().map(guard).collect(),
            success: puts.chain(deletes).collect(),
            failure: txn.expect.iter().map(look).collect(),
        }
    }

    fn outcomes(&self, txns: &[Txn], reply: TxnResponse) -> Result<Vec<Outcome>, StoreError> {
        let at = revision(reply.header)?;
        let outcome = |txn: &Txn, succeeded: bool, responses: &[ResponseOp]| match succeeded {
            true => Ok(Outcome::Committed(at)),
            false => failed_guard(txn, responses).map(Outcome::Conflict),
        };
        match txns {
            [one] => Ok(vec![outcome(one, reply.succeeded, &reply.responses)?]),
            many if many.len() == reply.responses.len() => {
                let pairs = many.iter().zip(&reply.responses);
                let each = pairs.map(|(txn, response)| match &response.response {
                    Some(Response::ResponseTxn(inner)) => outcome(txn, inner.succeeded, &inner.responses),
                    _ => Err(senseless()),
                });
                each.collect()
            }
            _ => Err(senseless()),
        }
    }
}

/// Which guard failed, by what its row was found to be.
fn failed_guard(txn: &Txn, found: &[ResponseOp]) -> Result<usize, StoreError> {
    for (at, ((_, expect), response)) in txn.expect.iter().zip(found).enumerate() {
        let Some(Response::ResponseRange(range)) = &response.response else { return Err(senseless()) };
        let revision = range.kvs.first().map(|row| row.mod_revision.cast_unsigned());
        let holds = match expect {
            Expect::Absent => revision.is_none(),
            Expect::At(expected) => revision == Some(expected.0),
        };
        if !holds {
            return Ok(at);
        }
    }
    Err(senseless())
}
