//! What an endpoint is: a row of the endpoint table, and the typing that makes a wrong one not compile.
//!
//! An endpoint says who may call in which state, what is found by its path, what its body is, and what answers. The first
//! argument of the handler fixes the state column: one that takes an [`OperationalGuard`] runs only while Operational, and
//! there is no other way to a key.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use casemate_api::{Action, State};
use casemate_core::hsm::phase::Operational;
use casemate_core::identity::caller::Caller;
use casemate_core::runtime::BoxFuture;
use casemate_core::{Error, Hsm};
use hyper::Method;

use super::access::{AccessPolicy, Rule};
use super::context::RequestContext;
use super::decode::{self, Body};
use super::reply::{Refusal, Reply};
use super::respond;

/// The Operational phase, held for the length of one call. Not `Clone`.
pub struct OperationalGuard(pub(super) Arc<Operational>);

impl OperationalGuard {
    /// Gives up the hold, to who ends the phase.
    pub fn into_inner(self) -> Arc<Operational> {
        self.0
    }

    /// The phase for a reply that streams: it does not keep the HSM from locking.
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

/// What a handler runs on.
pub trait Column: Sized + Send + Sync + 'static {
    /// Who calls: always known in [`OperationalGuard`], in other columns only where the state's rule asks.
    type Caller: Send + Sync + 'static;
    /// Takes hold of the phase; `None` if the HSM is not in it.
    fn enter(hsm: &Arc<Hsm>) -> Option<Self>;
    /// The Operational phase, where this column has it.
    fn operational(&self) -> Option<Arc<Operational>>;
    /// The caller, where one is known.
    fn user(caller: &Self::Caller) -> Option<&Caller>;
    /// Takes the caller back from the form of this column.
    fn known(caller: Self::Caller) -> Option<Caller>;
    /// Makes the caller of this column; `Err` where one is needed and none is known.
    fn caller(known: Option<Caller>) -> Result<Self::Caller, Refusal>;
}

impl Column for OperationalGuard {
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

impl Column for Arc<Hsm> {
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

/// What a path leads to, where a caller who may call at all may reach all of it.
pub trait Find<C: Column>: Send + Sync + 'static {
    /// What the handler is given.
    type Found: Send + Sync + 'static;
    /// The ids in the endpoint's path, in order.
    const IDS: &'static [&'static str] = &[];
    /// The thing itself; the step of id syntax and existence.
    fn find(
        &self,
        column: &C,
        caller: &C::Caller,
        context: &RequestContext,
    ) -> impl Future<Output = Result<Self::Found, Error>> + Send;
}

/// What a path leads to, in the steps in which the gate asks for it. Everything that is [`Find`] is this, too: with nothing
/// to reach.
pub trait FindReachable<C: Column>: Send + Sync + 'static {
    /// What is known once the caller may reach it.
    type Reached: Send;
    /// What the handler is given.
    type Found: Send + Sync + 'static;
    /// The ids in the endpoint's path, in order.
    const IDS: &'static [&'static str];
    /// Refuses an id that is none before rights are asked, where the contract wants it so.
    fn check_id(&self, _: &RequestContext) -> Result<(), Error> {
        Ok(())
    }
    /// Whether the caller may reach it; part of the 403 step.
    fn reach(
        &self,
        column: &C,
        caller: &C::Caller,
        context: &RequestContext,
    ) -> impl Future<Output = Result<Self::Reached, Error>> + Send;
    /// The thing itself; the step of id syntax and existence.
    fn find(
        &self,
        column: &C,
        caller: &C::Caller,
        reached: Self::Reached,
        context: &RequestContext,
    ) -> impl Future<Output = Result<Self::Found, Error>> + Send;
    /// What GET answers at the same path for what was found, where that carries an ETag: what conditions of a change are
    /// held against ([`super::represent`]). `None` where it does not; `NotFound` where there is nothing to read.
    fn represent(
        &self,
        _: &C,
        _: &C::Caller,
        _: &Self::Found,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, Error>> + Send {
        std::future::ready(Ok(None))
    }
}

impl<C: Column, F: Find<C>> FindReachable<C> for F {
    type Reached = ();
    type Found = F::Found;
    const IDS: &'static [&'static str] = F::IDS;
    fn reach(&self, _: &C, _: &C::Caller, _: &RequestContext) -> impl Future<Output = Result<(), Error>> + Send {
        std::future::ready(Ok(()))
    }
    fn find(
        &self,
        column: &C,
        caller: &C::Caller,
        (): (),
        context: &RequestContext,
    ) -> impl Future<Output = Result<F::Found, Error>> + Send {
        Find::find(self, column, caller, context)
    }
}

