//! Users: their record, and what can be done to them. Who may do it is the caller's question, asked before.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use casemate_api::limits::PASSPHRASE_MAX_BYTES;
use casemate_api::{NamespaceId, Passphrase, Role, UserId};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::caller::{Caller, UserTarget};
use crate::error::Error;
use crate::kdf;
use crate::party::Party;
use crate::path::{Generation, SharedPath};
use crate::phase::Operational;
use crate::platform::{Platform, Work, run_on};
use crate::record::{BadRecord, Reader, Writer};
use crate::right::By;
use crate::secret::SecretBytes;
use crate::shared::{ATTEMPTS, Committed, Draft};
use crate::store::Revision;
use crate::table::{Record, Row};

/// How a passphrase digest was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HMAC-SHA256(salt, passphrase): users brought by a NetHSM backup, until their next passphrase.
    HmacSha256,
    /// scrypt over that.
    Scrypt,
}

/// Digest of a user passphrase.
#[derive(Clone)]
pub struct Digest {
    /// How it was made.
    pub scheme: Scheme,
    /// Random, per passphrase.
    pub salt: [u8; 16],
    /// The digest itself.
    pub hash: [u8; 32],
}

/// A user as stored.
pub struct UserRecord {
    /// Any text.
    pub real_name: String,
    /// The only role.
    pub role: Role,
    /// Digest of the passphrase.
    pub digest: Digest,
    /// Of Operators: which restricted keys they may use.
    pub tags: BTreeSet<String>,
}

impl Record for UserRecord {
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let role = match self.role {
            Role::Administrator => 1,
            Role::Operator => 2,
            Role::Metrics => 3,
            Role::Backup => 4,
        };
        let scheme = match self.digest.scheme {
            Scheme::HmacSha256 => 0,
            Scheme::Scrypt => 1,
        };
        let head = Writer::new(1)
            .u8(role)
            .u8(scheme)
            .raw(&self.digest.salt)
            .raw(&self.digest.hash)
            .bytes(self.real_name.as_bytes())
            .u32(u32::try_from(self.tags.len()).unwrap_or(u32::MAX));
        self.tags.iter().fold(head, |writer, tag| writer.bytes(tag.as_bytes())).finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let role = match reader.u8()? {
            1 => Role::Administrator,
            2 => Role::Operator,
            3 => Role::Metrics,
            4 => Role::Backup,
            _ => return Err(BadRecord("it names an unknown role")),
        };
        let scheme = match reader.u8()? {
            0 => Scheme::HmacSha256,
            1 => Scheme::Scrypt,
            _ => return Err(BadRecord("it names an unknown digest scheme")),
        };
        let digest = Digest { scheme, salt: reader.array()?, hash: reader.array()? };
        let real_name = reader.text()?;
        let count = reader.u32()?;
        let tags = (0..count).map(|_| reader.text()).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { real_name, role, digest, tags })
    }

    fn weight(&self) -> u64 {
        (160 + self.real_name.len() + self.tags.iter().map(|tag| tag.len() + 48).sum::<usize>()) as u64
    }
}

impl UserRecord {
    /// Whether both are of the same user with the same passphrase and role; tags may differ. The salt is fresh for each
    /// passphrase, while the hash also changes when it is hardened.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        bool::from(self.digest.salt.ct_eq(&other.digest.salt)) && self.role == other.role
    }
}

/// Hashes a new passphrase on the pool: about 0.1 s of one core. Refuses one of bad length.
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

/// Refuses a passphrase that may not be set.
pub(crate) fn check_length(field: &'static str, passphrase: &Passphrase) -> Result<(), Error> {
    if passphrase.has_valid_length() {
        return Ok(());
    }
    Err(Error::invalid(format!("passphrase {field} is not >= 10 and <= {PASSPHRASE_MAX_BYTES} characters")))
}

/// What a new user shall be.
pub struct NewUser {
    /// Any text.
    pub real_name: String,
    /// The only role.
    pub role: Role,
    /// 10 to 200 bytes.
    pub passphrase: Passphrase,
}

impl NewUser {
    /// Refuses what can be refused without looking anything up.
    pub fn check(&self) -> Result<(), Error> {
        check_length("passphrase", &self.passphrase)
    }
}

/// What became of a change to a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It changed.
    Done,
    /// It already was so.
    Unchanged,
}

