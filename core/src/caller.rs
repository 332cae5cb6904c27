//! Who calls, and what that lets them reach.
//!
//! A [`Caller`] comes only from [`Operational::authenticate`], a [`Scope`] only from a caller, and every path of a key
//! is formed by a scope: what lies in another namespace cannot be named, let alone used.

use std::net::IpAddr;
use std::sync::Arc;

use casemate_api::limits::CREDENTIAL_CACHE_ENTRIES;
use casemate_api::{Action, NamespaceId, Role, UserId};
use quick_cache::sync::Cache;
use subtle::ConstantTimeEq;

use crate::error::Error;
use crate::kdf_queue::Verdict;
use crate::limiter::Attempt;
use crate::path::{Generation, NamespaceNumber, ROOT, SharedPath};
use crate::phase::Operational;
use crate::platform::Rng;
use crate::shared::Draft;
use crate::store::Revision;
use crate::table::Row;
use crate::users::{Digest, Scheme, UserRecord};

/// What somebody shows to prove who they are.
pub enum Evidence<'a> {
    /// HTTP Basic credentials (RFC 7617).
    Basic {
        /// The user name as sent.
        name: &'a str,
        /// The passphrase as sent.
        passphrase: &'a [u8],
        /// The client's address.
        address: IpAddr,
    },
}

/// Why somebody was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Unknown user or wrong passphrase; the same answer for both.
    Unauthenticated,
    /// A failed attempt of that name from that address lies less than a second back.
    TooMany,
    /// Too many passphrases are being checked already.
    Busy,
}

/// Somebody who proved who they are.
pub struct Caller {
    /// Their user id.
    pub id: UserId,
    row: Arc<Row<UserRecord>>,
    home: Home,
}

enum Home {
    Known(Scope),
    /// The user's namespace does not exist (any more): they may do nothing.
    Missing,
}

/// Where a caller's keys live: the root, or one existing namespace.
#[derive(Clone)]
pub struct Scope {
    number: NamespaceNumber,
    /// The namespace's row, which every write inside it expects unchanged.
    namespace: Option<(NamespaceId, Revision)>,
}

impl Scope {
    /// The number in the paths of this scope.
    pub(crate) fn number(&self) -> NamespaceNumber {
        self.number
    }

    /// The namespace; `None` is the root.
    pub fn namespace(&self) -> Option<&NamespaceId> {
        self.namespace.as_ref().map(|(id, _)| id)
    }

    /// Adds the guard that the namespace still exists as this scope saw it.
    pub(crate) fn fence(&self, generation: Generation, draft: Draft) -> Draft {
        match &self.namespace {
            None => draft,
            Some((id, revision)) => draft.at(&SharedPath::namespace(generation, id), *revision),
        }
    }
}

impl Caller {
    /// The revision of their row when they were believed: what a write on their behalf expects.
    pub(crate) fn revision(&self) -> Revision {
        self.row.revision
    }

    /// Their row when they were believed.
    pub(crate) fn record(&self) -> &UserRecord {
        &self.row.record
    }

    /// The caller's role.
    pub fn role(&self) -> Role {
        self.row.record.role
    }

    /// The caller's scope; `Forbidden` if its namespace does not exist.
    pub fn scope(&self) -> Result<&Scope, Error> {
        match &self.home {
            Home::Known(scope) => Ok(scope),
            Home::Missing => Err(Error::Forbidden(None)),
        }
    }

    /// Whether the caller belongs to no namespace.
    pub fn is_root(&self) -> bool {
        matches!(&self.home, Home::Known(scope) if scope.number == ROOT)
    }

    /// Whether the caller has one of `tags`; without tags everybody has.
    pub fn has_one_of(&self, tags: &[String]) -> bool {
        tags.is_empty() || tags.iter().any(|tag| self.row.record.tags.contains(tag))
    }
}

/// What a caller wants with a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserAccess {
    /// Read the user or its tags.
    Read,
    /// Create or delete it, or change its tags.
    Manage,
    /// Set its passphrase.
    Passphrase,
}

/// A user id that the caller may reach; whether there is such a user is another question.
pub struct UserTarget {
    /// The user.
    pub id: UserId,
    /// Its namespace's row when the caller was let in; `None`: there is no such namespace.
    namespace: Option<Revision>,
}

impl UserTarget {
    /// Adds the guard that the namespace is as it was when the caller was let in.
    pub(crate) fn fence(&self, generation: Generation, draft: Draft) -> Draft {
        let Some(namespace) = &self.id.namespace else { return draft };
        let path = SharedPath::namespace(generation, namespace);
        match self.namespace {
            None => draft.absent(&path),
            Some(revision) => draft.at(&path, revision),
        }
    }
}

/// Credentials that were right once, by user name: a keyed hash of name and passphrase, and the revision of the user row
/// it was checked against. Any change of the row makes the entry worthless; the passphrase is not in it.
pub struct Credentials {
    key: aws_lc_rs::hmac::Key,
    known: Cache<Box<str>, ([u8; 32], Revision)>,
}

impl Credentials {
    /// An empty cache under a fresh key.
    pub fn new(rng: &dyn Rng) -> Self {
        let mut key = [0; 32];
        rng.fill(&mut key);
        let hmac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
        zeroize::Zeroize::zeroize(&mut key);
        Self { key: hmac, known: Cache::new(CREDENTIAL_CACHE_ENTRIES) }
    }

