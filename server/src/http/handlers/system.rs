//! `/random` and `/system/*`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::body::system::{Random, RandomRequest, SystemInfo};
use casemate_api::limits::RANDOM_MAX_BYTES;
use casemate_core::caller::Caller;
use casemate_core::{Error, Hsm};
use zeroize::Zeroizing;

use crate::http::reply::Reply;
use crate::http::row::Op;

/// `POST /random`
pub async fn random(op: Op, _: Caller, (): (), body: RandomRequest) -> Result<Reply, Error> {
    let length = usize::try_from(body.length).ok().filter(|length| (1..=RANDOM_MAX_BYTES).contains(length));
    let length = length
        .ok_or_else(|| Error::invalid("Invalid data for JSON schema: length: length must be between 1 and 1024"))?;
    let random = Zeroizing::new(BASE64_STANDARD.encode(&*op.random(length)));
    Reply::json(&Random { random })
}

/// `GET /system/info`
pub async fn info(op: Op, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    let version = env!("CARGO_PKG_VERSION");
    let mut parts = version.split('.');
    let (major, minor) = (parts.next().unwrap_or("0"), parts.next().unwrap_or("0"));
    Reply::json(&SystemInfo {
        software_version: format!("{major}.{minor}"),
        software_build: version.to_owned(),
        firmware_version: "N/A".into(),
        hardware_version: "N/A".into(),
        device_id: op.device_id().to_owned(),
        ak_pub: BTreeMap::new(),
        pcr: BTreeMap::new(),
    })
}

/// `POST /system/reboot`
pub async fn reboot(hsm: Arc<Hsm>, _: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    hsm.reboot().await;
    Ok(Reply::no_content())
}

/// `POST /system/shutdown`
pub async fn shutdown(hsm: Arc<Hsm>, _: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    hsm.shutdown().await;
    Ok(Reply::no_content())
}

/// `POST /system/factory-reset`
pub async fn factory_reset(hsm: Arc<Hsm>, caller: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    hsm.factory_reset(caller.as_ref()).await?;
    Ok(Reply::no_content())
}
