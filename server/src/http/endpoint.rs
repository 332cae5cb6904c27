//! What an endpoint is: an entry of the endpoint table, with types that make an inconsistent one fail to compile.
//!
//! An endpoint states who may call in which state, what its path names, what its body is, and which handler answers.
//! The first argument of the handler fixes the phase: one that takes an [`OperationalGuard`] runs only while
//! Operational, and there is no other way to a key.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use casemate_api::{Action, State};
use casemate_core::hsm::phase::Operational;
use casemate_core::identity::caller::Caller;
use casemate_core::runtime::BoxFuture;
use casemate_core::runtime::stale::Tolerance;
use casemate_core::{Error, Hsm};
use hyper::Method;

use super::access::{AccessPolicy, Rule};
use super::context::RequestContext;
use super::decode::{self, Body};
use super::reply::{Refusal, Reply};
use super::respond;

/// The Operational phase, held during one call. Not `Clone`.
pub struct OperationalGuard(pub(super) Arc<Operational>);

impl OperationalGuard {
    /// Gives up the guard, for the caller that ends the phase.
    pub fn into_inner(self) -> Arc<Operational> {
        self.0
    }

    /// A weak reference for a reply that streams: it does not keep the HSM from locking.
    pub fn weak(&self) -> std::sync::Weak<Operational> {
        Arc::downgrade(&self.0)
    }
}

impl Deref for OperationalGuard {
    type Target = Operational;
    fn deref(&self) -> &Operational {
        &self.0
    }
}

/// What a handler holds on the HSM while it runs: [`OperationalGuard`] while Operational, `Arc<Hsm>` in any phase.
pub trait PhaseAccess: Sized + Send + Sync + 'static {
    /// The caller as the handler gets it: always present with [`OperationalGuard`], otherwise only where the rule of
    /// the state requires credentials.
    type Caller: Send + Sync + 'static;
    /// Enters the phase; `None` if the HSM is not in it.
    fn enter(hsm: &Arc<Hsm>) -> Option<Self>;
    /// The Operational phase, if this holds it.
    fn operational(&self) -> Option<Arc<Operational>>;
    /// The caller, if there is one.
    fn user(caller: &Self::Caller) -> Option<&Caller>;
    /// Converts the caller of the handler back.
    fn known(caller: Self::Caller) -> Option<Caller>;
    /// Converts a caller for the handler; `Err` if one is required and there is none.
    fn caller(known: Option<Caller>) -> Result<Self::Caller, Refusal>;
}

impl PhaseAccess for OperationalGuard {
    type Caller = Caller;
    fn enter(hsm: &Arc<Hsm>) -> Option<Self> {
        hsm.operational().map(OperationalGuard)
    }
    fn operational(&self) -> Option<Arc<Operational>> {
        Some(self.0.clone())
    }
    fn user(caller: &Caller) -> Option<&Caller> {
        Some(caller)
    }
    fn known(caller: Caller) -> Option<Caller> {
        Some(caller)
    }
    fn caller(known: Option<Caller>) -> Result<Caller, Refusal> {
        known.ok_or_else(Refusal::anonymous)
    }
}

impl PhaseAccess for Arc<Hsm> {
    type Caller = Option<Caller>;
    fn enter(hsm: &Arc<Hsm>) -> Option<Self> {
        Some(hsm.clone())
    }
    fn operational(&self) -> Option<Arc<Operational>> {
        Hsm::operational(self)
    }
    fn user(caller: &Option<Caller>) -> Option<&Caller> {
        caller.as_ref()
    }
    fn known(caller: Option<Caller>) -> Option<Caller> {
        caller
    }
    fn caller(known: Option<Caller>) -> Result<Option<Caller>, Refusal> {
        Ok(known)
    }
}

/// What a path names, where every admitted caller may reach all of it.
pub trait Find<C: PhaseAccess>: Send + Sync + 'static {
    /// What the handler receives.
    type Found: Send + Sync + 'static;
    /// The ids in the endpoint's path, in order.
    const IDS: &'static [&'static str] = &[];
    /// Looks it up: id syntax (400) and existence (404).
    fn find(
        &self,
        phase: &C,
        caller: &C::Caller,
        context: &RequestContext,
    ) -> impl Future<Output = Result<Self::Found, Error>> + Send;
}

