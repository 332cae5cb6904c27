//! How often a key was used on one device, as stored.

use zeroize::Zeroizing;

use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::table::Record;

/// A count as stored.
pub struct CounterRecord {
    /// Uses on one device.
    pub count: u64,
}

impl Record for CounterRecord {
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        Writer::new(1).u64(self.count).finish()
    }
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let count = reader.u64()?;
        reader.end()?;
        Ok(Self { count })
    }
    fn weight(&self) -> u64 {
        32
    }
}
