//! `cluster add`, and what all declarations of members share: finding the id of the new member, and saving the reply,
//! which cannot be had again except with `--serving`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use casemate_api::body::cluster::{ClusterMember, Invitation};
use casemate_client::Error;
use clap::Args;
use serde_json::json;
use zeroize::Zeroizing;

use super::args::url;
use super::members::{at_member, same_urls};
use crate::exit::{Failure, local};
use crate::output_file::OutputFile;
use crate::profile::Context;
use crate::progress::notice;

/// Arguments of `cluster add`.
#[derive(Args)]
pub(crate) struct Add {
    /// Address at which the members will reach it, such as https://IP:2380; repeatable
    #[arg(required = true, value_name = "URL", value_parser = url)]
    urls: Vec<String>,
    /// File for the invitation, readable for you alone; - is standard output
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// The HSM gets no vote: it shares the etcd of the others, which its settings name (Casemate only)
    #[arg(long)]
    serving: bool,
    /// Overwrite an existing file
    #[arg(long)]
    force: bool,
}

impl Add {
    /// Declares a member and saves its invitation.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = at_member(context)?;
        if !self.serving {
            check_new(&session.cluster().members()?, &self.urls)?;
        }
        let destination = Destination::open(&self.to, self.force)?;
        if self.serving {
            destination.write(&to_json(&session.cluster().add_serving(self.urls)?)?)?;
            if self.to == Path::new("-") {
                return Ok(());
            }
            let file = self.to.display();
            let text = format!("Run `casemate cluster join {file}` for the HSM that joins, then delete {file}.");
            return context.out.line(&json!({ "file": self.to }), &text);
        }
        let invitation = session.cluster().add(self.urls.clone())?;
        let id = new_member_id(context, &invitation, &self.urls);
        // The invitation is saved even if it does not contain the member, as it cannot be had again.
        to_json(&invitation)
            .and_then(|json| destination.write(&json))
            .map_err(|why| not_saved(id.as_deref().ok(), why))?;
        let id = id?;
        if self.to == Path::new("-") {
            notice(context, &format!("The member {id} is declared."));
            return Ok(());
        }
        let file = self.to.display();
        let text = format!(
            "The member {id} is declared. Run `casemate cluster join {file}` for its HSM, and meanwhile `casemate cluster promote {id}` here."
        );
        context.out.line(&json!({ "id": id, "file": self.to }), &text)
    }
}

/// Fails if a member with one of these addresses is declared already.
pub(super) fn check_new(members: &[ClusterMember], urls: &[String]) -> Result<(), Failure> {
    member_at(members, urls).map_or(Ok(()), |member| Err(taken(member)))
}

/// The member with one of these addresses.
pub(super) fn member_at<'a>(members: &'a [ClusterMember], urls: &[String]) -> Option<&'a ClusterMember> {
    members.iter().find(|member| member.urls.iter().any(|url| urls.contains(url)))
}

/// The address of a new member is that of this one.
pub(super) fn taken(ClusterMember { id, name, .. }: &ClusterMember) -> Failure {
    Failure::Conflict(if name.is_empty() {
        format!(
            "The member {id} with this address is declared already: join with its invitation, or if that is lost, \
             `casemate cluster remove {id}` and declare it again."
        )
    } else {
        format!("The member {id} ({name}) has this address already.")
    })
}

fn to_json(invitation: &Invitation) -> Result<Zeroizing<Vec<u8>>, Failure> {
    serde_json::to_vec(invitation).map(Zeroizing::new).map_err(local("The invitation cannot be written as JSON"))
}

/// Where the reply to a declaration is saved. It is opened before the declaration, so that an error is found out in time.
pub(super) struct Destination<'a> {
    to: &'a Path,
    /// `None`: standard output.
    file: Option<OutputFile>,
}

impl<'a> Destination<'a> {
    /// Opens a new file, or standard output.
    pub(super) fn open(to: &'a Path, force: bool) -> Result<Self, Failure> {
        let file = if to == Path::new("-") { None } else { Some(OutputFile::create(to, force.into())?) };
        Ok(Self { to, file })
    }

