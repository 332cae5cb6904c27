//! The pages of a file of bbolt, the database of etcd: B+trees whose root holds one entry for each bucket.
//!
//! Two pages at the beginning, written in turn, tell where the root is, with a checksum. The others have none: of them this
//! checks that each lies within the file, is where its number says and is reached once, that what it points at lies in it, and
//! that keys ascend. So a damaged or hostile file ends in an error or in other rows, never in a loop or in memory without
//! bound. All numbers are little-endian, as they are on every machine that this runs on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use casemate_api::limits::{ETCD_FILE_MAX_BYTES, ETCD_FILE_PAGE_MAX_BYTES};
use rustix::fs::OFlags;

use super::FileError;

/// A file whose newest whole state has been found.
pub(crate) struct Pages {
    path: PathBuf,
    file: File,
    page_bytes: u64,
    /// The number of the page at which the root begins.
    root: u64,
    /// The pages with this number and above are not in use.
    end: u64,
}

/// An entry of a bucket.
pub(crate) struct Entry {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) place: Place,
}

/// Where a value is, in bytes from the beginning of the file.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    offset: u64,
    bytes: u32,
}

/// The tree of a bucket.
pub(crate) enum Bucket {
    /// Its root has a page of its own.
    Page(u64),
    /// It is so small that its only page, without a number, stands in the entry of the bucket.
    Inline(Bytes, Place),
}

/// What is remembered while trees are read that have no page in common.
pub(crate) struct Reading {
    /// One bit for each page that was reached.
    reached: Vec<u8>,
}

