//! Whether nodes go on without a majority, as stored.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::{Generation, RowPath};
use crate::rows::record::{Record, TableId};

/// For how long a node uses what it has after it was last confirmed. The row is absent until somebody sets it, which means: not
/// at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WithoutMajority {
    /// 0: not at all.
    pub stale_max_s: u32,
}

impl WithoutMajority {
    /// The same as a time.
    pub fn stale_max(self) -> Duration {
        Duration::from_secs(self.stale_max_s.into())
    }
}

impl Record for WithoutMajority {
    const TABLE: TableId = TableId::WithoutMajority;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        Writer::new(1).u32(self.stale_max_s).finish()
    }
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let stale_max_s = reader.u32()?;
        reader.end()?;
        Ok(Self { stale_max_s })
    }
    fn weight(&self) -> u64 {
        32
    }
}

impl RowPath<WithoutMajority> {
    /// The one row.
    pub fn without_majority(generation: Generation) -> Self {
        Self::new(generation, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_of_version_1_does_not_change() {
        let setting = WithoutMajority { stale_max_s: 0x0102 };
        let stored = [1, 0, 0, 1, 2];
        assert_eq!(*setting.encode(), stored);
        assert_eq!(WithoutMajority::decode(&stored), Ok(setting));
        for bad in [&[2][..], &[1], &[1, 0, 0, 1, 2, 0], &[]] {
            assert!(WithoutMajority::decode(bad).is_err(), "{bad:?}");
        }
        assert_eq!(RowPath::without_majority(7).path().as_bytes(), [1, 0, 0, 0, 7, 14]);
    }
}
