//! Administrators act while some of them are removed, with their steps interleaved at random.
//!
//! Each act is a future. The store yields before and after each of its calls, so that turns can change at every await;
//! the pool keeps its jobs, so that hashes are slow; and a seeded random source decides whose turn it is. Everything
//! that a store applied is recorded with the act whose turn it was, so the order is known exactly.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use casemate_api::body::config::Ntp;
use casemate_api::{KeyId, KeyType, Mechanism, NamespaceId, Passphrase, Role, UserId};
use pollster::block_on;

use super::*;
use crate::Hsm;
use crate::crypto::material::Material;
use crate::crypto::user_digest::{Digest, Scheme};
use crate::hsm::phase::Operational;
use crate::identity::users::NewUser;
use crate::identity::users::UserAccess;
use crate::keys::{NewId, Properties};
use crate::platform::{DeviceKeeper, Platform};
use crate::rows::key::Mechanisms;
use crate::rows::user::UserRecord;
use crate::runtime::BoxFuture;
use crate::runtime::party::Party;
use crate::runtime::pool::{Job, Pool, Work};
use crate::sim::{Sim, SimRng, SimStore};
use crate::store::{Outcome, Page, Path, Range, Read, Snapshot, Store, StoreError, Txn, Versioned, Watch};

/// Number of interleavings tried, each on a device of its own.
const ROUNDS: u64 = 80;
const ACTS: usize = 9;
const ADMINISTRATORS: [&str; 3] = ["admin", "anna", "bert"];

/// The history of a run: turns are counted, and each belongs to one act.
#[derive(Default)]
struct History {
    turn: AtomicUsize,
    act: AtomicUsize,
    /// Turn and act of everything that was applied to a store.
    applied: Mutex<Vec<(usize, usize)>>,
}

impl History {
    fn now(&self) -> usize {
        self.turn.load(Ordering::SeqCst)
    }

    /// When `act` first changed something.
    fn wrote(&self, act: usize) -> Option<usize> {
        self.applied.lock().unwrap().iter().find(|(_, by)| *by == act).map(|(turn, _)| *turn)
    }
}

/// A store that yields before and after each call.
struct YieldingStore(Arc<SimStore>, Arc<History>);

/// Yields once.
async fn yield_once() {
    let mut asked = false;
    std::future::poll_fn(|_| if std::mem::replace(&mut asked, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

impl Store for YieldingStore {
    fn get<'a>(&'a self, path: &'a Path, read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        Box::pin(async move {
            yield_once().await;
            let found = self.0.get(path, read).await;
            yield_once().await;
            found
        })
    }
    fn is_shared(&self) -> bool {
        self.0.is_shared()
    }
    fn get_many<'a>(
        &'a self,
        paths: &'a [Path],
        read: Read,
    ) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>> {
        Box::pin(async move {
            yield_once().await;
            self.0.get_many(paths, read).await
        })
    }
    fn range(&self, range: Range, read: Read) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            yield_once().await;
            self.0.range(range, read).await
        })
    }
    fn commit(&self, txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        Box::pin(async move {
            yield_once().await;
            let outcomes = self.0.commit(txns).await;
            if outcomes.iter().flatten().any(|outcome| matches!(outcome, Outcome::Committed(_))) {
                let by = self.1.act.load(Ordering::SeqCst);
                self.1.applied.lock().unwrap().push((self.1.now(), by));
            }
            yield_once().await;
            outcomes
        })
    }
    fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        self.0.watch(prefix, from)
    }
    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
        self.0.snapshot()
    }
}

/// Keeps jobs until the test runs one.
#[derive(Default)]
struct HeldJobs(Mutex<Vec<Job>>);

