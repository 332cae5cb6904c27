//! `/cluster/*`: the members of a cluster, and nodes that share its store.

use std::net::IpAddr;
use std::sync::Arc;

use casemate_api::body::cluster::{Join, MemberUrls, NewMember};
use casemate_api::sentences;
use casemate_core::hsm::force_new::ForcedNew;
use casemate_core::identity::caller::Caller;
use casemate_core::{Error, Hsm};
use hyper::StatusCode;

use crate::http::endpoint::OperationalGuard;
use crate::http::find::NamedMember;
use crate::http::reply::Reply;

/// `GET /cluster/members`
pub async fn members(op: OperationalGuard, _: Caller, hsm: Arc<Hsm>, (): ()) -> Result<Reply, Error> {
    Reply::json(&hsm.members(&op).await?)
}

/// `POST /cluster/members`: registers a member, or makes a joiner kit for a node that shares the store.
pub async fn invite(op: OperationalGuard, caller: Caller, hsm: Arc<Hsm>, new: NewMember) -> Result<Reply, Error> {
    let invitation = hsm.invite(op.into_inner(), &caller, &new).await?;
    Ok(Reply::json(&invitation)?.status(StatusCode::CREATED))
}

/// `PUT /cluster/members/{id}`
pub async fn set_urls(
    op: OperationalGuard,
    caller: Caller,
    member: NamedMember,
    wanted: MemberUrls,
) -> Result<Reply, Error> {
    member.hsm.set_member_urls(&op, &caller, &member.id, &wanted.urls).await?;
    Ok(Reply::no_content())
}

/// `DELETE /cluster/members/{id}`
pub async fn remove(op: OperationalGuard, caller: Caller, member: NamedMember, (): ()) -> Result<Reply, Error> {
    member.hsm.remove_member(&op, &caller, &member.id).await?;
    Ok(Reply::no_content())
}

/// `POST /cluster/members/{id}/promote`
pub async fn promote(op: OperationalGuard, caller: Caller, member: NamedMember, (): ()) -> Result<Reply, Error> {
    member.hsm.promote_member(&op, &caller, &member.id).await?;
    Ok(Reply::no_content())
}

/// `DELETE /cluster`: the last member goes back to a store of its own. An extension of Casemate.
pub async fn dissolve(op: OperationalGuard, caller: Caller, hsm: Arc<Hsm>, (): ()) -> Result<Reply, Error> {
    hsm.dissolve_cluster(op.into_inner(), &caller).await?;
    Ok(Reply::no_content())
}

/// `POST /cluster/join`
pub async fn join(hsm: Arc<Hsm>, caller: Option<Caller>, address: IpAddr, wanted: Join) -> Result<Reply, Error> {
    hsm.join(address, caller.as_ref(), &wanted).await?;
    Ok(Reply::no_content())
}

/// `POST /cluster/force-new`
pub async fn force_new(hsm: Arc<Hsm>, _: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    let note = match hsm.force_new().await? {
        ForcedNew::Recovered => sentences::FORCED_NEW,
        ForcedNew::JoinGivenUp => sentences::JOIN_GIVEN_UP,
    };
    Ok(Reply::no_content().noting(Some(note)))
}
