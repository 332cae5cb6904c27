//! Files that are there whole or not at all, whatever happens to the power.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

/// Flag for opening: the last part of the path must not be a symbolic link.
pub(crate) const NOFOLLOW: i32 = OFlags::NOFOLLOW.bits().cast_signed();

/// Where a file is written before it gets its name `path`.
pub(crate) fn draft_of(path: &Path) -> PathBuf {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    draft.into()
}

/// Gives a finished and synced draft its name, for good. `AlreadyExists` if there is such a file.
pub(crate) fn publish(draft: &Path, path: &Path) -> io::Result<()> {
    renameat_with(CWD, draft, CWD, path, RenameFlags::NOREPLACE)?;
    sync_folder_of(path)
}

/// Makes creation, renaming and removal of `path` durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    File::open(folder)?.sync_all()
}
