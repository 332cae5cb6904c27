//! A further node joins a cluster.

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use base64ct::{Base64, Encoding};
use casemate_api::body::cluster::{Join, NewMember};
use casemate_api::mechanisms::Mode;
use casemate_api::{KeyId, KeyType, Mechanism, NamespaceId, Passphrase, Role, SecretText, SignMode, State, UserId};
use pollster::block_on;
use zeroize::Zeroizing;

use super::Hsm;
use crate::device::procedure::Procedure;
use crate::error::Error;
use crate::identity::caller::{Caller, Denied, Evidence, Failure};
use crate::identity::users::{NewUser, UserAccess};
use crate::keys::ManagedKeys;
use crate::platform::DeviceKeeper;
use crate::rows::namespace::Quota;
use crate::rows::path::{ROOT, RowPrefix, cluster_identity, node_fence};
use crate::runtime::BoxFuture;
use crate::sim::Sim;
use crate::store::{Store, Txn};

const UNLOCK: &str = "unlock passphrase of A";
const BACKUP: &str = "backup passphrase";
const ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn secret(text: &str) -> Passphrase {
    Passphrase::from_text(text.into())
}

fn boot(sim: &Sim) -> Arc<Hsm> {
    block_on(Hsm::boot(sim.platform())).unwrap()
}

/// A node on a store that others share.
fn first_node(seed: u64) -> (Sim, Arc<Hsm>) {
    let sim = Sim::new(seed);
    sim.store.share(true);
    sim.device.load().unwrap();
    let hsm = boot(&sim);
    (sim, hsm)
}

/// Another device on the store of `first`.
fn beside(first: &Sim, seed: u64) -> Sim {
    let sim = Sim { store: first.store.clone(), ..Sim::new(seed) };
    sim.device.load().unwrap();
    sim
}

fn provision(hsm: &Hsm) -> Result<(), Error> {
    block_on(hsm.provision(secret(UNLOCK), secret("admin passphrase"), "2026-01-01T00:00:00Z"))
}

fn unlock(hsm: &Hsm, passphrase: &str) -> Result<(), Error> {
    block_on(hsm.unlock(ADDRESS.into(), &secret(passphrase)))
}

fn admin(hsm: &Hsm) -> Caller {
    block_on(hsm.operational().unwrap().unauthenticated_caller(&UserId::parse("admin").unwrap())).unwrap()
}

fn invite(hsm: &Hsm) -> Result<SecretText, Error> {
    let new = NewMember { urls: vec!["https://192.0.2.2:8443".into()], serving: true };
    block_on(hsm.operational().unwrap().invite(&new))
}

/// A provisioned node with a backup passphrase, and a kit of it.
fn inviting(seed: u64) -> (Sim, Arc<Hsm>, SecretText) {
    let (sim, hsm) = first_node(seed);
    provision(&hsm).unwrap();
    block_on(hsm.operational().unwrap().backups().change_passphrase(&admin(&hsm), &secret(BACKUP), &secret("")))
        .unwrap();
    let kit = invite(&hsm).unwrap();
    (sim, hsm, kit)
}

/// Two nodes of one cluster, both Operational.
fn two_nodes() -> (Sim, Arc<Hsm>, Sim, Arc<Hsm>) {
    let (first, a, kit) = inviting(1);
    let second = beside(&first, 2);
    let b = boot(&second);
    join(&b, &kit).unwrap();
    unlock(&b, UNLOCK).unwrap();
    (first, a, second, b)
}

fn request(kit: &SecretText, passphrase: &str) -> Join {
    let joiner_kit = SecretText::from_text(kit.expose().to_owned());
    Join { members: Vec::new(), joiner_kit, backup_passphrase: secret(passphrase), system_time: None }
}

fn join(hsm: &Hsm, kit: &SecretText) -> Result<(), Error> {
    block_on(hsm.join(ADDRESS.into(), None, &request(kit, BACKUP)))
}

