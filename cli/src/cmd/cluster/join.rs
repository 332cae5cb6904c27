//! `cluster join`, and giving a learner its vote.

use std::path::PathBuf;
use std::time::Duration;

use casemate_api::State;
use casemate_api::body::cluster::{Invitation, Join as Request};
use casemate_client::{Error, Session};
use clap::Args;
use serde_json::json;

use crate::clock;
use crate::cmd::bytes::read;
use crate::exit::Failure;
use crate::profile::Context;
use crate::progress::say;
use crate::prompt;

/// Arguments of `cluster join`.
#[derive(Args)]
pub(crate) struct Join {
    /// The invitation, from `cluster add`; - is standard input
    invitation: PathBuf,
    /// File with the backup passphrase of the cluster
    #[arg(long, value_name = "FILE")]
    backup_passphrase_file: Option<PathBuf>,
    /// Seconds to wait for `cluster promote`, which has to be said at a member meanwhile
    #[arg(long, value_name = "SECONDS", default_value_t = JOIN_S)]
    time_limit: u64,
}

/// Seconds that a join may wait for its promotion, unless said otherwise.
pub(crate) const JOIN_S: u64 = 3_600;

/// Pause between two attempts to promote.
const PAUSE: Duration = Duration::from_secs(1);

impl Join {
    /// Joins.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let node = context.client.nodes().join(", ");
        // Nothing of an invitation may stand in an error: only the place is told.
        let invitation: Invitation = serde_json::from_slice(&read(&self.invitation)?).map_err(|why| {
            let (file, line, column) = (self.invitation.display(), why.line(), why.column());
            Failure::Usage(format!("{file} is no invitation: see line {line} column {column}."))
        })?;
        context.confirm(&format!("Erasing all users and keys of {node} and taking over those of the cluster"))?;
        let session = context.session()?;
        let file = self.backup_passphrase_file.as_deref();
        let backup_passphrase = prompt::current("Backup passphrase of the cluster", file, "--backup-passphrase-file")?;
        let request = Request { members: invitation.members, joiner_kit: invitation.joiner_kit, backup_passphrase };
        say(context, "Joining. At a member: `casemate cluster promote ID`, with the id that `cluster add` told.");
        session.cluster().join(&request, Duration::from_secs(self.time_limit))?;
        joined(context, &context.client.anonymous(), &node, None)
    }
}

/// Says that `node` is a member, and what to do with it.
pub(crate) fn joined(context: &Context, there: &Session, node: &str, id: Option<&str>) -> Result<(), Failure> {
    // It is done: that its state cannot be seen is no failure of it.
    let state = there.health().state().ok();
    let next = match state {
        Some(State::Operational) => "It is Operational.",
        Some(State::Locked) => {
            "It is Locked: `casemate unlock` opens it with the unlock passphrase of the HSM that declared it."
        }
        Some(State::Unprovisioned | State::Failed) | None => "`casemate cluster status` shows how it is.",
    };
    let text = format!("{node} is a member and has the users and keys of the cluster. {next}");
    context.out.line(&json!({ "node": node, "id": id, "state": state }), &text)
}

/// Promotes the learner `id` as soon as it has caught up. `wait` pauses between two attempts, and may give up.
pub(crate) fn promote(
    session: &Session,
    id: &str,
    time_limit_s: u64,
    wait: &mut dyn FnMut(Duration) -> Result<(), Failure>,
) -> Result<(), Failure> {
    // A member that votes already is answered with the same status as one that has not caught up.
    let members = session.cluster().members()?;
    if members.iter().any(|member| member.id == id && !member.learner) {
        return Ok(());
    }
    let (begun, limit) = (clock::now(), Duration::from_secs(time_limit_s));
    loop {
        match session.cluster().promote(id) {
            Ok(()) => return Ok(()),
            Err(Error::Refused { node, status: 412, message }) if begun.elapsed() >= limit => {
                let message = format!("the member {id} did not catch up within {time_limit_s} s: {message}");
                return Err(Error::Refused { node, status: 412, message }.into());
            }
            Err(Error::Refused { status: 412, .. }) => wait(PAUSE)?,
            Err(why) => return Err(why.into()),
        }
    }
}
