//! The sessions in which a plan is carried out: of the Administrator who runs the command, and in each namespace of one
//! of its own Administrators in the file.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use casemate_api::{NamespaceId, Passphrase, UserId};
use casemate_client::{Error, Session};

use super::desired::User;
use crate::exit::Failure;
use crate::profile::Context;
use crate::prompt::{self, Source};

/// The open sessions.
pub(crate) struct Sessions<'a> {
    context: &'a Context,
    root: Session,
    by_namespace: Mutex<BTreeMap<NamespaceId, (UserId, Session)>>,
    passphrases: Mutex<BTreeMap<UserId, Passphrase>>,
}

impl<'a> Sessions<'a> {
    /// Opens the session of the user who runs the command.
    pub(crate) fn new(context: &'a Context) -> Result<Self, Failure> {
        Ok(Self { context, root: context.session()?, by_namespace: Mutex::default(), passphrases: Mutex::default() })
    }

    /// The session of the user who runs the command.
    pub(crate) fn root(&self) -> &Session {
        &self.root
    }

    /// Opens a session of `admin` for its namespace, unless there is one.
    pub(crate) fn log_in(&self, namespace: &NamespaceId, namespace_admin: &User) -> Result<(), Failure> {
        let mut by_namespace = self.by_namespace.lock().unwrap_or_else(PoisonError::into_inner);
        if by_namespace.contains_key(namespace) {
            return Ok(());
        }
        let session = self.context.client.log_in(&namespace_admin.name, self.passphrase(namespace_admin)?);
        by_namespace.insert(namespace.clone(), (namespace_admin.name.clone(), session));
        Ok(())
    }

    /// The passphrase of a user in the file. It is read only once, as a command may print a new one each time.
    pub(crate) fn passphrase(&self, user: &User) -> Result<Passphrase, Failure> {
        let mut passphrases = self.passphrases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(passphrase) = passphrases.get(&user.name) {
            return Ok(prompt::copy(passphrase));
        }
        let whose = format!("The passphrase of {}", user.name);
        let passphrase = read(user.passphrase.as_ref(), &whose)?;
        passphrases.insert(user.name.clone(), prompt::copy(&passphrase));
        Ok(passphrase)
    }

    /// Checks that the HSM accepts the passphrase of a user of an earlier namespace.
    pub(crate) fn check_passphrase(&self, user: &User) -> Result<(), Failure> {
        let session = self.context.client.log_in(&user.name, self.passphrase(user)?);
        match session.users().list() {
            // Without its namespace the user may do nothing, but a wrong passphrase is reported before that.
            Ok(_) | Err(Error::Forbidden { .. }) => Ok(()),
            Err(why) => Err(Failure::from(why).prefixed(format!("As {}", user.name))),
        }
    }

    /// The session for `namespace`; `None`: of the user who runs the command.
    pub(crate) fn in_namespace(&self, namespace: Option<&NamespaceId>) -> Result<Session, Failure> {
        let Some(namespace) = namespace else { return Ok(self.root.clone()) };
        let by_namespace = self.by_namespace.lock().unwrap_or_else(PoisonError::into_inner);
        match by_namespace.get(namespace) {
            Some((_, session)) => Ok(session.clone()),
            None => Err(Failure::Local(format!("There is no session for the namespace {namespace}."))),
        }
    }

    /// Adds to an error which user made the call in `namespace`.
    pub(crate) fn with_user(&self, namespace: Option<&NamespaceId>, why: Failure) -> Failure {
        let by_namespace = self.by_namespace.lock().unwrap_or_else(PoisonError::into_inner);
        match namespace.and_then(|namespace| by_namespace.get(namespace)) {
            Some((worker, _)) => why.prefixed(format!("As {worker}")),
            None => why,
        }
    }
}

/// Reads the passphrase of `whose` from its source.
pub(crate) fn read(source: Option<&Source>, whose: &str) -> Result<Passphrase, Failure> {
    let Some(source) = source else {
        return Err(Failure::Usage(format!(
            "{whose} is needed, but the file does not tell where it is: add passphrase-file, -env or -command."
        )));
    };
    prompt::read(source).map_err(|why| why.prefixed(whose))
}
