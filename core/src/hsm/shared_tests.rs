//! The HSM on a store that other nodes share.

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use casemate_api::limits::{LOCK_WAIT_MS, STORE_AWAY_S, STORE_BEAT_MS, STORE_CONFIRMED_MS};
use casemate_api::{NamespaceId, Passphrase, State, UserId};
use pollster::block_on;

use super::{BootError, Hsm};
use crate::crypto::secret::DomainKey;
use crate::error::Error;
use crate::platform::DeviceKeeper;
use crate::rows::namespace::NamespaceRecord;
use crate::rows::path::{RowPath, cluster_identity, generation_pointer, node_fence};
use crate::rows::table::{RowKey, SealedRow};
use crate::rows::tables::Tables;
use crate::rows::transaction::Transaction;
use crate::rows::user::UserRecord;
use crate::sim::Sim;
use crate::store::{Expect, Path, Read, Revision, Store, Txn};

fn sim(seed: u64) -> Sim {
    let sim = Sim::new(seed);
    sim.store.share(true);
    sim.device.load().unwrap();
    sim
}

fn secret(text: &str) -> Passphrase {
    Passphrase::from_text(text.into())
}

fn boot(sim: &Sim) -> Arc<Hsm> {
    block_on(Hsm::boot(sim.platform())).unwrap()
}

fn provision(hsm: &Hsm) -> Result<(), Error> {
    block_on(hsm.provision(secret("unlock passphrase"), secret("admin passphrase"), "2026-01-01T00:00:00Z"))
}

fn unlock(hsm: &Hsm) -> Result<(), Error> {
    block_on(hsm.unlock(Ipv4Addr::LOCALHOST.into(), &secret("unlock passphrase")))
}

/// Tables of another node, opened with the Domain Key of `hsm`.
fn other_node(sim: &Sim, hsm: &Hsm) -> Tables {
    let op = hsm.operational().unwrap();
    block_on(Tables::open(sim.store.clone(), sim.rng.clone(), sim.clock.clone(), op.domain(), "OTHER")).unwrap()
}

fn namespace(tables: &Tables, name: &str) -> RowPath<NamespaceRecord> {
    RowPath::namespace(tables.generation, &NamespaceId::parse(name).unwrap())
}

fn create(tables: &Tables, name: &str) {
    let path = namespace(tables, name);
    let row = tables.namespaces.sealed(&path, Revision::default(), &NamespaceRecord::new(9)).unwrap();
    block_on(tables.commit(Transaction::default().put(row))).unwrap();
}

fn delete(tables: &Tables, name: &str) {
    block_on(tables.commit(Transaction::default().delete(&namespace(tables, name)))).unwrap();
}

fn exists(hsm: &Hsm, name: &str) -> bool {
    block_on(hsm.operational().unwrap().namespaces().get(&NamespaceId::parse(name).unwrap())).unwrap().is_some()
}

fn misses(hsm: &Hsm) -> u64 {
    hsm.operational().unwrap().tables.namespaces.cache_figures("").misses
}

#[test]
fn a_store_that_holds_rows_is_not_provisioned_and_nothing_in_it_is_removed() {
    for path in [generation_pointer(), Path(b"\x01\0\0\0\x01\x01x".as_slice().into()), Path(b"\0a".as_slice().into())] {
        let sim = sim(1);
        sim.store.tamper(path.clone(), b"precious".to_vec());
        sim.store.tamper(node_fence("SOMEBODY"), b"fence".to_vec());
        let hsm = boot(&sim);
        let error = provision(&hsm).unwrap_err();
        assert!(matches!(&error, Error::Precondition(why) if why.contains("already holds")), "{error}");
        assert_eq!(hsm.state(), State::Unprovisioned);
        assert!(sim.store.raw_rows().contains(&(path, b"precious".to_vec())));
    }
}

