//! The access policies of the endpoint table, and their enforcement: who calls, and whether the policy admits them.
//! Both are checked before the body is read, and again after it.
//!
//! Only the core decides whether credentials are valid. Every answer holds for the current state only: if the state has
//! changed since, a caller is not accepted on evidence that the new state does not ask for.

use std::marker::PhantomData;
use std::sync::Arc;

use casemate_api::{Action, State, sentences};
use casemate_core::Hsm;
use casemate_core::identity::caller::{Caller, CallerScope, Denied, Evidence, Failure, allows};
use hyper::StatusCode;
use hyper::header;

use super::context::RequestContext;
use super::endpoint::{OperationalGuard, PhaseAccess};
use super::negotiate::Basic;
use super::reply::Refusal;

/// Who may call in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Anyone, without credentials.
    Public,
    /// Users whose role permits the action, at the root or in any namespace.
    Allowed(Action, CallerScope),
    /// The user `unlock` with the unlock passphrase: for a Failed HSM, whose users cannot be read.
    UnlockHolder,
    /// One of the two above, depending on the setting [`FailedState`].
    PublicOrUnlockHolder,
    /// Like [`Rule::PublicOrUnlockHolder`], but always [`Rule::UnlockHolder`] while other nodes may share the store: they would go on
    /// counting on this one.
    PublicIfAloneOrUnlockHolder,
}

/// Who may reboot and factory-reset a Failed HSM (setting `failed-state`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailedState {
    /// Holders of the unlock passphrase.
    #[default]
    Closed,
    /// Anyone who reaches the port, as in NetHSM.
    Open,
}

impl Rule {
    /// The rule that applies under this setting, `shared` if other nodes may share the store.
    pub fn under(self, failed: FailedState, shared: bool) -> Self {
        match (self, failed) {
            (Rule::PublicOrUnlockHolder, FailedState::Open) => Rule::Public,
            (Rule::PublicIfAloneOrUnlockHolder, FailedState::Open) if !shared => Rule::Public,
            (Rule::PublicOrUnlockHolder | Rule::PublicIfAloneOrUnlockHolder, _) => Rule::UnlockHolder,
            (rule @ (Rule::Public | Rule::Allowed(..) | Rule::UnlockHolder), _) => rule,
        }
    }
}

/// Policy of an endpoint whose handler needs the phase `C`: a rule for each state in which it is available.
pub struct AccessPolicy<C> {
    rules: Vec<(State, Rule)>,
    phase: PhantomData<fn() -> C>,
}

/// Available while Operational, to users whose role permits `action`.
pub fn operational(action: Action, scope: CallerScope) -> AccessPolicy<OperationalGuard> {
    AccessPolicy { rules: vec![(State::Operational, Rule::Allowed(action, scope))], phase: PhantomData }
}

/// Available while Failed, to holders of the unlock passphrase.
pub fn failed_to_unlock_holder() -> AccessPolicy<Arc<Hsm>> {
    AccessPolicy { rules: vec![(State::Failed, Rule::UnlockHolder)], phase: PhantomData }
}

/// Available in `states`, to anyone.
pub fn public(states: &[State]) -> AccessPolicy<Arc<Hsm>> {
    AccessPolicy { rules: states.iter().map(|state| (*state, Rule::Public)).collect(), phase: PhantomData }
}

impl<C> AccessPolicy<C> {
    /// The rules alone, for the endpoint's [`Spec`](super::endpoint::Spec).
    pub(super) fn into_rules(self) -> Vec<(State, Rule)> {
        self.rules
    }
}

impl AccessPolicy<OperationalGuard> {
    /// Also available in other states, to anyone; the handler must then support every phase.
    pub fn or(mut self, states: &[State]) -> AccessPolicy<Arc<Hsm>> {
        self.rules.extend(states.iter().map(|state| (*state, Rule::Public)));
        AccessPolicy { rules: self.rules, phase: PhantomData }
    }

    /// Also available while Failed, according to the setting [`FailedState`].
    pub fn or_failed(mut self) -> AccessPolicy<Arc<Hsm>> {
        self.rules.push((State::Failed, Rule::PublicOrUnlockHolder));
        AccessPolicy { rules: self.rules, phase: PhantomData }
    }

    /// Also available while Failed, to holders of the unlock passphrase. The handler refuses changes at a node that is no member of
    /// a cluster.
    pub fn or_failed_member(mut self) -> AccessPolicy<Arc<Hsm>> {
        self.rules.push((State::Failed, Rule::UnlockHolder));
        AccessPolicy { rules: self.rules, phase: PhantomData }
    }

