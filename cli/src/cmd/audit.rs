//! `audit …`: the audit log of an HSM, and those of several nodes as one. NetHSM has none.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;

use casemate_audit::{Log, MergeError, PublicKey, merge, public_key_from_pem};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::exit::{Failure, local};
use crate::output_file::OutputFile;
use crate::profile::Context;
use crate::render::{Out, remark};

/// Export the audit log, or merge those of several nodes.
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
    /// Verify the exports of several nodes and print their records as one sequence
    ///
    /// Changes are ordered by the revisions of the store that the nodes share; everything else by the clocks of the nodes, between
    /// the records of its own node. Each line names its node by the device id. What is not known for certain is said on
    /// standard error.
    Merge(Merge),
}

/// Arguments of `audit merge`.
#[derive(Args)]
pub(crate) struct Merge {
    /// Exports; that of one node may be in several files
    #[arg(required = true, value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// Public key of a node (`casemate audit key`), for each of them; without it the keys in the exports are believed
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Write the records to a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(long, requires = "file")]
    force: bool,
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
            Command::Merge(asked) => asked.run(&context.out),
        }
    }
}

impl Merge {
    /// Needs no HSM.
    pub(crate) fn run(self, out: &Out) -> Result<(), Failure> {
        let keys = self.key.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        let log = |path: &PathBuf| {
            let (name, path) = (path.display().to_string(), path.clone());
            let open = move || Ok(Box::new(BufReader::new(File::open(&path)?)) as Box<dyn BufRead>);
            Log { name, open: Box::new(open) }
        };
        let logs: Vec<Log<'_>> = self.logs.iter().map(log).collect();
        let Some(target) = self.file else {
            let mut lines = Printable { inner: io::stdout().lock(), to_terminal: io::stdout().is_terminal() };
            tell(&merge(&logs, &keys, &mut lines)?);
            return Ok(());
        };
        let mut file = OutputFile::create(&target, self.force.into())?;
        let remarks = merge(&logs, &keys, &mut file)?;
        let written = file.finish()?;
        tell(&remarks);
        let text = format!("{}: {} bytes, SHA-256 {}.", target.display(), written.bytes, written.sha256);
        out.line(&json!({ "file": target, "bytes": written.bytes, "sha256": written.sha256 }), &text)
    }
}

/// Says what is to be known about the result, also beside JSON, which is useless without it.
fn tell(remarks: &[String]) {
    remarks.iter().for_each(|text| remark(text));
}

/// Reads a public key.
fn key(path: &PathBuf) -> Result<PublicKey, Failure> {
    let pem = fs::read_to_string(path).map_err(local(path.display()))?;
    let no_key = || Failure::Usage(format!("{} is not a public key of an audit log (PEM, Ed25519).", path.display()));
    public_key_from_pem(&pem).ok_or_else(no_key)
}

impl From<MergeError> for Failure {
    fn from(why: MergeError) -> Self {
        let sentence = format!("{why}.");
        match why {
            MergeError::Unreadable(_) | MergeError::Output(_) => Failure::Local(sentence),
            MergeError::Twice(_) => Failure::Usage(sentence),
            MergeError::Broken(_) => Failure::AuditBroken(sentence),
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
