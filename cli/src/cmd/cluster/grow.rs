//! `cluster grow`: one step instead of `add`, `join` and `promote`. An HSM answers its join only when it was promoted, so
//! the join goes on in a thread of its own meanwhile.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use casemate_api::body::cluster::Join as Request;
use casemate_api::{State, UserId};
use casemate_client::{Cause, Error, Fingerprint, Session};
use clap::Args;

use super::args::url;
use super::declare::newcomer;
use super::join::{JOIN_S, joined, promote};
use crate::exit::Failure;
use crate::profile::Context;
use crate::progress::say;
use crate::prompt;

/// Arguments of `cluster grow`.
#[derive(Args)]
#[command(
    after_help = "Both HSMs have to be Operational, with certificates of one CA (`config tls cert set`, `config tls \
                        cluster-ca set`) and right clocks, and the member needs a backup passphrase. --host, --user and \
                        what they are trusted by are those of the member."
)]
pub(crate) struct Grow {
    /// The HSM that shall join, as HOST or HOST:PORT; its users and keys are erased
    #[arg(long, value_name = "HOST")]
    new: String,
    /// Where the members will reach it; repeatable; without it https://HOST:2380
    #[arg(long, value_parser = url)]
    url: Vec<String>,
    /// Its Administrator
    #[arg(long, value_name = "NAME", default_value = "admin", value_parser = UserId::parse)]
    new_user: UserId,
    /// File with the passphrase of its Administrator
    #[arg(long, value_name = "FILE")]
    new_user_passphrase_file: Option<PathBuf>,
    /// Trust the certificate with this SHA-256 fingerprint there; without it what the member is trusted by counts
    #[arg(long, value_name = "SHA256")]
    new_pin: Vec<Fingerprint>,
    /// File with the backup passphrase of the cluster
    #[arg(long, value_name = "FILE")]
    backup_passphrase_file: Option<PathBuf>,
    /// Seconds that joining may take
    #[arg(long, value_name = "SECONDS", default_value_t = JOIN_S)]
    time_limit: u64,
}

impl Grow {
    /// Adds a member.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let there = context.another(&self.new, self.new_pin)?;
        let node = there.nodes().join(", ");
        if there.nodes().iter().any(|node| context.client.nodes().contains(node)) {
            return Err(Failure::Usage(format!(
                "{node} is the member that --host names: --new is the HSM that shall join."
            )));
        }
        let urls = if self.url.is_empty() { vec![usual_url(&node)] } else { self.url };
        if there.anonymous().health().state()? != State::Operational {
            return Err(Error::WrongState { node }.into());
        }
        context.confirm(&format!("Erasing all users and keys of {node} and taking over those of the cluster"))?;
        let member = context.session()?;
        let label = format!("Passphrase of {} at {node}", self.new_user);
        let file = self.new_user_passphrase_file.as_deref();
        let new = there.log_in(&self.new_user, prompt::current(&label, file, "--new-user-passphrase-file")?);
        let file = self.backup_passphrase_file.as_deref();
        let backup_passphrase = prompt::current("Backup passphrase of the cluster", file, "--backup-passphrase-file")?;
        // A wrong passphrase there shows before anything is done here.
        new.system().info()?;

        let invitation = member.cluster().add(urls.clone())?;
        let id = newcomer(context, &invitation, &urls)?;
        say(context, &format!("1 of 3: the member {id} is declared."));
        let request = Request { members: invitation.members, joiner_kit: invitation.joiner_kit, backup_passphrase };
        let patience = Duration::from_secs(self.time_limit);
        let (tell, told) = channel();
        thread::spawn(move || {
            // Who no longer listens has failed already.
            let _ = tell.send(new.cluster().join(&request, patience));
        });
        say(context, &format!("2 of 3: {node} joins."));
        let mut join = Joining { told, ended: false };
        let done = promote(&member, &id, self.time_limit, &mut |pause| join.wait(pause)).and_then(|()| {
            say(context, &format!("3 of 3: the member {id} votes; {node} takes over users and keys."));
            join.end(patience, &node)
        });
        if let Err(why) = done {
            return Err(give_up(context, &member, &id, why));
        }
        joined(context, &there.anonymous(), &node, Some(&id))
    }
}

/// The join in its thread.
struct Joining {
    told: Receiver<Result<(), Error>>,
    ended: bool,
}

impl Joining {
    /// Waits so long; a join that fails meanwhile ends everything.
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
            Err(RecvTimeoutError::Disconnected) => Err(Failure::Local("The join ended without an answer.".into())),
        }
    }

    /// Waits for its end: it is promoted, and only its answer is missing.
    fn end(&mut self, patience: Duration, node: &str) -> Result<(), Failure> {
        self.wait(if self.ended { Duration::ZERO } else { patience })?;
        if self.ended {
            return Ok(());
        }
        Err(Error::Unknown { node: node.into(), cause: Cause::TimedOut }.into())
    }
}

/// Takes a learner back that came to nothing, so that the next one finds its place free. Who votes stays. What is left is told
/// with the failure.
fn give_up(context: &Context, member: &Session, id: &str, why: Failure) -> Failure {
    let removed = match member.cluster().members() {
        Ok(members) => match members.iter().find(|member| member.id == id) {
            Some(member) if !member.learner => {
                return why.at(format!("The member {id} votes and stays; `casemate cluster status` shows how it is"));
            }
            Some(_) => member.cluster().remove(id),
            None => Ok(()),
        },
        Err(why) => Err(why),
    };
    match removed {
        Ok(()) => {
            say(context, &format!("The member {id} was taken back."));
            why
        }
        Err(_) => {
            why.at(format!("The member {id} may still be declared; `casemate cluster remove {id}` takes it back"))
        }
    }
}

/// Where other members reach `node`, given as `host:port`.
fn usual_url(node: &str) -> String {
    let host = node.rsplit_once(':').map_or(node, |(host, _)| host);
    format!("https://{host}:2380")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_reached_at_the_port_of_their_own() {
        assert_eq!(usual_url("192.0.2.7:443"), "https://192.0.2.7:2380");
        assert_eq!(usual_url("[2001:db8::7]:8443"), "https://[2001:db8::7]:2380");
    }
}
