//! Output files that appear when they are complete, or not at all.
//!
//! The content is written to a temporary file in the folder of the target, as a rename works only within a file system.
//! It is on the disk before the file gets the name of the target, and that name is on the disk before the command
//! reports success. So there is always the old file or the new one, also after a crash.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{self, SHA256};
use tempfile::NamedTempFile;

use crate::exit::{Failure, local};
use crate::render::hex;

/// Whether an existing file may be overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overwrite {
    /// Yes, because of `--force`.
    Yes,
    /// Not without `--force`.
    No,
    /// Never, as the command has no `--force`.
    Never,
}

impl From<bool> for Overwrite {
    /// From the option `--force`.
    fn from(force: bool) -> Self {
        if force { Overwrite::Yes } else { Overwrite::No }
    }
}

/// A file that only its owner may read (mode 0600). It gets its name in [`OutputFile::finish`]; if it is dropped
/// before, nothing is left of it.
pub(crate) struct OutputFile {
    target: PathBuf,
    overwrite: Overwrite,
    file: NamedTempFile,
    hash: digest::Context,
    bytes: u64,
}

/// Length and hash of a file that was written.
pub(crate) struct Written {
    pub(crate) bytes: u64,
    /// SHA-256 (FIPS 180-4) in lower-case hex.
    pub(crate) sha256: String,
}

impl OutputFile {
    /// Creates the temporary file. Fails if `target` exists and may not be overwritten, or is not a regular file;
    /// symbolic links are not followed.
    pub(crate) fn create(target: &Path, overwrite: Overwrite) -> Result<Self, Failure> {
        if target.file_name().is_none() {
            return Err(Failure::Usage(format!("{} is not the name of a file.", target.display())));
        }
        if overwrite != Overwrite::Yes && target.symlink_metadata().is_ok() {
            return Err(exists_already(target, overwrite));
        }
        if target.symlink_metadata().is_ok_and(|there| !there.is_file()) {
            return Err(Failure::Usage(format!("{} is not a regular file. Choose another name.", target.display())));
        }
        let file = create_beside(target).map_err(local(format_args!("{} cannot be written", target.display())))?;
        let hash = digest::Context::new(&SHA256);
        Ok(Self { target: target.to_owned(), overwrite, file, hash, bytes: 0 })
    }

    /// Gives the file its name, with file and folder synced to the disk.
    pub(crate) fn finish(self) -> Result<Written, Failure> {
        let Self { target, overwrite, file, hash, bytes } = self;
        let name = target.display();
        file.as_file().sync_all().map_err(local(format_args!("{name} cannot be written")))?;
        let persisted = match overwrite {
            Overwrite::Yes => file.persist(&target).map_err(|why| why.error),
            Overwrite::No | Overwrite::Never => persist_new(file, &target),
        };
        persisted.map_err(|why| match why.kind() {
            io::ErrorKind::AlreadyExists => exists_already(&target, overwrite),
            _ => local(format_args!("{name} cannot be written"))(why),
        })?;
        sync_folder_of(&target).map_err(local(format_args!("The folder of {name} cannot be written")))?;
        let hash = hash.finish();
        Ok(Written { bytes, sha256: hex(hash.as_ref()) })
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Not through the wrapper, whose errors name the temporary file.
        let amount = self.file.as_file_mut().write(bytes)?;
        self.hash.update(bytes.get(..amount).unwrap_or_default());
        self.bytes += amount as u64;
        Ok(amount)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

/// Writes `bytes` to `path` with mode 0600, in place of an existing file. Creates missing folders with mode 0700. A
/// symbolic link is replaced, not followed.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let write = || {
        DirBuilder::new().recursive(true).mode(0o700).create(folder_of(path))?;
        let mut file = create_beside(path)?;
        file.as_file_mut().write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|why| why.error)?;
        sync_folder_of(path)
    };
    write().map_err(local(format_args!("{} cannot be written", path.display())))
}

/// Creates a file `.NAME.RANDOM.part` with mode 0600 in the folder of `target`. It is removed when it is dropped; after
/// a crash, its name tells what it is.
fn create_beside(target: &Path) -> io::Result<NamedTempFile> {
    let mut prefix = OsString::from(".");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(".");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".part").rand_bytes(16);
    builder.make_in(folder_of(target), |path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path))
}

