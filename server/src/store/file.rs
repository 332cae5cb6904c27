//! The file of an embedded store: created completely or not at all, opened only if it is a store, and otherwise left
//! unchanged.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use casemate_core::store::{Revision, StoreError};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable};

use super::disk::Disk;
use super::row::{self, FIRST_FORMAT_VERSION, FORMAT, FORMAT_VERSION, META, REVISION, ROWS};
use super::volume::is_out_of_space;
use crate::durable::{self, NOFOLLOW};

/// Why a store could not be opened. The file is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("another process uses the store")]
    Busy,
    /// The file is not a store.
    #[error("the file is not a store of Casemate")]
    NotAStore,
    /// The file is a damaged store.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The disk is full.
    #[error("the disk is full, so the store cannot be opened; free some space")]
    Full,
    /// The disk or the operating system refused.
    #[error("the store cannot be read: {0}")]
    Io(String),
}

/// Why a file is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// For the first time in this process.
    Start,
    /// Again, after a disk error.
    Failure,
}

/// Path of a store and how it is opened.
pub(super) struct StoreFile {
    pub(super) path: PathBuf,
    /// Cache of redb, in bytes.
    pub(super) cache_bytes: usize,
    #[cfg(test)]
    pub(super) faults: std::sync::Arc<super::disk::tests::Faults>,
}

impl StoreFile {
    /// Creates an empty store of mode 0600 if there is no file. It is created under another name and renamed, so that a
    /// store is either complete or absent.
    pub(super) fn create_if_absent(&self) -> Result<(), OpenError> {
        if self.path.try_exists()? {
            return Ok(());
        }
        let draft = durable::draft_of(&self.path);
        let empty = options().create(true).truncate(false).open(&draft)?;
        match empty.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Busy),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        // Left by a start that was killed.
        empty.set_len(0)?;
        let database = Database::builder().create_file(empty)?;
        format(&database)?;
        drop(database);
        Ok(durable::publish(&draft, &self.path)?)
    }

    /// Bytes that the file takes on the disk; holes take none.
    pub(super) fn allocated(&self) -> io::Result<u64> {
        Ok(self.path.metadata()?.blocks().saturating_mul(512))
    }

    /// Opens and checks the file. It is written to only after that.
    pub(super) fn open(&self, after: After) -> Result<(Database, Revision), OpenError> {
        #[cfg(test)]
        self.faults.opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = options().open(&self.path)?;
        if after == After::Failure {
            forget_pages(&file);
        }
        if file.metadata()?.len() == 0 {
            // redb would create a new database in an empty file.
            return Err(OpenError::Damaged("the file is empty".into()));
        }
        let disk = Disk::new(file)?;
        #[cfg(test)]
        let disk = disk.failing_like(&self.faults);
        // redb may panic on a file that is not one of its own.
        let opened = catch_unwind(AssertUnwindSafe(|| open_untrusted(&disk, self.cache_bytes)));
        let opened = opened.unwrap_or_else(|_| Err(OpenError::Damaged("its pages make no sense".into())))?;
        disk.trust()?;
        Ok(opened)
    }
}

fn format(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(ROWS)?;
    let mut meta = transaction.open_table(META)?;
    meta.insert(FORMAT, FORMAT_VERSION)?;
    meta.insert(REVISION, 0)?;
    drop(meta);
    Ok(transaction.commit()?)
}

fn set_format(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(FORMAT, FORMAT_VERSION)?;
    Ok(transaction.commit()?)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(NOFOLLOW);
    options
}

fn open_untrusted(disk: &Disk, cache_bytes: usize) -> Result<(Database, Revision), OpenError> {
    let database = Database::builder()
        .set_cache_size(cache_bytes)
        .set_repair_callback(|walk| {
            tracing::warn!(progress = walk.progress(), "the store was not closed properly, so all of it is checked");
        })
        .create_with_backend(disk.clone())?;
    let (format, revision) = numbers(&database)?;
    match format {
        FORMAT_VERSION => {}
        // The core brings the rows into their present form. From now on an earlier version, which would not find them,
        // refuses the file.
        FIRST_FORMAT_VERSION => set_format(&database)?,
        other => return Err(OpenError::Damaged(format!("this version does not know its format {other}"))),
    }
    Ok((database, Revision(revision)))
}

/// Format and revision; the first row is read as well, to check the tree.
fn numbers(database: &Database) -> Result<(u64, u64), redb::Error> {
    let transaction = database.begin_read()?;
    transaction.open_table(ROWS)?.first()?;
    let meta = transaction.open_table(META)?;
    Ok((row::number(&meta, FORMAT)?, row::number(&meta, REVISION)?))
}

/// After a failed sync, Linux keeps pages in memory that never reached the disk. They must not be read as if they had.
fn forget_pages(file: &File) {
    if let Err(error) = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed) {
        tracing::warn!(%error, "cannot drop cached pages of the store after a disk error");
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            _ if is_out_of_space(&error) => OpenError::Full,
            io::ErrorKind::UnexpectedEof => OpenError::Damaged("the file was cut off".into()),
            io::ErrorKind::InvalidData => OpenError::NotAStore,
            _ => OpenError::Io(error.to_string()),
        }
    }
}

impl From<DatabaseError> for OpenError {
    fn from(error: DatabaseError) -> Self {
        redb::Error::from(error).into()
    }
}

impl From<redb::Error> for OpenError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen => OpenError::Busy,
            redb::Error::TableDoesNotExist(_) | redb::Error::TableTypeMismatch { .. } => OpenError::NotAStore,
            redb::Error::Io(error) => error.into(),
            redb::Error::PreviousIo => OpenError::Io(error.to_string()),
            redb::Error::Corrupted(why) => OpenError::Damaged(why),
            error => OpenError::Damaged(error.to_string()),
        }
    }
}

impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Busy => StoreError::Unreachable(error.to_string()),
            OpenError::Full => StoreError::Full,
            OpenError::Io(why) => StoreError::Unreachable(why),
            OpenError::NotAStore => StoreError::Damaged(error.to_string()),
            OpenError::Damaged(why) => StoreError::Damaged(why),
        }
    }
}
