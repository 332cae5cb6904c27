//! Locked: provisioned, but the Domain Key is not in memory. The only power is to unlock.

use std::sync::Arc;

use crate::backup::convert::{finish_import, import_waits, undo_import};
use crate::error::Error;
use crate::limiter::Limiter;
use crate::local::Local;
use crate::phase::Operational;
use crate::platform::Platform;
use crate::secret::DomainKey;
use crate::slots;

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

    /// Opens slot 0, or, while a restore waits to be unlocked for the first time, the slot 0 of before, which undoes the
    /// restore. `None`: the passphrase is wrong.
    pub(crate) async fn unlock(&self, passphrase: &[u8]) -> Result<Option<Arc<Operational>>, Error> {
        if let Some(domain) = slots::open_slot0(&self.local, &self.platform, passphrase).await? {
            return self.open(domain).await.map(Some);
        }
        if !import_waits(&self.platform, &self.local).await? {
            return Ok(None);
        }
        match slots::open_former_slot0(&self.local, &self.platform, passphrase).await? {
            None => Ok(None),
            Some(domain) => {
                undo_import(&self.platform, &self.local, "the former unlock passphrase undid it").await?;
                self.open(domain).await.map(Some)
            }
        }
    }

    /// Opens slot 1. `None`: unattended boot is off.
    pub(crate) async fn boot_unattended(&self) -> Result<Option<Arc<Operational>>, Error> {
        match slots::open_slot1(&self.local).await? {
            None => Ok(None),
            Some(domain) => self.open(domain).await.map(Some),
        }
    }

    async fn open(&self, domain: DomainKey) -> Result<Arc<Operational>, Error> {
        Box::pin(finish_import(&self.platform, &self.local, &self.device_id, &domain)).await?;
        let (platform, limiter) = (self.platform.clone(), self.limiter.clone());
        // On the heap, for the future of a whole phase is large, and futures are moved while they are made.
        Box::pin(Operational::open(platform, self.local.clone(), limiter, self.device_id.clone(), domain)).await
    }
}
