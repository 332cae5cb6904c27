//! The frames of a backup file in NetHSM's formats V0 and V1: read as bytes arrive, written one by one.
//!
//! | field | V0 | V1 |
//! |---|---|---|
//! | `_NETHSM_BACKUP_`, version byte | yes | yes |
//! | salt of the Backup Key, in clear | yes | yes |
//! | version, locked Domain Key, each sealed | yes | yes |
//! | device id, key of the device's configuration, each sealed | | yes |
//! | entries, each sealed | to the end | to an empty one |
//! | `_NETHSM_BACKUP_END_` | | yes |
//!
//! Every field except the first and the last has its length in front: three bytes, big-endian. This file handles no
//! keys; sealed fields stay sealed. The bytes are not trusted; at most one frame is kept in memory, 16 MiB.

/// The beginning of every backup.
pub const MAGIC: &[u8; 15] = b"_NETHSM_BACKUP_";
/// The end of every backup of V1.
pub const TRAILER: &[u8; 19] = b"_NETHSM_BACKUP_END_";
/// Longest content of a frame, in bytes.
pub const FRAME_MAX_BYTES: usize = (1 << 24) - 1;

pub use crate::rows::staged::Version;

/// The sealed fields in front of the entries, in order.
fn fields(version: Version) -> &'static [Field] {
    match version {
        Version::V0 => &[Field::Version, Field::DomainKey],
        Version::V1 => &[Field::Version, Field::DomainKey, Field::DeviceId, Field::ConfigKey],
    }
}

/// A sealed field in front of the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The version byte again.
    Version,
    /// The Domain Key, sealed under the Unlock Key.
    DomainKey,
    /// Id of the device the backup is of.
    DeviceId,
    /// The key that seals that device's configuration.
    ConfigKey,
}

impl Field {
    /// The associated data of its seal, and its name in messages.
    pub fn label(self) -> &'static str {
        match self {
            Field::Version => "backup-version",
            Field::DomainKey => "domain-key",
            Field::DeviceId => "backup-device-id",
            Field::ConfigKey => "backup-config-store-key",
        }
    }
}

/// The associated data of an entry's seal.
pub const ENTRY_LABEL: &str = "backup";

/// Why a file is refused. `Display` is the sentence that clients see; some clients compare it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The file is not a backup.
    #[error("Not a NetHSM backup file")]
    NotABackup,
    /// The version is not known.
    #[error("Version mismatch on restore, the backup has version {0}, known are 0 and 1.")]
    Version(u8),
    /// The salt has the wrong length.
    #[error("The salt of the backup file does not have 16 bytes.")]
    Salt,
    /// The bytes end within a field.
    #[error("Unexpected end of data")]
    UnexpectedEnd,
    /// The bytes end before the end of the backup.
    #[error("The backup file was truncated. Nothing was restored.")]
    Truncated,
    /// There are bytes after the end of the backup.
    #[error("The backup file goes on behind its end. Nothing was restored.")]
    TooLong,
    /// A field cannot be unsealed. For the first one the cause is nearly always a wrong passphrase.
    #[error("Could not decrypt {0}, authentication failed. Is the passphrase correct?")]
    Sealed(&'static str),
    /// A field is malformed.
    #[error("The backup file holds a malformed {0}.")]
    Malformed(&'static str),
    /// The sealed version differs from the one in clear.
    #[error("Internal and external version mismatch.")]
    InnerVersion,
    /// The entries are not those that the file was written with.
    #[error("Entries of the backup file were removed, added or exchanged. Nothing was restored.")]
    Manifest,
}

/// One frame of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// The beginning of the file.
    Start {
        /// Version of the format.
        version: Version,
        /// Salt of the Backup Key.
        salt: [u8; 16],
    },
    /// A sealed field.
    Field(Field, Vec<u8>),
    /// A sealed entry.
    Entry(Vec<u8>),
    /// The proper end. Nothing follows it.
    End,
}

/// The state of the parser.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Magic,
    Salt(Version),
    Field(Version, usize),
    Entries(Version),
    Trailer,
    End,
}

/// Reads frames from bytes that come in pieces of any size.
pub struct Parser {
    at: At,
    bytes: Vec<u8>,
    /// How many of `bytes` have been consumed.
    used: usize,
    ended: bool,
}

impl Default for Parser {
    fn default() -> Self {
        Self { at: At::Magic, bytes: Vec::new(), used: 0, ended: false }
    }
}

