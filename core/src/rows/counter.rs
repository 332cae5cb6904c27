//! How often a key was used on one device, as stored.

use crate::rows::path::{Generation, RowPath, RowPrefix};
use crate::rows::path::{KeyRef, NamespaceNumber};
use crate::rows::record::TableId;
use zeroize::Zeroizing;

use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::record::Record;

/// How often a key was used on one device.
pub struct CounterRecord {
    /// Number of uses.
    pub count: u64,
}

impl Record for CounterRecord {
    const TABLE: TableId = TableId::Counters;

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

impl RowPath<CounterRecord> {
    /// The count of a key's uses on one device.
    pub fn counter(generation: Generation, key: KeyRef, device: &str) -> Self {
        Self::new(generation, &[&key.namespace.to_be_bytes(), &key.uid, device.as_bytes()])
    }
}

impl RowPrefix<CounterRecord> {
    /// The counts of one key on all devices.
    pub fn counters(generation: Generation, key: KeyRef) -> Self {
        Self::new(generation, &[&key.namespace.to_be_bytes(), &key.uid])
    }

    /// The counts of all keys of one namespace.
    pub fn all_counters(generation: Generation, namespace: NamespaceNumber) -> Self {
        Self::new(generation, &[&namespace.to_be_bytes()])
    }
}
