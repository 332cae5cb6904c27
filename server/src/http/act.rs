//! A change, carried out to its end whatever its client does meanwhile, between its intent and its outcome in the audit
//! log.

use casemate_api::sentences;
use casemate_core::Error;
use casemate_core::party::Party;
use casemate_core::platform::BoxFuture;
use hyper::StatusCode;

use super::context::{RequestContext, Trail};
use super::reply::{Refusal, Reply};
use super::respond::broken;
use super::trail;

impl RequestContext {
    /// Runs a change to its end even if the client leaves meanwhile: a write must not be cut off between the store and
    /// the caches above it, nor a lock between the phase and its keys. It takes a place only now that nothing is waited
    /// for from the client, except for what it is uploading, so that strangers who send slowly cannot take them all.
    ///
    /// The audit log is told before and after.
    pub(super) async fn carry_out(
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
