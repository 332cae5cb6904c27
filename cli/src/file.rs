//! Files that are written whole or not at all, and files of unknown length that are to be sent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::rand;

use crate::exit::{Failure, local};

/// Whether a file that is there may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replace {
    /// Yes.
    Yes,
    /// Not unless `--force` is said.
    No,
    /// Never: the command has no `--force`.
    Never,
}

impl From<bool> for Replace {
    /// Of the option `--force`.
    fn from(force: bool) -> Self {
        if force { Replace::Yes } else { Replace::No }
    }
}

/// A file that nobody else may read. It is written beside its place and takes it in [`NewFile::finish`]; dropped before,
/// nothing is left of it.
pub(crate) struct NewFile {
    target: PathBuf,
    replace: Replace,
    /// None: it has taken its place.
    part: Option<PathBuf>,
    file: File,
    hash: digest::Context,
    bytes: u64,
}

/// What was written.
pub(crate) struct Written {
    pub(crate) bytes: u64,
    /// In hex.
    pub(crate) sha256: String,
}

impl NewFile {
    /// Begins one.
    pub(crate) fn create(target: &Path, replace: Replace) -> Result<Self, Failure> {
        let Some(name) = target.file_name() else {
            return Err(Failure::Usage(format!("{} is no name of a file.", target.display())));
        };
        if replace != Replace::Yes && target.symlink_metadata().is_ok() {
            return Err(there(target, replace));
        }
        if target.symlink_metadata().is_ok_and(|there| !there.is_file()) {
            return Err(Failure::Usage(format!("{} is no regular file. Choose another name.", target.display())));
        }
        let part = target.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), unique()?));
        let file = create(&part).map_err(local(format_args!("{} cannot be written", target.display())))?;
        let hash = digest::Context::new(&SHA256);
        Ok(Self { target: target.to_owned(), replace, part: Some(part), file, hash, bytes: 0 })
    }

    /// Puts it in its place, on the disk for good.
    pub(crate) fn finish(mut self) -> Result<Written, Failure> {
        let Some(part) = &self.part else { return Err(there(&self.target, self.replace)) };
        let name = self.target.display();
        self.file.sync_all().map_err(local(format_args!("{name} cannot be written")))?;
        match self.replace {
            Replace::Yes => fs::rename(part, &self.target),
            // A link never replaces: who made the file meanwhile keeps it. Sticks with FAT have no links.
            Replace::No | Replace::Never => match fs::hard_link(part, &self.target) {
                Ok(()) => fs::remove_file(part),
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Err(why),
                Err(_) if self.target.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => fs::rename(part, &self.target),
            },
        }
        .map_err(|why| match why.kind() {
            io::ErrorKind::AlreadyExists => there(&self.target, self.replace),
            _ => local(format_args!("{name} cannot be written"))(why),
        })?;
        self.part = None;
        let folder = self.target.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(local(format_args!("The folder of {} cannot be written", self.target.display())))?;
        let hash = self.hash.clone().finish();
        Ok(Written { bytes: self.bytes, sha256: hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect() })
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let amount = self.file.write(bytes)?;
        self.hash.update(bytes.get(..amount).unwrap_or_default());
        self.bytes += amount as u64;
        Ok(amount)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            // What cannot be removed has a name that says what it is.
            let _ = fs::remove_file(part);
        }
    }
}

/// A file to send, and its length. Standard input (`-`) and pipes have none until they were read: they are put into a file
/// without a name first.
pub(crate) fn sized(path: &Path) -> Result<(File, u64), Failure> {
    let unreadable = local(format!("{} cannot be read", path.display()));
    let sized = if path == Path::new("-") { spool(&mut io::stdin().lock()) } else { open_sized(path) };
    sized.map_err(unreadable)
}

fn open_sized(path: &Path) -> io::Result<(File, u64)> {
    let mut file = File::open(path)?;
    let about = file.metadata()?;
    if about.is_file() { Ok((file, about.len())) } else { spool(&mut file) }
}

