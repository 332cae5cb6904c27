//! The rows of an etcd whose cluster has removed it or is lost.

use std::fs::{self, DirBuilder, FileType};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use casemate_core::runtime::BoxFuture;
use casemate_core::store::{Page, Path, Range, Revision, Snapshot, StoreError, Versioned};
use casemate_etcd::{Committed, DataFile, FileError, commit_all, proto};

/// Checks that `path`, which an etcd may have made, is itself a folder, not a link to one elsewhere.
fn check_folder(path: &FilePath) -> Result<(), String> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("{} is not a folder", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Opens the data file of the member `name` in the folder `data` if it was removed from its cluster and knows it. `Err` is a sentence for
/// the operator.
///
/// A member that has no name yet could be this one, so nothing is certain then.
pub(super) fn removed_member(data: &FilePath, name: &str) -> Result<Option<DataFile>, String> {
    for folder in [data.to_owned(), data.join("member"), data.join("member/snap")] {
        check_folder(&folder)?;
    }
    let read = || {
        let file = DataFile::open(&data.join("member/snap/db"))?;
        let (members, removed) = (file.members()?, file.members_removed()?);
        let other = |member: &proto::Member| !member.name.is_empty() && member.name != name;
        let gone = !members.is_empty() && !removed.is_empty() && members.iter().all(other);
        Ok::<_, FileError>(gone.then_some(file))
    };
    read().map_err(|error| error.to_string())
}

/// Copies the folder `from` with all that is in it into the new folder `to`/data. Sockets and links are left out. `Err` is a sentence for
/// the operator.
pub(super) fn copy_folder(from: &FilePath, to: &FilePath) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", to.display());
    // The rows are written once more afterwards.
    let needed = bytes_in(from)?.saturating_mul(2);
    let room = rustix::fs::statvfs(from).map_err(|error| format!("{}: {error}", from.display()))?;
    let room = room.f_bavail.saturating_mul(room.f_frsize);
    if room < needed {
        let mib = |bytes: u64| bytes >> 20;
        return Err(format!("{} MiB of room are needed, and there are {}", mib(needed), mib(room)));
    }
    DirBuilder::new().mode(0o700).create(to).map_err(failed)?;
    copy_entries(from, &to.join("data"))
}

/// Takes as committed what the log in `data`, the copy of such a folder, has: others may have confirmed it, and etcd would throw it away.
pub(super) fn commit_log(data: &FilePath) {
    match commit_all(&data.join("member/wal")) {
        Ok(Committed { before, after }) => {
            tracing::info!(entries = after.saturating_sub(before), "the log of etcd is taken as committed");
        }
        // etcd may still be able to do something with it.
        Err(error) => {
            tracing::warn!(%error, "the end of the log of etcd cannot be taken as committed, and may be lost")
        }
    }
}

fn copy_entries(from: &FilePath, to: &FilePath) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", to.display());
    check_folder(from)?;
    DirBuilder::new().mode(0o700).create(to).map_err(failed)?;
    for (path, kind) in entries(from)? {
        let copy = to.join(path.file_name().unwrap_or_default());
        if kind.is_dir() {
            copy_entries(&path, &copy)?;
        } else if kind.is_file() {
            fs::copy(&path, &copy).map_err(|error| format!("{}: {error}", copy.display()))?;
        }
    }
    Ok(())
}

fn bytes_in(folder: &FilePath) -> Result<u64, String> {
    check_folder(folder)?;
    let mut bytes = 0u64;
    for (path, kind) in entries(folder)? {
        bytes = bytes.saturating_add(match kind.is_dir() {
            true => bytes_in(&path)?,
            false => fs::symlink_metadata(&path).map_or(0, |found| found.len()),
        });
    }
    Ok(bytes)
}

fn entries(folder: &FilePath) -> Result<Vec<(PathBuf, FileType)>, String> {
    let read = || -> io::Result<Vec<_>> {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok((entry.path(), entry.file_type()?))
        };
        fs::read_dir(folder)?.map(entry).collect()
    };
    read().map_err(|error| format!("{}: {error}", folder.display()))
}

/// The rows in the data file of an etcd that does not run.
pub(super) struct FileSnapshot {
    file: Arc<DataFile>,
    prefix: Vec<u8>,
    revision: Revision,
    /// The reading that goes on where the last page has ended, because finding a row takes a reading of the whole file.
    next: Arc<Mutex<Option<Reading>>>,
}

/// Rows from `from` on.
struct Reading {
    from: Path,
    rows: std::iter::Peekable<casemate_etcd::Rows>,
}

impl FileSnapshot {
    /// Reads the file once. All keys that count begin with `prefix`.
    pub(super) fn open(file: DataFile, prefix: &[u8]) -> Result<Self, FileError> {
        let revision = Revision(file.summary()?.revision.cast_unsigned());
        Ok(Self { file: Arc::new(file), prefix: prefix.to_vec(), revision, next: Arc::default() })
    }

    fn page(&self, range: Range) -> BoxFuture<'static, Result<Page, StoreError>> {
        let (file, prefix, next, revision) = (self.file.clone(), self.prefix.clone(), self.next.clone(), self.revision);
        Box::pin(async move {
            let read = move || {
                let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                let fresh = || {
                    let first = [&prefix, range.start.as_bytes()].concat();
                    Reading { from: range.start.clone(), rows: file.rows_from(&prefix, &first).peekable() }
                };
                let reading = next.take().filter(|reading| reading.from == range.start);
                let (page, left) = reading.unwrap_or_else(fresh).page(&prefix, &range, revision)?;
                *next = left;
                Ok(page)
            };
            let page = tokio::task::spawn_blocking(read).await;
            page.unwrap_or_else(|error| Err(StoreError::Unreachable(error.to_string())))
        })
    }
}

impl Reading {
    /// The rows of `range`, which begins here, and the reading behind them.
    fn page(mut self, prefix: &[u8], range: &Range, revision: Revision) -> Result<(Page, Option<Self>), StoreError> {
        let damaged = |error: FileError| StoreError::Damaged(error.to_string());
        let end = range.end.as_ref().map(|end| [prefix, end.as_bytes()].concat());
        let ends = |row: &proto::KeyValue| end.as_ref().is_some_and(|end| row.key[..] >= end[..]);
        let mut rows = Vec::new();
        loop {
            match self.rows.peek() {
                None => return Ok((Page { rows, more: false, revision }, None)),
                Some(Ok(row)) if ends(row) => return Ok((Page { rows, more: false, revision }, None)),
                Some(Ok(_)) if rows.len() >= range.limit => {
                    self.from = rows.last().map_or_else(|| range.start.clone(), |(last, _): &(Path, _)| last.next());
                    return Ok((Page { rows, more: true, revision }, Some(self)));
                }
                Some(_) => {}
            }
            let Some(row) = self.rows.next() else { continue };
            let row = row.map_err(damaged)?;
            let path = Path(row.key.strip_prefix(prefix).unwrap_or_default().into());
            let value = if range.keys_only { Vec::new() } else { row.value.to_vec() };
            rows.push((path, Versioned { value, revision: Revision(row.mod_revision.cast_unsigned()) }));
        }
    }
}

impl Snapshot for FileSnapshot {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.page(range)
    }

    fn ranges<'a>(&'a self, ranges: &'a [Range]) -> BoxFuture<'a, Result<Vec<Page>, StoreError>> {
        Box::pin(async move {
            let mut pages = Vec::new();
            for range in ranges {
                pages.push(self.page(range.clone()).await?);
            }
            Ok(pages)
        })
    }
}
