//! Runs a decoded request: the only file in which handlers are called.
//!
//! By now every check outside the core has passed. What is decided here is how the handler runs: a change runs to
//! completion even if its client disconnects, between its intent and its outcome in the audit log; so does an operation
//! with a long body, which occupies the pool; everything else runs only while its client waits.

use std::sync::Arc;

use casemate_api::limits::{REPLY_STREAM_BYTES, REQUEST_BYTES};
use casemate_api::sentences;
use casemate_core::Error;
use casemate_core::identity::caller::Scope;
use casemate_core::runtime::BoxFuture;
use casemate_core::runtime::party::Party;
use casemate_core::runtime::stale;
use hyper::StatusCode;

use super::budget::NoRoom;
use super::context::{AuditProgress, RequestContext};
use super::endpoint::{Decoded, FindReachable, Handler, PhaseAccess, TypedEndpoint};
use super::reply::{Refusal, Reply};
use super::respond::{broken, no_room};
use super::trail;
use super::upload::LeftOver;

impl RequestContext {
    /// Carries out `decoded`, and applies the conditions of a GET to its reply.
    #[expect(clippy::manual_async_fn, reason = "the future of an async fn has room for its arguments twice")]
    pub(super) fn act<C, F, B, H>(
        &mut self,
        endpoint: Arc<TypedEndpoint<F, B, H>>,
        phase: C,
        decoded: Decoded<C, F::Found, B>,
    ) -> impl Future<Output = Result<Reply, Refusal>> + Send
    where
        C: PhaseAccess,
        F: FindReachable<C>,
        B: Send + 'static,
        H: Handler<C, F::Found, B>,
    {
        async move {
            if self.spec.changes() {
                let scope = C::user(&decoded.caller).and_then(|caller| caller.scope().ok());
                let party = scope.map_or_else(|| Party::Address(self.address.into()), Scope::party);
                // Boxed immediately: some of these futures are large, and would be moved about on the stack of a serving
                // thread.
                let change = Box::pin(async move { endpoint.run(phase, decoded).await });
                let result = self.carry_out(party, change).await;
                self.body = self.left_over.as_ref().and_then(LeftOver::take);
                return result;
            }
            if self.spec.lists {
                // A list is collected in memory before the reply begins.
                self.grant.cover(REQUEST_BYTES + REPLY_STREAM_BYTES).map_err(|NoRoom| no_room())?;
            }
            let reply = if decoded.body_bytes > REQUEST_BYTES {
                // Runs to completion even if the client disconnects: the pool keeps the input, so its memory must stay
                // counted, and so must the reply until it is taken.
                let grant = self.grant.clone();
                let run = Box::pin(async move { endpoint.run(phase, decoded).await.map(|reply| reply.holding(grant)) });
                let (reply, age) = tokio::spawn(stale::carried(run)).await.map_err(|_| broken())?;
                stale::note(age);
                reply
            } else {
                endpoint.run(phase, decoded).await
            };
            let reply = reply.map_err(|error| Refusal::from_core(error, &self.spec))?;
            if self.reads() { self.conditional(reply).await } else { Ok(reply) }
        }
    }

    /// Runs a change to completion even if the client disconnects: a write must not be cut off between the store and
    /// the caches above it, nor a lock between the phase and its keys. The change is counted only now, when nothing but
    /// an upload is still expected from the client, so that slow senders without credentials cannot use up the limit.
    ///
    /// The audit log receives the intent before the change and the outcome after it.
    async fn carry_out(
        &mut self,
        party: Party,
        change: BoxFuture<'static, Result<Reply, Error>>,
    ) -> Result<Reply, Refusal> {
        let busy = || Refusal::because(StatusCode::SERVICE_UNAVAILABLE, sentences::BUSY).with("retry-after", "1");
        let running = self.changes.begin(party).ok_or_else(busy)?;
        let act = trail::act(&self.spec, self.address, self.user(), &self.ids);
        if trail::holds_result(&self.spec) {
            self.audit_progress = AuditProgress::Recorded;
        }
        let (hsm, spec, grant) = (self.hsm.clone(), self.spec.clone(), self.grant.clone());
        let change = async move {
            let result = trail::carried_out(&hsm, &spec, act, change).await;
            drop((running, grant));
            result
        };
        let (result, age) = tokio::spawn(stale::carried(change)).await.map_err(|_| broken())?;
        stale::note(age);
        result
    }
}
