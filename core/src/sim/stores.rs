//! The simulated stores of a node whose store can be moved. Its etcd is a store in memory that says it is shared, with no member but
//! the node itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::platform::stores::{
    Begin, EtcdError, EtcdFile, EtcdReport, Member, MemberError, PeerIdentity, Place, PlaceKind, Sight, Standing,
    StoreKeeper,
};
use crate::runtime::BoxFuture;
use crate::sim::SimStore;
use crate::store::{Snapshot, Store, StoreError};

/// Keeps the stores of a node, over any number of boots.
pub struct SimKeeper(Mutex<Kept>);

impl Default for SimKeeper {
    fn default() -> Self {
        Self(Mutex::new(Kept {
            stores: BTreeMap::new(),
            running: None,
            members: Vec::new(),
            missing: false,
            url: "https://192.0.2.1:2380".into(),
            client_urls: Vec::new(),
            sight: None,
            standing: Standing::Voter,
            joined: None,
            shown: None,
            prepare: None,
        }))
    }
}

struct Kept {
    stores: BTreeMap<Place, Arc<SimStore>>,
    running: Option<u32>,
    members: Vec<Member>,
    missing: bool,
    url: String,
    client_urls: Vec<String>,
    sight: Option<Sight>,
    standing: Standing,
    /// The rows of the cluster that is joined.
    joined: Option<Arc<SimStore>>,
    /// The certificate that its etcd shows.
    shown: Option<Vec<u8>>,
    /// Done with every store that is made.
    prepare: Option<Arc<Prepare>>,
}

type Prepare = dyn Fn(&SimStore) + Send + Sync;

impl SimKeeper {
    /// Calls `prepare` with every store that is made from now on.
    pub fn prepare(&self, prepare: impl Fn(&SimStore) + Send + Sync + 'static) {
        self.kept().prepare = Some(Arc::new(prepare));
    }

    /// While `missing`, there is no etcd to start.
    pub fn miss_etcd(&self, missing: bool) {
        self.kept().missing = missing;
    }

    /// The process ends, and its etcd with it.
    pub fn end(&self) {
        self.kept().running = None;
    }

    /// The stores there are.
    pub fn places(&self) -> Vec<Place> {
        self.kept().stores.keys().copied().collect()
    }

    /// A store that is there.
    pub fn store(&self, place: Place) -> Option<Arc<SimStore>> {
        self.kept().stores.get(&place).cloned()
    }

    /// Other members reach this node at `url` from now on.
    pub fn reach_at(&self, url: &str) {
        self.kept().url = url.into();
    }

    /// Nodes without a vote reach the etcd of this node at `url` from now on.
    pub fn serve_at(&self, url: &str) {
        self.kept().client_urls = vec![url.into()];
    }

    /// What other members tell a node that is to join, and what becomes of it.
    pub fn see(&self, sight: Option<Sight>, joined: Option<Arc<SimStore>>) {
        let mut kept = self.kept();
        (kept.sight, kept.joined) = (sight, joined);
    }

    /// The certificate that its etcd shows to others, in DER.
    pub fn shown(&self) -> Option<Vec<u8>> {
        self.kept().shown.clone()
    }

    /// What the etcd of this node is from now on.
    pub fn stand(&self, standing: Standing) {
        self.kept().standing = standing;
    }

    /// Replaces the list of members.
    pub fn set_members(&self, members: Vec<Member>) {
        self.kept().members = members;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn make(&mut self, place: Place) -> Arc<SimStore> {
        let prepare = self.prepare.clone();
        let store = self.stores.entry(place).or_insert_with(|| {
            let store = SimStore::new(u64::from(place.number).wrapping_add(7));
            store.share(place.kind == PlaceKind::Etcd);
            Arc::new(store)
        });
        if let Some(prepare) = prepare {
            prepare(store);
        }
        store.clone()
    }
}

impl StoreKeeper for SimKeeper {
    fn open_file(&self, number: u32) -> Result<Arc<dyn Store>, StoreError> {
        Ok(self.kept().make(Place { kind: PlaceKind::File, number }))
    }

    fn available(&self) -> BoxFuture<'_, Result<(), EtcdError>> {
        Box::pin(async { if self.kept().missing { Err(EtcdError("etcd is not installed".into())) } else { Ok(()) } })
    }

    fn urls(&self, _: &PeerIdentity) -> Result<Vec<String>, EtcdError> {
        Ok(vec![self.kept().url.clone()])
    }

    fn client_urls(&self, _: &PeerIdentity) -> Result<Vec<String>, EtcdError> {
        Ok(self.kept().client_urls.clone())
    }

