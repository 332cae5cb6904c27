//! Backups of the whole HSM, in NetHSM's format: written by us, restored by us or by a NetHSM, and the other way round.
//!
//! [`mod@format`] knows frames, [`json`] and [`nethsm`] NetHSM's records, [`read`] joins them to a file that is opened as it
//! comes. [`mod@write`] makes one, under the key of [`mod@passphrase`];
//! [`stage`] and [`convert`] take one, by way of rows that wait where nobody reads; the restore itself is a transition between
//! phases, [`crate::hsm::restore`].

pub(crate) mod convert;
pub(crate) mod device;
pub mod envelope;
pub mod format;
pub mod inspect;
pub mod json;
pub mod nethsm;
pub mod passphrase;
pub mod read;
pub(crate) mod stage;
pub mod write;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::crypto::secret::DomainKey;
use crate::error::Error;
use crate::keys::ring::Keyring;
use crate::runtime::party::Party;
use crate::runtime::pool::Work;

/// All that a backup is made from: what an Operational phase lends for one piece at a time.
#[derive(Clone, Copy)]
pub struct Backups<'a> {
    pub(crate) domain: &'a DomainKey,
    pub(crate) ring: Keyring<'a>,
    /// Backups that are being made.
    pub(crate) running: &'a Arc<AtomicUsize>,
}

impl Backups<'_> {
    /// Runs `job` on the pool's lane for backups, unless the phase has ended by then.
    async fn off_thread<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        self.ring.life.off_thread(&*self.ring.device.platform.pool, Work::Backup, Party::Hsm, job).await
    }
}

#[cfg(test)]
mod tests;
