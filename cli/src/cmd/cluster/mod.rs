//! `cluster …`: nodes that share users and keys (NetHSM 4.0 and later).

mod args;
mod declare;
mod grow;
mod join;
mod members;
mod nodes;
mod replace;
mod status;
mod witness;

use std::path::PathBuf;

use casemate_api::{State, UserId};
use clap::Subcommand;

use crate::exit::Failure;
use crate::profile::Context;
use crate::prompt;

/// Manage a cluster.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show members, quorum, and the state and store of each node
    Status,
    /// List the members
    Members,
    /// Show all nodes of the profile, with a vote or without, and the members that are not in it
    Nodes,
    /// Declare a new member and save its invitation
    Add(declare::Add),
    /// Make an HSM join with an invitation: its users and keys are erased
    Join(join::Join),
    /// Give a new member its vote once it has caught up
    Promote(join::Promote),
    /// Add an HSM in one step: declare it, make it join, give it its vote
    Grow(grow::Grow),
    /// Add an HSM as above and remove a member, in the order that is safe
    Replace(replace::Replace),
    /// Declare a voting member without an HSM, and save the configuration of its etcd
    Witness(witness::Witness),
    /// Remove a member
    Remove(members::Remove),
    /// Change the addresses at which the members reach one of them
    SetUrls(members::SetUrls),
    /// Move the users and keys of the last member back into a file of its own (Casemate only)
    Dissolve,
    /// Make a Failed node a cluster of its own, when the others are lost for good
    ForceNew {
        /// File with the last unlock passphrase of the node
        #[arg(long, value_name = "FILE")]
        unlock_passphrase_file: Option<PathBuf>,
    },
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::Status => status::run(context),
            Command::Members => members::list(context),
            Command::Nodes => nodes::run(context),
            Command::Add(arguments) => arguments.run(context),
            Command::Join(arguments) => arguments.run(context),
            Command::Promote(arguments) => arguments.run(context),
            Command::Grow(arguments) => arguments.run(context),
            Command::Replace(arguments) => arguments.run(context),
            Command::Witness(arguments) => arguments.run(context),
            Command::Remove(arguments) => arguments.run(context),
            Command::SetUrls(arguments) => arguments.run(context),
            Command::Dissolve => dissolve(context),
            Command::ForceNew { unlock_passphrase_file } => force_new(context, unlock_passphrase_file),
        }
    }
}

fn dissolve(context: &Context) -> Result<(), Failure> {
    let node = context.client.nodes().join(", ");
    context.agree(&format!("Move the users and keys of {node} out of its etcd, and end its cluster?"))?;
    context.session()?.cluster().dissolve()?;
    context.out.done(&format!("{node} has its users and keys in a file of its own."))
}

fn force_new(context: &Context, file: Option<PathBuf>) -> Result<(), Failure> {
    let node = context.client.nodes().join(", ");
    let state = context.client.anonymous().health().state()?;
    if state != State::Failed {
        return Err(Failure::WrongState(format!(
            "{node} is {state:?}: only a Failed node becomes a cluster of its own. Nothing was done."
        )));
    }
    context.confirm(&format!(
        "Making {node} a cluster of its own, which loses every change that it has not received, although others may have \
         confirmed it,"
    ))?;
    let others = "Are all other nodes shut down or lost for good, so that no two clusters use the same keys?";
    context.agree(others)?;
    let unlock = UserId::parse("unlock").map_err(|why| Failure::Usage(why.to_string()))?;
    let passphrase =
        prompt::current("Last unlock passphrase of the node", file.as_deref(), "--unlock-passphrase-file")?;
    context.client.log_in(&unlock, passphrase).cluster().force_new()?;
    context.out.done(&format!(
        "{node} reboots as a cluster of one. Reset the other nodes before they join it, because their data is no longer compatible."
    ))
}
