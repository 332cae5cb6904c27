//! `/namespaces*`.

use casemate_api::NamespaceId;
use casemate_api::body::users::NamespaceItem;
use casemate_core::Error;
use casemate_core::caller::Caller;

use crate::http::find::FoundNamespace;
use crate::http::reply::Reply;
use crate::http::row::Op;

/// `GET /namespaces`
pub async fn list(op: Op, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    let items: Vec<_> = op.namespace_ids().await?.into_iter().map(|id| NamespaceItem { id }).collect();
    Reply::json(&items)
}

/// `PUT /namespaces/{namespace}`
pub async fn create(op: Op, caller: Caller, id: NamespaceId, (): ()) -> Result<Reply, Error> {
    op.create_namespace(&caller, &id).await?;
    Ok(Reply::no_content())
}

/// `DELETE /namespaces/{namespace}`
pub async fn delete(op: Op, caller: Caller, found: FoundNamespace, (): ()) -> Result<Reply, Error> {
    op.delete_namespace(&caller, &found.id, found.number).await?;
    Ok(Reply::no_content())
}
