//! The HTTP side of one HSM: from a request to its response.
//!
//! A path leads to an endpoint, whose response is formed in `respond.rs`, or else to a page outside the API. This file
//! does what applies to every request: it charges memory to the client's account, measures the time, and adds the
//! headers that all responses have.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use casemate_api::limits::{CHANGES_RUNNING_MAX, REQUEST_BYTES};
use casemate_core::Hsm;
use casemate_core::runtime::{BoxFuture, Clock, stale};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};

use super::access::FailedState;
use super::budget::NoRoom;
use super::context::{AuditProgress, RequestContext};
use super::endpoint::Endpoint;
use super::gate;
use super::negotiate;
use super::pages;
use super::respond::{charge, drain, no_room, refuse, succeed, unix_time};
use super::route::Routes;
use super::running_changes::RunningChanges;
use super::serve::{Peer, ReplyBody, Service};
use super::trail;
use crate::observe::metrics::{EndpointName, Metrics};
use crate::update::Updates;

/// The HTTP side of one HSM.
pub struct Edge {
    hsm: Arc<Hsm>,
    routes: Routes,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    updates: Arc<Updates>,
    failed: FailedState,
    openapi: Bytes,
    changes: Arc<RunningChanges>,
}

impl Edge {
    /// Answers requests for `hsm`; `failed` decides who may call while it is Failed.
    pub fn new(
        hsm: Arc<Hsm>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        updates: Arc<Updates>,
        failed: FailedState,
    ) -> Arc<Self> {
        let routes = Routes::new(super::endpoints::table());
        let openapi = super::openapi::document(&routes, failed).into();
        let mut endpoints = routes.endpoints();
        endpoints.sort_by_key(|endpoint| endpoint.number);
        let endpoint =
            |endpoint: &&Arc<Endpoint>| EndpointName { method: endpoint.spec.name(), path: endpoint.spec.path };
        metrics.set_endpoints(endpoints.iter().map(endpoint).collect());
        Arc::new(Self {
            hsm,
            routes,
            clock,
            metrics,
            updates,
            failed,
            openapi,
            changes: RunningChanges::new(CHANGES_RUNNING_MAX),
        })
    }

    /// Answers one request. What does not wait is done at once, so that the future holds neither the request nor what was
    /// looked up for it: every byte of a future is wiped when it ends.
    pub fn answer(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> BoxFuture<'static, Response<ReplyBody>> {
        let begun = self.clock.monotonic();
        let head = *request.method() == Method::HEAD;
        // At debug level, not at info as in NetHSM: two lines for each signature would be a considerable load.
        tracing::debug!(target: "http.access", "request {} {}", request.method(), request.uri());
        let path = negotiate::decode_path(request.uri().path());
        let found = self.routes.find(&path);
        let endpoint = found.as_ref().and_then(|(resource, _)| resource.endpoint(request.method()));
        let number = endpoint.map(|endpoint| endpoint.number);
        let answering = Answering { edge: self.clone(), begun, head, number };
        let grant = match peer.account.grant(REQUEST_BYTES + head_bytes(&request)) {
            Ok(grant) => grant,
            Err(NoRoom) => {
                let refusal = if request.body().is_end_stream() { no_room() } else { no_room().closing() };
                let response = self.with_common_headers(refuse(refusal, None));
                return Box::pin(std::future::ready(answering.end(response)));
            }
        };
        let Some((resource, ids)) = found else {
            let response = pages::answer(&self.hsm, &self.openapi, request.method(), &path);
            return Box::pin(std::future::ready(answering.end(response.map(|body| body.holding(grant)))));
        };
        let address = peer.address.ip();
        match gate::route(&self.hsm, resource, &request) {
            Err(refusal) => {
                if let Some(endpoint) = endpoint {
                    trail::refused(&self.hsm, &endpoint.spec, &refusal, address, None, &ids);
                }
                let (head, body) = request.into_parts();
                Box::pin(async move {
                    let kept = drain(&head.headers, Some(body)).await;
                    let refusal = if kept { refusal } else { refusal.closing() };
                    let response = answering.edge.with_common_headers(refuse(refusal, None));
                    answering.end(response.map(|body| body.holding(grant)))
                })
            }
            Ok(endpoint) => {
                let query = request.uri().query().map(str::to_owned);
                let (head, incoming) = request.into_parts();
                let spec = endpoint.spec.clone();
                let reply = (endpoint.run)(RequestContext {
                    hsm: self.hsm.clone(),
                    address,
                    metrics: self.metrics.clone(),
                    ids,
                    query,
                    updates: self.updates.clone(),
                    spec: spec.clone(),
                    failed: self.failed,
                    clock: self.clock.clone(),
                    method: head.method,
                    headers: head.headers,
                    body: Some(incoming),
                    left_over: None,
                    grant: grant.clone(),
                    changes: self.changes.clone(),
                    audit_progress: AuditProgress::Anonymous,
                });
                Box::pin(async move {
                    let (reply, age) = stale::within(spec.tolerance, reply).await;
                    let reply = reply.and_then(|reply| charge(reply, &grant, &spec));
                    let mut response = answering.edge.with_common_headers(match reply {
                        Ok(reply) => succeed(reply, &spec),
                        Err(refusal) => refuse(refusal, Some(&spec)),
                    });
                    if !age.is_zero() {
                        // Rounded up: it is never older than told.
                        let seconds = age.as_millis().div_ceil(1_000).to_string();
                        response.headers_mut().extend(HeaderValue::try_from(seconds).map(|age| (STALE, age)));
                    }
                    if spec.no_cache {
                        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                    }
                    answering.end(response.map(|body| body.holding(grant)))
                })
            }
        }
    }

