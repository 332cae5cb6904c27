//! `/config*`.

use casemate_api::body::config::{ChangePassphrase, Switch, UnattendedBoot};
use casemate_core::Error;
use casemate_core::caller::Caller;

use crate::http::reply::Reply;
use crate::http::row::Op;

/// `PUT /config/unlock-passphrase`
pub async fn set_unlock_passphrase(op: Op, _: Caller, (): (), body: ChangePassphrase) -> Result<Reply, Error> {
    op.change_unlock_passphrase(&body.new_passphrase, &body.current_passphrase).await?;
    Ok(Reply::no_content())
}

/// `GET /config/unattended-boot`
pub async fn unattended_boot(op: Op, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    let status = if op.unattended_boot().await? { Switch::On } else { Switch::Off };
    Reply::json(&UnattendedBoot { status })
}

/// `PUT /config/unattended-boot`
pub async fn set_unattended_boot(op: Op, _: Caller, (): (), body: UnattendedBoot) -> Result<Reply, Error> {
    op.set_unattended_boot(body.status == Switch::On).await?;
    Ok(Reply::no_content())
}
