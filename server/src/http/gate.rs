//! The order of refusals, written once. Real clients depend on it.
//!
//! route 404 → state 412 → method unknown 501 → target too long 414 → method not allowed 405 → credentials 401, 429 → role,
//! namespace and target 403 → early Content-Type 415 → length 413 → Accept 406 → id 400, existence 404 → conditions 412,
//! 304 → Content-Type 415 → body 400 → whatever the HSM says.
//!
//! The body is read in between, and while that lasts nobody holds the Operational phase: a slow client cannot keep the
//! HSM from locking. What the path leads to is looked up afterwards, so that the order of answers is kept.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use casemate_api::UserId;
use casemate_api::limits::{
    BODY_INLINE_MAX_BYTES, CHANGES_RUNNING_MAX, DRAIN_MAX_BYTES, DRAIN_MAX_MS, PART_HEAD_MAX_BYTES, REPLY_STREAM_BYTES,
    REQUEST_BYTES, TARGET_MAX_CHARS,
};
use casemate_api::sentences;
use casemate_core::caller::{Caller, Denied, Evidence, Failure, Scope, allows};
use casemate_core::party::Party;
use casemate_core::platform::{BoxFuture, Clock};
use casemate_core::{Error, Hsm, stall};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::body::{self, BodyError};
use super::budget::{Grant, NoRoom};
use super::decode::{Body, How};
use super::negotiate::{self, Basic, Conditions, Current, Effect, Verdict};
use super::pages;
use super::pieces::Pieces;
use super::places::Places;
use super::reply::{Content, Refusal, Reply};
use super::route::{Ids, Resource, Routes};
use super::row::{Column, FailedState, Find, Handler, Row, Rule, Spec};
use super::serve::{Peer, ReplyBody, Service};
use super::trail;
use super::upload::{LeftOver, Upload};
use crate::observe::metrics::{Endpoint, Metrics};
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
    changes: Arc<Places>,
}

/// Who asks for which row, and of whom: all that is needed to ask for their rights, and to ask again.
#[derive(Clone)]
pub struct Asking {
    /// The HSM.
    pub hsm: Arc<Hsm>,
    /// The client's address.
    pub address: IpAddr,
    /// The counters of this server.
    pub metrics: Arc<Metrics>,
    spec: Arc<Spec>,
    failed: FailedState,
    pub(super) clock: Arc<dyn Clock>,
}

/// One request on its way through the gate.
pub struct Call {
    /// Who asks for what.
    pub asking: Asking,
    /// The ids in the path.
    pub ids: Ids,
    /// What follows `?`.
    pub query: Option<String>,
    /// The updates of this server.
    pub updates: Arc<Updates>,
    method: Method,
    headers: HeaderMap,
    body: Option<Incoming>,
    /// The row that reads what this one would change, if that has an ETag.
    tagged: Option<Arc<Row>>,
    /// The memory it may take.
    grant: Arc<Grant>,
    changes: Arc<Places>,
    /// What the audit log knows of it.
    trail: Trail,
}

/// What the audit log knows of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trail {
    /// Nothing, and nobody was believed.
    Anonymous,
    /// Nothing, but the caller was believed.
    Believed,
    /// All there is to say, or it is a look of ours.
    Done,
}

/// What a changing request with conditions would change.
enum Present {
    /// Nobody asked.
    Untagged,
    /// Nothing is there.
    Missing,
    /// Something with this ETag.
    Tagged(String),
}

impl Present {
    fn current(&self) -> Current<'_> {
        match self {
            Present::Untagged => Current::Untagged,
            Present::Missing => Current::Missing,
            Present::Tagged(tag) => Current::Tagged(tag),
        }
    }
}

