//! A further node joins a cluster: a node makes a joiner kit, and an Unprovisioned node whose settings name the same shared
//! store becomes Locked with it.
//!
//! What is read from the kit is written in one transaction of the device's own store. Before it the node is Unprovisioned,
//! afterwards Locked; the shared store is not written at all until the node is unlocked.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use casemate_api::body::cluster::{Join, NewMember};
use casemate_api::{SecretText, State};

use crate::backup::kit::JoinerKit;
use crate::backup::passphrase::backup_key;
use crate::config::parse_time;
use crate::device::Device;
use crate::device::limiter::Guess;
use crate::device::place::StorePlace;
use crate::device::procedure::Procedure;
use crate::device::slots::Slot0;
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::hsm::open::raise_revisions;
use crate::hsm::phase::{Operational, undo_provisioning};
use crate::hsm::{Hsm, wrong_state};
use crate::identity::caller::Caller;
use crate::rows::cluster_id::{ClusterId, Found};
use crate::rows::path::{DevicePath, node_fence};
use crate::runtime::party::Party;
use crate::store::Read;

impl Operational {
    /// A joiner kit for the node `new`, which shares this node's store. The kit is not bound to that node.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad addresses; [`Error::Precondition`] for a member, if the store of this node is its own,
    /// or if no backup passphrase is set.
    pub async fn invite(&self, new: &NewMember) -> Result<SecretText, Error> {
        let is_url = |url: &String| url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty());
        if new.urls.is_empty() || !new.urls.iter().all(is_url) {
            return Err(Error::invalid("urls must list at least one address, each like https://IP:PORT."));
        }
        let refuse = |why: &'static str| Err(Error::Precondition(why.into()));
        if !new.serving {
            return refuse(
                "The members of this etcd are changed with its own tools. A node that shares the store is added with \"serving\": true.",
            );
        }
        if !self.shares_store() {
            return refuse(
                "The store of this node is a file of its own, and no other node can share it. Members join a cluster without \"serving\"; nodes share an etcd with the setting store = \"etcd\".",
            );
        }
        self.backups().joiner_kit().await
    }
}

impl Hsm {
    /// For `by`, who is present while Operational: joins a cluster as a member of it. Otherwise Unprovisioned → Locked, as a further node of the cluster that the kit is from. It is unlocked with the unlock passphrase
    /// of the node that made the kit. The slow hash runs before the lock on transitions is taken.
    ///
    /// # Errors
    /// [`Error::Precondition`] in another state, if the shared store is not that of the kit's cluster, or if a node with the
    /// same device id uses it; [`Error::Invalid`] for a bad kit or time, or a wrong backup passphrase; [`Error::TooMany`] within
    /// a second of a wrong one; [`Error::Unavailable`] while a restore is running, or if a store does not answer.
    pub async fn join(&self, address: IpAddr, by: Option<&Caller>, wanted: &Join) -> Result<(), Error> {
        if let Some(by) = by {
            return self.join_as_member(address, by, wanted).await;
        }
        let Device { platform, store: local, .. } = &*self.device;
        let begun = platform.clock.monotonic();
        if self.state() != State::Unprovisioned {
            return Err(wrong_state());
        }
        if !platform.store.is_shared() {
            return Err(Error::Precondition(
                "The store of this node is a file of its own. To share the etcd of a cluster, its settings must name it: store = \"etcd\". To become a member, the node must be provisioned first, and have the cluster CA.".into(),
            ));
        }
        let kit = JoinerKit::read(&wanted.joiner_kit)?;
        let time = wanted.system_time.as_deref().map(parse_time).transpose()?;
        let slot = self.open_kit(address, &kit, wanted).await?;

        let _guard = self.transition.lock().await;
        if self.state() != State::Unprovisioned {
            return Err(wrong_state());
        }
        if self.restoring.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("A restore is running. Try again when it is over.".into()));
        }
        self.check_shared_store(&kit).await?;
        // In an etcd that members run, rows continue the revisions of the store from which they were moved there.
        let place = StorePlace { ahead: kit.ahead, ..StorePlace::stored(local).await? };
        let mut change = place
            .record_in(DeviceStoreChange::default())
            .put(DevicePath::Slot0, slot.inner)
            .put(DevicePath::UnlockSalt, slot.salt)
            .put(DevicePath::Cluster, kit.cluster.bytes())
            .delete(DevicePath::Slot1);
        let offset_s = time.map(|time| self.device.offset_s(time, begun));
        if let Some(offset_s) = offset_s {
            change = change.put(DevicePath::ClockOffset, offset_s.to_be_bytes());
        }
        // The only credential is the backup passphrase, so the audit record is written after it proved right.
        self.audit.entering(State::Locked).await?;
        if let Err(error) = local.commit(change).await {
            self.audit.entered(State::Unprovisioned);
            return Err(error);
        }
        if let Some(offset_s) = offset_s {
            self.device.use_clock_offset(offset_s);
        }
        raise_revisions(&platform.switch, kit.ahead).await;
        self.swap(self.locked());
        Ok(())
    }

    /// Opens the kit with the backup passphrase. Wrong ones are counted like those of [`Hsm::unlock`].
    pub(super) async fn open_kit(&self, address: IpAddr, kit: &JoinerKit, wanted: &Join) -> Result<Slot0, Error> {
        let guess = self.device.admit(Guess::Join(address.into()))?;
        let party = Party::Address(address.into());
        let key = backup_key(&self.device.platform, party, &wanted.backup_passphrase, kit.backup_salt).await?;
        match kit.open(&key)? {
            Some(slot) => {
                guess.right();
                Ok(slot)
            }
            None => {
                guess.wrong();
                tracing::warn!(target: "hsm", %address, "an attempt to join with a wrong backup passphrase failed");
                Err(Error::invalid("Could not decrypt unlock-salt: invalid passphrase"))
            }
        }
    }

    /// Checks that the shared store is that of the kit's cluster and that no node there has this device's id. The caller holds
    /// the lock on transitions.
    async fn check_shared_store(&self, kit: &JoinerKit) -> Result<(), Error> {
        let Device { platform, store: local, id, .. } = &*self.device;
        let refuse = |why: String| Err(Error::Precondition(why.into()));
        match Procedure::stored(local).await? {
            None => {}
            // A provisioning that failed, for instance because another node was faster.
            Some(Procedure::Provision) => undo_provisioning(platform, local, id).await?,
            Some(Procedure::Stage { .. } | Procedure::Import { .. }) => {
                return Err(Error::Unavailable("A restore was interrupted. Reboot, then try again.".into()));
            }
        }
        match ClusterId::found_in(&*platform.store).await? {
            Found::Known(found, _) if found == kit.cluster => {}
            Found::Known(..) => {
                return refuse(
                    "The joiner kit is from another cluster than the one whose store the settings name: correct etcd-prefix or etcd-endpoints, or use a kit of that cluster.".into(),
                );
            }
            Found::None => {
                return refuse(
                    "The store that the settings name holds no cluster: correct etcd-prefix or etcd-endpoints.".into(),
                );
            }
            Found::Unknown => {
                return refuse(
                    "The shared store was written by a later version of casemated: install that one.".into(),
                );
            }
        }
        if platform.store.get(&node_fence(id), Read::Fresh).await?.is_some() {
            return refuse(format!(
                "another node of this cluster has the same device id: {id}. Two nodes must not have the same Device Key."
            ));
        }
        Ok(())
    }
}
