//! `/provision`, `/unlock`, `/lock`.

use std::net::IpAddr;
use std::sync::Arc;

use casemate_api::body::system::{Provision, Unlock};
use casemate_core::identity::caller::Caller;
use casemate_core::{Error, Hsm};

use crate::http::endpoint::OperationalGuard;
use crate::http::json::JsonError;
use crate::http::reply::Reply;

/// `POST /provision`
pub async fn provision(hsm: Arc<Hsm>, _: Option<Caller>, (): (), wanted: Provision) -> Result<Reply, Error> {
    hsm.provision(wanted.unlock_passphrase, wanted.admin_passphrase, &wanted.system_time).await?;
    Ok(Reply::no_content())
}

/// `POST /unlock`: broken JSON is refused first and not counted; then the rate limit applies; failures after that are
/// counted.
pub async fn unlock(
    hsm: Arc<Hsm>,
    _: Option<Caller>,
    address: IpAddr,
    body: Result<Unlock, JsonError>,
) -> Result<Reply, Error> {
    match body {
        Err(syntax @ JsonError::Syntax(_)) => return Err(syntax.into()),
        Err(schema @ JsonError::Schema(_)) => {
            hsm.failed_unlock(address)?;
            return Err(schema.into());
        }
        Ok(Unlock { passphrase }) => hsm.unlock(address, &passphrase).await?,
    }
    Ok(Reply::no_content())
}

/// `POST /lock`: the caller's own guard of the phase ends with the call.
pub async fn lock(op: OperationalGuard, caller: Caller, hsm: Arc<Hsm>, (): ()) -> Result<Reply, Error> {
    hsm.lock(op.into_inner(), &caller).await?;
    Ok(Reply::no_content())
}
