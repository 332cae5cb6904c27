//! One atomic write to the shared store. It is built here and applied by [`super::tables::Tables::commit`].

use crate::rows::path::RowPath;
use crate::rows::record::Record;
use crate::rows::table::SealedRow;
use crate::store::{Expect, Path, Revision, Room, Txn};

/// Guards and changes of rows. All changes are applied if every guard holds; otherwise none is.
#[derive(Clone, Default)]
pub struct Transaction {
    txn: Txn,
    /// Rows that keep their content under another path: (removed here, put there).
    pub(super) moves: Vec<(Path, Path)>,
}

/// The outcome of a [`Transaction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Applied and durable, as this revision.
    At(Revision),
    /// Nothing was applied, because the guard with this index failed.
    Conflict(usize),
}

impl Transaction {
    /// The number of guards.
    pub(crate) fn guards(&self) -> usize {
        self.txn.expect.len()
    }

    /// Allows it on a disk that is nearly full, as it replaces rows by others that are not larger. See [`Room::Replacing`].
    pub fn replacing(mut self) -> Self {
        self.txn.room = Room::Replacing;
        self
    }

    /// Allows it on a disk that is nearly full, as it frees room or writes little. See [`Room::Reserved`].
    pub fn reserved(mut self) -> Self {
        self.txn.room = Room::Reserved;
        self
    }

    /// Adds a guard: the row must not exist.
    pub fn absent<R: Record>(self, path: &RowPath<R>) -> Self {
        self.expect(path.path().clone(), Expect::Absent)
    }

    /// Adds a guard: the row must exist and have this revision.
    pub fn at<R: Record>(self, path: &RowPath<R>, revision: Revision) -> Self {
        self.expect(path.path().clone(), Expect::At(revision))
    }

    /// Adds a guard: the row must be as it was read, with this revision or absent.
    pub fn found<R: Record>(self, path: &RowPath<R>, revision: Option<Revision>) -> Self {
        self.expect(path.path().clone(), revision.map_or(Expect::Absent, Expect::At))
    }

    /// Writes a sealed row.
    pub fn put(mut self, row: SealedRow) -> Self {
        self.txn.put.push(row.into_parts());
        self
    }

    /// Removes a row. It is not an error if it does not exist.
    pub fn delete<R: Record>(mut self, path: &RowPath<R>) -> Self {
        self.txn.delete.push(path.path().clone());
        self
    }

    /// Removes the row `from` and writes it under the path it is sealed for.
    pub fn move_to<R: Record>(mut self, from: &RowPath<R>, to: SealedRow) -> Self {
        self.moves.push((from.path().clone(), to.path.clone()));
        self.delete(from).put(to)
    }

    /// The transaction for the store, with `guards` before its own: a conflict with replaced data does not count.
    pub(super) fn guarded(&self, guards: &[(Path, Expect)]) -> Txn {
        let mut txn = self.txn.clone();
        txn.expect.splice(0..0, guards.iter().cloned());
        txn
    }

    fn expect(mut self, path: Path, expect: Expect) -> Self {
        self.txn.expect.push((path, expect));
        self
    }
}
