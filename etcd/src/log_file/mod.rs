//! The write-ahead log of a member of etcd that does not run, `member/wal` in its folder: takes all its entries as committed.
//!
//! A leader confirms a change when most members have it on their disks, and tells them of that with its next message only, which etcd
//! writes when it has something else to write. So the log of a member that was killed has changes that were confirmed and that it
//! does not know to be committed. In its cluster it asks the others. Alone, with `--force-new-cluster`, etcd throws away what is
//! not committed; [`commit_all`] makes it keep that. Whether a change was confirmed cannot be seen there, so some are kept that never were: their
//! clients do not know.
//!
//! # The log
//!
//! Files named `SEQUENCE-INDEX.wal`, both of 16 hexadecimal digits: a number that goes up by 1, and the index of the first entry that was to
//! come. The last one is filled up with zeros in advance. Each is a row of frames: the length of a record (eight bytes,
//! little-endian, of which the uppermost has its highest bit set and the number of bytes of padding in its lowest three if there are any),
//! the record and the padding. A length of zero ends a file. A record has a kind, a CRC-32C and data. The checksum is that of the data of
//! all records so far; each file begins with one that repeats the checksum and from which the reading can start. The kinds:
//!
//! | | |
//! |---|---|
//! | 1 | metadata: the id of this member and of the cluster |
//! | 2 | entry: index, term, content; it replaces all with its index and higher ones that stand before it |
//! | 3 | state: term, vote, and the index up to which entries are committed; the last one counts |
//! | 4 | checksum |
//! | 5 | snapshot: its index and term. The member's own is of committed entries. One that its leader has sent is of entries that the member does not have, replaces the whole log, and counts when a state or an entry behind it says so |
//!
//! # What a crash leaves
//!
//! The last record may be there in part: a length that goes beyond the file, or a wrong checksum if one of its sectors has only zeros, because it was
//! never written. etcd takes it as not written, and so does this. Everything else that does not fit together is damage.
//!
//! The content comes from peers: nothing of it decides how much memory is used, and it cannot make this write anything
//! else than one record.

#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use casemate_api::limits::{ETCD_LOG_FILES_MAX, ETCD_LOG_RECORD_MAX_BYTES};
use crc::{CRC_32_ISCSI, Crc, Table};
use prost::Message;
use rustix::fs::OFlags;

use crate::FileError;

/// Up to which entry a log is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The index that was found.
    pub before: u64,
    /// The index that the log has now; the same if nothing was written.
    pub after: u64,
}

/// Takes all entries in `folder` as committed, durably, if they are not: the `member/wal` of a *copy* of an etcd that does not run.
///
/// Two kinds of entries are left as they are: one that removes this member from its cluster, with those behind it, because etcd would
/// end when it carries that out; and those before a snapshot of the leader that nothing has followed yet, which replaces them.
///
/// It reads the whole log, which takes seconds for each gigabyte: not for a thread that serves.
///
/// # Errors
/// The log cannot be read or written, or is damaged. Nothing was written then, except if writing itself has failed.
pub fn commit_all(folder: &Path) -> Result<Committed, FileError> {
    let files = files(folder)?;
    let (mut log, mut sum, mut last) = (Log::default(), 0, None);
    log.next = files.first().map_or(1, |file| file.first.max(1));
    for (at, file) in files.iter().enumerate() {
        let mut segment = Segment::open(&file.path, at + 1 == files.len())?;
        while let Some(record) = segment.next(&mut sum)? {
            log.take(record).map_err(|why| segment.damaged(why))?;
        }
        last = Some(segment);
    }
    let before = log.state.commit;
    let (Some(state), Some(segment)) = (log.all_committed(), last) else {
        return Ok(Committed { before, after: before });
    };
    segment.append(&frame(STATE, state.encode_to_vec(), sum))?;
    Ok(Committed { before, after: state.commit })
}

/// What the records read so far come to.
#[derive(Default)]
struct Log {
    /// The id of this member.
    member: u64,
    state: HardState,
    /// The index of the entry behind the last one in force.
    next: u64,
    /// Index and term of the last entry in force that may be taken as committed.
    last: Option<(u64, u64)>,
    /// The index of the entry in force that removes this member.
    removal: Option<u64>,
    /// The index of a snapshot of the leader, until there is an entry behind it.
    snapshot: Option<u64>,
}

impl Log {
    fn take(&mut self, record: Record) -> Result<(), String> {
        let data = record.data.unwrap_or_default();
        let decoded = match record.kind {
            METADATA => Metadata::decode(data).map(|metadata| self.member = metadata.member),
            ENTRY => return Entry::decode(data).map_err(senseless).and_then(|entry| self.entry(entry)),
            STATE => HardState::decode(data).map(|state| self.state = state),
            CHECKSUM => Ok(()),
            SNAPSHOT => Snapshot::decode(data).map(|Snapshot { index }| {
                // Its own is made of what it knows to be committed.
                if index > self.state.commit {
                    self.snapshot = Some(index);
                }
            }),
            kind => return Err(format!("it has a record of the unknown kind {kind}")),
        };
        decoded.map_err(senseless)
    }

