//! What goes wrong while the clients work: processes are killed or paused, mostly one of three, sometimes all.

use std::time::Duration;

use super::cluster::{Cluster, NODES, lock};
use super::daemon::dice::Dice;

/// How often what was done to the processes of one kind.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Faults {
    /// Processes that were killed.
    pub(crate) kills: usize,
    /// Times at which most or all of them were down.
    pub(crate) outages: usize,
    /// Processes that were paused.
    pub(crate) pauses: usize,
}

const MS: Duration = Duration::from_millis(1);

#[derive(Clone, Copy)]
enum Fault {
    /// So many processes are killed.
    Kill(usize),
    Pause,
}

/// What happens, in a random order, again and again.
struct Deck {
    cards: Vec<Fault>,
    dice: Dice,
}

impl Deck {
    const ALL: [Fault; 8] = {
        use Fault::{Kill, Pause};
        [Kill(1), Kill(1), Kill(1), Kill(1), Kill(2), Kill(3), Pause, Pause]
    };

    fn new(dice: Dice) -> Self {
        Self { cards: Vec::new(), dice }
    }

    fn draw(&mut self) -> Fault {
        if self.cards.is_empty() {
            self.cards.extend(Self::ALL);
        }
        self.cards.swap_remove(self.dice.below(self.cards.len()))
    }
}

/// The processes from a random one on.
fn some(count: usize, dice: &mut Dice) -> impl Iterator<Item = usize> {
    let first = dice.below(NODES);
    (first..first + count).map(|at| at % NODES)
}

impl Faults {
    fn count(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(count) => {
                self.kills += count;
                self.outages += usize::from(count > 1);
            }
            Fault::Pause => self.pauses += 1,
        }
    }
}

/// Troubles the members of etcd until the moment `end`. All run afterwards.
pub(crate) fn trouble_etcd(cluster: &Cluster, dice: Dice, end: Duration) -> Faults {
    let mut deck = Deck::new(dice);
    let mut faults = Faults::default();
    let mut etcd = lock(&cluster.etcd);
    loop {
        std::thread::sleep(deck.dice.between(500 * MS, 4_000 * MS));
        if cluster.now() >= end {
            return faults;
        }
        let fault = deck.draw();
        faults.count(fault);
        let dice = &mut deck.dice;
        match fault {
            Fault::Kill(count) => {
                some(count, dice).for_each(|member| etcd.kill(member));
                let longest = if count == 1 { 4_000 * MS } else { 1_500 * MS };
                std::thread::sleep(dice.between(100 * MS, longest));
                etcd.start_all();
            }
            Fault::Pause => {
                let member = dice.below(NODES);
                etcd.pause(member);
                std::thread::sleep(dice.between(300 * MS, 4_000 * MS));
                etcd.resume(member);
            }
        }
    }
}

/// Troubles the nodes until the moment `end`. All run and are unlocked afterwards.
pub(crate) fn trouble_nodes(cluster: &Cluster, dice: Dice, end: Duration) -> Faults {
    let mut deck = Deck::new(dice);
    let mut faults = Faults::default();
    loop {
        std::thread::sleep(deck.dice.between(500 * MS, 3_000 * MS));
        if cluster.now() >= end {
            return faults;
        }
        let fault = deck.draw();
        faults.count(fault);
        let dice = &mut deck.dice;
        match fault {
            Fault::Kill(count) => {
                let killed: Vec<usize> = some(count, dice).collect();
                killed.iter().for_each(|node| cluster.kill(*node));
                std::thread::sleep(dice.between(50 * MS, 2_000 * MS));
                killed.iter().for_each(|node| cluster.restart(*node));
            }
            Fault::Pause => {
                let node = dice.below(NODES);
                cluster.pause(node);
                std::thread::sleep(dice.between(300 * MS, 2_500 * MS));
                cluster.resume(node);
            }
        }
    }
}