/// Type of an endpoint's successful replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json`
    Json,
    /// `application/x-pem-file`
    Pem,
    /// `application/octet-stream`
    Octets,
    /// The text that Prometheus reads.
    Prometheus,
    /// `application/x-ndjson`: a JSON value in each line.
    JsonLines,
}

impl Media {
    /// The type as `Content-Type` spells it; those of the contract without parameters, as clients compare for equality.
    pub fn as_str(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Pem => "application/x-pem-file",
            Media::Octets => "application/octet-stream",
            Media::Prometheus => crate::observe::prometheus::MEDIA,
            Media::JsonLines => "application/x-ndjson",
        }
    }

    /// The type without its parameters.
    pub fn essence(self) -> &'static str {
        self.as_str().split(';').next().unwrap_or_default()
    }
}

/// What the audit log has to hold before a change is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Its intent: without that it is refused.
    Required,
    /// Its intent if that can be written: what only takes power away from the HSM must not depend on a disk.
    IfPossible,
    /// Nothing from here, as the body alone proves who asks: the core writes down that it succeeds, before it does, and
    /// everything else is a refusal. Strangers could fill the log otherwise.
    Proven,
    /// Nothing: it changes nothing, and is no more than a use of a key.
    Never,
}

/// Makes the JSON Schema of a type, for the OpenAPI document.
pub type SchemaOf = fn(&mut schemars::SchemaGenerator) -> schemars::Schema;

/// Everything about an endpoint but its code.
pub struct Spec {
    /// The method.
    pub method: Method,
    /// The path below the base path, ids in braces.
    pub path: &'static str,
    /// Who, per state.
    pub access: Vec<(State, Rule)>,
    /// The names of the ids in the path.
    pub ids: &'static [&'static str],
    /// Which bodies are taken.
    pub takes: super::decode::Takes,
    /// Schema of the request body.
    pub request: Option<SchemaOf>,
    /// Type of successful replies.
    pub media: Media,
    /// Status and body schema of a successful reply.
    pub success: (u16, Option<SchemaOf>),
    /// Whether replies are marked `no-cache`.
    pub no_cache: bool,
    /// Whether replies carry an ETag.
    pub etag: bool,
    /// Whether HEAD is allowed where GET is.
    pub head: bool,
    /// Whether replies are lists of any length.
    pub lists: bool,
    /// Status for an id that is taken; the contract has 400 for some.
    pub exists: u16,
    /// What the audit log has to hold before it, if it changes something.
    pub intent: Intent,
}

impl Spec {
    /// The method, as a word that stays.
    pub fn name(&self) -> &'static str {
        [("GET", Method::GET), ("POST", Method::POST), ("PUT", Method::PUT), ("DELETE", Method::DELETE)]
            .into_iter()
            .find_map(|(name, method)| (method == self.method).then_some(name))
            .unwrap_or("other")
    }

    /// Whether a call may change more than a count of uses.
    pub fn changes(&self) -> bool {
        let only_uses = |rule: &Rule| matches!(rule, Rule::Allowed(Action::KeyUse | Action::Random, _));
        // What needs no intent, such as a CSR, is a use, too: it waits for the pool and holds no place meanwhile.
        let uses = self.intent == Intent::Never || self.access.iter().all(|(_, rule)| only_uses(rule));
        self.method != Method::GET && !uses
    }
}

type Run = Box<dyn Fn(RequestContext) -> BoxFuture<'static, Result<Reply, Refusal>> + Send + Sync>;

/// One row of the endpoint table.
pub struct Endpoint {
    /// Its place in the table, by which it is counted.
    pub number: usize,
    /// What it says.
    pub spec: Arc<Spec>,
    /// What it does: everything from the credentials to the reply.
    pub run: Run,
}

/// The code of an endpoint, with its types.
pub struct TypedEndpoint<F, B, H> {
    pub(super) find: F,
    pub(super) body: Body<B>,
    pub(super) handler: H,
}

/// A request that nothing is left to be refused for, but by the core: what its handler is given, as a value that may be kept.
///
/// It does not hold the phase, so that whoever keeps it does not keep the HSM from locking. What was true of its caller and
/// its target is true for the moment: whoever runs it later must enter the phase and ask for their rights again first.
pub struct Decoded<C: Column, T, B> {
    /// Who calls.
    pub(super) caller: C::Caller,
    /// What the path leads to.
    pub(super) found: T,
    /// What the body says.
    pub(super) body: B,
    /// How many bytes the body had.
    pub(super) body_bytes: usize,
}

