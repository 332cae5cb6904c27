//! What a namespace with a quota holds, as stored.

use zeroize::Zeroizing;

use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::{Generation, NamespaceNumber, RowPath};
use crate::rows::record::{Record, TableId};

/// What a namespace holds, in the same units as its quota. The row is absent until it is needed, and then written with each
/// change, so that it is right on every node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of keys.
    pub keys: u64,
    /// Bytes of stored keys and certificates, sealed.
    pub bytes: u64,
}

impl Record for Usage {
    const TABLE: TableId = TableId::Usages;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        Writer::new(1).u64(self.keys).u64(self.bytes).finish()
    }
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let (keys, bytes) = (reader.u64()?, reader.u64()?);
        reader.end()?;
        Ok(Self { keys, bytes })
    }
    fn weight(&self) -> u64 {
        32
    }
}

impl RowPath<Usage> {
    /// The usage of the namespace with this number.
    pub fn usage(generation: Generation, number: NamespaceNumber) -> Self {
        Self::new(generation, &[&number.to_be_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_of_version_1_does_not_change() {
        let usage = Usage { keys: 0x0102, bytes: 0x0304 };
        let stored = [1, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4];
        assert_eq!(*usage.encode(), stored);
        assert_eq!(Usage::decode(&stored), Ok(usage));
        for bad in [&[2][..], &[1], &[1, 0, 0, 0, 0, 0, 0, 1, 2], &[]] {
            assert!(Usage::decode(bad).is_err(), "{bad:?}");
        }
        assert_eq!(RowPath::usage(7, 3).path().as_bytes(), [1, 0, 0, 0, 7, 13, 0, 0, 0, 3]);
    }
}
