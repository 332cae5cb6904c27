//! Opens the shared store at boot, where the device's own store says that it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::config::peers;
use crate::device::Device;
use crate::device::joining::Joining;
use crate::device::place::StorePlace;
use crate::error::Error;
use crate::platform::stores::{Begin, Movable, Place, PlaceKind};
use crate::store::switch::{Away, Hold, Switch};
use crate::store::{Ahead, Store, StoreError};

/// Opens the shared store, and removes all stores that are not the one. One that the settings name is open already; its revisions
/// are raised.
///
/// # Errors
/// If a file cannot be opened. An etcd that cannot be started is logged: the HSM is Failed then.
pub(super) async fn open_store(device: &Device) -> Result<(), Unopened> {
    let StorePlace { place, ahead } = StorePlace::stored(&device.store).await?;
    let Some(Movable { switch, keeper }) = &device.platform.movable else {
        raise_revisions(&device.platform.switch, ahead).await;
        return Ok(());
    };
    keeper.keep_only(&[place]).await;
    let store: Arc<dyn Store> = match place.kind {
        PlaceKind::File => keeper.open_file(place.number)?,
        PlaceKind::Etcd => match start_again(device, place.number).await {
            Ok(store) => store,
            Err(why) => {
                tracing::error!(target: "hsm", %why, "the etcd of this node cannot be started; the HSM is Failed");
                Arc::new(Away(why.to_string()))
            }
        },
    };
    switch.replace(Arc::new(Ahead::new(store, ahead)), &switch.hold().await);
    Ok(())
}

/// Shows revisions of the store that the settings name as all other nodes do that use it. Once for each boot or join.
pub(super) async fn raise_revisions(switch: &Switch, by: u64) {
    if by > 0 {
        let hold = switch.hold().await;
        switch.replace(Arc::new(Ahead::new(switch.store(), by)), &hold);
    }
}

/// Opens the shared store at boot, or goes on with a join that was under way when the process ended. The store from before the join stays
/// where it is, and is not opened: the HSM is Failed until the join has come to an end.
///
/// # Errors
/// Those of [`open_store`].
pub(super) async fn open_or_join(device: &Device, restoring: &Arc<AtomicBool>) -> Result<Option<Attempt>, Unopened> {
    let (Some(Movable { switch, keeper }), Some(joining)) =
        (&device.platform.movable, Joining::stored(&device.store).await?)
    else {
        open_store(device).await?;
        return Ok(None);
    };
    tracing::warn!(target: "hsm", "this node is joining a cluster; the boot goes on when it was promoted, or removed");
    let former = StorePlace::stored(&device.store).await?.place;
    keeper.keep_only(&[former, Place { kind: PlaceKind::Etcd, number: joining.number }]).await;
    let hold = switch.hold().await;
    switch.replace(Arc::new(Away("this node is joining a cluster".into())), &hold);
    restoring.store(true, Ordering::SeqCst);
    let _claim = RestoreClaim::taken(restoring.clone());
    let begun = device.platform.clock.monotonic();
    Ok(Some(Attempt { store: None, begun, file_is_open: false, hold, _claim }))
}

/// Why the shared store was not opened.
pub(super) enum Unopened {
    /// Its file cannot be opened.
    File(StoreError),
    /// The device's own store does not tell where it is.
    Device(Error),
}

impl From<StoreError> for Unopened {
    fn from(error: StoreError) -> Self {
        Self::File(error)
    }
}

impl From<Error> for Unopened {
    fn from(error: Error) -> Self {
        Self::Device(error)
    }
}

impl From<Unopened> for Error {
    fn from(error: Unopened) -> Self {
        match error {
            Unopened::File(error) => error.into(),
            Unopened::Device(error) => error,
        }
    }
}

/// Starts the etcd with this number as it was.
///
/// # Errors
/// [`Error::Precondition`] if it cannot be started.
pub(super) async fn start_again(device: &Device, number: u32) -> Result<Arc<dyn Store>, Error> {
    let Some(Movable { keeper, .. }) = &device.platform.movable else {
        return Err(Error::internal("this node has no etcd of its own"));
    };
    let identity = peers::identity(device, None).await?;
    keeper.start_etcd(number, Begin::Again, identity).await.map_err(|why| Error::Precondition(why.0.into()))
}

/// Held by the one restore, move or join that may run at a time.
pub(crate) struct RestoreClaim(Arc<AtomicBool>);

impl RestoreClaim {
    /// The claim that `restoring` was set for.
    pub(super) fn taken(restoring: Arc<AtomicBool>) -> Self {
        Self(restoring)
    }
}

impl Drop for RestoreClaim {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// A join that is under way in this process.
pub(super) struct Attempt {
    /// What the etcd follows. `None`: it was not started yet.
    pub(super) store: Option<Arc<dyn Store>>,
    /// When it was started in this process, by the monotonic clock.
    pub(super) begun: Duration,
    /// Whether the file from before is open, so that it need not be opened if the join is undone.
    pub(super) file_is_open: bool,
    /// Nobody writes meanwhile.
    pub(super) hold: Hold,
    /// Nor is anything restored or moved.
    pub(super) _claim: RestoreClaim,
}
