//! `cluster …`: nodes that share users and keys (NetHSM 4.0 and later).

mod args;
mod declare;
mod grow;
mod join;
mod status;
mod witness;

use std::path::PathBuf;

use casemate_api::UserId;
use clap::Subcommand;

use args::{member, url};

use crate::clock;
use crate::exit::Failure;
use crate::profile::Context;
use crate::prompt;

/// Manage a cluster.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show members, quorum and the state of each node
    Status,
    /// Declare a new member and save its invitation
    Add(declare::Add),
    /// Make an HSM join with an invitation: its users and keys are erased
    Join(join::Join),
    /// Give a new member its vote once it has caught up
    Promote {
        /// The member, as `cluster status` shows it
        #[arg(value_parser = member)]
        id: String,
        /// Seconds to wait until it has caught up
        #[arg(long, value_name = "SECONDS", default_value_t = PROMOTE_S)]
        time_limit: u64,
    },
    /// Add an HSM in one step: declare it, make it join, give it its vote
    Grow(grow::Grow),
    /// Declare a voting member without an HSM, and save the configuration of its etcd
    Witness(witness::Witness),
    /// Remove a member
    Remove {
        /// The member, as `cluster status` shows it
        #[arg(value_parser = member)]
        id: String,
    },
    /// Change the addresses at which the members reach one of them
    SetUrls {
        /// The member, as `cluster status` shows it
        #[arg(value_parser = member)]
        id: String,
        /// Such as https://IP:2380; repeatable
        #[arg(required = true, value_name = "URL", value_parser = url)]
        urls: Vec<String>,
    },
    /// Make a Failed node a cluster of its own, when the others are lost for good
    ForceNew {
        /// File with the last unlock passphrase of the node
        #[arg(long, value_name = "FILE")]
        unlock_passphrase_file: Option<PathBuf>,
    },
}

/// Default time in seconds in which a learner has to catch up.
const PROMOTE_S: u64 = 300;

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::Status => status::run(context),
            Command::Add(arguments) => arguments.run(context),
            Command::Join(arguments) => arguments.run(context),
            Command::Promote { id, time_limit } => {
                let session = context.session()?;
                join::promote(&session, &id, time_limit, &mut |pause| {
                    clock::sleep(pause);
                    Ok(())
                })?;
                context.out.done(&format!("The member {id} has a vote now."))
            }
            Command::Grow(arguments) => arguments.run(context),
            Command::Witness(arguments) => arguments.run(context),
            Command::Remove { id } => {
                context.confirm(&format!("Removing the member {id}, which then offers no service,"))?;
                context.session()?.cluster().remove(&id)?;
                context.out.done(&format!(
                    "The member {id} was removed. Its HSM is Failed until it is reset or becomes a cluster of its own."
                ))
            }
            Command::SetUrls { id, urls } => {
                context.session()?.cluster().set_urls(&id, urls)?;
                context.out.done(&format!("The addresses of the member {id} were changed."))
            }
            Command::ForceNew { unlock_passphrase_file } => force_new(context, unlock_passphrase_file),
        }
    }
}

fn force_new(context: &Context, file: Option<PathBuf>) -> Result<(), Failure> {
    let node = context.client.nodes().join(", ");
    context.confirm(&format!(
        "Making {node} a cluster of its own, which loses what it has not received and must never be connected to the others again,"
    ))?;
    let unlock = UserId::parse("unlock").map_err(|why| Failure::Usage(why.to_string()))?;
    let passphrase =
        prompt::current("Last unlock passphrase of the node", file.as_deref(), "--unlock-passphrase-file")?;
    context.client.log_in(&unlock, passphrase).cluster().force_new()?;
    context.out.done(&format!(
        "{node} reboots as a cluster of one. Reset the other nodes before they join it, because their data is no longer compatible."
    ))
}