    /// Writes one line. A closed pipe is an error, because nobody else has the reply.
    pub(super) fn write(self, line: &[u8]) -> Result<(), Failure> {
        let Some(mut file) = self.file else {
            let mut out = io::stdout().lock();
            let written = out.write_all(line).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
            return written.map_err(local("The output cannot be written"));
        };
        let written = file.write_all(line).and_then(|()| file.write_all(b"\n"));
        written.map_err(local(format_args!("{} cannot be written", self.to.display())))?;
        file.finish().map(drop)
    }
}

/// The failure to save the reply to a declaration, with the useless member and how to remove it.
pub(super) fn not_saved(id: Option<&str>, why: Failure) -> Failure {
    why.prefixed(match id {
        Some(id) => format!(
            "The member {id} is declared, but its invitation was not saved; remove it with `casemate cluster remove {id}`"
        ),
        None => "A member is declared, but its invitation was not saved; `casemate cluster status` shows its id, with \
                 which `casemate cluster remove` removes it"
            .into(),
    })
}

/// The id of the member that was declared with `urls`.
pub(super) fn new_member_id(context: &Context, invitation: &Invitation, urls: &[String]) -> Result<String, Failure> {
    find_new_member(&invitation.members, urls).map_err(|why| {
        let node = context.client.nodes().join(", ");
        let why = format!("{why}, although it was declared; `casemate cluster status` shows the members");
        Error::Garbled { node, why }.into()
    })
}

/// Finds the new member by its addresses: it has no name yet, but neither have other members that have not started.
fn find_new_member(members: &[ClusterMember], urls: &[String]) -> Result<String, &'static str> {
    let mut new = members.iter().filter(|one| one.name.is_empty() && same_urls(&one.urls, urls));
    match (new.next(), new.next()) {
        (Some(new), None) if new.id.is_empty() => Err("the new member has no id"),
        (Some(new), None) => Ok(new.id.clone()),
        (None, _) => Err("no new member with these addresses is among the members"),
        (Some(_), Some(_)) => Err("several new members with these addresses are among the members"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(id: &str, name: &str, urls: &[&str]) -> ClusterMember {
        ClusterMember { id: id.into(), name: name.into(), urls: strings(urls), learner: name.is_empty() }
    }

    fn strings(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|url| (*url).to_owned()).collect()
    }

    #[test]
    fn a_new_member_is_known_by_its_addresses() {
        let members = [one("a", "x", &["1"]), one("b", "", &["2"]), one("c", "", &["3", "4"]), one("", "", &["5"])];
        let which = |urls: &[&str]| find_new_member(&members, &strings(urls));
        assert_eq!((which(&["2"]), which(&["4", "3"])), (Ok("b".into()), Ok("c".into())));
        assert!(which(&["3"]).unwrap_err().contains("no new member"));
        // It has a name, so it is not new.
        assert!(which(&["1"]).unwrap_err().contains("no new member"));
        assert!(which(&["5"]).unwrap_err().contains("no id"));
    }

    #[test]
    fn a_member_is_declared_once() {
        let members = [one("a", "x", &["1"]), one("b", "", &["2", "3"])];
        let check = |urls: &[&str]| check_new(&members, &strings(urls)).map_err(|why| (why.code().0, why.to_string()));
        assert_eq!(check(&["4"]), Ok(()));
        assert!(matches!(check(&["4", "3"]), Err((9, why)) if why.contains("`casemate cluster remove b`")));
        assert!(matches!(check(&["1"]), Err((9, why)) if why.contains("a (x) has this address")));
    }

    #[test]
    fn of_two_with_the_same_addresses_none_is_the_new_one() {
        let members = [one("b", "", &["2"]), one("c", "", &["2"])];
        assert!(find_new_member(&members, &strings(&["2"])).unwrap_err().contains("several"));
    }
}
