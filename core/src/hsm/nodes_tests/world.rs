//! The nodes, the store and the clock of a simulation, and its steps.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use super::history::{End, Kind, Log, Op, is_explained};
use super::node::{Member, ROWS};
use super::planted::{Fault, Planted};
use crate::rows::path::{Generation, generation_pointer};
use crate::runtime::Clock;
use crate::sim::{SimClock, SimLink, SimRng, SimStore};
use crate::store::Store;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One node. A crash leaves only its link.
struct Node {
    link: Arc<SimLink>,
    member: Arc<Member>,
    /// Opens the tables and follows the store. `None`: it has crashed.
    main: Option<Work>,
    tasks: Vec<Work>,
    /// It is not polled until then.
    suspended_until: Duration,
}

/// The number of operations by outcome, and reads that a cache answered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) acknowledged: usize,
    pub(super) refused: usize,
    pub(super) unknown: usize,
    pub(super) conflicts: usize,
    pub(super) reads: usize,
    pub(super) failed_reads: usize,
    pub(super) cache_hits: u64,
    pub(super) restores: usize,
    pub(super) crashes: usize,
}

pub(super) struct World {
    rng: SimRng,
    clock: Arc<SimClock>,
    store: Arc<SimStore>,
    log: Arc<Mutex<Log>>,
    nodes: Vec<Node>,
    next_value: u32,
    next_generation: Generation,
    /// Whether a restore runs. One runs at a time.
    restoring: Arc<AtomicBool>,
    figures: Figures,
}

impl World {
    pub(super) fn new(seed: u64, fault: Fault) -> Self {
        // Numbers of neighbouring seeds must not overlap.
        let rng = SimRng::new(SimRng::new(seed).next_u64());
        let store = Arc::new(SimStore::new(seed));
        store.share(true);
        store.tamper(generation_pointer(), 1u32.to_be_bytes().to_vec());
        let clock = Arc::new(SimClock::new());
        let log = Arc::new(Mutex::new(Log { times: vec![(0, Duration::ZERO)], ..Log::default() }));
        let count = 2 + usize::try_from(rng.below(2)).unwrap();
        let nodes = (0..count).map(|at| {
            let link = Arc::new(SimLink::new(store.clone(), clock.clone(), rng.next_u64()));
            let planted: Arc<dyn Store> = match fault {
                Fault::NoFence | Fault::LeakyWatch | Fault::UnguardedResend | Fault::ReadsReplaced => {
                    Arc::new(Planted {
                        link: link.clone(),
                        rng: Arc::new(SimRng::new(rng.next_u64())),
                        fault,
                        pointer: AtomicU64::new(0),
                    })
                }
                _ => link.clone(),
            };
            let member = Arc::new(Member {
                at,
                store: planted,
                clock: clock.clone(),
                rng: Arc::new(SimRng::new(rng.next_u64())),
                tables: Mutex::default(),
                log: log.clone(),
                fault,
            });
            let main = Some(Box::pin(member.clone().run()) as Work);
            Node { link, member, main, tasks: Vec::new(), suspended_until: Duration::ZERO }
        });
        let nodes = nodes.collect();
        Self {
            rng,
            clock,
            store,
            log,
            nodes,
            next_value: 1,
            next_generation: 2,
            restoring: Arc::default(),
            figures: Figures::default(),
        }
    }

    fn note(&self, what: impl FnOnce() -> String) {
        let mut log = self.log.lock().unwrap();
        let line = format!("{} at {:?}: {}", log.moment, self.clock.monotonic(), what());
        log.events.push(line);
    }

    fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        let mut log = self.log.lock().unwrap();
        log.moment += 1;
        let now = (log.moment, self.clock.monotonic());
        log.times.push(now);
    }

    fn new_value(&mut self) -> u32 {
        self.next_value += 1;
        self.next_value
    }

    /// Polls a node: what follows the store a few times, and each of its tasks once.
    fn poll(&mut self, at: usize, turns: u64) {
        let now = self.clock.monotonic();
        let node = &mut self.nodes[at];
        if node.suspended_until > now {
            return;
        }
        let mut context = Context::from_waker(Waker::noop());
        let Some(main) = &mut node.main else { return };
        for _ in 0..turns {
            let _ = main.as_mut().poll(&mut context);
        }
        node.tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
    }

    fn crash(&mut self, at: usize) {
        self.figures.crashes += 1;
        self.figures.cache_hits += hits(&self.nodes[at].member);
        let node = &mut self.nodes[at];
        node.main = None;
        node.tasks.clear();
        *node.member.tables.lock().unwrap() = None;
        node.link.lose_watches();
    }

    fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.main = Some(Box::pin(node.member.clone().run()));
    }

    fn begin(&mut self, at: usize) {
        let node = &self.nodes[at];
        if node.tasks.len() >= 3 || node.main.is_none() || node.suspended_until > self.clock.monotonic() {
            return;
        }
        let row = self.rng.below(ROWS as u64) as usize;
        let member = node.member.clone();
        let task: Work = match self.rng.below(20) {
            0..9 => Box::pin(member.read(row, true)),
            9 => Box::pin(member.read(row, false)),
            10..14 => {
                let value = self.new_value();
                Box::pin(member.write(row, Some(value), false, self.rng.below(2) == 0))
            }
            14..17 => Box::pin(member.write(row, None, false, self.rng.below(2) == 0)),
            17 => Box::pin(member.write(row, None, true, false)),
            18 => {
                let value = self.new_value();
                Box::pin(member.write(row, Some(value), true, false))
            }
            _ => Box::pin(member.sweep()),
        };
        self.nodes[at].tasks.push(task);
        // Its first turn, so that it begins now.
        let mut context = Context::from_waker(Waker::noop());
        let task = self.nodes[at].tasks.last_mut().unwrap();
        if task.as_mut().poll(&mut context).is_ready() {
            self.nodes[at].tasks.pop();
        }
    }

    fn begin_restore(&mut self, at: usize) {
        if self.nodes[at].main.is_none() || self.restoring.load(Ordering::SeqCst) {
            return;
        }
        self.figures.restores += 1;
        let mut values = [None; ROWS];
        for value in &mut values {
            if self.rng.below(3) > 0 {
                *value = Some(self.new_value());
            }
        }
        self.next_generation += 1;
        let work = self.nodes[at].member.clone().restore(self.next_generation, values);
        let running = Running(self.restoring.clone());
        running.0.store(true, Ordering::SeqCst);
        self.nodes[at].tasks.push(Box::pin(async move {
            let _running = running;
            work.await;
        }));
    }

    fn step(&mut self) {
        let at = self.rng.below(self.nodes.len() as u64) as usize;
        let coin = self.rng.below(2) == 0;
        match self.rng.below(200) {
            0..50 => self.begin(at),
            50..140 => {
                let turns = self.rng.below(6);
                self.poll(at, turns);
            }
            140..160 => {
                let by = 10 * self.rng.below(15);
                self.advance(Duration::from_millis(by));
            }
            160..163 => {
                let by = 200 * (1 + self.rng.below(8));
                self.advance(Duration::from_millis(by));
            }
            163 if coin => {
                self.note(|| "an hour passes".into());
                self.advance(Duration::from_secs(3600));
            }
            164..168 => {
                let coin = self.rng.below(5) == 0;
                self.note(|| format!("node {at} is cut: {coin}"));
                self.nodes[at].link.cut(coin);
            }
            170..174 => {
                let coin = self.rng.below(4) == 0;
                self.note(|| format!("node {at} lags: {coin}"));
                self.nodes[at].link.lag(coin);
            }
            174..182 => {
                self.note(|| format!("node {at} loses answers"));
                self.nodes[at].link.lose_answers(1 + usize::from(coin));
            }
            182..187 => {
                let arrives = self.nodes[at].link.deliver_late();
                self.note(|| format!("something sent by node {at} arrives late: {arrives}"));
            }
            187 => self.store.compact(),
            188 if coin => self.store.lose_watches(),
            188 => {
                // Nothing that counts goes by the wall clock.
                let wall = Duration::from_secs(self.rng.below(1 << 32));
                self.clock.set_wall(wall);
            }
            189 => self.nodes[at].link.lose_watches(),
            190..192 => {
                let slow = self.rng.below(4) == 0;
                self.nodes[at].link.slow(slow);
            }
            192 => {
                let until = self.clock.monotonic() + Duration::from_millis(self.rng.below(4_000));
                self.note(|| format!("node {at} is suspended until {until:?}"));
                self.nodes[at].suspended_until = until;
            }
            195..197 => match self.nodes[at].main {
                Some(_) if coin => {
                    self.note(|| format!("node {at} crashes"));
                    self.crash(at);
                }
                Some(_) => {}
                None => {
                    self.note(|| format!("node {at} starts"));
                    self.start(at);
                }
            },
            197 => self.begin_restore(at),
            _ => {}
        }
    }

    /// Polls everything until no task is left.
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..2_000 {
            for at in 0..self.nodes.len() {
                self.poll(at, 3);
            }
            if self.nodes.iter().all(|node| node.tasks.is_empty() && node.member.tables().is_some()) {
                return Ok(());
            }
            self.advance(Duration::from_millis(20));
        }
        Err("an operation does not end although nothing fails any more".into())
    }

    pub(super) fn run(mut self, steps: usize) -> (Result<(), String>, Figures, Vec<String>) {
        for at in 0..self.nodes.len() {
            self.poll(at, 40);
        }
        for _ in 0..steps {
            self.step();
        }
        let ended = self.finish();
        let log = self.log.lock().unwrap();
        for op in &log.ops {
            match (op.kind, op.end) {
                (_, End::Applied) => self.figures.acknowledged += 1,
                (_, End::Conflict) => self.figures.conflicts += 1,
                (_, End::Refused) => self.figures.refused += 1,
                (Kind::Write { .. }, _) => self.figures.unknown += 1,
                (_, End::Found(_)) => self.figures.reads += 1,
                _ => self.figures.failed_reads += 1,
            }
        }
        self.figures.cache_hits += self.nodes.iter().map(|node| hits(&node.member)).sum::<u64>();
        let checked = ended.and_then(|()| {
            match (0..ROWS).find(|row| {
                let ops: Vec<Op> = log.ops.iter().filter(|op| op.row == *row).cloned().collect();
                !is_explained(&ops)
            }) {
                Some(row) => Err(format!("no order of the operations on row {row} explains what the nodes were told")),
                None => Ok(()),
            }
        });
        let mut lines = log.events.clone();
        lines.extend(log.ops.iter().map(|op| {
            let until = if op.until == u64::MAX { String::new() } else { op.until.to_string() };
            format!("row {}, {} to {until}, node {}: {:?}, {:?}", op.row, op.from, op.node, op.kind, op.end)
        }));
        (checked, self.figures, lines)
    }

    /// Ends all faults, and what runs; then every node reads every row.
    fn finish(&mut self) -> Result<(), String> {
        self.note(|| "all faults end".into());
        for at in 0..self.nodes.len() {
            let link = self.nodes[at].link.clone();
            link.cut(false);
            link.lag(false);
            link.slow(false);
            link.lose_answers(0);
            self.nodes[at].suspended_until = Duration::ZERO;
            if self.nodes[at].main.is_none() {
                self.start(at);
            }
        }
        self.settle()?;
        for at in 0..self.nodes.len() {
            while self.nodes[at].link.deliver_late() {}
        }
        for cached in [true, false, true] {
            for at in 0..self.nodes.len() {
                for row in 0..ROWS {
                    let read = self.nodes[at].member.clone().read(row, cached);
                    self.nodes[at].tasks.push(Box::pin(read));
                }
            }
            self.settle()?;
        }
        Ok(())
    }
}

/// Held by the restore that runs.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

fn hits(member: &Member) -> u64 {
    member.tables().map_or(0, |tables| tables.cache_figures().iter().map(|figures| figures.hits).sum())
}
