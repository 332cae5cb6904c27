//! The interface to storage: rows of bytes, ordered by path, with revisions; and one way to change them, transactions with
//! guards. The server implements it on disk, `sim/store.rs` in memory; `sim/conformance.rs` is the test of every implementation.
//!
//! A store may be shared with other nodes. Then an answer can be lost while the transaction is still under way, and a read
//! that follows does not tell whether it will be applied. `settle.rs` has what is to be done.

mod ahead;
pub mod copy;
pub mod facts;
pub mod history;
pub mod settle;
pub mod switch;

pub use ahead::Ahead;

use casemate_api::sentences;

use crate::error::Error;
use crate::runtime::BoxFuture;

/// The key of a row. Rows are ordered by these bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(pub Box<[u8]>);

impl Path {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The next path in byte order.
    pub fn next(&self) -> Path {
        Path([self.as_bytes(), &[0]].concat().into())
    }

    /// The first path after all paths that start with `self`. `None` if there is none, because all bytes are 0xff.
    pub fn after_prefix(&self) -> Option<Path> {
        let mut end = self.0.to_vec();
        while let Some(last) = end.pop() {
            if last != u8::MAX {
                end.push(last + 1);
                return Some(Path(end.into()));
            }
        }
        None
    }
}

/// A point in the history of one store. A committed [`Txn`] that changes a row gets a higher number than every transaction
/// before it, except that transactions which were written together, and of which none touches a row that another one writes,
/// may share a number. Numbers may be left out: others may use the same store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// The value of a row, and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The bytes.
    pub value: Vec<u8>,
    /// The revision of the transaction that wrote them.
    pub revision: Revision,
}

/// How fresh a read must be. For an embedded store both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The current state, agreed with the majority of the cluster.
    Fresh,
    /// The state that this replica knows; never waits for others.
    Local,
}

/// A guard of a [`Txn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The row must not exist.
    Absent,
    /// The row must exist and have exactly this revision.
    At(Revision),
}

/// What a transaction may do on a disk that is nearly full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Room {
    /// It adds rows or makes them larger. Refused while the disk is nearly full.
    #[default]
    Ordinary,
    /// It replaces rows by others that are not larger. That takes room only while somebody holds a snapshot of the store, and
    /// is refused when half of the reserve is used up.
    Replacing,
    /// It is allowed to use the reserve: it frees room, or writes little.
    Reserved,
}

/// One transaction. All changes are applied if every guard holds; otherwise none is. A path appears at most once among put
/// and delete. It has at most [`casemate_api::limits::STORE_TXN_MAX_OPS`] guards and changes, and their paths and values
/// together at most [`casemate_api::limits::STORE_TXN_MAX_BYTES`] bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// Guards, all checked before anything is applied.
    pub expect: Vec<(Path, Expect)>,
    /// Rows to write.
    pub put: Vec<(Path, Vec<u8>)>,
    /// Rows to remove. It is not an error if one does not exist.
    pub delete: Vec<Path>,
    /// What it may do on a disk that is nearly full.
    pub room: Room,
}

impl Txn {
    /// Whether the transaction is within the limits of every store.
    pub fn fits(&self) -> bool {
        use casemate_api::limits::{STORE_TXN_MAX_BYTES, STORE_TXN_MAX_OPS, STORE_VALUE_MAX_BYTES};
        self.expect.len() + self.put.len() + self.delete.len() <= STORE_TXN_MAX_OPS
            && self.put.iter().all(|(_, value)| value.len() <= STORE_VALUE_MAX_BYTES)
            && self.bytes() <= STORE_TXN_MAX_BYTES
    }

    /// Length of all paths and values together.
    pub fn bytes(&self) -> usize {
        let put = self.put.iter().map(|(path, value)| path.as_bytes().len() + value.len());
        let paths = self.expect.iter().map(|(path, _)| path).chain(&self.delete).map(|path| path.as_bytes().len());
        put.chain(paths).sum()
    }

    /// Whether it is refused while the disk is nearly full. A transaction that only removes rows never is.
    pub fn grows(&self) -> bool {
        self.room == Room::Ordinary && !self.put.is_empty()
    }
}

/// The outcome of one [`Txn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Applied, and durable even if power is lost.
    Committed(Revision),
    /// Nothing was applied, because the guard with this index failed.
    Conflict(usize),
    /// It may or may not have been applied, and on a shared store it may still be applied later. A read does not settle
    /// this; see [`settle`].
    Unknown,
}

/// Why a call to a store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached now. Nothing was done. The text is for the log.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// The store and this node do not accept each other: a certificate, a right. Nothing was done. The text is for the log.
    #[error("the store and this node do not accept each other: {0}")]
    Refused(String),
    /// The store is of a version that is not used. Nothing was done. The text is for the operator.
    #[error("the store is not used: {0}")]
    Unsupported(String),
    /// The store is reached, but most of its members are not, so that it neither writes nor answers fresh reads. Nothing was
    /// done.
    #[error("the store has no majority")]
    NoMajority,
    /// The rows of this revision are no longer kept: a snapshot lasted too long, or somebody else compacts the store.
    #[error("the store has removed the revision that was read")]
    Compacted,
    /// The queue of the store is full. Nothing was done.
    #[error("too much waits for the store")]
    Busy,
    /// Nobody may write now, because this node's data is about to be elsewhere (see [`switch::Hold`]). Nothing was done.
    #[error("the store is being replaced")]
    Held,
    /// The disk is full, or nearly full and this was not an allowed kind of write (see [`Room`]). Nothing was done.
    #[error("the disk is full")]
    Full,
    /// The stored data is inconsistent. The text is for the operator.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// A value or transaction is larger than the limits allow. Nothing was done.
    #[error("the value is too large to be stored")]
    TooLarge,
}

