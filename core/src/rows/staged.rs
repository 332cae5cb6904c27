//! Entries of a backup during a restore, as stored: split into parts and sealed under a key of this device.

use zeroize::Zeroizing;

use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::{Generation, RowPath, RowPrefix, TABLE_BYTES};
use crate::rows::record::Record;
use crate::rows::record::TableId;
use crate::store::Path;

/// Format version of the entries in a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// NetHSM before 4.0.
    V0,
    /// NetHSM since 4.0, and backups that Casemate writes.
    V1,
}

impl Version {
    /// The version as stored: 0 or 1.
    pub fn byte(self) -> u8 {
        match self {
            Version::V0 => 0,
            Version::V1 => 1,
        }
    }

    /// Reads what [`Version::byte`] returns. `None` for any other byte.
    pub fn of(byte: u8) -> Option<Self> {
        [Version::V0, Version::V1].into_iter().find(|version| version.byte() == byte)
    }
}

/// A part of an entry.
pub struct StagedPart {
    /// Number of parts of the entry.
    pub count: u32,
    /// The bytes of this part.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl Record for StagedPart {
    const TABLE: TableId = TableId::Staged;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        Writer::new(1).u32(self.count).raw(&self.bytes).finish()
    }
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        Ok(Self { count: reader.u32()?, bytes: Zeroizing::new(reader.rest().to_vec()) })
    }
    fn weight(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl RowPath<StagedPart> {
    /// A part of an entry. `path` is its path in the backup, which contains no zero byte.
    pub fn staged(generation: Generation, path: &str, part: u32) -> Self {
        Self::new(generation, &[path.as_bytes(), &[0], &part.to_be_bytes()])
    }
}

impl RowPrefix<StagedPart> {
    /// The entries of a backup whose paths start with `prefix`.
    pub fn staged(generation: Generation, prefix: &str) -> Self {
        Self::new(generation, &[prefix.as_bytes()])
    }
}

/// The path in the backup and the number of the part, from the path of a row of this table. `None` if it is not one.
pub fn staged_name(row: &Path) -> Option<(&str, u32)> {
    let (head, part) = row.as_bytes().split_last_chunk::<4>()?;
    let path = head.get(TABLE_BYTES..)?.strip_suffix(&[0])?;
    Some((std::str::from_utf8(path).ok()?, u32::from_be_bytes(*part)))
}
