//! Locked: provisioned, but the Domain Key is not in memory. The only power is to unlock.

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

    /// Opens slot 1. `None`: unattended boot is off.
    pub(crate) async fn boot_unattended(&self) -> Result<Option<Arc<Operational>>, Error> {
        match slots::open_slot1(&self.device.store).await? {
            None => Ok(None),
            Some(domain) => self.open(domain).await.map(Some),
        }
    }

    /// Becomes Operational with the Domain Key that a slot held.
    pub(crate) async fn open(&self, domain: DomainKey) -> Result<Arc<Operational>, Error> {
        Box::pin(finish_import(&self.device, &domain)).await?;
        // On the heap, for the future of a whole phase is large, and futures are moved while they are made.
        Box::pin(Operational::open(self.device.clone(), domain)).await
    }
}
