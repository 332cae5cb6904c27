//! Files that are either complete or absent, even after a loss of power.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

/// Open flag: the last component of the path must not be a symbolic link.
pub(crate) const NOFOLLOW: i32 = OFlags::NOFOLLOW.bits().cast_signed();

/// The temporary path at which a file is written before it is renamed to `path`.
pub(crate) fn draft_of(path: &Path) -> PathBuf {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    draft.into()
}

/// Renames a finished and synced draft to `path`, durably. `AlreadyExists` if `path` exists.
pub(crate) fn publish(draft: &Path, path: &Path) -> io::Result<()> {
    renameat_with(CWD, draft, CWD, path, RenameFlags::NOREPLACE)?;
    sync_folder_of(path)
}

/// Makes creation, renaming or removal of `path` durable by syncing its folder.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    File::open(folder)?.sync_all()
}