impl Edge {
    /// Everything that answers requests for `hsm`; `failed` says whom while that is Failed.
    pub fn new(
        hsm: Arc<Hsm>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        updates: Arc<Updates>,
        failed: FailedState,
    ) -> Arc<Self> {
        let routes = Routes::new(super::endpoints::table());
        let openapi = super::openapi::document(&routes, failed).into();
        let mut rows = routes.rows();
        rows.sort_by_key(|row| row.number);
        let endpoint = |row: &&Arc<Row>| Endpoint { method: row.spec.name(), path: row.spec.path };
        metrics.endpoints_are(rows.iter().map(endpoint).collect());
        Arc::new(Self {
            hsm,
            routes,
            clock,
            metrics,
            updates,
            failed,
            openapi,
            changes: Places::new(CHANGES_RUNNING_MAX),
        })
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response<ReplyBody> {
        let begun = self.clock.monotonic();
        let head = *request.method() == Method::HEAD;
        // At debug, not at info as in NetHSM: two lines for each signature are a load of their own.
        tracing::debug!(target: "http.access", "request {} {}", request.method(), request.uri());
        let path = negotiate::decode_path(request.uri().path()).into_owned();
        let found = self.routes.find(&path);
        let number = found.as_ref().and_then(|(resource, _)| resource.row(request.method())).map(|row| row.number);
        let mut response = match (peer.account.grant(REQUEST_BYTES + head_bytes(&request)), found) {
            (Err(NoRoom), _) => {
                let refusal = if request.body().is_end_stream() { no_room() } else { no_room().closing() };
                self.dressed(refuse(refusal, None))
            }
            (Ok(grant), Some((resource, ids))) => {
                let response = self.routed(resource, ids, request, peer.address.ip(), &grant).await;
                response.map(|body| body.holding(grant))
            }
            (Ok(grant), None) => {
                let response = pages::answer(&self.hsm, &self.openapi, request.method(), &path);
                response.map(|body| body.holding(grant))
            }
        };
        if head {
            *response.body_mut() = ReplyBody::empty();
        }
        let (code, took) = (response.status().as_u16(), self.clock.monotonic().saturating_sub(begun));
        tracing::debug!(target: "http.access", "response {code} response time {:.6}", took.as_secs_f64());
        self.metrics.reply(number, code, took);
        response
    }

    async fn routed(
        &self,
        resource: &Resource,
        ids: Ids,
        request: Request<Incoming>,
        address: IpAddr,
        grant: &Arc<Grant>,
    ) -> Response<ReplyBody> {
        let routed = match is_cross_site(&request) {
            true => Err(Refusal::bare(StatusCode::FORBIDDEN)),
            false => self.route(resource, request.method(), request.uri()),
        };
        let (spec, result) = match routed {
            Err(refusal) => {
                if let Some(row) = resource.row(request.method()) {
                    trail::refused(&self.hsm, &row.spec, &refusal, address, None, &ids);
                }
                let (head, body) = request.into_parts();
                let kept = drain(&head.headers, Some(body)).await;
                (None, Err(if kept { refusal } else { refusal.closing() }))
            }
            Ok(row) => {
                let query = request.uri().query().map(str::to_owned);
                let (head, incoming) = request.into_parts();
                let tagged = resource.row(&Method::GET).filter(|row| row.spec.etag).cloned();
                let asking = Asking {
                    hsm: self.hsm.clone(),
                    address,
                    metrics: self.metrics.clone(),
                    spec: row.spec.clone(),
                    failed: self.failed,
                    clock: self.clock.clone(),
                };
                let call = Call {
                    asking,
                    ids,
                    query,
                    updates: self.updates.clone(),
                    method: head.method,
                    headers: head.headers,
                    body: Some(incoming),
                    tagged,
                    grant: grant.clone(),
                    changes: self.changes.clone(),
                    trail: Trail::Anonymous,
                };
                let reply = (row.run)(call).await;
                (Some(&row.spec), reply.and_then(|reply| held(reply, grant, &row.spec)))
            }
        };
        let mut response = self.dressed(match result {
            Ok(reply) => succeed(reply, spec.map(|spec| &**spec)),
            Err(refusal) => refuse(refusal, spec.map(|spec| &**spec)),
        });
        if spec.is_some_and(|spec| spec.no_cache) {
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        response
    }

    /// With the headers that every reply of the API has.
    fn dressed(&self, mut response: Response<ReplyBody>) -> Response<ReplyBody> {
        let headers = response.headers_mut();
        let date = httpdate::fmt_http_date(std::time::SystemTime::UNIX_EPOCH + unix_time(&self.hsm));
        headers.extend(HeaderValue::from_str(&date).ok().map(|date| (header::DATE, date)));
        headers
            .insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding, Accept-Charset, Accept-Language"));
        response
    }

    /// Steps 2 to 5: what can be refused by path, state and method alone.
    fn route<'a>(&self, resource: &'a Resource, method: &Method, uri: &hyper::Uri) -> Result<&'a Arc<Row>, Refusal> {
        let state = self.hsm.state();
        let open = |row: &Arc<Row>| row.spec.who.iter().any(|(open, _)| *open == state);
        if !resource.rows.iter().any(open) {
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
        let row = resource.row(method);
        let row = row.ok_or_else(|| Refusal::bare(StatusCode::METHOD_NOT_ALLOWED).with("allow", resource.allow()))?;
        if open(row) { Ok(row) } else { Err(Refusal::wrong_state()) }
    }
}

impl Service for Edge {
    fn call(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> BoxFuture<'static, Response<ReplyBody>> {
        Box::pin(async move { self.answer(request, peer).await })
    }
}

/// Steps 6 to 17: from the credentials to the reply.
pub(super) async fn admit<C, F, B, H>(mut call: Call, own: Arc<(F, Body<B>, H)>) -> Result<Reply, Refusal>
where
    C: Column,
    F: Find<C>,
    B: Send + 'static,
    H: Handler<C, F::Found, B>,
{
    match pass(&mut call, own).await {
        Err(refusal) => {
            if call.trail != Trail::Done {
                trail::refused(
                    &call.asking.hsm,
                    &call.asking.spec,
                    &refusal,
                    call.asking.address,
                    call.user(),
                    &call.ids,
                );
            }
            Err(if drain(&call.headers, call.body.take()).await { refusal } else { refusal.closing() })
        }
        reply => reply,
    }
}

async fn pass<C, F, B, H>(call: &mut Call, own: Arc<(F, Body<B>, H)>) -> Result<Reply, Refusal>
where
    C: Column,
    F: Find<C>,
    B: Send + 'static,
    H: Handler<C, F::Found, B>,
{
    let (find, takes, handler) = &*own;
    let spec = call.asking.spec.clone();
    let core = |error: Error| Refusal::from_core(error, &spec);
    let mut column = C::enter(&call.asking.hsm).ok_or_else(Refusal::wrong_state)?;
    let known = call.authenticated(&column).await?;
    if known.is_some() && call.trail == Trail::Anonymous {
        call.trail = Trail::Believed;
    }
    find.check_id(call).map_err(core)?;
    let mut caller = C::caller(call.asking.permitted(known)?)?;
    let mut reached = find.reach(&column, &caller, call).await.map_err(core)?;
    call.check_head(&spec)?;
    let mut sent = body::Received::default();
    if call.takes_body() && !spec.takes.streamed() {
        drop(column);
        sent = call.read_body(&spec).await?;
        // A body may take its time, in which much can change: the state, the caller's rights, the caller.
        column = C::enter(&call.asking.hsm).ok_or_else(Refusal::wrong_state)?;
        caller = C::caller(call.asking.still_allowed(&column, C::known(caller)).await?)?;
        reached = find.reach(&column, &caller, call).await.map_err(core)?;
    }

    let found = match find.find(&column, &caller, reached, call).await {
        Ok(found) => found,
        // `If-Match` on something that is not there fails before its absence does.
        Err(Error::NotFound(_)) if call.verdict(Current::Missing) == Verdict::Failed => {
            return Err(Refusal::bare(StatusCode::PRECONDITION_FAILED));
        }
        Err(error) => return Err(core(error)),
    };
    let reads = call.reads();
    if !reads && !call.conditions().is_empty() && call.verdict(present(call).await.current()) == Verdict::Failed {
        return Err(Refusal::bare(StatusCode::PRECONDITION_FAILED));
    }
    if call.takes_body() && !spec.takes.types.accept(call.content_type()) {
        return Err(Refusal::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let left_over = LeftOver::default();
    let length = sent.len();
    let input = match &takes.decode {
        How::Now(decode) => {
            let (decode, hsm, grant) = (*decode, &call.asking.hsm, call.grant.clone());
            let party = Party::Address(call.asking.address.into());
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
            let (decode, hsm, grant) = (*decode, &call.asking.hsm, call.grant.clone());
            let (party, header) = (Party::Address(call.asking.address.into()), call.content_type().map(<[u8]>::to_vec));
            let decode = move || {
                let input = decode(header.as_deref(), sent.into_body());
                drop(grant);
                input
            };
            hsm.by_size(length, party, decode).await.and_then(|input| input).map_err(core)?
        }
        How::Streamed(take) => {
            // What waits of it, and what is made of that.
            call.grant.cover(REQUEST_BYTES + 2 * PART_HEAD_MAX_BYTES).map_err(|NoRoom| no_room())?;
            take(call.upload(&left_over))
        }
    };
    if spec.changes() {
        let own = own.clone();
        let scope = C::user(&caller).and_then(|caller| caller.scope().ok());
        let party = scope.map_or_else(|| Party::Address(call.asking.address.into()), Scope::party);
        // In a box at once: some of these are large, and would be moved about on the stack of a serving thread.
        let change = Box::pin(async move { own.2.call(column, caller, found, input).await });
        let result = call.carry_out(party, change).await;
        call.body = left_over.take();
        return result;
    }
    if spec.lists {
        // What is gathered for a list before it is one.
        call.grant.cover(REQUEST_BYTES + REPLY_STREAM_BYTES).map_err(|NoRoom| no_room())?;
    }
    let reply = if length > REQUEST_BYTES {
        // To its end even if the client leaves: the pool goes on holding the input, so it is to go on being counted.
        let (own, grant) = (own.clone(), call.grant.clone());
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
    if reads { call.conditional(reply, &spec).await } else { Ok(reply) }
}

impl Asking {
    /// Step 7: whether role and namespace let the caller in.
    fn permitted(&self, known: Option<Caller>) -> Result<Option<Caller>, Refusal> {
        match (self.rule()?, known) {
            (Rule::Allowed(action, whence), Some(caller)) if allows(&caller, action, whence) => Ok(Some(caller)),
            (Rule::Allowed(..), Some(_)) => Err(Refusal::bare(StatusCode::FORBIDDEN)),
            (Rule::Allowed(..), None) => Err(Refusal::anonymous()),
            // The state has changed since the caller was asked for: who was believed as a user has not shown what is asked
            // for now, and must not be taken for somebody who has.
            (_, Some(_)) => Err(Refusal::wrong_state()),
            (_, None) => Ok(None),
        }
    }

    /// Steps 6 and 7 once more, for somebody who was believed before the body came.
    pub(super) async fn still_allowed(
        &self,
        column: &impl Column,
        known: Option<Caller>,
    ) -> Result<Option<Caller>, Refusal> {
        let Rule::Allowed(..) = self.rule()? else { return self.permitted(known) };
        let op = column.operational().ok_or_else(Refusal::wrong_state)?;
        let known = known.ok_or_else(Refusal::anonymous)?;
        let caller = op.renew(known).await.map_err(|failure| self.not_believed(failure))?;
        self.permitted(Some(caller))
    }

    /// What the row asks for in the state of now.
    fn rule(&self) -> Result<Rule, Refusal> {
        let state = self.hsm.state();
        let rule = self.spec.who.iter().find(|(open, _)| *open == state);
        rule.map(|(_, rule)| rule.under(self.failed)).ok_or_else(Refusal::wrong_state)
    }

    fn not_believed(&self, failure: Failure) -> Refusal {
        let denied = match failure {
            Failure::Denied(denied) => denied,
            Failure::Error(error) => return Refusal::from_core(error, &self.spec),
        };
        self.metrics.count(denied.into());
        if self.metrics.itemise(self.clock.monotonic()) {
            tracing::warn!(target: "http", address = %self.address, ?denied, "a login was refused");
        }
        match denied {
            Denied::Unauthenticated => Refusal::unauthenticated(),
            Denied::TooMany => Refusal::because(StatusCode::TOO_MANY_REQUESTS, "Too many requests"),
            Denied::Busy => Refusal::because(StatusCode::SERVICE_UNAVAILABLE, sentences::BUSY).with("retry-after", "1"),
        }
    }
}

impl Call {
    /// Step 6: who calls. `None` where nobody is asked.
    async fn authenticated(&self, column: &impl Column) -> Result<Option<Caller>, Refusal> {
        let rule = self.asking.rule()?;
        if rule == Rule::Public {
            return Ok(None);
        }
        let Some(header) = self.headers.get(header::AUTHORIZATION) else { return Err(Refusal::anonymous()) };
        let basic = Basic::parse(header.as_bytes()).ok_or_else(Refusal::unauthenticated)?;
        if rule == Rule::UnlockHolder {
            let known =
                self.asking.hsm.believe_unlock_holder(self.asking.address, basic.name(), basic.expose_passphrase());
            return known.await.map(|()| None).map_err(|failure| self.asking.not_believed(failure));
        }
        // The state may have changed since it was asked for; without the phase nobody can be believed.
        let op = column.operational().ok_or_else(Refusal::wrong_state)?;
        let evidence =
            Evidence::Basic { name: basic.name(), passphrase: basic.expose_passphrase(), address: self.asking.address };
        op.authenticate(evidence).await.map(Some).map_err(|failure| self.asking.not_believed(failure))
    }

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

    /// Runs a change to its end even if the client leaves meanwhile: a write must not be cut off between the store and
    /// the caches above it, nor a lock between the phase and its keys. It takes a place only now that nothing is waited
    /// for from the client, except for what it is uploading, so that strangers who send slowly cannot take them all.
    ///
    /// The audit log is told before and after.
    async fn carry_out(
        &mut self,
        party: Party,
        change: BoxFuture<'static, Result<Reply, Error>>,
    ) -> Result<Reply, Refusal> {
        let busy = || Refusal::because(StatusCode::SERVICE_UNAVAILABLE, sentences::BUSY).with("retry-after", "1");
        let place = self.changes.take(party).ok_or_else(busy)?;
        let act = trail::act(&self.asking.spec, self.asking.address, self.user(), &self.ids);
        if trail::holds_result(&self.asking.spec) {
            self.trail = Trail::Done;
        }
        let (hsm, spec, grant) = (self.asking.hsm.clone(), self.asking.spec.clone(), self.grant.clone());
        let change = async move {
            let result = trail::carried_out(&hsm, &spec, act, change).await;
            drop((place, grant));
            result
        };
        tokio::spawn(change).await.map_err(|_| broken())?
    }

    /// Who was believed to call: the name in the credentials, once they were found to be right.
    fn user(&self) -> Option<UserId> {
        if self.trail == Trail::Anonymous {
            return None;
        }
        let basic = Basic::parse(self.headers.get(header::AUTHORIZATION)?.as_bytes())?;
        UserId::parse(basic.name()).ok()
    }

    /// Monotonic time.
    pub fn now(&self) -> Duration {
        self.asking.clock.monotonic()
    }

    /// The body, for a handler that takes it as it comes; what it leaves is to be found in `left_over`.
    fn upload(&mut self, left_over: &LeftOver) -> Upload {
        Upload::new(self.body.take(), self.content_type().map(<[u8]>::to_vec), self.asking.clone(), left_over.clone())
    }

    fn reads(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    fn takes_body(&self) -> bool {
        self.method == Method::PUT || self.method == Method::POST
    }

    fn content_type(&self) -> Option<&[u8]> {
        self.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes)
    }

    async fn read_body(&mut self, spec: &Spec) -> Result<body::Received, Refusal> {
        let limit = spec.takes.max_bytes;
        let Some(incoming) = self.body.take() else { return Ok(body::Received::default()) };
        let read = body::read(incoming, limit, &self.grant, &*self.asking.clock).await;
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

    fn conditions(&self) -> Conditions<'_> {
        let text = |name: HeaderName| self.headers.get(name).and_then(|value| value.to_str().ok());
        Conditions {
            if_match: text(header::IF_MATCH),
            if_none_match: text(header::IF_NONE_MATCH),
            if_modified_since: text(header::IF_MODIFIED_SINCE),
        }
    }

    fn verdict(&self, current: Current<'_>) -> Verdict {
        let conditions = self.conditions();
        if conditions.is_empty() {
            return Verdict::Proceed;
        }
        let effect = if self.reads() { Effect::Reads } else { Effect::Changes };
        conditions.verdict(effect, current, std::time::SystemTime::UNIX_EPOCH + unix_time(&self.asking.hsm))
    }

    /// Step 13 for GET, once the reply is known: its ETag, and what the conditions say to it.
    async fn conditional(&self, mut reply: Reply, spec: &Spec) -> Result<Reply, Refusal> {
        if let Content::Whole(bytes) = &mut reply.body
            && spec.etag
        {
            let whole = std::mem::take(bytes);
            let length = whole.len();
            self.grant.cover(length).map_err(|NoRoom| no_room())?;
            let (party, grant) = (Party::Address(self.asking.address.into()), self.grant.clone());
            let tag = move || {
                let tag = etag(&whole);
                drop(grant);
                (tag, whole)
            };
            let tagged = self.asking.hsm.by_size(length, party, tag).await;
            let (tag, whole) = tagged.map_err(|error| Refusal::from_core(error, spec))?;
            (*bytes, reply.tag) = (whole, Some(tag));
        }
        match self.verdict(reply.tag.as_deref().map_or(Current::Untagged, Current::Tagged)) {
            Verdict::Proceed => Ok(reply),
            Verdict::NotModified => Ok(Reply::unchanged()),
            Verdict::Failed => Err(Refusal::bare(StatusCode::PRECONDITION_FAILED)),
        }
    }
}

/// Reads on for a moment when a request is refused before its body was read: many clients look for the answer only when
/// they have sent everything, and a connection that is closed on them before that loses it. Returns whether the end was
/// reached; else the connection is out of step, and the client is to be told that it ends.
async fn drain(headers: &HeaderMap, body: Option<Incoming>) -> bool {
    let Some(mut body) = body else { return true };
    // Who waits for `100 Continue` has sent nothing and shall not begin.
    if body.is_end_stream() || headers.contains_key(header::EXPECT) {
        return body.is_end_stream();
    }
    let mut left = DRAIN_MAX_BYTES;
    let read = async {
        while let Some(frame) = body.frame().await {
            left = left.saturating_sub(frame.ok()?.data_ref().map_or(0, |data| data.len()));
            if left == 0 {
                return None;
            }
        }
        Some(())
    };
    let read = tokio::time::timeout(Duration::from_millis(DRAIN_MAX_MS), read).await;
    read.is_ok_and(|end| end.is_some())
}

/// What the head of a request takes in memory.
fn head_bytes(request: &Request<Incoming>) -> usize {
    let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES);
    lines.sum()
}

/// What a header takes beside its text.
const HEADER_BYTES: usize = 128;

/// The reply with what it takes of the budget from here on, until it is taken.
fn held(reply: Reply, grant: &Grant, spec: &Spec) -> Result<Reply, Refusal> {
    let bytes = match &reply.body {
        Content::Whole(bytes) => bytes.len(),
        Content::Stream(_) => REPLY_STREAM_BYTES,
    };
    // What small ones could give back is not worth the way to the account.
    grant.shrink(bytes.max(2 * REQUEST_BYTES));
    match grant.cover(bytes) {
        // Nobody is told that a change was not made when it was; their replies are short.
        Err(NoRoom) if !spec.changes() => Err(no_room()),
        Ok(()) | Err(NoRoom) => Ok(reply),
    }
}

/// The client makes the server hold as much as it may.
fn no_room() -> Refusal {
    Refusal::because(StatusCode::SERVICE_UNAVAILABLE, sentences::BUSY).with("retry-after", "1")
}

fn broken() -> Refusal {
    Refusal::because(StatusCode::INTERNAL_SERVER_ERROR, "Internal error. Check the log.")
}

/// Whether a browser sends this for another site than ours. Browsers remember Basic credentials, so a page anywhere could
/// otherwise have an administrator's browser change something here. Other clients do not send the header.
fn is_cross_site(request: &Request<Incoming>) -> bool {
    let reads = *request.method() == Method::GET || *request.method() == Method::HEAD;
    let site = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
    !reads && site.is_some_and(|site| site != b"same-origin" && site != b"none")
}

/// What is at the path of a changing request, as its caller would get it.
async fn present(call: &Call) -> Present {
    let Some(row) = &call.tagged else { return Present::Untagged };
    let mut headers = HeaderMap::new();
    headers.extend(call.headers.get(header::AUTHORIZATION).map(|value| (header::AUTHORIZATION, value.clone())));
    let look = Call {
        asking: Asking { spec: row.spec.clone(), ..call.asking.clone() },
        ids: call.ids.clone(),
        query: None,
        updates: call.updates.clone(),
        method: Method::GET,
        headers,
        body: None,
        tagged: None,
        grant: call.grant.clone(),
        changes: call.changes.clone(),
        trail: Trail::Done,
    };
    match (row.run)(look).await {
        Ok(Reply { tag: Some(tag), .. }) => Present::Tagged(tag),
        Err(refusal) if refusal.status == StatusCode::NOT_FOUND => Present::Missing,
        Ok(_) | Err(_) => Present::Untagged,
    }
}

/// An ETag of a body: equal bodies have equal tags.
fn etag(body: &Pieces) -> String {
    if body.len() > BODY_INLINE_MAX_BYTES {
        stall::begins("tagging a large reply");
    }
    let digest = casemate_core::digest::sha256_of(body.iter());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

fn succeed(reply: Reply, spec: Option<&Spec>) -> Response<ReplyBody> {
    let body = match reply.body {
        Content::Whole(bytes) => ReplyBody::pieces(bytes),
        Content::Stream(body) => body,
    };
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    if let Some(spec) = spec {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(spec.media.as_str()));
    }
    let mut insert = |name, text: Option<String>| {
        headers.extend(text.and_then(|text| HeaderValue::from_str(&text).ok()).map(|value| (name, value)));
    };
    insert(header::ETAG, reply.tag);
    insert(header::LOCATION, reply.location);
    insert(HeaderName::from_static("casemate-note"), reply.note.map(str::to_owned));
    response
}

fn refuse(refusal: Refusal, spec: Option<&Spec>) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(refusal.body()));
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    if refusal.close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if refusal.message.is_some() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    } else if let (true, Some(spec)) = (refusal.typed, spec) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(spec.media.as_str()));
    }
    if let Some((name, value)) = refusal.header
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        headers.insert(HeaderName::from_static(name), value);
    }
    response
}

/// The HSM's time since 1970, for headers.
fn unix_time(hsm: &Hsm) -> Duration {
    Duration::from_secs(u64::try_from(hsm.now().as_second()).unwrap_or(0))
}
