//! The commands, one file per noun.

mod apply;
pub(crate) mod args;
pub(crate) mod audit;
mod backup;
mod bytes;
mod cert;
mod cluster;
mod config;
mod csr;
mod device;
mod doctor;
mod key;
mod key_use;
pub(crate) mod manual;
mod namespace;
mod pkcs12;
pub(crate) mod profile;
mod provision;
mod public;
mod restore;
mod system;
mod system_test;
mod update;
mod user;

use clap::Subcommand;

use crate::exit::Failure;
use crate::profile::Context;

/// The commands for HSMs.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show the state of each HSM
    State,
    /// Find out what is wrong: network, certificate, state, clock, login, and whether the nodes agree
    Doctor,
    /// Show vendor and product of an HSM
    Info,
    /// Set up a new HSM
    Provision(provision::Provision),
    /// Unlock an HSM
    Unlock(device::Unlock),
    /// Lock an HSM
    Lock,
    /// Get random bytes
    Random(device::Random),
    /// Show the metrics of an HSM
    Metrics,
    /// Manage keys
    #[command(subcommand)]
    Key(key::Command),
    /// Sign a file
    Sign(key_use::Sign),
    /// Decrypt a file
    Decrypt(key_use::Decrypt),
    /// Encrypt a file with a Generic key
    Encrypt(key_use::Encrypt),
    /// Manage users
    #[command(subcommand)]
    User(user::Command),
    /// Manage namespaces
    #[command(subcommand)]
    Namespace(namespace::Command),
    /// Configure an HSM
    #[command(subcommand)]
    Config(config::Command),
    /// Create a certificate signing request
    Csr(csr::Csr),
    /// Manage certificates
    #[command(subcommand)]
    Cert(cert::Command),
    /// Create a backup
    Backup(backup::Backup),
    /// Restore a backup
    Restore(restore::Restore),
    /// Install another version of the software
    #[command(subcommand)]
    Update(update::Command),
    /// Export the audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Manage a cluster
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Administer one HSM
    #[command(subcommand)]
    System(system::Command),
    /// Set an HSM up as a file describes: users, namespaces, keys, settings
    Apply(apply::Apply),
    /// Show how an HSM differs from such a file
    Diff(apply::Diff),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::State => device::state(context),
            Command::Doctor => doctor::run(context),
            Command::Info => device::info(context),
            Command::Provision(arguments) => arguments.run(context),
            Command::Unlock(arguments) => arguments.run(context),
            Command::Lock => device::lock(context),
            Command::Random(arguments) => arguments.run(context),
            Command::Metrics => device::metrics(context),
            Command::Key(command) => command.run(context),
            Command::Sign(arguments) => arguments.run(context),
            Command::Decrypt(arguments) => arguments.run(context),
            Command::Encrypt(arguments) => arguments.run(context),
            Command::User(command) => command.run(context),
            Command::Namespace(command) => command.run(context),
            Command::Config(command) => command.run(context),
            Command::Csr(arguments) => arguments.run(context),
            Command::Cert(command) => command.run(context),
            Command::Backup(arguments) => arguments.run(context),
            Command::Restore(arguments) => arguments.run(context),
            Command::Update(command) => command.run(context),
            Command::Audit(command) => command.run(context),
            Command::Cluster(command) => command.run(context),
            Command::System(command) => command.run(context),
            Command::Apply(arguments) => arguments.run(context),
            Command::Diff(arguments) => arguments.run(context),
        }
    }
}
