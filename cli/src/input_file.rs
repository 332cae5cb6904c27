//! Files that are to be sent, whose length has to be known first.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use crate::exit::{Failure, local};

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
    fn a_stream_is_spooled_into_a_file_without_a_name() {
        let (mut file, length) = spool(&mut b"what comes".as_slice()).unwrap();
        let mut read = String::new();
        file.read_to_string(&mut read).unwrap();
        assert_eq!((length, read.as_str()), (10, "what comes"));
        assert_eq!(file.metadata().unwrap().nlink(), 0);
    }
}