fn spool(from: &mut dyn Read) -> io::Result<(File, u64)> {
    let path = std::env::temp_dir().join(format!(".casemate.{}.part", unique().map_err(io::Error::other)?));
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    let length = io::copy(from, &mut file)?;
    file.rewind()?;
    Ok((file, length))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

pub(crate) fn unique() -> Result<String, Failure> {
    let mut random = [0_u8; 8];
    rand::fill(&mut random).map_err(|_| Failure::Local("The system gives no random bytes.".into()))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn there(path: &Path, replace: Replace) -> Failure {
    let force = if replace == Replace::No { ", or --force to replace it" } else { "" };
    Failure::Local(format!("{} is there already: take another name{force}.", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use casemate_testkit::Folder;

    use super::*;

    fn names(folder: &Folder) -> Vec<String> {
        let entries = fs::read_dir(folder.path("")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn write(target: &Path, replace: Replace, content: &[u8]) -> Result<Written, Failure> {
        let mut file = NewFile::create(target, replace)?;
        file.write_all(content).unwrap();
        file.finish()
    }

    #[test]
    fn a_finished_file_is_whole_and_for_its_owner_alone() {
        let folder = Folder::new();
        let target = folder.path("new");
        let mut file = NewFile::create(&target, Replace::No).unwrap();
        file.write_all(b"abc").unwrap();
        assert!(!target.exists(), "it has no name before it is whole");
        assert!(names(&folder).iter().all(|name| name.starts_with(".new.") && name.ends_with(".part")));
        let modes = |name: &str| fs::metadata(folder.path(name)).unwrap().permissions().mode() & 0o777;
        assert!(names(&folder).iter().all(|name| modes(name) == 0o600));
        let written = file.finish().unwrap();
        assert_eq!((written.bytes, fs::read(&target).unwrap().as_slice()), (3, b"abc".as_slice()));
        assert_eq!(written.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((names(&folder), modes("new")), (vec!["new".to_owned()], 0o600));
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing() {
        let folder = Folder::new();
        let target = PathBuf::from(folder.file("old", "old"));
        let mut file = NewFile::create(&target, Replace::Yes).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!((names(&folder), fs::read(&target).unwrap().as_slice()), (vec!["old".into()], b"old".as_slice()));
    }

    #[test]
    fn only_force_replaces_a_file_also_one_that_was_made_meanwhile() {
        let folder = Folder::new();
        let target = PathBuf::from(folder.file("old", "old"));
        for replace in [Replace::No, Replace::Never] {
            assert!(write(&target, replace, b"new").is_err());
            let late = folder.path("late");
            let file = NewFile::create(&late, replace).unwrap();
            fs::write(&late, "meanwhile").unwrap();
            assert!(file.finish().is_err());
            assert_eq!(fs::read(&late).unwrap(), b"meanwhile");
            fs::remove_file(late).unwrap();
        }
        assert_eq!(fs::read(&target).unwrap(), b"old");
        write(&target, Replace::Yes, b"new").unwrap();
        assert_eq!((names(&folder), fs::read(&target).unwrap().as_slice()), (vec!["old".into()], b"new".as_slice()));
    }

    #[test]
    fn no_link_is_followed_or_replaced() {
        let folder = Folder::new();
        let (file, link) = (folder.file("file", "old"), folder.path("link"));
        symlink(&file, &link).unwrap();
        symlink("nowhere", folder.path("dangling")).unwrap();
        for replace in [Replace::Yes, Replace::No, Replace::Never] {
            assert!(write(&link, replace, b"new").is_err());
            assert!(write(&folder.path("dangling"), replace, b"new").is_err());
        }
        // One that was made meanwhile is replaced, not followed.
        let late = folder.path("late");
        let written = NewFile::create(&late, Replace::Yes).unwrap();
        symlink(&file, &late).unwrap();
        written.finish().unwrap();
        assert!(!fs::symlink_metadata(&late).unwrap().is_symlink());
        assert_eq!(fs::read(file).unwrap(), b"old");
    }

    #[test]
    fn a_stream_is_spooled_into_a_file_without_a_name() {
        let (mut file, length) = spool(&mut b"what comes".as_slice()).unwrap();
        let mut read = String::new();
        file.read_to_string(&mut read).unwrap();
        assert_eq!((length, read.as_str()), (10, "what comes"));
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&file.metadata().unwrap()), 0);
    }
}
