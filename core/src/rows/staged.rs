//! Entries of a backup while they wait to be taken over, as stored: sealed under a key of this device, in parts.

use zeroize::Zeroizing;

use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::{Generation, RowPath, RowPrefix, TABLE_BYTES};
use crate::rows::record::Record;
use crate::rows::record::TableId;
use crate::store::Path;

/// A version of the format that entries of a backup come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// NetHSM before 4.0.
    V0,
    /// NetHSM since 4.0, and what is written here.
    V1,
}

impl Version {
    /// The byte that says so.
    pub fn byte(self) -> u8 {
        match self {
            Version::V0 => 0,
            Version::V1 => 1,
        }
    }

    /// The version a byte stands for.
    pub fn of(byte: u8) -> Option<Self> {
        [Version::V0, Version::V1].into_iter().find(|version| version.byte() == byte)
    }
}

/// A part of an entry.
pub struct StagedPart {
    /// How many parts the entry has.
    pub count: u32,
    /// The bytes of this one.
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
    /// A part of an entry of a backup. The path in the backup holds no zero byte.
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

/// The path in the backup, and the part, that a row of this table holds.
pub fn staged_name(row: &Path) -> Option<(&str, u32)> {
    let (head, part) = row.as_bytes().split_last_chunk::<4>()?;
    let path = head.get(TABLE_BYTES..)?.strip_suffix(&[0])?;
    Some((std::str::from_utf8(path).ok()?, u32::from_be_bytes(*part)))
}