    /// Adds the headers that every reply of the API has.
    fn with_common_headers(&self, mut response: Response<ReplyBody>) -> Response<ReplyBody> {
        let headers = response.headers_mut();
        headers.extend(date(unix_time(&self.hsm)).map(|date| (header::DATE, date)));
        headers
            .insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding, Accept-Charset, Accept-Language"));
        response
    }
}

impl Service for Edge {
    fn call(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> BoxFuture<'static, Response<ReplyBody>> {
        self.answer(request, peer)
    }
}

/// What is kept of a request until its response is there.
struct Answering {
    edge: Arc<Edge>,
    /// Monotonic time at its start.
    begun: Duration,
    /// Whether it is a HEAD request.
    head: bool,
    /// The number of its endpoint.
    number: Option<usize>,
}

impl Answering {
    /// Logs and counts the response.
    fn end(self, mut response: Response<ReplyBody>) -> Response<ReplyBody> {
        if self.head {
            *response.body_mut() = ReplyBody::empty();
        }
        let (code, took) = (response.status().as_u16(), self.edge.clock.monotonic().saturating_sub(self.begun));
        tracing::debug!(target: "http.access", "response {code} response time {:.6}", took.as_secs_f64());
        self.edge.metrics.reply(self.number, code, took);
        response
    }
}

/// The `Date` header at `now`, the time since 1970 in whole seconds (RFC 9110 §6.6.1).
fn date(now: Duration) -> Option<HeaderValue> {
    thread_local! {
        /// The last one: it is the same for all replies of a second.
        static LAST: RefCell<Option<(Duration, HeaderValue)>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| {
        if last.as_ref().is_none_or(|(second, _)| *second != now) {
            let text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + now);
            *last = HeaderValue::from_str(&text).ok().map(|value| (now, value));
        }
        last.as_ref().map(|(_, value)| value.clone())
    })
}

/// How old the oldest thing was that an answer without a majority rests on, in seconds.
const STALE: HeaderName = HeaderName::from_static("casemate-stale");

/// Memory used by the head of a request, in bytes.
fn head_bytes(request: &Request<Incoming>) -> usize {
    let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES);
    lines.sum()
}

/// Overhead of a header besides its text, in bytes.
const HEADER_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_that_of_its_second() {
        for (second, expected) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_778, "Sun, 06 Nov 1994 08:49:38 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            assert_eq!(date(Duration::from_secs(second)).unwrap(), expected);
        }
    }
}
