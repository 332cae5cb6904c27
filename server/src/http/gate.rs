//! The order of refusals, written once, to be read from top to bottom. Clients depend on it.
//!
//! path 404 → state 412 → method unknown 501 → target too long 414 → method not allowed 405 → not without a majority 503 →
//! credentials 401, 429 → role, namespace and target 403 → early Content-Type 415 → length 413 → Accept 406 → id 400, existence 404 → conditions 412,
//! 304 → Content-Type 415 → body 400 → errors of the HSM.
//!
//! Paths without an endpoint do not get here: [`super::edge`] passes them to the pages outside the API, which answer
//! `404`. The conditions of a GET are evaluated against its reply, in `conditions.rs`.
//!
//! The Operational phase is not held while the body is read, so a slow client cannot keep the HSM from locking. What
//! the path names is looked up after that, so that the order of answers is kept.

use std::sync::Arc;

use casemate_api::limits::TARGET_MAX_CHARS;
use casemate_api::sentences;
use casemate_core::runtime::stale::Tolerance;
use casemate_core::{Error, Hsm};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::access::Rule;
use super::body::{self, BodyError};
use super::context::{AuditProgress, RequestContext};
use super::endpoint::{Decoded, Endpoint, FindReachable, Handler, PhaseAccess, TypedEndpoint};
use super::negotiate::{self, Current, Verdict};
use super::reply::{Refusal, Reply};
use super::route::Resource;

/// Refuses what can be refused without credentials; otherwise returns the endpoint.
pub(super) fn route<'a>(
    hsm: &Hsm,
    resource: &'a Resource,
    request: &Request<Incoming>,
) -> Result<&'a Arc<Endpoint>, Refusal> {
    // 403: sent by a browser on behalf of a page of another site.
    if is_cross_site(request) {
        return Err(Refusal::bare(StatusCode::FORBIDDEN));
    }

    // 412: no endpoint of this path is available in this state.
    let state = hsm.state();
    let open = |endpoint: &Arc<Endpoint>| endpoint.spec.access.iter().any(|(open, _)| *open == state);
    if !resource.endpoints.iter().any(open) {
        return Err(Refusal::wrong_state());
    }

    // 501: unknown method.
    if !METHODS.contains(request.method()) {
        return Err(Refusal::bare(StatusCode::NOT_IMPLEMENTED));
    }

    // 414: the target is too long.
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > TARGET_MAX_CHARS {
        return Err(Refusal::bare(StatusCode::URI_TOO_LONG));
    }

    // 405: the path does not have this method. 412: the method is not available in this state, but another one is.
    let endpoint = resource
        .endpoint(request.method())
        .ok_or_else(|| Refusal::bare(StatusCode::METHOD_NOT_ALLOWED).with("allow", resource.allow()))?;
    if !open(endpoint) {
        return Err(Refusal::wrong_state());
    }

    // 503: the node goes on without a majority, and not with this. Credentials, too, could not be checked as they are to be for it.
    let public = endpoint.spec.access.contains(&(state, Rule::Public));
    if endpoint.spec.tolerance == Tolerance::Nothing && !public && hsm.stale().is_some() {
        return Err(Refusal::because(StatusCode::SERVICE_UNAVAILABLE, sentences::ONLY_USES).with("retry-after", "1"));
    }
    Ok(endpoint)
}

