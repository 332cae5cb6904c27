//! What the gate reports to the audit log. Nothing else in the server writes to it.

use std::net::IpAddr;
use std::sync::Arc;

use casemate_api::UserId;
use casemate_core::audit::{Act, ActOutcome, Audit};
use casemate_core::runtime::witness;
use casemate_core::{Error, Hsm};
use hyper::{Method, StatusCode};

use super::endpoint::{Intent, Spec};
use super::reply::{Refusal, Reply};
use super::route::Ids;

/// Describes a call for the audit log: user, address, endpoint and target.
pub(super) fn act(spec: &Spec, address: IpAddr, user: Option<UserId>, ids: &Ids) -> Act {
    let mut target = String::new();
    if !spec.ids.is_empty() {
        let mut ids = ids.iter();
        for segment in spec.path.split('/').skip(1) {
            target.push('/');
            // Ids contain no slash: paths are split into segments after they are decoded.
            let id = segment.starts_with('{').then(|| ids.next()).flatten();
            target.push_str(id.map_or(segment, |id| id));
        }
    }
    Act { user, address, endpoint: format!("{} {}", spec.method, spec.path), target }
}

/// Whether every result of a change is recorded with its intent, so that a failure is not recorded as a refusal as
/// well.
pub(super) fn holds_result(spec: &Spec) -> bool {
    matches!(spec.intent, Intent::Required | Intent::IfPossible | Intent::Proven)
}

/// Records that a request was refused, unless it is a mere mistake in a read request.
pub(super) fn refused(hsm: &Hsm, spec: &Spec, refusal: &Refusal, address: IpAddr, user: Option<UserId>, ids: &Ids) {
    let of_rights =
        matches!(refusal.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS);
    if of_rights || (spec.method != Method::GET && refusal.status.as_u16() >= 400) {
        hsm.audit.refusal(address, refusal.status.as_u16(), || act(spec, address, user, ids));
    }
}

/// Carries out a change between its intent and its outcome.
pub(super) async fn carried_out(
    hsm: &Hsm,
    spec: &Arc<Spec>,
    act: Act,
    change: impl Future<Output = Result<Reply, Error>>,
) -> Result<Reply, Refusal> {
    let refuse = |error| Refusal::from_core(error, spec);
    let intent = match spec.intent {
        Intent::Required => Some(hsm.audit.intent(&act).await.map_err(refuse)?),
        // Whoever has logged in is known before the body, in whichever state.
        Intent::Proven if act.user.is_some() => Some(hsm.audit.intent(&act).await.map_err(refuse)?),
        Intent::IfPossible => hsm.audit.intent_if_possible(&act).await,
        Intent::Proven | Intent::Never => return proven(hsm, spec, act, change).await,
    };
    let audit = hsm.audit.clone();
    // A panic is an outcome as well: this value is then dropped.
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    let mut outcome = Outcome { audit, act, intent, status, location: None, revision: 0 };
    let result = witness::committed(&mut outcome.revision, change).await.map_err(refuse);
    match &result {
        Ok(reply) => (outcome.status, outcome.location) = (reply.status, reply.location.clone()),
        Err(refusal) => outcome.status = refusal.status,
    }
    result
}

/// Carries out a change without recording an intent; with [`Intent::Proven`] its result is recorded afterwards.
async fn proven(
    hsm: &Hsm,
    spec: &Arc<Spec>,
    act: Act,
    change: impl Future<Output = Result<Reply, Error>>,
) -> Result<Reply, Refusal> {
    let mut revision = 0;
    let result = witness::committed(&mut revision, change).await.map_err(|error| Refusal::from_core(error, spec));
    if spec.intent == Intent::Proven {
        match &result {
            Ok(reply) => {
                let outcome = ActOutcome { status: reply.status.as_u16(), revision, ..ActOutcome::default() };
                hsm.audit.outcome(&act, &outcome);
            }
            // Recorded here, so that it is recorded even if the client does not wait for the answer.
            Err(refusal) => hsm.audit.refusal(act.address, refusal.status.as_u16(), || act),
        }
    }
    result
}

/// The outcome of an act, recorded when it is dropped.
struct Outcome {
    audit: Arc<Audit>,
    act: Act,
    intent: Option<u64>,
    status: StatusCode,
    location: Option<String>,
    /// The revision of the shared store at which it was committed, or 0.
    revision: u64,
}

impl Drop for Outcome {
    fn drop(&mut self) {
        let (status, location) = (self.status.as_u16(), self.location.as_deref().unwrap_or_default());
        self.audit.outcome(&self.act, &ActOutcome { intent: self.intent, status, location, revision: self.revision });
    }
}
