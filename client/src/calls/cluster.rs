//! `/cluster*` (NetHSM 4.0 and later).

use std::time::Duration;

use casemate_api::body::cluster::{ClusterMember, Invitation, Join, MemberUrls, NewMember};
use casemate_api::limits::CLIENT_STORE_MOVE_MS;
use ureq::http::Method;

use crate::error::Error;
use crate::media::{JSON, to_json};
use crate::request::{Request, quoted};
use crate::session::Session;

/// The first member and the last one move their stores.
pub(super) const STORE_MOVE: Duration = Duration::from_millis(CLIENT_STORE_MOVE_MS);

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

    /// `POST /cluster/members`: declares a new member with these URLs, as a learner.
    pub fn add(&self, urls: Vec<String>) -> Result<Invitation, Error> {
        self.invite(&NewMember { urls, serving: false })
    }

    /// `POST /cluster/members`: a joiner kit for a node that only shares the store. A NetHSM refuses this.
    pub fn add_serving(&self, urls: Vec<String>) -> Result<Invitation, Error> {
        self.invite(&NewMember { urls, serving: true })
    }

    fn invite(&self, new: &NewMember) -> Result<Invitation, Error> {
        let body = to_json(new)?;
        let request = Request::change(&Method::POST, "/cluster/members").with_min_time_limit(STORE_MOVE);
        self.0.run(request.with_body(JSON, body.as_slice()))?.json()
    }

    /// `POST /cluster/join` at one node: **its users and keys are erased** and replaced by the cluster's. Afterwards it
    /// is Locked, with the cluster's unlock passphrase. A NetHSM answers only when the learner was promoted;
    /// `time_limit` is the time for that. A Casemate joins while Unprovisioned, without credentials.
    pub fn join(&self, join: &Join, time_limit: Duration) -> Result<(), Error> {
        let body = to_json(join)?;
        let request = Request::change(&Method::POST, "/cluster/join").to_one_node().with_min_time_limit(time_limit);
        self.0.run(request.with_body(JSON, body.as_slice())).map(drop)
    }

    /// `POST /cluster/members/{id}/promote`: gives a learner its vote. [`Error::Refused`] with `412` until it has
    /// caught up.
    pub fn promote(&self, id: &str) -> Result<(), Error> {
        self.0.run(Request::change(&Method::POST, &format!("/cluster/members/{}/promote", quoted(id)))).map(drop)
    }

    /// `PUT /cluster/members/{id}`: sets the URLs at which other members reach it.
    pub fn set_urls(&self, id: &str, urls: Vec<String>) -> Result<(), Error> {
        self.0.put_json(&format!("/cluster/members/{}", quoted(id)), &MemberUrls { urls }).map(drop)
    }

    /// `DELETE /cluster/members/{id}`
    pub fn remove(&self, id: &str) -> Result<(), Error> {
        self.0.delete(&format!("/cluster/members/{}", quoted(id)))
    }

    /// `DELETE /cluster` at one node, the last member: moves its store back into a file, and ends its etcd. Nothing is done if it
    /// is in a file already. [`Error::Refused`] with `412` while there are other members, and if the settings of the node name
    /// an etcd. A NetHSM has no such call.
    pub fn dissolve(&self) -> Result<(), Error> {
        let request = Request::change(&Method::DELETE, "/cluster").to_one_node().with_min_time_limit(STORE_MOVE);
        self.0.run(request.accepting("*/*")).map(drop)
    }

    /// `POST /cluster/force-new` at one Failed node, as the user `unlock` with its last unlock passphrase: makes it a
    /// cluster of one, with the data on its disk.
    pub fn force_new(&self) -> Result<(), Error> {
        self.0.run(Request::change(&Method::POST, "/cluster/force-new").to_one_node()).map(drop)
    }
}