impl Change {
    /// Itself; `tell` is called if something changed.
    pub(crate) fn told(self, tell: impl FnOnce()) -> Self {
        if self == Change::Done {
            tell();
        }
        self
    }
}

/// The row that says that there are digests of scheme 0 to be hardened; it has the form of a namespace's.
pub(crate) fn to_harden_path(generation: Generation) -> SharedPath {
    SharedPath::setting(generation, "digests to harden")
}

impl Operational {
    /// Hardens the digests that came with a backup of a NetHSM, if there are any left: about 0.1 s of one core each.
    pub(crate) async fn harden_digests(&self) -> Result<(), Error> {
        let note = to_harden_path(self.shared.generation);
        if self.namespaces.read(&note).await?.is_none() {
            return Ok(());
        }
        for id in self.user_ids(None).await? {
            let Ok(id) = UserId::parse(&id) else { continue };
            let path = SharedPath::user(self.shared.generation, &id);
            let Some(row) = self.users.read(&path).await? else { continue };
            let old = row.record.digest;
            if old.scheme != Scheme::HmacSha256 {
                continue;
            }
            let hash =
                run_on(&*self.platform.pool, Work::Kdf, Party::Hsm, move || kdf::harden(&old.hash, &old.salt)).await?;
            let change = |mut record: UserRecord| {
                if record.digest.scheme != Scheme::HmacSha256 || record.digest.salt != old.salt {
                    return Err(Error::Unchanged);
                }
                record.digest = Digest { scheme: Scheme::Scrypt, salt: old.salt, hash };
                Ok(record)
            };
            match self.update(By::Hsm, &self.users, &path, |draft| draft, change).await {
                Ok(_) | Err(Error::Unchanged) => {}
                Err(error) => return Err(error),
            }
        }
        self.commit(By::Hsm, Draft::default().delete(&note)).await?;
        tracing::info!(target: "hsm.user", "the digests of restored users are hardened");
        Ok(())
    }

    /// A user, if it exists.
    pub async fn user(&self, id: &UserId) -> Result<Option<Arc<Row<UserRecord>>>, Error> {
        self.users.get(&SharedPath::user(self.shared.generation, id)).await
    }

    /// Creates a user. `Exists` if the id is taken. The namespace must still be as `target` found it.
    pub async fn create_user(&self, by: &Caller, target: &UserTarget, new: NewUser) -> Result<(), Error> {
        let id = &target.id;
        let path = SharedPath::user(self.shared.generation, id);
        let taken = || Error::Exists("user already exists".into());
        if self.users.get(&path).await?.is_some() {
            return Err(taken());
        }
        let digest = digest(&self.platform, target.party, "passphrase", &new.passphrase).await?;
        let record = UserRecord { real_name: new.real_name, role: new.role, digest, tags: BTreeSet::new() };
        let draft = Draft::default().absent(&path).put(self.users.sealed(&path, Revision::default(), &record)?);
        match self.commit(By::Caller(by), target.fence(self.shared.generation, draft)).await? {
            Committed::At(_) => {
                tracing::info!(target: "hsm.user", "added {} ({id}): R-{:?}", record.real_name, record.role);
                self.users.changed(&path);
                Ok(())
            }
            Committed::Conflict(0) => Err(taken()),
            Committed::Conflict(_) => Err(Error::Unavailable("The namespace was changed meanwhile. Try again.".into())),
        }
    }

    /// Removes a user. `NotFound` if there is none, `Invalid` if it is the caller: so whoever deletes an Administrator of
    /// the root is one that stays, and the last one cannot go. A user who keeps being changed goes all the same: each
    /// change takes a slow hash, and this only a write.
    pub async fn delete_user(&self, by: &Caller, target: &UserTarget) -> Result<(), Error> {
        let id = &target.id;
        if by.id == *id {
            return Err(Error::invalid("Users cannot delete themselves"));
        }
        let path = SharedPath::user(self.shared.generation, id);
        let _taking = self.rights.take_away().await;
        for _ in 0..ATTEMPTS {
            let row = self.users.read(&path).await?.ok_or_else(Error::not_found)?;
            let draft = Draft::default().at(&path, row.revision).delete(&path);
            if let Committed::At(_) = self.commit(By::Caller(by), target.fence(self.shared.generation, draft)).await? {
                self.users.changed(&path);
                tracing::info!(target: "hsm.user", "removed ({id})");
                return Ok(());
            }
        }
        Err(Error::Unavailable("The user was changed meanwhile. Try again.".into()))
    }

