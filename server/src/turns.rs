//! A bounded queue into threads whose users take turns: each party has a line of its own, and the party that was served
//! or turned away longest ago goes first; among those that never were, the newest. Pushing never waits; popping does.
//!
//! When the queue is full, a new item replaces the last one of the longest line, or of a line as long as its own would
//! be whose party had its last turn no earlier. Being turned away counts as a turn: so a party that rarely pushes gets
//! into the queue and has the next turn, however many others push often, whether they are served or not.
//!
//! Parties that have not logged in are known by address alone, and some control very many. So every second turn belongs
//! to parties that have logged in, whose items are not replaced by those of addresses. And chance has a part among
//! addresses, so that one seen before still has a share against any number of new ones: it decides every second turn,
//! and who of those without the better claims gives way.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use casemate_core::runtime::party::Party;

/// Items waiting for threads, by party.
pub(crate) struct Turns<T> {
    bounds: Bounds,
    state: Mutex<State<T>>,
    changed: Condvar,
}

/// Limits of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Waiting items of all parties together.
    pub(crate) waiting: usize,
    /// Items of one party that are processed at once.
    pub(crate) running: usize,
    /// Parties whose last turn is remembered; at most twice as many.
    pub(crate) remembered: usize,
}

struct State<T> {
    /// None of the lines is empty.
    lines: HashMap<Party, Line<T>>,
    waiting: usize,
    running: HashMap<Party, usize>,
    /// Number of items queued so far.
    came: u64,
    last_turns: LastTurns,
    /// Number of turns so far.
    turn: u64,
    chance: Chance,
    closed: bool,
}

struct Line<T> {
    items: VecDeque<T>,
    /// The sequence number of its first item.
    number: u64,
}

