//! The members of the cluster that this node's etcd belongs to, and the CA by which they know each other.

use std::sync::Arc;
use std::time::Duration;

use casemate_api::body::cluster::{ClusterMember, Invitation, NewMember};
use casemate_api::limits::{MEMBER_CLAIM_MS, MEMBER_POLL_MS};

use crate::config::peers;
use crate::error::Error;
use crate::hsm::Hsm;
use crate::hsm::open::RestoreClaim;
use crate::hsm::phase::Operational;
use crate::identity::caller::Caller;
use crate::platform::stores::{Member, MemberError, StoreKeeper};

impl Hsm {
    /// The members of this node's cluster. One whose store is its own, or in an etcd that the settings name, is alone.
    pub async fn members(&self, op: &Operational) -> Result<Vec<ClusterMember>, Error> {
        match self.device.own_etcd().await? {
            Some(keeper) => Ok(listed(keeper.members().await?)),
            None => Ok(vec![alone(op)]),
        }
    }

    /// Registers a member as a learner, or invites a node that only shares the store, and returns what it needs to join. If the store
    /// of this node is still in a file, it is moved into an etcd first.
    ///
    /// # Errors
    /// [`Error::Precondition`] if no backup passphrase or no cluster CA is set, or this node cannot have an etcd;
    /// [`Error::Exists`] if there is a learner already; [`Error::Invalid`] for bad addresses.
    pub async fn invite(&self, op: Arc<Operational>, by: &Caller, new: &NewMember) -> Result<Invitation, Error> {
        if new.serving {
            if let Some(keeper) = self.device.own_etcd().await? {
                let identity = peers::identity(&self.device, None).await?;
                let urls = keeper.client_urls(&identity).map_err(|why| Error::Precondition(why.0.into()))?;
                if urls.is_empty() {
                    return Err(Error::Precondition(
                        "The etcd of this member serves no other nodes. Set client-listen in the settings of the members, such as 192.0.2.1:2379, and start them again, one after the other."
                            .into(),
                    ));
                }
                peers::check(&identity, &urls, self.device.wall())?;
            }
            let joiner_kit = op.invite(new).await?;
            return Ok(Invitation { members: self.members(&op).await?, joiner_kit });
        }
        check_urls(&new.urls)?;
        self.movable()?;
        // What it has to say is said before anything is moved.
        op.backups().check_passphrase_is_set().await?;
        self.found_cluster(op, by).await?;
        // Founding it may have opened the phase again.
        let op = self.operational().ok_or_else(super::wrong_state)?;
        let keeper = self.device.own_etcd().await?.ok_or_else(super::wrong_state)?;
        let joiner_kit = op.backups().joiner_kit().await?;
        // Nobody may take this member away from the new one meanwhile.
        let _claim = self.claim_members().await?;
        let _held = op.hold(by).await?;
        keeper.add_member(new.urls.clone()).await?;
        Ok(Invitation { members: listed(keeper.members().await?), joiner_kit })
    }

    /// Changes where other members reach a member.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such member; [`Error::Invalid`] for a bad id or bad addresses.
    pub async fn set_member_urls(&self, op: &Operational, by: &Caller, id: &str, urls: &[String]) -> Result<(), Error> {
        let id = parse_id(id)?;
        check_urls(urls)?;
        let keeper = self.keeper_of(id, op).await?;
        let _held = op.hold(by).await?;
        Ok(keeper.set_member_urls(id, urls.to_vec()).await?)
    }

    /// Removes a member. It becomes Failed; its data stays there until it is reset.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such member; [`Error::Precondition`] for the last one; [`Error::Invalid`] for a bad id.
    pub async fn remove_member(&self, op: &Operational, by: &Caller, id: &str) -> Result<(), Error> {
        let id = parse_id(id)?;
        let keeper = self.keeper_of(id, op).await?;
        if keeper.members().await?.len() == 1 {
            return Err(Error::Precondition(
                "This is the last member, which holds the data. To go back to a node of its own, dissolve the cluster."
                    .into(),
            ));
        }
        let _held = op.hold(by).await?;
        Ok(keeper.remove_member(id).await?)
    }

    /// Gives a learner its vote.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such member; [`Error::Precondition`] if it is no learner, or not in sync yet;
    /// [`Error::Invalid`] for a bad id.
    pub async fn promote_member(&self, op: &Operational, by: &Caller, id: &str) -> Result<(), Error> {
        let id = parse_id(id)?;
        let keeper = self.keeper_of(id, op).await?;
        let _claim = self.claim_members().await?;
        let _held = op.hold(by).await?;
        Ok(keeper.promote_member(id).await?)
    }

