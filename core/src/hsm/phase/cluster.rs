//! Whether the shared store that the settings name is that of the cluster this device belongs to.

use crate::device::Device;
use crate::device::procedure::Procedure;
use crate::error::Error;
use crate::rows::cluster_id::{ClusterId, Found};
use crate::rows::path::DevicePath;

/// Checks that the shared store is the one that this device was provisioned with.
///
/// # Errors
/// [`Error::Precondition`] with what to do if it is not.
pub(crate) async fn check_cluster(device: &Device) -> Result<(), Error> {
    let refuse = |why: &'static str| Err(Error::Precondition(why.into()));
    let ours = device.store.get(DevicePath::Cluster).await?;
    let provisioned = device.store.get(DevicePath::Slot0).await?.is_some();
    if !device.platform.store.is_shared() {
        return match ours {
            Some(_) if provisioned => refuse(
                "the keys of this HSM are in etcd, but the settings say that they are in this folder: set store = \"etcd\"",
            ),
            _ => Ok(()),
        };
    }
    if !provisioned {
        return Ok(());
    }
    let Some(ours) = ours else {
        return refuse(
            "the keys of this HSM are in this folder, but the settings say that they are in etcd: set store = \"embedded\"",
        );
    };
    match ClusterId::found_in(&*device.platform.store).await? {
        Found::Known(found, _) if found.bytes() == ours.as_slice() => Ok(()),
        Found::Known(..) => {
            refuse("the etcd-prefix holds the data of another cluster: correct etcd-prefix or etcd-endpoints")
        }
        // A restore founds its cluster when it is finished.
        Found::None if matches!(Procedure::stored(&device.store).await?, Some(Procedure::Import { .. })) => Ok(()),
        Found::None => refuse("the etcd-prefix holds no data: correct etcd-prefix or etcd-endpoints"),
        Found::Unknown => refuse("the etcd-prefix was written by a later version of casemated: install that one"),
    }
}
