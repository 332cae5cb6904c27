//! Names of rows. The shared store and the local store have path types of their own, so that a device's secrets cannot
//! be written where every member of a cluster reads.

use casemate_api::{KeyId, NamespaceId, UserId};

use crate::store::Path;

/// Number of a restore generation. Every shared row lives in one; a restore fills the next and then moves the pointer.
pub type Generation = u32;

/// Number of a namespace, fresh for each creation: a name that is created anew starts empty. The root is number 0.
pub type NamespaceNumber = u32;

/// The number of the root, which always exists.
pub const ROOT: NamespaceNumber = 0;

/// Random and unique for each key, and stable while the key is renamed.
pub type Uid = [u8; 16];

/// A key, whatever it is called at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyRef {
    /// The namespace it is in.
    pub namespace: NamespaceNumber,
    /// Its uid.
    pub uid: Uid,
}

/// A table of the shared store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TableId {
    /// Name → number.
    Namespaces = 1,
    /// User → record.
    Users = 2,
    /// Namespace number, key id → record.
    Keys = 3,
    /// Namespace number, key uid → certificate.
    Certificates = 4,
    /// Namespace number, key uid, device → count.
    Counters = 5,
    /// Name → value.
    Settings = 6,
    /// Path in a backup, part → what is to be restored.
    Staged = 7,
}

/// The row that holds the number of the current generation, in clear, because it is read before anything is unlocked.
pub fn generation_pointer() -> Path {
    Path(Box::from(b"\0generation".as_slice()))
}

/// A row of the shared store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedPath(Path);

impl SharedPath {
    fn new(generation: Generation, table: TableId, parts: &[&[u8]]) -> Self {
        // The leading 1 keeps every generation behind the pointer row.
        let mut bytes = Vec::with_capacity(6 + parts.iter().map(|part| part.len()).sum::<usize>());
        bytes.push(1);
        bytes.extend_from_slice(&generation.to_be_bytes());
        bytes.push(table as u8);
        for part in parts {
            bytes.extend_from_slice(part);
        }
        Self(Path(bytes.into()))
    }

    /// The row of a namespace.
    pub fn namespace(generation: Generation, id: &NamespaceId) -> Self {
        Self::new(generation, TableId::Namespaces, &[id.as_str().as_bytes()])
    }

    /// The row of a user.
    pub fn user(generation: Generation, id: &UserId) -> Self {
        match &id.namespace {
            None => Self::new(generation, TableId::Users, &[id.name.as_str().as_bytes()]),
            Some(namespace) => Self::new(
                generation,
                TableId::Users,
                &[namespace.as_str().as_bytes(), b"~", id.name.as_str().as_bytes()],
            ),
        }
    }

    /// Prefix of the users of one namespace; of all users without one.
    pub fn users(generation: Generation, namespace: Option<&NamespaceId>) -> Self {
        match namespace {
            None => Self::new(generation, TableId::Users, &[]),
            Some(namespace) => Self::new(generation, TableId::Users, &[namespace.as_str().as_bytes(), b"~"]),
        }
    }

    /// Prefix of all namespaces.
    pub fn namespaces(generation: Generation) -> Self {
        Self::new(generation, TableId::Namespaces, &[])
    }

    /// The row of a key.
    pub fn key(generation: Generation, namespace: NamespaceNumber, id: &KeyId) -> Self {
        Self::keys(generation, namespace, id.as_str())
    }

    /// Prefix of the keys of one namespace whose ids start with `prefix`.
    pub fn keys(generation: Generation, namespace: NamespaceNumber, prefix: &str) -> Self {
        Self::new(generation, TableId::Keys, &[&namespace.to_be_bytes(), prefix.as_bytes()])
    }

    /// The certificate of a key.
    pub fn certificate(generation: Generation, key: KeyRef) -> Self {
        Self::new(generation, TableId::Certificates, &[&key.namespace.to_be_bytes(), &key.uid])
    }

    /// Prefix of the certificates of one namespace.
    pub fn certificates(generation: Generation, namespace: NamespaceNumber) -> Self {
        Self::new(generation, TableId::Certificates, &[&namespace.to_be_bytes()])
    }

    /// The count of a key's uses on one device.
    pub fn counter(generation: Generation, key: KeyRef, device: &str) -> Self {
        Self::new(generation, TableId::Counters, &[&key.namespace.to_be_bytes(), &key.uid, device.as_bytes()])
    }

    /// Prefix of the counts of one key on all devices.
    pub fn counters(generation: Generation, key: KeyRef) -> Self {
        Self::new(generation, TableId::Counters, &[&key.namespace.to_be_bytes(), &key.uid])
    }

    /// Prefix of the counts of all keys of one namespace.
    pub fn all_counters(generation: Generation, namespace: NamespaceNumber) -> Self {
        Self::new(generation, TableId::Counters, &[&namespace.to_be_bytes()])
    }

    /// A single value of the HSM as a whole.
    pub fn setting(generation: Generation, name: &str) -> Self {
        Self::new(generation, TableId::Settings, &[name.as_bytes()])
    }

