//! Rights are checked at the moment of the commit, not only before.
//!
//! Between authentication and the write there are hashes, queues and disks; in that time the caller may be deleted or
//! get another passphrase. So every write on a caller's behalf goes through this file:
//!
//! - In the shared store the same transaction requires that the caller's own row is unchanged. If that fails, the row
//!   is read again: if passphrase and role are the same, the write is tried again; otherwise the caller has lost the
//!   right.
//! - The local store has no users and shares no transaction with the shared store. There the caller's row is checked
//!   under a lock that is held until the write is durable, and that prevents users from being deleted or changed in
//!   that time.
//!
//! Writes by the HSM itself (counters, clean-up) need no right; they pass `By::Hsm`.

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
use crate::runtime::witness;
use crate::store::Revision;

/// On whose behalf something is written.
#[derive(Clone, Copy)]
pub(crate) enum By<'a> {
    /// An authenticated caller, whose right must still hold when it is written.
    Caller(&'a Caller),
    /// The HSM itself.
    Hsm,
}

/// The outcome of a change to one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It changed.
    Done,
    /// It already had this value.
    Unchanged,
}

impl Change {
    /// Calls `log` if the row changed. Returns the outcome unchanged.
    pub(crate) fn if_done(self, log: impl FnOnce()) -> Self {
        if self == Change::Done {
            log();
        }
        self
    }
}

/// Applies `transaction`. For a caller it applies only if passphrase and role are still those of the authentication.
///
/// # Errors
/// [`Error::Unauthenticated`] if they are not; then nothing was applied.
pub(crate) async fn commit(tables: &Tables, by: By<'_>, transaction: Transaction) -> Result<Committed, Error> {
    let By::Caller(caller) = by else { return tables.commit(transaction).await };
    let path = RowPath::user(tables.generation, &caller.id);
    // The last condition of the transaction, so that the others keep their numbers.
    let own = transaction.guards();
    let mut revision = caller.revision();
    for _ in 0..ATTEMPTS {
        match tables.commit(transaction.clone().at(&path, revision)).await? {
            Committed::Conflict(guard) if guard == own => revision = recheck(tables, caller).await?,
            committed => {
                if let Committed::At(revision) = committed {
                    witness::note(revision.0);
                }
                return Ok(committed);
            }
        }
    }
    Err(Error::Unavailable("Your user keeps being changed. Try again.".into()))
}

/// Reads, changes and writes one row, and starts over if it was written in between. `change` returns the new record, or
/// `None` if nothing changes; its error ends the attempt. `extra` adds conditions and rows to the same transaction.
/// Returns `None` if the row does not exist.
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

/// Checks the caller's row as the store has it now against the one at authentication; returns its revision.
async fn recheck(tables: &Tables, caller: &Caller) -> Result<Revision, Error> {
    let path = RowPath::user(tables.generation, &caller.id);
    let now = tables.users.read(&path).await?.ok_or(Error::Unauthenticated)?;
    if caller.record().is_as(&now.record) { Ok(now.revision) } else { Err(Error::Unauthenticated) }
}

/// Number of attempts of a read-modify-write before it gives up.
pub(crate) const ATTEMPTS: usize = 16;

/// A lock that keeps rights unchanged during a write that no transaction covers. Its holders take no other lock.
#[derive(Default)]
pub(crate) struct Rights(Arc<RwLock<()>>);

/// Held while rights are revoked: nobody can act on them in that time.
pub(crate) struct Taking<'a>(#[expect(dead_code, reason = "held, not read")] RwLockWriteGuard<'a, ()>);

/// Proof that a caller's rights hold as long as this exists. Hold it over the point of no return and not longer,
/// because no user can be deleted in that time.
pub struct Held(#[expect(dead_code, reason = "held, not read")] RwLockReadGuardArc<()>);

impl Rights {
    /// Waits until nobody acts on a current right. Held during the commit that deletes a user or sets a passphrase.
    pub(crate) async fn take_away(&self) -> Taking<'_> {
        Taking(self.0.write().await)
    }

    /// Checks that `caller` still has its rights, and preserves them until the result is dropped. For writes that no
    /// transaction covers.
    pub(crate) async fn hold(&self, tables: &Tables, caller: &Caller) -> Result<Held, Error> {
        let held = Held(self.0.read_arc().await);
        // The cache is current: a change of a user holds the write side until the cache has it.
        let path = RowPath::user(tables.generation, &caller.id);
        let now = tables.users.get(&path).await?.ok_or(Error::Unauthenticated)?;
        if caller.record().is_as(&now.record) { Ok(held) } else { Err(Error::Unauthenticated) }
    }

    /// Applies a change to the device's own store on behalf of `caller`.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if the caller has lost its rights; then nothing was applied.
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
