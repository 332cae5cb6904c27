//! Procedures that take several writes to two stores. Which one runs is noted in the local store before its first write,
//! so that a boot after a crash finishes or undoes it.
//!
//! | step | after a crash |
//! |---|---|
//! | provisioning | undone: nothing of it was acknowledged |
//! | staging a restore | undone: the current generation was not touched |
//! | importing a restore | finished as soon as the Domain Key is there, at unlock or at an unattended boot |

use crate::device::store::{Local, LocalChange};
use crate::error::Error;
use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::{Generation, LocalPath};
use crate::rows::staged::Version;

/// What was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The HSM is being provisioned.
    Provision,
    /// The entries of a backup are being written into this generation, or converted from it into the next.
    Stage {
        /// Beyond the current one, and invisible.
        generation: Generation,
    },
    /// The slots are those of a backup, whose entries wait in this generation to be converted into the next.
    Import {
        /// Beyond the current one, and invisible.
        generation: Generation,
        /// Version of the backup's format.
        version: Version,
    },
}

/// How a provisioning was noted before there were other steps.
const OLD_PROVISION: &[u8] = b"provision";

impl Step {
    pub(crate) fn encode(self) -> Vec<u8> {
        let writer = Writer::new(1);
        let writer = match self {
            Step::Provision => writer.u8(1),
            Step::Stage { generation } => writer.u8(2).u32(generation),
            Step::Import { generation, version } => writer.u8(3).u32(generation).u8(version.byte()),
        };
        writer.finish().to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        if bytes == OLD_PROVISION {
            return Ok(Step::Provision);
        }
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let unknown = BadRecord("it names an unknown procedure");
        let step = match reader.u8()? {
            1 => Step::Provision,
            2 => Step::Stage { generation: reader.u32()? },
            3 => Step::Import { generation: reader.u32()?, version: Version::of(reader.u8()?).ok_or(unknown)? },
            _ => return Err(unknown),
        };
        reader.end()?;
        Ok(step)
    }

    /// What was begun and is not over.
    pub(crate) async fn noted(local: &Local) -> Result<Option<Self>, Error> {
        let Some(bytes) = local.get(LocalPath::Step).await? else { return Ok(None) };
        let step = Step::decode(&bytes).map_err(|why| Error::internal(format!("the note of a procedure: {why}")))?;
        Ok(Some(step))
    }

    /// Adds the note to `change`.
    pub(crate) fn note(self, change: LocalChange) -> LocalChange {
        change.put(LocalPath::Step, self.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_steps_of_every_version_are_read() {
        let golden = include_str!("../../testdata/formats/steps-v1.txt");
        let steps = [
            Step::Provision,
            Step::Stage { generation: 0x0102 },
            Step::Import { generation: 7, version: Version::V0 },
            Step::Import { generation: 7, version: Version::V1 },
        ];
        assert_eq!(golden.lines().count(), steps.len());
        for (step, line) in steps.into_iter().zip(golden.lines()) {
            assert_eq!(base16ct::lower::encode_string(&step.encode()), line);
            assert_eq!(Step::decode(&step.encode()), Ok(step));
        }
        assert_eq!(Step::decode(b"provision"), Ok(Step::Provision));
        for bad in [&b""[..], b"\x01", b"\x02\x01", b"\x01\x04", b"\x01\x01\x00", b"\x01\x03\0\0\0\x07\x02"] {
            assert!(Step::decode(bad).is_err());
        }
    }
}