    /// Prefix of all rows of one generation.
    pub fn generation(generation: Generation) -> Self {
        let prefix = Self::new(generation, TableId::Namespaces, &[]).0.as_bytes().to_vec();
        Self(Path(prefix.split_last().map_or(Box::default(), |(_, prefix)| prefix.into())))
    }

    /// A part of an entry of a backup. The path in the backup holds no zero byte.
    pub fn staged(generation: Generation, path: &str, part: u32) -> Self {
        Self::new(generation, TableId::Staged, &[path.as_bytes(), &[0], &part.to_be_bytes()])
    }

    /// Prefix of the entries of a backup whose paths start with `prefix`.
    pub fn all_staged(generation: Generation, prefix: &str) -> Self {
        Self::new(generation, TableId::Staged, &[prefix.as_bytes()])
    }

    /// The path in the backup, and the part, that a row of [`SharedPath::staged`] holds.
    pub fn staged_name(row: &Path) -> Option<(&str, u32)> {
        // One byte in front, the generation, the table; behind it a zero byte and the part.
        let (head, part) = row.as_bytes().split_last_chunk::<4>()?;
        let path = head.get(6..)?.strip_suffix(&[0])?;
        Some((std::str::from_utf8(path).ok()?, u32::from_be_bytes(*part)))
    }

    /// The path as the store takes it.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path as the store takes it.
    pub fn into_path(self) -> Path {
        self.0
    }

    /// What follows `prefix` in a row's path, as text; ids are ASCII.
    pub fn tail<'a>(prefix: &SharedPath, row: &'a Path) -> Option<&'a str> {
        std::str::from_utf8(row.as_bytes().strip_prefix(prefix.0.as_bytes())?).ok()
    }
}

/// A row of the device's own store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalPath {
    /// The Domain Key under the Unlock Key: attended boot.
    Slot0,
    /// The Domain Key under the Device Key alone: unattended boot.
    Slot1,
    /// Salt of the Unlock Key.
    UnlockSalt,
    /// Slot 0 from before a restore, until what was restored has proved to be usable.
    FormerSlot0,
    /// Slot 1 from before a restore.
    FormerSlot1,
    /// Salt of the Unlock Key from before a restore.
    FormerSalt,
    /// Clock offset from before a restore.
    FormerClockOffset,
    /// Seconds from the hardware clock to the HSM's.
    ClockOffset,
    /// TLS private key and certificate chain.
    Tls,
    /// Addresses to be reached at.
    Network,
    /// What is logged, and where to.
    Logging,
    /// Time servers to follow.
    Ntp,
    /// A procedure that was begun and must be finished or undone at boot.
    Step,
    /// The key that signs checkpoints of the audit log.
    AuditKey,
    /// Where the audit log begins and ends.
    AuditHead,
    /// The record of the audit log with this sequence number.
    AuditRecord(u64),
    /// The checkpoint of the audit log at this sequence number.
    AuditCheckpoint(u64),
}

impl LocalPath {
    /// The path as the store takes it.
    pub fn path(self) -> Path {
        let text: &[u8] = match self {
            LocalPath::Slot0 => b"slot/0",
            LocalPath::Slot1 => b"slot/1",
            LocalPath::UnlockSalt => b"unlock-salt",
            LocalPath::FormerSlot0 => b"former/slot/0",
            LocalPath::FormerSlot1 => b"former/slot/1",
            LocalPath::FormerSalt => b"former/unlock-salt",
            LocalPath::FormerClockOffset => b"former/clock-offset",
            LocalPath::ClockOffset => b"clock-offset",
            LocalPath::Tls => b"tls",
            LocalPath::Network => b"network",
            LocalPath::Logging => b"logging",
            LocalPath::Ntp => b"ntp",
            LocalPath::Step => b"step",
            LocalPath::AuditKey => b"audit/key",
            LocalPath::AuditHead => b"audit/head",
            LocalPath::AuditRecord(sequence) => return numbered(b"audit/record/", sequence),
            LocalPath::AuditCheckpoint(sequence) => return numbered(b"audit/checkpoint/", sequence),
        };
        Path(Box::from(text))
    }
}

/// Rows in the order of their numbers.
fn numbered(prefix: &[u8], number: u64) -> Path {
    Path([prefix, &number.to_be_bytes()].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_share_no_prefix() {
        let users = |name: &str| SharedPath::users(1, Some(&NamespaceId::parse(name).unwrap()));
        let user = SharedPath::user(1, &UserId::parse("namespace11~u").unwrap());
        assert_eq!(SharedPath::tail(&users("namespace1"), user.path()), None);
        assert_eq!(SharedPath::tail(&users("namespace11"), user.path()), Some("u"));
    }

    #[test]
    fn users_sort_as_the_api_lists_them() {
        let path = |name: &str| SharedPath::user(1, &UserId::parse(name).unwrap());
        assert!(path("admin").path() < path("ns1~u").path());
        assert!(path("ns1").path() < path("ns1~u").path());
    }
}