    /// Keeps the store where it is. Another change of members is waited for, whose caller may be gone: etcd makes the next one wait for
    /// some seconds after each.
    async fn claim_members(&self) -> Result<RestoreClaim, Error> {
        let clock = self.clock();
        let until = clock.monotonic() + Duration::from_millis(MEMBER_CLAIM_MS);
        loop {
            match self.claim_restore() {
                Err(_) if clock.monotonic() < until => clock.sleep(Duration::from_millis(MEMBER_POLL_MS)).await,
                claim => return claim,
            }
        }
    }

    /// Sets the CA that must have signed the TLS certificate of every member, and moves the store of this node from its file into
    /// an etcd of its own, if there is one to start. Without one, only the CA is stored.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not exactly one CA certificate; [`Error::Precondition`] if there are other members, or if they would
    /// not accept the TLS certificate of this node; those of [`Hsm::found_cluster`], after which the CA is set.
    pub async fn set_cluster_ca(&self, op: Arc<Operational>, by: &Caller, pem: &[u8]) -> Result<(), Error> {
        let keeper = self.device.platform.movable.as_ref().map(|movable| &movable.keeper);
        let own = self.device.own_etcd().await?;
        if let Some(own) = own
            && own.members().await?.len() > 1
        {
            return Err(Error::Precondition(
                "The cluster has other members, which know each other by the present CA. Dismantle the cluster first."
                    .into(),
            ));
        }
        let available = match keeper {
            Some(keeper) => Some((keeper, keeper.available().await)),
            None => None,
        };
        let check = match &available {
            Some((keeper, Ok(()))) => Some(&***keeper),
            Some((_, Err(_))) | None => None,
        };
        let authority = op.config().set_cluster_ca(by, pem, self.now(), check).await?;
        match (own, available) {
            (Some(own), _) => {
                op.config().mirror_cluster_ca(by).await?;
                own.renew(peers::identity(&self.device, Some(authority)).await?);
                Ok(())
            }
            (None, Some((_, Ok(())))) => self.found_cluster(op, by).await,
            (None, Some((_, Err(why)))) => {
                tracing::warn!(target: "hsm", %why, "the cluster CA was set, but this node cannot be a member of a cluster");
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    /// The keeper to change the member `id` with.
    async fn keeper_of(&self, id: u64, op: &Operational) -> Result<&dyn StoreKeeper, Error> {
        self.movable()?;
        match self.device.own_etcd().await? {
            Some(keeper) => Ok(keeper),
            None if alone(op).id == format!("{id:x}") => Err(Error::Precondition(
                "This node is not in a cluster yet. Set a cluster CA with PUT /config/tls/cluster-ca.pem first.".into(),
            )),
            None => Err(Error::not_found()),
        }
    }
}

impl From<MemberError> for Error {
    fn from(error: MemberError) -> Self {
        match error {
            MemberError::NotFound => Error::not_found(),
            MemberError::Refused(_) => Error::invalid(error.to_string()),
            MemberError::HasLearner(_) => Error::Exists(error.to_string().into()),
            MemberError::NotReady(why) => Error::Precondition(why.into()),
            MemberError::Store(why) => why.into(),
        }
    }
}

/// The only member of a cluster that is none. Member ids are 64 bits in hexadecimal; the device's id serves as one.
fn alone(op: &Operational) -> ClusterMember {
    let bytes = op.device_id().as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let name = if op.shares_store() { op.device_id() } else { "casemate" };
    ClusterMember { id: format!("{bytes:x}"), name: name.into(), urls: Vec::new(), learner: false }
}

fn listed(members: Vec<Member>) -> Vec<ClusterMember> {
    let member = |Member { id, name, urls, learner }| ClusterMember { id: format!("{id:x}"), name, urls, learner };
    members.into_iter().map(member).collect()
}

fn parse_id(id: &str) -> Result<u64, Error> {
    u64::from_str_radix(id, 16)
        .ok()
        .filter(|_| !id.starts_with('+'))
        .ok_or_else(|| Error::invalid("The id of a member is a number of up to 16 hexadecimal digits."))
}

/// Checks addresses of a member: `https://HOST:PORT`, each once.
fn check_urls(urls: &[String]) -> Result<(), Error> {
    let wrong = |why: String| Err(Error::invalid_field("urls", why));
    if urls.is_empty() {
        return wrong("urls must list at least one address, like https://IP:2380.".into());
    }
    for (index, url) in urls.iter().enumerate() {
        if peers::host_of(url).is_none() {
            return wrong(format!(
                "{url} is not an address of a member: write https://IP:PORT, such as https://192.0.2.1:2380."
            ));
        }
        if urls.iter().take(index).any(|other| other == url) {
            return wrong(format!("{url} is listed twice."));
        }
    }
    Ok(())
}
