//! `cluster grow`: `add`, `join` and `promote` in one step. An HSM answers the join only after it was promoted, so the
//! join runs in a thread of its own.
//!
//! It can be run again at any point: what is found tells which steps are done. A declaration whose invitation is lost is taken back.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use casemate_api::body::cluster::{ClusterMember, Invitation, Join as Request};
use casemate_api::body::system::StoreKind;
use casemate_api::{Passphrase, State, UserId};
use casemate_client::{Cause, Client, Error, Fingerprint, Session};
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::args::url;
use super::declare::{member_at, new_member_id, taken};
use super::join::{JOIN_S, promote, report_joined};
use super::members::at_member;
use crate::clock::{self, rfc3339};
use crate::exit::Failure;
use crate::profile::Context;
use crate::progress::notice;
use crate::prompt;

/// An HSM that is to become a member.
#[derive(Args)]
pub(crate) struct NewHsm {
    /// The HSM to add, as HOST or HOST:PORT; its users and keys are erased
    #[arg(long, value_name = "HOST")]
    new: String,
    /// Address at which the members will reach it; repeatable; by default https://HOST:2380
    #[arg(long, value_parser = url)]
    url: Vec<String>,
    /// Its Administrator
    #[arg(long, value_name = "NAME", default_value = "admin", value_parser = UserId::parse)]
    new_user: UserId,
    /// File with the passphrase of its Administrator
    #[arg(long, value_name = "FILE")]
    new_user_passphrase_file: Option<PathBuf>,
    /// Trust its certificate with this SHA-256 fingerprint; by default it is trusted as the member is
    #[arg(long, value_name = "SHA256")]
    new_pin: Vec<Fingerprint>,
    /// File with the backup passphrase of the cluster
    #[arg(long, value_name = "FILE")]
    backup_passphrase_file: Option<PathBuf>,
    /// Time limit of the join in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = JOIN_S)]
    time_limit: u64,
}

/// What [`Grow`] and `cluster replace` say about their arguments.
pub(super) const AFTER_HELP: &str = "Both HSMs must be Operational, with certificates issued by one CA (`config tls cert set`, `config tls \
                        cluster-ca set`) and correct clocks, and the member needs a backup passphrase. --host, --user, \
                        --pin and --ca-file are for the member. If the command was interrupted, run it again.";

/// Arguments of `cluster grow`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Grow {
    #[command(flatten)]
    new: NewHsm,
    /// It gets no vote: it is Unprovisioned, and its settings name the etcds of the members (Casemate only)
    #[arg(long, conflicts_with_all = ["url", "new_user_passphrase_file"])]
    serving: bool,
}

impl Grow {
    /// Adds a member, or a node without a vote.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let joiner = Joiner::new(self.new, context)?;
        if self.serving {
            return joiner.serve(context);
        }
        // Before a passphrase is asked for.
        context.can_confirm(&joiner.erasing())?;
        let member = at_member(context)?;
        let members = member.cluster().members()?;
        let found = joiner.found(&members)?;
        joiner.check_room(&found, VOTERS_MAX)?;
        if found.erases() {
            context.confirm(&joiner.erasing())?;
        }
        let step = joiner.prepare(&members, found)?;
        let id = joiner.join(context, &member, step)?;
        report_joined(context, &joiner.there.anonymous(), &joiner.node, Some(&id))
    }
}

/// More members with a vote make a cluster slower and hardly safer.
pub(super) const VOTERS_MAX: usize = 5;

/// How far an HSM is on its way into a cluster.
pub(super) enum Found {
    /// It is not declared. There are so many members with a vote.
    Nothing { voters: usize },
    /// It is declared by this id, and has not started to join: the invitation is lost.
    Declared { id: String },
    /// It has started to join, and needs its vote.
    Joins { id: String },
    /// It has its vote.
    Joined { id: String },
}

impl Found {
    /// Whether users and keys of the HSM are still to be given up.
    pub(super) fn erases(&self) -> bool {
        matches!(self, Found::Nothing { .. } | Found::Declared { .. })
    }
}

/// What is left to do, with what it takes.
pub(super) enum Step {
    /// To declare it, after the declaration by this id was taken back.
    Declare { stale: Option<String>, access: Access },
    /// To give this member its vote.
    Promote { id: String },
    /// Nothing.
    Done { id: String },
}

/// What a join takes.
pub(super) struct Access {
    /// The Administrator of the HSM that joins.
    new: Session,
    backup_passphrase: Passphrase,
}

