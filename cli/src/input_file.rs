//! Files to upload, whose length has to be known first.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use crate::exit::{Failure, local};

/// Opens a file to upload and returns its length in bytes. Standard input (`-`) and pipes, whose length is not known,
/// are copied to a temporary file without a name first.
pub(crate) fn open_with_length(path: &Path) -> Result<(File, u64), Failure> {
    let unreadable = local(format!("{} cannot be read", path.display()));
    let open_with_length = if path == Path::new("-") { spool(&mut io::stdin().lock()) } else { open_sized(path) };
    open_with_length.map_err(unreadable)
}

fn open_sized(path: &Path) -> io::Result<(File, u64)> {
    let mut file = File::open(path)?;
    let about = file.metadata()?;
    if about.is_file() { Ok((file, about.len())) } else { spool(&mut file) }
}

fn spool(from: &mut dyn Read) -> io::Result<(File, u64)> {
    let mut file = tempfile::tempfile()?;
    let length = io::copy(from, &mut file)?;
    file.rewind()?;
    Ok((file, length))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_stream_is_copied_to_a_file_without_a_name() {
        let (mut file, length) = spool(&mut b"what comes".as_slice()).unwrap();
        let mut read = String::new();
        file.read_to_string(&mut read).unwrap();
        assert_eq!((length, read.as_str()), (10, "what comes"));
        assert_eq!(file.metadata().unwrap().nlink(), 0);
    }
}
