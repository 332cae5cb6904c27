//! The actual state of an HSM, as far as the file is about it. Everything is listed once; the details of what the file
//! names are read by several threads, over connections that are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{panic, thread};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::body::config::{Logging, Network, Ntp, Switch};
use casemate_api::body::keys::PublicParts;
use casemate_api::{KeyId, KeyType, Mechanism, NamespaceId, Role, UserId};
use casemate_client::{Error, KeyFilter};

use super::desired::{self, Desired};
use super::sessions::Sessions;
use crate::exit::Failure;

/// The actual state.
#[derive(Clone, Default)]
pub(crate) struct Actual {
    /// The user who runs the command, and whom `--prune` must not delete.
    pub(crate) own_user: Option<UserId>,
    /// All namespaces.
    pub(crate) namespaces: BTreeSet<NamespaceId>,
    /// All users, also of namespaces that were deleted; with details if the file names them.
    pub(crate) users: BTreeMap<UserId, Option<User>>,
    /// The keys outside of namespaces, and in those of the file in which one of its users can act; with details if the
    /// file names them.
    pub(crate) keys: BTreeMap<Option<NamespaceId>, BTreeMap<KeyId, Option<Key>>>,
    /// The settings that the file has.
    pub(crate) config: Config,
}

/// An existing user.
#[derive(Clone, Debug)]
pub(crate) struct User {
    /// The role.
    pub(crate) role: Role,
    /// Any text.
    pub(crate) real_name: String,
    /// The tags of an Operator.
    pub(crate) tags: BTreeSet<String>,
}

/// An existing key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    /// Its type.
    pub(crate) key_type: KeyType,
    /// The length of an RSA key in bits. No HSM tells that of a Generic key.
    pub(crate) length: Option<i64>,
    /// The mechanisms it may be used with.
    pub(crate) mechanisms: BTreeSet<Mechanism>,
    /// As the HSM sends them: they need not be valid tags.
    pub(crate) tags: BTreeSet<String>,
    /// Empty: no label.
    pub(crate) label: String,
    /// The certificate, if the file has one for this key and one is stored.
    pub(crate) certificate: Option<Vec<u8>>,
}

/// The current settings.
#[derive(Clone, Default)]
pub(crate) struct Config {
    /// Where log lines are sent.
    pub(crate) logging: Option<Logging>,
    /// Time servers.
    pub(crate) ntp: Option<Ntp>,
    /// Whether the HSM starts without the unlock passphrase.
    pub(crate) unattended_boot: Option<Switch>,
    /// The HSM's own certificate with its chain, in PEM.
    pub(crate) tls_certificate: Option<String>,
    /// The addresses.
    pub(crate) network: Option<Network>,
}

/// Reads from the HSM what `desired` is about.
pub(crate) fn read(sessions: &Sessions<'_>, desired: &Desired, own_user: Option<&UserId>) -> Result<Actual, Failure> {
    let root = sessions.root();
    let mut actual = Actual { own_user: own_user.cloned(), config: config(sessions, desired)?, ..Actual::default() };
    for item in root.namespaces().list()? {
        actual.namespaces.insert(NamespaceId::parse(&item.id).map_err(|_| invalid_name("namespace", &item.id))?);
    }
    for item in root.users().list()? {
        actual.users.insert(UserId::parse(&item.user).map_err(|_| invalid_name("user", &item.user))?, None);
    }
    let named: Vec<_> = desired.users.iter().filter(|user| actual.users.contains_key(&user.name)).collect();
    let read = in_parallel(&named, |user| self::user(sessions, &user.name))?;
    for (user, details) in named.into_iter().zip(read) {
        // A user that was deleted after it was listed does not exist.
        match details {
            Some(details) => actual.users.insert(user.name.clone(), Some(details)),
            None => actual.users.remove(&user.name),
        };
    }
    let mut namespaces = vec![None];
    for namespace in desired.namespaces.iter().filter(|namespace| actual.namespaces.contains(namespace)) {
        if let Some(namespace_admin) = namespace_admin(&actual, desired, namespace) {
            sessions.log_in(namespace, namespace_admin)?;
            namespaces.push(Some(namespace.clone()));
        }
    }
    for namespace in namespaces {
        let keys =
            keys(sessions, desired, namespace.as_ref()).map_err(|why| sessions.with_user(namespace.as_ref(), why))?;
        actual.keys.insert(namespace, keys);
    }
    Ok(actual)
}

/// The Administrator in the file who acts in `namespace`: the first one who exists, or, if the namespace is to be
/// created, the first one who can be. `None`: there is none.
pub(crate) fn namespace_admin<'a>(
    actual: &Actual,
    desired: &'a Desired,
    namespace: &NamespaceId,
) -> Option<&'a desired::User> {
    let there = |user: &&desired::User| {
        actual.users.get(&user.name).is_some_and(|user| matches!(user, Some(User { role: Role::Administrator, .. })))
    };
    let free = |user: &&desired::User| !actual.namespaces.contains(namespace) && !actual.users.contains_key(&user.name);
    desired.admins_of(namespace).find(there).or_else(|| desired.admins_of(namespace).find(free))
}

