//! Backups and restores on simulated devices: of Casemate's own files, and of files in the form that a NetHSM writes.

mod crash;
mod hostile;
mod nethsm_files;
mod stored;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use casemate_api::body::config::{Cidr6, LogLevel, Logging, Network, NetworkV6};
use casemate_api::{KeyId, KeyType, NamespaceId, Passphrase, Role, State, UserId, mechanisms};
use pollster::block_on;

use crate::backup::format::{Field, Frame, Parser, Version, push_end, push_framed, push_start};
use crate::backup::nethsm::{self, DeviceItem, NethsmStore};
use crate::backup::read::{Item, Reader};
use crate::config;
use crate::config::tls::cluster_ca;
use crate::crypto::digest::sha256;
use crate::crypto::mech::LoadedKey;
use crate::crypto::mech::tests::{TestRng, any_key};
use crate::crypto::secret::DomainKey;
use crate::crypto::user_digest::{Digest, Scheme};
use crate::crypto::{kdf, seal, x509};
use crate::device::procedure::Procedure;
use crate::hsm::phase::Operational;
use crate::hsm::restore::RestoreArguments;
use crate::identity::caller::Caller;
use crate::keys::index;
use crate::platform::Platform;
use crate::rows::certificate::CertificateRecord;
use crate::rows::cluster_ca::ClusterCa;
use crate::rows::counter::CounterRecord;
use crate::rows::index::Search;
use crate::rows::key::{KeyRecord, Mechanisms};
use crate::rows::path::{DevicePath, KeyRef, NamespaceNumber, RowPath, RowPrefix};
use crate::rows::tls_identity::TlsIdentity;
use crate::rows::transaction::Transaction;
use crate::rows::user::UserRecord;
use crate::runtime::{BoxFuture, Rng};
use crate::sim::{Sim, SimStore};
use crate::store::{Outcome, Page, Path, Range, Read, Revision, Snapshot, Store, StoreError, Txn, Versioned, Watch};
use crate::{Error, Hsm};

const UNLOCK: &str = "the unlock passphrase";
const BACKUP: &str = "the backup passphrase";
const TIME: &str = "2030-01-02T03:04:05Z";

fn secret(text: &str) -> Passphrase {
    Passphrase::from_text(text.into())
}

/// A device whose key derives from `seed`, in the state after the server's first start.
fn device(seed: u64) -> Sim {
    use crate::platform::DeviceKeeper;
    let sim = Sim::new(seed);
    sim.device.load().unwrap();
    sim
}

fn boot(sim: &Sim) -> Arc<Hsm> {
    boot_on(sim.platform())
}

fn boot_on(platform: Platform) -> Arc<Hsm> {
    let hsm = block_on(Hsm::boot(platform)).unwrap();
    block_on(hsm.tls_identity(|_| Ok(identity()))).unwrap();
    hsm
}

fn identity() -> TlsIdentity {
    let material = any_key(KeyType::EC_P256);
    let certificate = x509::self_signed_der(&LoadedKey::load(&material).unwrap(), "x", &[], [7; 16]).unwrap();
    TlsIdentity { private_key: x509::pkcs8_der(&material).unwrap(), chain: vec![certificate] }
}

fn unlock(hsm: &Hsm, passphrase: &str) -> Result<(), Error> {
    block_on(hsm.unlock("10.0.0.1".parse().unwrap(), &secret(passphrase)))
}

fn op(hsm: &Hsm) -> Arc<Operational> {
    hsm.operational().expect("it is Operational")
}

fn ns(name: &str) -> NamespaceId {
    NamespaceId::parse(name).unwrap()
}

fn some_key(key_type: KeyType, label: &str) -> KeyRecord {
    let list: Vec<_> = mechanisms::TABLE.iter().filter(|row| row.key == key_type).map(|row| row.mechanism).collect();
    let mut uid = [0; 16];
    TestRng.fill(&mut uid);
    KeyRecord::new(uid, Mechanisms::of(&list), label.into(), vec!["a".into(), "ü".into()], any_key(key_type))
}

/// The first user, just authenticated.
fn admin(op: &Operational) -> Caller {
    block_on(op.unauthenticated_caller(&UserId::parse("admin").unwrap())).unwrap()
}

