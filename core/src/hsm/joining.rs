//! A node with a store of its own joins a cluster as a member: its etcd follows as a learner, until another member promotes it.
//!
//! The store from before is kept until then, and nobody may write to it. What is read from the kit is recorded in the device's own store
//! before the etcd starts, and takes effect in one transaction after the promotion. So whenever the process ends, the boot
//! goes on with the join: only the etcd itself tells whether it was promoted, and a member that votes must not be given up.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use casemate_api::body::cluster::{ClusterMember, Join};
use casemate_api::limits::{JOIN_CLOCK_S, JOIN_MAX_S, JOIN_MEMBERS_MAX, JOIN_POLL_MS, JOIN_START_MS, LOCK_WAIT_MS};
use casemate_api::sentences;

use crate::backup::kit::JoinerKit;
use crate::config::peers;
use crate::device::joining::Joining;
use crate::device::place::StorePlace;
use crate::device::procedure::Procedure;
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::hsm::open::{Attempt, RestoreClaim, open_store, start_again};
use crate::hsm::phase::{Failed, Phase, Resume};
use crate::hsm::{Hsm, hold_with_timeout, wrong_state};
use crate::identity::caller::Caller;
use crate::platform::stores::{Begin, Member, Movable, PeerIdentity, Place, PlaceKind, Standing};
use crate::rows::cluster_id::cluster_of;
use crate::rows::path::DevicePath;
use crate::runtime::{First, first};
use crate::store::{Ahead, Read, Store};

/// How far a join is.
pub(super) enum Step {
    /// The etcd was not promoted yet.
    Waiting,
    /// So, too, but somebody has to do something about it.
    Stuck(&'static str),
    /// It is done.
    Joined,
    /// The node has its own store again.
    Undone(&'static str),
}

impl Hsm {
    /// Joins, for `by`, the cluster that has registered this node. Returns when it was promoted; the HSM is Locked then, and its
    /// own users and keys are gone. The unlock passphrase is that of the node that made the kit.
    ///
    /// # Errors
    /// [`Error::Precondition`] if this node or its clock does not fit the cluster; [`Error::Invalid`] for a bad list of members or kit, for
    /// a wrong backup passphrase, and if joining failed; [`Error::TooMany`] within a second of a wrong passphrase. The HSM is as it was.
    pub(super) async fn join_as_member(&self, address: IpAddr, by: &Caller, wanted: &Join) -> Result<(), Error> {
        let keeper = &self.movable()?.keeper;
        let urls = check_members(&wanted.members)?;
        let kit = JoinerKit::read(&wanted.joiner_kit)?;
        match StorePlace::stored(&self.device.store).await?.place.kind {
            // The CA may have been set when there was no etcd to start, or come from a backup.
            PlaceKind::File => {
                self.operational().ok_or_else(wrong_state)?.config().mirror_cluster_ca(by).await?;
            }
            // What the members know each other by stays as it is.
            PlaceKind::Etcd => self.check_no_members_are_left().await?,
        }
        let identity = peers::identity(&self.device, None).await?;
        let slot = self.open_kit(address, &kit, wanted).await?;
        let unfit = |why: String| Error::Precondition(why.into());
        let own = keeper.urls(&identity).map_err(|why| unfit(why.0))?;
        if let Some(url) = urls.iter().find(|url| !own.contains(url)) {
            return Err(Error::invalid(format!(
                "{url} was registered, but other members reach this node at {}. Remove that member and register this node.",
                own.join(" and ")
            )));
        }
        peers::check(&identity, &own, self.device.wall())?;
        self.look_at_cluster(&wanted.members, &identity).await?;

        let claim = self.claim_restore()?;
        if Procedure::stored(&self.device.store).await?.is_some() {
            return Err(Error::Unavailable("A restore was interrupted. Reboot, then try again.".into()));
        }
        let place = StorePlace::stored(&self.device.store).await?.place;
        if place.kind == PlaceKind::Etcd {
            // One may have been added since.
            self.check_no_members_are_left().await?;
        }
        let joining = Joining {
            number: place.number.saturating_add(1),
            ahead: kit.ahead,
            until: self.device.platform.clock.wall().as_secs().saturating_add(JOIN_MAX_S),
            cluster: kit.cluster,
            slot,
        };
        let members = named(&wanted.members, &self.device.id);
        self.begin_join(by, claim, (&joining, members), identity).await?;
        loop {
            let step = self.advance_join().await.unwrap_or_else(|error| {
                tracing::warn!(target: "hsm", %error, "joining a cluster cannot go on now; this is tried again");
                Some(Step::Waiting)
            });
            match step {
                Some(Step::Waiting) => {}
                Some(Step::Stuck(why)) => return Err(failed(why)),
                Some(Step::Joined) => return Ok(()),
                Some(Step::Undone(why)) => return Err(failed(why)),
                // The background saw the end of it first.
                None => match StorePlace::stored(&self.device.store).await?.place.number == joining.number {
                    true => return Ok(()),
                    false => return Err(failed("it was given up")),
                },
            }
            self.device.platform.clock.sleep(Duration::from_millis(JOIN_POLL_MS)).await;
        }
    }

    /// Checks that this node's own etcd has no other members, which count on it.
    async fn check_no_members_are_left(&self) -> Result<(), Error> {
        match self.movable()?.keeper.members().await?.len() {
            0 | 1 => Ok(()),
            _ => Err(Error::Precondition(
                "This node is in a cluster with other members, which would lose it. Have it removed and reset it first.".into(),
            )),
        }
    }

    /// Compares this node with what the members of the cluster see.
    async fn look_at_cluster(&self, listed: &[ClusterMember], identity: &PeerIdentity) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Precondition(why.into()));
        let others = listed.iter().filter(|member| !member.name.is_empty());
        let others: Vec<Member> = others
            .map(|member| Member {
                id: 0,
                name: member.name.clone(),
                urls: member.urls.clone(),
                learner: member.learner,
            })
            .collect();
        let sight = self.movable()?.keeper.look_at(&others, identity).await.map_err(|why| failed(&why.0))?;
        if sight.clock_differs_s > JOIN_CLOCK_S {
            return refuse(format!(
                "The clocks of this machine and of a member differ by {} seconds. Set them, for instance with NTP, then try again.",
                sight.clock_differs_s
            ));
        }
        if sight.members.iter().any(|member| member.name == self.device.id) {
            return refuse(format!(
                "A member of the cluster has the device id of this node, {}. If it is this node from before, remove that member first; two nodes must not have the same Device Key.",
                self.device.id
            ));
        }
        let urls: Vec<&String> =
            listed.iter().filter(|member| member.name.is_empty()).flat_map(|member| &member.urls).collect();
        let registered = |member: &Member| member.name.is_empty() && urls.iter().all(|url| member.urls.contains(url));
        if !sight.members.iter().any(registered) {
            return Err(failed("the cluster has not registered this node: register it with POST /cluster/members"));
        }
        Ok(())
    }