    /// Also available while Failed, according to that setting; while other nodes may share the store, only to holders of the unlock
    /// passphrase.
    pub fn or_failed_alone(mut self) -> AccessPolicy<Arc<Hsm>> {
        self.rules.push((State::Failed, Rule::PublicIfAloneOrUnlockHolder));
        AccessPolicy { rules: self.rules, phase: PhantomData }
    }
}

impl RequestContext {
    /// Authenticates the caller: 401, 429. `None` where no credentials are required.
    pub(super) async fn authenticated(&self, phase: &impl PhaseAccess) -> Result<Option<Caller>, Refusal> {
        let rule = self.rule()?;
        if rule == Rule::Public {
            return Ok(None);
        }
        let Some(header) = self.headers.get(header::AUTHORIZATION) else { return Err(Refusal::anonymous()) };
        let basic = Basic::parse(header.as_bytes()).ok_or_else(Refusal::unauthenticated)?;
        if rule == Rule::UnlockHolder {
            let known = self.hsm.authenticate_unlock_holder(self.address, basic.name(), basic.expose_passphrase());
            return known.await.map(|()| None).map_err(|failure| self.unauthenticated(failure));
        }
        // The state may have changed since it was read; without the phase no credentials can be checked.
        let op = phase.operational().ok_or_else(Refusal::wrong_state)?;
        let evidence =
            Evidence::Basic { name: basic.name(), passphrase: basic.expose_passphrase(), address: self.address };
        op.authenticate(evidence).await.map(Some).map_err(|failure| self.unauthenticated(failure))
    }

    /// Whether the role or namespace of the caller does not allow this.
    pub(super) fn refuses(&self, caller: &Caller) -> bool {
        matches!(self.rule(), Ok(Rule::Allowed(action, scope)) if !allows(caller, action, scope))
    }

    /// Authenticates again, by what is stored, a caller who is to be refused: their role or namespace may have been changed at
    /// another node that shares the store, and not have reached the caches yet.
    pub(super) async fn authenticated_anew(
        &self,
        phase: &impl PhaseAccess,
        caller: Caller,
    ) -> Result<Option<Caller>, Refusal> {
        let op = phase.operational().ok_or_else(Refusal::wrong_state)?;
        if !op.shares_store() {
            return Ok(Some(caller));
        }
        op.refresh(&caller).await.map_err(|error| Refusal::from_core(error, &self.spec))?;
        self.authenticated(phase).await
    }

    /// Authorises the caller by role and namespace: 403.
    pub(super) fn permitted(&self, known: Option<Caller>) -> Result<Option<Caller>, Refusal> {
        match (self.rule()?, known) {
            (Rule::Allowed(action, scope), Some(caller)) if allows(&caller, action, scope) => Ok(Some(caller)),
            (Rule::Allowed(..), Some(_)) => Err(Refusal::bare(StatusCode::FORBIDDEN)),
            (Rule::Allowed(..), None) => Err(Refusal::anonymous()),
            // The state has changed since the caller was authenticated: a caller authenticated as a user has not shown
            // what the new state asks for, and must not be taken for one that has.
            (_, Some(_)) => Err(Refusal::wrong_state()),
            (_, None) => Ok(None),
        }
    }

    /// Authenticates and authorises again a caller who was admitted before the body arrived.
    pub(super) async fn still_allowed(
        &self,
        phase: &impl PhaseAccess,
        known: Option<Caller>,
    ) -> Result<Option<Caller>, Refusal> {
        let Rule::Allowed(..) = self.rule()? else { return self.permitted(known) };
        let op = phase.operational().ok_or_else(Refusal::wrong_state)?;
        let known = known.ok_or_else(Refusal::anonymous)?;
        let caller = op.renew(known).await.map_err(|failure| self.unauthenticated(failure))?;
        self.permitted(Some(caller))
    }

    /// The rule of the current state.
    fn rule(&self) -> Result<Rule, Refusal> {
        let state = self.hsm.state();
        let rule = self.spec.access.iter().find(|(open, _)| *open == state);
        rule.map(|(_, rule)| rule.under(self.failed, self.hsm.shares_store())).ok_or_else(Refusal::wrong_state)
    }

    fn unauthenticated(&self, failure: Failure) -> Refusal {
        let denied = match failure {
            Failure::Denied(denied) => denied,
            Failure::Error(error) => return Refusal::from_core(error, &self.spec),
        };
        self.metrics.count(denied.into());
        if self.metrics.may_log_refusal(self.clock.monotonic()) {
            tracing::warn!(target: "http", address = %self.address, ?denied, "a login was refused");
        }
        match denied {
            Denied::Unauthenticated => Refusal::unauthenticated(),
            Denied::TooMany => Refusal::because(StatusCode::TOO_MANY_REQUESTS, "Too many requests"),
            Denied::Busy => Refusal::because(StatusCode::SERVICE_UNAVAILABLE, sentences::BUSY).with("retry-after", "1"),
        }
    }
}
