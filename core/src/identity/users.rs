//! Operations on users. Callers check the right to them first, with [`Users::reach`].

use crate::crypto::user_digest::Digest;
use crate::crypto::user_digest::Scheme;
use crate::rows::user::UserRecord;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use casemate_api::limits::PASSPHRASE_MAX_BYTES;
use casemate_api::{NamespaceId, Passphrase, Role, UserId};

use crate::crypto::kdf;
use crate::crypto::secret::SecretBytes;
use crate::device::Device;
use crate::error::Error;
use crate::identity::caller::{Caller, stored_namespace};
use crate::identity::right::By;
use crate::identity::right::{self, ATTEMPTS, Change, Rights};
use crate::platform::Platform;
use crate::rows::path::{Generation, RowPath, RowPrefix};
use crate::rows::tables::Tables;
use crate::rows::transaction::{Committed, Transaction};
use crate::runtime::party::Party;
use crate::runtime::pool::{Work, run_on};
use crate::store::Revision;

/// Hashes a new passphrase on the pool: about 0.1 s of one core. `Invalid` if its length is not allowed.
pub(crate) async fn digest(
    platform: &Platform,
    party: Party,
    field: &'static str,
    passphrase: &Passphrase,
) -> Result<Digest, Error> {
    check_length(field, passphrase)?;
    let mut salt = [0; 16];
    platform.rng.fill(&mut salt);
    let secret = SecretBytes::from_slice(passphrase.expose());
    let hash = run_on(&*platform.pool, Work::Kdf, party, move || kdf::user_digest(secret.expose(), &salt)).await?;
    Ok(Digest { scheme: Scheme::Scrypt, salt, hash })
}

/// Checks the length of a new passphrase, 10 to 200 bytes; `field` names it in the error.
pub(crate) fn check_length(field: &'static str, passphrase: &Passphrase) -> Result<(), Error> {
    if passphrase.has_valid_length() {
        return Ok(());
    }
    Err(Error::invalid_field(
        field,
        format!("passphrase {field} is not >= 10 and <= {PASSPHRASE_MAX_BYTES} characters"),
    ))
}

/// The properties of a new user.
pub struct NewUser {
    /// Any text.
    pub real_name: String,
    /// The role; a user has exactly one.
    pub role: Role,
    /// 10 to 200 bytes.
    pub passphrase: Passphrase,
}

impl NewUser {
    /// Checks what needs no look-up: the length of the passphrase.
    pub fn check(&self) -> Result<(), Error> {
        check_length("passphrase", &self.passphrase)
    }
}

/// The kind of access that a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserAccess {
    /// Read the user or its tags.
    Read,
    /// Create or delete it, or change its tags.
    Manage,
    /// Set its passphrase.
    Passphrase,
}

/// A user id that the caller may access. The user need not exist.
pub struct UserTarget {
    /// The user.
    pub id: UserId,
    /// The revision of its namespace's row at the check; `None`: the namespace does not exist.
    namespace: Option<Revision>,
    /// The party that the work is queued for.
    party: Party,
}

impl UserTarget {
    /// Adds the condition that the namespace is unchanged since the check.
    pub(crate) fn fence(&self, generation: Generation, transaction: Transaction) -> Transaction {
        let Some(namespace) = &self.id.namespace else { return transaction };
        let path = RowPath::namespace(generation, namespace);
        match self.namespace {
            None => transaction.absent(&path),
            Some(revision) => transaction.at(&path, revision),
        }
    }
}

/// The users of an HSM, for changes. The right to them is checked before.
pub struct Users<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) device: &'a Device,
    pub(crate) rights: &'a Rights,
}

