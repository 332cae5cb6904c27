//! Changes of who is a member of the cluster.
//!
//! etcd refuses a change at one of two places: before it proposes it, by the state of the member that was asked, or when it
//! applies it, by the members at that time. Either way nothing was done, and the sentence tells which. A change can be applied
//! once only: the id of a removed member never comes again, and two members never have the same peer URL. So after a lost
//! answer the list of members tells whether it was applied.

use std::time::Duration;

use casemate_api::limits::{ETCD_MEMBER_RETRY_MS, ETCD_MEMBER_TRIES};

use crate::address::Address;
use crate::client::{Client, Unanswered};
use crate::connection::{Message, Method};
use crate::error::Error;
use crate::proto::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
    MoveLeaderRequest, MoveLeaderResponse,
};

/// Whether a new member counts for the majority from the start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// It does, even before it has been started.
    Voter,
    /// It does not before it is promoted.
    Learner,
}

/// Why etcd does not change its members. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// No member has this id, or it was removed.
    #[error("etcd has no member with this id: look at the list of members")]
    NotFound,
    /// There are as many learners as may be, which is one unless etcd is set up otherwise.
    #[error("etcd has a learner already: promote or remove it first")]
    TooManyLearners,
    /// The learner has not been started, or lacks what the leader has.
    #[error("the learner has not caught up with the leader of etcd yet: start it, and try again")]
    LearnerNotReady,
    /// What is to be promoted votes already.
    #[error("this member of etcd is not a learner")]
    NotLearner,
    /// Another member has one of the peer URLs.
    #[error("another member of etcd has one of these URLs")]
    PeerUrlsExist,
    /// The peer URLs are not such.
    #[error("these are not URLs of a member of etcd: write https://ADDRESS:PORT, without a path")]
    BadUrls,
    /// The member that was asked has not been connected to a majority, or to all that count for it, for five seconds. It may
    /// be so soon.
    #[error(
        "etcd does not change its members while it is not healthy: see that all of them run, and try again after five seconds"
    )]
    Unhealthy,
    /// With the change, the members that have been started ever would not be a majority.
    #[error("too few members of etcd have been started for this change: start those that have not been")]
    NotEnoughStarted,
}

impl MemberError {
    /// The error that a sentence of etcd, without its prefix, stands for.
    pub(crate) fn spoken(sentence: &str) -> Option<Self> {
        Some(match sentence {
            "member not found" => Self::NotFound,
            "too many learner members in cluster" => Self::TooManyLearners,
            "can only promote a learner member which is in sync with leader" => Self::LearnerNotReady,
            "can only promote a learner member" => Self::NotLearner,
            // The id of a member is made of its URLs and the second.
            "Peer URLs already exists" | "member ID already exist" => Self::PeerUrlsExist,
            "given member URLs are invalid" => Self::BadUrls,
            // Both are said before the change is proposed (`mayAddMember`, `mayRemoveMember`, `mayPromoteMember`).
            "unhealthy cluster" => Self::Unhealthy,
            "re-configuration failed due to not enough started members" => Self::NotEnoughStarted,
            _ => return None,
        })
    }
}

/// Makes a change that etcd may refuse only for a moment, as all are for five seconds after the one before: it is repeated
/// once a second, [`ETCD_MEMBER_TRIES`] times in all, while the answer is certain and tells that nothing was done *yet*.
pub async fn when_healthy<T, F: Future<Output = Result<T, Error>>>(change: impl Fn() -> F) -> Result<T, Error> {
    for _ in 1..ETCD_MEMBER_TRIES {
        match change().await {
            Err(
                Error::Member(MemberError::Unhealthy | MemberError::NotEnoughStarted)
                | Error::NoLeader
                | Error::NotBegun(_),
            ) => tokio::time::sleep(Duration::from_millis(ETCD_MEMBER_RETRY_MS)).await,
            outcome => return outcome,
        }
    }
    change().await
}

impl Client {
    /// The members, as the majority knows them. One that has not been started yet has no name.
    pub async fn member_list(&self) -> Result<Vec<Member>, Error> {
        let method = Method { path: "/etcdserverpb.Cluster/MemberList", leader: true };
        let request = MemberListRequest { linearizable: true };
        let list: MemberListResponse = self.call(method, request, Unanswered::Repeat).await?;
        Ok(list.members)
    }

    /// The members, as one member knows them, the first that answers. It needs no majority, and is not told by a learner.
    pub async fn known_members(&self) -> Result<Vec<Member>, Error> {
        let method = Method { path: "/etcdserverpb.Cluster/MemberList", leader: false };
        let request = MemberListRequest { linearizable: false };
        let list: MemberListResponse = self.call(method, request, Unanswered::Repeat).await?;
        Ok(list.members)
    }

    /// Adds a member that listens for the others at `peer_urls`. Returns it and all members. If the answer was lost, and now a
    /// member of this kind with these URLs is there that has not been started, that is it.
    ///
    /// Errors: [`Error::Member`]; [`Error::Unknown`], if it may still be added.
    pub async fn member_add(&self, peer_urls: &[String], kind: MemberKind) -> Result<(Member, Vec<Member>), Error> {
        check(peer_urls)?;
        let is_learner = kind == MemberKind::Learner;
        let request = MemberAddRequest { peer_ur_ls: peer_urls.to_vec(), is_learner };
        let added = |members: &[Member]| {
            let new = |member: &&Member| {
                member.name.is_empty()
                    && member.is_learner == is_learner
                    && sorted(&member.peer_ur_ls) == sorted(peer_urls)
            };
            members.iter().find(new).cloned()
        };
        let answer: Result<MemberAddResponse, Error> = self.change("/etcdserverpb.Cluster/MemberAdd", request).await;
        if answer == Err(Error::Member(MemberError::NotFound)) {
            // In this second a member with these URLs, hence with the same id, was removed. The next one makes another id.
            return Err(Error::Member(MemberError::Unhealthy));
        }
        let members = self.settled(answer.map(|reply| reply.members), |members| added(members).is_some()).await?;
        let member = added(&members).ok_or_else(|| Error::Other("it lists no member that it has just added".into()))?;
        Ok((member, members))
    }

