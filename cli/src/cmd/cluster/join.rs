//! `cluster join` and `cluster promote`.

use std::path::PathBuf;
use std::time::Duration;

use casemate_api::State;
use casemate_api::body::cluster::{ClusterMember, Invitation, Join as Request};
use casemate_client::{Error, Session};
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::members::{at_member, find};
use crate::clock::{self, rfc3339};
use crate::cmd::bytes::read;
use crate::exit::Failure;
use crate::profile::Context;
use crate::progress::notice;
use crate::prompt;

/// Arguments of `cluster join`.
#[derive(Args)]
pub(crate) struct Join {
    /// The invitation, from `cluster add`; - is standard input
    invitation: PathBuf,
    /// File with the backup passphrase of the cluster
    #[arg(long, value_name = "FILE")]
    backup_passphrase_file: Option<PathBuf>,
    /// Time to set in an Unprovisioned HSM, such as 2026-01-31T12:00:00Z; by default that of this machine
    #[arg(long, value_name = "TIME")]
    system_time: Option<Timestamp>,
    /// Seconds to wait for `cluster promote`, which must be run for a member meanwhile
    #[arg(long, value_name = "SECONDS", default_value_t = JOIN_S)]
    time_limit: u64,
}

/// Default time in seconds that a join waits for the promotion.
pub(crate) const JOIN_S: u64 = 3_600;

/// Pause between two attempts to promote.
const PAUSE: Duration = Duration::from_secs(1);

impl Join {
    /// Makes the HSM join.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let node = context.client.nodes().join(", ");
        // The error of serde_json may quote the invitation, which is secret: only the position is shown.
        let invitation: Invitation = serde_json::from_slice(&read(&self.invitation)?).map_err(|why| {
            let (file, line, column) = (self.invitation.display(), why.line(), why.column());
            Failure::Usage(format!("{file} is not an invitation: see line {line} column {column}."))
        })?;
        let anonymous = context.client.anonymous();
        // A Casemate that is to share a store joins before it has users; a member joins while Operational.
        let state = anonymous.health().state()?;
        let empty = state == State::Unprovisioned;
        if state == State::Locked {
            return Err(Failure::WrongState(format!(
                "{node} is Locked. If it has joined already, unlock it with `casemate unlock` and the unlock passphrase of \
                 the HSM that declared it; otherwise with its own, and join then."
            )));
        }
        if !empty && self.system_time.is_some() {
            return Err(Failure::Usage("--system-time is for an HSM that is Unprovisioned.".into()));
        }
        let session = if empty {
            anonymous.clone()
        } else {
            let erasing = format!("Erasing all users and keys of {node} and taking over those of the cluster");
            context.can_confirm(&erasing)?;
            let session = context.session()?;
            if knows_one_of(&session.cluster().members()?, &invitation.members) {
                let text = format!("{node} is in this cluster already; nothing was done.");
                return context.out.line(&json!({ "node": node, "id": null, "state": state }), &text);
            }
            context.confirm(&erasing)?;
            session
        };
        let file = self.backup_passphrase_file.as_deref();
        let backup_passphrase = prompt::current("Backup passphrase of the cluster", file, "--backup-passphrase-file")?;
        let time = self.system_time.or(empty.then(Timestamp::now));
        let system_time = time.map(rfc3339);
        let Invitation { members, joiner_kit } = invitation;
        let request = Request { members, joiner_kit, backup_passphrase, system_time };
        if !empty {
            notice(
                context,
                "Joining. Run `casemate cluster promote ID` for a member, with the id that `cluster add` printed.",
            );
        }
        session.cluster().join(&request, Duration::from_secs(self.time_limit))?;
        report_joined(context, &anonymous, &node, None)
    }
}

/// Whether a new member of the invitation is among `members`. Its id is its own, while those of HSMs that were alone may be the same.
fn knows_one_of(members: &[ClusterMember], invited: &[ClusterMember]) -> bool {
    let new = || invited.iter().filter(|member| member.name.is_empty() && !member.id.is_empty());
    members.iter().any(|member| new().any(|new| new.id == member.id))
}

/// Reports that `node` has joined, and what to do next.
pub(crate) fn report_joined(context: &Context, there: &Session, node: &str, id: Option<&str>) -> Result<(), Failure> {
    let (state, text) = joined(there, node);
    context.out.line(&json!({ "node": node, "id": id, "state": state }), &text)
}

/// The state of `node`, which has joined, and what to do next.
pub(super) fn joined(there: &Session, node: &str) -> (Option<State>, String) {
    // The join succeeded, so it does not matter if the state cannot be read.
    let state = there.health().state().ok();
    let next = match state {
        Some(State::Operational) => "It is Operational.",
        Some(State::Locked) => {
            "It is Locked: unlock it with `casemate unlock` and the unlock passphrase of the HSM that declared it."
        }
        Some(State::Unprovisioned | State::Failed) | None => "`casemate cluster status` shows its state.",
    };
    (state, format!("{node} has joined, and has the users and keys of the cluster. {next}"))
}

/// Promotes the learner `id` once it has caught up, within `time_limit_s`. `wait` pauses between two attempts; if it
/// fails, so does the promotion.
pub(crate) fn promote(
    session: &Session,
    id: &str,
    time_limit_s: u64,
    wait: &mut dyn FnMut(Duration) -> Result<(), Failure>,
) -> Result<(), Failure> {
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

/// Arguments of `cluster promote`.
#[derive(Args)]
pub(crate) struct Promote {
    /// The member, by its id or its name
    member: String,
    /// Seconds to wait until it has caught up
    #[arg(long, value_name = "SECONDS", default_value_t = PROMOTE_S)]
    time_limit: u64,
}

/// Default time in seconds in which a learner has to catch up.
const PROMOTE_S: u64 = 300;

impl Promote {
    /// Gives a learner its vote.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = at_member(context)?;
        let members = session.cluster().members()?;
        let ClusterMember { id, learner, .. } = find(&members, &self.member)?;
        // The refusal of a member that has a vote is the same as of one that has not caught up.
        if !learner {
            return context.out.done(&format!("The member {id} has a vote already."));
        }
        promote(&session, id, self.time_limit, &mut |pause| {
            clock::sleep(pause);
            Ok(())
        })?;
        context.out.done(&format!("The member {id} has a vote now."))
    }
}
