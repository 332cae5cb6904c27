//! `config …`: the settings of one HSM. Settings have the commands `show` and `set`; the two passphrases can only be set.

mod logging;
mod network;
mod time;
pub(crate) mod tls;
mod without_majority;

use std::path::PathBuf;

use casemate_api::Passphrase;
use casemate_api::body::config::{Logging, Network, Ntp, Switch, WithoutMajority};
use casemate_client::Error;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use crate::cmd::args::api_value;
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
    /// Show or set its time servers
    #[command(subcommand)]
    Ntp(time::NtpCommand),
    /// Show or set where log lines are sent
    #[command(subcommand)]
    Logging(logging::Command),
    /// Show or set whether it starts without an unlock passphrase
    #[command(subcommand)]
    UnattendedBoot(BootCommand),
    /// Show or set what members of a cluster do that reach no majority
    #[command(subcommand)]
    WithoutMajority(without_majority::Command),
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
        #[arg(value_parser = api_value::<Switch>)]
        status: Switch,
    },
}

/// Arguments of commands that change a passphrase.
#[derive(Args)]
pub(crate) struct Change {
    /// File with the current passphrase
    #[arg(long, value_name = "FILE")]
    current_passphrase_file: Option<PathBuf>,
    /// File with the new passphrase
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
}

/// Arguments of `config backup-passphrase`.
#[derive(Args)]
pub(crate) struct BackupChange {
    /// No backup passphrase is set yet
    #[arg(long, conflicts_with = "current_passphrase_file")]
    first: bool,
    #[command(flatten)]
    change: Change,
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::Show => show(context),
            Command::Network(command) => command.run(context),
            Command::Time(command) => command.run(context),
            Command::Ntp(command) => command.run(context),
            Command::Logging(command) => command.run(context),
            Command::UnattendedBoot(command) => command.run(context),
            Command::WithoutMajority(command) => command.run(context),
            Command::Tls(command) => command.run(context),
            Command::UnlockPassphrase(change) => {
                let session = context.session()?;
                let current = change.read_current("Current unlock passphrase")?;
                session.config().set_unlock_passphrase(current, change.read_new("New unlock passphrase")?)?;
                context.out.done("The unlock passphrase was changed. Write it down.")
            }
            Command::BackupPassphrase(BackupChange { first, change }) => {
                let session = context.session()?;
                let current = if first {
                    Passphrase::from_text(String::new())
                } else {
                    change.read_current("Current backup passphrase")?
                };
                session.config().set_backup_passphrase(current, change.read_new("New backup passphrase")?)?;
                context.out.done(
                    "The backup passphrase was set. Earlier backups still need the passphrase they were created with. Write \
                     it down.",
                )
            }
        }
    }
}

impl Change {
    fn read_current(&self, label: &str) -> Result<Passphrase, Failure> {
        prompt::current(label, self.current_passphrase_file.as_deref(), "--current-passphrase-file")
    }

    fn read_new(&self, label: &str) -> Result<Passphrase, Failure> {
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

/// All settings. Those that the HSM does not have are left out.
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
    without_majority: Option<WithoutMajority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_fingerprint: Option<String>,
}

fn show(context: &Context) -> Result<(), Failure> {
    let session = context.session()?;
    let config = session.config();
    let certificate = if_known(config.tls_certificate())?;
    let all = All {
        network: if_known(config.network())?,
        time: if_known(config.time())?,
        ntp: if_known(config.ntp())?,
        logging: if_known(config.logging())?,
        unattended_boot: if_known(config.unattended_boot())?,
        without_majority: if_known(config.without_majority())?,
        tls_fingerprint: certificate.map(|pem| tls::fingerprint(&pem)).transpose()?.map(|print| print.to_string()),
    };
    let mut members = Vec::new();
    members.extend(all.network.iter().flat_map(network::members));
    members.extend(all.time.iter().map(|time| ("Time", time.clone())));
    members.extend(all.ntp.iter().flat_map(time::members));
    members.extend(all.logging.iter().flat_map(logging::members));
    members.extend(all.unattended_boot.map(|status| ("Unattended boot", on_or_off(status).into())));
    members.extend(all.without_majority.iter().map(|it| ("Without majority", without_majority::what_they_do(it))));
    members.extend(all.tls_fingerprint.iter().map(|print| ("TLS fingerprint", print.clone())));
    context.out.record(&all, members)
}

/// `None` if the HSM does not have the setting, as an older NetHSM.
fn if_known<T>(read: Result<T, Error>) -> Result<Option<T>, Failure> {
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