impl Users<'_> {
    /// Checks whether `caller` has this access to the user `id`; `Forbidden` if not. Administrators reach the users of
    /// their own namespace; those of the root also reach users of namespaces that do not exist, and may read every
    /// user. Operators reach themselves, to read and to set their passphrase.
    pub async fn reach(&self, caller: &Caller, id: UserId, access: UserAccess) -> Result<UserTarget, Error> {
        let scope = caller.scope()?;
        let own = scope.namespace();
        let found = match &id.namespace {
            None => None,
            // As the store has it: another node may have deleted one that is still in the cache.
            Some(namespace) if own.is_none() && access != UserAccess::Read => {
                self.tables.namespaces.refresh(&RowPath::namespace(self.tables.generation, namespace)).await?
            }
            Some(namespace) => stored_namespace(self.tables, namespace).await?,
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
        if allowed { Ok(UserTarget { id, namespace, party: scope.party() }) } else { Err(Error::Forbidden(None)) }
    }

    /// Hardens the digests that came with a NetHSM's backup, if any are left: about 0.1 s of one core each.
    pub(crate) async fn harden_digests(&self) -> Result<(), Error> {
        let note = RowPath::hardening(self.tables.generation);
        if self.tables.hardening.read(&note).await?.is_none() {
            return Ok(());
        }
        for id in self.ids(None).await? {
            let Ok(id) = UserId::parse(&id) else { continue };
            let path = RowPath::user(self.tables.generation, &id);
            let Some(row) = self.tables.users.read(&path).await? else { continue };
            let old = row.record.digest;
            if old.scheme != Scheme::HmacSha256 {
                continue;
            }
            let hash =
                run_on(&*self.device.platform.pool, Work::Kdf, Party::Hsm, move || kdf::harden(&old.hash, &old.salt))
                    .await?;
            let change = |mut record: UserRecord| {
                if record.digest.scheme != Scheme::HmacSha256 || record.digest.salt != old.salt {
                    return Ok(None);
                }
                record.digest = Digest { scheme: Scheme::Scrypt, salt: old.salt, hash };
                Ok(Some(record))
            };
            right::update(self.tables, By::Hsm, &self.tables.users, &path, |transaction| transaction, change).await?;
        }
        self.tables.commit(Transaction::default().delete(&note)).await?;
        tracing::info!(target: "hsm.user", "the digests of restored users are hardened");
        Ok(())
    }

    /// Creates a user. `Exists` if the id is taken. The namespace must still be as `target` found it.
    pub async fn create(&self, by: &Caller, target: &UserTarget, new: NewUser) -> Result<(), Error> {
        let id = &target.id;
        let path = RowPath::user(self.tables.generation, id);
        let taken = || Error::Exists("user already exists".into());
        // As the store has it: one that was deleted at another node may still be in the cache.
        if self.tables.users.read(&path).await?.is_some() {
            return Err(taken());
        }
        let digest = digest(&self.device.platform, target.party, "passphrase", &new.passphrase).await?;
        let record = UserRecord { real_name: new.real_name, role: new.role, digest, tags: BTreeSet::new() };
        let transaction =
            Transaction::default().absent(&path).put(self.tables.users.sealed(&path, Revision::default(), &record)?);
        match right::commit(self.tables, By::Caller(by), target.fence(self.tables.generation, transaction)).await? {
            Committed::At(_) => {
                tracing::info!(target: "hsm.user", "added {} ({id}): R-{:?}", record.real_name, record.role);
                Ok(())
            }
            Committed::Conflict(0) => Err(taken()),
            Committed::Conflict(_) => Err(Error::Unavailable("The namespace was changed meanwhile. Try again.".into())),
        }
    }

    /// Removes a user. `NotFound` if it does not exist, `Invalid` if it is the caller: an Administrator of the root can
    /// be deleted only by another one, so the last one cannot be deleted. Concurrent changes do not prevent the
    /// deletion: each change takes a slow hash, the deletion only a write.
    pub async fn delete(&self, by: &Caller, target: &UserTarget) -> Result<(), Error> {
        let id = &target.id;
        if by.id == *id {
            return Err(Error::invalid_field("user", "Users cannot delete themselves"));
        }
        let path = RowPath::user(self.tables.generation, id);
        let _taking = self.rights.take_away().await;
        for _ in 0..ATTEMPTS {
            let row = self.tables.users.read(&path).await?.ok_or_else(Error::not_found)?;
            let transaction = Transaction::default().at(&path, row.revision).delete(&path);
            if let Committed::At(_) =
                right::commit(self.tables, By::Caller(by), target.fence(self.tables.generation, transaction)).await?
            {
                tracing::info!(target: "hsm.user", "removed ({id})");
                return Ok(());
            }
        }
        Err(Error::Unavailable("The user was changed meanwhile. Try again.".into()))
    }

    /// Sets a user's passphrase, with immediate effect. Of concurrent changes the last one counts. A user's change of
    /// its own passphrase applies only if the passphrase it logged in with is still valid.
    pub async fn set_passphrase(&self, by: &Caller, target: &UserTarget, passphrase: &Passphrase) -> Result<(), Error> {
        let id = &target.id;
        let digest = digest(&self.device.platform, target.party, "passphrase", passphrase).await?;
        let path = RowPath::user(self.tables.generation, id);
        let name = Mutex::new(String::new());
        let change = |mut record: UserRecord| {
            *name.lock().unwrap_or_else(PoisonError::into_inner) = record.real_name.clone();
            record.digest = digest.clone();
            Ok(Some(record))
        };
        // This may lock out a thief, so it must work even on a full disk; the slow hash limits its rate.
        let fence = |transaction: Transaction| target.fence(self.tables.generation, transaction.reserved());
        let _taking = self.rights.take_away().await;
        right::update(self.tables, By::Caller(by), &self.tables.users, &path, fence, change)
            .await?
            .ok_or_else(Error::not_found)?;
        tracing::info!(target: "hsm.user", "changed {id} ({}) passphrase", name.into_inner().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// Adds a tag to an Operator. `Invalid` for other roles.
    pub async fn add_tag(&self, by: &Caller, target: &UserTarget, tag: &str) -> Result<Change, Error> {
        let change = self.change_tags(by, target, |tags| tags.insert(tag.to_owned())).await?;
        Ok(change.if_done(|| tracing::info!(target: "hsm.user", "added a tag to {}: {tag:?}", target.id)))
    }

    /// Removes a tag from an Operator. `Invalid` for other roles.
    pub async fn remove_tag(&self, by: &Caller, target: &UserTarget, tag: &str) -> Result<Change, Error> {
        let change = self.change_tags(by, target, |tags| tags.remove(tag)).await?;
        Ok(change.if_done(|| tracing::info!(target: "hsm.user", "removed a tag from {}: {tag:?}", target.id)))
    }

    async fn change_tags(
        &self,
        by: &Caller,
        target: &UserTarget,
        change: impl Fn(&mut BTreeSet<String>) -> bool,
    ) -> Result<Change, Error> {
        let path = RowPath::user(self.tables.generation, &target.id);
        let fence = |transaction| target.fence(self.tables.generation, transaction);
        let changed = |mut record: UserRecord| {
            if record.role != Role::Operator {
                return Err(Error::invalid_field("user", "tag operations only exist on operator users"));
            }
            Ok(change(&mut record.tags).then_some(record))
        };
        let changed = right::update(self.tables, By::Caller(by), &self.tables.users, &path, fence, changed).await?;
        changed.ok_or(Error::NoUserToTag)
    }

    /// The ids of all users that a caller of this namespace sees, sorted; for the root all users.
    pub async fn ids(&self, namespace: Option<&NamespaceId>) -> Result<Vec<String>, Error> {
        let all = RowPrefix::users(self.tables.generation, None);
        let prefix = RowPrefix::users(self.tables.generation, namespace);
        let mut ids = Vec::new();
        let mut after = None;
        loop {
            let (paths, more) = self.tables.users.paths(&prefix, after.as_ref()).await?;
            ids.extend(paths.iter().filter_map(|path| all.tail(path.path())).map(str::to_owned));
            after = paths.last().cloned();
            if !more {
                return Ok(ids);
            }
        }
    }
}
