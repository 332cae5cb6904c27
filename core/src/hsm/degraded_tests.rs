//! A node that goes on without a majority, if it is set to.

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use casemate_api::body::config::WithoutMajority;
use casemate_api::limits::{STORE_AWAY_S, STORE_BEAT_MS, STORE_STALE_AFTER_MS};
use casemate_api::{NamespaceId, Passphrase, State, UserId};
use pollster::block_on;

use super::Hsm;
use crate::error::Error;
use crate::hsm::phase::Operational;
use crate::identity::caller::{Caller, Denied, Evidence, Failure};
use crate::platform::{DeviceKeeper, Platform};
use crate::rows::namespace::NamespaceRecord;
use crate::rows::path::{RowPath, generation_pointer};
use crate::rows::tables::Tables;
use crate::rows::transaction::Transaction;
use crate::runtime::Clock;
use crate::runtime::stale::{Tolerance, within};
use crate::sim::{Sim, SimLink};
use crate::store::switch::Switch;
use crate::store::{Event, Revision};

const MAX_S: u32 = 600;
const MS: Duration = Duration::from_millis(1);
const DEGRADED: WithoutMajority = WithoutMajority::Degraded { max_stale_seconds: MAX_S };

/// A node with all rows of the store that it shares with [`Rig::other`].
struct Rig {
    sim: Sim,
    link: Arc<SimLink>,
    hsm: Arc<Hsm>,
    other: Tables,
    watching: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Rig {
    /// Confirmed just now.
    fn new(setting: WithoutMajority) -> Self {
        let mut rig = Self::with(SimLink::with_own_copy);
        let op = rig.op();
        block_on(op.config().set_without_majority(&rig.admin(), setting)).unwrap();
        create(&rig.other, "ns");
        rig.turn();
        rig.pass(Duration::from_millis(2 * STORE_BEAT_MS));
        rig
    }

    fn with(link: impl FnOnce(SimLink) -> SimLink) -> Self {
        let sim = Sim::new(1);
        sim.store.share(true);
        sim.device.load().unwrap();
        let link = Arc::new(link(SimLink::new(sim.store.clone(), sim.clock.clone(), 1)));
        let switch = Switch::new(link.clone());
        let platform = Platform { store: switch.clone(), switch, ..sim.platform() };
        let hsm = block_on(Hsm::boot(platform)).unwrap();
        let secret = |text: &str| Passphrase::from_text(text.into());
        block_on(hsm.provision(secret("unlock passphrase"), secret("admin passphrase"), "2026-01-01T00:00:00Z"))
            .unwrap();
        let op = hsm.operational().unwrap();
        let other = Tables::open(sim.store.clone(), sim.rng.clone(), sim.clock.clone(), op.domain(), "OTHER");
        let other = block_on(other).unwrap();
        let watching = Box::pin(hsm.clone().keep_watching());
        Self { sim, link, hsm, other, watching }
    }

    fn op(&self) -> Arc<Operational> {
        self.hsm.operational().unwrap()
    }

    fn admin(&self) -> Caller {
        block_on(self.op().unauthenticated_caller(&UserId::parse("admin").unwrap())).unwrap()
    }

    /// Lets the node follow the store as far as it can without time.
    fn turn(&mut self) {
        for _ in 0..100 {
            assert!(self.watching.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.sim.clock.monotonic() + time;
        while self.sim.clock.monotonic() < until {
            let left = until - self.sim.clock.monotonic();
            self.sim.clock.advance(left.min(Duration::from_millis(STORE_BEAT_MS)));
            self.turn();
        }
    }

    /// Cuts the node off, whose last confirmation is `age` old then.
    fn cut(&mut self, age: Duration) {
        self.link.cut(true);
        self.link.lose_watches();
        self.turn();
        self.pass(age - self.age());
    }

    fn heal(&mut self) {
        self.link.cut(false);
        // Until then no watch is tried again, and a beat later it is confirmed.
        self.pass(Duration::from_millis(1_000 + 2 * STORE_BEAT_MS));
    }

    /// How old the last confirmation is.
    fn age(&self) -> Duration {
        self.hsm.store_report().confirmed.unwrap().0
    }

    /// What a request that may be answered by the node alone gets: for how long it had not been confirmed.
    fn logs_in(&self) -> Result<Duration, Failure> {
        let op = self.op();
        let evidence =
            Evidence::Basic { name: "admin", passphrase: b"admin passphrase", address: Ipv4Addr::LOCALHOST.into() };
        let (caller, age) = block_on(within(Tolerance::OwnData, op.authenticate(evidence)));
        caller.map(|_| age)
    }

    /// Whether such a request finds this namespace, none of which is in the cache at first.
    fn finds(&self, name: &str) -> Result<bool, Error> {
        let op = self.op();
        let id = NamespaceId::parse(name).unwrap();
        block_on(within(Tolerance::OwnData, op.namespaces().get(&id))).0.map(|row| row.is_some())
    }
}

fn create(tables: &Tables, name: &str) {
    let path = RowPath::namespace(tables.generation, &NamespaceId::parse(name).unwrap());
    let row = tables.namespaces.sealed(&path, Revision::default(), &NamespaceRecord::new(9)).unwrap();
    block_on(tables.commit(Transaction::default().put(row))).unwrap();
}

fn fails<T>(result: Result<T, Failure>) -> bool {
    matches!(result, Err(Failure::Error(Error::Unavailable(_))))
}

#[test]
fn a_node_goes_on_up_to_the_limit_and_no_longer_and_is_failed_then() {
    let mut rig = Rig::new(DEGRADED);
    block_on(rig.hsm.probe());
    assert_eq!(rig.logs_in().unwrap(), Duration::ZERO, "it is confirmed");
    rig.cut(Duration::from_secs(5));
    assert_eq!(rig.logs_in().unwrap(), Duration::from_secs(5));
    assert!(rig.finds("ns").unwrap() && !rig.finds("none").unwrap());
    for before in [1_000, 1] {
        rig.pass(Duration::from_secs(MAX_S.into()) - before * MS - rig.age());
        assert_eq!(rig.logs_in().unwrap(), rig.age());
        assert!(rig.finds("ns").unwrap());
        block_on(rig.hsm.probe());
        assert_eq!(rig.hsm.state(), State::Operational);
    }
    rig.pass(MS);
    assert_eq!((rig.age().as_secs(), rig.hsm.stale()), (MAX_S.into(), None));
    assert!(fails(rig.logs_in()) && rig.finds("ns").is_err());
    block_on(rig.hsm.probe());
    assert_eq!(rig.hsm.state(), State::Failed);

    rig.heal();
    block_on(rig.hsm.probe());
    rig.pass(Duration::from_millis(2 * STORE_BEAT_MS));
    assert_eq!((rig.hsm.state(), rig.logs_in().unwrap()), (State::Operational, Duration::ZERO));
}

#[test]
fn a_strict_node_serves_nothing_from_a_second_on_and_is_failed_after_a_minute() {
    let mut rig = Rig::new(WithoutMajority::Strict {});
    block_on(rig.hsm.probe());
    assert!(rig.logs_in().is_ok());
    rig.link.cut(true);
    rig.pass(Duration::from_millis(1_000) - rig.age());
    for _ in 0..10 {
        assert!(fails(rig.logs_in()) && rig.finds("ns").is_err(), "after {:?}", rig.age());
        rig.pass(Duration::from_secs(1));
    }
    assert_eq!(rig.hsm.stale(), None);
    rig.pass(Duration::from_secs(STORE_AWAY_S.into()));
    block_on(rig.hsm.probe());
    assert_eq!(rig.hsm.state(), State::Failed);
}

#[test]
fn who_asks_before_it_is_certain_that_there_is_no_majority_is_answered_when_it_is() {
    let mut rig = Rig::new(DEGRADED);
    rig.cut(Duration::from_secs(2));
    let (op, id) = (rig.op(), NamespaceId::parse("ns").unwrap());
    let namespaces = op.namespaces();
    let mut asking = pin!(within(Tolerance::OwnData, namespaces.get(&id)));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..100 {
        assert!(asking.as_mut().poll(&mut context).is_pending());
    }
    rig.pass(Duration::from_millis(STORE_STALE_AFTER_MS) - rig.age());
    let Poll::Ready((Ok(Some(_)), age)) = asking.as_mut().poll(&mut context) else { panic!("it is not answered") };
    assert_eq!(age, Duration::from_millis(STORE_STALE_AFTER_MS));
}

#[test]
fn what_is_no_use_of_keys_fails() {
    let mut rig = Rig::new(DEGRADED);
    let (op, admin) = (rig.op(), rig.admin());
    rig.cut(Duration::from_secs(10));
    assert_eq!(op.stale(), Some(Duration::from_secs(10)));
    let unavailable = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
    unavailable(block_on(op.namespaces().create(&admin, &NamespaceId::parse("new").unwrap())));
    unavailable(block_on(op.config().set_without_majority(&admin, WithoutMajority::Strict {})));
    unavailable(block_on(op.set_unattended_boot(&admin, true)));
    unavailable(block_on(op.hold(&admin)).map(drop));
    // Even if it were mistaken for one: nothing is written to the copy.
    let id = NamespaceId::parse("new").unwrap();
    unavailable(block_on(within(Tolerance::OwnData, op.namespaces().create(&admin, &id))).0);
    rig.heal();
    block_on(rig.op().namespaces().create(&rig.admin(), &id)).unwrap();
}

#[test]
fn a_user_who_was_deleted_elsewhere_is_refused_after_the_heal_and_after_the_limit_at_the_latest() {
    for heals in [true, false] {
        let mut rig = Rig::new(DEGRADED);
        assert!(rig.logs_in().is_ok());
        rig.cut(Duration::from_secs(4));
        let path = RowPath::user(rig.other.generation, &UserId::parse("admin").unwrap());
        block_on(rig.other.commit(Transaction::default().delete(&path))).unwrap();
        assert!(rig.logs_in().is_ok(), "it cannot know");
        if heals {
            rig.heal();
            let refused = rig.logs_in();
            assert!(matches!(refused, Err(Failure::Denied(Denied::Unauthenticated))), "{refused:?}");
        } else {
            rig.pass(Duration::from_secs(MAX_S.into()) - rig.age());
            assert!(fails(rig.logs_in()));
        }
    }
}

#[test]
fn a_setting_that_was_changed_counts_before_it_is_read() {
    let mut rig = Rig::new(DEGRADED);
    let path = RowPath::without_majority(rig.other.generation);
    let row = crate::rows::without_majority::WithoutMajority { stale_max_s: 0 };
    let row = rig.other.without_majority.sealed(&path, Revision::default(), &row).unwrap();
    block_on(rig.other.commit(Transaction::default().put(row))).unwrap();
    // The watch tells, and there is no beat any more.
    rig.turn();
    rig.cut(Duration::from_secs(10));
    assert_eq!(rig.hsm.stale(), None);
    assert!(fails(rig.logs_in()));
}

#[test]
fn the_setting_is_known_again_after_a_watch_was_lost() {
    let mut rig = Rig::new(DEGRADED);
    rig.link.lose_watches();
    rig.turn();
    rig.cut(Duration::from_secs(10));
    assert!(rig.logs_in().is_ok(), "it is as of the last confirmation");
    let path = RowPath::without_majority(rig.other.generation);
    let row = crate::rows::without_majority::WithoutMajority { stale_max_s: 20 };
    let row = rig.other.without_majority.sealed(&path, Revision::default(), &row).unwrap();
    block_on(rig.other.commit(Transaction::default().put(row))).unwrap();
    rig.heal();
    rig.cut(Duration::from_millis(19_999));
    assert!(rig.logs_in().is_ok());
    rig.pass(MS);
    assert!(fails(rig.logs_in()));
}

#[test]
fn a_node_ends_at_once_when_its_data_is_replaced_or_its_phase_closed() {
    let mut rig = Rig::new(DEGRADED);
    assert!(rig.logs_in().is_ok());
    rig.cut(Duration::from_secs(10));
    let op = rig.op();
    assert!(op.stale().is_some());
    let moved = Event::Changed { path: generation_pointer(), revision: Revision(1 << 30) };
    op.tables.apply_event(&moved);
    assert_eq!(op.stale(), None);
    assert!(fails(rig.logs_in()));

    let mut rig = Rig::new(DEGRADED);
    let admin = rig.admin();
    rig.cut(Duration::from_secs(10));
    let (op, id) = (rig.op(), NamespaceId::parse("ns").unwrap());
    let mut locking = pin!(rig.hsm.lock(rig.op(), &admin));
    let mut context = Context::from_waker(Waker::noop());
    // It waits for this holder of the phase, and some seconds for the store.
    for _ in 0..8 {
        if locking.as_mut().poll(&mut context).is_ready() {
            break;
        }
        rig.sim.clock.advance(Duration::from_secs(5));
    }
    assert_eq!(rig.hsm.state(), State::Locked);
    assert!(block_on(within(Tolerance::OwnData, op.namespaces().get(&id))).0.is_err());
}

#[test]
fn a_copy_from_before_the_last_confirmation_is_not_used() {
    let mut rig = Rig::new(DEGRADED);
    rig.cut(Duration::from_secs(10));
    assert!(rig.logs_in().is_ok());
    rig.link.lose_latest_of_copy();
    // Its etcd has lost power, and with it the connection of the watch.
    rig.op().tables.apply_event(&Event::Lost);
    assert!(fails(rig.logs_in()) && rig.finds("ns").is_err());
}

#[test]
fn a_node_without_a_copy_of_its_own_is_strict() {
    let mut rig = Rig::with(|link| link);
    let (op, admin) = (rig.op(), rig.admin());
    let refused = block_on(op.config().set_without_majority(&admin, DEGRADED));
    assert!(matches!(&refused, Err(Error::Precondition(why)) if why.contains("no etcd of its own")), "{refused:?}");
    // A member has set it.
    let path = RowPath::without_majority(rig.other.generation);
    let row = crate::rows::without_majority::WithoutMajority { stale_max_s: MAX_S };
    let row = rig.other.without_majority.sealed(&path, Revision::default(), &row).unwrap();
    block_on(rig.other.commit(Transaction::default().put(row))).unwrap();
    rig.turn();
    rig.pass(Duration::from_secs(1));
    assert_eq!(block_on(op.config().without_majority()).unwrap(), DEGRADED);
    block_on(op.config().set_without_majority(&admin, WithoutMajority::Strict {})).unwrap();
    assert!(rig.logs_in().is_ok());
    rig.cut(Duration::from_secs(10));
    assert!(fails(rig.logs_in()));
}

#[test]
fn the_audit_log_has_its_beginning_and_its_end() {
    let mut rig = Rig::new(DEGRADED);
    let tell = |rig: &Rig| {
        rig.hsm.tell_stale();
        rig.hsm.tell_stale();
    };
    tell(&rig);
    rig.cut(Duration::from_secs(10));
    tell(&rig);
    rig.pass(Duration::from_secs(200));
    tell(&rig);
    rig.heal();
    tell(&rig);
    let log = block_on(async {
        let mut export = rig.hsm.audit.export(None, None).await.unwrap();
        let mut text = String::new();
        while let Some(lines) = rig.hsm.audit.page(&mut export).await.unwrap() {
            text.push_str(&lines);
        }
        text
    });
    let told: Vec<&str> = log.lines().filter(|line| line.contains("without a majority")).collect();
    assert!(matches!(told[..], [begins, ends] if begins.contains("begins") && ends.contains("ends")), "{told:?}");
}

#[test]
fn an_old_setting_is_not_in_force_again_when_the_hsm_comes_back_from_failed() {
    let mut rig = Rig::new(DEGRADED);
    block_on(rig.hsm.probe());
    rig.cut(Duration::from_secs(u64::from(MAX_S) + 1));
    block_on(rig.hsm.probe());
    assert_eq!(rig.hsm.state(), State::Failed);
    let path = RowPath::without_majority(rig.other.generation);
    let row = crate::rows::without_majority::WithoutMajority { stale_max_s: 0 };
    let row = rig.other.without_majority.sealed(&path, Revision::default(), &row).unwrap();
    block_on(rig.other.commit(Transaction::default().put(row))).unwrap();
    rig.heal();
    block_on(rig.hsm.probe());
    assert_eq!(rig.hsm.state(), State::Operational);
    // Cut off again before there was another beat.
    rig.link.cut(true);
    rig.link.lose_watches();
    rig.pass(Duration::from_secs(10));
    assert_eq!(rig.hsm.stale(), None);
    assert!(fails(rig.logs_in()));
}

#[test]
fn while_the_majority_answers_its_answers_are_used_however_late_the_watch_is() {
    let mut rig = Rig::new(DEGRADED);
    rig.link.lag(true);
    rig.pass(Duration::from_secs(10));
    assert_eq!(rig.hsm.stale(), None);
    create(&rig.other, "new");
    assert!(rig.finds("new").unwrap());
    assert_eq!(rig.logs_in().unwrap(), Duration::ZERO);
}