/// The caller of a restore: none on an Unprovisioned HSM.
fn asking(hsm: &Hsm) -> Option<Caller> {
    hsm.operational().map(|op| admin(&op))
}

fn put_key(op: &Operational, namespace: NamespaceNumber, id: &str, record: KeyRecord, count: u64) {
    let generation = op.tables.generation;
    let key = KeyRef { namespace, uid: record.uid };
    let mut transaction = Transaction::default();
    if count > 0 {
        let certificate = CertificateRecord((0..=255).collect());
        let row = RowPath::certificate(generation, key);
        transaction = transaction.put(op.tables.certificates.sealed(&row, Revision::default(), &certificate).unwrap());
        for (device, count) in [("A", 1), ("B", count - 1)] {
            let row = RowPath::counter(generation, key, device);
            transaction = transaction
                .put(op.tables.counters.sealed(&row, Revision::default(), &CounterRecord { count }).unwrap());
        }
    }
    let row = RowPath::key(generation, namespace, &KeyId::parse(id).unwrap());
    transaction = transaction.put(op.tables.keys.sealed(&row, Revision::default(), &record).unwrap());
    block_on(op.tables.commit(transaction)).unwrap();
}

fn put_user(op: &Operational, id: &str, scheme: Scheme) {
    let digest = Digest { scheme, salt: [id.len() as u8; 16], hash: sha256(id.as_bytes()) };
    let tags = ["a".to_owned(), "b".to_owned()].into();
    let user = UserRecord { real_name: format!("{id} \"ü\"\n"), role: Role::Operator, digest, tags };
    let row = RowPath::user(op.tables.generation, &UserId::parse(id).unwrap());
    block_on(
        op.tables.commit(Transaction::default().put(op.tables.users.sealed(&row, Revision::default(), &user).unwrap())),
    )
    .unwrap();
}

type Rows = Vec<(Path, Vec<u8>)>;

/// The device of seed 1, with at least one of everything.
fn world() -> (Sim, Arc<Hsm>) {
    static WORLD: OnceLock<(Rows, Rows)> = OnceLock::new();
    let (shared, local) = WORLD.get_or_init(|| {
        let sim = device(1);
        let hsm = boot(&sim);
        block_on(hsm.provision(secret(UNLOCK), secret("the admin passphrase"), TIME)).unwrap();
        let op = op(&hsm);
        let by = admin(&op);
        block_on(op.backups().change_passphrase(&by, &secret(BACKUP), &secret(""))).unwrap();
        block_on(op.set_unattended_boot(&by, true)).unwrap();
        for id in ["gone", "ns1", "ns2"] {
            block_on(op.namespaces().create(&by, &ns(id))).unwrap();
        }
        block_on(op.namespaces().delete(&by, &ns("gone"), 1)).unwrap();
        for id in ["operator", "ns1~operator", "ns2~operator"] {
            put_user(&op, id, Scheme::Scrypt);
        }
        for (number, key_type) in (1..).zip(KeyType::ALL) {
            put_key(&op, 0, key_type.as_str(), some_key(key_type, "laßel"), if number % 2 == 0 { number } else { 0 });
        }
        let number = block_on(op.namespaces().get(&ns("ns1"))).unwrap().unwrap().record.number;
        for at in 0..70 {
            put_key(&op, number, &format!("k{at}"), some_key(KeyType::Curve25519, ""), 0);
        }
        let (network, logging) = configured();
        block_on(op.config().set_network(&by, &network)).unwrap();
        block_on(op.config().set_logging(&by, &logging)).unwrap();
        let row = RowPath::cluster_ca(op.tables.generation);
        let sealed = op.tables.cluster_cas.sealed(&row, Revision::default(), &ClusterCa(vec![0x30, 1, 2])).unwrap();
        block_on(op.tables.commit(Transaction::default().put(sealed))).unwrap();
        (sim.store.raw_rows(), sim.local.raw_rows())
    });
    let sim = device(1);
    fill(&sim.store, shared);
    fill(&sim.local, local);
    let hsm = boot(&sim);
    (sim, hsm)
}

