//! As whom the work is done: root's Administrator, who was named to the command, and in each namespace an Administrator of
//! its own, whose passphrase the file says where to find.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use casemate_api::{NamespaceId, Passphrase, UserId};
use casemate_client::{Error, Session};

use super::want::User;
use crate::exit::Failure;
use crate::profile::Context;
use crate::prompt::{self, Source};

/// Everybody who is logged in.
pub(crate) struct Sessions<'a> {
    context: &'a Context,
    root: Session,
    within: Mutex<BTreeMap<NamespaceId, (UserId, Session)>>,
    passphrases: Mutex<BTreeMap<UserId, Passphrase>>,
}

impl<'a> Sessions<'a> {
    /// Root's Administrator, as the command's options name it.
    pub(crate) fn new(context: &'a Context) -> Result<Self, Failure> {
        Ok(Self { context, root: context.session()?, within: Mutex::default(), passphrases: Mutex::default() })
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
        let session = self.context.client.log_in(&worker.name, self.passphrase(worker)?);
        within.insert(namespace.clone(), (worker.name.clone(), session));
        Ok(())
    }

    /// The passphrase of a user of the file, asked for once: a command may make up another one each time.
    pub(crate) fn passphrase(&self, user: &User) -> Result<Passphrase, Failure> {
        let mut passphrases = self.passphrases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(passphrase) = passphrases.get(&user.name) {
            return Ok(copy(passphrase));
        }
        let whose = format!("The passphrase of {}", user.name);
        let passphrase = read(user.passphrase.as_ref(), &whose)?;
        passphrases.insert(user.name.clone(), copy(&passphrase));
        Ok(passphrase)
    }

    /// Finds out whether the HSM takes the passphrase of the file for a user that an earlier namespace left behind.
    pub(crate) fn try_out(&self, user: &User) -> Result<(), Failure> {
        let session = self.context.client.log_in(&user.name, self.passphrase(user)?);
        match session.users().list() {
            // Nobody may do anything where no namespace is, but a wrong passphrase is found out before that.
            Ok(_) | Err(Error::Forbidden { .. }) => Ok(()),
            Err(why) => Err(Failure::from(why).at(format!("As {}", user.name))),
        }
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

/// What is at the place that the file names.
pub(crate) fn read(source: Option<&Source>, whose: &str) -> Result<Passphrase, Failure> {
    let Some(source) = source else {
        return Err(Failure::Usage(format!(
            "{whose} is needed, and the file does not say where it is: add passphrase-file, -env or -command."
        )));
    };
    prompt::read(source).map_err(|why| why.at(whose))
}

/// A call takes a passphrase with it, and a second attempt needs it, too.
pub(crate) fn copy(passphrase: &Passphrase) -> Passphrase {
    Passphrase::from_text(String::from_utf8_lossy(passphrase.expose()).into_owned())
}
