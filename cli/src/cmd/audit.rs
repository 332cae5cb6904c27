//! `audit …`: the record of what was done on one HSM. A NetHSM has none.

use std::io;
use std::path::PathBuf;

use casemate_client::Error;
use clap::Subcommand;
use serde_json::json;

use crate::exit::Failure;
use crate::file::NewFile;
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
                match context.session()?.audit().export(from, to, &mut io::stdout().lock()) {
                    // The reader, such as `head`, has seen enough.
                    Err(Error::Local(why)) if why.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                    exported => Ok(exported.map(drop)?),
                }
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
