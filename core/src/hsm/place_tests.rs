//! The store of a node moves while it is used, and the process ends at any point of it.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use casemate_api::body::cluster::{ClusterMember, Invitation, Join, NewMember};
use casemate_api::body::keys::DistinguishedName;
use casemate_api::{KeyType, NamespaceId, Passphrase, SecretText, State, UserId};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder, X509Req};
use pollster::block_on;

use super::Hsm;
use crate::config::tls::fresh_identity;
use crate::device::place::StorePlace;
use crate::error::Error;
use crate::hsm::phase::Operational;
use crate::identity::caller::Caller;
use crate::platform::DeviceKeeper;
use crate::platform::stores::{Member, Place, PlaceKind, Sight, Standing, StoreKeeper};
use crate::rows::cluster_ca::ClusterCa;
use crate::rows::path::{DevicePath, RowPath, cluster_identity, node_fences};
use crate::rows::transaction::Transaction;
use crate::sim::{Sim, SimKeeper, SimStore};
use crate::store::{Path, Read, Store};

const FILE: Place = Place { kind: PlaceKind::File, number: 0 };
pub(super) const ETCD: Place = Place { kind: PlaceKind::Etcd, number: 1 };

pub(super) struct Node {
    seed: u64,
    pub(super) sim: Sim,
    pub(super) keeper: Arc<SimKeeper>,
}

impl Node {
    fn new(seed: u64) -> Self {
        let sim = Sim::new(seed);
        sim.device.load().unwrap();
        Self { seed, sim, keeper: Arc::default() }
    }

    /// A node with the same device and rows as `self`, which is in a file.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::new(self.seed);
        refill(&self.sim.local, &copy.sim.local);
        copy.keeper.prepare(|_| {});
        block_on(copy.open_file());
        refill(&self.keeper.store(FILE).unwrap(), &copy.keeper.store(FILE).unwrap());
        copy
    }

    async fn open_file(&self) {
        self.keeper.open_file(0).unwrap();
    }

    pub(super) fn boot(&self) -> Arc<Hsm> {
        self.keeper.end();
        block_on(Hsm::boot(self.sim.movable_platform(&self.keeper))).unwrap()
    }

    pub(super) fn place(&self, hsm: &Hsm) -> StorePlace {
        block_on(StorePlace::stored(&hsm.device().store)).unwrap()
    }
}

fn refill(from: &SimStore, to: &SimStore) {
    from.raw_rows().into_iter().for_each(|(path, value)| to.tamper(path, value));
}

pub(super) fn op(hsm: &Hsm) -> Arc<Operational> {
    hsm.operational().unwrap()
}

pub(super) fn admin(op: &Operational) -> Caller {
    block_on(op.unauthenticated_caller(&UserId::parse("admin").unwrap())).unwrap()
}

pub(super) fn create(hsm: &Hsm, name: &str) -> Result<(), Error> {
    let op = hsm.operational().ok_or(Error::not_found())?;
    block_on(async {
        let by = op.unauthenticated_caller(&UserId::parse("admin").unwrap()).await;
        let by = by.map_err(|_| Error::Unauthenticated)?;
        op.namespaces().create(&by, &NamespaceId::parse(name).unwrap()).await
    })
}

pub(super) fn names(hsm: &Hsm) -> BTreeSet<String> {
    block_on(op(hsm).namespaces().ids()).unwrap().into_iter().collect()
}

/// A CA, and a way to sign with it.
pub(super) struct Authority {
    key: PKey<Private>,
    certificate: X509,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = ec_key();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_nid(Nid::COMMONNAME, "CA").unwrap();
        let name = name.build();
        let mut builder = builder(&key, "20400101000000Z");
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self { key, certificate: builder.build() }
    }

    fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    /// A certificate for the key of `op`, as PEM.
    pub(super) fn sign(&self, op: &Operational, ip: &str, usage: Option<ExtendedKeyUsage>, until: &str) -> Vec<u8> {
        let subject: DistinguishedName = serde_json::from_str(r#"{"commonName":"node"}"#).unwrap();
        let csr = block_on(op.config().tls_csr(subject)).unwrap();
        let csr = X509Req::from_pem(csr.as_bytes()).unwrap();
        let mut builder = builder(&csr.public_key().unwrap(), until);
        builder.set_subject_name(csr.subject_name()).unwrap();
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        let names = SubjectAlternativeName::new().ip(ip).build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(names).unwrap();
        if let Some(usage) = usage {
            builder.append_extension(usage.build().unwrap()).unwrap();
        }
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        builder.build().to_pem().unwrap()
    }
}

fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn builder(key: &openssl::pkey::PKeyRef<impl openssl::pkey::HasPublic>, until: &str) -> openssl::x509::X509Builder {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(7).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_not_before(&Asn1Time::from_str("19700101000000Z").unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_str(until).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    builder
}

/// A provisioned node that boots unattended, with a certificate for its address.
pub(super) fn node(authority: &Authority) -> (Node, Arc<Hsm>) {
    node_at(authority, 5, "192.0.2.1")
}

pub(super) fn node_at(authority: &Authority, seed: u64, ip: &str) -> (Node, Arc<Hsm>) {
    let node = Node::new(seed);
    node.keeper.reach_at(&format!("https://{ip}:2380"));
    let hsm = node.boot();
    block_on(hsm.tls_identity(|platform| fresh_identity(KeyType::EC_P256, 0, &*platform.rng, &[]))).unwrap();
    let secret = |text: &str| Passphrase::from_text(text.into());
    block_on(hsm.provision(secret("unlock passphrase"), secret("admin passphrase"), "2026-01-01T00:00:00Z")).unwrap();
    let op = op(&hsm);
    let by = admin(&op);
    block_on(op.set_unattended_boot(&by, true)).unwrap();
    let chain = authority.sign(&op, ip, None, "20400101000000Z");
    block_on(op.config().set_tls_chain(&by, &chain, hsm.now())).unwrap();
    (node, hsm)
}

pub(super) fn set_ca(hsm: &Hsm, authority: &Authority) -> Result<(), Error> {
    let op = op(hsm);
    let by = admin(&op);
    block_on(hsm.set_cluster_ca(op, &by, &authority.pem()))
}

#[test]
fn the_store_moves_into_an_etcd_and_back_with_everything_in_it() {
    let authority = Authority::new();
    let (node, hsm) = node(&authority);
    (0..300).for_each(|at| create(&hsm, &format!("n{at}")).unwrap());
    let (before, old) = (names(&hsm), op(&hsm));
    let by = admin(&old);
    set_ca(&hsm, &authority).unwrap();
    assert_eq!(node.keeper.places(), [ETCD]);
    assert_eq!(node.place(&hsm).place, ETCD);
    assert_eq!((hsm.state(), names(&hsm)), (State::Operational, before.clone()));
    assert!(!Arc::ptr_eq(&old, &op(&hsm)), "the phase was opened again");
    let refused = block_on(old.namespaces().create(&by, &NamespaceId::parse("late").unwrap()));
    assert!(refused.is_err(), "who still holds the old phase does not write");
    create(&hsm, "afterwards").unwrap();

    let id = block_on(node.keeper.store(ETCD).unwrap().get(&cluster_identity(), Read::Fresh)).unwrap().unwrap();
    assert_eq!(block_on(hsm.device().store.get(DevicePath::Cluster)).unwrap().unwrap().to_vec(), id.value);
    set_ca(&hsm, &authority).unwrap();
    assert_eq!(node.place(&hsm).place, ETCD, "nothing is moved twice");

    // A boot goes on there.
    drop((hsm, old));
    let hsm = node.boot();
    assert_eq!((hsm.state(), names(&hsm).len()), (State::Operational, before.len() + 1));

    // Only the last member goes back.
    let member = |id| Member { id, name: format!("M{id}"), urls: vec![], learner: false };
    node.keeper.set_members(vec![member(1), member(2)]);
    let (now, by) = (op(&hsm), admin(&op(&hsm)));
    assert!(matches!(block_on(hsm.dissolve_cluster(now.clone(), &by)), Err(Error::Precondition(_))));
    node.keeper.set_members(vec![member(1)]);
    let revision = |hsm: &Hsm| op(hsm).tables.pointer();
    let at_etcd = revision(&hsm);
    block_on(hsm.dissolve_cluster(now.clone(), &by)).unwrap();
    let back = Place { kind: PlaceKind::File, number: 2 };
    assert_eq!((node.place(&hsm).place, node.keeper.places()), (back, vec![back]));
    assert!(revision(&hsm) > at_etcd, "revisions never go back");
    let left = |path: &Path| *path == cluster_identity() || path.as_bytes().starts_with(node_fences().as_bytes());
    assert!(!node.keeper.store(back).unwrap().raw_rows().iter().any(|(path, _)| left(path)));
    create(&hsm, "in-a-file").unwrap();
    drop((hsm, now));
    assert_eq!(names(&node.boot()).len(), before.len() + 2);
}

#[test]
fn uses_that_are_not_written_yet_move_along() {
    use crate::rows::path::{KeyRef, ROOT};
    let authority = Authority::new();
    let (_node, hsm) = node(&authority);
    let old = op(&hsm);
    let key = KeyRef { namespace: ROOT, uid: [7; 16] };
    let id = casemate_api::KeyId::parse("key").unwrap();
    old.counters().count(key, &id, crate::store::Revision(1));
    set_ca(&hsm, &authority).unwrap();
    // Of a request that began on the old phase.
    old.counters().count(key, &id, crate::store::Revision(1));
    assert_eq!(block_on(op(&hsm).keys().operations(key)).unwrap(), 2);
}

#[test]
fn a_certificate_that_is_set_while_the_store_moves_is_shown_afterwards() {
    let authority = Authority::new();
    let (node, hsm) = node(&authority);
    (0..300).for_each(|at| create(&hsm, &format!("n{at}")).unwrap());
    let (now, by, pem) = (op(&hsm), admin(&op(&hsm)), authority.pem());
    let renewed = authority.sign(&now, "192.0.2.1", None, "20410101000000Z");
    node.keeper.prepare(|store| store.delay(|| Box::pin(point())));
    let mut moving = pin!(hsm.set_cluster_ca(now.clone(), &by, &pem));
    let mut poll = || moving.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending() && node.keeper.store(ETCD).is_some(), "the copy has begun");
    let before = node.keeper.shown().unwrap();
    block_on(now.config().set_tls_chain(&by, &renewed, hsm.now())).unwrap();
    assert_eq!(node.keeper.shown().as_ref(), Some(&before));
    while poll().is_pending() {}
    let shown = X509::from_pem(&renewed).unwrap().to_der().unwrap();
    assert_eq!(node.keeper.shown(), Some(shown));
}