impl<F, B, H> TypedEndpoint<F, B, H> {
    /// Carries out a decoded request.
    pub(super) fn run<C: Column>(
        &self,
        column: C,
        decoded: Decoded<C, F::Found, B>,
    ) -> impl Future<Output = Result<Reply, Error>> + Send
    where
        F: FindReachable<C>,
        H: Handler<C, F::Found, B>,
    {
        self.handler.call(column, decoded.caller, decoded.found, decoded.body)
    }
}

/// What answers a request that passed the gate.
pub trait Handler<C: Column, F, B>: Send + Sync + 'static {
    /// Answers.
    fn call(
        &self,
        column: C,
        caller: C::Caller,
        found: F,
        body: B,
    ) -> impl Future<Output = Result<Reply, Error>> + Send;
}

impl<C, F, B, H, R> Handler<C, F, B> for H
where
    C: Column,
    H: Fn(C, C::Caller, F, B) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Reply, Error>> + Send,
{
    fn call(
        &self,
        column: C,
        caller: C::Caller,
        found: F,
        body: B,
    ) -> impl Future<Output = Result<Reply, Error>> + Send {
        self(column, caller, found, body)
    }
}

/// An endpoint for `GET`, which has no body.
pub fn get<C: Column, F: FindReachable<C>>(
    path: &'static str,
    access: AccessPolicy<C>,
    find: F,
    handler: impl Handler<C, F::Found, ()>,
) -> Endpoint {
    endpoint(Method::GET, path, access, find, decode::none(), handler)
}

/// An endpoint for `POST`.
pub fn post<C: Column, F: FindReachable<C>, B: Send + 'static>(
    path: &'static str,
    access: AccessPolicy<C>,
    find: F,
    body: Body<B>,
    handler: impl Handler<C, F::Found, B>,
) -> Endpoint {
    endpoint(Method::POST, path, access, find, body, handler)
}

/// An endpoint for `PUT`.
pub fn put<C: Column, F: FindReachable<C>, B: Send + 'static>(
    path: &'static str,
    access: AccessPolicy<C>,
    find: F,
    body: Body<B>,
    handler: impl Handler<C, F::Found, B>,
) -> Endpoint {
    endpoint(Method::PUT, path, access, find, body, handler)
}

/// An endpoint for `DELETE`, which has no body.
pub fn delete<C: Column, F: FindReachable<C>>(
    path: &'static str,
    access: AccessPolicy<C>,
    find: F,
    handler: impl Handler<C, F::Found, ()>,
) -> Endpoint {
    endpoint(Method::DELETE, path, access, find, decode::none(), handler)
}

fn endpoint<C: Column, F: FindReachable<C>, B: Send + 'static>(
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
        takes: body.takes,
        request: body.schema,
        media: Media::Json,
        success: (204, None),
        no_cache: false,
        etag: false,
        head: false,
        lists: false,
        exists: 409,
        intent: Intent::Required,
    });
    let typed = Arc::new(TypedEndpoint { find, body, handler });
    let run = move |context: RequestContext| -> BoxFuture<'static, Result<Reply, Refusal>> {
        Box::pin(respond::admit(context, typed.clone()))
    };
    Endpoint { number: 0, spec, run: Box::new(run) }
}

impl Endpoint {
    fn with(mut self, change: impl FnOnce(&mut Spec)) -> Self {
        // The builder methods run before anybody else holds the spec.
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

    /// Replies are of this type.
    pub fn media(self, media: Media) -> Self {
        self.with(|spec| spec.media = media)
    }

    /// Replies are not to be cached.
    pub fn no_cache(self) -> Self {
        self.with(|spec| spec.no_cache = true)
    }

    /// Replies carry an ETag, and conditions are honoured.
    pub fn etag(self) -> Self {
        self.with(|spec| spec.etag = true)
    }

    /// Replies are lists of any length.
    pub fn lists(self) -> Self {
        self.with(|spec| spec.lists = true)
    }

    /// HEAD is allowed too.
    pub fn head(self) -> Self {
        self.with(|spec| spec.head = true)
    }

    /// The audit log has to hold this before it is carried out.
    pub fn intent(self, intent: Intent) -> Self {
        self.with(|spec| spec.intent = intent)
    }

    /// A taken id is answered with this status.
    pub fn exists(self, status: u16) -> Self {
        self.with(|spec| spec.exists = status)
    }
}
