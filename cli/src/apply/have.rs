//! What is: read off the HSM, no more of it than the file speaks about. Everything is listed once; of what the file names
//! each thing is read, by a few threads over connections that stay open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{panic, thread};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::body::config::{Logging, Network, Ntp, Switch};
use casemate_api::body::keys::PublicParts;
use casemate_api::{KeyId, KeyType, Mechanism, NamespaceId, Role, UserId};
use casemate_client::{Error, KeyFilter};

use super::sessions::Sessions;
use super::want::{self, Want};
use crate::exit::Failure;

/// Everything that is.
#[derive(Clone, Default)]
pub(crate) struct Have {
    /// Who asks: nobody deletes the branch it sits on.
    pub(crate) myself: Option<UserId>,
    /// All namespaces.
    pub(crate) namespaces: BTreeSet<NamespaceId>,
    /// All users of all namespaces, those whose namespace is gone as well; with details if the file names them.
    pub(crate) users: BTreeMap<UserId, Option<User>>,
    /// The keys of root and of each namespace of the file in which somebody can work; with details if the file names them.
    pub(crate) keys: BTreeMap<Option<NamespaceId>, BTreeMap<KeyId, Option<Key>>>,
    /// The settings of which the file speaks.
    pub(crate) config: Config,
}

/// A user that is.
#[derive(Clone, Debug)]
pub(crate) struct User {
    /// The only role.
    pub(crate) role: Role,
    /// Any text.
    pub(crate) real_name: String,
    /// Of an Operator.
    pub(crate) tags: BTreeSet<String>,
}

/// A key that is.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    /// Its type.
    pub(crate) key_type: KeyType,
    /// Bits of an RSA key. Those of a Generic key nobody is told.
    pub(crate) length: Option<i64>,
    /// What it may do.
    pub(crate) mechanisms: BTreeSet<Mechanism>,
    /// Any strings: those that came in a body obey no rule.
    pub(crate) tags: BTreeSet<String>,
    /// Empty: none.
    pub(crate) label: String,
    /// The certificate, if the file speaks of it and there is one.
    pub(crate) certificate: Option<Vec<u8>>,
}

/// Settings that hold.
#[derive(Clone, Default)]
pub(crate) struct Config {
    /// Where log lines go.
    pub(crate) logging: Option<Logging>,
    /// Time servers.
    pub(crate) ntp: Option<Ntp>,
    /// Whether it starts by itself.
    pub(crate) unattended_boot: Option<Switch>,
    /// The chain of the HSM's own certificate.
    pub(crate) tls_certificate: Option<String>,
    /// The address.
    pub(crate) network: Option<Network>,
}

/// Reads what `want` speaks about.
pub(crate) fn read(sessions: &Sessions<'_>, want: &Want, myself: Option<&UserId>) -> Result<Have, Failure> {
    let root = sessions.root();
    let mut have = Have { myself: myself.cloned(), config: config(sessions, want)?, ..Have::default() };
    for item in root.namespaces().list()? {
        have.namespaces.insert(NamespaceId::parse(&item.id).map_err(|_| odd("namespace", &item.id))?);
    }
    for item in root.users().list()? {
        have.users.insert(UserId::parse(&item.user).map_err(|_| odd("user", &item.user))?, None);
    }
    let named: Vec<_> = want.users.iter().filter(|user| have.users.contains_key(&user.name)).collect();
    let read = each(&named, |user| self::user(sessions, &user.name))?;
    for (user, details) in named.into_iter().zip(read) {
        // Who was deleted since the list was made is not there.
        match details {
            Some(details) => have.users.insert(user.name.clone(), Some(details)),
            None => have.users.remove(&user.name),
        };
    }
    let mut places = vec![None];
    for namespace in want.namespaces.iter().filter(|namespace| have.namespaces.contains(namespace)) {
        if let Some(worker) = worker(&have, want, namespace) {
            sessions.open(namespace, worker)?;
            places.push(Some(namespace.clone()));
        }
    }
    for place in places {
        let keys = keys(sessions, want, place.as_ref()).map_err(|why| sessions.blame(place.as_ref(), why))?;
        have.keys.insert(place, keys);
    }
    Ok(have)
}

/// Who of the file works in `namespace`: the first that is there; in one that is still to be made also the first that can
/// be created. None: nobody can.
pub(crate) fn worker<'a>(have: &Have, want: &'a Want, namespace: &NamespaceId) -> Option<&'a want::User> {
    let there = |user: &&want::User| {
        have.users.get(&user.name).is_some_and(|user| matches!(user, Some(User { role: Role::Administrator, .. })))
    };
    let free = |user: &&want::User| !have.namespaces.contains(namespace) && !have.users.contains_key(&user.name);
    want.workers(namespace).find(there).or_else(|| want.workers(namespace).find(free))
}

fn odd(what: &str, name: &str) -> Failure {
    Failure::Local(format!("The HSM lists a {what} of the name {name:?}, which is none. Is it an HSM?"))
}

fn user(sessions: &Sessions<'_>, name: &UserId) -> Result<Option<User>, Failure> {
    let users = sessions.root().users();
    let Some(user) = there(users.read(name))? else { return Ok(None) };
    let tags = if user.role == Role::Operator { there(users.tags(name))? } else { None };
    let tags = tags.unwrap_or_default().into_iter().collect();
    Ok(Some(User { role: user.role, real_name: user.real_name, tags }))
}

fn keys(
    sessions: &Sessions<'_>,
    want: &Want,
    place: Option<&NamespaceId>,
) -> Result<BTreeMap<KeyId, Option<Key>>, Failure> {
    let session = sessions.of(place)?;
    let mut all = BTreeMap::new();
    for item in session.keys().list(&KeyFilter::default())? {
        all.insert(KeyId::parse(&item.id).map_err(|_| odd("key", &item.id))?, None);
    }
    let here = |key: &&want::Key| key.namespace.as_ref() == place && all.contains_key(&key.id);
    let named: Vec<_> = want.keys.iter().filter(here).collect();
    let read = each(&named, |wanted| {
        let keys = session.keys();
        let Some(key) = there(keys.read(&wanted.id))? else { return Ok(None) };
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

fn config(sessions: &Sessions<'_>, want: &Want) -> Result<Config, Failure> {
    let (config, want) = (sessions.root().config(), &want.config);
    Ok(Config {
        logging: want.logging.as_ref().map(|_| config.logging()).transpose()?,
        ntp: want.ntp.as_ref().map(|_| config.ntp()).transpose()?,
        unattended_boot: want.unattended_boot.map(|_| config.unattended_boot()).transpose()?,
        tls_certificate: want.tls_certificate_file.as_ref().map(|_| config.tls_certificate()).transpose()?,
        network: want.network.as_ref().map(|_| config.network()).transpose()?,
    })
}

/// None of what is not there.
fn there<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(why) => Err(why),
    }
}

/// The length of a number in base64.
fn bits(modulus: &str) -> Option<i64> {
    let bytes = BASE64_STANDARD.decode(modulus).ok()?;
    let first = bytes.iter().position(|byte| *byte != 0)?;
    let (lead, rest) = bytes.get(first..)?.split_first()?;
    i64::try_from(rest.len() * 8 + 8 - lead.leading_zeros() as usize).ok()
}

/// How many calls are under way at once. No more than the connections that the client keeps.
const THREADS: usize = 8;

/// Does `work` with each item, several at a time, and returns the results in the items' order. The first failure stops
/// it; what was begun is finished.
pub(crate) fn each<T: Sync, R: Send>(
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