#[test]
fn what_other_members_would_not_accept_is_refused_before_anything_is_done() {
    let authority = Authority::new();
    let (node, hsm) = node(&authority);
    let op = op(&hsm);
    let by = admin(&op);
    let both = || Some(std::mem::take(ExtendedKeyUsage::new().server_auth().client_auth()));
    let server = || Some(std::mem::take(ExtendedKeyUsage::new().server_auth()));
    // The clock of the machine is at the beginning of 1970 in a simulation; that of the HSM is in 2026.
    for (ip, usage, until, why) in [
        ("192.0.2.2", None, "20400101000000Z", "IP:192.0.2.1"),
        ("192.0.2.1", server(), "20400101000000Z", "clientAuth"),
    ] {
        let chain = authority.sign(&op, ip, usage, until);
        block_on(op.config().set_tls_chain(&by, &chain, hsm.now())).unwrap();
        let Err(Error::Precondition(text)) = set_ca(&hsm, &authority) else { panic!("{why}") };
        assert!(text.contains(why), "{text}");
        assert_eq!((node.place(&hsm), node.keeper.places()), (StorePlace::FIRST, vec![FILE]));
        assert!(matches!(block_on(op.config().cluster_ca_pem()), Err(Error::NotFound(_))));
    }
    let chain = authority.sign(&op, "192.0.2.1", both(), "20400101000000Z");
    block_on(op.config().set_tls_chain(&by, &chain, hsm.now())).unwrap();
    set_ca(&hsm, &authority).unwrap();
}

