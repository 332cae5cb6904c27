//! `/config*`.

use std::sync::Arc;

use casemate_api::body::config::{
    ChangePassphrase, Logging, Network, Ntp, Switch, Time, UnattendedBoot, WithoutMajority,
};
use casemate_core::config::time_text;
use casemate_core::identity::caller::Caller;
use casemate_core::{Error, Hsm};

use crate::http::endpoint::OperationalGuard;
use crate::http::reply::Reply;
use crate::http::represent;

/// `PUT /config/unlock-passphrase`
pub async fn set_unlock_passphrase(
    op: OperationalGuard,
    caller: Caller,
    (): (),
    body: ChangePassphrase,
) -> Result<Reply, Error> {
    op.change_unlock_passphrase(&caller, &body.new_passphrase, &body.current_passphrase).await?;
    Ok(Reply::no_content())
}

/// `PUT /config/backup-passphrase`
pub async fn set_backup_passphrase(
    op: OperationalGuard,
    caller: Caller,
    (): (),
    body: ChangePassphrase,
) -> Result<Reply, Error> {
    op.backups().change_passphrase(&caller, &body.new_passphrase, &body.current_passphrase).await?;
    Ok(Reply::no_content())
}

/// `GET /config/unattended-boot`
pub async fn unattended_boot(op: OperationalGuard, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    Ok(Reply::ok(represent::unattended_boot(&op).await?))
}

/// `PUT /config/unattended-boot`
pub async fn set_unattended_boot(
    op: OperationalGuard,
    caller: Caller,
    (): (),
    body: UnattendedBoot,
) -> Result<Reply, Error> {
    op.set_unattended_boot(&caller, body.status == Switch::On).await?;
    Ok(Reply::no_content())
}

/// `GET /config/without-majority`. An extension of Casemate.
pub async fn without_majority(op: OperationalGuard, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    Reply::json(&op.config().without_majority().await?)
}

/// `PUT /config/without-majority`
pub async fn set_without_majority(
    op: OperationalGuard,
    caller: Caller,
    (): (),
    body: WithoutMajority,
) -> Result<Reply, Error> {
    op.config().set_without_majority(&caller, body).await?;
    Ok(Reply::no_content())
}

/// `GET /config/network`
pub async fn network(op: OperationalGuard, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    Ok(Reply::ok(represent::network(&op).await?))
}

/// `PUT /config/network`
pub async fn set_network(op: OperationalGuard, caller: Caller, (): (), body: Network) -> Result<Reply, Error> {
    op.config().set_network(&caller, &body).await?;
    Ok(Reply::no_content())
}

/// `GET /config/logging`
pub async fn logging(op: OperationalGuard, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    Ok(Reply::ok(represent::logging(&op).await?))
}

/// `PUT /config/logging`
pub async fn set_logging(op: OperationalGuard, caller: Caller, (): (), body: Logging) -> Result<Reply, Error> {
    op.config().set_logging(&caller, &body).await?;
    Ok(Reply::no_content())
}

/// `GET /config/ntp`
pub async fn ntp(op: OperationalGuard, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    Reply::json(&op.config().ntp().await?)
}

/// `PUT /config/ntp`
pub async fn set_ntp(op: OperationalGuard, caller: Caller, (): (), body: Ntp) -> Result<Reply, Error> {
    op.config().set_ntp(&caller, &body).await?;
    Ok(Reply::no_content())
}

/// `GET /config/time`
pub async fn time(_: OperationalGuard, _: Caller, hsm: Arc<Hsm>, (): ()) -> Result<Reply, Error> {
    Reply::json(&Time { time: time_text(hsm.now()) })
}

/// `PUT /config/time`
pub async fn set_time(op: OperationalGuard, caller: Caller, (): (), body: Time) -> Result<Reply, Error> {
    op.config().set_time(&caller, &body.time).await?;
    Ok(Reply::no_content())
}