/// Everything from the credentials to the reply.
pub(super) async fn pass<C, F, B, H>(
    context: &mut RequestContext,
    endpoint: Arc<TypedEndpoint<F, B, H>>,
) -> Result<Reply, Refusal>
where
    C: PhaseAccess,
    F: FindReachable<C>,
    B: Send + 'static,
    H: Handler<C, F::Found, B>,
{
    let find = &endpoint.find;
    let spec = context.spec.clone();
    let core = |error: Error| Refusal::from_core(error, &spec);

    // 412: the phase has ended since the state was read.
    let mut phase = C::enter(&context.hsm).ok_or_else(Refusal::wrong_state)?;

    // 401, 429: authentication.
    let known = context.authenticated(&phase).await?;
    if known.is_some() && context.audit_progress == AuditProgress::Anonymous {
        context.audit_progress = AuditProgress::Authenticated;
    }

    // 403: role and namespace, then whether the caller may reach this target. A malformed id is 400 before that, where
    // the contract requires it.
    find.check_id(context).map_err(core)?;
    let known = match known {
        // Boxed because it is rare.
        Some(known) if context.refuses(&known) => Box::pin(context.authenticated_anew(&phase, known)).await?,
        known => known,
    };
    let mut caller = C::caller(context.permitted(known)?)?;
    let mut reached = find.reach(&phase, &caller, context).await.map_err(core)?;

    // 415 where it is checked early, 413, 406.
    context.check_early_type()?;
    context.check_length()?;
    context.check_accept()?;

    // The body: 408, 413, 503, or 400 if its framing is broken.
    let mut sent = body::Received::default();
    if context.takes_body() && !spec.body.streamed() {
        drop(phase);
        sent = context.read_body().await?;
        // Much can change while a body arrives: the state, the caller's rights, the caller.
        phase = C::enter(&context.hsm).ok_or_else(Refusal::wrong_state)?;
        caller = C::caller(context.still_allowed(&phase, C::known(caller)).await?)?;
        reached = find.reach(&phase, &caller, context).await.map_err(core)?;
    }

    // 400, 404: the id, and whether what it names exists.
    let found = match find.find(&phase, &caller, reached, context).await {
        Ok(found) => found,
        // `If-Match` on something that does not exist is 412, which comes before 404.
        Err(Error::NotFound(_)) if context.verdict(Current::Missing) == Verdict::Failed => {
            return Err(Refusal::bare(StatusCode::PRECONDITION_FAILED));
        }
        Err(error) => return Err(core(error)),
    };

    // 412: the conditions of a change.
    if !context.reads() && !context.conditions().is_empty() {
        // Boxed because it is rare.
        let content = Box::pin(find.represent(&phase, &caller, &found)).await;
        if context.verdict(context.present(content).await.current()) == Verdict::Failed {
            return Err(Refusal::bare(StatusCode::PRECONDITION_FAILED));
        }
    }

    // 415: the Content-Type of the body.
    if context.takes_body() && !spec.body.types.accept(context.content_type()) {
        return Err(Refusal::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }

    // 400: the body.
    let body_bytes = sent.len();
    let body = endpoint.body.decode(sent, context).await?;

    // Errors of the HSM.
    context.act(endpoint, phase, Decoded { caller, found, body, body_bytes }).await
}

/// The methods not answered with 501.
const METHODS: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::TRACE,
    Method::CONNECT,
    Method::OPTIONS,
];

/// Tells from which site a browser sends a request (Fetch Metadata Request Headers, §2.4).
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a browser sends this on behalf of another site. Browsers remember Basic credentials, so any page could
/// otherwise make an administrator's browser change something here. Other clients do not send the header.
fn is_cross_site(request: &Request<Incoming>) -> bool {
    let reads = *request.method() == Method::GET || *request.method() == Method::HEAD;
    let site = request.headers().get(&SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    !reads && site.is_some_and(|site| site != b"same-origin" && site != b"none")
}

impl RequestContext {
    /// 415, where the Content-Type is checked before the body is read.
    fn check_early_type(&self) -> Result<(), Refusal> {
        let types = self.spec.body.types;
        if types.early() && !types.accept(self.content_type()) {
            return Err(Refusal::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        Ok(())
    }

    /// 413, by the declared length of the body.
    fn check_length(&self) -> Result<(), Refusal> {
        if let Some(length) = self.headers.get(header::CONTENT_LENGTH) {
            let length = length.to_str().ok().and_then(|length| length.parse::<usize>().ok());
            if length.is_none_or(|length| length > self.spec.body.max_bytes) {
                return Err(Refusal::bare(StatusCode::PAYLOAD_TOO_LARGE));
            }
        }
        Ok(())
    }

    /// 406, by the Accept headers.
    fn check_accept(&self) -> Result<(), Refusal> {
        let lines = |name: HeaderName| self.headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        let acceptable = negotiate::accepts(lines(header::ACCEPT), self.spec.media.essence())
            && negotiate::accepts_identity(lines(header::ACCEPT_ENCODING));
        if acceptable { Ok(()) } else { Err(Refusal::bare(StatusCode::NOT_ACCEPTABLE)) }
    }

    /// Reads the body, or refuses if it does not arrive as required.
    async fn read_body(&mut self) -> Result<body::Received, Refusal> {
        let limit = self.spec.body.max_bytes;
        let Some(incoming) = self.body.take() else { return Ok(body::Received::default()) };
        let read = body::read(incoming, limit, &self.grant, &*self.clock).await;
        let close = |status, why: &'static str| Err(Refusal::because(status, why).closing());
        match read {
            Ok(body) => Ok(body),
            Err(BodyError::TooLarge) => Err(Refusal::bare(StatusCode::PAYLOAD_TOO_LARGE).closing()),
            Err(BodyError::Slow) => close(StatusCode::REQUEST_TIMEOUT, "The body came too slowly."),
            Err(BodyError::Busy) => {
                let refusal = Refusal::because(StatusCode::SERVICE_UNAVAILABLE, sentences::TOO_MANY_BODIES);
                Err(refusal.with("retry-after", "1").closing())
            }
            Err(BodyError::Gone) => close(StatusCode::BAD_REQUEST, "The body was cut off."),
        }
    }
}
