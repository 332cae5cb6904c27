//! `/random` and `/system/*`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::body::system::{Random, RandomRequest, ReleaseNotes, SystemInfo};
use casemate_api::limits::RANDOM_MAX_BYTES;
use casemate_api::sentences;
use casemate_core::hsm::update::Version;
use casemate_core::identity::caller::Caller;
use casemate_core::identity::right::Held;
use casemate_core::{Error, Hsm};
use zeroize::Zeroizing;

use crate::http::endpoint::OperationalGuard;
use crate::http::reply::Reply;
use crate::http::upload::Upload;
use crate::update::{Updates, current_version};

/// `POST /random`
pub async fn random(op: OperationalGuard, _: Caller, (): (), body: RandomRequest) -> Result<Reply, Error> {
    let length = usize::try_from(body.length).ok().filter(|length| (1..=RANDOM_MAX_BYTES).contains(length));
    let length = length.ok_or_else(|| {
        Error::invalid_field("length", "Invalid data for JSON schema: length: length must be between 1 and 1024")
    })?;
    let random = Zeroizing::new(BASE64_STANDARD.encode(&*op.random(length)));
    Reply::json(&Random { random })
}

/// `GET /system/info`
pub async fn info(op: OperationalGuard, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    let Version { major, minor } = current_version();
    Reply::json(&SystemInfo {
        software_version: format!("{major}.{minor}"),
        software_build: env!("CARGO_PKG_VERSION").to_owned(),
        firmware_version: "N/A".into(),
        hardware_version: "N/A".into(),
        device_id: op.device_id().to_owned(),
        ak_pub: BTreeMap::new(),
        pcr: BTreeMap::new(),
    })
}

type Upgrades = (Arc<Hsm>, Arc<Updates>);

/// `POST /system/update`
pub async fn update(
    _: Arc<Hsm>,
    caller: Option<Caller>,
    (_, updates): Upgrades,
    mut image: Upload,
) -> Result<Reply, Error> {
    let release_notes = updates.receive(&mut image, caller).await?;
    Reply::json(&ReleaseNotes { release_notes })
}

/// `POST /system/commit-update`
pub async fn commit_update(
    _: Arc<Hsm>,
    caller: Option<Caller>,
    (hsm, updates): Upgrades,
    (): (),
) -> Result<Reply, Error> {
    updates.commit(confirm(&hsm, caller).await?).await?;
    hsm.start_over().await;
    Ok(Reply::no_content())
}

/// `POST /system/cancel-update`
pub async fn cancel_update(
    _: Arc<Hsm>,
    caller: Option<Caller>,
    (hsm, updates): Upgrades,
    (): (),
) -> Result<Reply, Error> {
    let _held = confirm(&hsm, caller).await?;
    updates.cancel()?;
    Ok(Reply::no_content())
}

/// Checks that an authenticated Administrator still has that right, and keeps it so until the result is dropped.
async fn confirm(hsm: &Hsm, caller: Option<Caller>) -> Result<Held, Error> {
    let caller = caller.ok_or(Error::Unauthenticated)?;
    let op = hsm.operational().ok_or(Error::Precondition(sentences::WRONG_STATE.into()))?;
    op.hold(&caller).await
}

/// `POST /system/reboot`
pub async fn reboot(hsm: Arc<Hsm>, caller: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    hsm.reboot(caller.as_ref()).await?;
    Ok(Reply::no_content())
}

/// `POST /system/shutdown`
pub async fn shutdown(hsm: Arc<Hsm>, caller: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    hsm.shutdown(caller.as_ref()).await?;
    Ok(Reply::no_content())
}

/// `POST /system/factory-reset`
pub async fn factory_reset(hsm: Arc<Hsm>, caller: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    hsm.factory_reset(caller.as_ref()).await?;
    Ok(Reply::no_content())
}