fn create_key(hsm: &Hsm, id: &str) {
    let (op, by) = (hsm.operational().unwrap(), admin(hsm));
    let keys = op.keys().managed_by(&by).unwrap();
    let mechanisms = [Mechanism::EdDSA_Signature];
    block_on(keys.generate(id, KeyType::Curve25519, 0, &mechanisms, (String::new(), Vec::new()))).unwrap();
}

fn signature(hsm: &Hsm, id: &str) -> Zeroizing<Vec<u8>> {
    let (op, by) = (hsm.operational().unwrap(), admin(hsm));
    let key = block_on(op.keys().of(by.scope().unwrap()).get(&KeyId::parse(id).unwrap())).unwrap().unwrap();
    let permit = key.usable_by(&by).ok().unwrap().permit(Mode::Sign(SignMode::EdDSA)).unwrap();
    block_on(permit.run(op.keys(), b"message".to_vec().into(), None)).unwrap()
}

fn refused(outcome: Result<(), Error>, part: &str) {
    match outcome {
        Err(Error::Precondition(why) | Error::Invalid { reason: why, .. }) => assert!(why.contains(part), "{why}"),
        other => panic!("{other:?} instead of {part:?}"),
    }
}

#[test]
fn a_node_that_joins_uses_the_keys_of_the_others_and_has_its_own_unlock_passphrase() {
    let (first, a, kit) = inviting(1);
    let second = beside(&first, 2);
    let b = boot(&second);
    let mut wanted = request(&kit, BACKUP);
    wanted.system_time = Some("2031-02-03T04:05:06Z".into());
    let shared = first.store.raw_rows();
    block_on(b.join(ADDRESS.into(), None, &wanted)).unwrap();
    assert_eq!(b.state(), State::Locked);
    assert_eq!(first.store.raw_rows(), shared, "the store of the others was written");
    assert!(matches!(unlock(&b, "unlock passphrase of B"), Err(Error::Forbidden(_))));
    drop(b);
    second.clock.advance(Duration::from_secs(2));
    let b = boot(&second);
    assert_eq!(b.state(), State::Locked);
    assert_eq!(b.now().as_second(), "2031-02-03T04:05:08Z".parse::<jiff::Timestamp>().unwrap().as_second());
    unlock(&b, UNLOCK).unwrap();
    create_key(&a, "of-a");
    create_key(&b, "of-b");
    for id in ["of-a", "of-b"] {
        assert_eq!(signature(&a, id), signature(&b, id));
    }

    let new = secret("unlock passphrase of B");
    block_on(b.operational().unwrap().change_unlock_passphrase(&admin(&b), &new, &secret(UNLOCK))).unwrap();
    drop((a, b));
    let (a, b) = (boot(&first), boot(&second));
    assert!(unlock(&b, UNLOCK).is_err() && unlock(&a, "unlock passphrase of B").is_err());
    for sim in [&first, &second] {
        sim.clock.advance(Duration::from_secs(1));
    }
    unlock(&b, "unlock passphrase of B").unwrap();
    unlock(&a, UNLOCK).unwrap();
    // A kit of the second node is as good.
    let third = beside(&first, 3);
    let c = boot(&third);
    join(&c, &invite(&b).unwrap()).unwrap();
    unlock(&c, "unlock passphrase of B").unwrap();
    assert_eq!(signature(&c, "of-a"), signature(&a, "of-a"));
}

