//! What the nodes of a simulation were told, and the search for an order that explains it.

use std::collections::HashSet;
use std::time::Duration;

use casemate_api::limits::STORE_CONFIRMED_MS;

/// The value of a row: a number that is written only once.
pub(super) type Value = Option<u32>;

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Writes `to` if the row is as expected; `None` expects nothing.
    Write {
        expected: Option<Value>,
        to: Value,
    },
    Read {
        cached: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It still runs, or its node crashed.
    Open,
    Applied,
    Conflict,
    /// An error that says that nothing was done.
    Refused,
    /// An error that says that the change was not confirmed.
    Unknown,
    Found(Value),
    /// A read without an answer.
    Failed,
}

/// One operation on one row. Moments are numbers of a counter.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) node: usize,
    pub(super) row: usize,
    pub(super) kind: Kind,
    /// From this moment on it may take effect.
    pub(super) from: u64,
    /// Up to this moment it may take effect.
    pub(super) until: u64,
    pub(super) end: End,
    /// Whether the fence of its node guards it.
    pub(super) fenced: bool,
}

#[derive(Default)]
pub(super) struct Log {
    pub(super) moment: u64,
    pub(super) ops: Vec<Op>,
    /// The moments at which the clock was moved, and its time since then.
    pub(super) times: Vec<(u64, Duration)>,
    pub(super) events: Vec<String>,
}

impl Log {
    pub(super) fn begin(&mut self, node: usize, row: usize, kind: Kind, now: Duration) -> usize {
        self.moment += 1;
        let mut from = self.moment;
        if let Kind::Read { cached: true } = kind {
            let bound = Duration::from_millis(STORE_CONFIRMED_MS);
            let oldest = self.times.iter().find(|(_, time)| *time + bound > now).map_or(from, |(moment, _)| *moment);
            // A restore is told to the caches as to those of other nodes.
            let own = self.ops.iter().filter(|op| op.fenced && (op.node, op.row, op.end) == (node, row, End::Applied));
            from = own.map(|op| op.until).fold(oldest, u64::max);
        }
        self.ops.push(Op { node, row, kind, from, until: u64::MAX, end: End::Open, fenced: true });
        self.ops.len() - 1
    }

    pub(super) fn end(&mut self, op: usize, end: End) {
        self.moment += 1;
        let op = &mut self.ops[op];
        op.end = end;
        if end != End::Unknown {
            op.until = self.moment;
        }
    }

    /// The node has taken its fence again: what it sent before has been applied, or never will be.
    pub(super) fn fenced(&mut self, node: usize, before: usize) {
        self.moment += 1;
        for op in self.ops.iter_mut().take(before).filter(|op| op.node == node && op.fenced) {
            if matches!(op.end, End::Open | End::Unknown) {
                op.until = op.until.min(self.moment);
            }
        }
    }
}

/// Whether there is one order of the operations on a row that explains what the nodes were told.
pub(super) fn is_explained(ops: &[Op]) -> bool {
    let mut ops: Vec<Op> = ops.iter().filter(|op| !matches!(op.end, End::Refused | End::Failed)).cloned().collect();
    ops.retain(|op| !matches!((op.kind, op.end), (Kind::Read { .. }, End::Open)));
    ops.sort_by_key(|op| op.from);
    assert!(ops.len() <= 128, "too many operations for one search");
    search(&ops, 0, None, 0, &mut HashSet::new())
}

fn search(ops: &[Op], mut done: u128, value: Value, now: u64, dead: &mut HashSet<(u128, Value)>) -> bool {
    let is_left = |done: u128, at: usize| done & (1 << at) == 0;
    let must = |op: &Op| !matches!(op.end, End::Open | End::Unknown);
    // What changes nothing and could not do so later is done as soon as it can be: that excludes nothing.
    let blind = |op: &Op| matches!(op.kind, Kind::Write { expected: None, .. });
    for (at, op) in ops.iter().enumerate() {
        if is_left(done, at) && !blind(op) && op.from <= now && now <= op.until && effect(op, value) == Some(value) {
            done |= 1 << at;
        }
    }
    let left = ops.iter().enumerate().filter(|(at, op)| is_left(done, *at) && must(op));
    let Some(limit) = left.map(|(_, op)| op.until).min() else { return true };
    if limit < now || !dead.insert((done, value)) {
        return false;
    }
    ops.iter().enumerate().any(|(at, op)| {
        let then = now.max(op.from);
        is_left(done, at)
            && then <= op.until
            && then <= limit
            && effect(op, value)
                .filter(|next| must(op) || *next != value)
                .is_some_and(|next| search(ops, done | (1 << at), next, then, dead))
    })
}

/// The value after `op`. `None`: it cannot have had this outcome now.
fn effect(op: &Op, value: Value) -> Option<Value> {
    match (op.kind, op.end) {
        (Kind::Read { .. }, End::Found(found)) => (found == value).then_some(value),
        (Kind::Write { expected, to }, End::Applied | End::Unknown | End::Open) => {
            expected.is_none_or(|expected| expected == value).then_some(to)
        }
        (Kind::Write { expected, .. }, End::Conflict) => (expected != Some(value)).then_some(value),
        _ => None,
    }
}

#[test]
fn the_checker_accepts_what_can_be_explained_and_nothing_else() {
    let op = |from, until, kind, end| Op { node: 0, row: 0, kind, from, until, end, fenced: true };
    let write = |from, until, expected, to| op(from, until, Kind::Write { expected, to }, End::Applied);
    let lost = |from, until, expected, to| op(from, until, Kind::Write { expected, to }, End::Unknown);
    let read = |from, until, found| op(from, until, Kind::Read { cached: false }, End::Found(found));
    let create = || write(1, 2, Some(None), Some(1));
    let late = || lost(1, u64::MAX, Some(None), Some(1));
    assert!(is_explained(&[create(), read(3, 4, Some(1))]));
    assert!(!is_explained(&[create(), read(3, 4, None)]), "a lost write");
    assert!(is_explained(&[create(), read(2, 4, None), write(3, 5, None, None)]), "they ran at once");
    assert!(!is_explained(&[create(), read(1, 2, None), read(1, 1, Some(1)), read(2, 3, None)]));
    assert!(!is_explained(&[create(), write(3, 4, Some(Some(1)), None), read(5, 6, Some(1))]), "a stale read");
    let removed = |row: Op| [row, read(3, 4, Some(1)), write(5, 6, None, None), read(7, 8, Some(1))];
    assert!(!is_explained(&removed(late())), "a write that was applied twice");
    assert!(is_explained(&[late(), read(3, 4, None), read(5, 6, Some(1))]), "it was late");
    assert!(is_explained(&[late(), read(3, 4, None)]), "it was never applied");
    assert!(
        !is_explained(&[lost(1, 4, Some(None), Some(1)), read(5, 6, None), read(7, 8, Some(1))]),
        "after the fence"
    );
    let conflict = op(3, 4, Kind::Write { expected: Some(Some(1)), to: Some(2) }, End::Conflict);
    assert!(!is_explained(&[create(), conflict.clone()]), "nobody else wrote");
    assert!(is_explained(&[create(), conflict, write(2, 5, None, Some(3))]));
    let refused = op(1, 2, Kind::Write { expected: None, to: Some(9) }, End::Refused);
    assert!(!is_explained(&[refused, read(3, 4, Some(9))]), "a refused write was applied");
}
