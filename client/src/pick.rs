//! Which node is asked next: round-robin over the nodes that work, and when the others get another chance.
//!
//! Pure: it uses no sockets and no clock. Nodes are indices, times are milliseconds since any fixed moment, and whoever
//! carries out a pick reports back with [`Picker::succeeded`], [`Picker::ready`] or [`Picker::failed`].

use casemate_api::limits::{CLIENT_ASIDE_MAX_MS, CLIENT_ASIDE_MS, CLIENT_NODES_MAX, CLIENT_PROBE_MS};

/// What is known about the nodes, and whose turn it is.
#[derive(Clone, Debug)]
pub(crate) struct Picker {
    nodes: Vec<Health>,
    /// Where the next round begins.
    next: usize,
}

/// What is known about one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Health {
    /// How many times in a row it failed. An answer to a request resets this, an answer to a probe does not.
    strikes: u32,
    /// `None`: requests are sent to it.
    aside: Option<Aside>,
}

/// A node that failed and gets no requests for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Aside {
    /// When it gets another chance.
    until_ms: u64,
    /// When a caller began to probe it.
    probed_since_ms: Option<u64>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// Send the request to this node.
    Use(usize),
    /// Ask this node whether it is ready, report the result, and pick again.
    Probe(usize),
}

/// The nodes that one call has tried, and whether it has probed one: each call makes at most one probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tried {
    nodes: u64,
    probed: bool,
}

impl Tried {
    /// Adds `node`.
    pub(crate) fn add(&mut self, node: usize) {
        self.nodes |= bit(node);
    }

    /// Notes that a node was probed.
    pub(crate) fn probed(&mut self) {
        self.probed = true;
    }

    fn holds(self, node: usize) -> bool {
        self.nodes & bit(node) != 0
    }
}

fn bit(node: usize) -> u64 {
    assert!(node < CLIENT_NODES_MAX, "a client has no more nodes");
    1 << node
}

impl Picker {
    /// A picker of `count` nodes without known failures. The first round begins at `first`, so that clients that start
    /// at the same time do not all begin at the same node.
    pub(crate) fn new(count: usize, first: usize) -> Self {
        Self { nodes: vec![Health::default(); count], next: first.checked_rem(count).unwrap_or(0) }
    }

    /// The next node of a call that has tried `tried`; `None` if it has tried all.
    ///
    /// A node whose time aside is over is probed first, by one caller at a time, if another node works: a request that a
    /// working node could answer is never used to find out that a node still fails. If no node works, the one whose time
    /// aside ends first is used without a probe.
    pub(crate) fn pick(&mut self, now_ms: u64, tried: Tried) -> Option<Pick> {
        let count = self.nodes.len();
        let round: Vec<usize> = (0..count).map(|step| (self.next + step) % count).collect();
        let open = |node: &usize| !tried.holds(*node);

        let working = round.iter().copied().filter(open).find(|node| self.health(*node).aside.is_none());
        let Some(working) = working else {
            let node = round.into_iter().filter(open).min_by_key(|node| self.until_ms(*node))?;
            self.next = (node + 1) % count;
            return Some(Pick::Use(node));
        };
        let due = round.into_iter().filter(open).find(|node| !tried.probed && self.is_due(*node, now_ms));
        if let Some(due) = due {
            if let Some(aside) = self.nodes.get_mut(due).and_then(|health| health.aside.as_mut()) {
                aside.probed_since_ms = Some(now_ms);
            }
            return Some(Pick::Probe(due));
        }
        self.next = (working + 1) % count;
        Some(Pick::Use(working))
    }

    /// `node` answered a request as a working node does.
    pub(crate) fn succeeded(&mut self, node: usize) {
        if let Some(health) = self.nodes.get_mut(node) {
            *health = Health::default();
        }
    }

    /// `node` answered a probe. The next request shows whether it works.
    pub(crate) fn ready(&mut self, node: usize) {
        if let Some(health) = self.nodes.get_mut(node) {
            health.aside = None;
        }
    }