#[test]
fn a_user_who_is_deleted_at_one_node_is_refused_at_the_other() {
    let (_, a, _, b) = two_nodes();
    let watcher = b.clone();
    let mut watching = pin!(watcher.keep_watching());
    let mut turn = || assert!(watching.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    turn();
    let (op, by) = (a.operational().unwrap(), admin(&a));
    let target = block_on(op.users().reach(&by, UserId::parse("op").unwrap(), UserAccess::Manage)).unwrap();
    let new = NewUser { real_name: "op".into(), role: Role::Operator, passphrase: secret("passphrase of op") };
    block_on(op.users().create(&by, &target, new)).unwrap();
    turn();
    let at_b = b.operational().unwrap();
    let log_in = || {
        let evidence = Evidence::Basic { name: "op", passphrase: b"passphrase of op", address: ADDRESS.into() };
        block_on(at_b.authenticate(evidence))
    };
    assert!(log_in().is_ok() && log_in().is_ok());
    block_on(op.users().delete(&by, &target)).unwrap();
    turn();
    assert!(matches!(log_in(), Err(Failure::Denied(Denied::Unauthenticated))));
}

/// The stored counts, whosever they are.
fn counts(sim: &Sim, hsm: &Hsm) -> usize {
    let generation = hsm.operational().unwrap().tables.generation;
    let prefix = RowPrefix::all_counters(generation, ROOT);
    sim.store.raw_rows().iter().filter(|(path, _)| path.as_bytes().starts_with(prefix.path().as_bytes())).count()
}

#[test]
fn counts_of_a_key_are_gone_at_every_node_when_it_is_deleted_at_one() {
    let (first, a, _, b) = two_nodes();
    let flush = |hsm: &Hsm| block_on(hsm.operational().unwrap().flush_counters()).unwrap();
    let delete = |id: &str| {
        let (op, by) = (a.operational().unwrap(), admin(&a));
        let keys = op.keys().managed_by(&by).unwrap();
        let key = block_on(keys.get(&KeyId::parse(id).unwrap())).unwrap().unwrap();
        block_on(keys.delete(&key)).unwrap();
    };
    // Written before, or still in memory.
    for id in ["written", "pending"] {
        create_key(&a, id);
        signature(&a, id);
        signature(&b, id);
    }
    flush(&a);
    flush(&b);
    assert_eq!(counts(&first, &a), 4);
    signature(&b, "pending");
    delete("written");
    delete("pending");
    assert_eq!(counts(&first, &a), 0);
    // A key of the same id is another one.
    create_key(&a, "pending");
    flush(&b);
    assert_eq!(counts(&first, &a), 0);
    signature(&b, "pending");
    flush(&b);
    assert_eq!(counts(&first, &a), 1);
}

#[test]
fn uses_are_counted_although_the_key_is_changed_or_renamed() {
    let (sim, hsm) = first_node(1);
    provision(&hsm).unwrap();
    create_key(&hsm, "a");
    let (op, by) = (hsm.operational().unwrap(), admin(&hsm));
    let keys = op.keys().managed_by(&by).unwrap();
    let found = |id: &str| block_on(keys.get(&KeyId::parse(id).unwrap())).unwrap().unwrap();
    let operations = |id: &str| block_on(found(id).describe(op.keys())).unwrap().operations;
    signature(&hsm, "a");
    block_on(keys.set_label(&KeyId::parse("a").unwrap(), "label")).unwrap();
    block_on(op.flush_counters()).unwrap();
    assert_eq!((operations("a"), counts(&sim, &hsm)), (1, 1));
    signature(&hsm, "a");
    block_on(keys.rename(&found("a"), &KeyId::parse("b").unwrap())).unwrap();
    assert_eq!(operations("b"), 2);
    signature(&hsm, "b");
    block_on(op.flush_counters()).unwrap();
    assert_eq!((operations("b"), counts(&sim, &hsm)), (3, 1));
    signature(&hsm, "b");
    // A use that ends only after the key was renamed.
    let permit = found("b").usable_by(&by).ok().unwrap().permit(Mode::Sign(SignMode::EdDSA)).unwrap();
    block_on(keys.rename(&found("b"), &KeyId::parse("c").unwrap())).unwrap();
    block_on(permit.run(op.keys(), b"message".to_vec().into(), None)).unwrap();
    block_on(op.flush_counters()).unwrap();
    assert_eq!((operations("c"), counts(&sim, &hsm)), (5, 1));
    // A flush that was cut off, or whose answer was lost, is not counted twice.
    for lost in 0..8 {
        signature(&hsm, "c");
        let mut flush = pin!(op.flush_counters());
        if lost % 2 == 0 {
            sim.store.lose_answers(1 + lost % 3);
            let _ = block_on(flush);
            sim.store.lose_answers(0);
        } else {
            sim.store.delay(after_calls(lost));
            let _ = flush.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            sim.store.no_delay();
        }
    }
    block_on(op.flush_counters()).unwrap();
    assert_eq!((operations("c"), counts(&sim, &hsm)), (13, 1));
}

/// Delays for a store that stops answering after so many calls.
fn after_calls(calls: usize) -> impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static {
    let left = AtomicUsize::new(calls);
    move || match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
        Ok(_) => Box::pin(std::future::ready(())),
        Err(_) => Box::pin(std::future::pending()),
    }
}