#[test]
fn without_an_etcd_only_the_ca_is_set_and_a_boot_without_one_is_failed() {
    let authority = Authority::new();
    let (node, hsm) = node(&authority);
    node.keeper.miss_etcd(true);
    set_ca(&hsm, &authority).unwrap();
    assert_eq!(node.place(&hsm), StorePlace::FIRST);
    assert!(block_on(op(&hsm).config().cluster_ca_pem()).is_ok());
    node.keeper.miss_etcd(false);
    set_ca(&hsm, &authority).unwrap();
    assert_eq!(node.place(&hsm).place, ETCD);
    node.keeper.miss_etcd(true);
    drop(hsm);
    let hsm = node.boot();
    assert_eq!((hsm.state(), node.keeper.places()), (State::Failed, vec![ETCD]));
}

/// A point at which the process may end.
pub(super) fn point() -> impl Future<Output = ()> + Send {
    let mut passed = false;
    poll_fn(move |context| {
        if std::mem::replace(&mut passed, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

#[test]
fn a_process_that_ends_at_any_point_of_a_move_has_every_acknowledged_write_in_one_store() {
    let authority = Authority::new();
    let (first, hsm) = node(&authority);
    (0..250).for_each(|at| create(&hsm, &format!("n{at}")).unwrap());
    drop(hsm);
    let mut points = 0;
    let (mut stayed, mut moved) = (0, 0);
    // How many writes happen at each point.
    for load in 0..7 {
        for end in 1.. {
            let node = first.copy();
            let hsm = node.boot();
            let mut acknowledged = names(&hsm);
            let points_of = |store: &SimStore| store.delay(|| Box::pin(point()));
            points_of(&node.keeper.store(FILE).unwrap());
            points_of(&node.sim.local);
            node.sim.local.delay_answers();
            node.keeper.prepare(points_of);
            let done = {
                let now = op(&hsm);
                let by = admin(&now);
                let pem = authority.pem();
                let mut moving = pin!(hsm.set_cluster_ca(now, &by, &pem));
                let mut done = false;
                for at in 0..end {
                    if let Poll::Ready(result) = moving.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                        result.unwrap();
                        done = true;
                        break;
                    }
                    for write in 0..load {
                        let name = format!("w{at}x{write}");
                        if create(&hsm, &name).is_ok() {
                            acknowledged.insert(name);
                        }
                    }
                }
                done
            };
            // The process ends; what it had begun is not ended in order, and others may still write for a moment.
            if create(&hsm, "last").is_ok() {
                acknowledged.insert("last".into());
            }
            drop(hsm);
            node.sim.local.no_delay();
            node.keeper.prepare(SimStore::no_delay);
            let hsm = node.boot();
            let place = node.place(&hsm).place;
            assert_eq!(node.keeper.places(), [place], "{load} {end}");
            assert_eq!(hsm.state(), State::Operational, "{load} {end}");
            assert_eq!(names(&hsm), acknowledged, "{load} {end}");
            assert!(!done || place == ETCD);
            create(&hsm, "writable").unwrap();
            points += 1;
            *(if place == ETCD { &mut moved } else { &mut stayed }) += 1;
            if done {
                break;
            }
        }
    }
    assert!(points >= 200 && stayed > 100 && moved > 4, "{points} points, {stayed} stayed, {moved} moved");
}

pub(super) const JOINER: &str = "192.0.2.2";
const BACKUP: &str = "backup passphrase";

/// A cluster of one node, its store, and what a node at [`JOINER`] needs to join it.
pub(super) fn cluster(authority: &Authority) -> (Arc<Hsm>, Arc<SimStore>, Join) {
    let (founder, hsm) = node_at(authority, 6, "192.0.2.1");
    create(&hsm, "of-the-cluster").unwrap();
    set_ca(&hsm, authority).unwrap();
    let (now, by) = (op(&hsm), admin(&op(&hsm)));
    let change = (Passphrase::from_text(BACKUP.into()), Passphrase::from_text(String::new()));
    block_on(now.backups().change_passphrase(&by, &change.0, &change.1)).unwrap();
    let new = NewMember { urls: vec![format!("https://{JOINER}:2380")], serving: false };
    let Invitation { members, joiner_kit } = block_on(hsm.invite(now.clone(), &by, &new)).unwrap();
    assert!(members.len() == 2 && members[1].learner && members[1].name.is_empty());
    let wanted =
        Join { members, joiner_kit, backup_passphrase: Passphrase::from_text(BACKUP.into()), system_time: None };
    let store = founder.keeper.store(ETCD).unwrap();
    (hsm, store, wanted)
}

pub(super) fn sight(wanted: &Join, clock_differs_s: u64) -> Option<Sight> {
    let member = |(id, member): (usize, &ClusterMember)| Member {
        id: id as u64,
        name: member.name.clone(),
        urls: member.urls.clone(),
        learner: member.learner,
    };
    Some(Sight { members: wanted.members.iter().enumerate().map(member).collect(), clock_differs_s })
}

pub(super) const ADDRESS: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn unlock(hsm: &Hsm) -> Result<(), Error> {
    block_on(hsm.unlock(ADDRESS, &Passphrase::from_text("unlock passphrase".into())))
}

#[test]
fn a_node_joins_when_it_is_promoted_and_has_the_users_and_keys_of_the_cluster() {
    let authority = Authority::new();
    let (founder, store, wanted) = cluster(&authority);
    for in_a_file in [true, false] {
        let (node, hsm) = node_at(&authority, 7, JOINER);
        node.keeper.miss_etcd(in_a_file);
        set_ca(&hsm, &authority).unwrap();
        node.keeper.miss_etcd(false);
        create(&hsm, "its-own").unwrap();
        node.keeper.see(sight(&wanted, 1), Some(store.clone()));
        node.keeper.stand(Standing::Learner);
        let by = admin(&op(&hsm));
        let mut joining = pin!(hsm.join(ADDRESS, Some(&by), &wanted));
        let mut poll = || joining.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending());
        assert!(matches!(create(&hsm, "meanwhile"), Err(Error::Unavailable(_))), "nothing is written to be lost");
        if in_a_file {
            assert!(names(&hsm).contains("its-own"), "what it has is still served");
        }
        // Also when the client of the join has gone.
        hsm.claim_restore().err().expect("one at a time");
        node.sim.clock.advance(std::time::Duration::from_secs(60));
        assert!(poll().is_pending());
        node.keeper.stand(Standing::Voter);
        node.sim.clock.advance(std::time::Duration::from_secs(1));
        assert!(matches!(poll(), Poll::Ready(Ok(()))));
        assert_eq!(hsm.state(), State::Locked);
        unlock(&hsm).unwrap();
        assert_eq!(names(&hsm), names(&founder));
        assert_eq!(op(&hsm).tables.pointer(), op(&founder).tables.pointer(), "they count revisions alike");
        assert_eq!(node.keeper.places(), [node.place(&hsm).place]);
        let now = op(&hsm);
        assert!(!block_on(now.unattended_boot()).unwrap());
        // What one writes the other reads.
        create(&hsm, if in_a_file { "of-the-joiner" } else { "of-another" }).unwrap();
    }
    assert_eq!(names(&founder).len(), 3);
}

#[test]
fn a_join_that_cannot_be_changes_nothing() {
    let authority = Authority::new();
    let (_founder, store, wanted) = cluster(&authority);
    let (node, hsm) = node_at(&authority, 7, JOINER);
    let by = admin(&op(&hsm));
    let attempt = |wanted: &Join| {
        node.sim.clock.advance(std::time::Duration::from_secs(2));
        block_on(hsm.join(ADDRESS, Some(&by), wanted))
    };
    let copy = |change: &dyn Fn(&mut Join)| {
        let mut copy = Join {
            members: wanted.members.clone(),
            joiner_kit: SecretText::from_text(wanted.joiner_kit.expose().into()),
            backup_passphrase: Passphrase::from_text(BACKUP.into()),
            system_time: None,
        };
        change(&mut copy);
        copy
    };
    assert!(matches!(attempt(&wanted), Err(Error::Precondition(why)) if why.contains("no cluster CA")));
    node.keeper.miss_etcd(true);
    set_ca(&hsm, &authority).unwrap();
    node.keeper.miss_etcd(false);
    let place = node.place(&hsm);
    let refused = |wanted: &Join, part: &str| {
        let error = attempt(wanted).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. } | Error::Precondition(_)), "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!((hsm.state(), node.place(&hsm)), (State::Operational, place));
        assert!(block_on(hsm.device().store.get(DevicePath::Joining)).unwrap().is_none());
        assert_eq!(node.keeper.places(), [place.place]);
    };
    let members = |change: &dyn Fn(&mut Vec<ClusterMember>)| copy(&|join| change(&mut join.members));
    refused(&wanted, "no member answers");
    node.keeper.see(sight(&wanted, 0), None);
    refused(&wanted, "no cluster is to be joined");
    node.keeper.see(sight(&wanted, 6), Some(store.clone()));
    refused(&wanted, "differ by 6 seconds");
    let mut clone = sight(&wanted, 0);
    clone.as_mut().unwrap().members[0].name = hsm.device_id().into();
    node.keeper.see(clone, Some(store.clone()));
    refused(&wanted, "device id");
    let mut unregistered = sight(&wanted, 0);
    unregistered.as_mut().unwrap().members.pop();
    node.keeper.see(unregistered, Some(store.clone()));
    refused(&wanted, "not registered");
    node.keeper.see(sight(&wanted, 0), Some(store.clone()));
    refused(&members(&|list| list.truncate(1)), "all members");
    refused(&members(&|list| list[0].name.clear()), "no name");
    refused(&members(&|list| list[1].name = list[0].name.clone()), "the name");
    refused(&members(&|list| list[1].name = "x".into()), "without a name");
    refused(&members(&|list| list[1].urls = list[0].urls.clone()), "twice");
    refused(&members(&|list| list[1].urls = vec!["https://192.0.2.3:2380".into()]), "other members reach this node");
    refused(&members(&|list| list[1].urls = vec!["http://192.0.2.2:2380".into()]), "not an address");
    refused(&copy(&|join| join.backup_passphrase = Passphrase::from_text("another one".into())), "invalid passphrase");

    // What was removed before it was promoted has its own data again. Nothing but that lets it go back: the cluster may have promoted
    // it without its own etcd knowing that already.
    create(&hsm, "its-own").unwrap();
    let other = {
        let (_, other, _) = cluster(&authority);
        let id = other.raw_rows().into_iter().find(|(path, _)| *path == cluster_identity()).unwrap();
        other.tamper(id.0, [&[1][..], &[9; 16]].concat());
        other
    };
    for (round, (cluster, stands, part)) in [
        (&store, Standing::Removed, "removed this node"),
        (&store, Standing::Learner, "within an hour"),
        (&store, Standing::Unknown, "within an hour"),
        (&other, Standing::Learner, "another cluster"),
        (&other, Standing::Voter, "another cluster"),
    ]
    .into_iter()
    .enumerate()
    {
        node.keeper.see(sight(&wanted, 0), Some(cluster.clone()));
        node.keeper.stand(if part == "another cluster" { Standing::Unknown } else { Standing::Learner });
        node.sim.clock.advance(std::time::Duration::from_secs(2));
        let mut joining = pin!(hsm.join(ADDRESS, Some(&by), &wanted));
        let mut poll = || joining.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending());
        node.keeper.stand(stands);
        node.sim.clock.advance(std::time::Duration::from_secs(3_601));
        let Poll::Ready(Err(error)) = poll() else { panic!("{part}") };
        let error = error.to_string();
        assert!(error.starts_with("joining cluster failed: ") && error.contains(part), "{error}");
        if stands != Standing::Removed {
            assert!(node.keeper.places().contains(&ETCD), "the cluster may count on it");
            assert!(matches!(create(&hsm, "too-early"), Err(Error::Unavailable(_))));
            let again = block_on(hsm.join(ADDRESS, Some(&by), &wanted));
            assert!(matches!(again, Err(Error::Unavailable(_))), "there is one join at a time");
            node.keeper.stand(Standing::Removed);
            block_on(hsm.keep_joining());
        }
        assert_eq!((hsm.state(), node.place(&hsm)), (State::Operational, place));
        assert_eq!(node.keeper.places(), [place.place]);
        create(&hsm, &format!("after-{round}")).unwrap();
    }

    // A member that others count on does not go to another cluster.
    node.keeper.stand(Standing::Voter);
    node.keeper.see(sight(&wanted, 0), Some(store.clone()));
    set_ca(&hsm, &authority).unwrap();
    let member = |id| Member { id, name: format!("M{id}"), urls: vec![], learner: false };
    node.keeper.set_members(vec![member(1), member(2)]);
    // As a restore of an older backup leaves it: the CA in the store is not the one that the members know each other by.
    let older = Authority::new();
    let now = op(&hsm);
    let path = RowPath::cluster_ca(now.tables.generation);
    let row = block_on(now.tables.cluster_cas.read(&path)).unwrap().unwrap();
    let ca = ClusterCa(older.certificate.to_der().unwrap());
    let sealed = now.tables.cluster_cas.sealed(&path, row.revision, &ca).unwrap();
    block_on(now.tables.commit(Transaction::default().put(sealed))).unwrap();
    let trusted = || block_on(hsm.device().store.get(DevicePath::ClusterCa)).unwrap().unwrap().to_vec();
    let before = trusted();
    let error = attempt(&wanted).unwrap_err();
    assert!(error.to_string().contains("in a cluster with other members"), "{error}");
    assert_eq!(trusted(), before, "its etcd still trusts the other members at the next boot");
    assert_eq!(node.place(&hsm).place, ETCD);
}

