//! `update …`: updates of the HSM's software.

use std::path::{Path, PathBuf};

use casemate_api::body::system::ReleaseNotes;
use casemate_client::{Session, Upload};
use clap::Subcommand;
use serde_json::json;

use crate::exit::Failure;
use crate::input_file::open_with_length;
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
    /// Install the uploaded image and reboot the HSM
    Commit,
    /// Discard the uploaded image
    Cancel,
}

/// What has to be confirmed before an image is installed.
const INSTALL: &str = "Installing the update and rebooting the HSM";

impl Command {
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
                    .done("The image is uploaded: install it with `casemate update commit`, or discard it with `casemate update cancel`.")
            }
            Command::Commit => {
                context.confirm(INSTALL)?;
                context.session()?.system().commit_update()?;
                context.out.done("The update is installed, and the HSM reboots.")
            }
            Command::Cancel => {
                context.session()?.system().cancel_update()?;
                context.out.done("The image was discarded.")
            }
        }
    }
}

fn install(context: &Context, file: &Path) -> Result<(), Failure> {
    // Before an upload that may take minutes.
    context.can_confirm(INSTALL)?;
    if context.out.json && !context.yes() {
        return Err(Failure::Usage(
            "With --json the release notes are not shown before the question: use --yes, or `update upload` and `update commit`."
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
    let value = json!({ "releaseNotes": notes.release_notes, "installed": true });
    context.out.line(&value, "The update is installed, and the HSM reboots.")
}

fn upload(context: &Context, session: &Session, file: &Path) -> Result<ReleaseNotes, Failure> {
    let (mut image, length) = open_with_length(file)?;
    let progress = Progress::new(context, Some(length));
    let mut tell = |bytes| progress.at(bytes);
    Ok(session.system().update(Upload::new(&mut image, length).on_progress(&mut tell))?)
}

fn show(context: &Context, notes: &ReleaseNotes) -> Result<(), Failure> {
    notes.release_notes.lines().try_for_each(|line| context.out.line(&(), line))
}
