//! `audit …`: the audit log of one HSM. NetHSM has none.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::exit::Failure;
use crate::output_file::OutputFile;
use crate::profile::Context;

/// Export the audit log.
#[derive(Subcommand)]
#[command(
    after_help = "`casemated audit verify FILE --key KEY` checks, without an HSM, that no record was altered or \
                        removed."
)]
pub(crate) enum Command {
    /// Print the records, each as a line of JSON
    Export {
        /// Number of the first record
        #[arg(long, value_name = "NUMBER")]
        from: Option<u64>,
        /// Number of the last record
        #[arg(long, value_name = "NUMBER")]
        to: Option<u64>,
        /// Write them to a file
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Overwrite an existing file
        #[arg(long, requires = "file")]
        force: bool,
    },
    /// Print the public key for the signatures of the log
    Key,
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::Export { from, to, file: None, .. } => {
                // A reader that closes the pipe before the end is a failure, as an incomplete log proves nothing.
                let mut out = Printable { inner: io::stdout().lock(), to_terminal: io::stdout().is_terminal() };
                Ok(context.session()?.audit().export(from, to, &mut out).map(drop)?)
            }
            Command::Export { from, to, file: Some(target), force } => {
                let session = context.session()?;
                let mut file = OutputFile::create(&target, force.into())?;
                session.audit().export(from, to, &mut file)?;
                let written = file.finish()?;
                let text = format!("{}: {} bytes, SHA-256 {}.", target.display(), written.bytes, written.sha256);
                let value = json!({ "file": target, "bytes": written.bytes, "sha256": written.sha256 });
                context.out.line(&value, &text)
            }
            Command::Key => context.out.text("pem", &context.session()?.audit().public_key()?),
        }
    }
}

/// A writer that replaces control characters if it writes to a terminal. Records are printable ASCII only.
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