/// What a path names, in the steps in which the gate checks it. Every [`Find`] implements this, with nothing to check
/// in `reach`.
pub trait FindReachable<C: PhaseAccess>: Send + Sync + 'static {
    /// What is known after the check of rights.
    type Reached: Send;
    /// What the handler receives.
    type Found: Send + Sync + 'static;
    /// The ids in the endpoint's path, in order.
    const IDS: &'static [&'static str];
    /// Refuses a malformed id before rights are checked, where the contract requires that order.
    fn check_id(&self, _: &RequestContext) -> Result<(), Error> {
        Ok(())
    }
    /// Whether the caller may reach it; part of the 403 step.
    fn reach(
        &self,
        phase: &C,
        caller: &C::Caller,
        context: &RequestContext,
    ) -> impl Future<Output = Result<Self::Reached, Error>> + Send;
    /// Looks it up: id syntax (400) and existence (404).
    fn find(
        &self,
        phase: &C,
        caller: &C::Caller,
        reached: Self::Reached,
        context: &RequestContext,
    ) -> impl Future<Output = Result<Self::Found, Error>> + Send;
    /// What GET answers at the same path for what was found, if that reply has an ETag: the conditions of a change are
    /// evaluated against it ([`super::represent`]). `None` if it has no ETag; `NotFound` if there is nothing to read.
    fn represent(
        &self,
        _: &C,
        _: &C::Caller,
        _: &Self::Found,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, Error>> + Send {
        std::future::ready(Ok(None))
    }
}

impl<C: PhaseAccess, F: Find<C>> FindReachable<C> for F {
    type Reached = ();
    type Found = F::Found;
    const IDS: &'static [&'static str] = F::IDS;
    fn reach(&self, _: &C, _: &C::Caller, _: &RequestContext) -> impl Future<Output = Result<(), Error>> + Send {
        std::future::ready(Ok(()))
    }
    fn find(
        &self,
        phase: &C,
        caller: &C::Caller,
        (): (),
        context: &RequestContext,
    ) -> impl Future<Output = Result<F::Found, Error>> + Send {
        Find::find(self, phase, caller, context)
    }
}

/// Content-Type of an endpoint's successful replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json`
    Json,
    /// `application/x-pem-file`
    Pem,
    /// `application/octet-stream`
    Octets,
    /// `text/plain` in the Prometheus text format, version 0.0.4.
    Prometheus,
    /// `application/x-ndjson`: one JSON value per line.
    JsonLines,
}

impl Media {
    /// The value of `Content-Type`. Types of the contract have no parameters, as clients compare for equality.
    pub fn as_str(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Pem => "application/x-pem-file",
            Media::Octets => "application/octet-stream",
            Media::Prometheus => crate::observe::prometheus::MEDIA,
            Media::JsonLines => "application/x-ndjson",
        }
    }

    /// The type without parameters.
    pub fn essence(self) -> &'static str {
        self.as_str().split(';').next().unwrap_or_default()
    }
}

/// What the audit log must hold before a change is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Its intent: if that cannot be written, the change is refused.
    Required,
    /// Its intent if it can be written: a change that only takes power away from the HSM must not depend on a disk.
    IfPossible,
    /// Nothing from the server, as only the body authenticates the caller: the core records success before it takes
    /// effect, and everything else is recorded as a refusal. Otherwise anyone could fill the log. For a caller who has logged in it is
    /// as [`Intent::Required`].
    Proven,
    /// Nothing: it changes nothing, and is at most a use of a key.
    Never,
}

/// The description of an endpoint: everything but its code.
pub struct Spec {
    /// The method.
    pub method: Method,
    /// The path below the base path, with ids in braces.
    pub path: &'static str,
    /// The access rule of each state.
    pub access: Vec<(State, Rule)>,
    /// The names of the ids in the path.
    pub ids: &'static [&'static str],
    /// Which bodies are accepted.
    pub body: super::decode::BodyRule,
    /// JSON Schema of the request body.
    pub request: Option<super::openapi::SchemaOf>,
    /// Content-Type of successful replies.
    pub media: Media,
    /// Status of a successful reply, and JSON Schema of its body.
    pub success: (u16, Option<super::openapi::SchemaOf>),
    /// Whether replies are marked `no-cache`.
    pub no_cache: bool,
    /// Whether replies carry an ETag.
    pub etag: bool,
    /// Whether HEAD is allowed where GET is.
    pub head: bool,
    /// Whether replies are lists of unbounded length.
    pub lists: bool,
    /// Status for an id that already exists; the contract has 400 for some.
    pub exists: u16,
    /// What the audit log must hold before a change.
    pub intent: Intent,
    /// What it may use while the node reaches no majority. With [`Tolerance::Nothing`] it is refused then, unless it is public.
    pub tolerance: Tolerance,
}

