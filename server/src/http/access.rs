//! The policies of the endpoint table, and the asking: who calls, and whether the endpoint's policy lets them in. That is
//! asked before the body is read, and once more behind it.
//!
//! Trusts the core alone to say who was believed. Every answer is for the state of now: if that has changed since, nobody
//! is taken for somebody who has shown something else.

use std::marker::PhantomData;
use std::sync::Arc;

use casemate_api::{Action, State, sentences};
use casemate_core::Hsm;
use casemate_core::identity::caller::{Caller, Denied, Evidence, Failure, Whence, allows};
use hyper::StatusCode;
use hyper::header;

use super::context::RequestContext;
use super::endpoint::{Column, OperationalGuard};
use super::negotiate::Basic;
use super::reply::Refusal;

/// Who may call in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Anybody, without credentials.
    Public,
    /// Users whose role may do this, from where they are.
    Allowed(Action, Whence),
    /// The user `unlock` with the unlock passphrase: for what is asked of an HSM whose users cannot be read.
    UnlockHolder,
    /// One of the two above: the setting [`FailedState`] says which.
    PublicOrUnlockHolder,
}

/// Who may reboot and reset an HSM that is Failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailedState {
    /// Who knows the unlock passphrase.
    #[default]
    Closed,
    /// Anybody who reaches the port, as NetHSM's contract has it.
    Open,
}

impl Rule {
    /// The rule that holds under this setting.
    pub fn under(self, failed: FailedState) -> Self {
        match (self, failed) {
            (Rule::PublicOrUnlockHolder, FailedState::Open) => Rule::Public,
            (Rule::PublicOrUnlockHolder, FailedState::Closed) => Rule::UnlockHolder,
            (rule, _) => rule,
        }
    }
}

/// Policy of an endpoint whose handler runs in column `C`: a rule for each state in which it is open.
pub struct AccessPolicy<C> {
    rules: Vec<(State, Rule)>,
    column: PhantomData<fn() -> C>,
}

/// Open while Operational, to users whose role may do `action`.
pub fn operational(action: Action, whence: Whence) -> AccessPolicy<OperationalGuard> {
    AccessPolicy { rules: vec![(State::Operational, Rule::Allowed(action, whence))], column: PhantomData }
}

/// Open while Failed, to who knows the unlock passphrase.
pub fn failed_to_unlock_holder() -> AccessPolicy<Arc<Hsm>> {
    AccessPolicy { rules: vec![(State::Failed, Rule::UnlockHolder)], column: PhantomData }
}

/// Open in `states` to anybody.
pub fn public(states: &[State]) -> AccessPolicy<Arc<Hsm>> {
    AccessPolicy { rules: states.iter().map(|state| (*state, Rule::Public)).collect(), column: PhantomData }
}

impl<C> AccessPolicy<C> {
    /// The rules alone, for the endpoint's [`Spec`](super::endpoint::Spec).
    pub(super) fn into_rules(self) -> Vec<(State, Rule)> {
        self.rules
    }
}

impl AccessPolicy<OperationalGuard> {
    /// Also open in other states, to anybody; the handler must then cope with every phase.
    pub fn or(mut self, states: &[State]) -> AccessPolicy<Arc<Hsm>> {
        self.rules.extend(states.iter().map(|state| (*state, Rule::Public)));
        AccessPolicy { rules: self.rules, column: PhantomData }
    }

    /// Also open while Failed, to whom the setting [`FailedState`] says.
    pub fn or_failed(mut self) -> AccessPolicy<Arc<Hsm>> {
        self.rules.push((State::Failed, Rule::PublicOrUnlockHolder));
        AccessPolicy { rules: self.rules, column: PhantomData }
    }
}

impl RequestContext {
    /// 401, 429: who calls. `None` where nobody is asked.
    pub(super) async fn authenticated(&self, column: &impl Column) -> Result<Option<Caller>, Refusal> {
        let rule = self.rule()?;
        if rule == Rule::Public {
            return Ok(None);
        }
        let Some(header) = self.headers.get(header::AUTHORIZATION) else { return Err(Refusal::anonymous()) };
        let basic = Basic::parse(header.as_bytes()).ok_or_else(Refusal::unauthenticated)?;
        if rule == Rule::UnlockHolder {
            let known = self.hsm.believe_unlock_holder(self.address, basic.name(), basic.expose_passphrase());
            return known.await.map(|()| None).map_err(|failure| self.not_believed(failure));
        }
        // The state may have changed since it was asked for; without the phase nobody can be believed.
        let op = column.operational().ok_or_else(Refusal::wrong_state)?;
        let evidence =
            Evidence::Basic { name: basic.name(), passphrase: basic.expose_passphrase(), address: self.address };
        op.authenticate(evidence).await.map(Some).map_err(|failure| self.not_believed(failure))
    }

    /// 403: whether role and namespace let the caller in.
    pub(super) fn permitted(&self, known: Option<Caller>) -> Result<Option<Caller>, Refusal> {
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

    /// Both once more, for somebody who was believed before the body came.
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

    /// What the endpoint asks for in the state of now.
    fn rule(&self) -> Result<Rule, Refusal> {
        let state = self.hsm.state();
        let rule = self.spec.access.iter().find(|(open, _)| *open == state);
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
