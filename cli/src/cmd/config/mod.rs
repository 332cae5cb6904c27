//! `config …`: the settings of one HSM. A setting has the verbs `show` and `set`; what can only be set, the two
//! passphrases, has none.

mod logging;
mod network;
mod time;
pub(crate) mod tls;

use std::path::PathBuf;

use casemate_api::Passphrase;
use casemate_api::body::config::{Logging, Network, Ntp, Switch};
use casemate_client::Error;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use crate::cmd::args::word;
use crate::exit::Failure;
use crate::profile::Context;
use crate::prompt;

/// Configure an HSM.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show all settings together
    Show,
    /// Show or set its addresses
    #[command(subcommand)]
    Network(network::Command),
    /// Show or set its clock
    #[command(subcommand)]
    Time(time::Command),
    /// Show or set where it gets the time from
    #[command(subcommand)]
    Ntp(time::NtpCommand),
    /// Show or set where log lines are sent
    #[command(subcommand)]
    Logging(logging::Command),
    /// Show or set whether it starts without an unlock passphrase
    #[command(subcommand)]
    UnattendedBoot(BootCommand),
    /// Manage its TLS key and the CA of its cluster
    #[command(subcommand)]
    Tls(tls::Command),
    /// Set or change the unlock passphrase
    UnlockPassphrase(Change),
    /// Set or change the backup passphrase
    BackupPassphrase(BackupChange),
}

/// Show or set whether an HSM starts without an unlock passphrase.
#[derive(Subcommand)]
pub(crate) enum BootCommand {
    /// Show it
    Show,
    /// Set it
    Set {
        /// on or off
        #[arg(value_parser = word::<Switch>)]
        status: Switch,
    },
}

/// Arguments of commands that change a passphrase.
#[derive(Args)]
pub(crate) struct Change {
    /// File with the passphrase that holds now
    #[arg(long, value_name = "FILE")]
    current_passphrase_file: Option<PathBuf>,
    /// File with the new one
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
}

/// Arguments of `config backup-passphrase`.
#[derive(Args)]
pub(crate) struct BackupChange {
    /// There is none yet
    #[arg(long, conflicts_with = "current_passphrase_file")]
    first: bool,
    #[command(flatten)]
    change: Change,
}

impl Command {
    /// Does it.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::Show => show(context),
            Command::Network(command) => command.run(context),
            Command::Time(command) => command.run(context),
            Command::Ntp(command) => command.run(context),
            Command::Logging(command) => command.run(context),
            Command::UnattendedBoot(command) => command.run(context),
            Command::Tls(command) => command.run(context),
            Command::UnlockPassphrase(change) => {
                let session = context.session()?;
                let current = change.present("Current unlock passphrase")?;
                session.config().set_unlock_passphrase(current, change.next("New unlock passphrase")?)?;
                context.out.done("The new unlock passphrase holds from now on. Write it down.")
            }
            Command::BackupPassphrase(BackupChange { first, change }) => {
                let session = context.session()?;
                let current = if first {
                    Passphrase::from_text(String::new())
                } else {
                    change.present("Current backup passphrase")?
                };
                session.config().set_backup_passphrase(current, change.next("New backup passphrase")?)?;
                context.out.done(
                    "Backups are sealed under the new passphrase from now on; earlier ones need the one they were made \
                     with. Write it down.",
                )
            }
        }
    }
}

impl Change {
    fn present(&self, label: &str) -> Result<Passphrase, Failure> {
        prompt::current(label, self.current_passphrase_file.as_deref(), "--current-passphrase-file")
    }

    fn next(&self, label: &str) -> Result<Passphrase, Failure> {
        prompt::new(label, self.new_passphrase_file.as_deref(), "--new-passphrase-file")
    }
}

impl BootCommand {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let session = context.session()?;
        let status = match self {
            BootCommand::Show => session.config().unattended_boot()?,
            BootCommand::Set { status } => {
                session.config().set_unattended_boot(status)?;
                status
            }
        };
        context.out.line(&json!({ "status": status }), &format!("Unattended boot is {}.", on_or_off(status)))
    }
}

/// Every setting there is. What this HSM does not know is left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct All {
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ntp: Option<Ntp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logging: Option<Logging>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unattended_boot: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_fingerprint: Option<String>,
}

fn show(context: &Context) -> Result<(), Failure> {
    let session = context.session()?;
    let config = session.config();
    let certificate = known(config.tls_certificate())?;
    let all = All {
        network: known(config.network())?,
        time: known(config.time())?,
        ntp: known(config.ntp())?,
        logging: known(config.logging())?,
        unattended_boot: known(config.unattended_boot())?,
        tls_fingerprint: certificate.map(|pem| tls::fingerprint(&pem)).transpose()?.map(|print| print.to_string()),
    };
    let mut members = Vec::new();
    members.extend(all.network.iter().flat_map(network::members));
    members.extend(all.time.iter().map(|time| ("Time", time.clone())));
    members.extend(all.ntp.iter().flat_map(time::members));
    members.extend(all.logging.iter().flat_map(logging::members));
    members.extend(all.unattended_boot.map(|status| ("Unattended boot", on_or_off(status).into())));
    members.extend(all.tls_fingerprint.iter().map(|print| ("TLS fingerprint", print.clone())));
    context.out.record(&all, members)
}

/// What was read, or nothing where the HSM has no such setting: an older NetHSM.
fn known<T>(read: Result<T, Error>) -> Result<Option<T>, Failure> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(why) => Err(why.into()),
    }
}

fn on_or_off(status: Switch) -> &'static str {
    match status {
        Switch::On => "on",
        Switch::Off => "off",
    }
}