/// A network and a logging configuration that differ from the defaults.
fn configured() -> (Network, Logging) {
    let network = Network {
        ip_address: "10.1.2.3".parse().unwrap(),
        netmask: "255.255.240.0".parse().unwrap(),
        gateway: "10.1.0.1".parse().unwrap(),
        ipv6: Some(NetworkV6 { cidr: Cidr6 { address: "fd00::7".parse().unwrap(), prefix: 64 }, gateway: None }),
    };
    let address = "10.1.2.4".parse().unwrap();
    (network, Logging { ip_address: address, port: 1514, log_level: LogLevel::Warning })
}

fn stored_config(hsm: &Hsm) -> (Option<Network>, Option<Logging>) {
    (block_on(config::stored(&hsm.device().store)).unwrap(), block_on(config::stored(&hsm.device().store)).unwrap())
}

fn fill(store: &SimStore, rows: &Rows) {
    rows.iter().for_each(|(path, value)| store.tamper(path.clone(), value.clone()));
}

/// Everything that users can see of an HSM, and the private keys.
fn described(hsm: &Hsm) -> Vec<String> {
    let op = op(hsm);
    let generation = op.tables.generation;
    let mut lines = Vec::new();
    for id in block_on(op.users().ids(None)).unwrap() {
        let row = block_on(op.user(&UserId::parse(&id).unwrap())).unwrap().unwrap();
        let UserRecord { real_name, role, digest, tags } = &row.record;
        lines.push(format!("{id} {real_name} {role:?} {:?} {:?} {tags:?}", digest.scheme, (digest.salt, digest.hash)));
    }
    lines.extend(block_on(cluster_ca(&op.tables)).unwrap().map(|authority| format!("authority {authority:?}")));
    let mut scopes = vec![(String::new(), 0)];
    for id in block_on(op.namespaces().ids()).unwrap() {
        let number = block_on(op.namespaces().get(&ns(&id))).unwrap().unwrap().record.number;
        lines.push(format!("namespace {id}"));
        scopes.push((id, number));
    }
    for (namespace, number) in scopes {
        let prefix = RowPrefix::keys(generation, number, "");
        for path in block_on(op.tables.keys.paths(&prefix, None)).unwrap().0 {
            let id = prefix.tail(path.path()).unwrap();
            let row = RowPath::key(generation, number, &KeyId::parse(id).unwrap());
            let record = &block_on(op.tables.keys.get(&row)).unwrap().unwrap().record;
            let key = KeyRef { namespace: number, uid: record.uid };
            let certificate = block_on(op.tables.certificates.get(&RowPath::certificate(generation, key))).unwrap();
            let certificate = certificate.map(|row| row.record.0.clone());
            let mut material = Vec::new();
            record.material.encode(&mut material);
            let uses = block_on(op.keys().operations(key)).unwrap();
            let (mechanisms, label, tags) = (record.mechanisms.list(), &record.label, &record.tags);
            lines.push(format!("{namespace}/{id} {mechanisms:?} {label} {tags:?} {uses} {certificate:?} {material:?}"));
        }
    }
    lines
}

fn backup_of(hsm: &Hsm) -> Vec<u8> {
    let op = op(hsm);
    let mut backup = block_on(op.backups().begin()).unwrap();
    let mut file = Vec::new();
    while let Some(piece) = block_on(backup.next_piece(op.backups())).unwrap() {
        file.extend(piece);
    }
    assert_eq!(file[file.len() - 19..], *b"_NETHSM_BACKUP_END_");
    file
}

fn restore_as(hsm: &Arc<Hsm>, file: &[u8], passphrase: Option<&str>, time: Option<&str>) -> Result<(), Error> {
    block_on(async {
        let arguments = RestoreArguments::new(passphrase.map(secret), time)?;
        let mut restore = hsm.begin_restore(asking(hsm))?;
        restore.arguments(arguments);
        let fed = async {
            for piece in file.chunks(1000) {
                restore.feed(piece).await?;
            }
            restore.finish().await
        };
        let result = fed.await;
        if result.is_err() {
            restore.abandon().await;
        }
        result.map(drop)
    })
}

fn restore(hsm: &Arc<Hsm>, file: &[u8]) -> Result<(), Error> {
    restore_as(hsm, file, Some(BACKUP), None)
}

