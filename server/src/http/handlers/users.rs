//! `/users*`.

use casemate_api::body::Created;
use casemate_api::body::users as bodies;
use casemate_api::{NamespaceId, Role, Tag, UserId, UserName};
use casemate_core::Error;
use casemate_core::identity::caller::Caller;
use casemate_core::identity::users::NewUser;
use casemate_core::identity::users::{UserAccess, UserTarget};
use hyper::StatusCode;

use super::keys::{put_into_set, taken_from_set};
use crate::http::endpoint::OperationalGuard;
use crate::http::find::FoundUser;
use crate::http::reply::Reply;
use crate::http::represent;
use crate::http::route::BASE;

/// `GET /users`
pub async fn list(op: OperationalGuard, caller: Caller, (): (), (): ()) -> Result<Reply, Error> {
    let ids = op.users().ids(caller.scope()?.namespace()).await?;
    let items: Vec<_> = ids.into_iter().map(|user| bodies::UserItem { user }).collect();
    Reply::json(&items)
}

/// `POST /users`: a user of the caller's namespace whose name the HSM chooses.
pub async fn create_here(op: OperationalGuard, caller: Caller, (): (), new: bodies::NewUser) -> Result<Reply, Error> {
    let namespace = caller.scope()?.namespace().cloned();
    create_picked(&op, &caller, namespace, new).await
}

/// `POST /users/{namespace}~`
pub async fn create_in(
    op: OperationalGuard,
    caller: Caller,
    namespace: NamespaceId,
    new: bodies::NewUser,
) -> Result<Reply, Error> {
    create_picked(&op, &caller, Some(namespace), new).await
}

async fn create_picked(
    op: &OperationalGuard,
    caller: &Caller,
    namespace: Option<NamespaceId>,
    new: bodies::NewUser,
) -> Result<Reply, Error> {
    let name = UserName::parse(&op.picked_name()).map_err(|why| Error::internal(why.to_string()))?;
    let id = UserId { namespace, name };
    create(op, caller, id.clone(), new).await?;
    let reply = Reply::json(&Created { id: id.to_string() })?;
    Ok(reply.status(StatusCode::CREATED).at(format!("{BASE}/users/{id}")))
}

/// `PUT /users/{user}`
pub async fn create_as(op: OperationalGuard, caller: Caller, id: UserId, new: bodies::NewUser) -> Result<Reply, Error> {
    let location = format!("{BASE}/users/{id}");
    create(&op, &caller, id, new).await?;
    Ok(Reply::created().at(location))
}

async fn create(op: &OperationalGuard, caller: &Caller, id: UserId, new: bodies::NewUser) -> Result<(), Error> {
    let new = NewUser { real_name: new.real_name, role: new.role, passphrase: new.passphrase };
    new.check()?;
    let target = op.users().reach(caller, id, UserAccess::Manage).await.map_err(|error| match error {
        Error::Forbidden(None) if caller.is_root() => {
            Error::Forbidden(Some("R-User trying to create N-User for an already created namespace".into()))
        }
        Error::Forbidden(None) => Error::Forbidden(Some("N-User trying to create user for another namespace".into())),
        other => other,
    })?;
    op.users().create(caller, &target, new).await
}

/// `GET /users/{user}`
pub async fn read(_: OperationalGuard, _: Caller, user: FoundUser, (): ()) -> Result<Reply, Error> {
    Ok(Reply::ok(represent::user(&user.row.record)?))
}

/// `DELETE /users/{user}`
pub async fn delete(op: OperationalGuard, caller: Caller, user: FoundUser, (): ()) -> Result<Reply, Error> {
    op.users().delete(&caller, &user.target).await?;
    Ok(Reply::no_content())
}

/// `POST /users/{user}/passphrase`
pub async fn set_passphrase(
    op: OperationalGuard,
    caller: Caller,
    user: FoundUser,
    body: bodies::NewPassphrase,
) -> Result<Reply, Error> {
    op.users().set_passphrase(&caller, &user.target, &body.passphrase).await?;
    Ok(Reply::no_content())
}

/// `GET /users/{user}/tags`: Operators only.
pub async fn tags(_: OperationalGuard, _: Caller, user: FoundUser, (): ()) -> Result<Reply, Error> {
    if user.row.record.role != Role::Operator {
        return Err(Error::not_found());
    }
    Reply::json(&user.row.record.tags)
}

/// `PUT /users/{user}/tags/{tag}`
pub async fn add_tag(
    op: OperationalGuard,
    caller: Caller,
    (target, tag): (UserTarget, Tag),
    (): (),
) -> Result<Reply, Error> {
    Ok(put_into_set(op.users().add_tag(&caller, &target, tag.as_str()).await?))
}

/// `DELETE /users/{user}/tags/{tag}`
pub async fn remove_tag(
    op: OperationalGuard,
    caller: Caller,
    (target, tag): (UserTarget, Tag),
    (): (),
) -> Result<Reply, Error> {
    // Only Operators have tags.
    let removed = op.users().remove_tag(&caller, &target, tag.as_str()).await;
    taken_from_set(removed.map_err(|error| if let Error::Invalid { .. } = error { Error::not_found() } else { error }))
}