#[test]
fn a_joiner_that_ends_at_any_point_has_its_own_data_or_is_a_member() {
    let authority = Authority::new();
    let (_founder, of_cluster, wanted) = cluster(&authority);
    let (first, hsm) = node_at(&authority, 7, JOINER);
    first.keeper.miss_etcd(true);
    set_ca(&hsm, &authority).unwrap();
    create(&hsm, "its-own").unwrap();
    drop(hsm);
    let (mut own, mut joined) = (0, 0);
    for promote_at in [4, 15] {
        for end in 1..36 {
            let node = first.copy();
            node.keeper.reach_at(&format!("https://{JOINER}:2380"));
            let hsm = node.boot();
            let store = Arc::new(SimStore::new(3));
            refill(&of_cluster, &store);
            store.share(true);
            node.keeper.see(sight(&wanted, 0), Some(store.clone()));
            node.keeper.stand(Standing::Learner);
            let by = admin(&op(&hsm));
            node.sim.local.delay(|| Box::pin(point()));
            store.delay(|| Box::pin(point()));
            let mut done = false;
            {
                let mut joining = pin!(hsm.join(ADDRESS, Some(&by), &wanted));
                for at in 0..end {
                    if at >= promote_at && node.keeper.store(ETCD).is_some() {
                        node.keeper.stand(Standing::Voter);
                    }
                    node.sim.clock.advance(std::time::Duration::from_millis(100));
                    if let Poll::Ready(result) = joining.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                        result.unwrap();
                        done = true;
                        break;
                    }
                }
            }
            let votes = block_on(node.keeper.standing()) == Standing::Voter;
            drop(hsm);
            node.sim.local.no_delay();
            store.no_delay();
            let hsm = node.boot();
            // A learner that nobody promotes is removed.
            if !votes && node.keeper.store(ETCD).is_some() {
                block_on(hsm.keep_joining());
                assert_eq!(hsm.state(), State::Failed);
                node.keeper.stand(Standing::Removed);
            }
            block_on(hsm.keep_joining());
            block_on(hsm.probe());
            let is_member = node.place(&hsm).place == ETCD;
            assert_eq!(is_member, votes || done, "{promote_at} {end}");
            if is_member {
                assert_eq!(hsm.state(), State::Locked);
                unlock(&hsm).unwrap();
                assert!(names(&hsm).contains("of-the-cluster") && !names(&hsm).contains("its-own"));
                joined += 1;
            } else {
                assert_eq!(hsm.state(), State::Operational, "it boots unattended");
                assert!(names(&hsm).contains("its-own"));
                own += 1;
            }
            create(&hsm, "writable").unwrap();
            assert!(block_on(hsm.device().store.get(DevicePath::Joining)).unwrap().is_none());
            assert_eq!(node.keeper.places().len(), 1);
            if done {
                break;
            }
        }
    }
    assert!(own > 5 && joined > 5, "{own} {joined}");
}

