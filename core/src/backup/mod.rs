//! Backups of the whole HSM in NetHSM's format. Casemate restores those of a NetHSM, and writes its own so that a
//! NetHSM can restore them.
//!
//! [`mod@format`] reads and writes frames, [`json`] and [`nethsm`] NetHSM's records; [`read`] combines them to read a
//! file as it arrives. [`mod@write`] writes a backup under the key of [`mod@passphrase`]. `stage` stores the entries
//! of a backup in rows that nothing reads, and `convert` turns them into records. [`restore`] reads, checks and stages a
//! file with them; the transition between phases that follows is in [`crate::hsm::restore`].

pub(crate) mod convert;
pub(crate) mod device;
pub mod envelope;
pub mod format;
pub mod inspect;
pub mod json;
pub(crate) mod kit;
pub mod nethsm;
pub mod passphrase;
pub mod read;
pub mod restore;
pub(crate) mod stage;
pub mod write;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::crypto::secret::DomainKey;
use crate::error::Error;
use crate::keys::context::Keyring;
use crate::runtime::party::Party;
use crate::runtime::pool::Work;

/// What a backup is made from, borrowed from the Operational phase for one piece at a time.
#[derive(Clone, Copy)]
pub struct Backups<'a> {
    pub(crate) domain: &'a DomainKey,
    pub(crate) ring: Keyring<'a>,
    /// Number of backups that are being written.
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
