//! One atomic write to the shared store, as its writer puts it together. [`super::tables::Tables::commit`] carries it out.

use crate::rows::path::RowPath;
use crate::rows::record::Record;
use crate::rows::table::SealedRow;
use crate::store::{Expect, Path, Revision, Room, Txn};

/// Guards and rows: applied whole if every guard holds, else not at all.
#[derive(Clone, Default)]
pub struct Transaction {
    txn: Txn,
    /// Rows that stay what they are under another path: removed here, put there.
    pub(super) moves: Vec<(Path, Path)>,
}

/// What became of a [`Transaction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Applied and durable.
    At(Revision),
    /// Nothing applied: the guard with this index failed.
    Conflict(usize),
}

impl Transaction {
    /// How many guards it has.
    pub(crate) fn guards(&self) -> usize {
        self.txn.expect.len()
    }

    /// It is carried out on a disk that is nearly full, too, unless it is worse: it replaces rows by others that are no larger.
    pub fn replacing(mut self) -> Self {
        self.txn.room = Room::Replacing;
        self
    }

    /// It is carried out on a disk that is nearly full, too: what it writes is bounded to little.
    pub fn reserved(mut self) -> Self {
        self.txn.room = Room::Reserved;
        self
    }

    /// The row must not exist.
    pub fn absent<R: Record>(self, path: &RowPath<R>) -> Self {
        self.expect(path.path().clone(), Expect::Absent)
    }

    /// The row must exist and be of this revision.
    pub fn at<R: Record>(self, path: &RowPath<R>, revision: Revision) -> Self {
        self.expect(path.path().clone(), Expect::At(revision))
    }

    /// The row must be as it was found: of this revision, or absent.
    pub fn found<R: Record>(self, path: &RowPath<R>, revision: Option<Revision>) -> Self {
        self.expect(path.path().clone(), revision.map_or(Expect::Absent, Expect::At))
    }

    /// Writes a sealed row.
    pub fn put(mut self, row: SealedRow) -> Self {
        self.txn.put.push(row.into_parts());
        self
    }

    /// Removes a row; an absent one is no error.
    pub fn delete<R: Record>(mut self, path: &RowPath<R>) -> Self {
        self.txn.delete.push(path.path().clone());
        self
    }

    /// Removes the row `from` and writes it under the path it is sealed for.
    pub fn move_to<R: Record>(mut self, from: &RowPath<R>, to: SealedRow) -> Self {
        self.moves.push((from.path().clone(), to.path.clone()));
        self.delete(from).put(to)
    }

    /// As a store takes it, with one more guard behind its own.
    pub(super) fn fenced(&self, path: Path, expect: Expect) -> Txn {
        let mut txn = self.txn.clone();
        txn.expect.push((path, expect));
        txn
    }

    fn expect(mut self, path: Path, expect: Expect) -> Self {
        self.txn.expect.push((path, expect));
        self
    }
}