#[test]
fn a_node_that_its_cluster_has_removed_is_failed_at_once() {
    let authority = Authority::new();
    let (node, hsm) = node(&authority);
    set_ca(&hsm, &authority).unwrap();
    let store = node.keeper.store(ETCD).unwrap();
    store.fail(true);
    node.sim.clock.advance(std::time::Duration::from_secs(1));
    block_on(hsm.probe());
    assert_eq!(hsm.state(), State::Operational, "it may come back");
    node.keeper.stand(Standing::Removed);
    block_on(hsm.probe());
    assert_eq!(hsm.state(), State::Failed);
}

#[test]
fn a_node_without_a_vote_uses_the_etcd_of_a_member_and_counts_revisions_as_it_does() {
    let authority = Authority::new();
    let (member, hsm) = node(&authority);
    (0..20).for_each(|at| create(&hsm, &format!("n{at}")).unwrap());
    set_ca(&hsm, &authority).unwrap();
    assert!(member.place(&hsm).ahead > 20);
    let by = admin(&op(&hsm));
    let (new, none) = (Passphrase::from_text(BACKUP.into()), Passphrase::from_text(String::new()));
    block_on(op(&hsm).backups().change_passphrase(&by, &new, &none)).unwrap();
    let serving = NewMember { urls: vec!["https://192.0.2.9:8443".into()], serving: true };
    let invite = || block_on(hsm.invite(op(&hsm), &by, &serving));
    for (url, why) in [(None, "client-listen"), (Some("https://192.0.2.7:2379"), "IP:192.0.2.7")] {
        url.into_iter().for_each(|url| member.keeper.serve_at(url));
        let Err(Error::Precondition(text)) = invite() else { panic!("{why}") };
        assert!(text.contains(why), "{text}");
    }
    member.keeper.serve_at("https://192.0.2.1:2379");
    let Invitation { members, joiner_kit } = invite().unwrap();
    assert_eq!(members.len(), 1, "it is no member");
    let wanted = Join { members, joiner_kit, backup_passphrase: new, system_time: None };

    let sim = Sim { store: member.keeper.store(ETCD).unwrap(), ..Sim::new(9) };
    sim.device.load().unwrap();
    let boot = || block_on(Hsm::boot(sim.platform())).unwrap();
    let other = boot();
    block_on(other.join(ADDRESS, None, &wanted)).unwrap();
    let counts_alike = |other: &Hsm| {
        unlock(other).unwrap();
        assert_eq!(op(other).tables.pointer(), op(&hsm).tables.pointer());
        assert_eq!(names(other), names(&hsm));
    };
    counts_alike(&other);
    create(&other, "from-there").unwrap();
    assert!(names(&hsm).contains("from-there"));
    drop(other);
    counts_alike(&boot());
}
