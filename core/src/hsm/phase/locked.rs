//! Locked: provisioned, but the Domain Key is not in memory. The only power is to unlock.

use std::sync::Arc;

use crate::backup::convert::finish_import;
use crate::crypto::secret::DomainKey;
use crate::device::slots;
use crate::device::store::Local;
use crate::error::Error;
use crate::hsm::phase::Operational;
use crate::identity::limiter::Limiter;
use crate::platform::Platform;

/// The HSM without its Domain Key.
pub struct Locked {
    platform: Platform,
    local: Arc<Local>,
    limiter: Arc<Limiter>,
    device_id: String,
}

impl Locked {
    pub(crate) fn new(platform: Platform, local: Arc<Local>, limiter: Arc<Limiter>, device_id: String) -> Self {
        Self { platform, local, limiter, device_id }
    }

    /// Opens slot 1. `None`: unattended boot is off.
    pub(crate) async fn boot_unattended(&self) -> Result<Option<Arc<Operational>>, Error> {
        match slots::open_slot1(&self.local).await? {
            None => Ok(None),
            Some(domain) => self.open(domain).await.map(Some),
        }
    }

    /// Becomes Operational with the Domain Key that a slot held.
    pub(crate) async fn open(&self, domain: DomainKey) -> Result<Arc<Operational>, Error> {
        Box::pin(finish_import(&self.platform, &self.local, &self.device_id, &domain)).await?;
        let (platform, limiter) = (self.platform.clone(), self.limiter.clone());
        // On the heap, for the future of a whole phase is large, and futures are moved while they are made.
        Box::pin(Operational::open(platform, self.local.clone(), limiter, self.device_id.clone(), domain)).await
    }
}
