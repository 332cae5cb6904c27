//! A right holds at the moment of the commit, not only when it was asked for.
//!
//! Between the question who calls and the write there are hashes, queues and disks, and meanwhile the caller may be
//! deleted or get another passphrase. So whoever writes on a caller's behalf does it here:
//!
//! - In the shared store the caller's own row is a guard of the same transaction. If it fails, the row is read again: the
//!   same passphrase and role, and the write is tried anew; anything else, and the caller is no longer believed.
//! - The local store knows no users and shares no transaction with the other. There the caller's row is looked at under a
//!   lock that is held until the write is durable, and that keeps users from being deleted or changed meanwhile.
//!
//! What the HSM does on its own account (counters, sweeps) asks for no right, and says so: `By::Hsm`.

use std::sync::Arc;

use async_lock::{RwLock, RwLockReadGuardArc, RwLockWriteGuard};

use crate::device::store::{DeviceStore, DeviceStoreChange};
use crate::error::Error;
use crate::identity::caller::Caller;
use crate::rows::path::RowPath;
use crate::rows::record::Record;
use crate::rows::table::Table;
use crate::rows::tables::Tables;
use crate::rows::transaction::{Committed, Transaction};
use crate::store::Revision;

/// On whose behalf something is written.
#[derive(Clone, Copy)]
pub(crate) enum By<'a> {
    /// Somebody who was believed, and must be when it is written.
    Caller(&'a Caller),
    /// The HSM's own.
    Hsm,
}

/// What became of a change to one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It changed.
    Done,
    /// It already was so.
    Unchanged,
}

impl Change {
    /// Itself; `tell` is called if something changed.
    pub(crate) fn told(self, tell: impl FnOnce()) -> Self {
        if self == Change::Done {
            tell();
        }
        self
    }
}

/// Applies `transaction`, for a caller if they are still who they were when they were believed.
///
/// # Errors
/// [`Error::NotBelieved`] if they are not; then nothing was applied.
pub(crate) async fn commit(tables: &Tables, by: By<'_>, transaction: Transaction) -> Result<Committed, Error> {
    let By::Caller(caller) = by else { return tables.commit(transaction).await };
    let path = RowPath::user(tables.generation, &caller.id);
    // The last of the transaction's guards, so that its own keep their numbers.
    let own = transaction.guards();
    let mut revision = caller.revision();
    for _ in 0..ATTEMPTS {
        match tables.commit(transaction.clone().at(&path, revision)).await? {
            Committed::Conflict(guard) if guard == own => revision = still(tables, caller).await?,
            committed => return Ok(committed),
        }
    }
    Err(Error::Unavailable("Your user keeps being changed. Try again.".into()))
}

/// Reads, changes and writes one row until no one else wrote in between. `change` says what the row becomes, `None` if it
/// already is what it should be; its error ends the attempt. `extra` adds guards and rows to the same transaction. `None`:
/// there is no such row.
pub(crate) async fn update<R: Record>(
    tables: &Tables,
    by: By<'_>,
    table: &Table<R>,
    path: &RowPath<R>,
    extra: impl Fn(Transaction) -> Transaction,
    change: impl Fn(R) -> Result<Option<R>, Error>,
) -> Result<Option<Change>, Error> {
    for _ in 0..ATTEMPTS {
        let Some(row) = table.read(path).await? else { return Ok(None) };
        let (revision, bytes) = (row.revision, row.record.encode().len());
        let Some(record) = change(row.record)? else { return Ok(Some(Change::Unchanged)) };
        let transaction = Transaction::default().at(path, revision).put(table.sealed(path, revision, &record)?);
        let transaction = if record.encode().len() <= bytes { transaction.replacing() } else { transaction };
        if let Committed::At(_) = commit(tables, by, extra(transaction)).await? {
            return Ok(Some(Change::Done));
        }
    }
    Err(Error::Unavailable("Others keep changing the same thing. Try again.".into()))
}

/// Whether `caller` is who they were when they were believed, by the row the store has now, whose revision this gives.
async fn still(tables: &Tables, caller: &Caller) -> Result<Revision, Error> {
    let path = RowPath::user(tables.generation, &caller.id);
    let now = tables.users.read(&path).await?.ok_or(Error::NotBelieved)?;
    if caller.record().is_as(&now.record) { Ok(now.revision) } else { Err(Error::NotBelieved) }
}

/// How often a read-modify-write starts over before it gives up.
pub(crate) const ATTEMPTS: usize = 16;

/// Keeps rights as they are while something is done that no transaction covers. Nothing else is locked by who holds it.
#[derive(Default)]
pub(crate) struct Rights(Arc<RwLock<()>>);

/// Shows that rights are being taken away, and that nobody acts on them meanwhile.
pub(crate) struct Taking<'a>(#[expect(dead_code, reason = "held, not read")] RwLockWriteGuard<'a, ()>);

/// Shows that a caller is believed for as long as it is held. Hold it over the moment of no return, not longer: users
/// cannot be deleted meanwhile.
pub struct Held(#[expect(dead_code, reason = "held, not read")] RwLockReadGuardArc<()>);

impl Rights {
    /// Waits for those who act on a right of now. Held by who deletes a user or sets a passphrase, for the commit alone.
    pub(crate) async fn take_away(&self) -> Taking<'_> {
        Taking(self.0.write().await)
    }

    /// Makes sure that `caller` is believed until what this gives is dropped: for what no transaction covers.
    pub(crate) async fn hold(&self, tables: &Tables, caller: &Caller) -> Result<Held, Error> {
        let held = Held(self.0.read_arc().await);
        // What is cached is true: who changes a user holds the other side until the cache knows.
        let path = RowPath::user(tables.generation, &caller.id);
        let now = tables.users.get(&path).await?.ok_or(Error::NotBelieved)?;
        if caller.record().is_as(&now.record) { Ok(held) } else { Err(Error::NotBelieved) }
    }

    /// Applies a change to the device's own store on behalf of `caller`.
    ///
    /// # Errors
    /// [`Error::NotBelieved`] if they no longer are; then nothing was applied.
    pub(crate) async fn commit_local(
        &self,
        tables: &Tables,
        store: &DeviceStore,
        caller: &Caller,
        change: DeviceStoreChange,
    ) -> Result<(), Error> {
        let _held = self.hold(tables, caller).await?;
        tables.check()?;
        store.commit(change).await
    }
}

#[cfg(test)]
mod tests;
