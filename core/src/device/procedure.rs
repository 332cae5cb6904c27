//! What a boot does when power failed in a provisioning or a restore: procedures that need several writes to two stores. The running one is recorded in the device's own store before its first
//! write, so that the boot after a crash finishes or undoes it.
//!
//! | procedure | after a crash |
//! |---|---|
//! | provisioning | undone: it was not acknowledged |
//! | staging a restore | undone: the current generation was not touched |
//! | importing a restore | finished as soon as the Domain Key is known, at unlock or at an unattended boot |

use crate::device::store::{DeviceStore, DeviceStoreChange};
use crate::error::Error;
use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::{DevicePath, Generation};
use crate::rows::staged::Version;

/// A procedure that was started and is not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Procedure {
    /// The HSM is being provisioned.
    Provision,
    /// The entries of a backup are being written to this generation, or converted from it to the next.
    Stage {
        /// A generation after the current one, which nothing reads yet.
        generation: Generation,
    },
    /// The slots are those of a backup, whose entries are in this generation and are still to be converted to the next.
    Import {
        /// A generation after the current one, which nothing reads yet.
        generation: Generation,
        /// Version of the backup's format.
        version: Version,
    },
}

/// How provisioning was recorded before there were other procedures.
const OLD_PROVISION: &[u8] = b"provision";

impl Procedure {
    pub(crate) fn encode(self) -> Vec<u8> {
        let writer = Writer::new(1);
        let writer = match self {
            Procedure::Provision => writer.u8(1),
            Procedure::Stage { generation } => writer.u8(2).u32(generation),
            Procedure::Import { generation, version } => writer.u8(3).u32(generation).u8(version.byte()),
        };
        writer.finish().to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        if bytes == OLD_PROVISION {
            return Ok(Procedure::Provision);
        }
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let unknown = BadRecord("it names an unknown procedure");
        let procedure = match reader.u8()? {
            1 => Procedure::Provision,
            2 => Procedure::Stage { generation: reader.u32()? },
            3 => Procedure::Import { generation: reader.u32()?, version: Version::of(reader.u8()?).ok_or(unknown)? },
            _ => return Err(unknown),
        };
        reader.end()?;
        Ok(procedure)
    }

    /// The recorded procedure, if there is one.
    pub(crate) async fn stored(local: &DeviceStore) -> Result<Option<Self>, Error> {
        let Some(bytes) = local.get(DevicePath::Procedure).await? else { return Ok(None) };
        let procedure =
            Procedure::decode(&bytes).map_err(|why| Error::internal(format!("the record of a procedure: {why}")))?;
        Ok(Some(procedure))
    }

    /// The generation that it has taken for the entries of a backup.
    pub(crate) fn generation(self) -> Option<Generation> {
        match self {
            Procedure::Provision => None,
            Procedure::Stage { generation } | Procedure::Import { generation, .. } => Some(generation),
        }
    }

    /// Adds the record of this procedure to `change`.
    pub(crate) fn record_in(self, change: DeviceStoreChange) -> DeviceStoreChange {
        change.put(DevicePath::Procedure, self.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_procedures_of_every_version_are_read() {
        let golden = include_str!("../../testdata/formats/steps-v1.txt");
        let procedures = [
            Procedure::Provision,
            Procedure::Stage { generation: 0x0102 },
            Procedure::Import { generation: 7, version: Version::V0 },
            Procedure::Import { generation: 7, version: Version::V1 },
        ];
        assert_eq!(golden.lines().count(), procedures.len());
        for (procedure, line) in procedures.into_iter().zip(golden.lines()) {
            assert_eq!(base16ct::lower::encode_string(&procedure.encode()), line);
            assert_eq!(Procedure::decode(&procedure.encode()), Ok(procedure));
        }
        assert_eq!(Procedure::decode(b"provision"), Ok(Procedure::Provision));
        for bad in [&b""[..], b"\x01", b"\x02\x01", b"\x01\x04", b"\x01\x01\x00", b"\x01\x03\0\0\0\x07\x02"] {
            assert!(Procedure::decode(bad).is_err());
        }
    }
}