    /// `node` could not be reached, failed or is in the wrong state. Failures during its time aside count once.
    pub(crate) fn failed(&mut self, node: usize, now_ms: u64) {
        let Some(health) = self.nodes.get_mut(node) else { return };
        if health.aside.is_some_and(|aside| now_ms < aside.until_ms) {
            return;
        }
        health.strikes = health.strikes.saturating_add(1);
        let until_ms = now_ms.saturating_add(aside_ms(health.strikes));
        health.aside = Some(Aside { until_ms, probed_since_ms: None });
    }

    /// Whether requests are sent to `node`.
    #[cfg(test)]
    fn is_working(&self, node: usize) -> bool {
        self.health(node).aside.is_none()
    }

    fn health(&self, node: usize) -> Health {
        self.nodes.get(node).copied().unwrap_or_default()
    }

    fn until_ms(&self, node: usize) -> u64 {
        self.health(node).aside.map_or(0, |aside| aside.until_ms)
    }

    /// Whether its time aside is over and nobody is probing it. A probe that was never reported on expires.
    fn is_due(&self, node: usize, now_ms: u64) -> bool {
        self.health(node).aside.is_some_and(|aside| {
            let probing = aside.probed_since_ms.is_some_and(|since| now_ms < since.saturating_add(2 * CLIENT_PROBE_MS));
            aside.until_ms <= now_ms && !probing
        })
    }
}