/// The HSM that is to become a member.
pub(super) struct Joiner {
    arguments: NewHsm,
    pub(super) there: Client,
    pub(super) node: String,
    /// Where members will reach it.
    pub(super) urls: Vec<String>,
}

impl Joiner {
    pub(super) fn new(arguments: NewHsm, context: &Context) -> Result<Self, Failure> {
        let there = context.client_for(&arguments.new, arguments.new_pin.clone())?;
        let node = there.nodes().join(", ");
        if there.nodes().iter().any(|node| context.client.nodes().contains(node)) {
            return Err(Failure::Usage(format!("{node} is the member given with --host: --new is the HSM to add.")));
        }
        let urls = if arguments.url.is_empty() { vec![usual_url(&node)] } else { arguments.url.clone() };
        Ok(Self { arguments, there, node, urls })
    }

    /// What is to be confirmed.
    pub(super) fn erasing(&self) -> String {
        format!("Erasing all users and keys of {} and taking over those of the cluster", self.node)
    }

    /// Finds out how far it is.
    pub(super) fn found(&self, members: &[ClusterMember]) -> Result<Found, Failure> {
        let state = self.there.anonymous().health().state()?;
        let wrong_state = || Failure::from(Error::WrongState { node: self.node.clone() });
        let Some(member) = member_at(members, &self.urls) else {
            let voters = members.iter().filter(|member| !member.learner).count();
            return if state == State::Operational { Ok(Found::Nothing { voters }) } else { Err(wrong_state()) };
        };
        let id = member.id.clone();
        match (member.learner, member.name.is_empty(), state) {
            (_, _, State::Unprovisioned) | (true, true, State::Locked) => Err(wrong_state()),
            (true, true, State::Operational | State::Failed) => Ok(Found::Declared { id }),
            (true, false, _) => Ok(Found::Joins { id }),
            // It may have its vote and not know it yet. Another HSM stays Operational.
            (false, false, State::Operational) if self.leaves(State::Operational, SETTLE) => Ok(Found::Joined { id }),
            // One whose store is a file is none of the members.
            (false, false, State::Locked | State::Failed) if !self.store_is(StoreKind::Embedded) => {
                Ok(Found::Joined { id })
            }
            (false, ..) => Err(taken(member)),
        }
    }

    /// Fails if one more would be more than `most` members with a vote.
    pub(super) fn check_room(&self, found: &Found, most: usize) -> Result<(), Failure> {
        match found {
            Found::Nothing { voters } if *voters >= most => Err(Failure::Usage(format!(
                "The cluster has {voters} members with a vote, and more make it slower and hardly safer. Add {} as a node without a vote: \
                 reset it, let its settings name the etcds of the members (store, etcd-endpoints), and add --serving to this command.",
                self.node
            ))),
            Found::Nothing { .. } | Found::Declared { .. } | Found::Joins { .. } | Found::Joined { .. } => Ok(()),
        }
    }

    /// Whether its store is of this kind. A NetHSM does not tell.
    fn store_is(&self, kind: StoreKind) -> bool {
        let told = self.there.anonymous().health().diagnose();
        told.is_ok_and(|told| told.store.is_some_and(|store| store.kind == kind))
    }

    /// Whether it leaves `state` within `limit`.
    fn leaves(&self, state: State, limit: Duration) -> bool {
        let begun = clock::now();
        loop {
            if self.there.anonymous().health().state().is_ok_and(|now| now != state) {
                return true;
            }
            if begun.elapsed() >= limit {
                return false;
            }
            clock::sleep(PAUSE);
        }
    }

    /// Asks for passphrases, and finds out whether they are right before anything is changed.
    pub(super) fn prepare(&self, members: &[ClusterMember], found: Found) -> Result<Step, Failure> {
        let stale = match found {
            Found::Joins { id } => return Ok(Step::Promote { id }),
            Found::Joined { id } => return Ok(Step::Done { id }),
            Found::Nothing { .. } => None,
            Found::Declared { id } => Some(id),
        };
        let (node, NewHsm { new_user, .. }) = (&self.node, &self.arguments);
        let label = format!("Passphrase of {new_user} at {node}");
        let file = self.arguments.new_user_passphrase_file.as_deref();
        let new = self.there.log_in(new_user, prompt::current(&label, file, "--new-user-passphrase-file")?);
        let backup_passphrase = self.backup_passphrase()?;
        // One that joins may know no users now.
        if self.there.anonymous().health().state()? == State::Operational {
            let name = new.system().info()?.device_id;
            if let Some(member) = members.iter().find(|member| member.name == name) {
                return Err(Failure::Usage(format!("{node} is the member {} already.", member.id)));
            }
        }
        Ok(Step::Declare { stale, access: Access { new, backup_passphrase } })
    }