    /// Removes a member for ever. Its process ends; its data folder is of no use any more. Returns the members that remain.
    ///
    /// Errors: [`Error::Member`]; [`Error::Unknown`], if it may still be removed.
    pub async fn member_remove(&self, id: u64) -> Result<Vec<Member>, Error> {
        let request = MemberRemoveRequest { id };
        let answer: Result<MemberRemoveResponse, Error> =
            self.change("/etcdserverpb.Cluster/MemberRemove", request).await;
        self.settled(answer.map(|reply| reply.members), |members| find(members, id).is_none()).await
    }

    /// Has the others expect a member at other URLs. Returns all members.
    ///
    /// Errors: [`Error::Member`]; [`Error::Unknown`], if it may still be done.
    pub async fn member_update(&self, id: u64, peer_urls: &[String]) -> Result<Vec<Member>, Error> {
        // etcd does not check them, and all its members end, for good, when they apply one that they cannot read
        // (`rafthttp.Transport.UpdatePeer`).
        check(peer_urls)?;
        let request = MemberUpdateRequest { id, peer_ur_ls: peer_urls.to_vec() };
        let answer: Result<MemberUpdateResponse, Error> =
            self.change("/etcdserverpb.Cluster/MemberUpdate", request).await;
        let updated = |members: &[Member]| {
            find(members, id).is_some_and(|member| sorted(&member.peer_ur_ls) == sorted(peer_urls))
        };
        self.settled(answer.map(|reply| reply.members), updated).await
    }

    /// Makes a voter of a learner. Returns all members. A follower hands this on to the leader; if that refuses it for lack of
    /// started members, the follower tries again and again, and the outcome is unknown.
    ///
    /// Errors: [`Error::Member`]; [`Error::Unknown`], if it may still be promoted.
    pub async fn member_promote(&self, id: u64) -> Result<Vec<Member>, Error> {
        let request = MemberPromoteRequest { id };
        let answer: Result<MemberPromoteResponse, Error> =
            self.change("/etcdserverpb.Cluster/MemberPromote", request).await;
        let promoted = |members: &[Member]| find(members, id).is_some_and(|member| !member.is_learner);
        self.settled(answer.map(|reply| reply.members), promoted).await
    }

    /// Has the member `to` lead instead of the one at `endpoint`, which alone can be asked; others refuse it.
    pub async fn move_leader(&self, endpoint: &Address, to: u64) -> Result<(), Error> {
        let method = Method { path: "/etcdserverpb.Maintenance/MoveLeader", leader: true };
        let request = MoveLeaderRequest { target_id: to };
        self.call_at::<_, MoveLeaderResponse>(endpoint, method, request, self.deadline).await.map(drop)
    }

    async fn change<Req: Message, Res: Message>(&self, path: &'static str, request: Req) -> Result<Res, Error> {
        self.call(Method { path, leader: true }, request, Unanswered::Tell).await
    }

    /// Replaces an unknown outcome by the list of members, if that shows that the change was made.
    async fn settled(
        &self,
        outcome: Result<Vec<Member>, Error>,
        made: impl Fn(&[Member]) -> bool,
    ) -> Result<Vec<Member>, Error> {
        let Err(Error::Unknown(why)) = outcome else { return outcome };
        match self.member_list().await {
            Ok(members) if made(&members) => Ok(members),
            // It may still be on its way.
            _ => Err(Error::Unknown(why)),
        }
    }
}

fn find(members: &[Member], id: u64) -> Option<&Member> {
    members.iter().find(|member| member.id == id)
}

/// etcd sorts the URLs of a new member.
fn sorted(urls: &[String]) -> Vec<&String> {
    let mut urls: Vec<&String> = urls.iter().collect();
    urls.sort();
    urls
}

/// Whether etcd can read these URLs, which Go must be able to do in the same way.
fn check(peer_urls: &[String]) -> Result<(), Error> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    let good = |url: &String| {
        let place = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        place.is_some_and(|place| place.bytes().all(is_plain) && Address::parse(place).is_ok())
    };
    if !peer_urls.is_empty() && peer_urls.iter().all(good) { Ok(()) } else { Err(Error::Member(MemberError::BadUrls)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_would_end_all_members_are_not_sent() {
        let checked = |url: &str| check(&[url.to_owned()]);
        for good in ["https://192.0.2.1:2380", "https://[2001:DB8::1]:2380", "http://Node-1.example:1"] {
            assert_eq!(checked(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "192.0.2.1:2380",
            "https://192.0.2.1",
            "https://192.0.2.1:",
            "https://192.0.2.1:x",
            "https://h:+2380",
            "https://[fe80::1%1]:2380",
            "https://192.0.2.1:2380/",
            "https://u@192.0.2.1:2380",
            " https://192.0.2.1:2380",
            "https://a%zz:1",
            "ftp://192.0.2.1:2380",
        ] {
            assert_eq!(checked(bad), Err(Error::Member(MemberError::BadUrls)), "{bad}");
        }
        assert!(check(&[]).is_err());
        assert!(check(&["https://h:1".to_owned(), "x".to_owned()]).is_err());
    }
}
