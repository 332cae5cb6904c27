//! `backup`

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use casemate_client::Error;
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::exit::Failure;
use crate::output_file::OutputFile;
use crate::profile::Context;
use crate::progress::Progress;

/// Arguments of `backup`.
#[derive(Args)]
#[command(
    after_help = "Log in as a user with the role Backup. `casemated backup verify FILE` checks, without an HSM, that a \
                        backup can be opened and that every key in it works."
)]
pub(crate) struct Backup {
    /// File for it; - is standard output; by default casemate-TIME.bak
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Overwrite an existing file
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
        let mut file = OutputFile::create(&target, self.force.into())?;
        let mut watched = Watched::new(context, &mut file);
        session.system().backup(&mut watched).map_err(|why| match why {
            Error::Incomplete { node, bytes, cause } => Failure::Local(format!(
                "The backup of {node} broke off after {bytes} bytes ({cause}). Nothing was kept; try again."
            )),
            why => why.into(),
        })?;
        watched.check(context)?;
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
        return Err(Failure::Usage(
            "A backup can neither be printed as JSON nor written to a terminal: use --to FILE.".into(),
        ));
    }
    let mut watched = Watched::new(context, io::stdout().lock());
    context.session()?.system().backup(&mut watched)?;
    watched.check(context)?;
    watched.flush().map_err(crate::exit::local("The output cannot be written"))
}

/// The first bytes of every backup.
const MAGIC: &[u8] = b"_NETHSM_BACKUP_";

/// A writer that shows the progress and keeps the first bytes.
struct Watched<W> {
    inner: W,
    bytes: u64,
    head: Vec<u8>,
    progress: Progress,
}

impl<W> Watched<W> {
    fn new(context: &Context, inner: W) -> Self {
        Self { inner, bytes: 0, head: Vec::new(), progress: Progress::new(context, None) }
    }

    /// Fails if the first bytes are not those of a backup.
    fn check(&self, context: &Context) -> Result<(), Failure> {
        if self.head == MAGIC {
            return Ok(());
        }
        let node = context.client.nodes().join(", ");
        Err(Error::Garbled { node, why: "it is not a backup".into() }.into())
    }
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let amount = self.inner.write(bytes)?;
        self.bytes += amount as u64;
        let room = MAGIC.len().saturating_sub(self.head.len());
        self.head.extend(bytes.iter().take(amount.min(room)));
        self.progress.at(self.bytes);
        Ok(amount)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
