//! `/namespaces*`.

use casemate_api::NamespaceId;
use casemate_api::body::users::NamespaceItem;
use casemate_core::Error;
use casemate_core::caller::Caller;

use crate::http::reply::Reply;
use crate::http::row::Op;

/// `GET /namespaces`
pub async fn list(op: Op, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    let items: Vec<_> = op.namespace_ids().await?.into_iter().map(|id| NamespaceItem { id }).collect();
    Reply::json(&items)
}

/// `PUT /namespaces/{namespace}`
pub async fn create(op: Op, _: Caller, id: NamespaceId, (): ()) -> Result<Reply, Error> {
    op.create_namespace(&id).await?;
    Ok(Reply::no_content())
}

/// `DELETE /namespaces/{namespace}`
pub async fn delete(op: Op, _: Caller, id: NamespaceId, (): ()) -> Result<Reply, Error> {
    op.delete_namespace(&id).await?;
    Ok(Reply::no_content())
}