impl Spec {
    /// The method as a static string.
    pub fn name(&self) -> &'static str {
        [("GET", Method::GET), ("POST", Method::POST), ("PUT", Method::PUT), ("DELETE", Method::DELETE)]
            .into_iter()
            .find_map(|(name, method)| (method == self.method).then_some(name))
            .unwrap_or("other")
    }

    /// Whether a call may change anything other than a usage counter.
    pub fn changes(&self) -> bool {
        let only_uses = |rule: &Rule| matches!(rule, Rule::Allowed(Action::KeyUse | Action::Random, _));
        // A request without intent, such as a CSR, is a use as well: it waits for the pool and does not count as a
        // running change.
        let uses = self.intent == Intent::Never || self.access.iter().all(|(_, rule)| only_uses(rule));
        self.method != Method::GET && !uses
    }
}

type Run = Box<dyn Fn(RequestContext) -> BoxFuture<'static, Result<Reply, Refusal>> + Send + Sync>;

/// One entry of the endpoint table.
pub struct Endpoint {
    /// Its index in the table, under which it is counted.
    pub number: usize,
    /// Its description.
    pub spec: Arc<Spec>,
    /// Its code: everything from the credentials to the reply.
    pub run: Run,
}

/// The code of an endpoint, with its types.
pub struct TypedEndpoint<F, B, H> {
    pub(super) find: F,
    pub(super) body: Body<B>,
    pub(super) handler: H,
}

/// A request that only the core can still refuse: the handler's arguments, as a value that can be kept.
///
/// It does not hold the phase, so keeping it does not keep the HSM from locking. The caller's rights and the target
/// were checked at one moment: code that runs it later must first enter the phase and check the rights again.
pub struct Decoded<C: PhaseAccess, T, B> {
    /// The caller.
    pub(super) caller: C::Caller,
    /// What the path names.
    pub(super) found: T,
    /// The decoded body.
    pub(super) body: B,
    /// Length of the body in bytes.
    pub(super) body_bytes: usize,
}

impl<F, B, H> TypedEndpoint<F, B, H> {
    /// Carries out a decoded request.
    pub(super) fn run<C: PhaseAccess>(
        &self,
        phase: C,
        decoded: Decoded<C, F::Found, B>,
    ) -> impl Future<Output = Result<Reply, Error>> + Send
    where
        F: FindReachable<C>,
        H: Handler<C, F::Found, B>,
    {
        self.handler.call(phase, decoded.caller, decoded.found, decoded.body)
    }
}

/// The code that answers a request that passed the gate.
pub trait Handler<C: PhaseAccess, F, B>: Send + Sync + 'static {
    /// Carries out the request and returns its reply.
    fn call(&self, phase: C, caller: C::Caller, found: F, body: B)
    -> impl Future<Output = Result<Reply, Error>> + Send;
}

impl<C, F, B, H, R> Handler<C, F, B> for H
where
    C: PhaseAccess,
    H: Fn(C, C::Caller, F, B) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Reply, Error>> + Send,
{
    fn call(
        &self,
        phase: C,
        caller: C::Caller,
        found: F,
        body: B,
    ) -> impl Future<Output = Result<Reply, Error>> + Send {
        self(phase, caller, found, body)
    }
}

/// An endpoint for `GET`, which has no body.
pub fn get<C: PhaseAccess, F: FindReachable<C>>(
    path: &'static str,
    access: AccessPolicy<C>,
    find: F,
    handler: impl Handler<C, F::Found, ()>,
) -> Endpoint {
    endpoint(Method::GET, path, access, find, decode::none(), handler)
}

