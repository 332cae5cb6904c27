//! Searches for an order of the calls at one object that explains what clients were told: each call takes effect at one moment
//! of its interval, in one order for all clients (linearizability; Herlihy and Wing, 1990).
//!
//! The search goes through the history from its beginning to its end, as in "Testing for linearizability" (Lowe, 2017): it
//! keeps every state that the object can be in by now, with the calls that have taken effect before their answer came. A
//! call takes effect only when it must: because its own interval, or that of a call which needs it, ends. What only reads takes
//! effect as soon as it can, which excludes nothing.
//!
//! It knows nothing of keys and users; those are in `key.rs` and `user.rs`.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

/// What an object is, as far as clients can see it.
pub(crate) trait Object {
    /// What is known of the object at one moment.
    type State: Clone + Eq + Hash + Debug;
    /// A call together with what it was answered.
    type Op: Copy + PartialEq + Debug;

    /// The state before all calls.
    fn start() -> Self::State;

    /// The state after `op`. `None`: in `state` it would have been answered otherwise.
    fn after(state: &Self::State, op: &Self::Op) -> Option<Self::State>;

    /// Whether `op` can change a state.
    fn changes(op: &Self::Op) -> bool;
}

/// One call, and when it took effect.
#[derive(Debug)]
pub(crate) struct Call<Op> {
    pub(crate) op: Op,
    /// Not before this moment.
    pub(crate) from: Duration,
    /// Not after this moment. `None`: at any later time.
    pub(crate) until: Option<Duration>,
    /// Whether it took effect at all. If that is not known, `op` says what it may have done.
    pub(crate) certain: bool,
    /// Calls that took effect before it, beyond what the moments tell. Their intervals begin before the end of its own.
    pub(crate) after: Vec<usize>,
}

/// No order explains the calls up to the end of this one.
#[derive(Debug)]
pub(crate) struct Unexplained<State> {
    /// Its index.
    pub(crate) call: usize,
    /// The states that the object may have been in before.
    pub(crate) states: Vec<State>,
}

/// One way to explain what has happened so far.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Way<State> {
    state: State,
    /// Calls that have taken effect and whose intervals have not ended.
    done: BTreeSet<usize>,
}

/// Finds out whether there is an order of `calls`, which are all those at one object.
pub(crate) fn explain<O: Object>(calls: &[Call<O::Op>]) -> Result<(), Unexplained<O::State>> {
    let mut search = Search::<O> { calls, open: BTreeSet::new(), ended: vec![false; calls.len()] };
    let mut ways = vec![Way { state: O::start(), done: BTreeSet::new() }];
    for (at, end) in events(calls) {
        if !end {
            search.open.insert(at);
            ways.iter_mut().for_each(|way| search.settle_reads(way));
            continue;
        }
        let before: Vec<O::State> = ways.iter().map(|way| way.state.clone()).collect();
        ways = search.end(at, ways);
        if ways.is_empty() {
            return Err(Unexplained { call: at, states: before });
        }
        assert!(ways.len() <= WAYS_MAX, "too many ways to explain what has happened");
    }
    Ok(())
}

/// The beginnings and the ends (`true`) of all intervals, in their order. What touches overlaps.
fn events<Op>(calls: &[Call<Op>]) -> Vec<(usize, bool)> {
    let begins = calls.iter().enumerate().map(|(at, call)| (call.from, false, at));
    let ends = calls.iter().enumerate().filter_map(|(at, call)| Some((call.until?, true, at)));
    let mut events: Vec<_> = begins.chain(ends).collect();
    events.sort_unstable();
    events.into_iter().map(|(_, end, at)| (at, end)).collect()
}

const WAYS_MAX: usize = 100_000;

struct Search<'a, O: Object> {
    calls: &'a [Call<O::Op>],
    /// Calls whose intervals have begun and not ended.
    open: BTreeSet<usize>,
    ended: Vec<bool>,
}

impl<O: Object> Search<'_, O> {
    /// The ways that are left when the interval of the call `at` ends.
    fn end(&mut self, at: usize, ways: Vec<Way<O::State>>) -> Vec<Way<O::State>> {
        let mut left = HashSet::new();
        for way in ways {
            if way.done.contains(&at) {
                left.insert(way);
                continue;
            }
            self.reach(&way, at, &mut left);
            if !self.calls[at].certain {
                left.insert(way);
            }
        }
        self.open.remove(&at);
        self.ended[at] = true;
        let mut left: Vec<_> = left.into_iter().collect();
        left.iter_mut().for_each(|way| {
            way.done.remove(&at);
        });
        self.without_worse(left)
    }

    /// All ways to go on from `way` whose last step is that the call `goal` takes effect.
    fn reach(&self, way: &Way<O::State>, goal: usize, found: &mut HashSet<Way<O::State>>) {
        let mut seen = HashSet::new();
        let mut todo = vec![way.clone()];
        while let Some(way) = todo.pop() {
            for at in self.open.iter().copied().filter(|at| self.is_next(&way, *at)) {
                let call = &self.calls[at];
                let Some(state) = O::after(&way.state, &call.op) else { continue };
                if !call.certain && state == way.state {
                    continue;
                }
                let mut next = Way { state, done: way.done.clone() };
                next.done.insert(at);
                self.settle_reads(&mut next);
                if next.done.contains(&goal) {
                    found.insert(next);
                } else if seen.insert(next.clone()) {
                    todo.push(next);
                }
            }
        }
    }

    /// Whether the call `at` is a change that may take effect next. Of several that may or may not have taken effect and would do
    /// the same, only the one whose interval ends first is tried.
    fn is_next(&self, way: &Way<O::State>, at: usize) -> bool {
        let waits = |at: usize| O::changes(&self.calls[at].op) && !way.done.contains(&at);
        let ends = |at: usize| (self.calls[at].until.unwrap_or(Duration::MAX), at);
        let same = |other: usize| !self.calls[other].certain && self.calls[other].op == self.calls[at].op;
        waits(at)
            && (self.calls[at].certain
                || !self.open.iter().any(|other| waits(*other) && same(*other) && ends(*other) < ends(at)))
    }

    /// What only reads takes effect as soon as it can.
    fn settle_reads(&self, way: &mut Way<O::State>) {
        for at in &self.open {
            let call = &self.calls[*at];
            if !O::changes(&call.op)
                && call.after.iter().all(|earlier| self.ended[*earlier] || way.done.contains(earlier))
                && O::after(&way.state, &call.op).is_some()
            {
                way.done.insert(*at);
            }
        }
    }

    /// Removes each way for which there is another that can go on in every way it can.
    fn without_worse(&self, ways: Vec<Way<O::State>>) -> Vec<Way<O::State>> {
        let mut left: Vec<Way<O::State>> = Vec::with_capacity(ways.len());
        for way in ways {
            if !left.iter().any(|other| self.is_as_good(other, &way)) {
                left.retain(|other| !self.is_as_good(&way, other));
                left.push(way);
            }
        }
        left
    }

    /// Whether `way` has explained every read that `other` has, and has used no change that `other` still has.
    fn is_as_good(&self, way: &Way<O::State>, other: &Way<O::State>) -> bool {
        way.state == other.state
            && way.done.symmetric_difference(&other.done).all(|at| {
                let call = &self.calls[*at];
                match O::changes(&call.op) {
                    false => way.done.contains(at),
                    true => !call.certain && other.done.contains(at),
                }
            })
    }
}
