//! A user as stored.

use crate::rows::path::{Generation, RowPath, RowPrefix};
use crate::rows::record::TableId;
use casemate_api::{NamespaceId, UserId};
use std::collections::BTreeSet;

use casemate_api::Role;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::crypto::user_digest::{Digest, Scheme};
use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::record::Record;

/// A user as stored.
pub struct UserRecord {
    /// Name for people; any text.
    pub real_name: String,
    /// Each user has exactly one role.
    pub role: Role,
    /// Digest of the passphrase.
    pub digest: Digest,
    /// For Operators: tags of restricted keys they may use.
    pub tags: BTreeSet<String>,
}

impl Record for UserRecord {
    const TABLE: TableId = TableId::Users;
    const CACHE_BYTES: u64 = 64 << 20;

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
    /// Whether two records of a user have the same passphrase and role; tags may differ. The salts are compared, because a
    /// new passphrase gets a new salt, while the hash also changes when the digest is replaced by a stronger one.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        bool::from(self.digest.salt.ct_eq(&other.digest.salt)) && self.role == other.role
    }
}

impl RowPath<UserRecord> {
    /// The row of a user.
    pub fn user(generation: Generation, id: &UserId) -> Self {
        match &id.namespace {
            None => Self::new(generation, &[id.name.as_str().as_bytes()]),
            Some(namespace) => {
                Self::new(generation, &[namespace.as_str().as_bytes(), b"~", id.name.as_str().as_bytes()])
            }
        }
    }
}

impl RowPrefix<UserRecord> {
    /// The users of one namespace; all users without one.
    pub fn users(generation: Generation, namespace: Option<&NamespaceId>) -> Self {
        match namespace {
            None => Self::new(generation, &[]),
            Some(namespace) => Self::new(generation, &[namespace.as_str().as_bytes(), b"~"]),
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
        let golden = include_str!("../../testdata/formats/user-v1.hex").trim();
        let hex = base16ct::lower::encode_string(&record.encode());
        assert_eq!(hex, golden);
        assert!(UserRecord::decode(&record.encode()[..60]).is_err());
        let again = UserRecord::decode(&record.encode()).unwrap();
        assert_eq!((again.real_name, again.role, again.tags), (record.real_name, record.role, record.tags));
    }

    #[test]
    fn namespaces_share_no_prefix() {
        let users = |name: &str| RowPrefix::users(1, Some(&NamespaceId::parse(name).unwrap()));
        let user = RowPath::user(1, &UserId::parse("namespace11~u").unwrap());
        assert_eq!(users("namespace1").tail(user.path()), None);
        assert_eq!(users("namespace11").tail(user.path()), Some("u"));
    }

    #[test]
    fn users_sort_as_the_api_lists_them() {
        let path = |name: &str| RowPath::user(1, &UserId::parse(name).unwrap());
        assert!(path("admin").path() < path("ns1~u").path());
        assert!(path("ns1").path() < path("ns1~u").path());
    }
}
