//! `/info`, `/health/*` (but `diagnose`), `/metrics*`.

use std::sync::Arc;
use std::time::Duration;

use casemate_api::body::system::{HealthState, Info};
use casemate_core::identity::caller::Caller;
use casemate_core::{Error, Hsm};

use crate::http::endpoint::OperationalGuard;
use crate::http::reply::Reply;
use crate::observe::metrics::Metrics;
use crate::observe::prometheus;

/// `GET /info`
pub async fn info(_: Arc<Hsm>, _: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    Reply::json(&Info { vendor: "Casemate".into(), product: "Casemate".into() })
}

/// `GET /health/alive`: the states in which the endpoint is available are the answer.
pub async fn alive(_: Arc<Hsm>, _: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    Ok(Reply::ok(""))
}

/// `GET /health/ready`: the states in which the endpoint is available are the answer.
pub async fn ready(_: Arc<Hsm>, _: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    Ok(Reply::ok(""))
}

/// `GET /health/state`
pub async fn state(hsm: Arc<Hsm>, _: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    Reply::json(&HealthState { state: hsm.state() })
}

/// `GET /metrics`
pub async fn metrics(
    _: OperationalGuard,
    _: Caller,
    (metrics, now): (Arc<Metrics>, Duration),
    (): (),
) -> Result<Reply, Error> {
    Ok(Reply::ok(metrics.json(now)))
}

/// `GET /metrics/prometheus`
pub async fn prometheus(op: OperationalGuard, _: Caller, found: HsmMetrics, (): ()) -> Result<Reply, Error> {
    // The text reads the phase from the HSM, as the metrics listener does, so this call need not hold it.
    drop(op);
    let (hsm, metrics, now) = found;
    Ok(Reply::ok(prometheus::text(&metrics, &hsm, now)))
}

type HsmMetrics = (Arc<Hsm>, Arc<Metrics>, Duration);
