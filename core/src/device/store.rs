//! The device's own store: rows that never leave this device, sealed under its Device Key and readable while Locked.

use std::sync::Arc;

use casemate_api::limits::{LIST_PAGE_ROWS, STORE_TXN_MAX_OPS};
use zeroize::Zeroizing;

use crate::crypto::seal;
use crate::crypto::secret::{DeviceKey, StoreKey};
use crate::error::Error;
use crate::rows::path::DevicePath;
use crate::rows::table::{open_row, seal_row};
use crate::runtime::Rng;
use crate::store::{Outcome, Path, Range, Read, Revision, Room, Store, Txn};

/// A row of a page: its path, and its value if it could be opened.
pub type OpenedRow = (Path, Option<Zeroizing<Vec<u8>>>);

/// The device's own store.
pub struct DeviceStore {
    store: Arc<dyn Store>,
    key: StoreKey,
    /// Seals the slots in backups, so that only this device opens them.
    pub(crate) backup_slots: StoreKey,
    /// Seals the entries that a restore has staged.
    pub(crate) staged: StoreKey,
    rng: Arc<dyn Rng>,
    /// Held while several of the rows that unlock the Domain Key are read or written together.
    pub(crate) changing_unlock: async_lock::Mutex<()>,
    /// Held while configuration is read, changed and so that what was stored last is also applied last.
    pub(crate) changing: async_lock::Mutex<()>,
}

/// Rows to write and to remove in one transaction.
#[derive(Default)]
pub struct DeviceStoreChange {
    put: Vec<(DevicePath, Zeroizing<Vec<u8>>)>,
    delete: Vec<DevicePath>,
}

impl DeviceStoreChange {
    /// Writes a row.
    pub fn put(mut self, path: DevicePath, value: impl Into<Vec<u8>>) -> Self {
        self.put.push((path, Zeroizing::new(value.into())));
        self
    }
    /// Removes a row. It is not an error if it does not exist.
    pub fn delete(mut self, path: DevicePath) -> Self {
        self.delete.push(path);
        self
    }
}

impl DeviceStore {
    /// Opens the store with keys derived from the Device Key.
    pub fn new(store: Arc<dyn Store>, device: &DeviceKey, rng: Arc<dyn Rng>) -> Self {
        let key = |purpose: &[u8]| seal::derive(device.expose(), &[purpose]);
        Self {
            store,
            key: key(b"local store"),
            backup_slots: key(b"backup slots"),
            staged: key(b"staged rows"),
            rng,
            changing_unlock: async_lock::Mutex::new(()),
            changing: async_lock::Mutex::new(()),
        }
    }

    /// The value of one row, opened. `None`: the row does not exist.
    ///
    /// # Errors
    /// [`Error::Internal`] if the value does not open.
    pub async fn get(&self, path: DevicePath) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let name = path.path();
        let Some(found) = self.store.get(&name, Read::Local).await? else { return Ok(None) };
        let value = open_row(&self.key, &name, &found.value).map_err(|why| {
            Error::internal(format!(
                "row {path:?} of the local store does not open: {why}; either it is damaged, or device-key is not the key it was sealed under"
            ))
        })?;
        Ok(Some(value))
    }

    /// Rows from `start` up to, but without, `end`, in order, at most `limit`. The value of a row that does not open is `None`.
    pub async fn page(&self, start: DevicePath, end: DevicePath, limit: usize) -> Result<Vec<OpenedRow>, Error> {
        let range = Range { start: start.path(), end: Some(end.path()), limit, keys_only: false };
        let page = self.store.range(range, Read::Local).await?;
        let open = |(path, found): (Path, crate::store::Versioned)| {
            let value = open_row(&self.key, &path, &found.value).ok();
            (path, value)
        };
        Ok(page.rows.into_iter().map(open).collect())
    }

    /// Removes the rows from `start` up to, but without, `end`, page by page. Idempotent.
    pub async fn sweep(&self, start: DevicePath, end: DevicePath) -> Result<(), Error> {
        loop {
            let range = Range { start: start.path(), end: Some(end.path()), limit: LIST_PAGE_ROWS, keys_only: true };
            let page = self.store.range(range, Read::Local).await?;
            if page.rows.is_empty() {
                return Ok(());
            }
            let paths: Vec<Path> = page.rows.into_iter().map(|(path, _)| path).collect();
            let txn = |paths: &[Path]| Txn { delete: paths.to_vec(), ..Txn::default() };
            self.store.commit(paths.chunks(STORE_TXN_MAX_OPS).map(txn).collect()).await?;
        }
    }

    /// Whether the disk of the store is nearly full.
    pub fn is_nearly_full(&self) -> bool {
        self.store.is_nearly_full()
    }

    /// Waits until everything that was given to the store before is on the disk or has failed.
    pub async fn settle(&self) -> Result<(), Error> {
        self.store.commit(vec![Txn::default()]).await?;
        Ok(())
    }

    /// Whether a transaction with a lost answer was applied. The store is this process's own and applies nothing late, so
    /// reading tells: sealed values are unique.
    async fn was_applied(&self, txn: &Txn) -> bool {
        if let Some((path, value)) = txn.put.first() {
            return matches!(self.store.get(path, Read::Local).await, Ok(Some(row)) if row.value == *value);
        }
        for path in &txn.delete {
            if !matches!(self.store.get(path, Read::Local).await, Ok(None)) {
                return false;
            }
        }
        true
    }

    /// Applies `change` as one transaction. It is durable when this returns `Ok`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the store did not confirm the change; it may have been applied.
    pub async fn commit(&self, change: DeviceStoreChange) -> Result<(), Error> {
        let seal = |(path, value): &(DevicePath, Zeroizing<Vec<u8>>)| {
            let path = path.path();
            let sealed = seal_row(&self.key, &path, Revision::default(), value, &*self.rng);
            (path, sealed)
        };
        let txn = Txn {
            expect: Vec::new(),
            put: change.put.iter().map(seal).collect(),
            delete: change.delete.iter().map(|path| path.path()).collect(),
            // All rows here are bounded in size, and without its audit log, slots and procedures the HSM can neither be
            // unlocked nor emptied.
            room: Room::Reserved,
        };
        match self.store.commit(vec![txn.clone()]).await?.pop() {
            Some(Outcome::Committed(_)) => Ok(()),
            Some(Outcome::Unknown) if self.was_applied(&txn).await => Ok(()),
            _ => Err(Error::Unavailable("The local store did not confirm the change. Try again.".into())),
        }
    }
}
