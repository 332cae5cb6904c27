//! The volume of the stores, and the space on it that is reserved.
//!
//! Two measures keep an HSM usable on a full disk. Transactions that add data are refused when free space falls below
//! the reserve, so that deletions, the audit log and the slots still have some. And as other programs may fill the
//! volume to its last byte, some space is allocated beforehand by a file, the ballast, which is deleted when a write
//! needs the room and created again when there is enough. The file has no contents: a crash at any moment leaves it
//! complete, absent or short.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use casemate_api::limits::{STORE_BALLAST_BYTES, STORE_RESERVE_BYTES, STORE_RESERVE_SHARE};
use casemate_core::store::Txn;
use rustix::fs::{FallocateFlags, fallocate};

use crate::durable::NOFOLLOW;

/// The volume of one data folder, shared by its stores.
#[derive(Debug)]
pub struct Volume {
    folder: PathBuf,
    /// Whether creating the ballast failed, which is logged once. Not every file system can allocate in advance.
    bare: AtomicBool,
    /// Space that a test pretends.
    #[cfg(test)]
    pub(super) pretended: std::sync::Mutex<Option<Space>>,
}

/// Size and free space of a volume, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    pub(super) free: u64,
    pub(super) total: u64,
}

impl Space {
    /// Free space that transactions which add data must leave, in bytes.
    pub(super) fn reserve(self) -> u64 {
        STORE_RESERVE_BYTES.min(self.total / STORE_RESERVE_SHARE)
    }

    fn ballast(self) -> u64 {
        STORE_BALLAST_BYTES.min(self.total / STORE_RESERVE_SHARE / 2)
    }
}

impl Volume {
    /// The volume that holds `folder`.
    pub fn of(folder: &Path) -> Arc<Self> {
        Arc::new(Self {
            folder: folder.into(),
            bare: AtomicBool::new(false),
            #[cfg(test)]
            pretended: std::sync::Mutex::default(),
        })
    }

    /// Current size and free space. If they cannot be determined there is assumed to be room: the write will tell.
    pub(super) fn space(&self) -> Space {
        #[cfg(test)]
        if let Some(space) = *self.pretended.lock().unwrap() {
            return space;
        }
        let plenty = Space { free: u64::MAX, total: u64::MAX };
        rustix::fs::statvfs(&self.folder).map_or(plenty, |found| Space {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }

    /// Whether transactions that add data are refused.
    pub(super) fn is_nearly_full(&self) -> bool {
        let space = self.space();
        space.free < space.reserve()
    }

    /// Releases the ballast if that is needed to write `bytes` bytes.
    pub(super) fn make_room(&self, bytes: u64) {
        if self.space().free < bytes {
            self.release_ballast();
        }
    }

    /// Deletes the ballast; returns whether there was one.
    pub fn release_ballast(&self) -> bool {
        let given = fs::remove_file(self.file()).is_ok();
        if given {
            tracing::warn!(folder = %self.folder.display(), "the disk is full: the reserved space is used now");
        }
        given
    }

    /// Creates the ballast if it is missing and there is room for it above the reserve.
    pub fn keep_ballast(&self) {
        let space = self.space();
        let wanted = space.ballast();
        let has = fs::symlink_metadata(self.file()).map_or(0, |file| file.blocks().saturating_mul(512));
        if self.bare.load(Ordering::Relaxed) || has >= wanted || space.free < space.reserve().saturating_add(wanted) {
            return;
        }
        if let Err(error) = self.allocate(wanted) {
            // Another program may have taken the room first; that may be different next time.
            self.bare.store(!is_out_of_space(&error), Ordering::Relaxed);
            tracing::warn!(%error, folder = %self.folder.display(), "cannot reserve disk space for the case that the disk is full");
            let _ = fs::remove_file(self.file());
        }
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(NOFOLLOW);
        let file = options.open(self.file())?;
        Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("reserve")
    }
}

/// Whether an error means that the disk, a quota or a limit on files is used up.
pub(super) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// Upper bound for what writing these may take of the volume, in bytes: values are stored in pages, large ones in a
/// power of two of them, and each changed row rewrites the page around it.
pub(super) fn need(txns: &[Txn]) -> u64 {
    let rows = txns.iter().map(|txn| txn.put.len() + txn.delete.len()).sum::<usize>() as u64;
    let values = txns.iter().flat_map(|txn| &txn.put).map(|(path, value)| taken(path.as_bytes().len() + value.len()));
    rows.saturating_mul(2 * PAGE_BYTES).saturating_add(values.sum())
}

/// What a row of this many bytes takes in the file.
pub(super) fn taken(bytes: usize) -> u64 {
    let bytes = bytes as u64 + ROW_BYTES;
    if bytes > PAGE_BYTES / 2 { bytes.next_power_of_two() } else { bytes }
}

/// redb's page size, and what it and we add to a row.
const PAGE_BYTES: u64 = 4096;
const ROW_BYTES: u64 = 64;
