//! What a table holds: records of one type, each with a stored form of its own.

use zeroize::Zeroizing;

use crate::rows::encoding::BadRecord;

/// A table of the shared store. Each holds records of one type, sealed under a key of its own. Number 6 was used before 0.1.0
/// (see [`super::migrate`]) and is not given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TableId {
    /// Name of a namespace → number and quota.
    Namespaces = 1,
    /// User → record.
    Users = 2,
    /// Namespace number, key id → record.
    Keys = 3,
    /// Namespace number, key uid → certificate.
    Certificates = 4,
    /// Namespace number, key uid, device → count.
    Counters = 5,
    /// Path in a backup, part → what is to be restored.
    Staged = 7,
    /// One row: what stands for the backup passphrase.
    BackupSecrets = 8,
    /// One row: the authority of the cluster.
    ClusterCas = 9,
    /// One row: the highest number given to a namespace.
    NamespaceNumbers = 10,
    /// Number of a deleted namespace → its rows are not all removed yet.
    Remains = 11,
    /// One row while there are digests of NetHSM's to be hardened.
    Hardening = 12,
}

impl TableId {
    /// Every table.
    pub const ALL: [TableId; 11] = [
        TableId::Namespaces,
        TableId::Users,
        TableId::Keys,
        TableId::Certificates,
        TableId::Counters,
        TableId::Staged,
        TableId::BackupSecrets,
        TableId::ClusterCas,
        TableId::NamespaceNumbers,
        TableId::Remains,
        TableId::Hardening,
    ];
}

/// What a table holds.
pub trait Record: Sized + Send + Sync + 'static {
    /// The table that holds these records and no others.
    const TABLE: TableId;
    /// Memory that the table may cache, in bytes.
    const CACHE_BYTES: u64 = 16 << 20;
    /// The stored form, version tag first.
    fn encode(&self) -> Zeroizing<Vec<u8>>;
    /// Reads every version of the stored form.
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord>;
    /// Memory it takes while cached, in bytes, roughly.
    fn weight(&self) -> u64;
    /// Whether there is anything to take over from what a row was before.
    const HANDS_ON: bool = false;
    /// Takes over what took long to make from `older`, which stood in the same row or, before a move, in another one.
    fn take_over(&mut self, _older: &Self) {}
}
