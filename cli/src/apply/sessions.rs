//! As whom the work is done: root's Administrator, who was named to the command, and in each namespace an Administrator of
//! its own, whose passphrase the file says where to find.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use casemate_api::{NamespaceId, UserId};
use casemate_client::Session;

use super::want::User;
use crate::exit::Failure;
use crate::profile::Context;
use crate::prompt;

/// Everybody who is logged in.
pub(crate) struct Sessions<'a> {
    context: &'a Context,
    root: Session,
    within: Mutex<BTreeMap<NamespaceId, (UserId, Session)>>,
}

impl<'a> Sessions<'a> {
    /// Root's Administrator, as the command's options name it.
    pub(crate) fn new(context: &'a Context) -> Result<Self, Failure> {
        Ok(Self { context, root: context.session()?, within: Mutex::default() })
    }

    /// Root's Administrator.
    pub(crate) fn root(&self) -> &Session {
        &self.root
    }

    /// Lets `worker` work in its namespace, unless somebody does already.
    pub(crate) fn open(&self, namespace: &NamespaceId, worker: &User) -> Result<(), Failure> {
        let mut within = self.within.lock().unwrap_or_else(PoisonError::into_inner);
        if within.contains_key(namespace) {
            return Ok(());
        }
        let Some(source) = &worker.passphrase else {
            return Err(Failure::Usage(format!("The file does not say where the passphrase of {} is.", worker.name)));
        };
        let passphrase = prompt::read(source).map_err(|why| why.at(format!("The passphrase of {}", worker.name)))?;
        let session = self.context.client.log_in(&worker.name, passphrase);
        within.insert(namespace.clone(), (worker.name.clone(), session));
        Ok(())
    }

    /// Who works in `place`; none is root.
    pub(crate) fn of(&self, place: Option<&NamespaceId>) -> Result<Session, Failure> {
        let Some(namespace) = place else { return Ok(self.root.clone()) };
        let within = self.within.lock().unwrap_or_else(PoisonError::into_inner);
        match within.get(namespace) {
            Some((_, session)) => Ok(session.clone()),
            None => Err(Failure::Local(format!("Nobody works in the namespace {namespace}."))),
        }
    }

    /// Says in an error as whom something was tried in `place`.
    pub(crate) fn blame(&self, place: Option<&NamespaceId>, why: Failure) -> Failure {
        let within = self.within.lock().unwrap_or_else(PoisonError::into_inner);
        match place.and_then(|namespace| within.get(namespace)) {
            Some((worker, _)) => why.at(format!("As {worker}")),
            None => why,
        }
    }
}
