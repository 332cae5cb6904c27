//! `config …`

use std::path::PathBuf;

use casemate_api::body::config::Switch;
use clap::Subcommand;
use serde_json::json;

use super::word;
use crate::exit::Failure;
use crate::profile::Context;
use crate::prompt;

/// Configure an HSM.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Change the unlock passphrase
    UnlockPassphrase {
        /// File with the unlock passphrase that holds now
        #[arg(long, value_name = "FILE")]
        current_passphrase_file: Option<PathBuf>,
        /// File with the new one
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
    /// Show or set whether the HSM starts without an unlock passphrase
    UnattendedBoot {
        /// on or off; without it the present setting is shown
        #[arg(value_parser = word::<Switch>)]
        status: Option<Switch>,
    },
}

impl Command {
    /// Does it.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::UnlockPassphrase { current_passphrase_file, new_passphrase_file } => {
                let session = context.session()?;
                let current = current_passphrase_file.as_deref();
                let current = prompt::current("Current unlock passphrase", current, "--current-passphrase-file")?;
                let new = new_passphrase_file.as_deref();
                let new = prompt::new("New unlock passphrase", new, "--new-passphrase-file")?;
                session.config().set_unlock_passphrase(current, new)?;
                context.out.done("The new unlock passphrase holds from now on. Write it down.")
            }
            Command::UnattendedBoot { status } => {
                let session = context.session()?;
                if let Some(status) = status {
                    session.config().set_unattended_boot(status)?;
                }
                let status = session.config().unattended_boot()?;
                let text = match status {
                    Switch::On => "Unattended boot is on.",
                    Switch::Off => "Unattended boot is off.",
                };
                context.out.line(&json!({ "status": status }), text)
            }
        }
    }
}
