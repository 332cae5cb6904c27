//! The device's own store: what stays on this device, sealed under its Device Key and readable while Locked.

use std::sync::Arc;

use casemate_api::limits::{LIST_PAGE_ROWS, STORE_TXN_MAX_OPS};
use zeroize::Zeroizing;

use crate::crypto::seal;
use crate::crypto::secret::{DeviceKey, StoreKey};
use crate::error::Error;
use crate::rows::path::DevicePath;
use crate::rows::table::{open_row, seal_row};
use crate::runtime::Rng;
use crate::store::applied;
use crate::store::{Outcome, Path, Range, Read, Revision, Room, Store, Txn};

/// A row of a page.
pub type Opened = (Path, Option<Zeroizing<Vec<u8>>>);

/// The device's own store.
pub struct DeviceStore {
    store: Arc<dyn Store>,
    key: StoreKey,
    /// Seals the slots in backups, so that they open on this device.
    pub(crate) backup_slots: StoreKey,
    /// Seals what a restore has staged.
    pub(crate) staged: StoreKey,
    rng: Arc<dyn Rng>,
    /// Held by who reads or writes more than one of the rows by which the Domain Key is unlocked.
    pub(crate) changing_unlock: async_lock::Mutex<()>,
    /// Held by who reads configuration, changes it and has it applied, so that what is applied last is what is stored.
    pub(crate) changing: async_lock::Mutex<()>,
}

/// Rows to write and remove together.
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
    /// Removes a row; an absent one is no error.
    pub fn delete(mut self, path: DevicePath) -> Self {
        self.delete.push(path);
        self
    }
}

impl DeviceStore {
    /// The store, sealed under a key derived from `device`.
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

    /// One row, unsealed.
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

    /// Rows from `start` to before `end`, in order, at most `limit`; `None` stands for one that does not open.
    pub async fn page(&self, start: DevicePath, end: DevicePath, limit: usize) -> Result<Vec<Opened>, Error> {
        let range = Range { start: start.path(), end: Some(end.path()), limit, keys_only: false };
        let page = self.store.range(range, Read::Local).await?;
        let open = |(path, found): (Path, crate::store::Versioned)| {
            let value = open_row(&self.key, &path, &found.value).ok();
            (path, value)
        };
        Ok(page.rows.into_iter().map(open).collect())
    }

    /// Removes the rows from `start` to before `end`, in steps that may be repeated.
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

    /// Whether its disk is nearly full.
    pub fn is_nearly_full(&self) -> bool {
        self.store.is_nearly_full()
    }

    /// Waits until everything that was handed to the store before is settled.
    pub async fn settle(&self) -> Result<(), Error> {
        self.store.commit(vec![Txn::default()]).await?;
        Ok(())
    }

    /// Applies `change` whole. It is durable when this returns.
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
            // All of it is bounded, and without its audit log, slots and steps the HSM cannot be unlocked or emptied.
            room: Room::Reserved,
        };
        match self.store.commit(vec![txn.clone()]).await?.pop() {
            Some(Outcome::Committed(_)) => Ok(()),
            // What is on the disk counts at the next boot, whatever the answer was.
            Some(Outcome::Unknown) if matches!(applied(&*self.store, &txn).await, Ok(Some(_))) => Ok(()),
            _ => Err(Error::Unavailable("The local store did not confirm the change. Try again.".into())),
        }
    }
}