fn refusal(result: Result<(), Error>) -> String {
    match result {
        Err(Error::Invalid { reason, .. }) => reason.into_owned(),
        other => panic!("{other:?}"),
    }
}

fn generations(sim: &Sim) -> Vec<u32> {
    let number = |path: &Path| u32::from_be_bytes(path.as_bytes()[1..5].try_into().unwrap());
    let rows = sim.store.raw_rows();
    let mut all: Vec<u32> =
        rows.iter().filter(|(path, _)| path.as_bytes()[0] == 1).map(|(path, _)| number(path)).collect();
    all.dedup();
    all
}

#[test]
fn a_backup_restores_everything_on_another_device() {
    let (_, hsm) = world();
    let (file, expected, now) = (backup_of(&hsm), described(&hsm), hsm.now());
    assert!(!file.windows(16).any(|window| window == b"BEGIN PRIVATE KE"));

    let other = device(2);
    let copy = boot(&other);
    let tls = block_on(copy.device().store.get(DevicePath::Tls)).unwrap().unwrap();
    restore(&copy, &file).unwrap();
    assert_eq!(copy.state(), State::Locked);
    let restored = block_on(copy.device().store.get(DevicePath::Tls)).unwrap().unwrap();
    assert!(*restored != *tls && *restored == *block_on(hsm.device().store.get(DevicePath::Tls)).unwrap().unwrap());
    assert_eq!(copy.now().as_second(), now.as_second());

    let before = other.store.raw_rows();
    assert!(unlock(&copy, "not the unlock passphrase").is_err());
    assert!(other.store.raw_rows() == before, "a wrong passphrase converts nothing");
    other.clock.advance(std::time::Duration::from_secs(1));
    unlock(&copy, UNLOCK).unwrap();
    assert_eq!(described(&copy), expected);
    index::tests::check(&op(&copy), &*other.store);
    let (network, logging) = configured();
    assert_eq!(stored_config(&copy), (Some(network), Some(logging)));
    assert_eq!(generations(&other), [2]);
    assert!(!block_on(op(&copy).unattended_boot()).unwrap(), "the slot is of another device");
    // The backup passphrase was restored as well, and everything is still there after a reboot.
    let again = backup_of(&copy);
    assert_ne!(again, file);
    let copy = boot(&other);
    unlock(&copy, UNLOCK).unwrap();
    assert_eq!(described(&copy), expected);
    block_on(op(&copy).namespaces().create(&admin(&op(&copy)), &ns("ns3"))).unwrap();
    // New namespaces get numbers after the restored ones.
    assert_eq!(block_on(op(&copy).namespaces().get(&ns("ns3"))).unwrap().unwrap().record.number, 3);
}

#[test]
fn a_backup_of_this_hsm_is_restored_while_it_serves() {
    let (sim, hsm) = world();
    let (file, expected) = (backup_of(&hsm), described(&hsm));
    let first = op(&hsm);
    put_key(&first, 0, "later", some_key(KeyType::EC_P256, ""), 0);
    put_user(&first, "later", Scheme::Scrypt);
    drop(first);
    // The passphrase may be left out, as the file was made under the one that is set.
    restore_as(&hsm, &file, None, Some("2031-01-01T00:00:00Z")).unwrap();
    assert_eq!(hsm.state(), State::Operational);
    assert_eq!(described(&hsm), expected);
    assert_eq!(hsm.now().to_string(), "2031-01-01T00:00:00Z");
    assert_eq!(generations(&sim), [3]);
    assert_eq!(block_on(Procedure::stored(&hsm.device().store)).unwrap(), None);
    assert!(block_on(op(&hsm).unattended_boot()).unwrap(), "nothing of the device changed");
    block_on(op(&hsm).namespaces().create(&admin(&op(&hsm)), &ns("ns3"))).unwrap();
    restore(&hsm, &file).unwrap();
    assert_eq!(described(&hsm), expected);
    let hsm = boot(&sim);
    assert_eq!(described(&hsm), expected);
    assert_eq!(hsm.now().to_string(), "2031-01-01T00:00:00Z");
}

