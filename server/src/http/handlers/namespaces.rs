//! `/namespaces*`.

use casemate_api::NamespaceId;
use casemate_api::body::users::{NamespaceItem, NamespaceQuota, NewNamespaceQuota};
use casemate_core::Error;
use casemate_core::identity::caller::Caller;
use casemate_core::rows::namespace::Quota;

use crate::http::endpoint::OperationalGuard;
use crate::http::find::FoundNamespace;
use crate::http::reply::Reply;

/// `GET /namespaces`
pub async fn list(op: OperationalGuard, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    let items: Vec<_> = op.namespaces().ids().await?.into_iter().map(|id| NamespaceItem { id }).collect();
    Reply::json(&items)
}

/// `PUT /namespaces/{namespace}`
pub async fn create(op: OperationalGuard, caller: Caller, id: NamespaceId, (): ()) -> Result<Reply, Error> {
    op.namespaces().create(&caller, &id).await?;
    Ok(Reply::no_content())
}

/// `DELETE /namespaces/{namespace}`
pub async fn delete(op: OperationalGuard, caller: Caller, found: FoundNamespace, (): ()) -> Result<Reply, Error> {
    op.namespaces().delete(&caller, &found.id, found.number).await?;
    Ok(Reply::no_content())
}

/// `GET /namespaces/{namespace}/quota`
pub async fn quota(op: OperationalGuard, _: Caller, id: NamespaceId, (): ()) -> Result<Reply, Error> {
    let (quota, usage) = op.namespaces().quota(&id).await?;
    let (max_keys, max_bytes) = (quota.keys, quota.bytes);
    Reply::json(&NamespaceQuota { max_keys, max_bytes, keys: usage.keys, bytes: usage.bytes })
}

/// `PUT /namespaces/{namespace}/quota`
pub async fn set_quota(
    op: OperationalGuard,
    caller: Caller,
    found: FoundNamespace,
    body: NewNamespaceQuota,
) -> Result<Reply, Error> {
    op.namespaces().set_quota(&caller, &found.id, Quota { keys: body.max_keys, bytes: body.max_bytes }).await?;
    Ok(Reply::no_content())
}
