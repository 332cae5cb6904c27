//! The phases of the HSM as types. Only [`Operational`] owns the Domain Key, and users, namespaces and keys can be reached
//! only through it. While the HSM is Locked there is no value on which `sign` could be called.
//!
//! ```compile_fail
//! fn sign(locked: &casemate_core::hsm::phase::Locked, id: &casemate_api::UserId) {
//!     let _ = locked.user(id); // Locked has no users
//! }
//! ```
//! ```compile_fail
//! fn keep(op: &casemate_core::hsm::phase::Operational) -> casemate_core::hsm::phase::Operational {
//!     op.clone() // not Clone
//! }
//! ```

mod cluster;
mod locked;
mod operational;
mod unprovisioned;

use std::sync::Arc;

use casemate_api::State;

pub(crate) use cluster::check_cluster;
pub use locked::Locked;
pub use operational::Operational;
pub(crate) use unprovisioned::undo as undo_provisioning;
pub use unprovisioned::{Provision, Unprovisioned};

/// The current phase of the HSM.
#[derive(Clone)]
pub enum Phase {
    /// It can be provisioned.
    Unprovisioned(Arc<Unprovisioned>),
    /// It can be unlocked.
    Locked(Arc<Locked>),
    /// It can be used.
    Operational(Arc<Operational>),
    /// Its store cannot be reached, or everything is being erased.
    Failed(Failed),
}

/// The HSM while its store cannot be reached, or while it is being erased.
#[derive(Clone)]
pub struct Failed {
    /// What to do when the store is back; `None` while erasing.
    pub resume: Option<Resume>,
}

/// What follows Failed.
#[derive(Clone)]
pub enum Resume {
    /// The phase from before. An Operational one keeps the Domain Key in memory.
    Phase(Box<Phase>),
    /// The boot, which could not go on without the shared store.
    Boot,
    /// One of these, when the node is no longer being taken out of its cluster.
    Held(Box<Resume>),
}

impl Failed {
    /// The phase from before, if there was one.
    fn phase(&self) -> Option<&Phase> {
        let mut resume = self.resume.as_ref()?;
        loop {
            match resume {
                Resume::Phase(phase) => return Some(phase),
                Resume::Boot => return None,
                Resume::Held(held) => resume = held,
            }
        }
    }
}

impl Phase {
    /// The Operational phase, also while it is suspended in Failed.
    pub(crate) fn operational_in_memory(&self) -> Option<&Operational> {
        match self {
            Phase::Operational(op) => Some(op),
            Phase::Failed(failed) => failed.phase()?.operational_in_memory(),
            Phase::Unprovisioned(_) | Phase::Locked(_) => None,
        }
    }

    /// The Operational phase, to be closed, also while it is suspended in Failed.
    pub(crate) fn operational_to_close(&self) -> Option<Arc<Operational>> {
        match self {
            Phase::Operational(op) => Some(op.clone()),
            Phase::Failed(failed) => failed.phase()?.operational_to_close(),
            Phase::Unprovisioned(_) | Phase::Locked(_) => None,
        }
    }

    /// The state as the API names it.
    pub fn state(&self) -> State {
        match self {
            Phase::Unprovisioned(_) => State::Unprovisioned,
            Phase::Locked(_) => State::Locked,
            Phase::Operational(_) => State::Operational,
            Phase::Failed(_) => State::Failed,
        }
    }
}