impl StoreError {
    /// Whether the store cannot be reached. A busy or damaged store does not count, as that must not enable what is allowed
    /// only in the Failed state.
    pub fn is_away(&self) -> bool {
        matches!(
            self,
            StoreError::Unreachable(_) | StoreError::Refused(_) | StoreError::Unsupported(_) | StoreError::NoMajority
        )
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreachable(why) | StoreError::Refused(why) | StoreError::Unsupported(why) => {
                tracing::error!(why, "the store cannot be reached");
                Error::Unavailable("The store cannot be reached. Check the log.".into())
            }
            StoreError::NoMajority => {
                tracing::error!("the store has no majority");
                Error::Unavailable("The store has no majority of its members. Nothing was done; try another node.".into())
            }
            StoreError::Compacted => Error::Unavailable(
                "The store has removed the revision that was being read. Start again; if it happens again, see whether somebody else compacts the store.".into(),
            ),
            StoreError::Busy => Error::Unavailable(sentences::BUSY.into()),
            StoreError::Held => Error::Unavailable(sentences::STORE_HELD.into()),
            StoreError::Full => Error::Full(sentences::DISK_FULL.into()),
            StoreError::Damaged(why) => Error::Internal(format!("the store is damaged: {why}").into()),
            StoreError::TooLarge => Error::invalid("The value is too large to be stored."),
        }
    }
}

/// The rows that a range read returns: from `start` up to, but without, `end`, at most `limit`, in order.
#[derive(Clone, Debug)]
pub struct Range {
    /// First path.
    pub start: Path,
    /// First path that is not included. `None`: all rows from `start` on.
    pub end: Option<Path>,
    /// Most rows to return.
    pub limit: usize,
    /// Whether the values are left empty.
    pub keys_only: bool,
}

impl Range {
    /// Every row whose path starts with `prefix`.
    pub fn prefix(prefix: &Path, limit: usize) -> Self {
        Self { start: prefix.clone(), end: prefix.after_prefix(), limit, keys_only: false }
    }
}

/// One page of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Rows in order.
    pub rows: Vec<(Path, Versioned)>,
    /// Whether the range has more rows after these.
    pub more: bool,
    /// The store's revision when the page was read.
    pub revision: Revision,
}

/// What a watch reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A row was written or removed.
    Changed {
        /// The row.
        path: Path,
        /// The revision of the transaction that changed it.
        revision: Revision,
    },
    /// Every change up to this revision was reported. Only sent when asked for, see [`Watch::ask_progress`].
    Progress(Revision),
    /// The connection was interrupted, and events may be missing. Discard what is cached and start a new watch.
    Lost,
    /// The history does not reach back to the wanted revision. Discard what is cached and start a new watch.
    Compacted,
}

/// A running watch.
pub trait Watch: Send {
    /// The next event. After [`Event::Lost`] or [`Event::Compacted`] it never resolves. Dropping the future loses nothing.
    fn next(&mut self) -> BoxFuture<'_, Event>;
    /// Asks for an [`Event::Progress`], which follows when everything known to the store at some moment after this call was
    /// reported. Several requests may be answered by one event.
    fn ask_progress(&mut self);
}

/// A consistent view of the store at one revision.
pub trait Snapshot: Send + Sync {
    /// The revision of the view.
    fn revision(&self) -> Revision;
    /// One page of rows.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>>;
    /// One page of each of `ranges`, in their order; at most [`casemate_api::limits::STORE_TXN_MAX_OPS`]. For ranges that
    /// hold few rows.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] for more ranges.
    fn ranges<'a>(&'a self, ranges: &'a [Range]) -> BoxFuture<'a, Result<Vec<Page>, StoreError>>;
}

/// A store of rows. The core uses storage only through these calls, and to the store all values are opaque bytes.
pub trait Store: Send + Sync {
    /// One row. `None`: it does not exist.
    fn get<'a>(&'a self, path: &'a Path, read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>>;
    /// The rows at `paths`, in their order, all as of one revision; at most [`casemate_api::limits::STORE_TXN_MAX_OPS`].
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] for more paths.
    fn get_many<'a>(
        &'a self,
        paths: &'a [Path],
        read: Read,
    ) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>>;
    /// One page of rows.
    fn range(&self, range: Range, read: Read) -> BoxFuture<'_, Result<Page, StoreError>>;
    /// Whether others write to this store, too. Then what is cached is only as new as the last event of a watch.
    fn is_shared(&self) -> bool;
    /// Whether this node has all rows itself, so that [`Read::Local`] is answered while no other machine can be reached.
    fn has_own_copy(&self) -> bool {
        false
    }
    /// Applies the transactions in order, each on its own and each seeing the ones before it, and returns one [`Outcome`] for
    /// each. Commits that wait while another one runs are merged into one write to the disk.
    ///
    /// # Errors
    /// Nothing was applied.
    fn commit(&self, txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>>;
    /// Every change after revision `from` of rows whose paths start with `prefix`, in order.
    fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>>;
    /// Whether the disk is nearly full, so that logs and the like should not grow further. It may change at any time.
    fn is_nearly_full(&self) -> bool {
        false
    }
    /// What is known of the store itself, without asking it now. `None`: it is in this process.
    fn facts(&self) -> Option<facts::Facts> {
        None
    }
    /// A consistent view, until it is dropped.
    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>>;
}
