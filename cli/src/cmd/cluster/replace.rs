//! `cluster replace`: a member leaves, and another HSM takes its place.
//!
//! A member that is lost is removed first: with it and its successor, the next loss could stop the cluster. One that works, or
//! of which that is not known, stays until its successor has a vote. Like `cluster grow` it can be run again at any point.

use casemate_api::State;
use casemate_api::body::cluster::ClusterMember;
use clap::Args;
use serde_json::json;

use super::grow::{AFTER_HELP, Joiner, NewHsm, VOTERS_MAX};
use super::join::joined;
use super::members::{find, majority_of, member_among, remaining};
use super::nodes::{Node, look};
use crate::exit::Failure;
use crate::profile::Context;
use crate::progress::notice;

/// Arguments of `cluster replace`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Replace {
    /// The member that leaves, by its id or its name
    old: String,
    #[command(flatten)]
    new: NewHsm,
}

/// When the old member is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    RemoveFirst,
    AddFirst,
}

impl Replace {
    /// Replaces a member.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let joiner = Joiner::new(self.new, context)?;
        // Before a passphrase is asked for.
        context.can_confirm(&format!("Replacing the member {}", self.old))?;
        let session = context.session()?;
        let (nodes, _) = look(context, &session);
        let asked = member_among(context, session.clone());
        let members = asked.cluster().members()?;
        let old = match find(&members, &self.old) {
            Ok(old) => Some(old),
            Err(Failure::NotFound(_)) => {
                notice(
                    context,
                    &format!("There is no member {}, or no longer: only {} is added.", self.old, joiner.node),
                );
                None
            }
            Err(why) => return Err(why),
        };
        // A member that is to be removed should not be the one to ask for it.
        let stays = |node: &Node| node.is_member() && old.is_none_or(|old| node.device_id.as_ref() != Some(&old.name));
        let member = match nodes.iter().position(stays) {
            Some(at) => session.at(at)?,
            None => asked,
        };
        let order = match old {
            Some(old) => order(&members, old, &joiner.urls, &Seen::of(&nodes))?,
            None => Order::AddFirst,
        };
        let others: Vec<ClusterMember> =
            members.iter().filter(|member| order == Order::AddFirst || Some(*member) != old).cloned().collect();
        let found = joiner.found(&others)?;
        joiner.check_room(
            &found,
            VOTERS_MAX + usize::from(old.is_some_and(|old| !old.learner && order == Order::AddFirst)),
        )?;
        let mut what = Vec::new();
        what.extend(old.map(|old| format!("Removing the member {} ({}) for good", old.id, old.name)));
        what.extend(found.erases().then(|| joiner.erasing()));
        if !what.is_empty() {
            context.confirm(&what.join(", and "))?;
        }
        let step = joiner.prepare(&members, found)?;
        if let (Order::RemoveFirst, Some(old)) = (order, old) {
            member.cluster().remove(&old.id)?;
            notice(context, &format!("The member {} was removed.", old.id));
        }
        let again = |why: Failure| why.prefixed("The member was not replaced; when the cause is gone, run this again");
        let id = joiner.join(context, &member, step).map_err(again)?;
        if let (Order::AddFirst, Some(old)) = (order, old) {
            remaining(&member.cluster().members()?, old, false).map_err(again)?;
            member.cluster().remove(&old.id).map_err(|why| again(why.into()))?;
            notice(context, &format!("The member {} was removed. Its HSM is Failed until it is reset.", old.id));
        }
        let (state, text) = joined(&joiner.there.anonymous(), &joiner.node);
        let removed = old.map(|old| &old.id);
        context.out.line(&json!({ "node": joiner.node, "id": id, "state": state, "removed": removed }), &text)
    }
}

/// Which nodes work, as far as that is known.
struct Seen<'a> {
    /// The names of those that are Operational.
    names: Vec<&'a str>,
    /// How many are Locked: their etcds work, and nobody is told their names.
    locked: usize,
}

impl<'a> Seen<'a> {
    fn of(nodes: &'a [Node]) -> Self {
        let locked = nodes.iter().filter(|node| node.state == Some(State::Locked)).count();
        Self { names: nodes.iter().filter_map(|node| node.device_id.as_deref()).collect(), locked }
    }

    fn works(&self, member: &ClusterMember) -> bool {
        self.names.contains(&member.name.as_str())
    }
}

/// Whether `old` is removed before the HSM at `urls` is added.
fn order(members: &[ClusterMember], old: &ClusterMember, urls: &[String], seen: &Seen<'_>) -> Result<Order, Failure> {
    if old.urls.iter().any(|url| urls.contains(url)) {
        // An address belongs to one member at a time.
        return match seen.works(old) {
            true => Err(Failure::Usage(format!(
                "The member {} works and has the address of the HSM to add: give another one with --url.",
                old.id
            ))),
            false => Ok(Order::RemoveFirst),
        };
    }
    let others = || members.iter().filter(|member| !member.learner && member.id != old.id);
    let work = others().filter(|member| seen.works(member)).count();
    let lost = !seen.works(old) && seen.locked == 0;
    let enough = work > 0 && work >= majority_of(others().count());
    Ok(if old.learner || (lost && enough) { Order::RemoveFirst } else { Order::AddFirst })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, learner: bool) -> ClusterMember {
        ClusterMember { id: id.into(), name: id.to_uppercase(), urls: vec![format!("https://{id}:2380")], learner }
    }

    #[test]
    fn a_lost_member_goes_first_if_the_others_are_enough_and_one_that_works_goes_last() {
        let members = [member("a", false), member("b", false), member("c", false), member("d", true)];
        let elsewhere = ["https://x:2380".into()];
        let of = |old: usize, names: &[&'static str], locked| {
            order(&members, &members[old], &elsewhere, &Seen { names: names.to_vec(), locked }).unwrap()
        };
        assert_eq!(of(2, &["A", "B"], 0), Order::RemoveFirst);
        assert_eq!(of(2, &["A", "B", "C"], 0), Order::AddFirst);
        // The Locked one may be it.
        assert_eq!(of(2, &["A", "B"], 1), Order::AddFirst);
        // Of the others one is not known to work, and both would have to.
        assert_eq!(of(2, &["A"], 0), Order::AddFirst);
        assert_eq!(of(3, &["A", "B", "D"], 0), Order::RemoveFirst);
        let alone = [member("a", false)];
        let nobody = Seen { names: Vec::new(), locked: 0 };
        assert_eq!(order(&alone, &alone[0], &elsewhere, &nobody).unwrap(), Order::AddFirst);
    }

    #[test]
    fn a_successor_at_the_same_address_comes_after_a_lost_member_only() {
        let members = [member("a", false), member("b", false), member("c", false)];
        let of = |names: &[&'static str]| {
            order(&members, &members[2], &["https://c:2380".into()], &Seen { names: names.to_vec(), locked: 0 })
        };
        assert_eq!(of(&["A"]).unwrap(), Order::RemoveFirst);
        assert_eq!(of(&["A", "B", "C"]).unwrap_err().code().0, 2);
    }
}
