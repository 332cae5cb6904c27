//! What a namespace may hold, and what it holds: so that one namespace cannot take the disk from the others.
//!
//! A namespace with a quota has an account in memory, counted once from the stored rows. Whoever changes what is in it holds
//! the account from the check to the end of the commit, so two changes cannot both take the last place; others pay
//! nothing. A change of the quota is a change of the namespace's row, which every write inside it expects unchanged: what
//! was begun under another quota is not committed. What became of a change may not be known; then it is counted anew.

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

/// What a namespace holds, in the same measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Keys.
    pub keys: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The accounts of the namespaces that have a quota and were changed since the phase began.
#[derive(Default)]
pub(crate) struct Accounts(Mutex<HashMap<NamespaceNumber, Account>>);

/// `None` until it is counted.
pub(crate) type Account = Arc<async_lock::Mutex<Option<Usage>>>;

impl Accounts {
    /// That of one namespace.
    pub(crate) fn of(&self, number: NamespaceNumber) -> Account {
        self.lock().entry(number).or_default().clone()
    }

    /// Forgets one that nobody keeps: of a namespace without a quota, or of none.
    pub(crate) fn forget(&self, number: NamespaceNumber) {
        self.lock().remove(&number);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NamespaceNumber, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hold on the account of a namespace, if it has a quota, while something in it is changed.
pub(crate) struct QuotaGuard(Option<HeldAccount>);

struct HeldAccount {
    usage: MutexGuardArc<Option<Usage>>,
    /// What the usage becomes if the change that runs is carried out.
    after: Option<Usage>,
    quota: Quota,
    namespace: NamespaceId,
}

/// What became of a change.
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
    /// What leaves it open costs a count of the whole namespace, so a store that others keep busy must not be taken for that.
    fn from(why: &Error) -> Self {
        match why {
            Error::Full(_) | Error::NotBelieved => Applied::No,
            // The store says this in place of beginning; of a lost answer it says that it did not confirm.
            Error::Unavailable(text) if text == sentences::BUSY => Applied::No,
            _ => Applied::Unknown,
        }
    }
}

impl QuotaGuard {
    /// Whether there is a quota, and sizes are worth finding out.
    pub(crate) fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a change by so many keys and bytes. `Full` if it grows beyond the quota; what shrinks never is.
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

    /// Ends a change that was begun.
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
            // Nobody waited for its end.
            *self.usage = None;
        }
    }
}

/// Holds the account of a scope.
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

/// What a namespace holds now; all of it is read for that.
pub(crate) async fn count(tables: &Tables, number: NamespaceNumber) -> Result<Usage, Error> {
    let generation = tables.generation;
    // One view, so that a key that is renamed meanwhile is counted once.
    let view = tables.snapshot().await?;
    let (keys, bytes) = count_rows(tables, &*view, RowPrefix::keys(generation, number, "").path()).await?;
    let (_, more) = count_rows(tables, &*view, RowPrefix::certificates(generation, number).path()).await?;
    Ok(Usage { keys, bytes: bytes + more })
}

/// Rows and bytes of values whose paths start with `prefix`.
async fn count_rows(tables: &Tables, view: &dyn Snapshot, prefix: &Path) -> Result<(u64, u64), Error> {
    // Rows may be large, so these are few at once.
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

/// Bytes that a record takes when it is stored.
pub(crate) fn stored_bytes(record: &impl Record) -> i64 {
    signed(record.encode().len() + crate::rows::table::SEALED_EXTRA_BYTES)
}

/// A length as a change.
pub(crate) fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn a_store_that_is_busy_leaves_nothing_open() {
        let applied = |why: StoreError| Applied::from(&Err(Error::from(why)));
        assert!(applied(StoreError::Busy) == Applied::No);
        assert!(applied(StoreError::Full) == Applied::No);
        assert!(applied(StoreError::Unreachable("gone".into())) == Applied::Unknown);
        let unconfirmed = "The store did not confirm the change. Read before you try again.";
        assert!(Applied::from(&Error::Unavailable(unconfirmed.into())) == Applied::Unknown);
    }
}