#[test]
fn a_backup_of_another_hsm_locks_this_one_until_its_passphrase_comes() {
    let (_, hsm) = world();
    let (file, expected) = (backup_of(&hsm), described(&hsm));
    let other = device(3);
    let copy = boot(&other);
    block_on(copy.provision(secret("another unlock passphrase"), secret("another admin passphrase"), TIME)).unwrap();
    block_on(op(&copy).set_unattended_boot(&admin(&op(&copy)), true)).unwrap();
    let tls = block_on(copy.device().store.get(DevicePath::Tls)).unwrap().unwrap();
    assert_eq!(refusal(restore_as(&copy, &file, None, None)), "No backupPassphrase provided");
    assert_eq!(copy.state(), State::Operational);
    restore(&copy, &file).unwrap();
    assert_eq!(copy.state(), State::Locked);
    assert!(unlock(&copy, "neither of the two passphrases").is_err());
    // The device keeps its own network configuration, and a reboot does not bring its old users back.
    assert_eq!(*block_on(copy.device().store.get(DevicePath::Tls)).unwrap().unwrap(), *tls);
    assert_eq!(stored_config(&copy), (None, None));
    let copy = boot(&other);
    assert_eq!(copy.state(), State::Locked);
    unlock(&copy, UNLOCK).unwrap();
    assert_eq!(described(&copy), expected);
    assert_eq!(generations(&other), [3]);
    assert!(!block_on(op(&copy).unattended_boot()).unwrap());
}

/// Anybody who reaches a device that is not provisioned may restore at it.
#[test]
fn a_stranger_at_a_new_node_writes_nothing_into_the_store_of_a_cluster() {
    let (_, hsm) = world();
    let file = backup_of(&hsm);
    let first = device(3);
    first.store.share(true);
    let founder = boot(&first);
    block_on(founder.provision(secret("another unlock passphrase"), secret("another admin passphrase"), TIME)).unwrap();
    let second = Sim { store: first.store.clone(), ..device(4) };
    let rows = first.store.raw_rows();
    let newcomer = boot(&second);
    let refused = restore_as(&newcomer, &file, Some(BACKUP), None);
    assert!(matches!(&refused, Err(Error::Precondition(why)) if why.contains("already holds")), "{refused:?}");
    assert_eq!(newcomer.state(), State::Unprovisioned);
    assert_eq!(first.store.raw_rows(), rows);
}

/// It founds a cluster, so that the node knows its store again.
#[test]
fn a_restore_at_a_new_node_with_an_empty_shared_store_is_whole() {
    let (_, hsm) = world();
    let (file, expected) = (backup_of(&hsm), described(&hsm));
    let sim = device(3);
    sim.store.share(true);
    let copy = boot(&sim);
    restore(&copy, &file).unwrap();
    drop(copy);
    // The entries wait where only this device can use them.
    assert_eq!((staged(&sim.store), staged(&sim.local) > 0), (0, true));
    let copy = boot(&sim);
    unlock(&copy, UNLOCK).unwrap();
    assert_eq!(described(&copy), expected);
    assert_eq!(staged(&sim.local), 0);
    drop(copy);
    assert_eq!(boot(&sim).state(), State::Locked, "it knows its store");
}

/// The number of staged rows.
fn staged(store: &SimStore) -> usize {
    store.raw_rows().iter().filter(|(path, _)| matches!(path.as_bytes(), [1, _, _, _, _, 7, ..])).count()
}

#[test]
fn on_the_same_device_an_unattended_slot_comes_back() {
    let (_, hsm) = world();
    let (file, expected) = (backup_of(&hsm), described(&hsm));
    let fresh = device(1);
    let copy = boot(&fresh);
    restore(&copy, &file).unwrap();
    assert_eq!(copy.state(), State::Operational);
    assert_eq!(described(&copy), expected);
    assert!(block_on(op(&copy).unattended_boot()).unwrap());
    assert_eq!(boot(&fresh).state(), State::Operational);
}