    /// Records the join and starts the etcd that joins.
    async fn begin_join(
        &self,
        by: &Caller,
        claim: RestoreClaim,
        (joining, members): (&Joining, Vec<(String, Vec<String>)>),
        identity: PeerIdentity,
    ) -> Result<(), Error> {
        let Movable { switch, keeper } = self.movable()?;
        let former = StorePlace::stored(&self.device.store).await?.place;
        keeper.keep_only(&[former]).await;
        let mut attempt = self.joining.lock().await;
        let op = self.operational().ok_or_else(wrong_state)?;
        let held = hold_with_timeout(&op, by).await?;
        drop(op);
        let limit = self.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS));
        let First::Left(hold) = first(switch.hold(), limit).await else {
            return Err(Error::Unavailable(sentences::BUSY.into()));
        };
        self.device.store.commit(joining.record_in(DeviceStoreChange::default())).await?;
        drop(held);
        tracing::info!(target: "hsm", "this node joins a cluster; nothing can be changed here until it was promoted");
        let file_is_open = former.kind == PlaceKind::File;
        if !file_is_open {
            keeper.stop_etcd().await;
        }
        let begun = self.device.platform.clock.monotonic();
        let running = attempt.insert(Attempt { store: None, begun, file_is_open, hold, _claim: claim });
        match keeper.start_etcd(joining.number, Begin::Join(members), identity).await {
            Ok(store) => {
                running.store = Some(store);
                Ok(())
            }
            Err(why) => {
                self.undo_join(&mut attempt, "its etcd cannot be started").await?;
                Err(failed(&why.0))
            }
        }
    }

    /// Goes on with a join, if one is under way.
    async fn advance_join(&self) -> Result<Option<Step>, Error> {
        let keeper = match &self.device.platform.movable {
            Some(movable) => &movable.keeper,
            None => return Ok(None),
        };
        let mut attempt = self.joining.lock().await;
        let Some(running) = &mut *attempt else { return Ok(None) };
        let Some(joining) = Joining::stored(&self.device.store).await? else {
            // It was written that the join is over, and not confirmed.
            self.device.platform.host.reboot();
            return Err(Error::Unavailable("The HSM reboots to find out how the join has ended.".into()));
        };
        let late = self.device.platform.clock.wall().as_secs() >= joining.until;
        if !keeper.has_etcd(joining.number) {
            // What has never followed the cluster was never promoted.
            let spent = self.device.platform.clock.monotonic().saturating_sub(running.begun);
            return match running.store.is_some() && spent < Duration::from_millis(JOIN_START_MS) {
                true => Ok(Some(Step::Waiting)),
                false => self.undo_join(&mut attempt, "its etcd does not get to the cluster").await,
            };
        }
        // From here on the cluster may count on this node, whether or not its etcd knows that already: only the cluster can
        // let it go back.
        let stuck = |why: &'static str| {
            tracing::error!(target: "hsm", why, "joining a cluster does not go on");
            Ok(Some(Step::Stuck(why)))
        };
        let store = match &running.store {
            Some(store) => store.clone(),
            None => match start_again(&self.device, joining.number).await {
                Ok(store) => running.store.insert(store).clone(),
                Err(error) => {
                    tracing::warn!(target: "hsm", %error, "the etcd that joins cannot be started; this is tried again");
                    return Ok(Some(Step::Waiting));
                }
            },
        };
        let standing = keeper.standing().await;
        // A learner answers no other reads.
        let found = match standing {
            Standing::Learner | Standing::Voter => cluster_of(&*store, Read::Local).await.ok().flatten(),
            Standing::Removed | Standing::Unknown => None,
        };
        match (standing, found) {
            (Standing::Removed, _) => {
                self.undo_join(&mut attempt, "the cluster has removed this node before it was promoted").await
            }
            (_, Some(found)) if found != joining.cluster.bytes() => stuck(
                "the joiner kit is from another cluster than the members. Remove this node from them, then it goes back to its own data",
            ),
            (Standing::Voter, Some(_)) => self.finish_join(&joining, store, &mut attempt).await,
            _ if late => stuck(
                "it was not promoted within an hour. Promote it, or remove it from the members, then it goes back to its own data",
            ),
            _ => Ok(Some(Step::Waiting)),
        }
    }

    /// Goes on with a join that a boot has found, or whose client has gone. In the background.
    pub(super) async fn keep_joining(&self) {
        // Whoever begins a join holds it for a while; probing must go on.
        let idle = self.joining.try_lock().map(|attempt| attempt.is_none());
        let done = match idle {
            Some(false) => self.advance_join().await.map(|_| ()),
            Some(true) => self.start_again_if_needed().await,
            None => Ok(()),
        };
        if let Err(error) = done {
            tracing::error!(target: "hsm", %error, "the store of this node cannot be started now; this is tried again");
        }
    }

    /// Starts the etcd of this node if it could not be started at boot.
    async fn start_again_if_needed(&self) -> Result<(), Error> {
        let Some(movable) = &self.device.platform.movable else { return Ok(()) };
        if !movable.switch.is_shared() || movable.keeper.report().is_some() {
            return Ok(());
        }
        // A move or a recovery of its rows, which stops it on purpose, must not find it running.
        let Ok(_claim) = self.claim_restore() else { return Ok(()) };
        let place = StorePlace::stored(&self.device.store).await?.place;
        if movable.keeper.report().is_some() || place.kind != PlaceKind::Etcd {
            return Ok(());
        }
        Ok(open_store(&self.device).await?)
    }

    /// The store of the cluster is the store of this node from now on.
    async fn finish_join(
        &self,
        joining: &Joining,
        store: Arc<dyn Store>,
        attempt: &mut Option<Attempt>,
    ) -> Result<Option<Step>, Error> {
        let Movable { switch, keeper } = self.movable()?;
        let guard = self.lock_transitions().await;
        let place = Place { kind: PlaceKind::Etcd, number: joining.number };
        let change = StorePlace { place, ahead: joining.ahead }.record_in(DeviceStoreChange::default());
        let change = change
            .put(DevicePath::Slot0, joining.slot.inner.clone())
            .put(DevicePath::UnlockSalt, joining.slot.salt)
            .put(DevicePath::Cluster, joining.cluster.bytes())
            .delete(DevicePath::Slot1)
            .delete(DevicePath::Joining);
        // As in a restore: slots of the old Domain Key must not be written after this.
        let changing = self.device.store.changing.lock().await;
        let slots = self.device.store.changing_unlock.lock().await;
        self.device.store.commit(change).await?;
        let former = self.phase();
        let old = former.operational_to_close();
        if let Some(op) = &old {
            // Nothing of this phase may reach the store of the cluster.
            op.retire();
            op.tables.close();
        }
        if let Some(Attempt { hold, .. }) = attempt.take() {
            switch.replace(Arc::new(Ahead::new(store, joining.ahead)), &hold);
        }
        drop((changing, slots));
        match &*former {
            // It goes on when the store answers.
            Phase::Failed(Failed { resume: Some(_) }) => {
                self.enter(Phase::Failed(Failed { resume: Some(Resume::Boot) }));
            }
            Phase::Failed(Failed { resume: None }) => {}
            Phase::Operational(_) | Phase::Locked(_) | Phase::Unprovisioned(_) => self.enter(self.locked()),
        }
        drop(former);
        if let Some(op) = old {
            self.close(op).await;
        }
        drop(guard);
        self.renew_peer_identity().await;
        keeper.keep_only(&[place]).await;
        tracing::info!(target: "hsm", "this node has joined the cluster");
        Ok(Some(Step::Joined))
    }

    /// The store from before is the store of this node again.
    pub(super) async fn undo_join(
        &self,
        attempt: &mut Option<Attempt>,
        why: &'static str,
    ) -> Result<Option<Step>, Error> {
        tracing::warn!(target: "hsm", why, "joining the cluster failed; this node goes on with its own data");
        let keeper = &self.movable()?.keeper;
        keeper.stop_etcd().await;
        if let Some(attempt) = attempt {
            attempt.store = None;
        }
        self.device.store.commit(DeviceStoreChange::default().delete(DevicePath::Joining)).await?;
        keeper.keep_only(&[StorePlace::stored(&self.device.store).await?.place]).await;
        // If it cannot be opened now, it is tried again like any etcd that cannot be started.
        if attempt.take().is_some_and(|attempt| !attempt.file_is_open) {
            open_store(&self.device).await?;
        }
        Ok(Some(Step::Undone(why)))
    }
}

