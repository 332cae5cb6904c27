//! Names of rows. The shared store and the local store have path types of their own, so that a device's secrets cannot
//! be written where every member of a cluster reads.

use std::marker::PhantomData;

use crate::rows::record::{Record, TableId};
pub use crate::runtime::party::{NamespaceNumber, ROOT};
use crate::store::Path;

/// Number of a restore generation. Every shared row lives in one; a restore fills the next and then moves the pointer.
pub type Generation = u32;

/// Random and unique for each key, and stable while the key is renamed.
pub type Uid = [u8; 16];

/// A key, whatever it is called at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyRef {
    /// The namespace it is in.
    pub namespace: NamespaceNumber,
    /// Its uid.
    pub uid: Uid,
}

/// The row that holds the number of the current generation, in clear, because it is read before anything is unlocked.
pub fn generation_pointer() -> Path {
    Path(Box::from(b"\0generation".as_slice()))
}

/// The name of a row of the table that holds records of type `R`. Only the file of that record makes one, so a row cannot be
/// read from, or written to, another table.
pub struct RowPath<R> {
    path: Path,
    record: PhantomData<fn() -> R>,
}

/// How the paths of several rows of one table begin.
pub struct RowPrefix<R>(RowPath<R>);

impl<R: Record> RowPath<R> {
    /// The row named by `parts`, joined.
    pub(super) fn new(generation: Generation, parts: &[&[u8]]) -> Self {
        // The leading 1 keeps every generation behind the pointer row.
        let mut bytes = Vec::with_capacity(TABLE_BYTES + parts.iter().map(|part| part.len()).sum::<usize>());
        bytes.push(1);
        bytes.extend_from_slice(&generation.to_be_bytes());
        bytes.push(R::TABLE as u8);
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        Self { path: Path(bytes.into()), record: PhantomData }
    }

    /// The row of this path as the store has it; only a table says so of what it found in itself.
    pub(super) fn found(path: Path) -> Self {
        Self { path, record: PhantomData }
    }

    /// The path as the store takes it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path as the store takes it.
    pub fn into_path(self) -> Path {
        self.path
    }
}

impl<R> PartialEq for RowPath<R> {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl<R> Clone for RowPath<R> {
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), record: PhantomData }
    }
}

impl<R: Record> RowPrefix<R> {
    /// The rows whose names begin with `parts`, joined.
    pub(super) fn new(generation: Generation, parts: &[&[u8]]) -> Self {
        Self(RowPath::new(generation, parts))
    }

    /// The prefix as the store takes it.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// What follows the prefix in a row's path, as text; ids are ASCII.
    pub fn tail<'a>(&self, row: &'a Path) -> Option<&'a str> {
        std::str::from_utf8(row.as_bytes().strip_prefix(self.path().as_bytes())?).ok()
    }
}

/// Prefix of all rows of one generation.
pub fn generation_prefix(generation: Generation) -> Path {
    let [a, b, c, d] = generation.to_be_bytes();
    Path(Box::from([1, a, b, c, d]))
}

/// The generation and the table of a row; `None`: it is a row of no table, or of one that this version does not know.
pub(super) fn table_of(path: &Path) -> Option<(Generation, TableId)> {
    let (head, _) = path.as_bytes().split_first_chunk::<TABLE_BYTES>()?;
    let [1, a, b, c, d, table] = *head else { return None };
    let table = TableId::ALL.into_iter().find(|known| *known as u8 == table)?;
    Some((Generation::from_be_bytes([a, b, c, d]), table))
}

/// What comes in front of a row's own name: a one, the generation, the table.
pub(super) const TABLE_BYTES: usize = 6;

/// A row of the device's own store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DevicePath {
    /// The Domain Key under the Unlock Key: attended boot.
    Slot0,
    /// The Domain Key under the Device Key alone: unattended boot.
    Slot1,
    /// Salt of the Unlock Key.
    UnlockSalt,
    /// Slot 0 from before a restore, until what was restored has proved to be usable.
    FormerSlot0,
    /// Slot 1 from before a restore.
    FormerSlot1,
    /// Salt of the Unlock Key from before a restore.
    FormerSalt,
    /// Clock offset from before a restore.
    FormerClockOffset,
    /// Seconds from the hardware clock to the HSM's.
    ClockOffset,
    /// TLS private key and certificate chain.
    Tls,
    /// Addresses to be reached at.
    Network,
    /// What is logged, and where to.
    Logging,
    /// Time servers to follow.
    Ntp,
    /// A procedure that was begun and must be finished or undone at boot.
    Procedure,
    /// The key that signs checkpoints of the audit log.
    AuditKey,
    /// Where the audit log begins and ends.
    AuditHead,
    /// The record of the audit log with this sequence number.
    AuditRecord(u64),
    /// The checkpoint of the audit log at this sequence number.
    AuditCheckpoint(u64),
}

impl DevicePath {
    /// The path as the store takes it.
    pub fn path(self) -> Path {
        let text: &[u8] = match self {
            DevicePath::Slot0 => b"slot/0",
            DevicePath::Slot1 => b"slot/1",
            DevicePath::UnlockSalt => b"unlock-salt",
            DevicePath::FormerSlot0 => b"former/slot/0",
            DevicePath::FormerSlot1 => b"former/slot/1",
            DevicePath::FormerSalt => b"former/unlock-salt",
            DevicePath::FormerClockOffset => b"former/clock-offset",
            DevicePath::ClockOffset => b"clock-offset",
            DevicePath::Tls => b"tls",
            DevicePath::Network => b"network",
            DevicePath::Logging => b"logging",
            DevicePath::Ntp => b"ntp",
            DevicePath::Procedure => b"step",
            DevicePath::AuditKey => b"audit/key",
            DevicePath::AuditHead => b"audit/head",
            DevicePath::AuditRecord(sequence) => return numbered(b"audit/record/", sequence),
            DevicePath::AuditCheckpoint(sequence) => return numbered(b"audit/checkpoint/", sequence),
        };
        Path(Box::from(text))
    }
}

/// Rows in the order of their numbers.
fn numbered(prefix: &[u8], number: u64) -> Path {
    Path([prefix, &number.to_be_bytes()].concat().into())
}
