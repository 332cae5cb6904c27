//! What goes wrong with members while clients work.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use casemate_api::limits::{STORE_AWAY_S, STORE_CONFIRMED_MS};
use casemate_etcd::request::prefix;
use rustix::process::Signal;
use serde_json::json;

use super::cluster::{Cluster, NODES, block, lock};
use super::daemon::dice::Dice;
use super::history::{Record, Track};
use super::linear::Object;
use super::load::Load;
use super::revoked::Revoked;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// One thing that goes wrong. The numbers are those of the cases in docs/chaos.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// 1: the node whose etcd leads is killed and started again.
    KillLeader,
    /// 1: two of three are killed, so that nothing can be changed, and started again.
    KillMajority,
    /// 2: the node whose etcd leads reaches no other.
    IsolateLeader,
    /// 3, 6: another one reaches no other until it is Failed. What is taken away meanwhile is gone there, too, when it is back.
    IsolateFollower,
    /// 4: nothing that one node sends reaches another one.
    CutOneWay,
    /// 14: the etcd of a node is killed again and again.
    KillEtcd,
    /// 21: the etcd of a node stands still for half a second, again and again, as with a disk that is slow to sync.
    StallEtcd,
    /// 21: the clock of an HSM jumps by an hour.
    JumpClock,
    /// 22: what a node has not heard of is compacted away before it hears of anything again.
    Compact,
}

/// All of them, in the order of a short run.
pub(crate) const ALL: [Fault; 9] = {
    use Fault::*;
    [KillLeader, CutOneWay, KillEtcd, IsolateLeader, StallEtcd, Compact, JumpClock, KillMajority, IsolateFollower]
};

/// When something was wrong.
pub(crate) struct Trouble {
    fault: Fault,
    from: Duration,
    until: Duration,
    /// When all members took changes again.
    settled: Duration,
    /// A node that reached no other all the time.
    isolated: Option<usize>,
    /// From its cut to the state Failed.
    failed: Option<Duration>,
}

/// How long the network is broken.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) isolation: Duration,
    pub(crate) cut: Duration,
}

impl Fault {
    /// Does it to the members and undoes it, and waits until all of them take changes.
    pub(crate) fn happen(self, cluster: &Cluster, times: Times, dice: &mut Dice) -> Trouble {
        let from = cluster.now();
        let mut trouble = Trouble { fault: self, from, until: from, settled: from, isolated: None, failed: None };
        let one = dice.below(NODES);
        match self {
            Fault::KillLeader => {
                let leader = cluster.some_leader();
                cluster.kill(leader);
                std::thread::sleep(dice.between(100 * MS, 4 * SECOND));
                cluster.restart(leader);
            }
            Fault::KillMajority => {
                let two = [one, (one + 1) % NODES];
                two.iter().for_each(|node| cluster.kill(*node));
                std::thread::sleep(dice.between(100 * MS, 3 * SECOND));
                // A majority is needed to unlock the first one.
                two.iter().for_each(|node| cluster.start_process(*node));
                two.iter().for_each(|node| cluster.unlock_again(*node));
            }
            Fault::IsolateLeader => {
                let leader = cluster.some_leader();
                isolate(cluster, leader, &mut trouble, || std::thread::sleep(times.isolation));
            }
            Fault::IsolateFollower => {
                let node = (cluster.some_leader() + 1 + dice.below(NODES - 1)) % NODES;
                let revoked = Revoked::prepare(cluster, node);
                let mut failed = None;
                std::thread::scope(|scope| {
                    let using = scope.spawn(|| revoked.keep_using());
                    isolate(cluster, node, &mut trouble, || {
                        let cut = cluster.now();
                        std::thread::sleep(2 * SECOND);
                        revoked.revoke((node + 1) % NODES);
                        cluster.eventually(node, "it is Failed", || cluster.state(node) == "Failed");
                        failed = Some(cluster.now() - cut);
                        std::thread::sleep(SECOND);
                    });
                    cluster
                        .eventually(node, "it is back without being unlocked", || cluster.state(node) == "Operational");
                    std::thread::sleep(2 * SECOND);
                    revoked.end();
                    using.join().unwrap();
                });
                trouble.failed = failed;
            }
            Fault::CutOneWay => {
                let other = (one + 1 + dice.below(NODES - 1)) % NODES;
                cluster.network.cut_one_way(one, other);
                std::thread::sleep(times.cut);
                cluster.network.heal(one, other);
            }
            Fault::KillEtcd => {
                for _ in 0..4 {
                    cluster.signal_etcd(one, Signal::KILL);
                    std::thread::sleep(700 * MS);
                }
            }
            Fault::StallEtcd => {
                for _ in 0..6 {
                    cluster.signal_etcd(one, Signal::STOP);
                    std::thread::sleep(500 * MS);
                    cluster.signal_etcd(one, Signal::CONT);
                    std::thread::sleep(300 * MS);
                }
            }
            Fault::JumpClock => {
                let admin = cluster.admin(one);
                for hour in ["11", "13", "12"] {
                    let body = json!({ "time": format!("2026-06-01T{hour}:00:00Z") });
                    cluster.eventually(one, "its clock is set", || {
                        admin.call("PUT", "/config/time", Some(&body)).is_ok_and(|answer| answer.status == 204)
                    });
                    std::thread::sleep(500 * MS);
                }
            }
            Fault::Compact => {
                let node = (cluster.some_leader() + 1) % NODES;
                isolate(cluster, node, &mut trouble, || {
                    std::thread::sleep(3 * SECOND);
                    let other = (node + 1) % NODES;
                    cluster.eventually(other, "it is compacted", || compact(cluster, other));
                });
            }
        }
        if trouble.isolated.is_none() {
            trouble.until = cluster.now();
        }
        cluster.settle();
        trouble.settled = cluster.now();
        trouble
    }
}

