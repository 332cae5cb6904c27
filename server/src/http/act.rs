//! What a decoded request asks for is done: here a handler is called, and nowhere else.
//!
//! Everything that a request can be refused for from outside the core lies behind it. What is left is how it runs: a change
//! to its end whatever its client does meanwhile, between its intent and its outcome in the audit log; what keeps the pool
//! busy with a long body as well; all else while its client waits.

use std::sync::Arc;

use casemate_api::limits::{REPLY_STREAM_BYTES, REQUEST_BYTES};
use casemate_api::sentences;
use casemate_core::Error;
use casemate_core::identity::caller::Scope;
use casemate_core::runtime::BoxFuture;
use casemate_core::runtime::party::Party;
use hyper::StatusCode;

use super::budget::NoRoom;
use super::context::{RequestContext, Trail};
use super::endpoint::{Column, Decoded, FindReachable, Handler, TypedEndpoint};
use super::reply::{Refusal, Reply};
use super::respond::{broken, no_room};
use super::trail;
use super::upload::LeftOver;

impl RequestContext {
    /// Carries out `decoded`, and holds the conditions of a GET against the reply.
    pub(super) async fn act<C, F, B, H>(
        &mut self,
        endpoint: Arc<TypedEndpoint<F, B, H>>,
        column: C,
        decoded: Decoded<C, F::Found, B>,
    ) -> Result<Reply, Refusal>
    where
        C: Column,
        F: FindReachable<C>,
        B: Send + 'static,
        H: Handler<C, F::Found, B>,
    {
        if self.spec.changes() {
            let scope = C::user(&decoded.caller).and_then(|caller| caller.scope().ok());
            let party = scope.map_or_else(|| Party::Address(self.address.into()), Scope::party);
            // In a box at once: some of these are large, and would be moved about on the stack of a serving thread.
            let change = Box::pin(async move { endpoint.run(column, decoded).await });
            let result = self.carry_out(party, change).await;
            self.body = self.left_over.as_ref().and_then(LeftOver::take);
            return result;
        }
        if self.spec.lists {
            // What is gathered for a list before it is one.
            self.grant.cover(REQUEST_BYTES + REPLY_STREAM_BYTES).map_err(|NoRoom| no_room())?;
        }
        let reply = if decoded.body_bytes > REQUEST_BYTES {
            // To its end even if the client leaves: the pool goes on holding the input, so it is to go on being counted, and so
            // is the reply until it is taken.
            let grant = self.grant.clone();
            let run = Box::pin(async move { endpoint.run(column, decoded).await.map(|reply| reply.holding(grant)) });
            tokio::spawn(run).await.map_err(|_| broken())?
        } else {
            endpoint.run(column, decoded).await
        };
        let reply = reply.map_err(|error| Refusal::from_core(error, &self.spec))?;
        if self.reads() { self.conditional(reply).await } else { Ok(reply) }
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
        let act = trail::act(&self.spec, self.address, self.user(), &self.ids);
        if trail::holds_result(&self.spec) {
            self.trail = Trail::Done;
        }
        let (hsm, spec, grant) = (self.hsm.clone(), self.spec.clone(), self.grant.clone());
        let change = async move {
            let result = trail::carried_out(&hsm, &spec, act, change).await;
            drop((place, grant));
            result
        };
        tokio::spawn(change).await.map_err(|_| broken())?
    }
}