/// Gives `file` the name `target`, unless that exists, also since [`OutputFile::create`].
fn persist_new(file: NamedTempFile, target: &Path) -> io::Result<File> {
    file.persist_noclobber(target).or_else(|why| match why.error.kind() {
        io::ErrorKind::AlreadyExists => Err(why.error),
        _ if target.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        // Some file systems have neither links nor a rename that does not replace.
        _ => why.file.persist(target).map_err(|why| why.error),
    })
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn exists_already(path: &Path, overwrite: Overwrite) -> Failure {
    let force = if overwrite == Overwrite::No { ", or overwrite it with --force" } else { "" };
    Failure::Local(format!("{} already exists: choose another name{force}.", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use casemate_testkit::Folder;

    use super::*;

    fn names(folder: &Folder) -> Vec<String> {
        let entries = fs::read_dir(folder.path("")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn write(target: &Path, overwrite: Overwrite, content: &[u8]) -> Result<Written, Failure> {
        let mut file = OutputFile::create(target, overwrite)?;
        file.write_all(content).unwrap();
        file.finish()
    }

    #[test]
    fn a_finished_file_is_complete_and_only_its_owner_may_read_it() {
        let folder = Folder::new();
        let target = folder.path("new");
        let mut file = OutputFile::create(&target, Overwrite::No).unwrap();
        file.write_all(b"abc").unwrap();
        assert!(!target.exists(), "it has no name before it is complete");
        assert!(names(&folder).iter().all(|name| name.starts_with(".new.") && name.ends_with(".part")));
        let modes = |name: &str| fs::metadata(folder.path(name)).unwrap().permissions().mode() & 0o777;
        assert!(names(&folder).iter().all(|name| modes(name) == 0o600));
        let written = file.finish().unwrap();
        assert_eq!((written.bytes, fs::read(&target).unwrap().as_slice()), (3, b"abc".as_slice()));
        assert_eq!(written.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((names(&folder), modes("new")), (vec!["new".to_owned()], 0o600));
    }

    #[test]
    fn an_error_names_the_file_that_was_asked_for() {
        let folder = Folder::new();
        let target = folder.path("nowhere/new");
        let why = OutputFile::create(&target, Overwrite::No).err().unwrap().to_string();
        assert_eq!(why, format!("{} cannot be written: No such file or directory (os error 2).", target.display()));
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing() {
        let folder = Folder::new();
        let target = PathBuf::from(folder.file("old", "old"));
        let mut file = OutputFile::create(&target, Overwrite::Yes).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!((names(&folder), fs::read(&target).unwrap().as_slice()), (vec!["old".into()], b"old".as_slice()));
    }

    #[test]
    fn only_force_overwrites_a_file_also_one_that_was_created_meanwhile() {
        let folder = Folder::new();
        let target = PathBuf::from(folder.file("old", "old"));
        for overwrite in [Overwrite::No, Overwrite::Never] {
            assert!(write(&target, overwrite, b"new").is_err());
            let late = folder.path("late");
            let file = OutputFile::create(&late, overwrite).unwrap();
            fs::write(&late, "meanwhile").unwrap();
            assert!(file.finish().is_err());
            assert_eq!(fs::read(&late).unwrap(), b"meanwhile");
            fs::remove_file(late).unwrap();
        }
        assert_eq!(fs::read(&target).unwrap(), b"old");
        write(&target, Overwrite::Yes, b"new").unwrap();
        assert_eq!((names(&folder), fs::read(&target).unwrap().as_slice()), (vec!["old".into()], b"new".as_slice()));
    }

    #[test]
    fn no_link_is_followed_or_replaced() {
        let folder = Folder::new();
        let (file, link) = (folder.file("file", "old"), folder.path("link"));
        symlink(&file, &link).unwrap();
        symlink("nowhere", folder.path("dangling")).unwrap();
        for overwrite in [Overwrite::Yes, Overwrite::No, Overwrite::Never] {
            assert!(write(&link, overwrite, b"new").is_err());
            assert!(write(&folder.path("dangling"), overwrite, b"new").is_err());
        }
        // One that was created meanwhile is replaced, not followed.
        let late = folder.path("late");
        let written = OutputFile::create(&late, Overwrite::Yes).unwrap();
        symlink(&file, &late).unwrap();
        written.finish().unwrap();
        assert!(!fs::symlink_metadata(&late).unwrap().is_symlink());
        assert_eq!(fs::read(file).unwrap(), b"old");
    }

    #[test]
    fn a_replaced_file_is_complete_and_only_its_owner_may_read_it() {
        let folder = Folder::new();
        let path = folder.path("made/below/file");
        for content in ["one", "two"] {
            replace(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let below = path.parent().unwrap();
        assert_eq!(fs::read_dir(below).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(fs::metadata(below).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(folder.path("made")).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(replace(below, b"x").is_err(), "a folder is not replaced");
        assert_eq!(fs::read_dir(folder.path("made")).unwrap().count(), 1);
    }
}
