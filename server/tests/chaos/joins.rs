//! 7: a node that joins, the member that registered it, or the leader is killed at each step of a join. The others take changes
//! all the time, and the node ends as a member or with its own data.
//!
//! `CASEMATE_JOIN_KILLS` is the number of joins that are killed (default 5, a good minute; all steps and victims are 15).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::{Cluster, NODES, id_of_new, lock};
use super::daemon::dice::Dice;
use super::daemon::{Answer, Client};
use super::setting;

/// How far the join is at the kill.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The learner is registered, and nobody has asked the node to join.
    Registered,
    /// The node was asked just now.
    Asked,
    /// Its etcd follows.
    Learner,
    /// A member is asked to promote it.
    Promoting,
    /// It was promoted just now.
    Promoted,
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Joiner,
    Registrar,
    Leader,
}

/// Every step with every victim, those first that a short run does.
const ROUNDS: [(Step, Victim); 15] = {
    use Step::*;
    use Victim::*;
    [
        (Learner, Joiner),
        (Promoting, Leader),
        (Promoted, Joiner),
        (Asked, Registrar),
        (Promoting, Joiner),
        (Registered, Joiner),
        (Asked, Joiner),
        (Learner, Leader),
        (Promoting, Registrar),
        (Promoted, Leader),
        (Registered, Leader),
        (Asked, Leader),
        (Learner, Registrar),
        (Promoted, Registrar),
        (Registered, Registrar),
    ]
};

/// The node that joins.
const JOINER: usize = NODES;

/// A key that the cluster has, and one that the joiner has at first.
const SHARED: &str = "shared";
const OWN: &str = "own";

/// What became of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum End {
    Member,
    OldNode,
}

struct Round<'a> {
    cluster: &'a Cluster,
    registrar: usize,
    /// One that is never killed.
    other: usize,
    victim: usize,
    /// When a key was created at the other one.
    written: Mutex<Vec<Instant>>,
    ended: AtomicBool,
}

#[test]
fn a_join_that_is_killed_anywhere_ends_with_a_member_or_the_node_from_before() {
    let mut dice = Dice::new();
    let cluster = Cluster::start(1);
    generate(&cluster, 0, SHARED);
    let (mut ends, mut longest) = (BTreeMap::new(), Duration::ZERO);
    let kills = setting("CASEMATE_JOIN_KILLS", 5);
    for (step, victim) in ROUNDS.into_iter().cycle().take(kills as usize) {
        let begun = Instant::now();
        let (end, gap) = kill(&cluster, step, victim, &mut dice);
        println!("{step:?}, {victim:?} killed: {end:?}; {gap:.1?} without a change elsewhere; {:.0?}", begun.elapsed());
        *ends.entry(end).or_insert(0) += 1;
        longest = longest.max(gap);
    }
    println!("{kills} joins were killed: {ends:?}; the others took no changes for {longest:.1?} at most");
}

/// One join during which a node is killed and started again. Returns what became of the joiner, and how long the other member took no
/// changes.
fn kill(cluster: &Cluster, step: Step, victim: Victim, dice: &mut Dice) -> (End, Duration) {
    cluster.set_up(JOINER);
    generate(cluster, JOINER, OWN);
    let leader = cluster.some_leader();
    let registrar = (leader + 1) % NODES;
    let victim = match victim {
        Victim::Joiner => JOINER,
        Victim::Registrar => registrar,
        Victim::Leader => leader,
    };
    let other = (leader + 2) % NODES;
    let round = Round { cluster, registrar, other, victim, written: Mutex::default(), ended: AtomicBool::new(false) };
    let mut registration = None;
    cluster.eventually(registrar, "it registers a node", || {
        let answer = cluster.register(registrar, JOINER);
        let done = answer.status == 201;
        registration = Some(answer);
        done
    });
    let invitation = registration.unwrap().json();
    let end = std::thread::scope(|scope| {
        let writer = cluster.admin(other).alone();
        scope.spawn(|| round.write(writer));
        let end = round.run(scope, step, &invitation, dice);
        round.ended.store(true, Ordering::Relaxed);
        end
    });
    if end == End::Member {
        round.remove(&id_of_new(&invitation));
    }
    cluster.kill(JOINER);
    let written = lock(&round.written);
    let gaps = written.windows(2).map(|pair| pair[1] - pair[0]);
    (end, gaps.max().unwrap_or_default())
}

