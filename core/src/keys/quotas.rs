//! Quotas of namespaces, so that one namespace cannot fill the disk for all others.
//!
//! What a namespace with a quota holds is a row of its own, counted once and then written in the same transaction as each
//! change of its keys: so it is right on every node, and two changes cannot both use up the last of the quota. Namespaces
//! without a quota have no such row. Changing the quota changes the namespace's row, which every write inside the namespace
//! expects unchanged: a write that began under another quota does not commit.
//!
//! Changes at one node wait for each other, so that they do not fail because of each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_lock::MutexGuardArc;
use casemate_api::NamespaceId;
use casemate_api::limits::BACKUP_PAGE_ROWS;

use crate::error::Error;
use crate::identity::caller;
use crate::identity::caller::Scope;
use crate::rows::namespace::{NamespaceRecord, Quota};
use crate::rows::path::{NamespaceNumber, RowPath, RowPrefix};
use crate::rows::record::Record;
use crate::rows::table::Row;
use crate::rows::tables::Tables;
use crate::rows::transaction::{Committed, Transaction};
use crate::rows::usage::Usage;
use crate::store::{Path, Range, Revision, Snapshot};

/// Whose turn it is to change the keys of a namespace with a quota.
#[derive(Default)]
pub(crate) struct QuotaTurns(Mutex<HashMap<NamespaceNumber, Arc<async_lock::Mutex<()>>>>);

impl QuotaTurns {
    /// Waits for the turn in this namespace.
    pub(crate) async fn wait(&self, number: NamespaceNumber) -> MutexGuardArc<()> {
        let turn = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default().clone();
        turn.lock_arc().await
    }

    /// Forgets a namespace that has no quota any more or was deleted.
    pub(crate) fn forget(&self, number: NamespaceNumber) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }
}

/// The turn to change the keys of a namespace, and what it holds now; empty if there is no quota.
pub(crate) struct QuotaGuard(Option<Account>);

struct Account {
    path: RowPath<Usage>,
    /// The revision of the row. `None`: it is to be written for the first time.
    found: Option<Revision>,
    usage: Usage,
    quota: Quota,
    namespace: NamespaceId,
    _turn: MutexGuardArc<()>,
}

impl QuotaGuard {
    /// Whether there is a quota, so that the caller has to compute sizes.
    pub(crate) fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Adds to `transaction` that the namespace then holds so many keys and bytes more, or less. It then has one guard more.
    ///
    /// # Errors
    /// [`Error::Full`] if that would exceed the quota; a change that shrinks never does.
    pub(crate) fn book(
        &self,
        tables: &Tables,
        transaction: Transaction,
        keys: i64,
        bytes: i64,
    ) -> Result<Transaction, Error> {
        let Some(Account { path, found, usage, quota, namespace, .. }) = &self.0 else { return Ok(transaction) };
        let after =
            Usage { keys: usage.keys.saturating_add_signed(keys), bytes: usage.bytes.saturating_add_signed(bytes) };
        let beyond = |grows: bool, after: u64, max: Option<u64>| max.filter(|max| grows && after > *max);
        if let Some(max) = beyond(keys > 0, after.keys, quota.keys) {
            return Err(Error::Full(format!("The namespace {namespace} has reached its quota of {max} keys.").into()));
        }
        if let Some(max) = beyond(bytes > 0, after.bytes, quota.bytes) {
            return Err(Error::Full(format!("The namespace {namespace} has reached its quota of {max} bytes.").into()));
        }
        let row = tables.usages.sealed(path, found.unwrap_or_default(), &after)?;
        Ok(transaction.found(path, *found).put(row))
    }

    /// Adds to `transaction` that it is not known any more what the namespace holds: for a deletion on a store that has no room
    /// even for the number. The next change counts it.
    pub(crate) fn unbook(&self, transaction: Transaction) -> Transaction {
        let Some(Account { path, found, .. }) = &self.0 else { return transaction };
        transaction.found(path, *found).delete(path)
    }
}