    /// Sets a user's passphrase; takes effect at once. Of several who set it the last one counts; who sets their own is
    /// believed by the one before it, and so only if that still holds.
    pub async fn set_user_passphrase(
        &self,
        by: &Caller,
        target: &UserTarget,
        passphrase: &Passphrase,
    ) -> Result<(), Error> {
        let id = &target.id;
        let digest = digest(&self.platform, target.party, "passphrase", passphrase).await?;
        let path = SharedPath::user(self.shared.generation, id);
        let name = Mutex::new(String::new());
        let change = |mut record: UserRecord| {
            *name.lock().unwrap_or_else(PoisonError::into_inner) = record.real_name.clone();
            record.digest = digest.clone();
            Ok(record)
        };
        // It may be what locks a thief out, so it must be possible on any disk; the hash bounds how often.
        let fence = |draft: Draft| target.fence(self.shared.generation, draft.reserved());
        let _taking = self.rights.take_away().await;
        self.update(By::Caller(by), &self.users, &path, fence, change).await?.ok_or_else(Error::not_found)?;
        tracing::info!(target: "hsm.user", "changed {id} ({}) passphrase", name.into_inner().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// Gives an Operator a tag.
    pub async fn add_user_tag(&self, by: &Caller, target: &UserTarget, tag: &str) -> Result<Change, Error> {
        let change = self.change_user_tags(by, target, |tags| tags.insert(tag.to_owned())).await?;
        Ok(change.told(|| tracing::info!(target: "hsm.user", "added a tag to {}: {tag:?}", target.id)))
    }

    /// Takes a tag from an Operator.
    pub async fn remove_user_tag(&self, by: &Caller, target: &UserTarget, tag: &str) -> Result<Change, Error> {
        let change = self.change_user_tags(by, target, |tags| tags.remove(tag)).await?;
        Ok(change.told(|| tracing::info!(target: "hsm.user", "removed a tag from {}: {tag:?}", target.id)))
    }

    async fn change_user_tags(
        &self,
        by: &Caller,
        target: &UserTarget,
        change: impl Fn(&mut BTreeSet<String>) -> bool,
    ) -> Result<Change, Error> {
        let path = SharedPath::user(self.shared.generation, &target.id);
        let fence = |draft| target.fence(self.shared.generation, draft);
        let changed = |mut record: UserRecord| {
            if record.role != Role::Operator {
                return Err(Error::invalid("tag operations only exist on operator users"));
            }
            if change(&mut record.tags) { Ok(record) } else { Err(Error::Unchanged) }
        };
        match self.update(By::Caller(by), &self.users, &path, fence, changed).await {
            Ok(Some(_)) => Ok(Change::Done),
            Ok(None) => Err(Error::NotFound(Some("".into()))),
            Err(Error::Unchanged) => Ok(Change::Unchanged),
            Err(error) => Err(error),
        }
    }

    /// Every user a caller of this namespace sees, sorted: all of them for the root.
    pub async fn user_ids(&self, namespace: Option<&NamespaceId>) -> Result<Vec<String>, Error> {
        let all = SharedPath::users(self.shared.generation, None);
        let prefix = SharedPath::users(self.shared.generation, namespace);
        let mut ids = Vec::new();
        let mut after = None;
        loop {
            let (paths, more) = self.users.paths(&prefix, after.as_ref()).await?;
            ids.extend(paths.iter().filter_map(|path| SharedPath::tail(&all, path)).map(str::to_owned));
            after = paths.last().cloned();
            if !more {
                return Ok(ids);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_of_version_1_does_not_change() {
        let record = UserRecord {
            real_name: "Ada".into(),
            role: Role::Operator,
            digest: Digest { scheme: Scheme::Scrypt, salt: [0x11; 16], hash: [0x22; 32] },
            tags: ["berlin".to_owned(), "ü".to_owned()].into(),
        };
        let golden = include_str!("../testdata/formats/user-v1.hex").trim();
        let hex = base16ct::lower::encode_string(&record.encode());
        assert_eq!(hex, golden);
        assert!(UserRecord::decode(&record.encode()[..60]).is_err());
        let again = UserRecord::decode(&record.encode()).unwrap();
        assert_eq!((again.real_name, again.role, again.tags), (record.real_name, record.role, record.tags));
    }
}
