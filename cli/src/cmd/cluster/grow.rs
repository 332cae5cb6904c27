//! `cluster grow`: `add`, `join` and `promote` in one step. An HSM answers the join only after it was promoted, so the
//! join runs in a thread of its own.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use casemate_api::body::cluster::{Invitation, Join as Request};
use casemate_api::{State, UserId};
use casemate_client::{Cause, Error, Fingerprint, Session};
use clap::Args;

use super::args::url;
use super::declare::{check_new, new_member_id};
use super::join::{JOIN_S, promote, report_joined};
use crate::exit::Failure;
use crate::profile::Context;
use crate::progress::notice;
use crate::prompt;

/// Arguments of `cluster grow`.
#[derive(Args)]
#[command(
    after_help = "Both HSMs must be Operational, with certificates issued by one CA (`config tls cert set`, `config tls \
                        cluster-ca set`) and correct clocks, and the member needs a backup passphrase. --host, --user, \
                        --pin and --ca-file are for the member."
)]
pub(crate) struct Grow {
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

impl Grow {
    /// Adds a member.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let there = context.client_for(&self.new, self.new_pin)?;
        let node = there.nodes().join(", ");
        if there.nodes().iter().any(|node| context.client.nodes().contains(node)) {
            return Err(Failure::Usage(format!("{node} is the member given with --host: --new is the HSM to add.")));
        }
        let urls = if self.url.is_empty() { vec![usual_url(&node)] } else { self.url };
        if there.anonymous().health().state()? != State::Operational {
            return Err(Error::WrongState { node }.into());
        }
        context.confirm(&format!("Erasing all users and keys of {node} and taking over those of the cluster"))?;
        let member = context.session()?;
        check_new(&member.cluster().members()?, &urls)?;
        let label = format!("Passphrase of {} at {node}", self.new_user);
        let file = self.new_user_passphrase_file.as_deref();
        let new = there.log_in(&self.new_user, prompt::current(&label, file, "--new-user-passphrase-file")?);
        let file = self.backup_passphrase_file.as_deref();
        let backup_passphrase = prompt::current("Backup passphrase of the cluster", file, "--backup-passphrase-file")?;
        // So that a wrong passphrase for the new HSM is found out before the member is declared.
        new.system().info()?;

        let invitation = member.cluster().add(urls.clone())?;
        let id = new_member_id(context, &invitation, &urls)?;
        notice(context, &format!("1 of 3: the member {id} is declared."));
        let Invitation { members, joiner_kit } = invitation;
        let request = Request { members, joiner_kit, backup_passphrase, system_time: None };
        let patience = Duration::from_secs(self.time_limit);
        let (tell, told) = channel();
        thread::spawn(move || {
            // If nobody receives it, the command has failed already.
            let _ = tell.send(new.cluster().join(&request, patience));
        });
        notice(context, &format!("2 of 3: {node} joins."));
        let mut join = Joining { told, ended: false };
        let done = promote(&member, &id, self.time_limit, &mut |pause| join.wait(pause)).and_then(|()| {
            notice(context, &format!("3 of 3: the member {id} has a vote; {node} receives users and keys."));
            join.end(patience, &node)
        });
        if let Err(why) = done {
            return Err(undo(context, &member, &id, why));
        }
        report_joined(context, &there.anonymous(), &node, Some(&id))
    }
}

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
