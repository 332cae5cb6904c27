//! The file below the embedded store. Until it is trusted, nothing is written to it: repairs are kept in memory, so
//! that a file that turns out to be damaged, or not a store at all, stays unchanged.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// An open file, shared with redb.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    file: Arc<FileBackend>,
    /// Pending writes, in order; `None` once the file is trusted.
    held: Arc<Mutex<Option<Vec<Change>>>>,
    #[cfg(test)]
    faults: Arc<tests::Faults>,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Len(u64),
    Write(u64, Vec<u8>),
    Sync,
}

impl Disk {
    /// A file that is not trusted yet.
    pub(super) fn new(file: File) -> Result<Self, DatabaseError> {
        Ok(Self {
            file: Arc::new(FileBackend::new(file)?),
            held: Arc::new(Mutex::new(Some(Vec::new()))),
            #[cfg(test)]
            faults: Arc::default(),
        })
    }

    #[cfg(test)]
    pub(super) fn failing_like(self, faults: &Arc<tests::Faults>) -> Self {
        Self { faults: faults.clone(), ..self }
    }

    /// Carries out the pending writes, in order; later ones go to the file directly.
    pub(super) fn trust(&self) -> io::Result<()> {
        let mut held = self.held();
        for change in held.iter().flatten() {
            match change {
                Change::Len(len) => self.file.set_len(*len)?,
                Change::Write(offset, data) => self.file.write(*offset, data)?,
                Change::Sync => self.file.sync_data()?,
            }
        }
        *held = None;
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Option<Vec<Change>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `change` pending if the file is not trusted; otherwise returns false, and the caller carries it out.
    fn hold(&self, change: impl FnOnce() -> Change) -> bool {
        match &mut *self.held() {
            Some(held) => {
                held.push(change());
                true
            }
            None => {
                #[cfg(test)]
                self.faults.log(change);
                false
            }
        }
    }
}

/// The bytes at `offset` as they would be after `changes`.
fn read_through(file: &FileBackend, changes: &[Change], offset: u64, out: &mut [u8]) -> io::Result<()> {
    let end = offset + out.len() as u64;
    if end > len_after(file, changes)? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    out.fill(0);
    let in_file = position(file.len()?, offset).min(out.len());
    if let Some(out) = out.get_mut(..in_file) {
        file.read(offset, out)?;
    }
    for change in changes {
        match change {
            Change::Sync => {}
            Change::Len(len) => out.iter_mut().skip(position(*len, offset)).for_each(|byte| *byte = 0),
            Change::Write(at, data) => {
                let data = data.iter().skip(position(offset, *at));
                out.iter_mut().skip(position(*at, offset)).zip(data).for_each(|(byte, new)| *byte = *new);
            }
        }
    }
    Ok(())
}

fn len_after(file: &FileBackend, changes: &[Change]) -> io::Result<u64> {
    changes.iter().try_fold(file.len()?, |len, change| {
        Ok(match change {
            Change::Len(len) => *len,
            Change::Write(at, data) => len.max(at + data.len() as u64),
            Change::Sync => len,
        })
    })
}

/// Offset of `at` relative to `from`.
fn position(at: u64, from: u64) -> usize {
    usize::try_from(at.saturating_sub(from)).unwrap_or(usize::MAX)
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        match &*self.held() {
            Some(changes) => len_after(&self.file, changes),
            None => self.file.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        #[cfg(test)]
        self.faults.read()?;
        if let Some(changes) = &*self.held() {
            return read_through(&self.file, changes, offset, out);
        }
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.faults.write()?;
        if self.hold(|| Change::Len(len)) {
            return Ok(());
        }
        #[cfg(test)]
        self.faults.grow()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        #[cfg(test)]
        self.faults.sync()?;
        if self.hold(|| Change::Sync) {
            return Ok(());
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.faults.write()?;
        if self.hold(|| Change::Write(offset, data.to_vec())) {
            return Ok(());
        }
        #[cfg(test)]
        self.faults.grow()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::scratch::Scratch;

    /// A disk that fails on demand.
    #[derive(Debug, Default)]
    pub(in crate::store) struct Faults {
        pub(in crate::store) reads: AtomicBool,
        pub(in crate::store) writes: AtomicBool,
        pub(in crate::store) syncs: AtomicBool,
        /// The disk is full, whatever the volume reports.
        pub(in crate::store) full: AtomicBool,
        /// How often the file was opened.
        pub(in crate::store) opened: AtomicUsize,
        /// Writes to the trusted file, if a test records them.
        pub(in crate::store) log: Mutex<Option<Vec<Change>>>,
    }

    impl Faults {
        pub(super) fn log(&self, change: impl FnOnce() -> Change) {
            if let Some(log) = &mut *self.log.lock().unwrap() {
                log.push(change());
            }
        }

        pub(super) fn read(&self) -> io::Result<()> {
            fail_if(&self.reads)
        }

        pub(super) fn write(&self) -> io::Result<()> {
            fail_if(&self.writes)
        }

        pub(super) fn grow(&self) -> io::Result<()> {
            if self.full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        pub(super) fn sync(&self) -> io::Result<()> {
            fail_if(&self.syncs)
        }
    }

    fn fail_if(failing: &AtomicBool) -> io::Result<()> {
        if failing.load(Ordering::Relaxed) { Err(io::Error::other("the test's disk fails")) } else { Ok(()) }
    }

    fn bytes(disk: &Disk) -> Vec<u8> {
        let mut bytes = vec![0; disk.len().unwrap() as usize];
        disk.read(0, &mut bytes).unwrap();
        // Any part reads like the whole.
        for start in 0..bytes.len() {
            let mut part = vec![9; bytes.len() - start];
            disk.read(start as u64, &mut part).unwrap();
            assert_eq!(part, bytes[start..]);
        }
        bytes
    }

    #[test]
    fn an_untrusted_file_looks_changed_and_is_not() {
        let folder = Scratch::new();
        let file = folder.path("file");
        std::fs::write(&file, b"abcdef").unwrap();
        let disk = Disk::new(File::options().read(true).write(true).open(&file).unwrap()).unwrap();
        disk.write(1, b"XY").unwrap();
        disk.set_len(4).unwrap();
        disk.sync_data().unwrap();
        assert_eq!(bytes(&disk), b"aXYd");
        disk.set_len(7).unwrap();
        disk.write(5, b"Z").unwrap();
        assert_eq!(bytes(&disk), b"aXYd\0Z\0");
        assert!(disk.read(5, &mut [0; 3]).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"abcdef");
        disk.trust().unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"aXYd\0Z\0");
        disk.write(0, b"A").unwrap();
        assert_eq!(bytes(&disk), b"AXYd\0Z\0");
        assert_eq!(std::fs::read(&file).unwrap(), b"AXYd\0Z\0");
    }
}
