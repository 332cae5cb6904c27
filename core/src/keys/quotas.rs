//! Quotas of namespaces, so that one namespace cannot fill the disk for all others.
//!
//! A namespace with a quota has an account in memory, counted once from the stored rows. A change to its keys holds the
//! account from the check to the end of the commit, so that two changes cannot both use up the last of the quota;
//! namespaces without a quota pay nothing. Changing the quota changes the namespace's row, which every write inside the
//! namespace expects unchanged: a write that began under another quota does not commit. If the outcome of a change is
//! unknown, the namespace is counted again.

use crate::rows::namespace::Quota;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_lock::MutexGuardArc;
use casemate_api::NamespaceId;
use casemate_api::limits::BACKUP_PAGE_ROWS;
use casemate_api::sentences;

use crate::error::Error;
use crate::identity::caller;
use crate::identity::caller::Scope;
use crate::rows::path::{NamespaceNumber, RowPrefix};
use crate::rows::record::Record;
use crate::rows::tables::Tables;
use crate::rows::transaction::Committed;
use crate::store::{Path, Range, Snapshot};

/// What a namespace holds, in the same units as its quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of keys.
    pub keys: u64,
    /// Bytes of stored keys and certificates, sealed.
    pub bytes: u64,
}

/// The accounts of the namespaces that have a quota and were changed since the phase began.
#[derive(Default)]
pub(crate) struct Accounts(Mutex<HashMap<NamespaceNumber, Account>>);

/// The usage of one namespace; `None` until it is counted.
pub(crate) type Account = Arc<async_lock::Mutex<Option<Usage>>>;

impl Accounts {
    /// The account of one namespace.
    pub(crate) fn of(&self, number: NamespaceNumber) -> Account {
        self.lock().entry(number).or_default().clone()
    }

    /// Drops an account that is not kept up to date: the namespace has no quota or was deleted.
    pub(crate) fn forget(&self, number: NamespaceNumber) {
        self.lock().remove(&number);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NamespaceNumber, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Exclusive hold on the account of a namespace while its keys are changed; empty if there is no quota.
pub(crate) struct QuotaGuard(Option<HeldAccount>);

struct HeldAccount {
    usage: MutexGuardArc<Option<Usage>>,
    /// The usage if the reserved change is applied.
    after: Option<Usage>,
    quota: Quota,
    namespace: NamespaceId,
}

/// Whether a change was applied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    Yes,
    No,
    Unknown,
}

impl From<&Result<Committed, Error>> for Applied {
    fn from(result: &Result<Committed, Error>) -> Self {
        match result {
            Ok(Committed::At(_)) => Applied::Yes,
            Ok(Committed::Conflict(_)) => Applied::No,
            Err(why) => why.into(),
        }
    }
}

impl From<&Error> for Applied {
    /// An unknown outcome costs a count of the whole namespace, so a busy store must not be mistaken for one.
    fn from(why: &Error) -> Self {
        match why {
            Error::Full(_) | Error::Unauthenticated => Applied::No,
            // The store answers this before it begins; a lost answer has another sentence.
            Error::Unavailable(text) if text == sentences::BUSY => Applied::No,
            _ => Applied::Unknown,
        }
    }
}

impl QuotaGuard {
    /// Whether there is a quota, so that the caller has to compute sizes.
    pub(crate) fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Reserves a change by this many keys and bytes. `Full` if it would exceed the quota; a change that shrinks never
    /// does.
    pub(crate) fn reserve(&mut self, keys: i64, bytes: i64) -> Result<(), Error> {
        let Some(held) = &mut self.0 else { return Ok(()) };
        let usage = held.usage.unwrap_or_default();
        let after =
            Usage { keys: usage.keys.saturating_add_signed(keys), bytes: usage.bytes.saturating_add_signed(bytes) };
        let beyond = |grows: bool, after: u64, max: Option<u64>| max.filter(|max| grows && after > *max);
        let namespace = &held.namespace;
        if let Some(max) = beyond(keys > 0, after.keys, held.quota.keys) {
            return Err(Error::Full(format!("The namespace {namespace} has reached its quota of {max} keys.").into()));
        }
        if let Some(max) = beyond(bytes > 0, after.bytes, held.quota.bytes) {
            return Err(Error::Full(format!("The namespace {namespace} has reached its quota of {max} bytes.").into()));
        }
        held.after = Some(after);
        Ok(())
    }

    /// Books the reserved change, or releases it.
    pub(crate) fn settle(&mut self, applied: impl Into<Applied>) {
        let Some(held) = &mut self.0 else { return };
        let after = held.after.take();
        match applied.into() {
            Applied::Yes => *held.usage = after,
            Applied::No => {}
            Applied::Unknown => *held.usage = None,
        }
    }
}

impl Drop for HeldAccount {
    fn drop(&mut self) {
        if self.after.is_some() {
            // The change was abandoned, so its outcome is unknown.
            *self.usage = None;
        }
    }
}

/// Waits for the account of a scope and holds it. Counts the namespace first if it has not been counted.
pub(crate) async fn hold(tables: &Tables, accounts: &Accounts, scope: &Scope) -> Result<QuotaGuard, Error> {
    let Some(namespace) = scope.namespace() else { return Ok(QuotaGuard(None)) };
    let quota = caller::stored_namespace(tables, namespace).await?.map(|row| row.record.quota).unwrap_or_default();
    if quota == Quota::default() {
        return Ok(QuotaGuard(None));
    }
    let mut usage = accounts.of(scope.number()).lock_arc().await;
    if usage.is_none() {
        *usage = Some(count(tables, scope.number()).await?);
    }
    Ok(QuotaGuard(Some(HeldAccount { usage, after: None, quota, namespace: namespace.clone() })))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn a_busy_store_does_not_make_the_outcome_unknown() {
        let applied = |why: StoreError| Applied::from(&Err(Error::from(why)));
        assert!(applied(StoreError::Busy) == Applied::No);
        assert!(applied(StoreError::Full) == Applied::No);
        assert!(applied(StoreError::Unreachable("gone".into())) == Applied::Unknown);
        let unconfirmed = "The store did not confirm the change. Read before you try again.";
        assert!(Applied::from(&Error::Unavailable(unconfirmed.into())) == Applied::Unknown);
    }
}
