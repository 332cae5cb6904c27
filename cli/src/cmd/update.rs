//! `update …`: other versions of the HSM's software.

use std::path::{Path, PathBuf};

use casemate_api::body::system::ReleaseNotes;
use casemate_client::{Session, Upload};
use clap::Subcommand;
use serde_json::json;

use crate::exit::Failure;
use crate::input_file::sized;
use crate::profile::Context;
use crate::progress::Progress;

/// Install another version of the software.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Upload an image, show its release notes, ask, and install it
    Install {
        /// The signed image; - is standard input
        file: PathBuf,
    },
    /// Upload an image and show its release notes
    Upload {
        /// The signed image; - is standard input
        file: PathBuf,
    },
    /// Install the image that was uploaded; the HSM reboots
    Commit,
    /// Forget the image that was uploaded
    Cancel,
}

/// What is asked before an image is installed.
const INSTALL: &str = "Installing the update and rebooting the HSM";

impl Command {
    /// Does it.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::Install { file } => install(context, &file),
            Command::Upload { file } => {
                let notes = upload(context, &context.session()?, &file)?;
                if context.out.json {
                    return context.out.line(&notes, "");
                }
                show(context, &notes)?;
                context
                    .out
                    .done("The image waits: `casemate update commit` installs it, `casemate update cancel` does not.")
            }
            Command::Commit => {
                context.confirm(INSTALL)?;
                context.session()?.system().commit_update()?;
                context.out.done("The update is installed, and the HSM reboots.")
            }
            Command::Cancel => {
                context.session()?.system().cancel_update()?;
                context.out.done("The image was forgotten.")
            }
        }
    }
}

fn install(context: &Context, file: &Path) -> Result<(), Failure> {
    // Not after an upload of minutes.
    context.can_confirm(INSTALL)?;
    if context.out.json && !context.yes() {
        return Err(Failure::Usage(
            "With --json nobody is shown the release notes: say --yes, or take `update upload` and `update commit`."
                .into(),
        ));
    }
    let session = context.session()?;
    let notes = upload(context, &session, file)?;
    if !context.out.json {
        show(context, &notes)?;
    }
    if let Err(no) = context.confirm(INSTALL) {
        session.system().cancel_update()?;
        return Err(no);
    }
    session.system().commit_update()?;
    let said = json!({ "releaseNotes": notes.release_notes, "installed": true });
    context.out.line(&said, "The update is installed, and the HSM reboots.")
}

fn upload(context: &Context, session: &Session, file: &Path) -> Result<ReleaseNotes, Failure> {
    let (mut image, length) = sized(file)?;
    let progress = Progress::new(context, Some(length));
    let mut tell = |bytes| progress.at(bytes);
    Ok(session.system().update(Upload::new(&mut image, length).on_progress(&mut tell))?)
}

fn show(context: &Context, notes: &ReleaseNotes) -> Result<(), Failure> {
    notes.release_notes.lines().try_for_each(|line| context.out.line(&(), line))
}
