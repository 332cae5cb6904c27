//! `cluster add`, and what every declaration of a member has in common: which member it made, and that what only the reply
//! tells is kept or the member is named.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use casemate_api::body::cluster::{ClusterMember, Invitation};
use casemate_client::Error;
use clap::Args;
use serde_json::json;
use zeroize::Zeroizing;

use super::args::{member, url};
use crate::exit::{Failure, local};
use crate::output_file::NewFile;
use crate::profile::Context;
use crate::progress::say;

/// Arguments of `cluster add`.
#[derive(Args)]
pub(crate) struct Add {
    /// Where the members will reach it, as https://IP:2380; repeatable
    #[arg(required = true, value_name = "URL", value_parser = url)]
    urls: Vec<String>,
    /// File for the invitation, which only you can read; - is standard output
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
}

impl Add {
    /// Declares a member and keeps its invitation.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = context.session()?;
        let place = Place::open(&self.to, self.force)?;
        let invitation = session.cluster().add(self.urls.clone())?;
        let id = newcomer(context, &invitation, &self.urls);
        let json = serde_json::to_vec(&invitation).map(Zeroizing::new).map_err(local("It is no JSON"));
        // An invitation that names no such member is kept as well: there is no second one.
        json.and_then(|json| place.write(&json)).map_err(|why| lost(id.as_deref().ok(), why))?;
        let id = id?;
        if self.to == Path::new("-") {
            say(context, &format!("The member {id} is declared."));
            return Ok(());
        }
        let file = self.to.display();
        let text = format!(
            "The member {id} is declared. At its HSM: casemate cluster join {file}. Then here: casemate cluster promote {id}."
        );
        context.out.line(&json!({ "id": id, "file": self.to }), &text)
    }
}

/// Where the reply of a declaration is kept. It is opened before: what cannot be kept is lost.
pub(super) struct Place<'a> {
    to: &'a Path,
    /// None: standard output.
    file: Option<NewFile>,
}

impl<'a> Place<'a> {
    /// A new file, or standard output.
    pub(super) fn open(to: &'a Path, force: bool) -> Result<Self, Failure> {
        let file = if to == Path::new("-") { None } else { Some(NewFile::create(to, force.into())?) };
        Ok(Self { to, file })
    }

    /// Writes one line. A reader that has gone is an error here: nobody else has what is written.
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

/// The failure to keep the reply of a declaration: who is declared without use, and how to take that back.
pub(super) fn lost(id: Option<&str>, why: Failure) -> Failure {
    why.at(match id {
        Some(id) => format!(
            "The member {id} is declared, but nothing is kept of it; `casemate cluster remove {id}` takes it back"
        ),
        None => "A member is declared, but nothing is kept of it; `casemate cluster status` shows its id, and \
                 `casemate cluster remove` takes it back"
            .into(),
    })
}

/// The id of the member that was declared with `urls`.
pub(super) fn newcomer(context: &Context, invitation: &Invitation, urls: &[String]) -> Result<String, Failure> {
    which(&invitation.members, urls).map_err(|why| {
        let node = context.client.nodes().join(", ");
        let why = format!("{why}, yet it was declared; `casemate cluster status` shows the members");
        Error::Garbled { node, why }.into()
    })
}

/// The new member has no name yet, but others that have not started have none either: its addresses tell it.
fn which(members: &[ClusterMember], urls: &[String]) -> Result<String, &'static str> {
    let urls = sorted(urls);
    let mut new = members.iter().filter(|one| one.name.is_empty() && sorted(&one.urls) == urls);
    match (new.next(), new.next()) {
        (Some(new), None) => member(&new.id).map_err(|_| "the new member has no id, or one that is none"),
        (None, _) => Err("no new member with these addresses is among the members"),
        (Some(_), Some(_)) => Err("several new members with these addresses are among the members"),
    }
}

/// Backends put addresses into an order of their own.
fn sorted(urls: &[String]) -> Vec<&str> {
    let mut urls: Vec<_> = urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    urls
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
        let members = [one("a", "x", &["1"]), one("b", "", &["2"]), one("C", "", &["3", "4"]), one("", "", &["5"])];
        let which = |urls: &[&str]| which(&members, &strings(urls));
        assert_eq!((which(&["2"]), which(&["4", "3"])), (Ok("b".into()), Ok("c".into())));
        assert!(which(&["3"]).unwrap_err().contains("no new member"));
        // It has a name: it is no new one.
        assert!(which(&["1"]).unwrap_err().contains("no new member"));
        assert!(which(&["5"]).unwrap_err().contains("no id"));
    }

    #[test]
    fn of_two_with_the_same_addresses_none_is_the_new_one() {
        let members = [one("b", "", &["2"]), one("c", "", &["2"])];
        assert!(which(&members, &strings(&["2"])).unwrap_err().contains("several"));
    }
}