impl Pages {
    /// Opens the file. Errors: it cannot be read, or is not such a file.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let unreadable = |why: io::Error| unreadable(path, &why);
        let damaged = |why: &str| FileError::Damaged { path: path.to_owned(), why: why.into() };
        // Whoever has made it may have made a link or a pipe.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
        let about = file.metadata().map_err(unreadable)?;
        if !about.is_file() {
            return Err(damaged("it is not a regular file"));
        }
        let length = about.len();
        if length > ETCD_FILE_MAX_BYTES {
            return Err(damaged("it is larger than any database of etcd"));
        }
        let meta = Meta::newest(&file).ok_or_else(|| damaged("neither of its first two pages is whole"))?;
        if meta.end.checked_mul(meta.page_bytes).is_none_or(|bytes| bytes > length) {
            return Err(damaged("its end is missing"));
        }
        Ok(Self { path: path.to_owned(), file, page_bytes: meta.page_bytes, root: meta.root, end: meta.end })
    }

    /// The length of what is in use, in bytes.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.end * self.page_bytes
    }

    pub(crate) fn damaged(&self, why: impl Into<String>) -> FileError {
        FileError::Damaged { path: self.path.clone(), why: why.into() }
    }

    pub(crate) fn reading(&self) -> Reading {
        let pages = usize::try_from(self.end).unwrap_or(usize::MAX);
        Reading { reached: vec![0; pages.div_ceil(8)] }
    }

    /// Tells the buckets, in the order of their names.
    pub(crate) fn buckets(
        &self,
        mut each: impl FnMut(&[u8], Bucket) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let mut tell = |entry: Entry, is_bucket: bool| {
            if !is_bucket {
                return Err(self.damaged("there is a row outside of all buckets"));
            }
            let root = (&*entry.value).try_get_u64_le().map_err(|_| self.damaged("a bucket has no root"))?;
            let bucket = match (root, entry.value.get(BUCKET_BYTES..)) {
                (0, Some(page)) => {
                    let (offset, bytes) = (entry.place.offset + BUCKET_BYTES as u64, page.len());
                    let place = Place { offset, bytes: u32::try_from(bytes).unwrap_or(u32::MAX) };
                    Bucket::Inline(entry.value.slice_ref(page), place)
                }
                _ => Bucket::Page(root),
            };
            each(&entry.key, bucket)
        };
        self.walk(&mut self.reading(), self.root, 1, &mut Ascending::default(), &mut tell)
    }

    /// Tells the entries of a bucket, in the order of their keys.
    pub(crate) fn entries(
        &self,
        reading: &mut Reading,
        bucket: &Bucket,
        mut each: impl FnMut(Entry) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let mut tell = |entry: Entry, is_bucket: bool| match is_bucket {
            true => Err(self.damaged("there is a bucket in a bucket")),
            false => each(entry),
        };
        match bucket {
            Bucket::Page(root) => self.walk(reading, *root, 1, &mut Ascending::default(), &mut tell),
            Bucket::Inline(page, place) => {
                let head = Head::of(page).filter(|head| head.kind == LEAF);
                let head = head.ok_or_else(|| self.damaged("a bucket has no page"))?;
                self.leaf(page, place.offset, head.count, &mut Ascending::default(), &mut tell)
            }
        }
    }

    /// Reads the value at a place that an entry had.
    pub(crate) fn value(&self, place: Place) -> Result<Bytes, FileError> {
        self.read(place.offset, u64::from(place.bytes))
    }

    fn walk(
        &self,
        reading: &mut Reading,
        id: u64,
        depth: usize,
        order: &mut Ascending,
        each: &mut dyn FnMut(Entry, bool) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        if depth > DEPTH_MAX {
            return Err(self.damaged("a tree in it is too deep"));
        }
        let (head, page) = self.page(reading, id)?;
        match head.kind {
            LEAF => self.leaf(&page, id * self.page_bytes, head.count, order, each),
            BRANCH => {
                let mut children = Vec::with_capacity(head.count.into());
                for at in 0..usize::from(head.count) {
                    // Position and length of the first key below it, and its page.
                    let element =
                        page.get(HEAD_BYTES + at * ELEMENT_BYTES + 8..).and_then(|mut rest| rest.try_get_u64_le().ok());
                    children.push(element.ok_or_else(|| self.damaged(format!("page {id} is cut off")))?);
                }
                drop(page);
                children.into_iter().try_for_each(|child| self.walk(reading, child, depth + 1, order, each))
            }
            _ => Err(self.damaged(format!("page {id} is not what it should be"))),
        }
    }

    /// Tells what is in a leaf that begins at `offset` in the file.
    fn leaf(
        &self,
        page: &Bytes,
        offset: u64,
        count: u16,
        order: &mut Ascending,
        each: &mut dyn FnMut(Entry, bool) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        for at in 0..usize::from(count) {
            let start = HEAD_BYTES + at * ELEMENT_BYTES;
            let element = Element::of(page, start).ok_or_else(|| self.damaged("a row lies outside of its page"))?;
            let key = page.slice(element.key..element.value);
            if !order.goes_on(&key) {
                return Err(self.damaged("its rows are not in order"));
            }
            let value = page.slice(element.value..element.end);
            let bytes = u32::try_from(value.len()).unwrap_or(u32::MAX);
            let place = Place { offset: offset + element.value as u64, bytes };
            each(Entry { key, value, place }, element.is_bucket)?;
        }
        Ok(())
    }

    /// A page with those that continue it.
    fn page(&self, reading: &mut Reading, id: u64) -> Result<(Head, Bytes), FileError> {
        let wrong = || self.damaged(format!("page {id} is not what it should be"));
        if id < METAS || id >= self.end {
            return Err(self.damaged(format!("there is no page {id}")));
        }
        let start = id * self.page_bytes;
        let head = Head::of(&self.read(start, HEAD_BYTES as u64)?).filter(|head| head.id == id).ok_or_else(wrong)?;
        let pages = u64::from(head.overflow) + 1;
        let bytes = pages * self.page_bytes;
        if pages > self.end - id || bytes > ETCD_FILE_PAGE_MAX_BYTES {
            return Err(wrong());
        }
        if !(id..id + pages).all(|page| reading.reach(page)) {
            return Err(self.damaged(format!("page {id} is used twice")));
        }
        Ok((head, self.read(start, bytes)?))
    }

    fn read(&self, offset: u64, bytes: u64) -> Result<Bytes, FileError> {
        let mut read = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        let done = self.file.read_exact_at(&mut read, offset);
        done.map_err(|why| unreadable(&self.path, &why))?;
        Ok(read.into())
    }
}

fn unreadable(path: &Path, why: &io::Error) -> FileError {
    FileError::Unreadable { path: path.to_owned(), why: why.to_string() }
}

impl Reading {
    /// Whether a page is reached for the first time.
    fn reach(&mut self, page: u64) -> bool {
        let Some(bits) = usize::try_from(page / 8).ok().and_then(|at| self.reached.get_mut(at)) else { return false };
        let bit = 1 << (page % 8);
        let first = *bits & bit == 0;
        *bits |= bit;
        first
    }
}

