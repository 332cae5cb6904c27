//! Makes a Failed member a node of its own again, when its cluster has removed it or is lost.
//!
//! The rows that its etcd has on the disk are copied into a file, which becomes the store as in a move (`place.rs`). The etcd is not
//! used any more, and nothing that the former members know fits what comes after: when this node founds a cluster again, that is another
//! one. What only the others had received is lost.

use std::sync::Arc;

use crate::device::joining::Joining;
use crate::device::place::{StorePlace, Written};
use crate::device::procedure::Procedure;
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::hsm::open::open_store;
use crate::hsm::phase::{Failed, Phase, Resume};
use crate::hsm::place::is_copied;
use crate::hsm::{Hsm, wrong_state};
use crate::platform::stores::{Movable, Place, PlaceKind, Standing, StoreKeeper};
use crate::rows::path::DevicePath;
use crate::runtime::witness;
use crate::store::Revision;
use crate::store::copy::copy_whole;

/// What has become of a Failed node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForcedNew {
    /// It has the rows of the cluster, up to those that it had received.
    Recovered,
    /// It was joining a cluster, and has its own data from before.
    JoinGivenUp,
}

impl Hsm {
    /// Failed → a node with its store in a file, which reboots. Its rows are those that its etcd has on the disk. A node that was joining
    /// a cluster goes back to its own data. Uses of keys that were counted and not yet written are forgotten, as in a crash.
    ///
    /// # Errors
    /// [`Error::Precondition`] in another state, or if a cluster that lives counts on the node; [`Error::Invalid`] if it has no etcd of
    /// its own, or if the rows cannot be read; [`Error::Unavailable`] if a restore or a move runs, or the device's own store does not
    /// answer. Everything is as it was then, unless the HSM reboots to find out.
    pub async fn force_new(&self) -> Result<ForcedNew, Error> {
        let Some(Movable { keeper, .. }) = &self.device.platform.movable else { return Err(no_etcd()) };
        let keeper = &**keeper;
        if Joining::stored(&self.device.store).await?.is_some() {
            return self.give_up_join(keeper).await;
        }
        let claim = self.claim_restore()?;
        if Procedure::stored(&self.device.store).await?.is_some() {
            return Err(Error::Unavailable("A restore was interrupted. Reboot, then try again.".into()));
        }
        let now = StorePlace::stored(&self.device.store).await?;
        if now.place.kind == PlaceKind::File {
            return Err(no_etcd());
        }
        let held = self.hold_failed().await?;
        let begun = self.device.platform.clock.monotonic();
        match self.recover(keeper, now).await {
            Ok((place, rows)) => {
                let took = self.device.platform.clock.monotonic().saturating_sub(begun);
                tracing::warn!(target: "hsm", rows, ms = took.as_millis(), "this node is no member of a cluster any more; its own rows are in a file");
                keeper.keep_only(&[place]).await;
                self.device.platform.host.reboot();
                Ok(ForcedNew::Recovered)
            }
            Err(Unrecovered::No(error)) => {
                keeper.stop_etcd().await;
                keeper.keep_only(&[now.place]).await;
                // What cannot be started now is tried again.
                if let Err(error) = open_store(&self.device).await.map_err(Error::from) {
                    tracing::error!(target: "hsm", %error, "the store of this node cannot be started now; this is tried again");
                }
                self.let_go_of_failed(&held).await;
                Err(error)
            }
            Err(Unrecovered::Unknown(error)) => {
                // No store may be started or removed before the reboot.
                std::mem::forget(claim);
                Err(error)
            }
        }
    }

    /// Lets the HSM stay Failed although its store may answer. Returns that phase.
    async fn hold_failed(&self) -> Result<Arc<Phase>, Error> {
        let _guard = self.lock_transitions().await;
        let resume = match &*self.phase() {
            Phase::Failed(Failed { resume: Some(resume @ (Resume::Phase(_) | Resume::Boot)) }) => resume.clone(),
            _ => return Err(wrong_state()),
        };
        self.enter(Phase::Failed(Failed { resume: Some(Resume::Held(Box::new(resume))) }));
        Ok(self.phase())
    }

    /// The HSM may go on when its store answers, unless it is in another phase than `held` by now.
    async fn let_go_of_failed(&self, held: &Arc<Phase>) {
        let _guard = self.lock_transitions().await;
        if let Phase::Failed(Failed { resume: Some(Resume::Held(resume)) }) = &**held
            && Arc::ptr_eq(&self.phase(), held)
        {
            self.enter(Phase::Failed(Failed { resume: Some((**resume).clone()) }));
        }
    }

    /// Copies the rows of the etcd at `now` into a file, and makes that the store. Returns its place and how many rows there are.
    async fn recover(&self, keeper: &dyn StoreKeeper, now: StorePlace) -> Result<(Place, u64), Unrecovered> {
        let failed = |why: String| Error::invalid(format!("recovery failed: {why}"));
        keeper.stop_etcd().await;
        keeper.keep_only(&[now.place]).await;
        let (copy, number) = (now.place.number.saturating_add(1), now.place.number.saturating_add(2));
        let rows = keeper.recover(now.place.number, copy, &self.device.id).await.map_err(|why| failed(why.0))?;
        let place = Place { kind: PlaceKind::File, number };
        let to = keeper.open_file(number).map_err(Error::from)?;
        let count = copy_whole(&*rows, &*to, is_copied).await?;
        let Revision(last) = rows.revision();
        drop(rows);
        keeper.stop_etcd().await;
        let ahead = now.ahead.saturating_add(last);
        let change = DeviceStoreChange::default().delete(DevicePath::Cluster);
        match (StorePlace { place, ahead }).write(&self.device.store, change).await {
            Written::Yes => {}
            Written::No(error) => return Err(Unrecovered::No(error)),
            Written::Unknown(error) => {
                self.reboot_to_find_the_store(&error);
                return Err(Unrecovered::Unknown(error));
            }
        }
        // The audit log tells up to where this node knew the data.
        witness::note(ahead);
        Ok((place, count))
    }

    /// A node that was to join a cluster goes back to its own data, because the cluster cannot let it go any more.
    async fn give_up_join(&self, keeper: &dyn StoreKeeper) -> Result<ForcedNew, Error> {
        let mut attempt = self.joining.lock().await;
        if Joining::stored(&self.device.store).await?.is_none() || !matches!(&*self.phase(), Phase::Failed(_)) {
            return Err(wrong_state());
        }
        if keeper.standing().await == Standing::Voter {
            return Err(Error::Precondition(
                "The cluster works and has promoted this node. Wait until it has joined, or have the cluster remove it.".into(),
            ));
        }
        let undone = self.undo_join(&mut attempt, "whoever holds the unlock passphrase has given it up").await;
        if Joining::stored(&self.device.store).await?.is_none() {
            // What could not be started is started by the boot.
            self.device.platform.host.reboot();
        }
        undone.map(|_| ForcedNew::JoinGivenUp)
    }
}

fn no_etcd() -> Error {
    Error::invalid(
        "cluster error: backend is not an etcd of this node. A store in a file needs no recovery; an etcd that the settings name is recovered with its own tools.",
    )
}

/// Why rows were not recovered.
enum Unrecovered {
    /// The etcd is still the store.
    No(Error),
    /// The next boot finds out.
    Unknown(Error),
}

impl From<Error> for Unrecovered {
    fn from(error: Error) -> Self {
        Self::No(error)
    }
}