#[test]
fn a_quota_is_kept_by_all_nodes_together() {
    let (first, a, _, b) = two_nodes();
    let namespace = NamespaceId::parse("ns").unwrap();
    let (op, by) = (a.operational().unwrap(), admin(&a));
    let id = UserId::parse("ns~admin").unwrap();
    let target = block_on(op.users().reach(&by, id.clone(), UserAccess::Manage)).unwrap();
    let new = NewUser { real_name: "n".into(), role: Role::Administrator, passphrase: secret("passphrase of ns") };
    block_on(op.users().create(&by, &target, new)).unwrap();
    block_on(op.namespaces().create(&by, &namespace)).unwrap();
    let set_quota = |keys| block_on(op.namespaces().set_quota(&by, &namespace, Quota { keys, bytes: None })).unwrap();
    let held = |hsm: &Hsm| {
        let (_, usage) = block_on(hsm.operational().unwrap().namespaces().quota(&namespace)).unwrap();
        (usage.keys, usage.bytes)
    };
    let keys = |hsm: &Hsm, act: &dyn Fn(&ManagedKeys<'_>) -> Result<(), Error>| {
        let op = hsm.operational().unwrap();
        let caller = block_on(op.unauthenticated_caller(&id)).unwrap();
        act(&op.keys().managed_by(&caller).unwrap())
    };
    let create = |hsm: &Hsm, name: &str| {
        keys(hsm, &|keys| {
            let mechanisms = [Mechanism::EdDSA_Signature];
            let made = keys.generate(name, KeyType::Curve25519, 0, &mechanisms, (String::new(), Vec::new()));
            block_on(made).map(drop)
        })
    };
    let change = |hsm: &Hsm, name: &str, label: &str| {
        keys(hsm, &|keys| block_on(keys.set_label(&KeyId::parse(name).unwrap(), label)).map(drop))
    };
    let delete = |hsm: &Hsm, name: &str| {
        keys(hsm, &|keys| {
            let key = block_on(keys.get(&KeyId::parse(name).unwrap()))?.ok_or_else(Error::not_found)?;
            block_on(keys.delete(&key))
        })
    };
    create(&a, "before").unwrap();
    set_quota(Some(3));
    create(&a, "of-a").unwrap();
    create(&b, "of-b").unwrap();
    for hsm in [&a, &b] {
        let refused = create(hsm, "more");
        assert!(matches!(&refused, Err(Error::Full(why)) if why.contains("3 keys")), "{refused:?}");
    }
    delete(&a, "before").unwrap();
    change(&a, "of-b", "a label of some length").unwrap();
    create(&b, "again").unwrap();
    assert!(matches!(create(&a, "more"), Err(Error::Full(_))));
    keys(&b, &|keys| block_on(keys.set_certificate(&KeyId::parse("of-a").unwrap(), vec![7; 100]))).unwrap();
    delete(&b, "of-a").unwrap();
    // What is kept is what a count finds.
    let kept = held(&b);
    set_quota(None);
    assert_eq!((kept, held(&a)), (held(&b), kept));
    create(&a, "free").unwrap();
    set_quota(Some(3));
    assert_eq!(held(&b).0, 3);
    assert!(matches!(create(&b, "more"), Err(Error::Full(_))));
    // The last place, with answers lost: taken once or not at all.
    for seed in 0..8 {
        delete(&a, "free").unwrap();
        first.store.lose_answers(1 + seed % 3);
        let outcome = create(if seed % 2 == 0 { &a } else { &b }, "free");
        first.store.lose_answers(0);
        assert!(!matches!(outcome, Err(Error::Full(_))), "{outcome:?}");
        let _ = create(&a, "free");
        assert_eq!(held(&a).0, 3);
        assert!(matches!(create(&b, "more"), Err(Error::Full(_))));
    }
    // A full store: nothing can be written, not even the number, but everything can be deleted.
    keys(&a, &|keys| block_on(keys.set_certificate(&KeyId::parse("free").unwrap(), vec![7; 100]))).unwrap();
    first.store.fill(true);
    keys(&a, &|keys| {
        let key = block_on(keys.get(&KeyId::parse("free").unwrap()))?.ok_or_else(Error::not_found)?;
        block_on(keys.delete_certificate(&key))
    })
    .unwrap();
    delete(&b, "free").unwrap();
    assert!(matches!(create(&a, "free"), Err(Error::Full(_))));
    first.store.fill(false);
    assert_eq!(held(&a).0, 2);
    create(&b, "free").unwrap();
    assert!(matches!(create(&a, "more"), Err(Error::Full(why)) if why.contains("3 keys")));
    // What was counted is kept, also if nothing is changed then.
    let known = || first.store.raw_rows().iter().any(|(path, _)| path.as_bytes().starts_with(&[1, 0, 0, 0, 1, 13]));
    set_quota(None);
    set_quota(Some(1));
    assert!(!known());
    assert!(matches!(create(&a, "more"), Err(Error::Full(_))));
    assert!(known());
    let number = block_on(op.namespaces().get(&namespace)).unwrap().unwrap().record.number;
    block_on(op.namespaces().delete(&by, &namespace, number)).unwrap();
    assert!(!known());
}

