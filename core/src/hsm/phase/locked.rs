//! Locked: provisioned, but the Domain Key is not in memory. It can only be unlocked.

use std::sync::Arc;

use crate::backup::convert::finish_import;
use crate::crypto::secret::DomainKey;
use crate::device::{Device, slots};
use crate::error::Error;
use crate::hsm::phase::Operational;

/// The HSM without its Domain Key.
pub struct Locked {
    device: Arc<Device>,
}

impl Locked {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        Self { device }
    }

    /// Becomes Operational with the Domain Key in slot 1. `None`: unattended boot is off.
    pub(crate) async fn boot_unattended(&self) -> Result<Option<Arc<Operational>>, Error> {
        match slots::open_slot1(&self.device.store).await? {
            None => Ok(None),
            Some(domain) => self.open(domain).await.map(Some),
        }
    }

    /// Becomes Operational with the Domain Key from a slot, and finishes a restore that waits for it.
    pub(crate) async fn open(&self, domain: DomainKey) -> Result<Arc<Operational>, Error> {
        Box::pin(finish_import(&self.device, &domain)).await?;
        // On the heap, because this future is large and would be moved while it is built.
        Box::pin(Operational::open(self.device.clone(), domain)).await
    }
}