    fn start_etcd(
        &self,
        number: u32,
        begin: Begin,
        identity: PeerIdentity,
    ) -> BoxFuture<'_, Result<Arc<dyn Store>, EtcdError>> {
        Box::pin(async move {
            self.available().await?;
            let mut kept = self.kept();
            let place = Place { kind: PlaceKind::Etcd, number };
            if let Some(running) = kept.running {
                return Err(EtcdError(format!("etcd {running} runs")));
            }
            if (begin == Begin::Again) != kept.stores.contains_key(&place) {
                return Err(EtcdError(format!("folder {number} is there, or is not")));
            }
            kept.shown = identity.tls.chain.first().cloned();
            if begin == Begin::Found {
                let urls = vec![kept.url.clone()];
                kept.members = vec![Member { id: 1, name: identity.name, urls, learner: false }];
            }
            if let Begin::Join(_) = begin {
                let joined = kept.joined.clone().ok_or_else(|| EtcdError("no cluster is to be joined".into()))?;
                kept.stores.insert(place, joined);
            }
            kept.running = Some(number);
            Ok(kept.make(place) as Arc<dyn Store>)
        })
    }

    fn has_etcd(&self, number: u32) -> bool {
        self.kept().stores.contains_key(&Place { kind: PlaceKind::Etcd, number })
    }

    fn recover<'a>(
        &'a self,
        number: u32,
        copy: u32,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Snapshot>, EtcdError>> {
        Box::pin(async move {
            self.available().await?;
            let store = {
                let mut kept = self.kept();
                if let Some(running) = kept.running {
                    return Err(EtcdError(format!("etcd {running} runs")));
                }
                let etcd = |number| Place { kind: PlaceKind::Etcd, number };
                let store = kept.stores.get(&etcd(number)).cloned();
                let store = store.ok_or_else(|| EtcdError(format!("there is no folder {number}")))?;
                kept.stores.insert(etcd(copy), store.clone());
                kept.running = Some(copy);
                store
            };
            store.snapshot().await.map_err(|error| EtcdError(error.to_string()))
        })
    }

    fn revision(&self) -> BoxFuture<'_, Option<u64>> {
        Box::pin(async { None })
    }

    fn etcd_file(&self) -> BoxFuture<'_, Option<EtcdFile>> {
        Box::pin(async { None })
    }

    fn look_at<'a>(&'a self, _: &'a [Member], _: &'a PeerIdentity) -> BoxFuture<'a, Result<Sight, EtcdError>> {
        Box::pin(async {
            let kept = self.kept();
            kept.sight.clone().ok_or_else(|| EtcdError("no member answers".into()))
        })
    }

    fn standing(&self) -> BoxFuture<'_, Standing> {
        Box::pin(async {
            let kept = self.kept();
            if kept.running.is_some() { kept.standing } else { Standing::Unknown }
        })
    }

    fn report(&self) -> Option<EtcdReport> {
        let kept = self.kept();
        let removed = kept.standing == Standing::Removed;
        kept.running.map(|_| EtcdReport { running: !removed, removed, ..EtcdReport::default() })
    }

    fn stop_etcd(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.kept().running = None })
    }

    fn renew(&self, identity: PeerIdentity) {
        self.kept().shown = identity.tls.chain.into_iter().next();
    }

    fn keep_only<'a>(&'a self, places: &'a [Place]) -> BoxFuture<'a, ()> {
        Box::pin(async { self.kept().stores.retain(|place, _| places.contains(place)) })
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>, MemberError>> {
        Box::pin(async { Ok(self.kept().members.clone()) })
    }

    fn add_member(&self, urls: Vec<String>) -> BoxFuture<'_, Result<(), MemberError>> {
        Box::pin(async move {
            let mut kept = self.kept();
            if let Some(learner) = kept.members.iter().find(|member| member.learner) {
                return Err(MemberError::HasLearner(format!("{:x}", learner.id)));
            }
            let id = kept.members.iter().map(|member| member.id).max().unwrap_or(0) + 1;
            kept.members.push(Member { id, name: String::new(), urls, learner: true });
            Ok(())
        })
    }

    fn remove_member(&self, id: u64) -> BoxFuture<'_, Result<(), MemberError>> {
        Box::pin(async move {
            let mut kept = self.kept();
            let before = kept.members.len();
            kept.members.retain(|member| member.id != id);
            if kept.members.len() < before { Ok(()) } else { Err(MemberError::NotFound) }
        })
    }

    fn set_member_urls(&self, id: u64, urls: Vec<String>) -> BoxFuture<'_, Result<(), MemberError>> {
        Box::pin(async move {
            let mut kept = self.kept();
            let member = kept.members.iter_mut().find(|member| member.id == id).ok_or(MemberError::NotFound)?;
            member.urls = urls;
            Ok(())
        })
    }

    fn promote_member(&self, id: u64) -> BoxFuture<'_, Result<(), MemberError>> {
        Box::pin(async move {
            let mut kept = self.kept();
            let member = kept.members.iter_mut().find(|member| member.id == id).ok_or(MemberError::NotFound)?;
            if !std::mem::take(&mut member.learner) {
                return Err(MemberError::NotReady("it is no learner".into()));
            }
            Ok(())
        })
    }
}
