//! `cluster members`, `set-urls` and `remove`, and how a member is found: by its id or its name.

use casemate_api::body::cluster::ClusterMember;
use casemate_client::Session;
use clap::Args;

use super::args::url;
use crate::exit::Failure;
use crate::profile::Context;

/// A session with one of the members, if the context has several nodes: those without a vote know no members but themselves.
pub(super) fn at_member(context: &Context) -> Result<Session, Failure> {
    Ok(member_among(context, context.session()?))
}

/// The same of a session that there is already.
pub(super) fn member_among(context: &Context, session: Session) -> Session {
    let nodes = context.client.nodes().len();
    let is_member = |one: &Session| {
        one.cluster().members().is_ok_and(|members| members.iter().any(|member| !member.urls.is_empty()))
    };
    let mut each = (0..nodes).filter(|_| nodes > 1).filter_map(|at| session.at(at).ok());
    each.find(is_member).unwrap_or(session)
}

/// Shows the members.
pub(super) fn list(context: &Context) -> Result<(), Failure> {
    let members = at_member(context)?.cluster().members()?;
    context.out.list(&members, HEADS, members.iter().map(row))
}

/// The heads of a table of members.
pub(super) const HEADS: &[&str] = &["member", "name", "role", "addresses"];

/// The row of a member in such a table.
pub(super) fn row(member: &ClusterMember) -> Vec<String> {
    let role = if member.learner { "learner" } else { "votes" };
    vec![member.id.clone(), member.name.clone(), role.into(), member.urls.join(" ")]
}

/// How many of so many voting members have to work.
pub(super) fn majority_of(voters: usize) -> usize {
    voters / 2 + 1
}

/// The member whose id or name is `text`.
pub(super) fn find<'a>(members: &'a [ClusterMember], text: &str) -> Result<&'a ClusterMember, Failure> {
    let mut found = members
        .iter()
        .filter(|member| !text.is_empty() && (member.id.eq_ignore_ascii_case(text) || member.name == text));
    match (found.next(), found.next()) {
        (Some(member), None) => Ok(member),
        (None, _) => Err(Failure::NotFound(format!(
            "There is no member {text}, or no longer. `casemate cluster members` shows ids and names."
        ))),
        (Some(_), Some(_)) => Err(Failure::Usage(format!(
            "Several members are called {text}: give the id, which `casemate cluster members` shows."
        ))),
    }
}

/// Whether both lists have the same addresses; backends sort them in different ways.
pub(super) fn same_urls(some: &[String], others: &[String]) -> bool {
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort_unstable();
        urls
    };
    sorted(some) == sorted(others)
}

/// Arguments of `cluster set-urls`.
#[derive(Args)]
pub(crate) struct SetUrls {
    /// The member, by its id or its name
    member: String,
    /// Such as https://IP:2380; repeatable
    #[arg(required = true, value_name = "URL", value_parser = url)]
    urls: Vec<String>,
}

impl SetUrls {
    /// Changes the addresses of a member.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = at_member(context)?;
        let members = session.cluster().members()?;
        let ClusterMember { id, urls, .. } = find(&members, &self.member)?;
        if same_urls(urls, &self.urls) {
            return context.out.done(&format!("The member {id} has these addresses already."));
        }
        session.cluster().set_urls(id, self.urls)?;
        context.out.done(&format!("The addresses of the member {id} were changed."))
    }
}

/// Arguments of `cluster remove`.
#[derive(Args)]
pub(crate) struct Remove {
    /// The member, by its id or its name
    member: String,
    /// Also if the members that remain are no majority: the cluster then stops until more of them start
    #[arg(long)]
    force: bool,
}

impl Remove {
    /// Removes a member.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        // Before a passphrase is asked for.
        context.can_confirm(&format!("Removing the member {}", self.member))?;
        let session = at_member(context)?;
        let members = session.cluster().members()?;
        let member = find(&members, &self.member)?;
        let remaining = remaining(&members, member, self.force)?;
        let id = &member.id;
        context.confirm(&format!("Removing the member {id}, which then offers no service and {remaining},"))?;
        session.cluster().remove(id)?;
        context.out.done(&format!(
            "The member {id} was removed. Its HSM is Failed until it is reset or becomes a cluster of its own."
        ))
    }
}

/// What remains without `member`, to be said in a question. Fails if the others that have started are no majority, unless that is
/// wanted. Which of those work is known to the HSM alone, which checks it again.
pub(super) fn remaining(members: &[ClusterMember], member: &ClusterMember, force: bool) -> Result<String, Failure> {
    if member.learner {
        return Ok("has no vote".into());
    }
    let others = || members.iter().filter(|other| !other.learner && other.id != member.id);
    let (voters, started) = (others().count(), others().filter(|other| !other.name.is_empty()).count());
    let needed = majority_of(voters);
    if voters == 0 {
        return Err(Failure::Usage(format!(
            "{} is the only voting member, so it cannot be removed: `casemate cluster dissolve` gives a Casemate a store of its own \
             again, `casemate system factory-reset` erases its HSM.",
            member.id
        )));
    }
    if started < needed && !force {
        return Err(Failure::Usage(format!(
            "Without {}, {needed} of {voters} voting members have to work, and {started} have ever started: the cluster would \
             stop. Start or remove the others first, or give --force.",
            member.id
        )));
    }
    Ok(format!("leaves {voters} with a vote, of which {needed} have to work"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, name: &str, learner: bool) -> ClusterMember {
        ClusterMember { id: id.into(), name: name.into(), urls: Vec::new(), learner }
    }

    #[test]
    fn a_member_is_found_by_its_id_or_its_name() {
        let members =
            [member("a1", "one", false), member("b2", "", true), member("c3", "a1", false), member("d4", "", true)];
        let found = |text: &str| find(&members, text).map(|member| member.id.as_str()).map_err(|why| why.code().0);
        assert_eq!((found("one"), found("B2"), found("c3")), (Ok("a1"), Ok("b2"), Ok("c3")));
        assert_eq!((found("e5"), found("a1"), found("")), (Err(7), Err(2), Err(7)));
    }

    #[test]
    fn a_removal_that_takes_the_majority_away_is_refused() {
        let three = [member("a", "a", false), member("b", "b", false), member("c", "c", false), member("d", "", true)];
        let outcome = |members: &[ClusterMember], at: usize, force| remaining(members, &members[at], force);
        assert_eq!(outcome(&three, 0, false).unwrap(), "leaves 2 with a vote, of which 2 have to work");
        assert_eq!(outcome(&three, 3, false).unwrap(), "has no vote");
        // The second one has never started.
        let two = [member("a", "a", false), member("b", "", false)];
        assert!(outcome(&two, 0, false).unwrap_err().to_string().contains("1 of 1 voting members have to work"));
        assert!(outcome(&two, 0, true).is_ok() && outcome(&two, 1, false).is_ok());
        assert!(outcome(&two[..1], 0, true).unwrap_err().to_string().contains("the only voting member"));
    }

    #[test]
    fn addresses_are_the_same_in_any_order() {
        let urls = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        assert!(same_urls(&urls(&["1", "2"]), &urls(&["2", "1"])));
        assert!(!same_urls(&urls(&["1", "2"]), &urls(&["1"])));
    }
}
