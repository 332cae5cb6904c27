//! Moves the shared store between a file and an etcd of this node, while the HSM is used.
//!
//! The record of the place (`device/place.rs`) is written once, while nobody writes to either store. Before that the old
//! store is the only one; afterwards the new one is. A crash in between leaves a store that nobody uses, which the next boot removes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use casemate_api::limits::LOCK_WAIT_MS;

use crate::config::peers;
use crate::device::place::{StorePlace, Written};
use crate::device::procedure::Procedure;
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::hsm::phase::Operational;
use crate::hsm::{Hsm, hold_with_timeout, wrong_state};
use crate::identity::caller::Caller;
use crate::platform::stores::{Begin, EtcdError, Movable, Place, PlaceKind, StoreKeeper};
use crate::rows::cluster_id::ClusterId;
use crate::rows::path::{DevicePath, cluster_identity, node_fences};
use crate::runtime::{First, first};
use crate::store::copy::Copy;
use crate::store::{Ahead, Outcome, Path, Revision, Store, Txn};

impl Hsm {
    /// Moves the shared store from its file into an etcd of this node, which becomes the only member of a new cluster. Nothing
    /// is done if it is there already. The HSM goes on meanwhile, except that for a moment nothing can be changed.
    ///
    /// # Errors
    /// [`Error::Precondition`] if this node cannot have an etcd, with the reason, or if the state has changed;
    /// [`Error::Unauthenticated`] if `by` lost the right in the meantime; [`Error::Unavailable`] if a restore or another move runs, or
    /// a store does not keep up.
    pub async fn found_cluster(&self, op: Arc<Operational>, by: &Caller) -> Result<(), Error> {
        self.movable()?;
        if StorePlace::stored(&self.device.store).await?.place.kind == PlaceKind::Etcd {
            return Ok(());
        }
        // The etcd must be able to start when the store cannot be read.
        op.config().mirror_cluster_ca(by).await?;
        self.move_store(op, by, PlaceKind::Etcd).await
    }

    /// Moves the shared store back into a file, and ends the etcd of this node.
    ///
    /// # Errors
    /// [`Error::Precondition`] if there are other members; those of [`Hsm::found_cluster`].
    pub async fn dissolve_cluster(&self, op: Arc<Operational>, by: &Caller) -> Result<(), Error> {
        let movable = self.movable()?;
        if StorePlace::stored(&self.device.store).await?.place.kind == PlaceKind::Etcd {
            check_alone(&*movable.keeper).await?;
        }
        self.move_store(op, by, PlaceKind::File).await
    }

    /// What lets the store of this node move.
    ///
    /// # Errors
    /// [`Error::Precondition`] if it cannot.
    pub(super) fn movable(&self) -> Result<&Movable, Error> {
        let external = "The users and keys of this node are in an etcd that its settings name. Its members are changed there, with the tools of etcd.";
        self.device.platform.movable.as_ref().ok_or_else(|| Error::Precondition(external.into()))
    }

    async fn move_store(&self, op: Arc<Operational>, by: &Caller, kind: PlaceKind) -> Result<(), Error> {
        // The HSM can be locked while the copy is made.
        let op = Arc::downgrade(&op);
        let Movable { switch, keeper } = self.movable()?;
        // A restore would replace what is being copied.
        let _claim = self.claim_restore()?;
        if Procedure::stored(&self.device.store).await?.is_some() {
            return Err(Error::Unavailable("A restore was interrupted. Reboot, then try again.".into()));
        }
        let now = StorePlace::stored(&self.device.store).await?.place;
        if now.kind == kind {
            return Ok(());
        }
        let next = Place { kind, number: now.number.saturating_add(1) };
        keeper.keep_only(&[now]).await;
        let begun = self.device.platform.clock.monotonic();
        let to = match kind {
            PlaceKind::File => keeper.open_file(next.number)?,
            PlaceKind::Etcd => {
                let identity = peers::identity(&self.device, None).await?;
                let refused = |why: EtcdError| Error::Precondition(why.0.into());
                let urls = keeper.urls(&identity).map_err(refused)?;
                peers::check(&identity, &urls, self.device.wall())?;
                keeper.start_etcd(next.number, Begin::Found, identity).await.map_err(refused)?
            }
        };
        let copied = Copy::begin(switch.store(), to.clone(), is_copied).await;
        let moved = match copied {
            Ok(copy) => self.switch_over(&op, by, copy, (next, to)).await,
            Err(error) => Switched::No(error),
        };
        let (place, result) = match moved {
            Switched::Yes { rows } => {
                let took = self.device.platform.clock.monotonic().saturating_sub(begun);
                tracing::info!(target: "hsm", rows, ms = took.as_millis(), kind = ?next.kind, "the store was moved");
                (next, Ok(()))
            }
            Switched::No(error) => (now, Err(error)),
            // Neither store may be removed.
            Switched::Unknown(error) => return Err(error),
        };
        match place.kind {
            PlaceKind::File => keeper.stop_etcd().await,
            PlaceKind::Etcd => self.renew_peer_identity().await,
        }
        keeper.keep_only(&[place]).await;
        result
    }