#[test]
fn one_restore_runs_at_a_time_and_none_beside_a_provisioning() {
    let (_, source) = world();
    let file = backup_of(&source);
    let hsm = boot(&device(8));
    let mut first = hsm.begin_restore(None).unwrap();
    first.arguments(RestoreArguments::new(Some(secret(BACKUP)), None).unwrap());
    block_on(first.feed(&file[..file.len() / 2])).unwrap();
    let busy = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
    busy(restore(&hsm, &file));
    busy(block_on(hsm.provision(secret(UNLOCK), secret("the admin passphrase"), TIME)));
    block_on(first.abandon());
    restore(&hsm, &file).unwrap();
    assert!(matches!(hsm.begin_restore(None), Err(Error::Precondition(_))), "it is Locked");
}

#[test]
fn a_restore_ends_with_the_phase_it_began_in() {
    let (sim, hsm) = world();
    let file = backup_of(&hsm);
    let shared = sim.store.raw_rows();
    let mut restore = hsm.begin_restore(asking(&hsm)).unwrap();
    block_on(restore.feed(&file)).unwrap();
    let by = admin(&op(&hsm));
    block_on(hsm.lock(op(&hsm), &by)).unwrap();
    assert!(matches!(block_on(restore.finish()), Err(Error::Precondition(_))));
    block_on(restore.abandon());
    assert!(sim.store.raw_rows() == shared);
    // A backup that is being made ends with the phase, too.
    unlock(&hsm, UNLOCK).unwrap();
    let op = op(&hsm);
    let mut backup = block_on(op.backups().begin()).unwrap();
    block_on(backup.next_piece(op.backups())).unwrap();
    let held = Arc::downgrade(&op);
    let by = admin(&op);
    block_on(hsm.lock(op, &by)).unwrap();
    assert!(held.upgrade().is_none(), "a backup holds no key between two pieces");
}

#[test]
fn a_backup_ends_in_time_and_not_many_run_at_once() {
    use casemate_api::limits::{BACKUP_MAX_MS, BACKUPS_RUNNING_MAX};
    let (sim, hsm) = world();
    let op = op(&hsm);
    let mut running: Vec<_> = (0..BACKUPS_RUNNING_MAX).map(|_| block_on(op.backups().begin()).unwrap()).collect();
    assert!(matches!(block_on(op.backups().begin()), Err(Error::Unavailable(_))));
    let mut late = running.pop().unwrap();
    assert!(block_on(op.backups().begin()).is_err(), "the late one still has its slot");
    block_on(late.next_piece(op.backups())).unwrap();
    sim.clock.advance(std::time::Duration::from_millis(BACKUP_MAX_MS + 1));
    assert!(block_on(late.next_piece(op.backups())).is_err());
    assert!(block_on(late.next_piece(op.backups())).is_err(), "it does not go on, nor end as if it were whole");
    drop(late);
    assert!(block_on(op.backups().begin()).is_ok());
}

#[test]
fn large_entries_are_staged_in_parts() {
    let (_, source) = world();
    let record = some_key(KeyType::Curve25519, "");
    let key = KeyRef { namespace: 0, uid: record.uid };
    let from = op(&source);
    put_key(&from, 0, "large", record, 0);
    let row = RowPath::certificate(from.tables.generation, key);
    let large = CertificateRecord(vec![7; 1 << 20]);
    let sealed = from.tables.certificates.sealed(&row, Revision::default(), &large).unwrap();
    block_on(from.tables.commit(Transaction::default().put(sealed))).unwrap();
    let (file, expected) = (backup_of(&source), described(&source));
    let hsm = boot(&device(12));
    restore(&hsm, &file).unwrap();
    unlock(&hsm, UNLOCK).unwrap();
    assert!(described(&hsm) == expected);
}

#[test]
fn an_unlock_passphrase_changed_since_the_backup_is_set_back_by_the_restore() {
    let (_, hsm) = world();
    let (file, expected) = (backup_of(&hsm), described(&hsm));
    block_on(op(&hsm).change_unlock_passphrase(
        &admin(&op(&hsm)),
        &secret("the next unlock passphrase"),
        &secret(UNLOCK),
    ))
    .unwrap();
    restore(&hsm, &file).unwrap();
    assert_eq!(hsm.state(), State::Locked, "the Domain Key is the same, its lock is not");
    unlock(&hsm, UNLOCK).unwrap();
    assert_eq!(described(&hsm), expected);
}