/// Waits for the turn to change the keys of a scope, and reads what its namespace holds. Counts it if that is not known.
///
/// # Errors
/// [`Error::Unavailable`] if the namespace was changed since the scope was formed.
pub(crate) async fn hold(tables: &Tables, turns: &QuotaTurns, scope: &Scope) -> Result<QuotaGuard, Error> {
    let Some((namespace, revision)) = scope.namespace_row() else { return Ok(QuotaGuard(None)) };
    let row = caller::stored_namespace(tables, namespace).await?.filter(|row| row.revision == revision);
    let row = row.ok_or_else(changed)?;
    let quota = row.record.quota;
    if quota == Quota::default() {
        return Ok(QuotaGuard(None));
    }
    let turn = turns.wait(scope.number()).await;
    let path = RowPath::usage(tables.generation, scope.number());
    let (usage, found) = usage(tables, namespace, &row).await?;
    Ok(QuotaGuard(Some(Account { path, found, usage, quota, namespace: namespace.clone(), _turn: turn })))
}

/// What a namespace with a quota holds, and the revision of the row that says so. Counted and written if there is none; that row
/// is `None` only if the store has no room for it. The caller has the turn in the namespace.
///
/// # Errors
/// [`Error::Unavailable`] if the namespace is not as in `row` any more.
pub(crate) async fn usage(
    tables: &Tables,
    namespace: &NamespaceId,
    row: &Row<NamespaceRecord>,
) -> Result<(Usage, Option<Revision>), Error> {
    let path = RowPath::usage(tables.generation, row.record.number);
    if let Some(row) = tables.usages.read(&path).await? {
        return Ok((row.record, Some(row.revision)));
    }
    let usage = count(tables, row.record.number).await?;
    let namespace = RowPath::namespace(tables.generation, namespace);
    let transaction = Transaction::default().at(&namespace, row.revision).absent(&path).reserved();
    match tables.commit(transaction.put(tables.usages.sealed(&path, Revision::default(), &usage)?)).await {
        Ok(Committed::At(revision)) => Ok((usage, Some(revision))),
        Ok(Committed::Conflict(_)) => Err(changed()),
        Err(Error::Full(_)) => Ok((usage, None)),
        Err(error) => Err(error),
    }
}

fn changed() -> Error {
    Error::Unavailable("The namespace was changed meanwhile. Try again.".into())
}

/// Counts what a namespace holds now. Reads all its rows.
pub(crate) async fn count(tables: &Tables, number: NamespaceNumber) -> Result<Usage, Error> {
    let generation = tables.generation;
    // One snapshot, so that a key that is renamed during the count is counted once.
    let view = tables.snapshot().await?;
    let (keys, bytes) = count_rows(tables, &*view, RowPrefix::keys(generation, number, "").path()).await?;
    let (_, more) = count_rows(tables, &*view, RowPrefix::certificates(generation, number).path()).await?;
    Ok(Usage { keys, bytes: bytes + more })
}

/// Counts the rows whose paths start with `prefix`, and the bytes of their values.
async fn count_rows(tables: &Tables, view: &dyn Snapshot, prefix: &Path) -> Result<(u64, u64), Error> {
    // Rows may be large, so the pages are small.
    let mut range = Range::prefix(prefix, BACKUP_PAGE_ROWS);
    let (mut rows, mut bytes) = (0, 0);
    loop {
        tables.check()?;
        let page = view.range(range.clone()).await?;
        rows += page.rows.len() as u64;
        bytes += page.rows.iter().map(|(_, row)| row.value.len() as u64).sum::<u64>();
        match page.rows.last() {
            Some((last, _)) if page.more => range.start = last.next(),
            _ => return Ok((rows, bytes)),
        }
    }
}

/// Length of a record as it is stored, sealed, in bytes.
pub(crate) fn stored_bytes(record: &impl Record) -> i64 {
    signed(record.encode().len() + crate::rows::table::SEALED_EXTRA_BYTES)
}

/// A length as a signed difference.
pub(crate) fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
