//! `/cluster/*`: nodes that share a store. There are no voting members yet.

use std::net::IpAddr;
use std::sync::Arc;

use casemate_api::body::cluster::{ClusterMember, Invitation, Join, NewMember};
use casemate_core::identity::caller::Caller;
use casemate_core::{Error, Hsm};
use hyper::StatusCode;

use crate::http::endpoint::OperationalGuard;
use crate::http::reply::Reply;

/// `GET /cluster/members`: this node alone, also if others share its store.
pub async fn members(op: OperationalGuard, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    Reply::json(&[this_node(&op)])
}

/// `POST /cluster/members`: a joiner kit for a node that shares the store.
pub async fn invite(op: OperationalGuard, _: Caller, (): (), new: NewMember) -> Result<Reply, Error> {
    let joiner_kit = op.invite(&new).await?;
    Ok(Reply::json(&Invitation { members: vec![this_node(&op)], joiner_kit })?.status(StatusCode::CREATED))
}

/// `POST /cluster/join`
pub async fn join(hsm: Arc<Hsm>, _: Option<Caller>, address: IpAddr, wanted: Join) -> Result<Reply, Error> {
    hsm.join(address, &wanted).await?;
    Ok(Reply::no_content())
}

fn this_node(op: &OperationalGuard) -> ClusterMember {
    // Member ids are 64 bits in hexadecimal; the device's id serves as one.
    let id = base16ct::lower::encode_string(op.device_id().as_bytes().get(..8).unwrap_or_default());
    let name = if op.shares_store() { op.device_id() } else { "casemate" };
    ClusterMember { id, name: name.into(), urls: Vec::new(), learner: false }
}

/// `POST /cluster/force-new`: there is no cluster to create again; authorised callers get an error that says so.
pub async fn force_new(_: Arc<Hsm>, _: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    Err(Error::invalid("cluster error: backend is not etcd"))
}
