//! `restore`

use std::path::PathBuf;

use casemate_api::State;
use casemate_api::body::system::RestoreRequest;
use casemate_client::{Error, Upload};
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::clock::rfc3339;
use crate::exit::Failure;
use crate::input_file::open_with_length;
use crate::profile::Context;
use crate::progress::Progress;
use crate::prompt;

/// Arguments of `restore`.
#[derive(Args)]
#[command(
    after_help = "On an Unprovisioned HSM everything is restored, and no user is needed. On an Operational one, users, \
                        namespaces, keys, the unlock passphrase, the backup passphrase and the CA of the cluster are \
                        replaced; its network, TLS key, time and log settings stay."
)]
pub(crate) struct Restore {
    /// The backup; - is standard input
    file: PathBuf,
    /// File with the backup passphrase it was created with
    #[arg(long, value_name = "FILE")]
    backup_passphrase_file: Option<PathBuf>,
    /// Use the backup passphrase that is set in the HSM; it must be the one the backup was created with
    #[arg(long, conflicts_with = "backup_passphrase_file")]
    stored_backup_passphrase: bool,
    /// Time to set, such as 2026-01-31T12:00:00Z; by default an Unprovisioned HSM gets that of this machine
    #[arg(long, value_name = "TIME")]
    system_time: Option<Timestamp>,
}

impl Restore {
    /// Restores a backup.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let anonymous = context.client.anonymous();
        let node = context.client.nodes().join(", ");
        let full = match anonymous.health().state()? {
            State::Unprovisioned => true,
            State::Operational => false,
            State::Locked | State::Failed => return Err(Error::WrongState { node }.into()),
        };
        context.confirm(&if full {
            format!("Giving {node} the users, keys and settings of the backup")
        } else {
            format!(
                "Replacing all users, namespaces and keys of {node}, its unlock passphrase and its backup passphrase by \
                 those of the backup"
            )
        })?;
        // A missing file is reported before passphrases are asked for.
        let (mut file, length) = open_with_length(&self.file)?;
        let session = if full { anonymous.clone() } else { context.session()? };
        let backup_passphrase = if self.stored_backup_passphrase {
            None
        } else {
            let file = self.backup_passphrase_file.as_deref();
            Some(prompt::current("Backup passphrase", file, "--backup-passphrase-file")?)
        };
        let time = self.system_time.or(full.then(Timestamp::now));
        let progress = Progress::new(context, Some(length));
        let mut tell = |bytes| progress.at(bytes);
        let arguments = RestoreRequest { backup_passphrase, system_time: time.map(rfc3339) };
        session.system().restore(&arguments, Upload::new(&mut file, length).on_progress(&mut tell))?;
        drop(progress);
        // The restore succeeded, so it does not matter if the state cannot be read.
        let state = anonymous.health().state().ok();
        let next = match state {
            Some(State::Locked) if full => {
                "It is Locked: unlock it with `casemate unlock` and the unlock passphrase from when the backup was created."
            }
            Some(State::Locked) => {
                "It is Locked: unlock it with `casemate unlock` and the unlock passphrase from when the backup was created. \
                 Until then, `casemate unlock` with the previous unlock passphrase undoes the restore."
            }
            Some(State::Operational) => "It is Operational.",
            Some(State::Unprovisioned | State::Failed) | None => "`casemate state` shows its state.",
        };
        let what = if full { "full" } else { "partial" };
        let text =
            format!("The backup was restored to {node}; users and passphrases are now those of the backup. {next}");
        context.out.line(&json!({ "restore": what, "state": state }), &text)
    }
}