impl Parser {
    /// Takes the next bytes of the file. Call [`Parser::frame`] until it returns `None` before feeding more: unread
    /// frames stay in memory.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Tells the parser that the file has ended.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// The next frame. `None`: more bytes are needed, or the file has been read to its end.
    pub fn frame(&mut self) -> Result<Option<Frame>, FormatError> {
        match self.at {
            At::Magic => {
                let begins = self.left().iter().zip(MAGIC).all(|(byte, magic)| byte == magic);
                if !begins {
                    return Err(FormatError::NotABackup);
                }
                let Some(start) = self.take(MAGIC.len() + 1)? else { return Ok(None) };
                let version = start.last().copied().unwrap_or(u8::MAX);
                self.at = At::Salt(Version::of(version).ok_or(FormatError::Version(version))?);
                self.frame()
            }
            At::Salt(version) => {
                let Some(salt) = self.framed()? else { return Ok(None) };
                let salt = salt.try_into().map_err(|_| FormatError::Salt)?;
                self.at = At::Field(version, 0);
                Ok(Some(Frame::Start { version, salt }))
            }
            At::Field(version, number) => {
                let Some(field) = fields(version).get(number) else {
                    self.at = At::Entries(version);
                    return self.frame();
                };
                let Some(sealed) = self.framed()? else { return Ok(None) };
                self.at = At::Field(version, number + 1);
                Ok(Some(Frame::Field(*field, sealed)))
            }
            At::Entries(version) => {
                if self.left().is_empty() && self.ended {
                    return match version {
                        Version::V0 => Ok(self.end()),
                        Version::V1 => Err(FormatError::Truncated),
                    };
                }
                let Some(sealed) = self.framed()? else { return Ok(None) };
                if sealed.is_empty() && version == Version::V1 {
                    self.at = At::Trailer;
                    return self.frame();
                }
                Ok(Some(Frame::Entry(sealed)))
            }
            At::Trailer => {
                let begins = self.left().iter().zip(TRAILER).all(|(byte, trailer)| byte == trailer);
                if !begins || (self.ended && self.left().len() < TRAILER.len()) {
                    return Err(FormatError::Truncated);
                }
                match self.take(TRAILER.len())? {
                    Some(_) => Ok(self.end()),
                    None => Ok(None),
                }
            }
            At::End if self.left().is_empty() => Ok(None),
            At::End => Err(FormatError::TooLong),
        }
    }

    /// Whether the proper end has been read.
    pub fn at_end(&self) -> bool {
        self.at == At::End
    }

    fn end(&mut self) -> Option<Frame> {
        self.at = At::End;
        Some(Frame::End)
    }

    fn left(&self) -> &[u8] {
        self.bytes.get(self.used..).unwrap_or_default()
    }

    /// The next `length` bytes; `None` until they have arrived.
    fn take(&mut self, length: usize) -> Result<Option<Vec<u8>>, FormatError> {
        match self.left().get(..length).map(<[u8]>::to_vec) {
            Some(taken) => {
                self.used += length;
                Ok(Some(taken))
            }
            None if self.ended => Err(FormatError::UnexpectedEnd),
            None => Ok(None),
        }
    }

    /// The next field with its length in front; `None` until it has arrived.
    fn framed(&mut self) -> Result<Option<Vec<u8>>, FormatError> {
        let Some((head, rest)) = self.left().split_first_chunk() else { return self.take(LENGTH_BYTES) };
        let length = read_length(head);
        if rest.len() < length {
            return if self.ended { Err(FormatError::UnexpectedEnd) } else { Ok(None) };
        }
        self.used += LENGTH_BYTES;
        self.take(length)
    }
}

const LENGTH_BYTES: usize = 3;

fn read_length(bytes: &[u8; LENGTH_BYTES]) -> usize {
    bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
}

/// Splits a field with its length in front from what follows; `None` if it is cut off.
pub fn split_framed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(read_length(head))
}

/// The content does not fit a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value is too long for a backup: a frame holds less than 16 MiB")]
pub struct TooLong;