impl Round<'_> {
    fn run<'s>(
        &'s self,
        scope: &'s std::thread::Scope<'s, '_>,
        step: Step,
        invitation: &'s Value,
        dice: &mut Dice,
    ) -> End {
        let Self { cluster, registrar, .. } = *self;
        let id = id_of_new(invitation);
        let asked = |node: usize| self.promote(node, &id).is_ok_and(|answer| answer.status == 204);
        let ask = move || cluster.join_with(JOINER, invitation);
        let joining = match step {
            Step::Registered => None,
            Step::Asked | Step::Learner | Step::Promoting | Step::Promoted => Some(scope.spawn(ask)),
        };
        match step {
            Step::Registered => {}
            Step::Asked => std::thread::sleep(dice.between(Duration::ZERO, Duration::from_millis(400))),
            Step::Learner => self.follows(),
            Step::Promoting => {
                self.follows();
                let id = id.clone();
                scope.spawn(move || self.promote_for_a_moment(registrar, &id));
                std::thread::sleep(dice.between(Duration::ZERO, Duration::from_millis(800)));
            }
            Step::Promoted => cluster.eventually(registrar, "it promotes", || asked(registrar)),
        }
        cluster.kill(self.victim);
        self.others_take_changes();
        match self.victim == JOINER {
            true => cluster.start_process(JOINER),
            false => cluster.restart(self.victim),
        }
        if let (Step::Registered, true) = (step, self.victim == JOINER) {
            cluster.unlock(JOINER);
        }
        let joining = joining.unwrap_or_else(|| scope.spawn(ask));
        let end = self.resolve(&id);
        if let Ok(answer) = joining.join().unwrap()
            && self.victim != JOINER
        {
            let expected = if end == End::Member { 204 } else { 400 };
            answer.expect(expected);
        }
        self.check(end);
        end
    }

    /// Creates keys at the other member until the end.
    fn write(&self, admin: Client) {
        let key = json!({ "type": "Curve25519", "mechanisms": ["EdDSA_Signature"] });
        while !self.ended.load(Ordering::Relaxed) {
            if admin.call("POST", "/keys/generate", Some(&key)).is_ok_and(|answer| answer.status == 201) {
                lock(&self.written).push(Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn others_take_changes(&self) {
        let now = Instant::now();
        let written = || lock(&self.written).last().is_some_and(|last| *last > now);
        self.cluster.eventually(self.other, "it takes changes while another one is down", written);
    }

    /// Waits until the etcd of the joiner has joined.
    fn follows(&self) {
        // The first one is that of the node alone.
        let log_of_etcd = self.cluster.data(JOINER).join("etcd.2/data/member/wal");
        self.cluster.eventually(JOINER, "its etcd follows", || log_of_etcd.exists());
    }

    fn promote(&self, node: usize, id: &str) -> Result<Answer, ureq::Error> {
        let (_, client) = self.cluster.process(node).ok_or(ureq::Error::ConnectionFailed)?;
        let admin = client.log_in("admin", super::daemon::ADMIN);
        admin.call("POST", &format!("/cluster/members/{id}/promote"), None)
    }

    fn promote_for_a_moment(&self, node: usize, id: &str) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2)
            && !self.promote(node, id).is_ok_and(|answer| answer.status == 204)
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Promotes the learner at the other member, or removes it if it does not follow. A node that was killed before it had
    /// begun to join never does.
    fn resolve(&self, id: &str) -> End {
        let begun = Instant::now();
        loop {
            let found = self.member(id);
            match found.map(|member| member["learner"] == true) {
                Some(false) => return End::Member,
                None => return End::OldNode,
                Some(true) if begun.elapsed() > Duration::from_secs(25) => {
                    self.remove(id);
                    return End::OldNode;
                }
                // Whatever it is answered, the list tells.
                Some(true) => drop(self.promote(self.other, id)),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The member with this id.
    fn member(&self, id: &str) -> Option<Value> {
        let admin = self.cluster.admin(self.other);
        let mut list = Value::Null;
        self.cluster.eventually(self.other, "it lists the members", || {
            let Ok(answer) = admin.call("GET", "/cluster/members", None) else { return false };
            list = answer.json();
            answer.status == 200
        });
        list.as_array().unwrap().iter().find(|member| member["id"] == id).cloned()
    }

    fn remove(&self, id: &str) {
        let admin = self.cluster.admin(self.other);
        self.cluster.eventually(self.other, "it removes a member", || {
            let answer = admin.call("DELETE", &format!("/cluster/members/{id}"), None);
            answer.is_ok_and(|answer| matches!(answer.status, 204 | 404))
        });
    }

    /// Checks that the joiner has the data of one of the two, and takes changes.
    fn check(&self, end: End) {
        let Self { cluster, .. } = *self;
        let client = cluster.client(JOINER);
        cluster.eventually(JOINER, "it answers", || {
            if client.state() == "Locked" {
                cluster.unlock(JOINER);
            }
            client.state() == "Operational"
        });
        generate(cluster, JOINER, "afterwards");
        let admin = cluster.admin(JOINER);
        let has = |key: &str| {
            let mut status = 0;
            cluster.eventually(JOINER, "it reads", || {
                status = admin.call("GET", &format!("/keys/{key}"), None).map_or(0, |answer| answer.status);
                matches!(status, 200 | 404)
            });
            status == 200
        };
        let expected = (end == End::Member, end == End::OldNode);
        assert_eq!((has(SHARED), has(OWN)), expected, "it has the data of one of the two");
        let elsewhere = cluster.admin(self.other).call("GET", "/keys/afterwards", None).unwrap().status;
        assert_eq!(elsewhere, if end == End::Member { 200 } else { 404 });
        if end == End::Member {
            admin.call("DELETE", "/keys/afterwards", None).unwrap();
        }
    }
}

/// Creates a key.
fn generate(cluster: &Cluster, node: usize, id: &str) {
    let key = json!({ "id": id, "type": "Curve25519", "mechanisms": ["EdDSA_Signature"] });
    let admin = cluster.admin(node);
    cluster.eventually(node, "a key is created", || {
        let answer = admin.call("POST", "/keys/generate", Some(&key));
        // 400: it is there after an attempt of unknown outcome.
        answer.is_ok_and(|answer| matches!(answer.status, 201 | 400))
    });
}
