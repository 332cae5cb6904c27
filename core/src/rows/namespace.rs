//! A namespace as stored, with its quota.

use crate::rows::path::{Generation, RowPath, RowPrefix};
use crate::rows::record::TableId;
use casemate_api::NamespaceId;
use zeroize::Zeroizing;

use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::NamespaceNumber;
use crate::rows::record::Record;

/// A namespace as stored.
pub struct NamespaceRecord {
    /// New for each creation, so a namespace created again under the same name starts empty. The paths of its keys carry it.
    pub number: NamespaceNumber,
    /// How much it may hold.
    pub quota: Quota,
}

impl NamespaceRecord {
    /// A namespace without a quota.
    pub fn new(number: NamespaceNumber) -> Self {
        Self { number, quota: Quota::default() }
    }
}

impl Record for NamespaceRecord {
    const TABLE: TableId = TableId::Namespaces;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Without a quota the record stays in version 1, which earlier versions can read.
        if self.quota == Quota::default() {
            return Writer::new(1).u32(self.number).finish();
        }
        let bound = |writer: Writer, max: Option<u64>| match max {
            None => writer.u8(0),
            Some(max) => writer.u8(1).u64(max),
        };
        bound(bound(Writer::new(2).u32(self.number), self.quota.keys), self.quota.bytes).finish()
    }
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        let number = reader.u32()?;
        let mut bound = || match reader.u8()? {
            0 => Ok(None),
            1 => Ok(Some(reader.u64()?)),
            _ => Err(BadRecord("a quota is neither there nor absent")),
        };
        let quota = match version {
            1 => Quota::default(),
            2 => Quota { keys: bound()?, bytes: bound()? },
            _ => return Err(BadRecord("its format is of a newer version")),
        };
        reader.end()?;
        Ok(Self { number, quota })
    }
    fn weight(&self) -> u64 {
        64
    }
}

/// Limits of one namespace; `None` means unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Highest number of keys.
    pub keys: Option<u64>,
    /// Most bytes that the sealed rows of its keys and certificates may take.
    pub bytes: Option<u64>,
}

impl RowPath<NamespaceRecord> {
    /// The row of a namespace.
    pub fn namespace(generation: Generation, id: &NamespaceId) -> Self {
        Self::new(generation, &[id.as_str().as_bytes()])
    }
}

impl RowPrefix<NamespaceRecord> {
    /// All namespaces.
    pub fn namespaces(generation: Generation) -> Self {
        Self::new(generation, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use base16ct::lower::encode_string as hex;

    #[test]
    fn the_stored_form_of_a_namespace_with_a_quota_does_not_change() {
        let golden = include_str!("../../testdata/formats/namespace-v2.txt");
        let quotas = [(Some(100), None), (None, Some(1 << 20)), (Some(0), Some(u64::MAX))];
        assert_eq!(golden.lines().count(), quotas.len());
        for ((keys, bytes), line) in quotas.into_iter().zip(golden.lines()) {
            let record = NamespaceRecord { number: 3, quota: Quota { keys, bytes } };
            assert_eq!(hex(&record.encode()), line);
            let read = NamespaceRecord::decode(&record.encode()).unwrap();
            assert_eq!((read.number, read.quota), (3, record.quota));
        }
        let old = NamespaceRecord::decode(&[1, 0, 0, 0, 3]).unwrap();
        assert_eq!((old.number, old.quota), (3, Quota::default()));
        for bad in [&[2, 0, 0, 0, 3][..], &[2, 0, 0, 0, 3, 2], &[3, 0, 0, 0, 3], &[2, 0, 0, 0, 3, 0, 0, 0]] {
            assert!(NamespaceRecord::decode(bad).is_err(), "{bad:?}");
        }
    }
}
