//! Where the store is that this device shares, or could share, with others: in a file, or in an etcd of its own. The record is in the
//! device's own store. Writing it is the moment at which the store moves; a boot removes every other store that it finds.

use crate::device::Device;
use crate::device::store::{DeviceStore, DeviceStoreChange};
use crate::error::Error;
use crate::platform::stores::{Place, PlaceKind, StoreKeeper};
use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::DevicePath;

/// A place, and by how much revisions there are ahead of those of the store itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StorePlace {
    pub(crate) place: Place,
    /// See [`crate::store::Ahead`]. It counts for a store that the settings name, too, which has no place.
    pub(crate) ahead: u64,
}

impl StorePlace {
    /// Where the store of a new device is.
    pub(crate) const FIRST: Self = Self { place: Place { kind: PlaceKind::File, number: 0 }, ahead: 0 };

    fn encode(self) -> Vec<u8> {
        let kind = match self.place.kind {
            PlaceKind::File => 1,
            PlaceKind::Etcd => 2,
        };
        Writer::new(1).u8(kind).u32(self.place.number).u64(self.ahead).finish().to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let kind = match reader.u8()? {
            1 => PlaceKind::File,
            2 => PlaceKind::Etcd,
            _ => return Err(BadRecord("it names an unknown kind of store")),
        };
        let (number, ahead) = (reader.u32()?, reader.u64()?);
        reader.end()?;
        Ok(Self { place: Place { kind, number }, ahead })
    }

    /// The recorded place.
    pub(crate) async fn stored(local: &DeviceStore) -> Result<Self, Error> {
        let Some(bytes) = local.get(DevicePath::StorePlace).await? else { return Ok(Self::FIRST) };
        Self::decode(&bytes).map_err(|why| Error::internal(format!("the record of where the store is: {why}")))
    }

    /// Makes this the place of the store, together with `change`.
    pub(crate) async fn write(self, local: &DeviceStore, change: DeviceStoreChange) -> Written {
        let Err(error) = local.commit(self.record_in(change)).await else { return Written::Yes };
        match Self::stored(local).await {
            Ok(stored) if stored == self => Written::Yes,
            Ok(_) => Written::No(error),
            Err(error) => Written::Unknown(error),
        }
    }

    /// Adds the record of this place to `change`.
    pub(crate) fn record_in(self, change: DeviceStoreChange) -> DeviceStoreChange {
        change.put(DevicePath::StorePlace, self.encode())
    }
}

/// Whether a record was written.
pub(crate) enum Written {
    /// It was.
    Yes,
    /// The one from before is there.
    No(Error),
    /// The next boot finds out. Until then no store may be written to or removed.
    Unknown(Error),
}

impl Device {
    /// The keeper of this device's etcd. `None`: its store is not in an etcd of its own.
    pub(crate) async fn own_etcd(&self) -> Result<Option<&dyn StoreKeeper>, Error> {
        let Some(movable) = &self.platform.movable else { return Ok(None) };
        let place = StorePlace::stored(&self.store).await?.place;
        Ok((place.kind == PlaceKind::Etcd).then_some(&*movable.keeper))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_places_of_every_version_are_read() {
        let golden = include_str!("../../testdata/formats/store-place-v1.txt");
        let place = |kind, number, ahead| StorePlace { place: Place { kind, number }, ahead };
        let places =
            [StorePlace::FIRST, place(PlaceKind::Etcd, 0x0102, 0x0304_0506_0708), place(PlaceKind::File, 7, u64::MAX)];
        assert_eq!(golden.lines().count(), places.len());
        for (place, line) in places.into_iter().zip(golden.lines()) {
            assert_eq!(base16ct::lower::encode_string(&place.encode()), line);
            assert_eq!(StorePlace::decode(&place.encode()), Ok(place));
        }
        let longer = [&StorePlace::FIRST.encode()[..], &[0]].concat();
        for bad in
            [&b""[..], b"\x01", b"\x02\x01\0\0\0\0\0\0\0\0\0\0\0\0", b"\x01\x03\0\0\0\0\0\0\0\0\0\0\0\0", &longer]
        {
            assert!(StorePlace::decode(bad).is_err());
        }
    }
}