/// The order of keys across the pages of a tree.
#[derive(Default)]
struct Ascending(Option<Vec<u8>>);

impl Ascending {
    fn goes_on(&mut self, key: &[u8]) -> bool {
        let last = self.0.get_or_insert_default();
        // No key is empty.
        let ascends = key > last.as_slice();
        last.clear();
        last.extend_from_slice(key);
        ascends
    }
}

/// One of the first two pages.
struct Meta {
    page_bytes: u64,
    root: u64,
    end: u64,
    transaction: u64,
}

impl Meta {
    /// The newest of those that are whole.
    fn newest(file: &File) -> Option<Self> {
        // The second one is a page after the first, so without that it is looked for.
        let first = Self::at(file, 0);
        let second = match &first {
            Some(first) => Self::at(file, first.page_bytes),
            None => {
                PAGE_BYTES.into_iter().find_map(|bytes| Self::at(file, bytes).filter(|meta| meta.page_bytes == bytes))
            }
        };
        [first, second].into_iter().flatten().max_by_key(|meta| meta.transaction)
    }

    fn at(file: &File, offset: u64) -> Option<Self> {
        let mut page = [0; HEAD_BYTES + META_BYTES];
        file.read_exact_at(&mut page, offset).ok()?;
        let head = Head::of(&page)?;
        let (_, meta) = page.split_at(HEAD_BYTES);
        let mut rest = meta;
        let (magic, version) = (rest.get_u32_le(), rest.get_u32_le());
        let page_bytes = u64::from(rest.get_u32_le());
        let _flags = rest.get_u32_le();
        let root = rest.get_u64_le();
        let (_sequence, _free) = (rest.get_u64_le(), rest.get_u64_le());
        let (end, transaction) = (rest.get_u64_le(), rest.get_u64_le());
        let checked = meta.len() - rest.len();
        let whole = head.kind == META
            && (magic, version) == (MAGIC, VERSION)
            && PAGE_BYTES.contains(&page_bytes)
            && rest.get_u64_le() == fnv1a(meta.split_at(checked).0);
        whole.then_some(Self { page_bytes, root, end, transaction })
    }
}

/// What is at the head of each page.
struct Head {
    id: u64,
    kind: u16,
    count: u16,
    overflow: u32,
}

impl Head {
    fn of(mut page: &[u8]) -> Option<Self> {
        let page = &mut page;
        let (id, kind) = (page.try_get_u64_le().ok()?, page.try_get_u16_le().ok()?);
        Some(Self { id, kind, count: page.try_get_u16_le().ok()?, overflow: page.try_get_u32_le().ok()? })
    }
}

/// Where an entry is in its leaf.
struct Element {
    is_bucket: bool,
    key: usize,
    value: usize,
    end: usize,
}

impl Element {
    /// `None`: not within the page.
    fn of(page: &[u8], start: usize) -> Option<Self> {
        let mut element = page.get(start..)?;
        let mut next = || element.try_get_u32_le().ok();
        let (flags, position, key_bytes, value_bytes) = (next()?, next()?, next()?, next()?);
        // The position counts from the element.
        let key = start.checked_add(position.try_into().ok()?)?;
        let value = key.checked_add(key_bytes.try_into().ok()?)?;
        let end = value.checked_add(value_bytes.try_into().ok()?)?;
        (end <= page.len()).then_some(Self { is_bucket: flags & IS_BUCKET != 0, key, value, end })
    }
}

/// FNV-1a of 64 bits (draft-eastlake-fnv).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
/// The pages of the operating systems on which the file can have been made.
const PAGE_BYTES: [u64; 7] = [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16];
const METAS: u64 = 2;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const META: u16 = 4;
const IS_BUCKET: u32 = 1;
const HEAD_BYTES: usize = 16;
const META_BYTES: usize = 64;
/// An entry of a branch or of a leaf, before keys and values.
const ELEMENT_BYTES: usize = 16;
/// What stands before the page of a small bucket.
const BUCKET_BYTES: usize = 16;
/// A branch of the smallest pages leads to many, so this is more than the largest file can have.
const DEPTH_MAX: usize = 24;
