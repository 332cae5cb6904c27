//! Opens the shared store at boot, where the device's own store says that it is.

use std::sync::Arc;

use crate::config::peers;
use crate::device::Device;
use crate::device::place::StorePlace;
use crate::error::Error;
use crate::platform::stores::{Begin, Movable, PlaceKind};
use crate::store::switch::Away;
use crate::store::{Ahead, Store};

/// Opens the shared store, and removes all stores that are not the one.
///
/// # Errors
/// If a file cannot be opened. An etcd that cannot be started is logged: the HSM is Failed then.
pub(super) async fn open_store(device: &Device) -> Result<(), Error> {
    let Some(Movable { switch, keeper }) = &device.platform.movable else { return Ok(()) };
    let StorePlace { place, ahead } = StorePlace::stored(&device.store).await?;
    keeper.keep_only(&[place]);
    let store: Arc<dyn Store> = match place.kind {
        PlaceKind::File => keeper.open_file(place.number)?,
        PlaceKind::Etcd => {
            let identity = peers::identity(device, None).await?;
            match keeper.start_etcd(place.number, Begin::Again, identity).await {
                Ok(store) => store,
                Err(why) => {
                    tracing::error!(target: "hsm", %why, "the etcd of this node cannot be started; the HSM is Failed");
                    Arc::new(Away(why.0))
                }
            }
        }
    };
    switch.replace(Arc::new(Ahead::new(store, ahead)), &switch.hold().await);
    Ok(())
}