    fn tag(&self, name: &str, passphrase: &[u8]) -> [u8; 32] {
        let mut context = aws_lc_rs::hmac::Context::with_key(&self.key);
        context.update(name.as_bytes());
        context.update(&[0]);
        context.update(passphrase);
        let mut tag = [0; 32];
        tag.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        tag
    }

    fn knows(&self, name: &str, tag: &[u8; 32], revision: Revision) -> bool {
        let Some((known, at)) = self.known.get(name) else { return false };
        at == revision && bool::from(known.as_slice().ct_eq(tag.as_slice()))
    }
}

impl Operational {
    /// Finds out who calls. A warm check costs a keyed hash; a first one the slow hash, on the pool.
    pub async fn authenticate(&self, evidence: Evidence<'_>) -> Result<Caller, Failure> {
        let Evidence::Basic { name, passphrase, address } = evidence;
        let Ok(id) = UserId::parse(name) else { return Err(Failure::Denied(Denied::Unauthenticated)) };
        let attempt = Attempt::new(address, name);
        if self.limiter.blocks(&attempt, self.platform.clock.monotonic()) {
            return Err(Failure::Denied(Denied::TooMany));
        }
        let row = self.user(&id).await?;
        let tag = self.credentials.tag(name, passphrase);
        if let Some(row) = &row
            && self.credentials.knows(name, &tag, row.revision)
        {
            return self.caller(id, row.clone()).await;
        }
        // A name that is not there costs what a name that is there costs: one read of the store, one hash.
        let path = SharedPath::user(self.shared.generation, &id);
        let row = match row {
            Some(_) => self.users.read(&path).await?.map(Arc::new),
            None => None,
        };
        let expected = row.as_ref().map_or(NOBODY, |row| row.record.digest.clone());
        match self.kdf_queue.verify(attempt, tag, passphrase, expected).await {
            Verdict::Right => {}
            Verdict::Wrong => return Err(Failure::Denied(Denied::Unauthenticated)),
            Verdict::TooMany => return Err(Failure::Denied(Denied::TooMany)),
            Verdict::Busy => return Err(Failure::Denied(Denied::Busy)),
        }
        let Some(row) = row else { return Err(Failure::Denied(Denied::Unauthenticated)) };
        self.credentials.known.insert(name.into(), (tag, row.revision));
        self.caller(id, row).await
    }

    /// Looks again at somebody who was believed a while ago: role, tags and namespace as they are now. Whose passphrase
    /// was changed or who was deleted meanwhile is no longer believed.
    pub async fn renew(&self, caller: Caller) -> Result<Caller, Failure> {
        let now = self.user(&caller.id).await?.ok_or(Failure::Denied(Denied::Unauthenticated))?;
        if caller.record().is_as(&now.record) {
            self.caller(caller.id, now).await
        } else {
            Err(Failure::Denied(Denied::Unauthenticated))
        }
    }

    /// Somebody who need not prove who they are: in simulations only.
    #[cfg(any(test, feature = "sim"))]
    pub async fn believe(&self, id: &UserId) -> Result<Caller, Failure> {
        let row = self.user(id).await?.ok_or(Failure::Denied(Denied::Unauthenticated))?;
        self.caller(id.clone(), row).await
    }

    async fn caller(&self, id: UserId, row: Arc<Row<UserRecord>>) -> Result<Caller, Failure> {
        let home = match &id.namespace {
            None => Home::Known(Scope { number: ROOT, namespace: None }),
            Some(namespace) => match self.namespace(namespace).await? {
                None => Home::Missing,
                Some(found) => {
                    let namespace = Some((namespace.clone(), found.revision));
                    Home::Known(Scope { number: found.record.number, namespace })
                }
            },
        };
        Ok(Caller { id, row, home })
    }

    /// Whether `caller` may do `access` with the user `id`. Administrators reach their own namespace; those of the root
    /// also the users of namespaces that do not exist, and read everyone. Operators reach themselves, to read and to set
    /// their passphrase.
    pub async fn reach_user(&self, caller: &Caller, id: UserId, access: UserAccess) -> Result<UserTarget, Error> {
        let own = caller.scope()?.namespace();
        let found = match &id.namespace {
            None => None,
            Some(namespace) => self.namespace(namespace).await?,
        };
        let namespace = found.map(|row| row.revision);
        let allowed = match caller.role() {
            Role::Administrator => match (own, &id.namespace) {
                (None, None) => true,
                (None, Some(_)) => namespace.is_none() || access == UserAccess::Read,
                (Some(own), target) => target.as_ref() == Some(own),
            },
            Role::Operator => access != UserAccess::Manage && caller.id == id,
            Role::Metrics | Role::Backup => false,
        };
        if allowed { Ok(UserTarget { id, namespace }) } else { Err(Error::Forbidden(None)) }
    }
}

/// Why [`Operational::authenticate`] gave no caller.
#[derive(Debug)]
pub enum Failure {
    /// They were not believed.
    Denied(Denied),
    /// It could not be found out.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

/// What an unknown user's passphrase is compared with: the digest of nothing that can be typed.
const NOBODY: Digest = Digest { scheme: Scheme::Scrypt, salt: [0; 16], hash: [0; 32] };

/// Whether `caller` may perform `action` at all, and from where.
pub fn allows(caller: &Caller, action: Action, whence: Whence) -> bool {
    let at_home = match whence {
        Whence::Root => caller.is_root(),
        Whence::Anywhere => caller.scope().is_ok(),
    };
    at_home && caller.role().may(action)
}

/// Which callers an endpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// Users without a namespace.
    Root,
    /// Users of any existing namespace, and of the root; each sees its own.
    Anywhere,
}
