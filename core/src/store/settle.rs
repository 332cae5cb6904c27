//! Lost answers: how it becomes known whether a transaction was applied.
//!
//! A shared store may lose the answer to a commit whose transaction is still under way: a read that says 'not applied' can be
//! followed by one that says 'applied'. Sending a transaction again settles it only if it can be applied at most once, and if
//! its own effect can be recognised. [`Repeatable`] admits only such transactions: each replaces one row that is never
//! removed, expects that row as it was found, and writes a value that nobody else writes. Everything else is settled with the
//! help of one of them, the fence in `rows/fence.rs`.

use super::{Expect, Outcome, Path, Read, Revision, Store, StoreError, Txn};

/// A transaction that can be sent again until its outcome is known.
#[derive(Clone, Debug)]
pub struct Repeatable {
    path: Path,
    value: Vec<u8>,
    txn: Txn,
}

/// The outcome of a [`Repeatable`]. It is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Applied once, at this revision, and not overwritten yet.
    Committed(Revision),
    /// The row was not as expected, or another guard failed. If the value was unique, nothing was or will be applied, unless
    /// the row has been replaced again since.
    Conflict,
}

/// Why a [`Repeatable`] has no final outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsettled {
    /// Nothing was sent.
    NotBegun(StoreError),
    /// It may have been applied, or may still be. The store did not answer as often as this is tried.
    Unknown,
}

impl Repeatable {
    /// Replaces the row at `path`, which is never removed, if it is as it was `found`: of this revision, or absent. No other
    /// transaction writes this `value` to it.
    pub fn replace(path: Path, found: Option<Revision>, value: Vec<u8>) -> Self {
        let expect = vec![(path.clone(), found.map_or(Expect::Absent, Expect::At))];
        let txn =
            Txn { expect, put: vec![(path.clone(), value.clone())], room: super::Room::Reserved, ..Txn::default() };
        Self { path, value, txn }
    }

    /// Adds a guard.
    pub fn expect(mut self, path: Path, expect: Expect) -> Self {
        self.txn.expect.push((path, expect));
        self
    }

    /// Adds another row to write in the same transaction.
    pub fn put(mut self, path: Path, value: Vec<u8>) -> Self {
        self.txn.put.push((path, value));
        self
    }

    /// Sends it until the answer is known, at most [`ATTEMPTS`] times.
    pub async fn commit(&self, store: &dyn Store) -> Result<Settled, Unsettled> {
        let mut sent = false;
        for _ in 0..ATTEMPTS {
            match store.commit(vec![self.txn.clone()]).await.map(|mut outcomes| outcomes.pop()) {
                Ok(Some(Outcome::Committed(revision))) => return Ok(Settled::Committed(revision)),
                Ok(Some(Outcome::Conflict(_))) if !sent => return Ok(Settled::Conflict),
                // One of the earlier attempts may be what this one met. None of them can be applied any more: the row has
                // another revision than all of them expect.
                Ok(Some(Outcome::Conflict(_))) => match store.get(&self.path, Read::Fresh).await {
                    Ok(Some(row)) if row.value == self.value => return Ok(Settled::Committed(row.revision)),
                    Ok(_) => return Ok(Settled::Conflict),
                    Err(_) => {}
                },
                Ok(Some(Outcome::Unknown) | None) => sent = true,
                Err(error) if !sent => return Err(Unsettled::NotBegun(error)),
                Err(_) => {}
            }
        }
        Err(Unsettled::Unknown)
    }
}

/// Attempts to send a [`Repeatable`]. Each may take as long as the store waits for its members.
pub const ATTEMPTS: usize = 8;

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::sim::SimStore;

    fn path() -> Path {
        Path(b"row".as_slice().into())
    }

    fn replace(found: Option<Revision>, value: &str) -> Repeatable {
        Repeatable::replace(path(), found, value.into())
    }

    fn value(store: &SimStore) -> Option<String> {
        let row = block_on(store.get(&path(), Read::Fresh)).unwrap()?;
        Some(String::from_utf8(row.value).unwrap())
    }

    #[test]
    fn a_lost_answer_is_followed_by_a_known_one() {
        for seed in 0..64 {
            let store = SimStore::new(seed);
            store.lose_answers(seed as usize % 6);
            let Ok(Settled::Committed(first)) = block_on(replace(None, "1").commit(&store)) else { panic!("{seed}") };
            assert_eq!(block_on(store.get(&path(), Read::Fresh)).unwrap().unwrap().revision, first);
            store.lose_answers(2);
            assert_eq!(block_on(replace(None, "2").commit(&store)), Ok(Settled::Conflict));
            assert_eq!(value(&store).as_deref(), Some("1"));
            store.lose_answers(ATTEMPTS);
            let late = block_on(replace(Some(first), "3").commit(&store));
            assert!(matches!(late, Err(Unsettled::Unknown)), "{late:?}");
        }
    }

    #[test]
    fn what_arrives_late_is_applied_once_or_never() {
        for seed in 0..64 {
            let store = SimStore::new(seed);
            store.lose_answers(1);
            store.delay_lost(true);
            let Ok(Settled::Committed(first)) = block_on(replace(None, "1").commit(&store)) else { panic!("{seed}") };
            assert_eq!(
                block_on(replace(Some(first), "2").commit(&store)).map(|settled| settled != Settled::Conflict),
                Ok(true)
            );
            store.deliver_late();
            assert_eq!(value(&store).as_deref(), Some("2"), "seed {seed}: a late write changed something");
        }
    }

    #[test]
    fn a_store_that_is_away_has_begun_nothing() {
        let store = SimStore::new(1);
        store.fail(true);
        assert!(matches!(block_on(replace(None, "1").commit(&store)), Err(Unsettled::NotBegun(_))));
    }
}