    fn entry(&mut self, entry: Entry) -> Result<(), String> {
        let Entry { term, index, .. } = entry;
        let next = index.checked_add(1).filter(|_| index > 0).ok_or("the index of an entry makes no sense")?;
        // The leader goes on behind its snapshot. Other entries show that this member was started again without that.
        let counts = self.snapshot == Some(index - 1);
        if index > self.next && !counts {
            return Err(format!("entry {} is missing", self.next));
        }
        (self.snapshot, self.next) = (None, next);
        self.removal = self.removal.filter(|removal| *removal < index && !counts);
        if self.removal.is_none() {
            if entry.removes(self.member)? {
                self.removal = Some(index);
            } else {
                self.last = Some((index, term));
            }
        }
        Ok(())
    }

    /// The state with which all entries are committed; `None` if there is nothing to do.
    fn all_committed(&self) -> Option<HardState> {
        let (commit, term) = self.last.filter(|(index, _)| self.snapshot.is_none() && *index > self.state.commit)?;
        // A vote is for one term.
        let term = term.max(self.state.term);
        let vote = if term == self.state.term { self.state.vote } else { 0 };
        Some(HardState { term, vote, commit })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn senseless(error: prost::DecodeError) -> String {
    format!("the content of a record makes no sense: {error}")
}

/// A file of the log that is read from its beginning.
struct Segment {
    path: PathBuf,
    file: BufReader<File>,
    bytes: u64,
    /// Where the last whole record ends.
    end: u64,
    is_last: bool,
}

impl Segment {
    fn open(path: &Path, is_last: bool) -> Result<Self, FileError> {
        let mut options = OpenOptions::new();
        // Opening a pipe must not wait for its other end.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.read(true).write(is_last).custom_flags(flags.bits().cast_signed());
        let unreadable = |why: io::Error| unreadable(path, &why);
        let file = options.open(path).map_err(unreadable)?;
        let found = file.metadata().map_err(unreadable)?;
        let file = BufReader::new(file);
        let segment = Self { path: path.to_owned(), file, bytes: found.len(), end: 0, is_last };
        if found.is_file() { Ok(segment) } else { Err(segment.damaged("it is not a regular file")) }
    }

    /// The next record, whose checksum is right; `sum` is that of all before it. `None`: there are no more.
    fn next(&mut self, sum: &mut u32) -> Result<Option<Record>, FileError> {
        let left = self.bytes - self.end;
        let Some(room) = left.checked_sub(HEAD_BYTES) else {
            return if left == 0 { Ok(None) } else { self.incomplete() };
        };
        let mut head = [0; HEAD_BYTES as usize];
        self.read(&mut head)?;
        let head = u64::from_le_bytes(head);
        let length = head & LENGTH_MASK;
        let padding = if head >> 63 == 1 { (head >> PADDING_SHIFT) & 7 } else { 0 };
        match length + padding {
            _ if head == 0 => return Ok(None),
            whole if whole > room => return self.incomplete(),
            whole if whole > ETCD_LOG_RECORD_MAX_BYTES => {
                return Err(self.damaged(format!("it has a record of {whole} bytes, which no message of etcd has")));
            }
            _ => {}
        }
        let mut data = vec![0; usize::try_from(length + padding).unwrap_or(usize::MAX)];
        self.read(&mut data)?;
        let data = Bytes::from(data);
        let is_right = |record: &Record| match record.kind {
            CHECKSUM => *sum == 0 || record.crc == *sum,
            _ => record.crc == checksum(*sum, record.data.as_deref().unwrap_or_default()),
        };
        let content = data.slice(..data.len() - usize::try_from(padding).unwrap_or(0));
        let Some(record) = Record::decode(content).ok().filter(is_right) else {
            if self.is_last && has_empty_sector(self.end + HEAD_BYTES, &data) {
                return Ok(None);
            }
            return Err(self.damaged(format!("the record at byte {} has a wrong checksum", self.end)));
        };
        *sum = record.crc;
        self.end += HEAD_BYTES + length + padding;
        Ok(Some(record))
    }

    fn read(&mut self, to: &mut [u8]) -> Result<(), FileError> {
        self.file.read_exact(to).map_err(|why| unreadable(&self.path, &why))
    }

    /// A record ends behind its file.
    fn incomplete(&self) -> Result<Option<Record>, FileError> {
        if self.is_last { Ok(None) } else { Err(self.damaged("its end is missing")) }
    }

    fn damaged(&self, why: impl Into<String>) -> FileError {
        FileError::Damaged { path: self.path.clone(), why: why.into() }
    }

    /// Writes a frame behind the last whole record, and zeros to where the file ended.
    fn append(&self, frame: &[u8]) -> Result<(), FileError> {
        let file = self.file.get_ref();
        let write = || {
            file.set_len(self.end)?;
            file.write_all_at(frame, self.end)?;
            file.set_len(self.bytes.max(self.end + frame.len() as u64))?;
            file.sync_all()
        };
        write().map_err(|why| FileError::Unwritable { path: self.path.clone(), why: why.to_string() })
    }
}

fn unreadable(path: &Path, why: &io::Error) -> FileError {
    FileError::Unreadable { path: path.to_owned(), why: why.to_string() }
}

/// A file of the log, by its name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    sequence: u64,
    first: u64,
    path: PathBuf,
}

/// The files of a log in order. Others, such as the next one that etcd prepares, do not count.
fn files(folder: &Path) -> Result<Vec<Named>, FileError> {
    let damaged = |why: &str| FileError::Damaged { path: folder.to_owned(), why: why.into() };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|why| unreadable(folder, &why))? {
        let path = entry.map_err(|why| unreadable(folder, &why))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".wal"));
        let Some((sequence, first)) = name.and_then(|name| name.split_once('-')) else { continue };
        if let (Some(sequence), Some(first)) = (number(sequence), number(first)) {
            files.push(Named { sequence, first, path });
        }
        if files.len() > ETCD_LOG_FILES_MAX {
            return Err(damaged("it has too many files"));
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(damaged("there is no log in it"));
    }
    match files.windows(2).all(|pair| matches!(pair, [a, b] if a.sequence.checked_add(1) == Some(b.sequence))) {
        true => Ok(files),
        false => Err(damaged("a file of the log is missing")),
    }
}