#[test]
fn an_invitation_opens_with_the_backup_passphrase_that_another_node_has_just_set() {
    let (first, a, kit) = inviting(1);
    let (second, third) = (beside(&first, 2), beside(&first, 3));
    let (b, c) = (boot(&second), boot(&third));
    join(&b, &kit).unwrap();
    unlock(&b, UNLOCK).unwrap();
    // This node hears nothing, but is confirmed.
    let watcher = b.clone();
    let mut watching = pin!(watcher.keep_watching());
    assert!(watching.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    invite(&b).unwrap();
    let new = "another backup passphrase";
    let (op, by) = (a.operational().unwrap(), admin(&a));
    block_on(op.backups().change_passphrase(&by, &secret(new), &secret(BACKUP))).unwrap();
    let kit = invite(&b).unwrap();
    block_on(c.join(ADDRESS.into(), None, &request(&kit, new))).unwrap();
}

/// What a node has cached may be a second old, but nobody is refused because of that.
#[test]
fn a_right_that_was_given_at_one_node_is_not_refused_at_the_other() {
    let (_, a, second, b) = two_nodes();
    let (op, by) = (a.operational().unwrap(), admin(&a));
    let target = block_on(op.users().reach(&by, UserId::parse("op").unwrap(), UserAccess::Manage)).unwrap();
    let new = NewUser { real_name: "op".into(), role: Role::Operator, passphrase: secret("passphrase of op") };
    block_on(op.users().create(&by, &target, new)).unwrap();
    create_key(&a, "k");
    let id = KeyId::parse("k").unwrap();
    block_on(op.keys().managed_by(&by).unwrap().add_tag(&id, "t")).unwrap();

    // From here on this node hears nothing, but is confirmed.
    let watcher = b.clone();
    let mut watching = pin!(watcher.keep_watching());
    assert!(watching.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let at_b = b.operational().unwrap();
    let log_in = |passphrase: &[u8]| {
        block_on(at_b.authenticate(Evidence::Basic { name: "op", passphrase, address: ADDRESS.into() }))
    };
    let caller = log_in(b"passphrase of op").unwrap();
    let key = || block_on(at_b.keys().of(caller.scope().unwrap()).get(&id)).unwrap().unwrap();
    assert!(key().usable_by(&caller).is_err());
    assert!(matches!(block_on(at_b.keys().usable_after_all(&caller, key())), Err(Error::Forbidden(_))));
    let target = block_on(op.users().reach(&by, UserId::parse("op").unwrap(), UserAccess::Manage)).unwrap();
    block_on(op.users().add_tag(&by, &target, "t")).unwrap();
    let caller = log_in(b"passphrase of op").unwrap();
    if let Err(key) = key().usable_by(&caller) {
        assert!(block_on(at_b.keys().usable_after_all(&caller, key)).is_ok(), "refused by what was cached");
    }
    // The same user again, with another role.
    let new = NewUser { real_name: "op".into(), role: Role::Metrics, passphrase: secret("passphrase of op") };
    block_on(op.users().delete(&by, &target)).unwrap();
    block_on(op.users().create(&by, &target, new)).unwrap();
    block_on(at_b.refresh(&caller)).unwrap();
    assert_eq!(log_in(b"passphrase of op").unwrap().role(), Role::Metrics, "the role that was cached");
    block_on(op.users().set_passphrase(&by, &target, &secret("another passphrase"))).unwrap();
    second.clock.advance(Duration::from_millis(900));
    assert!(log_in(b"another passphrase").is_ok(), "the new passphrase was refused by what was cached");
}

/// The same for what was removed, or removed and made again.
#[test]
fn what_was_replaced_at_one_node_is_not_refused_at_the_other() {
    let (_, a, _, b) = two_nodes();
    // This node hears nothing, but is confirmed.
    let watcher = b.clone();
    let mut watching = pin!(watcher.keep_watching());
    assert!(watching.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());

    let (at_a, by_a) = (a.operational().unwrap(), admin(&a));
    let (at_b, by_b) = (b.operational().unwrap(), admin(&b));
    let (user, id) = (UserId::parse("op").unwrap(), KeyId::parse("k").unwrap());
    let operator = || NewUser { real_name: "".into(), role: Role::Operator, passphrase: secret("passphrase of op") };
    let target_at_a = block_on(at_a.users().reach(&by_a, user.clone(), UserAccess::Manage)).unwrap();
    let target_at_b = block_on(at_b.users().reach(&by_b, user.clone(), UserAccess::Manage)).unwrap();
    let keys_at_a = at_a.keys().managed_by(&by_a).unwrap();
    let keys_at_b = at_b.keys().managed_by(&by_b).unwrap();
    let delete_at_a = || {
        let key = block_on(keys_at_a.get(&id)).unwrap().unwrap();
        block_on(keys_at_a.delete(&key)).unwrap();
    };
    let uid_at_b = || block_on(keys_at_b.get(&id)).unwrap().unwrap().row.record.uid;

    // It is gone, so it can be made.
    block_on(at_a.users().create(&by_a, &target_at_a, operator())).unwrap();
    create_key(&a, "k");
    assert!(block_on(at_b.user(&user)).unwrap().is_some());
    let removed = uid_at_b();
    block_on(at_a.users().delete(&by_a, &target_at_a)).unwrap();
    delete_at_a();
    assert!(uid_at_b() == removed, "it is cached");
    block_on(at_b.users().create(&by_b, &target_at_b, operator())).unwrap();
    create_key(&b, "k");

    // Another one is in its place, so it can be used and removed.
    block_on(keys_at_b.add_tag(&id, "t")).unwrap();
    let removed = uid_at_b();
    delete_at_a();
    create_key(&a, "k");
    assert!(uid_at_b() == removed, "it is cached");
    let cached = || block_on(keys_at_b.get(&id)).unwrap().unwrap();
    let caller = block_on(at_b.unauthenticated_caller(&user)).unwrap();
    let Err(refused) = cached().usable_by(&caller) else { panic!("it has a tag") };
    assert!(block_on(at_b.keys().usable_after_all(&caller, refused)).is_ok());
    delete_at_a();
    create_key(&a, "k");
    assert!(matches!(block_on(keys_at_b.delete(&cached())), Err(Error::NotFound(_))), "that key is gone");
    let cached = block_on(keys_at_b.get(&id)).unwrap().unwrap();
    delete_at_a();
    create_key(&a, "k");
    block_on(keys_at_a.set_certificate(&id, b"certificate".to_vec())).unwrap();
    assert!(block_on(keys_at_b.certificate(&cached)).unwrap().is_some(), "of the key that is there now");
    let stored = block_on(keys_at_b.get_stored(&id)).unwrap().unwrap();
    block_on(keys_at_b.delete(&stored)).unwrap();

    // A user of a namespace that does not exist any more.
    let namespace = NamespaceId::parse("ns").unwrap();
    block_on(at_a.namespaces().create(&by_a, &namespace)).unwrap();
    let number = block_on(at_b.namespaces().get(&namespace)).unwrap().unwrap().record.number;
    block_on(at_a.namespaces().delete(&by_a, &namespace, number)).unwrap();
    let user = UserId::parse("ns~op").unwrap();
    assert!(block_on(at_b.users().reach(&by_b, user, UserAccess::Manage)).is_ok(), "refused by what was cached");
}

#[test]
fn what_cannot_join_is_refused_and_stays_unprovisioned() {
    let (first, _a, kit) = inviting(1);
    let second = beside(&first, 2);
    let b = boot(&second);
    let (shared, own) = (first.store.raw_rows(), second.local.raw_rows());

    let attempt = |kit: &SecretText, passphrase| block_on(b.join(ADDRESS.into(), None, &request(kit, passphrase)));
    refused(attempt(&kit, "another passphrase"), "Could not decrypt unlock-salt: invalid passphrase");
    assert!(matches!(attempt(&kit, BACKUP), Err(Error::TooMany(_))), "guesses are slowed down");
    second.clock.advance(Duration::from_secs(1));
    refused(attempt(&SecretText::from_text("AAAA".into()), BACKUP), "joinerKit");
    let mut wrong_time = request(&kit, BACKUP);
    wrong_time.system_time = Some("yesterday".into());
    refused(block_on(b.join(ADDRESS.into(), None, &wrong_time)), "timestamp");

    // A kit of another cluster, and the kit with its cluster exchanged.
    let (_, _, other) = inviting(30);
    refused(attempt(&other, BACKUP), "another cluster");
    let json = |kit: &SecretText| -> serde_json::Value {
        serde_json::from_slice(&Base64::decode_vec(kit.expose()).unwrap()).unwrap()
    };
    let mut changed = json(&kit);
    changed["cluster"] = json(&other)["cluster"].clone();
    let changed = SecretText::from_text(Base64::encode_string(changed.to_string().as_bytes()));
    refused(attempt(&changed, BACKUP), "The joiner kit is damaged.");
    second.clock.advance(Duration::from_secs(1));

    // A store without a cluster, and one of a later version.
    let (_, empty) = first_node(40);
    refused(join(&empty, &kit), "holds no cluster");
    let (later, node) = first_node(50);
    later.store.tamper(cluster_identity(), vec![2; 17]);
    refused(join(&node, &kit), "later version");

    assert_eq!(b.state(), State::Unprovisioned);
    assert_eq!((first.store.raw_rows(), second.local.raw_rows()), (shared, own));
    // The settings of an embedded store.
    first.store.share(false);
    refused(attempt(&kit, BACKUP), "store = \"etcd\"");
    first.store.share(true);
    join(&b, &kit).unwrap();
    refused(join(&b, &kit), "");
    unlock(&b, UNLOCK).unwrap();
    refused(join(&b, &kit), "");
    assert_eq!(b.state(), State::Operational);
}

#[test]
fn two_nodes_do_not_have_the_same_device_id() {
    let (first, a, kit) = inviting(1);
    let copy = Sim { device: first.device.clone(), ..beside(&first, 2) };
    let b = boot(&copy);
    assert_eq!(b.device_id(), a.device_id());
    refused(join(&b, &kit), "another node of this cluster has the same device id");
    assert_eq!(b.state(), State::Unprovisioned);
}

/// The loser of a race of two provisionings is told to join, and has left a fence in the store.
#[test]
fn a_node_whose_own_provisioning_failed_can_join() {
    for reboot in [false, true] {
        let (first, a) = first_node(1);
        let second = beside(&first, 2);
        let mut b = boot(&second);
        // A is provisioned when B has found the store empty and taken its fence.
        let (store, fence) = (first.store.clone(), node_fence(b.device_id()));
        let (faster, once) = (a.clone(), AtomicBool::new(false));
        first.store.delay(move || {
            if store.raw_rows().iter().any(|(path, _)| *path == fence) && !once.swap(true, Ordering::SeqCst) {
                provision(&faster).unwrap();
            }
            Box::pin(std::future::ready(()))
        });
        let lost = provision(&b);
        assert!(matches!(&lost, Err(Error::Unavailable(why)) if why.contains("Join its cluster")), "{lost:?}");
        first.store.no_delay();
        block_on(a.operational().unwrap().backups().change_passphrase(&admin(&a), &secret(BACKUP), &secret("")))
            .unwrap();
        if reboot {
            drop(b);
            b = boot(&second);
        }
        join(&b, &invite(&a).unwrap()).unwrap();
        assert_eq!(block_on(Procedure::stored(&b.device.store)).unwrap(), None);
        drop(b);
        let b = boot(&second);
        assert_eq!(b.state(), State::Locked);
        unlock(&b, UNLOCK).unwrap();
    }
}

#[test]
fn a_crash_leaves_the_node_unprovisioned_or_locked() {
    let (first, _a, kit) = inviting(1);
    let mut writes = 0;
    loop {
        let second = beside(&first, 100);
        let b = boot(&second);
        // The power fails after so many writes to either store.
        let (local, store) = (second.local.clone(), first.store.clone());
        let left = local.commits() + store.commits() + writes;
        second.local.delay(move || {
            local.fail(local.commits() + store.commits() >= left);
            Box::pin(std::future::ready(()))
        });
        let done = join(&b, &kit);
        drop(b);
        second.local.no_delay();
        second.local.fail(false);
        let b = boot(&second);
        assert_eq!(b.state(), if done.is_ok() { State::Locked } else { State::Unprovisioned }, "{writes} writes");
        if done.is_err() {
            join(&b, &kit).unwrap();
        }
        unlock(&b, UNLOCK).unwrap();
        // So that the next device may have this one's id.
        let fence = node_fence(b.device_id());
        drop(b);
        block_on(first.store.commit(vec![Txn { delete: vec![fence], ..Txn::default() }])).unwrap();
        if done.is_ok() {
            break;
        }
        writes += 1;
    }
    assert!(writes > 0);
}

#[test]
fn a_lost_answer_of_the_own_store_leaves_a_node_that_says_what_it_is() {
    let (first, _a, kit) = inviting(1);
    let mut joined = 0;
    // That of the audit record, and that of the transaction.
    for (seed, answers) in (100..108).zip([1, 2].into_iter().cycle()) {
        let second = beside(&first, seed);
        let b = boot(&second);
        second.local.lose_answers(answers);
        let done = join(&b, &kit);
        second.local.lose_answers(0);
        let state = b.state();
        assert_eq!(state, if done.is_ok() { State::Locked } else { State::Unprovisioned });
        drop(b);
        assert_eq!(boot(&second).state(), state);
        joined += usize::from(done.is_ok());
    }
    assert!((1..8).contains(&joined), "{joined}");
}

#[test]
fn a_kit_needs_a_shared_store_and_a_backup_passphrase() {
    let (_sim, hsm) = first_node(1);
    provision(&hsm).unwrap();
    refused(invite(&hsm).map(drop), "PUT /config/backup-passphrase");
    let op = hsm.operational().unwrap();
    let ask = |url: &[&str], serving| {
        let urls = url.iter().map(|url| (*url).to_owned()).collect();
        block_on(op.invite(&NewMember { urls, serving })).map(drop)
    };
    for bad in [&[][..], &["http://192.0.2.2:8443"], &["https://"], &["https://192.0.2.2", "x"]] {
        assert!(matches!(ask(bad, true), Err(Error::Invalid { .. })));
    }
    refused(ask(&["https://192.0.2.2:2380"], false), "with its own tools");

    let alone = Sim::new(5);
    alone.device.load().unwrap();
    let hsm = boot(&alone);
    provision(&hsm).unwrap();
    refused(invite(&hsm).map(drop), "store = \"etcd\"");
}