impl Pool for HeldJobs {
    fn spawn(&self, _: Work, _: Party, job: Job) {
        self.0.lock().unwrap().push(job);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    DeleteUser(&'static str),
    SetPassphrase(&'static str),
    CreateUser,
    CreateNamespace,
    DeleteNamespace,
    CreateKey,
    DeleteKey,
    Configure,
    BootUnattended,
    Tag,
}

/// One act: by whom, what, when the caller was authenticated, and when it had found its target.
struct Record {
    by: &'static str,
    act: Act,
    authenticated: AtomicUsize,
    found: AtomicUsize,
    result: Mutex<Option<Result<(), Error>>>,
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn key() -> KeyId {
    KeyId::parse("k").unwrap()
}

async fn carry_out(op: &Operational, number: usize, record: &Record, history: &History) -> Result<(), Error> {
    let caller = op.unauthenticated_caller(&user(record.by)).await.map_err(|_| Error::Unauthenticated)?;
    record.authenticated.store(history.now(), Ordering::SeqCst);
    record.found.store(history.now(), Ordering::SeqCst);
    yield_once().await;
    let passphrase = || Passphrase::from_text(format!("passphrase {number}"));
    let name = format!("n{number}");
    match &record.act {
        Act::DeleteUser(other) => {
            let target = op.users().reach(&caller, user(other), UserAccess::Manage).await?;
            op.users().delete(&caller, &target).await
        }
        Act::SetPassphrase(other) => {
            let target = op.users().reach(&caller, user(other), UserAccess::Passphrase).await?;
            op.users().set_passphrase(&caller, &target, &passphrase()).await
        }
        Act::CreateUser => {
            let target = op.users().reach(&caller, user(&name), UserAccess::Manage).await?;
            let new = NewUser { real_name: String::new(), role: Role::Administrator, passphrase: passphrase() };
            op.users().create(&caller, &target, new).await
        }
        Act::CreateNamespace => op.namespaces().create(&caller, &NamespaceId::parse("ns").unwrap()).await,
        Act::DeleteNamespace => {
            let id = NamespaceId::parse("ns").unwrap();
            let row = op.namespaces().get(&id).await?.ok_or_else(Error::not_found)?;
            record.found.store(history.now(), Ordering::SeqCst);
            op.namespaces().delete(&caller, &id, row.record.number).await
        }
        Act::CreateKey => {
            let material = Material::generate(KeyType::Curve25519, 0, &*op.device.platform.rng)?;
            let properties = Properties::new(Mechanisms::of(&[Mechanism::EdDSA_Signature]), String::new(), Vec::new())?;
            op.keys().managed_by(&caller)?.create(NewId::Given(key()), material, properties).await.map(drop)
        }
        Act::DeleteKey => {
            let keys = op.keys().managed_by(&caller)?;
            let found = keys.get(&key()).await?.ok_or_else(Error::not_found)?;
            record.found.store(history.now(), Ordering::SeqCst);
            yield_once().await;
            keys.delete(&found).await
        }
        Act::Configure => op.config().set_ntp(&caller, &Ntp { ntp_ip: None, nts_name: Some(name) }).await,
        Act::BootUnattended => op.set_unattended_boot(&caller, number.is_multiple_of(2)).await,
        Act::Tag => {
            let target = op.users().reach(&caller, user("operator"), UserAccess::Manage).await?;
            op.users().add_tag(&caller, &target, &name).await.map(drop)
        }
    }
}

type Rows = Vec<(Path, Vec<u8>)>;

/// The rows of a device that boots unattended, with its Administrators and an Operator.
fn device() -> Sim {
    static WORLD: OnceLock<[Rows; 2]> = OnceLock::new();
    let [shared, local] = WORLD.get_or_init(|| {
        let sim = Sim::new(1);
        sim.device.load().unwrap();
        let hsm = block_on(Hsm::boot(sim.platform())).unwrap();
        let secret = |text: &str| Passphrase::from_text(text.into());
        block_on(hsm.provision(secret("unlock passphrase"), secret("admin passphrase"), "2030-01-01T00:00:00Z"))
            .unwrap();
        let op = hsm.operational().unwrap();
        let admin = block_on(op.unauthenticated_caller(&user("admin"))).unwrap();
        block_on(op.set_unattended_boot(&admin, true)).unwrap();
        let names = [("anna", Role::Administrator), ("bert", Role::Administrator), ("operator", Role::Operator)];
        for (salt, (name, role)) in (1..).zip(names) {
            let digest = Digest { scheme: Scheme::Scrypt, salt: [salt; 16], hash: [salt; 32] };
            let record = UserRecord { real_name: name.into(), role, digest, tags: BTreeSet::new() };
            let path = RowPath::user(op.tables.generation, &user(name));
            let row = op.tables.users.sealed(&path, Revision::default(), &record).unwrap();
            block_on(op.tables.commit(Transaction::default().put(row))).unwrap();
        }
        [sim.store.raw_rows(), sim.local.raw_rows()]
    });
    let sim = Sim::new(1);
    sim.device.load().unwrap();
    shared.iter().for_each(|(path, value)| sim.store.tamper(path.clone(), value.clone()));
    local.iter().for_each(|(path, value)| sim.local.tamper(path.clone(), value.clone()));
    sim
}

fn some_act(chance: &SimRng) -> Act {
    let somebody = |chance: &SimRng| ADMINISTRATORS[chance.below(3) as usize];
    match chance.below(16) {
        0..4 => Act::DeleteUser(somebody(chance)),
        4 => Act::SetPassphrase(somebody(chance)),
        5 => Act::CreateUser,
        6 => Act::CreateNamespace,
        7 => Act::DeleteNamespace,
        8 | 9 => Act::CreateKey,
        10 | 11 => Act::DeleteKey,
        12 => Act::Configure,
        13 => Act::BootUnattended,
        _ => Act::Tag,
    }
}

struct Played {
    records: Vec<Arc<Record>>,
    history: Arc<History>,
    /// The remaining Administrators.
    left: Vec<&'static str>,
}

/// Runs one interleaving of one set of acts.
fn play(seed: u64) -> Played {
    let (sim, chance, history) = (device(), SimRng::new(seed), Arc::new(History::default()));
    let pool = Arc::new(HeldJobs::default());
    let store = Arc::new(YieldingStore(sim.store.clone(), history.clone()));
    let local = Arc::new(YieldingStore(sim.local.clone(), history.clone()));
    let hsm = block_on_yielding(Hsm::boot(Platform { store, local, pool: pool.clone(), ..sim.platform() })).unwrap();
    let op = hsm.operational().unwrap();
    history.applied.lock().unwrap().clear();
    let records: Vec<_> = (0..ACTS)
        .map(|_| {
            Arc::new(Record {
                by: ADMINISTRATORS[chance.below(3) as usize],
                act: some_act(&chance),
                authenticated: AtomicUsize::new(0),
                found: AtomicUsize::new(0),
                result: Mutex::default(),
            })
        })
        .collect();
    type Running<'a> = (usize, Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>);
    let begin = |(number, record)| -> Running<'_> { (number, Box::pin(carry_out(&op, number, record, &history))) };
    let mut running: Vec<Running<'_>> = records.iter().map(|record| &**record).enumerate().map(begin).collect();
    let mut context = Context::from_waker(Waker::noop());
    while !running.is_empty() {
        history.turn.fetch_add(1, Ordering::SeqCst);
        let turn = chance.below(running.len() as u64 + 1) as usize;
        let Some((number, act)) = running.get_mut(turn) else {
            let job = {
                let mut jobs = pool.0.lock().unwrap();
                if jobs.is_empty() { None } else { Some(jobs.remove(0)) }
            };
            job.into_iter().for_each(|job| job());
            continue;
        };
        history.act.store(*number, Ordering::SeqCst);
        if let Poll::Ready(result) = act.as_mut().poll(&mut context) {
            *records[*number].result.lock().unwrap() = Some(result);
            drop(running.swap_remove(turn));
        }
    }
    drop(running);
    let is_left = |name: &&str| block_on_yielding(op.user(&user(name))).unwrap().is_some();
    let left = ADMINISTRATORS.into_iter().filter(is_left).collect();
    Played { records, history, left }
}

/// Drives a future that yields without waking anybody.
fn block_on_yielding<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
}

#[test]
fn no_right_outlives_its_owner_and_no_act_undoes_what_it_never_saw() {
    let mut refused = 0;
    let mut done = 0;
    for seed in 0..ROUNDS {
        let Played { records, history, left } = play(seed);
        assert!(!left.is_empty(), "seed {seed}: no Administrator is left");
        let of = |wanted: &dyn Fn(&Act) -> bool| -> Vec<usize> {
            let acts = records.iter().enumerate().filter(|(_, record)| wanted(&record.act));
            acts.filter_map(|(number, _)| history.wrote(number)).collect()
        };
        for (number, record) in records.iter().enumerate() {
            let result = record.result.lock().unwrap();
            let say = || format!("seed {seed}, act {number}: {} {:?} {result:?}", record.by, record.act);
            let Some(wrote) = history.wrote(number) else {
                assert!(!matches!(*result, Some(Ok(()))), "it was answered as done and did nothing: {}", say());
                refused += usize::from(matches!(*result, Some(Err(Error::Unauthenticated))));
                continue;
            };
            done += 1;
            assert!(matches!(*result, Some(Ok(()))), "it was refused but carried out: {}", say());
            let (authenticated, found) =
                (record.authenticated.load(Ordering::SeqCst), record.found.load(Ordering::SeqCst));
            let between = |since: usize, turns: Vec<usize>| turns.into_iter().any(|turn| since < turn && turn < wrote);
            let gone = of(&|act| *act == Act::DeleteUser(record.by));
            assert!(!between(authenticated, gone), "its owner was deleted before: {}", say());
            let changed = of(&|act| *act == Act::SetPassphrase(record.by));
            assert!(!between(authenticated, changed), "its owner's passphrase was changed before: {}", say());
            let made = match record.act {
                Act::DeleteKey => of(&|act| *act == Act::CreateKey),
                Act::DeleteNamespace => of(&|act| *act == Act::CreateNamespace),
                _ => Vec::new(),
            };
            assert!(!between(found, made), "it deleted what was created after it had looked: {}", say());
        }
    }
    // Otherwise the test has not covered its subject.
    assert!(refused > 10 && done > 150, "{refused} were refused, {done} were done");
}
