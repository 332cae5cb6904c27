//! The order of refusals, written once. Real clients depend on it.
//!
//! route 404 → state 412 → method unknown 501 → target too long 414 → method not allowed 405 → credentials 401, 429 → role,
//! namespace and target 403 → early Content-Type 415 → length 413 → Accept 406 → id 400, existence 404 → conditions 412,
//! 304 → Content-Type 415 → body 400 → whatever the HSM says.
//!
//! The body is read in between, and while that lasts nobody holds the Operational phase: a slow client cannot keep the
//! HSM from locking. What the path leads to is looked up afterwards, so that the order of answers is kept.

use std::sync::Arc;

use casemate_api::limits::{PART_HEAD_MAX_BYTES, REPLY_STREAM_BYTES, REQUEST_BYTES, TARGET_MAX_CHARS};
use casemate_api::sentences;
use casemate_core::caller::Scope;
use casemate_core::party::Party;
use casemate_core::{Error, Hsm};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::body::{self, BodyError};
use super::budget::NoRoom;
use super::context::{RequestContext, Trail};
use super::decode::{Body, How};
use super::endpoint::{Column, Endpoint, FindReachable, Handler, Spec};
use super::negotiate::{self, Current, Verdict};
use super::reply::{Refusal, Reply};
use super::respond::{broken, no_room};
use super::route::Resource;
use super::upload::LeftOver;

/// Whether a browser sends this for another site than ours. Browsers remember Basic credentials, so a page anywhere could
/// otherwise have an administrator's browser change something here. Other clients do not send the header.
pub(super) fn is_cross_site(request: &Request<Incoming>) -> bool {
    let reads = *request.method() == Method::GET || *request.method() == Method::HEAD;
    let site = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
    !reads && site.is_some_and(|site| site != b"same-origin" && site != b"none")
}

/// Steps 2 to 5: what can be refused by path, state and method alone.
pub(super) fn route<'a>(
    hsm: &Hsm,
    resource: &'a Resource,
    method: &Method,
    uri: &hyper::Uri,
) -> Result<&'a Arc<Endpoint>, Refusal> {
    let state = hsm.state();
    let open = |endpoint: &Arc<Endpoint>| endpoint.spec.access.iter().any(|(open, _)| *open == state);
    if !resource.endpoints.iter().any(open) {
        return Err(Refusal::wrong_state());
    }
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::TRACE,
        Method::CONNECT,
        Method::OPTIONS,
    ];
    if !known.contains(method) {
        return Err(Refusal::bare(StatusCode::NOT_IMPLEMENTED));
    }
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > TARGET_MAX_CHARS {
        return Err(Refusal::bare(StatusCode::URI_TOO_LONG));
    }
    let endpoint = resource.endpoint(method);
    let endpoint =
        endpoint.ok_or_else(|| Refusal::bare(StatusCode::METHOD_NOT_ALLOWED).with("allow", resource.allow()))?;
    if open(endpoint) { Ok(endpoint) } else { Err(Refusal::wrong_state()) }
}