#[test]
fn of_two_nodes_that_are_provisioned_at_once_one_founds_the_cluster() {
    for seed in 0..12 {
        let first = sim(seed);
        let second = Sim { store: first.store.clone(), ..sim(seed + 1000) };
        let (a, b) = (boot(&first), boot(&second));
        first.store.delay_lost(true);
        first.store.lose_answers(1 + seed as usize % 3);
        let outcomes = [provision(&a), provision(&b)];
        first.store.lose_answers(0);
        first.store.deliver_late();
        let founded = [&a, &b].into_iter().filter(|hsm| hsm.state() == State::Operational).count();
        assert!(founded <= 1, "seed {seed}: {outcomes:?}");
        if let Some(hsm) = [&a, &b].into_iter().find(|hsm| hsm.state() == State::Operational) {
            block_on(hsm.operational().unwrap().unauthenticated_caller(&UserId::parse("admin").unwrap())).unwrap();
        }
    }
}

#[test]
fn an_interrupted_provisioning_is_undone_without_touching_what_others_wrote() {
    let sim = sim(1);
    let hsm = boot(&sim);
    // The local store is gone when the slots are to be written.
    let (store, local) = (sim.store.clone(), sim.local.clone());
    sim.local.delay(move || {
        local.fail(store.raw_rows().iter().any(|(path, _)| *path == cluster_identity()));
        Box::pin(std::future::ready(()))
    });
    provision(&hsm).unwrap_err();
    sim.local.no_delay();
    sim.local.fail(false);
    assert!(sim.store.raw_rows().iter().any(|(path, _)| *path == generation_pointer()));
    sim.store.tamper(node_fence("SOMEBODY"), b"fence".to_vec());
    drop(hsm);
    let hsm = boot(&sim);
    assert_eq!(hsm.state(), State::Unprovisioned);
    let left: Vec<Path> = sim.store.raw_rows().into_iter().map(|(path, _)| path).collect();
    assert!(left.iter().all(|path| path.as_bytes().starts_with(b"\0fence/")), "{left:?}");
    provision(&hsm).unwrap();
}

#[test]
fn an_undo_does_not_remove_the_cluster_of_another_node() {
    let first = sim(1);
    let a = boot(&first);
    provision(&a).unwrap();
    let before = first.store.raw_rows();
    // A node with a note of its own provisioning, whose rows were never written.
    let second = Sim { store: first.store.clone(), ..sim(2) };
    let b = boot(&second);
    first.store.fail(true);
    provision(&b).unwrap_err();
    first.store.fail(false);
    drop(b);
    assert_eq!(boot(&second).state(), State::Unprovisioned);
    let after = first.store.raw_rows();
    assert!(before.iter().all(|row| after.contains(row)));
}

