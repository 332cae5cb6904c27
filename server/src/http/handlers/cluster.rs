//! `/cluster/*`, as far as a node without a cluster has an answer.

use std::sync::Arc;

use casemate_api::body::cluster::ClusterMember;
use casemate_core::identity::caller::Caller;
use casemate_core::{Error, Hsm};

use crate::http::endpoint::OperationalGuard;
use crate::http::reply::Reply;

/// `GET /cluster/members`: this node alone.
pub async fn members(op: OperationalGuard, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    // Ids of members are 64 bits in hexadecimal; the device's letters are as good as any.
    let id = base16ct::lower::encode_string(op.device_id().as_bytes().get(..8).unwrap_or_default());
    Reply::json(&[ClusterMember { id, name: "casemate".into(), urls: Vec::new(), learner: false }])
}

/// `POST /cluster/force-new`: there is nothing to make anew, and whoever may ask is told so.
pub async fn force_new(_: Arc<Hsm>, _: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    Err(Error::invalid("cluster error: backend is not etcd"))
}