    /// Makes the copy the store of this node.
    async fn switch_over(
        &self,
        op: &Weak<Operational>,
        by: &Caller,
        copy: Copy,
        (place, to): (Place, Arc<dyn Store>),
    ) -> Switched {
        let _guard = self.lock_transitions().await;
        let ready = async {
            let op = op.upgrade().ok_or_else(wrong_state)?;
            if !self.operational().is_some_and(|now| Arc::ptr_eq(&now, &op)) {
                return Err(wrong_state());
            }
            let held = hold_with_timeout(&op, by).await?;
            Ok((self.movable()?, held, op))
        };
        let (Movable { switch, keeper }, _held, op) = match ready.await {
            Ok(ready) => ready,
            Err(error) => return Switched::No(error),
        };
        let last = async {
            let hold = switch.hold().await;
            if place.kind == PlaceKind::File {
                // One may have been added since.
                check_alone(&**keeper).await?;
            }
            let (revision, rows) = copy.finish().await?;
            let cluster = match place.kind {
                PlaceKind::File => None,
                PlaceKind::Etcd => Some(self.found_in(&*to).await?),
            };
            Ok::<_, Error>((hold, revision, rows, cluster))
        };
        // While this waits, the HSM can neither be changed nor locked.
        let limit = self.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS));
        let late = "The stores did not answer in time. Nothing was moved; try again.";
        let (hold, Revision(ahead), rows, cluster) = match first(last, limit).await {
            First::Left(Ok(done)) => done,
            First::Left(Err(error)) => return Switched::No(error),
            First::Right(()) => return Switched::No(Error::Unavailable(late.into())),
        };
        let wanted = StorePlace { place, ahead };
        let change = match cluster {
            Some(cluster) => DeviceStoreChange::default().put(DevicePath::Cluster, cluster.bytes()),
            None => DeviceStoreChange::default().delete(DevicePath::Cluster),
        };
        // Nobody may write to a store that may no longer be the one.
        let hold = hold.keep();
        let written = wanted.write(&self.device.store, change).await;
        if let Written::Unknown(error) = written {
            self.reboot_to_find_the_store(&error);
            return Switched::Unknown(error);
        }
        let hold = hold.let_go();
        if let Written::No(error) = written {
            return Switched::No(error);
        }
        switch.replace(Arc::new(Ahead::new(to, ahead)), &hold);
        drop(hold);
        if self.reopen_moved(&op).await {
            self.close_later(&op);
        }
        Switched::Yes { rows }
    }

    /// Shows members what is stored: it may have been replaced since the etcd was started, when that was not the store yet.
    pub(super) async fn renew_peer_identity(&self) {
        let Some(Movable { keeper, .. }) = &self.device.platform.movable else { return };
        match peers::identity(&self.device, None).await {
            Ok(identity) => keeper.renew(identity),
            Err(error) => {
                tracing::error!(target: "hsm", %error, "the TLS certificate cannot be read; the etcd of this node uses the one from its start");
            }
        }
    }

    /// The record of where the store is could not be confirmed.
    pub(super) fn reboot_to_find_the_store(&self, error: &Error) {
        tracing::error!(target: "hsm", %error, "it is not known where the store is; the HSM reboots to find out");
        self.device.platform.host.reboot();
    }

    /// Writes the id of a new cluster into its store.
    async fn found_in(&self, to: &dyn Store) -> Result<ClusterId, Error> {
        let cluster = ClusterId::random(&*self.device.platform.rng);
        let outcomes = to.commit(vec![Txn { put: vec![cluster.row()], ..Txn::default() }]).await?;
        match outcomes.as_slice() {
            [Outcome::Committed(_)] => Ok(cluster),
            _ => Err(Error::Unavailable("The new store did not confirm a write. Nothing was moved; try again.".into())),
        }
    }

    /// Replaces `old` by a phase on the same data in another place.
    async fn reopen_moved(&self, old: &Operational) -> bool {
        self.reopen_with(old, Some(old.counters().clone())).await
    }
}

/// Checks that the node is the only member of its cluster.
async fn check_alone(keeper: &dyn StoreKeeper) -> Result<(), Error> {
    match keeper.members().await?.len() {
        1 => Ok(()),
        _ => Err(Error::Precondition(
            "The cluster has other members. Remove them first: only the last one can go back to a file.".into(),
        )),
    }
}

/// Whether a copy has become the store.
enum Switched {
    /// It has.
    Yes { rows: u64 },
    /// The old store is as it was.
    No(Error),
    /// The next boot finds out.
    Unknown(Error),
}

/// Whether a row is that of the data, not one that only this store needs.
pub(super) fn is_copied(path: &Path) -> bool {
    *path != cluster_identity() && !path.as_bytes().starts_with(node_fences().as_bytes())
}
