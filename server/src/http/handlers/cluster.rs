//! `/cluster/*`, as far as it applies to a node without a cluster.

use std::sync::Arc;

use casemate_api::body::cluster::ClusterMember;
use casemate_core::identity::caller::Caller;
use casemate_core::{Error, Hsm};

use crate::http::endpoint::OperationalGuard;
use crate::http::reply::Reply;

/// `GET /cluster/members`: this node alone.
pub async fn members(op: OperationalGuard, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    // Member ids are 64 bits in hexadecimal; the device's id serves as one.
    let id = base16ct::lower::encode_string(op.device_id().as_bytes().get(..8).unwrap_or_default());
    Reply::json(&[ClusterMember { id, name: "casemate".into(), urls: Vec::new(), learner: false }])
}

/// `POST /cluster/force-new`: there is no cluster to create again; authorised callers get an error that says so.
pub async fn force_new(_: Arc<Hsm>, _: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    Err(Error::invalid("cluster error: backend is not etcd"))
}
