//! Records: the typed content of rows. Each type has its own table and its own stored form.

use zeroize::Zeroizing;

use crate::rows::encoding::BadRecord;

/// Number of a table in the shared store. Each table holds records of one type, sealed under its own key. Number 6 was used
/// before 0.1.0 (see `rows/migrate.rs`) and must not be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TableId {
    /// Namespace id → number and quota.
    Namespaces = 1,
    /// User id → record.
    Users = 2,
    /// Namespace number, key id → record.
    Keys = 3,
    /// Namespace number, key uid → certificate.
    Certificates = 4,
    /// Namespace number, key uid, device → count.
    Counters = 5,
    /// Path in a backup, part → bytes to restore.
    Staged = 7,
    /// One row: the key derived from the backup passphrase.
    BackupSecrets = 8,
    /// One row: the cluster CA.
    ClusterCas = 9,
    /// One row: the highest number ever assigned to a namespace.
    NamespaceNumbers = 10,
    /// Number of a deleted namespace whose rows are not all removed yet → nothing.
    DeletedNamespaces = 11,
    /// One row while some users still have digests in NetHSM's weak form.
    Hardening = 12,
    /// Namespace number → what it holds, if it has a quota.
    Usages = 13,
    /// One row: for how long nodes go on without a majority.
    WithoutMajority = 14,
    /// Namespace number, key uid → key id.
    Uids = 15,
    /// Namespace number, tag of a label, key uid → nothing.
    Labels = 16,
    /// One row if all keys have their rows in the two tables before.
    Indexed = 17,
}

impl TableId {
    /// Every table.
    pub const ALL: [TableId; 16] = [
        TableId::Namespaces,
        TableId::Users,
        TableId::Keys,
        TableId::Certificates,
        TableId::Counters,
        TableId::Staged,
        TableId::BackupSecrets,
        TableId::ClusterCas,
        TableId::NamespaceNumbers,
        TableId::DeletedNamespaces,
        TableId::Hardening,
        TableId::Usages,
        TableId::WithoutMajority,
        TableId::Uids,
        TableId::Labels,
        TableId::Indexed,
    ];
}

/// The content of a row.
pub trait Record: Sized + Send + Sync + 'static {
    /// The table that holds these records and no others.
    const TABLE: TableId;
    /// Size limit of the table's cache, in bytes.
    const CACHE_BYTES: u64 = 16 << 20;
    /// The stored form; its first byte is the format version.
    fn encode(&self) -> Zeroizing<Vec<u8>>;
    /// Reads the stored form, in every format version.
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord>;
    /// Approximate memory use while cached, in bytes.
    fn weight(&self) -> u64;
    /// Whether [`Record::reuse_from`] does anything. If so, a cached row is kept after it was replaced or moved.
    const REUSES_OLDER: bool = false;
    /// Reuses what was expensive to compute for `older`, an earlier record of the same row or, after a move, of the row it
    /// was moved from.
    fn reuse_from(&mut self, _older: &Self) {}
}