    /// Takes the steps that are left, and returns the id of the member.
    pub(super) fn join(&self, context: &Context, member: &Session, step: Step) -> Result<String, Failure> {
        match step {
            Step::Declare { stale, access } => {
                if let Some(id) = stale {
                    self.withdraw(context, member, &id)?;
                }
                self.join_anew(context, member, access)
            }
            Step::Promote { id } => {
                notice(context, &format!("{} joins as the member {id}.", self.node));
                let pause = &mut |pause| {
                    clock::sleep(pause);
                    Ok(())
                };
                promote(member, &id, self.arguments.time_limit, pause)
                    .map_err(|why| undo(context, member, &id, why))?;
                self.leaves(State::Operational, SETTLE);
                Ok(id)
            }
            Step::Done { id } => Ok(id),
        }
    }

    fn join_anew(&self, context: &Context, member: &Session, access: Access) -> Result<String, Failure> {
        let (node, time_limit) = (&self.node, self.arguments.time_limit);
        let Access { new, backup_passphrase } = access;
        let add = || member.cluster().add(self.urls.clone());
        let invitation = match add() {
            // A call of a command that was interrupted goes on at the HSM, and may just have declared it.
            Err(why) => match self.declared(&member.cluster().members()?) {
                Some(id) => self.withdraw(context, member, &id).and_then(|()| Ok(add()?)),
                None => Err(why.into()),
            },
            Ok(invitation) => Ok(invitation),
        }?;
        let id = new_member_id(context, &invitation, &self.urls)?;
        notice(context, &format!("1 of 3: the member {id} is declared."));
        let Invitation { members, joiner_kit } = invitation;
        let request = Request { members, joiner_kit, backup_passphrase, system_time: None };
        let patience = Duration::from_secs(time_limit);
        let (tell, told) = channel();
        thread::spawn(move || {
            // If nobody receives it, the command has failed already.
            let _ = tell.send(join_when_free(&new, &request, patience));
        });
        notice(context, &format!("2 of 3: {node} joins."));
        let mut join = Joining { told, ended: false };
        let unless_it_joins = |why| if self.joins_by_another_call(member, &id, &why) { Ok(()) } else { Err(why) };
        let wait = &mut |pause| join.wait(pause).or_else(unless_it_joins);
        let done = promote(member, &id, time_limit, wait).and_then(|()| {
            notice(context, &format!("3 of 3: the member {id} has a vote; {node} receives users and keys."));
            join.end(patience, node).or_else(unless_it_joins)
        });
        match done {
            Ok(()) => Ok(id),
            Err(why) => Err(undo(context, member, &id, why)),
        }
    }

    /// The id under which it is declared and has not begun to join.
    fn declared(&self, members: &[ClusterMember]) -> Option<String> {
        let member = member_at(members, &self.urls).filter(|member| member.learner && member.name.is_empty())?;
        Some(member.id.clone())
    }

    /// Removes the member `id`, as which it was declared before.
    fn withdraw(&self, context: &Context, member: &Session, id: &str) -> Result<(), Failure> {
        // If it has just begun to join, it goes back to its own users and keys.
        member.cluster().remove(id)?;
        let text = format!("The member {id} was declared before, and its invitation is not at hand: it was removed.");
        notice(context, &text);
        if self.there.anonymous().health().state()? == State::Failed {
            self.leaves(State::Failed, BACK);
        }
        Ok(())
    }

    /// Whether it joins as the member `id`, although this call has failed: a call of a command that was interrupted goes on at the HSM, and
    /// its etcd takes the place that was declared anew for the same address.
    fn joins_by_another_call(&self, member: &Session, id: &str, why: &Failure) -> bool {
        use Error::{Refused, Unknown, WrongState};
        let is_busy = matches!(why, Failure::Call(WrongState { .. } | Unknown { .. } | Refused { status: 412, .. }));
        let members = || member.cluster().members().unwrap_or_default();
        is_busy && members().iter().any(|member| member.id == id && !member.name.is_empty())
    }

