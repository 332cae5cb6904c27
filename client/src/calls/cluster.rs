//! `/cluster*` (NetHSM 4.0 and later).

use std::time::Duration;

use casemate_api::body::cluster::{ClusterMember, Invitation, Join, MemberUrls};
use casemate_api::body::system::Diagnosis;
use ureq::http::Method;

use crate::error::Error;
use crate::media::{JSON, to_json};
use crate::request::{Call, quoted};
use crate::session::Session;

/// Calls of `/cluster`.
pub struct Cluster<'a>(&'a Session);

impl Session {
    /// Calls of `/cluster`.
    pub fn cluster(&self) -> Cluster<'_> {
        Cluster(self)
    }
}

impl Cluster<'_> {
    /// `GET /cluster/members`
    pub fn members(&self) -> Result<Vec<ClusterMember>, Error> {
        self.0.get_json("/cluster/members")
    }

    /// `GET /health/diagnose` of one node: whether its cluster backend runs, and what it said last.
    pub fn diagnose(&self) -> Result<Diagnosis, Error> {
        self.0.run(Call::get("/health/diagnose").at_one())?.json()
    }

    /// `POST /cluster/members`: declares a member that will be reached at `urls`, as a learner.
    pub fn add(&self, urls: Vec<String>) -> Result<Invitation, Error> {
        let body = to_json(&MemberUrls { urls })?;
        self.0.run(Call::change(&Method::POST, "/cluster/members").with(JSON, body.as_slice()))?.json()
    }

    /// `POST /cluster/join` at one node: **its users and keys are erased** and the cluster's taken over. It ends Locked,
    /// with the cluster's unlock passphrase. A NetHSM answers only when the learner was promoted, so `patience` is the time
    /// that is allowed for that.
    pub fn join(&self, join: &Join, patience: Duration) -> Result<(), Error> {
        let body = to_json(join)?;
        let call = Call::change(&Method::POST, "/cluster/join").at_one().patient(patience);
        self.0.run(call.with(JSON, body.as_slice())).map(drop)
    }

    /// `POST /cluster/members/{id}/promote`: the learner votes from then on. [`Error::Refused`] with `412` while it has not
    /// caught up yet.
    pub fn promote(&self, id: &str) -> Result<(), Error> {
        self.0.run(Call::change(&Method::POST, &format!("/cluster/members/{}/promote", quoted(id)))).map(drop)
    }

    /// `PUT /cluster/members/{id}`: where other members reach it.
    pub fn set_urls(&self, id: &str, urls: Vec<String>) -> Result<(), Error> {
        self.0.put_json(&format!("/cluster/members/{}", quoted(id)), &MemberUrls { urls }).map(drop)
    }

    /// `DELETE /cluster/members/{id}`
    pub fn remove(&self, id: &str) -> Result<(), Error> {
        self.0.delete(&format!("/cluster/members/{}", quoted(id)))
    }

    /// `POST /cluster/force-new` at one Failed node, as the user `unlock` with the last known unlock passphrase: it goes on
    /// alone with what it has on its disk.
    pub fn force_new(&self) -> Result<(), Error> {
        self.0.run(Call::change(&Method::POST, "/cluster/force-new").at_one()).map(drop)
    }
}