impl<T> Turns<T> {
    /// An empty queue.
    pub(crate) fn new(bounds: Bounds) -> Self {
        let last_turns = LastTurns { now: 0, recent: HashMap::new(), older: HashMap::new() };
        let (lines, running) = (HashMap::new(), HashMap::new());
        let state =
            State { lines, waiting: 0, running, came: 0, last_turns, turn: 0, chance: Chance::new(), closed: false };
        Self { bounds, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds `item`, or drops it; or drops another one to make room for it.
    pub(crate) fn push(&self, party: Party, item: T) {
        let mut state = self.lock();
        let mut displaced = None;
        if state.waiting >= self.bounds.waiting && !state.closed {
            displaced = state.displace(party, self.bounds);
        }
        if state.closed || state.waiting >= self.bounds.waiting {
            state.last_turns.record(party, self.bounds.remembered);
            // Items are dropped after the lock is released: what they wake may use the queue.
            drop(state);
            drop(item);
            return;
        }
        state.put(party, item);
        drop(state);
        drop(displaced);
        self.changed.notify_one();
    }

    /// Waits for the item whose turn it is; `None` once the queue is closed. Its turn lasts until [`Turns::done`].
    pub(crate) fn pop(&self) -> Option<(Party, T)> {
        let mut state = self.lock();
        while !state.closed {
            if let Some(next) = state.next(self.bounds) {
                return Some(next);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// An item of `party` is no longer being processed.
    pub(crate) fn done(&self, party: Party) {
        let mut state = self.lock();
        if let Some(running) = state.running.get_mut(&party) {
            *running -= 1;
            if *running == 0 {
                state.running.remove(&party);
            }
        }
        drop(state);
        // Another thread may have skipped this party.
        self.changed.notify_one();
    }

    /// Closes the queue and drops the items in it.
    pub(crate) fn discard(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting = 0;
        let lines = std::mem::take(&mut state.lines);
        drop(state);
        drop(lines);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn put(&mut self, party: Party, item: T) {
        self.came += 1;
        let number = self.came;
        let line = self.lines.entry(party).or_insert_with(|| Line { items: VecDeque::new(), number });
        line.items.push_back(item);
        self.waiting += 1;
    }

    /// Makes room for an item of `ours`; returns the item to drop.
    fn displace(&mut self, ours: Party, bounds: Bounds) -> Option<T> {
        let own = self.lines.get(&ours).map_or(0, |line| line.items.len()) + 1;
        let address = self.address_to_displace(ours, own);
        if address == Some(ours) && self.lines.keys().any(|party| *party != ours && is_address(*party)) {
            return None;
        }
        let gives_way = address.filter(|party| *party != ours).or_else(|| {
            let others = self.lines.iter().filter(|(party, _)| **party != ours && !is_address(**party));
            let others = others.map(|(party, line)| (self.claim(*party, line.items.len(), line.number), *party));
            let (theirs, party) = others.max_by_key(|(claim, _)| *claim)?;
            let may = if is_address(ours) { theirs.0 > own } else { theirs >= self.claim(ours, own, self.came + 1) };
            may.then_some(party)
        })?;
        self.last_turns.record(gives_way, bounds.remembered);
        self.take(gives_way, VecDeque::pop_back)
    }

    /// The address, perhaps `ours` itself, that gives way to an item of `ours`: one of those whose lines would be the
    /// longest. The half of them with the best claims keep their places, so that no number of others can displace who
    /// comes seldom; chance decides among the rest.
    fn address_to_displace(&mut self, ours: Party, own: usize) -> Option<Party> {
        let length = |party: Party, line: &Line<T>| if party == ours { own } else { line.items.len() };
        let lines = self.lines.iter().map(|(party, line)| (*party, length(*party, line), line.number));
        let new = (!self.lines.contains_key(&ours)).then_some((ours, own, self.came + 1));
        let mut addresses: Vec<_> = lines.chain(new).filter(|(party, ..)| is_address(*party)).collect();
        let longest = addresses.iter().map(|(_, length, _)| *length).max()?;
        addresses.retain(|(_, length, _)| *length == longest);
        addresses.sort_by_cached_key(|(party, length, number)| self.claim(*party, *length, *number));
        let weak: Vec<_> = addresses.iter().skip(addresses.len() / 2).map(|(party, ..)| *party).collect();
        self.chance.one_of(&weak)
    }

    /// What a party's claim to a place is compared by, the best first: its line is short, its last turn long ago, and
    /// among parties that never had one, it is the newest.
    fn claim(&self, party: Party, length: usize, number: u64) -> (usize, u64, Reverse<u64>) {
        (length, self.last_turns.at(party), Reverse(number))
    }

    /// The first item of the line whose turn it is, among parties below their limit of running items.
    fn next(&mut self, bounds: Bounds) -> Option<(Party, T)> {
        let free = |party: &Party| self.running.get(party).is_none_or(|running| *running < bounds.running);
        let ready: Vec<(Party, u64)> =
            self.lines.iter().filter(|(party, _)| free(party)).map(|(party, line)| (*party, line.number)).collect();
        let of = |addresses: bool| ready.iter().filter(move |(party, _)| is_address(*party) == addresses);
        self.turn = self.turn.wrapping_add(1);
        let addresses = match (of(true).next(), of(false).next()) {
            (Some(_), Some(_)) => self.turn.is_multiple_of(2),
            (found, _) => found.is_some(),
        };
        let party = if addresses && self.chance.coin() {
            let all: Vec<Party> = of(true).map(|(party, _)| *party).collect();
            self.chance.one_of(&all)?
        } else {
            of(addresses).min_by_key(|(party, number)| (self.last_turns.at(*party), Reverse(*number)))?.0
        };
        let item = self.take(party, VecDeque::pop_front)?;
        *self.running.entry(party).or_default() += 1;
        self.last_turns.record(party, bounds.remembered);
        Some((party, item))
    }

    fn take(&mut self, party: Party, end: impl FnOnce(&mut VecDeque<T>) -> Option<T>) -> Option<T> {
        let line = self.lines.get_mut(&party)?;
        let item = end(&mut line.items)?;
        if line.items.is_empty() {
            self.lines.remove(&party);
        }
        self.waiting -= 1;
        Some(item)
    }
}

fn is_address(party: Party) -> bool {
    matches!(party, Party::Address(_))
}

/// Numbers that clients cannot predict: xorshift64 (Marsaglia 2003) from a random start. No secret depends on them.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        Self(RandomState::new().build_hasher().finish() | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    fn one_of(&mut self, parties: &[Party]) -> Option<Party> {
        let count = u64::try_from(parties.len()).unwrap_or(u64::MAX).max(1);
        parties.get(usize::try_from(self.next() % count).unwrap_or(0)).copied()
    }
}

/// When parties had their last turn, served or turned away, as increasing numbers. Memory is bounded by two
/// generations, so that the oldest are forgotten first.
struct LastTurns {
    now: u64,
    recent: HashMap<Party, u64>,
    older: HashMap<Party, u64>,
}

impl LastTurns {
    /// Zero: not recently.
    fn at(&self, party: Party) -> u64 {
        self.recent.get(&party).or_else(|| self.older.get(&party)).copied().unwrap_or(0)
    }

    fn record(&mut self, party: Party, remembered: usize) {
        if self.recent.len() >= remembered && !self.recent.contains_key(&party) {
            self.older = std::mem::take(&mut self.recent);
        }
        self.now += 1;
        self.recent.insert(party, self.now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const BOUNDS: Bounds = Bounds { waiting: 4, running: usize::MAX, remembered: 100 };
    const A: Party = Party::Namespace(1);
    const B: Party = Party::Namespace(2);
    const C: Party = Party::Namespace(3);

    /// Queues items, each named by a letter of its party and a number.
    fn filled(bounds: Bounds, items: &[(Party, &'static str)]) -> Turns<&'static str> {
        let turns = Turns::new(bounds);
        items.iter().for_each(|(party, item)| turns.push(*party, *item));
        turns
    }

    fn rest(turns: &Turns<&'static str>) -> Vec<&'static str> {
        let count = turns.lock().waiting;
        (0..count).map(|_| turns.pop().unwrap().1).collect()
    }

    #[test]
    fn the_party_with_the_oldest_turn_goes_first() {
        let turns = filled(BOUNDS, &[(A, "a1"), (A, "a2"), (A, "a3")]);
        assert_eq!(turns.pop(), Some((A, "a1")));
        turns.push(B, "b1");
        assert_eq!(rest(&turns), ["b1", "a2", "a3"]);
        turns.push(A, "a4");
        turns.push(B, "b2");
        turns.push(C, "c1");
        assert_eq!(rest(&turns), ["c1", "b2", "a4"], "also of turns that are long over");
    }

    #[test]
    fn a_full_queue_drops_the_last_item_of_the_longest_line() {
        let turns = filled(BOUNDS, &[(A, "a1"), (A, "a2"), (A, "a3"), (B, "b1"), (C, "c1")]);
        turns.push(A, "a4");
        let mut left = rest(&turns);
        left.sort_unstable();
        assert_eq!(left, ["a1", "a2", "b1", "c1"], "the newest of the longest line, and not for a longer one");
    }

    #[test]
    fn of_equally_long_lines_the_one_served_last_loses_an_item() {
        let parties: Vec<_> = (1..=9).map(Party::Namespace).collect();
        let turns = filled(BOUNDS, &[]);
        parties.iter().take(4).for_each(|party| turns.push(*party, "served"));
        rest(&turns);
        parties.iter().take(4).for_each(|party| turns.push(*party, "again"));
        turns.push(Party::Namespace(9), "new");
        turns.push(Party::Namespace(4), "refused");
        assert_eq!(rest(&turns), ["new", "again", "again", "again"]);
    }

    #[test]
    fn of_many_new_parties_the_last_is_queued_and_has_the_next_turn() {
        let turns = filled(Bounds { remembered: 1_000, ..BOUNDS }, &[]);
        (10..200).for_each(|party| turns.push(Party::Namespace(party), "early"));
        turns.push(A, "late");
        // Those that were replaced have had their first turn.
        (10..190).for_each(|party| turns.push(Party::Namespace(party), "again"));
        assert_eq!(rest(&turns), ["late", "early", "early", "early"]);
    }

    #[test]
    fn frequent_parties_do_not_keep_out_rare_ones() {
        let turns = filled(BOUNDS, &[]);
        for round in 0..200 {
            (10..110).for_each(|party| turns.push(Party::Namespace(party), "often"));
            if round == 150 {
                turns.push(A, "seldom");
                (10..110).for_each(|party| turns.push(Party::Namespace(party), "often"));
                assert_eq!(turns.pop().map(|(_, item)| item), Some("seldom"));
            }
            turns.pop();
        }
    }

    fn address(number: u32) -> Party {
        Party::Address(std::net::IpAddr::from(number.to_be_bytes()).into())
    }

    #[test]
    fn a_new_address_keeps_its_place_however_often_known_ones_come() {
        for _ in 0..50 {
            let turns = filled(Bounds { waiting: 16, remembered: 1_000, ..BOUNDS }, &[]);
            let attack = || (10..110).for_each(|number| turns.push(address(number), "known"));
            (0..3).for_each(|_| attack());
            turns.push(address(1), "owner");
            (0..10).for_each(|_| attack());
            let served = (0..64).any(|_| {
                attack();
                turns.pop().map(|(_, item)| item) == Some("owner")
            });
            assert!(served);
        }
    }

    #[test]
    fn addresses_neither_displace_namespaces_nor_have_every_turn() {
        let turns = filled(BOUNDS, &[]);
        (0..4).for_each(|number| turns.push(address(number), "address"));
        turns.push(A, "a1");
        turns.push(A, "a2");
        (4..1_000).for_each(|number| turns.push(address(number), "address"));
        let mut first = [turns.pop().unwrap().1, turns.pop().unwrap().1, turns.pop().unwrap().1];
        first.sort_unstable();
        assert_eq!(first, ["a1", "a2", "address"].map(|item| item), "in turns, and nobody lost a place");
    }

    #[test]
    fn a_known_address_has_a_share_against_any_number_of_new_ones() {
        let owner = address(1);
        let turns = filled(Bounds { waiting: 8, remembered: 16, ..BOUNDS }, &[]);
        turns.push(owner, "owner");
        turns.pop();
        let (mut served, mut next) = (0, 2);
        for _ in 0..4_000 {
            turns.push(owner, "owner");
            for _ in 0..2 {
                (0..2).for_each(|_| {
                    turns.push(address(next), "new");
                    next += 1;
                });
                served += u32::from(turns.pop().map(|(_, item)| item) == Some("owner"));
            }
            if turns.lock().lines.get(&owner).is_some_and(|line| line.items.len() > 1) {
                turns.lock().take(owner, VecDeque::pop_back);
            }
        }
        assert!(served >= 10, "{served} of 4,000");
    }

    #[test]
    fn one_party_has_no_more_than_its_share_of_the_threads() {
        let turns = filled(Bounds { running: 1, ..BOUNDS }, &[(A, "a1"), (A, "a2"), (B, "b1")]);
        let both = [turns.pop(), turns.pop()];
        assert!(both.contains(&Some((A, "a1"))) && both.contains(&Some((B, "b1"))), "{both:?}");
        assert_eq!(turns.lock().next(turns.bounds), None, "a2 has to wait although a thread is free");
        turns.done(A);
        assert_eq!(turns.pop(), Some((A, "a2")));
    }

    #[test]
    fn a_thread_that_found_no_turn_goes_on_when_one_is_over() {
        let turns = Arc::new(filled(Bounds { running: 1, ..BOUNDS }, &[(A, "a1"), (A, "a2")]));
        turns.pop();
        let waiting = std::thread::spawn({
            let turns = turns.clone();
            move || turns.pop()
        });
        turns.done(A);
        assert_eq!(waiting.join().unwrap(), Some((A, "a2")));
    }

    #[test]
    fn a_discarded_queue_hands_out_nothing() {
        let turns = Turns::new(BOUNDS);
        let item = Arc::new(());
        turns.push(A, item.clone());
        turns.discard();
        turns.push(A, item.clone());
        assert_eq!(Arc::strong_count(&item), 1);
        assert_eq!(turns.pop(), None);
    }

    #[test]
    fn the_memory_of_turns_is_bounded_and_forgets_the_oldest_first() {
        let bounds = Bounds { remembered: 3, ..BOUNDS };
        let turns = filled(bounds, &[]);
        for party in 1..=7 {
            turns.push(Party::Namespace(party), "x");
            turns.pop();
        }
        let state = turns.lock();
        let known = [1, 2, 3, 4, 5, 6, 7].map(|party| state.last_turns.at(Party::Namespace(party)));
        assert_eq!(known, [0, 0, 0, 4, 5, 6, 7]);
    }
}
