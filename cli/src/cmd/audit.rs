//! `audit …`: the record of what was done on one HSM. A NetHSM has none.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::exit::Failure;
use crate::output_file::NewFile;
use crate::profile::Context;

/// Export what was done.
#[derive(Subcommand)]
#[command(
    after_help = "`casemated audit verify FILE --key KEY` tells whether a record was altered or taken out; it needs no \
                        HSM."
)]
pub(crate) enum Command {
    /// Print the records, one JSON a line
    Export {
        /// The first record
        #[arg(long, value_name = "NUMBER")]
        from: Option<u64>,
        /// The last record
        #[arg(long, value_name = "NUMBER")]
        to: Option<u64>,
        /// Write them to a file
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Replace the file if there is one
        #[arg(long, requires = "file")]
        force: bool,
    },
    /// Print the public key that the records are signed with
    Key,
}

impl Command {
    /// Does it.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::Export { from, to, file: None, .. } => {
                // A reader that leaves before the end is a failure: half a log is no evidence.
                let mut out = Printable { inner: io::stdout().lock(), to_terminal: io::stdout().is_terminal() };
                Ok(context.session()?.audit().export(from, to, &mut out).map(drop)?)
            }
            Command::Export { from, to, file: Some(target), force } => {
                let session = context.session()?;
                let mut file = NewFile::create(&target, force.into())?;
                session.audit().export(from, to, &mut file)?;
                let written = file.finish()?;
                let text = format!("{}: {} bytes, SHA-256 {}.", target.display(), written.bytes, written.sha256);
                let said = json!({ "file": target, "bytes": written.bytes, "sha256": written.sha256 });
                context.out.line(&said, &text)
            }
            Command::Key => context.out.text("pem", &context.session()?.audit().public_key()?),
        }
    }
}

/// What goes to a terminal has nothing that steers it. Records are printable ASCII, whatever else comes is not.
struct Printable<W> {
    inner: W,
    to_terminal: bool,
}

impl<W: Write> Write for Printable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.to_terminal {
            return self.inner.write(bytes);
        }
        let shown = |byte: &u8| if matches!(byte, b' '..=b'~' | b'\n') { *byte } else { b'?' };
        self.inner.write_all(&bytes.iter().map(shown).collect::<Vec<_>>())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
