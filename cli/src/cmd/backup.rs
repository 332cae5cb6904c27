//! `backup`

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use casemate_client::Error;
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::exit::Failure;
use crate::file::NewFile;
use crate::profile::Context;
use crate::progress::Progress;

/// Arguments of `backup`.
#[derive(Args)]
#[command(
    after_help = "Log in as a user with the role Backup. `casemated backup verify FILE` tells whether a backup opens \
                        and every key in it works; it needs no HSM."
)]
pub(crate) struct Backup {
    /// Where to write it; - is standard output; without it casemate-TIME.bak
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
}

impl Backup {
    /// Makes a backup.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let target =
            self.to.unwrap_or_else(|| Timestamp::now().strftime("casemate-%Y%m%dT%H%M%SZ.bak").to_string().into());
        if target == Path::new("-") {
            return to_output(context);
        }
        let session = context.session()?;
        let mut file = NewFile::create(&target, self.force.into())?;
        let mut watched = Watched { inner: &mut file, bytes: 0, progress: Progress::new(context, None) };
        session.system().backup(&mut watched).map_err(|why| match why {
            Error::Incomplete { node, bytes, cause } => Failure::Local(format!(
                "The backup of {node} broke off after {bytes} bytes ({cause}). Nothing was kept of it; try again."
            )),
            why => why.into(),
        })?;
        drop(watched);
        let written = file.finish()?;
        let name = target.display();
        context.out.line(
            &json!({ "file": target, "bytes": written.bytes, "sha256": written.sha256 }),
            &format!(
                "{name}: {} bytes, SHA-256 {}. Check it with: casemated backup verify {name}",
                written.bytes, written.sha256
            ),
        )
    }
}

fn to_output(context: &Context) -> Result<(), Failure> {
    if context.out.json || io::stdout().is_terminal() {
        return Err(Failure::Usage("A backup is neither JSON nor text for a terminal: give --to FILE.".into()));
    }
    let mut watched = Watched { inner: io::stdout().lock(), bytes: 0, progress: Progress::new(context, None) };
    context.session()?.system().backup(&mut watched)?;
    watched.flush().map_err(crate::exit::local("The output cannot be written"))
}

/// A writer that tells how much went through.
struct Watched<W> {
    inner: W,
    bytes: u64,
    progress: Progress,
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let amount = self.inner.write(bytes)?;
        self.bytes += amount as u64;
        self.progress.at(self.bytes);
        Ok(amount)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
