//! That this device is about to join a cluster: recorded before its own store is left, so that a boot in between goes on or goes back.

use crate::device::slots::{Slot0, SlotSet};
use crate::device::store::{DeviceStore, DeviceStoreChange};
use crate::error::Error;
use crate::rows::cluster_id::ClusterId;
use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::DevicePath;

/// A join that is not finished. The store from before it is kept.
pub(crate) struct Joining {
    /// The number of the etcd that joins.
    pub(crate) number: u32,
    /// By how much revisions are ahead in that cluster.
    pub(crate) ahead: u64,
    /// When it is given up, in seconds since 1970 by the clock of the machine.
    pub(crate) until: u64,
    /// The cluster that is joined.
    pub(crate) cluster: ClusterId,
    /// Slot 0 of this device in that cluster.
    pub(crate) slot: Slot0,
}

impl Joining {
    fn encode(&self) -> Vec<u8> {
        let Self { number, ahead, until, cluster, slot } = self;
        let writer = Writer::new(1).u32(*number).u64(*ahead).u64(*until).bytes(cluster.bytes());
        writer.raw(&slot.salt).bytes(&slot.inner).finish().to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let (number, ahead, until) = (reader.u32()?, reader.u64()?, reader.u64()?);
        let cluster = ClusterId::from_bytes(reader.bytes()?).ok_or(BadRecord("its cluster is of an unknown form"))?;
        let slot = Slot0 { which: SlotSet::Current, salt: reader.array()?, inner: reader.bytes()?.to_vec() };
        reader.end()?;
        Ok(Self { number, ahead, until, cluster, slot })
    }

    /// The recorded join, if there is one.
    pub(crate) async fn stored(local: &DeviceStore) -> Result<Option<Self>, Error> {
        let Some(bytes) = local.get(DevicePath::Joining).await? else { return Ok(None) };
        let record = Self::decode(&bytes);
        record.map(Some).map_err(|why| Error::internal(format!("the record of a join: {why}")))
    }

    /// Adds the record of this join to `change`.
    pub(crate) fn record_in(&self, change: DeviceStoreChange) -> DeviceStoreChange {
        change.put(DevicePath::Joining, self.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_joins_of_every_version_are_read() {
        let golden = include_str!("../../testdata/formats/joining-v1.txt").trim();
        let bytes = base16ct::lower::decode_vec(golden).unwrap();
        let joining = Joining::decode(&bytes).unwrap();
        assert_eq!((joining.number, joining.ahead, joining.until), (0x0102, 0x0304, 0x0506_0708));
        assert_eq!(joining.cluster.bytes(), &[&[1][..], &[0xaa; 16]].concat());
        assert_eq!((joining.slot.salt, joining.slot.inner.as_slice()), ([0xbb; 16], &[0xcc; 60][..]));
        assert_eq!(joining.encode(), bytes);
        for bad in [&b""[..], &[2], &bytes[..bytes.len() - 1], &[&bytes[..], &[0]].concat()] {
            assert!(Joining::decode(bad).is_err());
        }
    }
}