/// Forgets all revisions but the last one.
fn compact(cluster: &Cluster, node: usize) -> bool {
    let etcd = cluster.etcd(node);
    block(async {
        let Ok(rows) = etcd.range(prefix(b"/", 1)).await else { return false };
        etcd.compact(rows.header.unwrap_or_default().revision).await.is_ok()
    })
}

fn isolate(cluster: &Cluster, node: usize, trouble: &mut Trouble, meanwhile: impl FnOnce()) {
    cluster.network.isolate(node);
    (trouble.isolated, trouble.from) = (Some(node), cluster.now());
    meanwhile();
    trouble.until = cluster.now();
    cluster.network.rejoin(node);
}

impl Trouble {
    /// Checks that an isolated node told nothing for which it would have had to ask others, and when it was Failed.
    pub(crate) fn check(&self, load: &Load) {
        let Self { fault, from, until, isolated, failed, .. } = *self;
        if let Some(node) = isolated {
            let late = from + Duration::from_millis(STORE_CONFIRMED_MS);
            let told = all(load, |record| {
                record.told && record.node == node && record.invoked > late && record.answered < until
            });
            let asked = all(load, |record| record.node == node && record.told && record.answered < from);
            assert!(!asked.is_empty(), "{fault:?}: node {node} was asked before it was isolated");
            assert!(told.is_empty(), "{fault:?}: isolated from {from:?} to {until:?}, node {node} told: {told:#?}");
        }
        if let Some(failed) = failed {
            let (least, most) = (u64::from(STORE_AWAY_S) - 2, 75);
            let bounds = Duration::from_secs(least)..=Duration::from_secs(most);
            assert!(bounds.contains(&failed), "node {isolated:?} was Failed {failed:.1?} after it was cut off");
        }
    }
}

/// What is recorded of all objects, if `is_meant`: its moment of answer and a line about it.
fn all(load: &Load, is_meant: impl Fn(&Meant) -> bool) -> Vec<(Duration, String)> {
    let mut found = Vec::new();
    load.history.keys.iter().for_each(|track| add(track, &is_meant, &mut found));
    load.history.users.iter().for_each(|track| add(track, &is_meant, &mut found));
    found.sort_unstable();
    found
}

/// What is to be known of a record, whatever its object is.
struct Meant {
    node: usize,
    invoked: Duration,
    answered: Duration,
    told: bool,
    changes: bool,
}

fn add<O: Object>(track: &Track<O>, is_meant: &impl Fn(&Meant) -> bool, found: &mut Vec<(Duration, String)>) {
    for record in lock(&track.records).iter() {
        let Record { op, node, invoked, answered, told, .. } = *record;
        if is_meant(&Meant { node, invoked, answered, told, changes: told && O::changes(&op) }) {
            found.push((answered, format!("{}: {record:?}", track.name)));
        }
    }
}

/// A table of what happened, how long nobody's change was acknowledged meanwhile, and how long it took until all members took changes.
pub(crate) fn table(load: &Load, troubles: &[Trouble]) -> String {
    let changed: Vec<Duration> = all(load, |record| record.changes).into_iter().map(|(at, _)| at).collect();
    let mut kinds: BTreeMap<Fault, [Vec<Duration>; 3]> = BTreeMap::new();
    for Trouble { fault, from, until, settled, failed, .. } in troubles {
        let ends = [from, settled].map(|at| changed.partition_point(|change| change < at));
        let mut moments = vec![*from];
        moments.extend_from_slice(&changed[ends[0]..ends[1]]);
        moments.push(*settled);
        let gap = moments.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default();
        let of_kind = kinds.entry(*fault).or_default();
        of_kind[0].push(gap);
        of_kind[1].push(settled.saturating_sub(*until));
        of_kind[2].extend(failed);
    }
    let most =
        |times: &[Duration]| times.iter().max().map_or("–".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()));
    let mut text = String::from(
        "| fault | times | longest without an acknowledged change | longest until all take changes again | Failed after |\n|---|---|---|---|---|\n",
    );
    for (fault, [gaps, settled, failed]) in kinds {
        let _ =
            writeln!(text, "| {fault:?} | {} | {} | {} | {} |", gaps.len(), most(&gaps), most(&settled), most(&failed));
    }
    text
}