fn invalid_name(what: &str, name: &str) -> Failure {
    Failure::Local(format!("The HSM lists a {what} with the invalid name {name:?}. Check that it is an HSM."))
}

fn user(sessions: &Sessions<'_>, name: &UserId) -> Result<Option<User>, Failure> {
    let users = sessions.root().users();
    let Some(user) = if_found(users.read(name))? else { return Ok(None) };
    let tags = if user.role == Role::Operator { if_found(users.tags(name))? } else { None };
    let tags = tags.unwrap_or_default().into_iter().collect();
    Ok(Some(User { role: user.role, real_name: user.real_name, tags }))
}

fn keys(
    sessions: &Sessions<'_>,
    desired: &Desired,
    namespace: Option<&NamespaceId>,
) -> Result<BTreeMap<KeyId, Option<Key>>, Failure> {
    let session = sessions.in_namespace(namespace)?;
    let mut all = BTreeMap::new();
    for item in session.keys().list(&KeyFilter::default())? {
        all.insert(KeyId::parse(&item.id).map_err(|_| invalid_name("key", &item.id))?, None);
    }
    let here = |key: &&desired::Key| key.namespace.as_ref() == namespace && all.contains_key(&key.id);
    let named: Vec<_> = desired.keys.iter().filter(here).collect();
    let read = in_parallel(&named, |wanted| {
        let keys = session.keys();
        let Some(key) = if_found(keys.read(&wanted.id))? else { return Ok(None) };
        let certificate = match wanted.certificate_file {
            Some(_) => keys.certificate(&wanted.id)?.map(|bytes| bytes.to_vec()),
            None => None,
        };
        let length = match &key.public {
            Some(PublicParts::Rsa { modulus, .. }) => bits(modulus),
            _ => None,
        };
        Ok(Some(Key {
            key_type: key.key_type,
            length,
            mechanisms: key.mechanisms.into_iter().collect(),
            tags: key.restrictions.tags.into_iter().collect(),
            label: key.label,
            certificate,
        }))
    })?;
    for (key, details) in named.into_iter().zip(read) {
        match details {
            Some(details) => all.insert(key.id.clone(), Some(details)),
            None => all.remove(&key.id),
        };
    }
    Ok(all)
}

fn config(sessions: &Sessions<'_>, desired: &Desired) -> Result<Config, Failure> {
    let (config, desired) = (sessions.root().config(), &desired.config);
    Ok(Config {
        logging: desired.logging.as_ref().map(|_| config.logging()).transpose()?,
        ntp: desired.ntp.as_ref().map(|_| config.ntp()).transpose()?,
        unattended_boot: desired.unattended_boot.map(|_| config.unattended_boot()).transpose()?,
        tls_certificate: desired.tls_certificate_file.as_ref().map(|_| config.tls_certificate()).transpose()?,
        network: desired.network.as_ref().map(|_| config.network()).transpose()?,
    })
}

/// `None` for an object that does not exist.
fn if_found<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(why) => Err(why),
    }
}

/// The length in bits of a number in base64.
fn bits(modulus: &str) -> Option<i64> {
    let bytes = BASE64_STANDARD.decode(modulus).ok()?;
    let first = bytes.iter().position(|byte| *byte != 0)?;
    let (lead, rest) = bytes.get(first..)?.split_first()?;
    i64::try_from(rest.len() * 8 + 8 - lead.leading_zeros() as usize).ok()
}

/// How many calls are made at the same time: no more than the client keeps connections.
const THREADS: usize = 8;

/// Calls `work` for each item, several at a time, and returns the results in the order of the items. After the first
/// failure no more calls are started; those in progress are finished.
pub(crate) fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, Failure> + Sync,
) -> Result<Vec<R>, Failure> {
    let next = AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return Ok(done) };
            match work(item) {
                Ok(result) => done.push((index, result)),
                Err(why) => {
                    next.store(items.len(), Ordering::Relaxed);
                    return Err(why);
                }
            }
        }
    };
    let mut all = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS.min(items.len())).map(|_| scope.spawn(some)).collect();
        let mut all = Vec::with_capacity(items.len());
        let mut failed = None;
        for thread in threads {
            match thread.join() {
                Ok(Ok(done)) => all.extend(done),
                Ok(Err(why)) => failed = failed.or(Some(why)),
                Err(why) => panic::resume_unwind(why),
            }
        }
        failed.map_or(Ok(all), Err)
    })?;
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}