pub(super) async fn pass<C, F, B, H>(context: &mut RequestContext, own: Arc<(F, Body<B>, H)>) -> Result<Reply, Refusal>
where
    C: Column,
    F: FindReachable<C>,
    B: Send + 'static,
    H: Handler<C, F::Found, B>,
{
    let (find, takes, handler) = &*own;
    let spec = context.spec.clone();
    let core = |error: Error| Refusal::from_core(error, &spec);
    let mut column = C::enter(&context.hsm).ok_or_else(Refusal::wrong_state)?;
    let known = context.authenticated(&column).await?;
    if known.is_some() && context.trail == Trail::Anonymous {
        context.trail = Trail::Believed;
    }
    find.check_id(context).map_err(core)?;
    let mut caller = C::caller(context.permitted(known)?)?;
    let mut reached = find.reach(&column, &caller, context).await.map_err(core)?;
    context.check_head(&spec)?;
    let mut sent = body::Received::default();
    if context.takes_body() && !spec.takes.streamed() {
        drop(column);
        sent = context.read_body(&spec).await?;
        // A body may take its time, in which much can change: the state, the caller's rights, the caller.
        column = C::enter(&context.hsm).ok_or_else(Refusal::wrong_state)?;
        caller = C::caller(context.still_allowed(&column, C::known(caller)).await?)?;
        reached = find.reach(&column, &caller, context).await.map_err(core)?;
    }

    let found = match find.find(&column, &caller, reached, context).await {
        Ok(found) => found,
        // `If-Match` on something that is not there fails before its absence does.
        Err(Error::NotFound(_)) if context.verdict(Current::Missing) == Verdict::Failed => {
            return Err(Refusal::bare(StatusCode::PRECONDITION_FAILED));
        }
        Err(error) => return Err(core(error)),
    };
    let reads = context.reads();
    if !reads && !context.conditions().is_empty() {
        // In a box, for it is rare.
        let content = Box::pin(find.represent(&column, &caller, &found)).await;
        if context.verdict(context.present(content).await.current()) == Verdict::Failed {
            return Err(Refusal::bare(StatusCode::PRECONDITION_FAILED));
        }
    }
    if context.takes_body() && !spec.takes.types.accept(context.content_type()) {
        return Err(Refusal::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let left_over = LeftOver::default();
    let length = sent.len();
    let input = match &takes.decode {
        How::Now(decode) => {
            let (decode, hsm, grant) = (*decode, &context.hsm, context.grant.clone());
            let party = Party::Address(context.address.into());
            // The body goes with that: it makes room for the copies that are to be made of what is in it. It is counted as
            // long as the pool has it, also if the client leaves.
            let decode = move || {
                let body = sent.into_body();
                let input = decode(&body);
                drop((body, grant));
                input
            };
            hsm.by_size(length, party, decode).await.and_then(|input| input).map_err(core)?
        }
        How::Typed(decode) => {
            let (header, hsm) = (context.content_type().map(<[u8]>::to_vec), context.hsm.clone());
            // Counted as long as the pool has it, also if the client leaves.
            let (party, grant) = (Party::Address(context.address.into()), context.grant.clone());
            let sent = hsm.by_size(length, party, move || sent.into_body().counted(grant)).await.map_err(core)?;
            decode(hsm, party, header, sent).await.map_err(core)?
        }
        How::Streamed(take) => {
            // What waits of it, and what is made of that.
            context.grant.cover(REQUEST_BYTES + 2 * PART_HEAD_MAX_BYTES).map_err(|NoRoom| no_room())?;
            take(context.upload(&left_over))
        }
    };
    if spec.changes() {
        let own = own.clone();
        let scope = C::user(&caller).and_then(|caller| caller.scope().ok());
        let party = scope.map_or_else(|| Party::Address(context.address.into()), Scope::party);
        // In a box at once: some of these are large, and would be moved about on the stack of a serving thread.
        let change = Box::pin(async move { own.2.call(column, caller, found, input).await });
        let result = context.carry_out(party, change).await;
        context.body = left_over.take();
        return result;
    }
    if spec.lists {
        // What is gathered for a list before it is one.
        context.grant.cover(REQUEST_BYTES + REPLY_STREAM_BYTES).map_err(|NoRoom| no_room())?;
    }
    let reply = if length > REQUEST_BYTES {
        // To its end even if the client leaves: the pool goes on holding the input, so it is to go on being counted.
        let (own, grant) = (own.clone(), context.grant.clone());
        let run = Box::pin(async move {
            let reply = own.2.call(column, caller, found, input).await;
            drop(grant);
            reply
        });
        tokio::spawn(run).await.map_err(|_| broken())?
    } else {
        handler.call(column, caller, found, input).await
    };
    let reply = reply.map_err(core)?;
    if reads { context.conditional(reply, &spec).await } else { Ok(reply) }
}

impl RequestContext {
    /// Steps 8 to 11: what the other headers may be refused for.
    fn check_head(&self, spec: &Spec) -> Result<(), Refusal> {
        if spec.takes.types.early() && !spec.takes.types.accept(self.content_type()) {
            return Err(Refusal::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        if let Some(length) = self.headers.get(header::CONTENT_LENGTH) {
            let length = length.to_str().ok().and_then(|length| length.parse::<usize>().ok());
            if length.is_none_or(|length| length > spec.takes.max_bytes) {
                return Err(Refusal::bare(StatusCode::PAYLOAD_TOO_LARGE));
            }
        }
        let lines = |name: HeaderName| self.headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        let acceptable = negotiate::accepts(lines(header::ACCEPT), spec.media.essence())
            && negotiate::accepts_identity(lines(header::ACCEPT_ENCODING));
        if acceptable { Ok(()) } else { Err(Refusal::bare(StatusCode::NOT_ACCEPTABLE)) }
    }

    async fn read_body(&mut self, spec: &Spec) -> Result<body::Received, Refusal> {
        let limit = spec.takes.max_bytes;
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
            Err(BodyError::Gone) => close(StatusCode::BAD_REQUEST, "The body broke off."),
        }
    }
}