#[test]
fn cached_rows_are_used_only_while_confirmed() {
    let sim = sim(1);
    let hsm = boot(&sim);
    provision(&hsm).unwrap();
    let other = other_node(&sim, &hsm);
    create(&other, "ns");
    let watcher = hsm.clone();
    let mut watching = pin!(watcher.keep_watching());
    let mut turn = || assert!(watching.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let cached = || {
        let before = misses(&hsm);
        assert!(exists(&hsm, "ns"));
        misses(&hsm) == before
    };
    assert!(!cached() && !cached(), "nothing was confirmed yet");
    turn();
    assert!(!cached(), "the watch has emptied the cache");
    assert!(cached());
    // Without a word from the store it holds for a second from the question.
    sim.store.fail(true);
    let step = Duration::from_millis(STORE_BEAT_MS);
    for _ in 0..STORE_CONFIRMED_MS / STORE_BEAT_MS - 1 {
        sim.clock.advance(step);
        turn();
        assert!(cached());
    }
    sim.clock.advance(step);
    turn();
    let answer = block_on(hsm.operational().unwrap().namespaces().get(&NamespaceId::parse("ns").unwrap()));
    assert!(matches!(answer, Err(Error::Unavailable(_))), "a cached row was used although nothing was confirmed");
    sim.store.fail(false);
    sim.clock.advance(step);
    turn();
    assert!(cached(), "confirmed again, and nothing has changed");
    // A change elsewhere.
    delete(&other, "ns");
    turn();
    assert!(!exists(&hsm, "ns"));
}

/// A clock that runs while the machine is suspended shows that the caches are old.
#[test]
fn a_node_that_was_suspended_uses_nothing_cached() {
    let sim = sim(1);
    let hsm = boot(&sim);
    provision(&hsm).unwrap();
    let other = other_node(&sim, &hsm);
    create(&other, "ns");
    let watcher = hsm.clone();
    let mut watching = pin!(watcher.keep_watching());
    let mut turn = || assert!(watching.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    turn();
    assert!(exists(&hsm, "ns") && exists(&hsm, "ns"));
    delete(&other, "ns");
    sim.clock.advance(Duration::from_secs(3600));
    assert!(!exists(&hsm, "ns"), "the watch has not been polled, but the clock tells");
}

#[test]
fn a_restore_at_another_node_opens_the_phase_again() {
    let sim = sim(1);
    let hsm = boot(&sim);
    provision(&hsm).unwrap();
    let watcher = hsm.clone();
    let mut watching = pin!(watcher.keep_watching());
    let mut turn = || assert!(watching.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    turn();
    let old = hsm.operational().unwrap();
    create(&old.tables, "old");
    assert!(exists(&hsm, "old"));
    let path = RowPath::namespace(2, &NamespaceId::parse("new").unwrap());
    let row = old.tables.namespaces.sealed(&path, Revision::default(), &NamespaceRecord::new(3)).unwrap();
    replace_data(&sim, vec![row]);
    let row = old.tables.namespaces.sealed(&namespace(&old.tables, "x"), Revision::default(), &NamespaceRecord::new(4));
    let late = block_on(old.tables.commit(Transaction::default().put(row.unwrap())));
    assert!(matches!(late, Err(Error::Unavailable(_))), "told to try again");
    turn();
    // The old phase waits a little for this reference to it.
    drop(old);
    sim.clock.advance(Duration::from_secs(30));
    turn();
    assert_eq!(hsm.state(), State::Operational);
    assert!(exists(&hsm, "new") && !exists(&hsm, "old"));
}

/// Moves the pointer as a restore at another node does, to a generation with these rows.
fn replace_data(sim: &Sim, rows: Vec<SealedRow>) {
    let pointer = block_on(sim.store.get(&generation_pointer(), Read::Fresh)).unwrap().unwrap().revision;
    let rows = rows.into_iter().map(SealedRow::into_parts);
    let moved = Txn {
        expect: vec![(generation_pointer(), Expect::At(pointer))],
        put: rows.chain([(generation_pointer(), 2u32.to_be_bytes().to_vec())]).collect(),
        ..Txn::default()
    };
    block_on(sim.store.commit(vec![moved])).unwrap();
}

#[test]
fn a_node_can_be_locked_while_replaced_data_cannot_be_opened() {
    let sim = sim(1);
    let hsm = boot(&sim);
    provision(&hsm).unwrap();
    let op = hsm.operational().unwrap();
    let admin = block_on(op.unauthenticated_caller(&UserId::parse("admin").unwrap())).unwrap();
    let watcher = hsm.clone();
    let mut watching = pin!(watcher.keep_watching());
    let mut context = Context::from_waker(Waker::noop());
    assert!(watching.as_mut().poll(&mut context).is_pending());
    replace_data(&sim, Vec::new());
    // The store does not answer, from when the phase is being opened.
    let (pointer, asked) = (sim.store.clone(), sim.store.gets());
    sim.store.delay(move || match pointer.gets() > asked {
        true => Box::pin(std::future::pending()),
        false => Box::pin(std::future::ready(())),
    });
    assert!(watching.as_mut().poll(&mut context).is_pending());
    let mut locking = pin!(hsm.lock(op, &admin));
    for _ in 0..8 {
        assert!(watching.as_mut().poll(&mut context).is_pending());
        if locking.as_mut().poll(&mut context).is_ready() {
            break;
        }
        sim.clock.advance(Duration::from_millis(LOCK_WAIT_MS));
    }
    assert_eq!(hsm.state(), State::Locked);
}

#[test]
fn data_of_another_domain_key_is_not_unlocked() {
    let sim = sim(1);
    let hsm = boot(&sim);
    provision(&hsm).unwrap();
    let user = RowPath::user(2, &UserId::parse("admin").unwrap());
    let row = block_on(hsm.operational().unwrap().user(&UserId::parse("admin").unwrap())).unwrap().unwrap();
    let key: RowKey<UserRecord> = RowKey::of(&DomainKey::new([9; 32]));
    replace_data(&sim, vec![key.seal(&user, Revision::default(), &row.record, &*sim.rng)]);
    drop((row, hsm));
    let hsm = boot(&sim);
    let error = unlock(&hsm).unwrap_err();
    assert!(matches!(&error, Error::Precondition(why) if why.contains("Domain Key")), "{error}");
    assert_eq!(hsm.state(), State::Locked);
}

#[test]
fn the_store_of_another_cluster_is_not_unlocked() {
    let sim = sim(1);
    let hsm = boot(&sim);
    provision(&hsm).unwrap();
    drop(hsm);
    let hsm = boot(&sim);
    let mut row = sim.store.raw_rows().into_iter().find(|(path, _)| *path == cluster_identity()).unwrap().1;
    row[5] ^= 1;
    sim.store.tamper(cluster_identity(), row);
    let error = unlock(&hsm).unwrap_err();
    assert!(matches!(&error, Error::Precondition(why) if why.contains("another cluster")), "{error}");
}

#[test]
fn a_boot_without_the_shared_store_is_failed_and_goes_on_when_it_is_back() {
    for unattended in [false, true] {
        let sim = sim(1);
        let hsm = boot(&sim);
        provision(&hsm).unwrap();
        let op = hsm.operational().unwrap();
        let admin = block_on(op.unauthenticated_caller(&UserId::parse("admin").unwrap())).unwrap();
        block_on(op.set_unattended_boot(&admin, unattended)).unwrap();
        drop((op, hsm));
        sim.store.fail(true);
        let hsm = boot(&sim);
        assert_eq!(hsm.state(), State::Failed);
        assert!(matches!(unlock(&hsm), Err(Error::Precondition(_))));
        block_on(hsm.probe());
        assert_eq!(hsm.state(), State::Failed);
        sim.store.fail(false);
        block_on(hsm.probe());
        assert_eq!(hsm.state(), if unattended { State::Operational } else { State::Locked });
    }
}

#[test]
fn what_counts_for_failed_is_the_time_since_the_last_answer() {
    let sim = sim(1);
    let hsm = boot(&sim);
    provision(&hsm).unwrap();
    block_on(hsm.probe());
    sim.store.fail(true);
    for _ in 0..10 * STORE_AWAY_S {
        block_on(hsm.probe());
    }
    assert_eq!(hsm.state(), State::Operational, "no time has passed");
    sim.clock.advance(Duration::from_secs(u64::from(STORE_AWAY_S)));
    block_on(hsm.probe());
    assert_eq!(hsm.state(), State::Failed);
    sim.store.fail(false);
    block_on(hsm.probe());
    assert_eq!(hsm.state(), State::Operational);
}

#[test]
fn a_store_of_another_cluster_is_refused_with_what_to_do() {
    let sim = sim(1);
    let hsm = boot(&sim);
    provision(&hsm).unwrap();
    drop(hsm);
    let refused = |sim: &Sim, part: &str| match block_on(Hsm::boot(sim.platform())) {
        Err(BootError::Store(why)) => assert!(why.contains(part), "{why}"),
        Err(other) => panic!("{other}"),
        Ok(hsm) => panic!("it booted to {:?}", hsm.state()),
    };
    let row = sim.store.raw_rows().into_iter().find(|(path, _)| *path == cluster_identity()).unwrap().1;
    let mut other = row.clone();
    other[5] ^= 1;
    sim.store.tamper(cluster_identity(), other);
    refused(&sim, "another cluster");
    let mut later = row.clone();
    later[0] = 2;
    sim.store.tamper(cluster_identity(), later);
    refused(&sim, "later version");
    sim.store.tamper(cluster_identity(), row);
    sim.store.share(false);
    refused(&sim, "store = \"etcd\"");
    sim.store.share(true);
    assert_eq!(boot(&sim).state(), State::Locked);
    let alone = Sim::new(5);
    alone.device.load().unwrap();
    provision(&boot(&alone)).unwrap();
    alone.store.share(true);
    refused(&alone, "store = \"embedded\"");
}