fn number(digits: &str) -> Option<u64> {
    let plain = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// Whether one of the sectors over which the data at `offset` extends has only zeros of it.
fn has_empty_sector(offset: u64, data: &[u8]) -> bool {
    let first = SECTOR_BYTES - usize::try_from(offset % SECTOR_BYTES as u64).unwrap_or(0);
    let (first, rest) = data.split_at(first.min(data.len()));
    [first].into_iter().chain(rest.chunks(SECTOR_BYTES)).any(|sector| sector.iter().all(|byte| *byte == 0))
}

/// CRC-32C (RFC 3720) of what had the checksum `before`, with `data` behind it.
fn checksum(before: u32, data: &[u8]) -> u32 {
    static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
    let mut digest = CRC.digest_with_initial((!before).reverse_bits());
    digest.update(data);
    digest.finalize()
}

/// A record as it stands in a file. `sum` is the checksum of all before it.
fn frame(kind: i64, data: Vec<u8>, sum: u32) -> Vec<u8> {
    let record = Record { kind, crc: checksum(sum, &data), data: Some(data.into()) };
    let mut content = record.encode_to_vec();
    let length = content.len() as u64;
    let padding = length.wrapping_neg() % 8;
    content.resize(content.len().next_multiple_of(8), 0);
    let head = if padding == 0 { length } else { length | (0x80 | padding) << PADDING_SHIFT };
    [&head.to_le_bytes(), &*content].concat()
}

/// `walpb.Record`.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(int64, required, tag = "1")]
    kind: i64,
    #[prost(uint32, required, tag = "2")]
    crc: u32,
    #[prost(bytes = "bytes", optional, tag = "3")]
    data: Option<Bytes>,
}

/// `etcdserverpb.Metadata`.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(uint64, required, tag = "1")]
    member: u64,
}

/// `raftpb.Entry`.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(int32, required, tag = "1")]
    kind: i32,
    #[prost(uint64, required, tag = "2")]
    term: u64,
    #[prost(uint64, required, tag = "3")]
    index: u64,
    #[prost(bytes = "bytes", optional, tag = "4")]
    data: Option<Bytes>,
}

/// `raftpb.ConfChange`: a member is added, removed or changed.
#[derive(Clone, PartialEq, Message)]
struct MemberChange {
    #[prost(int32, required, tag = "2")]
    kind: i32,
    #[prost(uint64, required, tag = "3")]
    member: u64,
}

impl Entry {
    fn removes(&self, member: u64) -> Result<bool, String> {
        if self.kind != MEMBER_CHANGE {
            return Ok(false);
        }
        let change = MemberChange::decode(self.data.clone().unwrap_or_default()).map_err(senseless)?;
        Ok((change.kind, change.member) == (MEMBER_REMOVED, member))
    }
}

/// `raftpb.HardState`.
#[derive(Clone, Copy, PartialEq, Message)]
struct HardState {
    #[prost(uint64, required, tag = "1")]
    term: u64,
    #[prost(uint64, required, tag = "2")]
    vote: u64,
    #[prost(uint64, required, tag = "3")]
    commit: u64,
}

/// `walpb.Snapshot`.
#[derive(Clone, PartialEq, Message)]
struct Snapshot {
    #[prost(uint64, required, tag = "1")]
    index: u64,
}

const METADATA: i64 = 1;
const ENTRY: i64 = 2;
const STATE: i64 = 3;
const CHECKSUM: i64 = 4;
const SNAPSHOT: i64 = 5;
/// The kind of an entry that changes members.
const MEMBER_CHANGE: i32 = 1;
const MEMBER_REMOVED: i32 = 1;
const HEAD_BYTES: u64 = 8;
const PADDING_SHIFT: u32 = 56;
const LENGTH_MASK: u64 = (1 << PADDING_SHIFT) - 1;
/// What a disk writes at once, at least.
const SECTOR_BYTES: usize = 512;
