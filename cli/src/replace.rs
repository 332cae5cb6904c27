//! Replaces a file as a whole: whoever looks finds the old one or the new one, also after a crash.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::exit::{Failure, local};
use crate::file::unique;

/// Writes `bytes` to `path`, for the owner alone; makes its folder if need be.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Beside the file, because a rename does not leave a file system; unique, because another may do the same.
    let beside = folder.join(format!(".{name}.{}", unique()?));
    let written = DirBuilder::new().recursive(true).mode(0o700).create(folder).and_then(|()| {
        write(&beside, bytes)?;
        fs::rename(&beside, path)?;
        File::open(folder)?.sync_all()
    });
    written.map_err(|why| {
        let _ = fs::remove_file(&beside);
        local(format_args!("{} cannot be written", path.display()))(why)
    })
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use casemate_testkit::Folder;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_for_its_owner_alone() {
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