/// How long a node is set aside after that many failures in a row, in milliseconds.
fn aside_ms(strikes: u32) -> u64 {
    let doublings = strikes.saturating_sub(1).min(16);
    (CLIENT_ASIDE_MS << doublings).min(CLIENT_ASIDE_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn use_of(pick: Option<Pick>) -> usize {
        match pick {
            Some(Pick::Use(node)) => node,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn working_nodes_take_turns() {
        let mut picker = Picker::new(3, 1);
        let order: Vec<_> = (0..7).map(|_| use_of(picker.pick(0, Tried::default()))).collect();
        assert_eq!(order, [1, 2, 0, 1, 2, 0, 1]);
    }

    #[test]
    fn a_failed_node_is_set_aside_then_probed_by_one_caller_then_used() {
        let mut picker = Picker::new(2, 0);
        picker.failed(0, 1_000);
        for now in [1_000, 1_500, 1_999] {
            assert_eq!(picker.pick(now, Tried::default()), Some(Pick::Use(1)));
        }
        assert_eq!(picker.pick(2_000, Tried::default()), Some(Pick::Probe(0)));
        assert_eq!(picker.pick(2_000, Tried::default()), Some(Pick::Use(1)), "one caller probes");
        picker.succeeded(0);
        assert_eq!(picker.pick(2_100, Tried::default()), Some(Pick::Use(0)));
    }

    #[test]
    fn a_call_probes_once() {
        let mut picker = Picker::new(4, 0);
        for node in 0..3 {
            picker.failed(node, 0);
        }
        let mut tried = Tried::default();
        assert_eq!(picker.pick(1_000, tried), Some(Pick::Probe(0)));
        tried.probed();
        assert_eq!(picker.pick(1_000, tried), Some(Pick::Use(3)));
    }

    #[test]
    fn a_node_that_is_ready_but_fails_is_set_aside_longer_each_time() {
        let mut picker = Picker::new(2, 0);
        let (mut now, mut times) = (0, Vec::new());
        for _ in 0..4 {
            picker.failed(0, now);
            times.push(picker.until_ms(0) - now);
            now = picker.until_ms(0);
            picker.ready(0);
        }
        assert_eq!(times, [1_000, 2_000, 4_000, 8_000]);
        picker.succeeded(0);
        picker.failed(0, now);
        assert_eq!(picker.until_ms(0) - now, 1_000);
    }

    #[test]
    fn a_probe_without_a_report_expires() {
        let mut picker = Picker::new(2, 0);
        picker.failed(0, 0);
        assert_eq!(picker.pick(1_000, Tried::default()), Some(Pick::Probe(0)));
        assert_eq!(picker.pick(2_999, Tried::default()), Some(Pick::Use(1)));
        assert_eq!(picker.pick(3_000, Tried::default()), Some(Pick::Probe(0)));
    }

    #[test]
    fn the_time_aside_doubles_up_to_a_minute_and_simultaneous_failures_count_once() {
        let mut picker = Picker::new(2, 0);
        let mut now = 0;
        let mut times = Vec::new();
        for _ in 0..8 {
            for _ in 0..100 {
                picker.failed(0, now);
            }
            times.push(picker.until_ms(0) - now);
            now = picker.until_ms(0);
        }
        assert_eq!(times, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn when_all_are_aside_each_is_used_once_in_order_of_their_times() {
        let mut picker = Picker::new(3, 0);
        for (node, now) in [(0, 300), (1, 100), (2, 200)] {
            picker.failed(node, now);
        }
        let mut tried = Tried::default();
        let mut order = Vec::new();
        while let Some(pick) = picker.pick(400, tried) {
            let node = use_of(Some(pick));
            order.push(node);
            tried.add(node);
        }
        assert_eq!(order, [1, 2, 0]);
    }

    #[test]
    fn the_only_node_is_never_probed() {
        let mut picker = Picker::new(1, 0);
        picker.failed(0, 0);
        for now in [0, 500, 1_000, 100_000] {
            assert_eq!(picker.pick(now, Tried::default()), Some(Pick::Use(0)));
        }
    }

    /// What may happen between two picks.
    #[derive(Clone, Debug)]
    enum Event {
        Passes(u64),
        Fails(usize),
        Recovers(usize),
        Call,
    }

    fn events(count: usize) -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            3 => (0_u64..5_000).prop_map(Event::Passes),
            1 => (0..count).prop_map(Event::Fails),
            1 => (0..count).prop_map(Event::Recovers),
            6 => Just(Event::Call),
        ];
        proptest::collection::vec(event, 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever nodes fail and recover, a call reaches a working node if there is one, asks and probes no node
        /// twice, and ends.
        #[test]
        fn a_call_reaches_a_working_node_if_there_is_one(
            (count, events) in (1_usize..6).prop_flat_map(|count| (Just(count), events(count))),
            first in 0_usize..10,
        ) {
            let mut picker = Picker::new(count, first);
            let mut alive = vec![true; count];
            let mut now = 0;
            for event in events {
                match event {
                    Event::Passes(ms) => now += ms,
                    Event::Fails(node) => alive[node] = false,
                    Event::Recovers(node) => alive[node] = true,
                    Event::Call => {
                        let (mut tried, mut used, mut probed) = (Tried::default(), Vec::new(), Vec::new());
                        let served = loop {
                            match picker.pick(now, tried) {
                                None => break None,
                                Some(Pick::Probe(node)) => {
                                    prop_assert!(!probed.contains(&node) && !used.contains(&node));
                                    probed.push(node);
                                    if alive[node] { picker.succeeded(node) } else { picker.failed(node, now) }
                                }
                                Some(Pick::Use(node)) => {
                                    prop_assert!(!used.contains(&node));
                                    used.push(node);
                                    tried.add(node);
                                    if alive[node] {
                                        picker.succeeded(node);
                                        break Some(node);
                                    }
                                    picker.failed(node, now);
                                }
                            }
                        };
                        prop_assert_eq!(served.is_some(), alive.contains(&true));
                    }
                }
            }
        }

        /// If all nodes work, no node gets more than one request more than another.
        #[test]
        fn turns_are_fair(count in 1_usize..8, calls in 1_usize..100, first in 0_usize..8) {
            let mut picker = Picker::new(count, first);
            let mut served = vec![0_usize; count];
            for _ in 0..calls {
                served[use_of(picker.pick(0, Tried::default()))] += 1;
            }
            prop_assert!(served.iter().max().unwrap() - served.iter().min().unwrap() <= 1);
        }

        /// A node that recovered is used again within a minute.
        #[test]
        fn a_recovered_node_is_used_again(failures in 1_u32..40) {
            let mut picker = Picker::new(2, 0);
            let mut now = 0;
            for _ in 0..failures {
                now = picker.until_ms(0).max(now);
                picker.failed(0, now);
            }
            now += CLIENT_ASIDE_MAX_MS;
            prop_assert_eq!(picker.pick(now, Tried::default()), Some(Pick::Probe(0)));
            picker.succeeded(0);
            prop_assert!(picker.is_working(0));
        }
    }
}