fn failed(why: &str) -> Error {
    Error::invalid(format!("joining cluster failed: {why}."))
}

/// The members with their names, this node with its own.
fn named(members: &[ClusterMember], own: &str) -> Vec<(String, Vec<String>)> {
    let name = |member: &ClusterMember| if member.name.is_empty() { own.to_owned() } else { member.name.clone() };
    members.iter().map(|member| (name(member), member.urls.clone())).collect()
}

/// Checks the list of members, which must have one without a name: this node. Returns its URLs.
fn check_members(members: &[ClusterMember]) -> Result<&[String], Error> {
    let wrong = |why: String| Err(Error::invalid_field("members", why));
    let urls = members.iter().map(|member| member.urls.len()).sum::<usize>();
    if members.len() > JOIN_MEMBERS_MAX || urls > JOIN_MEMBERS_MAX {
        return wrong(format!("members lists more than {JOIN_MEMBERS_MAX} members or addresses."));
    }
    if members.len() < 2 {
        return wrong("members must list all members of the cluster, with this node among them.".into());
    }
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = members.iter().find(|member| !seen.insert(&member.name)) {
        return wrong(match twice.name.as_str() {
            "" => "Two members have no name, so it is not clear which one is this node.".into(),
            name => format!("Two members have the name {name}."),
        });
    }
    let mut urls = std::collections::BTreeSet::new();
    for url in members.iter().flat_map(|member| &member.urls) {
        if peers::host_of(url).is_none() {
            return wrong(format!("{url} is not an address of a member, such as https://192.0.2.1:2380."));
        }
        if !urls.insert(url) {
            return wrong(format!("{url} is listed twice."));
        }
    }
    match members.iter().find(|member| member.name.is_empty()) {
        Some(own) if !own.urls.is_empty() => Ok(&own.urls),
        Some(_) => wrong("The member without a name, which is this node, has no address.".into()),
        None => wrong("There is no member without a name, which would be this node. Register it with POST /cluster/members first.".into()),
    }
}