/// Appends a field with its length in front.
pub fn push_framed(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), TooLong> {
    if bytes.len() > FRAME_MAX_BYTES {
        return Err(TooLong);
    }
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(length.get(1..).unwrap_or_default());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends the beginning of a file: magic, version, salt.
pub fn push_start(out: &mut Vec<u8>, version: Version, salt: &[u8; 16]) -> Result<(), TooLong> {
    out.extend_from_slice(MAGIC);
    out.push(version.byte());
    push_framed(out, salt)
}

/// Appends the end of a file of V1.
pub fn push_end(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.extend_from_slice(TRAILER);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(version: Version, entries: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        push_start(&mut out, version, &[7; 16]).unwrap();
        for field in fields(version) {
            push_framed(&mut out, field.label().as_bytes()).unwrap();
        }
        entries.iter().for_each(|entry| push_framed(&mut out, entry).unwrap());
        if version == Version::V1 {
            push_end(&mut out);
        }
        out
    }

    /// Reads a file that comes in pieces of `size` bytes.
    fn parsed(bytes: &[u8], size: usize) -> Result<Vec<Frame>, FormatError> {
        let (mut parser, mut frames) = (Parser::default(), Vec::new());
        for piece in bytes.chunks(size.max(1)) {
            parser.feed(piece);
            while let Some(frame) = parser.frame()? {
                frames.push(frame);
            }
        }
        parser.finish();
        while let Some(frame) = parser.frame()? {
            frames.push(frame);
        }
        assert!(parser.at_end());
        Ok(frames)
    }

    #[test]
    fn both_versions_are_read_in_pieces_of_any_size() {
        for version in [Version::V0, Version::V1] {
            let bytes = file(version, &[b"one", b"two"]);
            let mut expected = vec![Frame::Start { version, salt: [7; 16] }];
            expected.extend(fields(version).iter().map(|field| Frame::Field(*field, field.label().into())));
            expected.extend([Frame::Entry(b"one".into()), Frame::Entry(b"two".into()), Frame::End]);
            for size in 1..bytes.len() + 1 {
                assert_eq!(parsed(&bytes, size).unwrap(), expected, "{size}");
            }
        }
    }

    #[test]
    fn a_file_that_ends_early_is_refused_with_the_place() {
        let whole = file(Version::V1, &[b"one", b"two"]);
        let without_entries = file(Version::V1, &[]).len() - 22;
        let borders = [without_entries, without_entries + 6, without_entries + 12];
        for cut in 0..whole.len() {
            let expected = match cut {
                cut if borders.contains(&cut) || cut >= whole.len() - TRAILER.len() => FormatError::Truncated,
                _ => FormatError::UnexpectedEnd,
            };
            assert_eq!(parsed(&whole[..cut], 1000), Err(expected.clone()), "{cut}");
            assert_eq!(parsed(&whole[..cut], 1), Err(expected), "{cut}");
        }
        let whole = file(Version::V0, &[b"one", b"two"]);
        let head = file(Version::V0, &[]).len();
        for cut in 0..whole.len() {
            // V0 has no end of its own.
            assert_eq!(parsed(&whole[..cut], 7).is_ok(), cut == head || cut == head + 6, "{cut}");
        }
    }

    #[test]
    fn a_file_that_is_not_a_backup_is_refused_at_once() {
        let mut parser = Parser::default();
        parser.feed(b"PK");
        assert_eq!(parser.frame(), Err(FormatError::NotABackup));
        let mut newer = file(Version::V1, &[]);
        newer[15] = 2;
        assert_eq!(parsed(&newer, 1000), Err(FormatError::Version(2)));
        let mut parser = Parser::default();
        parser.feed(b"_NETHSM_BACKUP_\x01\0\0\x02ab");
        assert_eq!(parser.frame(), Err(FormatError::Salt));
        let mut other_end = file(Version::V1, &[b"one"]);
        *other_end.last_mut().unwrap() = b'!';
        assert_eq!(parsed(&other_end, 1000), Err(FormatError::Truncated));
        let mut longer = file(Version::V1, &[b"one"]);
        longer.push(0);
        assert_eq!(parsed(&longer, 1000), Err(FormatError::TooLong));
        assert_eq!(parsed(&longer, 1), Err(FormatError::TooLong));
    }

    #[test]
    fn lengths_have_three_bytes() {
        let mut out = Vec::new();
        push_framed(&mut out, &[9; 0x1_02_03]).unwrap();
        assert_eq!(out[..3], [1, 2, 3]);
        assert_eq!(split_framed(&out), Some((&[9; 0x1_02_03][..], &[][..])));
        assert_eq!(split_framed(&out[..out.len() - 1]), None);
        assert_eq!(push_framed(&mut out, &vec![0; FRAME_MAX_BYTES + 1]), Err(TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_alike_however_they_come(version in 0u8..3, tail: Vec<u8>, size in 1usize..40) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend([version, 0, 0, 16]);
            bytes.extend([0; 16]);
            bytes.extend(tail);
            prop_assert_eq!(parsed(&bytes, size), parsed(&bytes, bytes.len()));
        }
    }
}