    fn backup_passphrase(&self) -> Result<Passphrase, Failure> {
        let file = self.arguments.backup_passphrase_file.as_deref();
        prompt::current("Backup passphrase of the cluster", file, "--backup-passphrase-file")
    }

    /// Makes it a node without a vote.
    fn serve(&self, context: &Context) -> Result<(), Failure> {
        let (node, there) = (&self.node, self.there.anonymous());
        let state = there.health().state()?;
        if state != State::Unprovisioned {
            // Only an Administrator could tell whether it is of this cluster.
            if state == State::Locked && self.store_is(StoreKind::Etcd) {
                let text = format!(
                    "{node} shares an etcd already and is Locked; nothing was done. Unlock it with `casemate unlock` and the unlock \
                     passphrase of the HSM that invited it."
                );
                return context.out.line(&json!({ "node": node, "id": null, "state": state }), &text);
            }
            return Err(Failure::WrongState(format!(
                "{node} is {state:?}. A node without a vote is added while it is Unprovisioned, and its settings name the etcds of the members."
            )));
        }
        let backup_passphrase = self.backup_passphrase()?;
        let Invitation { members, joiner_kit } =
            at_member(context)?.cluster().add_serving(vec![format!("https://{node}")])?;
        let system_time = Some(rfc3339(Timestamp::now()));
        let request = Request { members, joiner_kit, backup_passphrase, system_time };
        there.cluster().join(&request, Duration::from_secs(self.arguments.time_limit))?;
        report_joined(context, &there, node, None)
    }
}

/// Joins. If the HSM is still busy with a join that was given up, this waits for it.
fn join_when_free(new: &Session, request: &Request, patience: Duration) -> Result<(), Error> {
    let begun = clock::now();
    loop {
        match new.cluster().join(request, patience) {
            Err(Error::Unknown { cause: Cause::Failed { status: 503, .. }, .. }) if begun.elapsed() < BACK => {
                clock::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

/// Time in which an HSM knows what the cluster has told it.
const SETTLE: Duration = Duration::from_secs(15);

/// Time in which an HSM is back to its own users and keys.
const BACK: Duration = Duration::from_secs(120);

const PAUSE: Duration = Duration::from_secs(1);

/// The join in its thread.
struct Joining {
    told: Receiver<Result<(), Error>>,
    ended: bool,
}

impl Joining {
    /// Waits for `time`, or until the join has ended; fails if it has failed.
    fn wait(&mut self, time: Duration) -> Result<(), Failure> {
        if self.ended {
            crate::clock::sleep(time);
            return Ok(());
        }
        match self.told.recv_timeout(time) {
            Ok(result) => {
                self.ended = true;
                Ok(result?)
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Failure::Local("The join ended without a result.".into())),
        }
    }

    /// Waits until the join has ended, after the promotion.
    fn end(&mut self, patience: Duration, node: &str) -> Result<(), Failure> {
        self.wait(if self.ended { Duration::ZERO } else { patience })?;
        if self.ended {
            return Ok(());
        }
        Err(Error::Unknown { node: node.into(), cause: Cause::TimedOut }.into())
    }
}

/// Removes the member after a failure, unless it has a vote, so that it does not block the next one. If it cannot be
/// removed, the failure tells how.
fn undo(context: &Context, member: &Session, id: &str, why: Failure) -> Failure {
    let removed = match member.cluster().members() {
        Ok(members) => match members.iter().find(|member| member.id == id) {
            Some(member) if !member.learner => {
                return why.prefixed(format!(
                    "The member {id} has a vote and stays; `casemate cluster status` shows its state"
                ));
            }
            Some(_) => member.cluster().remove(id),
            None => Ok(()),
        },
        Err(why) => Err(why),
    };
    match removed {
        Ok(()) => {
            notice(context, &format!("The member {id} was removed again."));
            why
        }
        Err(_) => why
            .prefixed(format!("The member {id} may still be declared; remove it with `casemate cluster remove {id}`")),
    }
}

/// The usual address for other members of `node`, given as `host:port`.
fn usual_url(node: &str) -> String {
    let host = node.rsplit_once(':').map_or(node, |(host, _)| host);
    format!("https://{host}:2380")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_reached_at_port_2380() {
        assert_eq!(usual_url("192.0.2.7:443"), "https://192.0.2.7:2380");
        assert_eq!(usual_url("[2001:db8::7]:8443"), "https://[2001:db8::7]:2380");
    }
}
