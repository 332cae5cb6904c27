//! Paths of rows. The shared store and the device's own store have different path types, so that a device's secrets cannot
//! be written where every member of a cluster reads them.

use std::marker::PhantomData;

use crate::rows::record::{Record, TableId};
pub use crate::runtime::party::{NamespaceNumber, ROOT};
use crate::store::Path;

/// Number of a generation of the shared store. Every shared row is in one; a restore fills the next generation and then
/// switches the pointer to it.
pub type Generation = u32;

/// Identifies a key: random, unique, and unchanged when the key is renamed.
pub type Uid = [u8; 16];

/// A key, independent of its current name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyRef {
    /// The namespace it is in.
    pub namespace: NamespaceNumber,
    /// Its uid.
    pub uid: Uid,
}

/// The path of the row that holds the number of the current generation. It is stored in clear, because it is read before the
/// HSM is unlocked.
pub fn generation_pointer() -> Path {
    Path(Box::from(b"\0generation".as_slice()))
}

/// The path of the row that tells which cluster the store belongs to.
pub fn cluster_identity() -> Path {
    Path(Box::from(b"\0cluster".as_slice()))
}

/// The path of the row that holds the highest number of a generation that a restore has taken. It is never removed.
pub fn highest_generation() -> Path {
    Path(Box::from(b"\0reserved".as_slice()))
}

/// Whether a row tells nothing about whether a cluster uses the store: it may remain when nothing else does.
pub(super) fn is_left_over(path: &Path) -> bool {
    path.as_bytes().starts_with(FENCES) || *path == highest_generation()
}

/// Prefix of the rows of [`node_fence`].
pub fn node_fences() -> Path {
    Path(Box::from(FENCES))
}

const FENCES: &[u8] = b"\0fence/";

/// The path of the row that a node writes when it must be sure that nothing it sent before will still be applied. `node` is its
/// device id. The value is random and in clear; only its revision counts.
pub fn node_fence(node: &str) -> Path {
    Path([FENCES, node.as_bytes()].concat().into())
}

/// The path of a row in the table of records of type `R`: the byte 1, the generation (4 bytes, big-endian), the table's
/// number (1 byte), then the row's own name. Only the module of that record creates such paths, so a row cannot be read from,
/// or written to, another table.
pub struct RowPath<R> {
    path: Path,
    record: PhantomData<fn() -> R>,
}

/// A common prefix of paths in one table.
pub struct RowPrefix<R>(RowPath<R>);

impl<R: Record> RowPath<R> {
    /// The path of the row whose name is `parts`, concatenated.
    pub(super) fn new(generation: Generation, parts: &[&[u8]]) -> Self {
        // The leading 1 sorts every generation after the pointer row.
        let mut bytes = Vec::with_capacity(TABLE_BYTES + parts.iter().map(|part| part.len()).sum::<usize>());
        bytes.push(1);
        bytes.extend_from_slice(&generation.to_be_bytes());
        bytes.push(R::TABLE as u8);
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        Self { path: Path(bytes.into()), record: PhantomData }
    }

    /// Types a path that a table found among its own rows.
    pub(super) fn found(path: Path) -> Self {
        Self { path, record: PhantomData }
    }

    /// The untyped path, as a store takes it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The untyped path, as a store takes it.
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
    /// The rows whose names begin with `parts`, concatenated.
    pub(super) fn new(generation: Generation, parts: &[&[u8]]) -> Self {
        Self(RowPath::new(generation, parts))
    }

    /// The untyped prefix, as a store takes it.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// What follows the prefix in a row's path, as text. `None` if the path does not begin with the prefix or the rest is not
    /// UTF-8.
    pub fn tail<'a>(&self, row: &'a Path) -> Option<&'a str> {
        std::str::from_utf8(row.as_bytes().strip_prefix(self.path().as_bytes())?).ok()
    }
}

/// Prefix of all rows of one generation.
pub fn generation_prefix(generation: Generation) -> Path {
    let [a, b, c, d] = generation.to_be_bytes();
    Path(Box::from([1, a, b, c, d]))
}

/// The generation and the table of a row. `None`: the row is not in a table, or this version does not know the table.
pub(super) fn table_of(path: &Path) -> Option<(Generation, TableId)> {
    let (head, _) = path.as_bytes().split_first_chunk::<TABLE_BYTES>()?;
    let [1, a, b, c, d, table] = *head else { return None };
    let table = TableId::ALL.into_iter().find(|known| *known as u8 == table)?;
    Some((Generation::from_be_bytes([a, b, c, d]), table))
}

/// Length of what precedes a row's own name: the byte 1, the generation, the table.
pub(super) const TABLE_BYTES: usize = 6;

/// The path of a row in the device's own store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DevicePath {
    /// The Domain Key under the Unlock Key: attended boot.
    Slot0,
    /// The Domain Key under the Device Key alone: unattended boot.
    Slot1,
    /// Salt for deriving the Unlock Key from the unlock passphrase.
    UnlockSalt,
    /// Slot 0 from before a restore, kept until the restored slot was opened once.
    FormerSlot0,
    /// Slot 1 from before a restore.
    FormerSlot1,
    /// Salt of the Unlock Key from before a restore.
    FormerSalt,
    /// Clock offset from before a restore.
    FormerClockOffset,
    /// Seconds by which the HSM's time is ahead of the hardware clock.
    ClockOffset,
    /// TLS private key and certificate chain.
    Tls,
    /// Network configuration.
    Network,
    /// Logging configuration.
    Logging,
    /// Time servers.
    Ntp,
    /// A procedure that was started and must be finished or undone at boot.
    Procedure,
    /// Which cluster's shared store this device uses. Absent if the shared store is a file of this device.
    Cluster,
    /// Where the shared store of this device is. Absent: in its first file, or where the settings say.
    StorePlace,
    /// A join of a cluster that is not finished.
    Joining,
    /// The CA of the cluster, so that this node's etcd can start without what is stored there.
    ClusterCa,
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
    /// The untyped path, as a store takes it.
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
            DevicePath::Cluster => b"cluster",
            DevicePath::StorePlace => b"store-place",
            DevicePath::Joining => b"joining",
            DevicePath::ClusterCa => b"cluster-ca",
            DevicePath::AuditKey => b"audit/key",
            DevicePath::AuditHead => b"audit/head",
            DevicePath::AuditRecord(sequence) => return numbered(b"audit/record/", sequence),
            DevicePath::AuditCheckpoint(sequence) => return numbered(b"audit/checkpoint/", sequence),
        };
        Path(Box::from(text))
    }
}

/// A path that sorts by its number.
fn numbered(prefix: &[u8], number: u64) -> Path {
    Path([prefix, &number.to_be_bytes()].concat().into())
}
