//! The one seam to storage: ordered bytes with revisions, and a single mutation, compare-and-commit.

pub mod history;

use casemate_api::sentences;

use crate::error::Error;
use crate::runtime::BoxFuture;

/// Name of a row. Rows are ordered by these bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(pub Box<[u8]>);

impl Path {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path right behind this one in byte order.
    pub fn next(&self) -> Path {
        Path([self.as_bytes(), &[0]].concat().into())
    }

    /// The first path behind every path that starts with `self`; `None` when there is none (all bytes 0xff).
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

/// A point in the history of one store. Every committed [`Txn`] that changes something gets the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A value and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The bytes.
    pub value: Vec<u8>,
    /// The transaction that put them.
    pub revision: Revision,
}

/// How fresh a read must be. An embedded store knows no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// As of now, agreed with the majority.
    Fresh,
    /// As this replica knows it; never waits for others.
    Local,
}

/// A guard of a [`Txn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The row must not exist.
    Absent,
    /// The row must exist and be of exactly this revision.
    At(Revision),
}

/// What a transaction may do to a disk that is nearly full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Room {
    /// It adds to what is stored, and is refused while the disk is nearly full.
    #[default]
    Ordinary,
    /// It replaces rows by others that are no larger. That takes room only while somebody holds a view of the store, and is
    /// refused when half of what is kept is gone.
    Replacing,
    /// It must be possible then, too: it makes room, or is bounded to little.
    Reserved,
}

/// One transaction: applied whole if every guard holds, else not at all. A path appears at most once among put and
/// delete. At most [`casemate_api::limits::STORE_TXN_MAX_OPS`] guards and operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// Guards, all checked before anything is applied.
    pub expect: Vec<(Path, Expect)>,
    /// Rows to write.
    pub put: Vec<(Path, Vec<u8>)>,
    /// Rows to remove; absent ones are no error.
    pub delete: Vec<Path>,
    /// What it may take of a disk that is nearly full.
    pub room: Room,
}

impl Txn {
    /// Whether the transaction is within the limits every store keeps.
    pub fn fits(&self) -> bool {
        use casemate_api::limits::{STORE_TXN_MAX_OPS, STORE_VALUE_MAX_BYTES};
        self.expect.len() + self.put.len() + self.delete.len() <= STORE_TXN_MAX_OPS
            && self.put.iter().all(|(_, value)| value.len() <= STORE_VALUE_MAX_BYTES)
    }

    /// Whether it is refused while the disk is nearly full. What only removes never is.
    pub fn grows(&self) -> bool {
        self.room == Room::Ordinary && !self.put.is_empty()
    }
}

/// What became of one [`Txn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Applied and durable: it survives the loss of power.
    Committed(Revision),
    /// Nothing applied: the guard with this index failed.
    Conflict(usize),
    /// It may or may not have been applied. Read again to know.
    Unknown,
}

/// Why a store did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached now; the text is for the log.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// Too much waits for the store already; nothing was done.
    #[error("too much waits for the store")]
    Busy,
    /// The disk is full, or so nearly that only what makes room is let in; nothing was done.
    #[error("the disk is full")]
    Full,
    /// What is stored contradicts itself; the text is for the operator.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// A value or transaction is beyond the limits.
    #[error("the value is too large to be stored")]
    TooLarge,
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreachable(why) => {
                tracing::error!(why, "the store cannot be reached");
                Error::Unavailable("The store cannot be reached. Check the log.".into())
            }
            StoreError::Busy => Error::Unavailable(sentences::BUSY.into()),
            StoreError::Full => Error::Full(sentences::DISK_FULL.into()),
            StoreError::Damaged(why) => Error::Internal(format!("the store is damaged: {why}").into()),
            StoreError::TooLarge => Error::Invalid("The value is too large to be stored.".into()),
        }
    }
}

/// Which rows a range read covers: `start` to before `end`, at most `limit` of them, in order.
#[derive(Clone, Debug)]
pub struct Range {
    /// First path.
    pub start: Path,
    /// Path behind the last one; `None`: to the end.
    pub end: Option<Path>,
    /// Most rows returned.
    pub limit: usize,
    /// Leave the values empty.
    pub keys_only: bool,
}

impl Range {
    /// Every row whose path starts with `prefix`.
    pub fn prefix(prefix: &Path, limit: usize) -> Self {
        Self { start: prefix.clone(), end: prefix.after_prefix(), limit, keys_only: false }
    }
}

/// One page of a range.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Rows in order.
    pub rows: Vec<(Path, Versioned)>,
    /// Whether there are rows behind them.
    pub more: bool,
    /// The store's revision as the page saw it.
    pub revision: Revision,
}

/// What a watch reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A row was written or removed.
    Changed {
        /// The row.
        path: Path,
        /// The transaction that did it.
        revision: Revision,
    },
    /// The connection was interrupted; events may be missing. Forget what was cached and watch anew.
    Lost,
    /// The history back to the wanted revision is gone. Forget what was cached and watch anew.
    Compacted,
}

/// A running watch.
pub trait Watch: Send {
    /// The next event. After [`Event::Lost`] or [`Event::Compacted`] there is none.
    fn next(&mut self) -> BoxFuture<'_, Event>;
}

/// One consistent view of the store.
pub trait Snapshot: Send + Sync {
    /// The revision the view is of.
    fn revision(&self) -> Revision;
    /// One page.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>>;
}

/// A store of rows. Everything above it uses only these verbs; everything in it is opaque bytes.
pub trait Store: Send + Sync {
    /// One row.
    fn get<'a>(&'a self, path: &'a Path, read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>>;
    /// One page of rows.
    fn range(&self, range: Range, read: Read) -> BoxFuture<'_, Result<Page, StoreError>>;
    /// Applies each transaction by itself, in order; one [`Outcome`] for each. What queues up while another commit runs
    /// is merged into one write to the disk.
    fn commit(&self, txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>>;
    /// Every change below `prefix` behind revision `from`, in order.
    fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>>;
    /// Whether the disk is nearly full: what grows without being asked for, as logs do, should stop growing. A look, no
    /// promise.
    fn is_nearly_full(&self) -> bool {
        false
    }
    /// One consistent view, for as long as it is held.
    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>>;
}

/// What became of a transaction whose answer was lost, by reading again: sealed values are unique, so equal bytes are
/// ours. `None`: it was not applied, or was and has been overwritten since.
pub(crate) async fn applied(store: &dyn Store, txn: &Txn) -> Result<Option<Revision>, StoreError> {
    if let Some((path, value)) = txn.put.first() {
        let found = store.get(path, Read::Fresh).await?;
        return Ok(found.filter(|found| found.value == *value).map(|found| found.revision));
    }
    for path in &txn.delete {
        if store.get(path, Read::Fresh).await?.is_some() {
            return Ok(None);
        }
    }
    Ok(Some(Revision::default()))
}