/// An endpoint for `POST`.
pub fn post<C: PhaseAccess, F: FindReachable<C>, B: Send + 'static>(
    path: &'static str,
    access: AccessPolicy<C>,
    find: F,
    body: Body<B>,
    handler: impl Handler<C, F::Found, B>,
) -> Endpoint {
    endpoint(Method::POST, path, access, find, body, handler)
}

/// An endpoint for `PUT`.
pub fn put<C: PhaseAccess, F: FindReachable<C>, B: Send + 'static>(
    path: &'static str,
    access: AccessPolicy<C>,
    find: F,
    body: Body<B>,
    handler: impl Handler<C, F::Found, B>,
) -> Endpoint {
    endpoint(Method::PUT, path, access, find, body, handler)
}

/// An endpoint for `DELETE`, which has no body.
pub fn delete<C: PhaseAccess, F: FindReachable<C>>(
    path: &'static str,
    access: AccessPolicy<C>,
    find: F,
    handler: impl Handler<C, F::Found, ()>,
) -> Endpoint {
    endpoint(Method::DELETE, path, access, find, decode::none(), handler)
}

fn endpoint<C: PhaseAccess, F: FindReachable<C>, B: Send + 'static>(
    method: Method,
    path: &'static str,
    access: AccessPolicy<C>,
    find: F,
    body: Body<B>,
    handler: impl Handler<C, F::Found, B>,
) -> Endpoint {
    let in_path: Vec<&str> = path.split('/').filter(|segment| segment.starts_with('{')).collect();
    assert_eq!(in_path, F::IDS, "{path}: the ids in the path are those its find knows");
    let spec = Arc::new(Spec {
        method,
        path,
        access: access.into_rules(),
        ids: F::IDS,
        body: body.rule,
        request: body.schema,
        media: Media::Json,
        success: (204, None),
        no_cache: false,
        etag: false,
        head: false,
        lists: false,
        exists: 409,
        intent: Intent::Required,
        tolerance: Tolerance::Nothing,
    });
    let typed = Arc::new(TypedEndpoint { find, body, handler });
    let run = move |context: RequestContext| -> BoxFuture<'static, Result<Reply, Refusal>> {
        Box::pin(respond::admit(context, typed.clone()))
    };
    Endpoint { number: 0, spec, run: Box::new(run) }
}

impl Endpoint {
    fn with(mut self, change: impl FnOnce(&mut Spec)) -> Self {
        // The builder methods run before the spec is shared.
        if let Some(spec) = Arc::get_mut(&mut self.spec) {
            change(spec);
        }
        self
    }

    /// A successful reply is JSON of type `T`.
    pub fn gives<T: schemars::JsonSchema>(self, status: u16) -> Self {
        self.with(|spec| spec.success = (status, Some(|generator| generator.subschema_for::<T>())))
    }

    /// A successful reply has this status and no JSON body.
    pub fn answers(self, status: u16) -> Self {
        self.with(|spec| spec.success = (status, None))
    }

    /// Sets the Content-Type of successful replies.
    pub fn media(self, media: Media) -> Self {
        self.with(|spec| spec.media = media)
    }

    /// Marks replies as not to be cached.
    pub fn no_cache(self) -> Self {
        self.with(|spec| spec.no_cache = true)
    }

    /// Adds an ETag to replies, and honours conditions.
    pub fn etag(self) -> Self {
        self.with(|spec| spec.etag = true)
    }

    /// Marks replies as lists of unbounded length.
    pub fn lists(self) -> Self {
        self.with(|spec| spec.lists = true)
    }

    /// Allows HEAD as well.
    pub fn head(self) -> Self {
        self.with(|spec| spec.head = true)
    }

    /// Sets what the audit log must hold before the change.
    pub fn intent(self, intent: Intent) -> Self {
        self.with(|spec| spec.intent = intent)
    }

    /// Serves it without a majority, too, if the HSM is set to: it reads, or uses keys, or takes power away from the HSM.
    pub fn without_majority(self) -> Self {
        self.with(|spec| spec.tolerance = Tolerance::OwnData)
    }

    /// Sets the status for an id that already exists.
    pub fn exists(self, status: u16) -> Self {
        self.with(|spec| spec.exists = status)
    }
}
