//! The data file of a member of etcd that does not run, `member/snap/db` in its folder, read without etcd.
//!
//! It is for a member that was removed from its cluster, which etcd does not start again: what such a member knew is in this file,
//! whole if it was stopped in order. (After a crash the newest changes are in its log alone, which this does not read.) Nothing is
//! written. Calls read the disk and may take seconds for each gigabyte: not for a thread that serves.
//!
//! Peers decide about what is in the file, so it is read as something hostile: see [`pages`]. That a byte of a value has
//! changed is not noticed, as neither etcd nor its database keep a checksum of it; whoever has sealed the rows notices.

mod pages;
mod rows;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_api::limits::{ETCD_FILE_INDEX_MAX_BYTES, ETCD_FILE_MEMBERS_MAX};
use crc::{CRC_32_ISCSI, Crc, Table};
use serde::Deserialize;

use self::pages::{Bucket, Pages};
use self::rows::Revised;
pub use self::rows::Rows;
use crate::proto::Member;

/// Why a file of etcd cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is not there, or the disk fails.
    #[error("the data file of etcd, {}, cannot be read: {why}", .path.display())]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// It is not a data file of etcd, or not whole.
    #[error("{} is not a whole data file of etcd: {why}; use that of another member, or a backup", .path.display())]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The disk is full, or fails.
    #[error("the data file of etcd, {}, cannot be written: {why}", .path.display())]
    Unwritable {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
}

/// A data file of etcd, of any version from 3.4 on.
pub struct DataFile {
    pages: Arc<Pages>,
}

/// What `etcdutl snapshot status` tells about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// CRC-32C (RFC 3720) over the names of all buckets and the keys and values in them. Files of members that have the same
    /// rows have different ones, as each also has its own counts in it.
    pub hash: u32,
    /// The newest revision.
    pub revision: i64,
    /// Entries in all buckets: each revision of each row that is still there, and what etcd keeps for itself.
    pub total_key: u64,
    /// The length of what is in use, in bytes; the file may be longer.
    pub total_size_bytes: u64,
    /// The version of the file's form, as `3.6.0`. Before etcd 3.6 there was none.
    pub version: Option<String>,
}

/// What etcd keeps for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The version that all members agreed on, as `3.6.0`.
    pub cluster_version: Option<String>,
    /// The version of the file's form, as `3.6.0`.
    pub storage_version: Option<String>,
    /// The number of the last change from the log that is in the file.
    pub consistent_index: u64,
    /// The term of that change.
    pub term: u64,
}

impl DataFile {
    /// Opens a file and looks whether it is one, without reading the rows.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let pages = Pages::open(path)?;
        bucket(&pages, KEYS)?;
        Ok(Self { pages: Arc::new(pages) })
    }

    /// The current rows whose keys start with `prefix`, in order. The places of as many rows are in memory as
    /// [`ETCD_FILE_INDEX_MAX_BYTES`] allows; if there are more, the file is read more than once.
    pub fn rows(&self, prefix: &[u8]) -> Rows {
        self.rows_from(prefix, prefix)
    }

    /// [`DataFile::rows`] from the key `first` on.
    pub fn rows_from(&self, prefix: &[u8], first: &[u8]) -> Rows {
        Rows::new(self.pages.clone(), prefix, first, ETCD_FILE_INDEX_MAX_BYTES)
    }

    /// How many rows [`DataFile::rows`] tells.
    pub fn count(&self, prefix: &[u8]) -> Result<u64, FileError> {
        self.rows(prefix).try_fold(0, |count, row| row.map(|_| count + 1))
    }

    /// Reads the whole file once.
    pub fn summary(&self) -> Result<Summary, FileError> {
        self.hash(|_, _| true)
    }

    /// A summary whose hash is that of the entries for which `counts` says so, by their bucket and key.
    fn hash(&self, counts: impl Fn(&[u8], &[u8]) -> bool) -> Result<Summary, FileError> {
        let crc = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
        let (mut digest, mut revision, mut total_key) = (crc.digest(), 0, 0);
        let mut reading = self.pages.reading();
        self.pages.buckets(|name, bucket| {
            digest.update(name);
            self.pages.entries(&mut reading, &bucket, |entry| {
                total_key += 1;
                if counts(name, &entry.key) {
                    digest.update(&entry.key);
                    digest.update(&entry.value);
                }
                if name == KEYS {
                    revision = Revised::of(&self.pages, &entry)?.revision;
                }
                Ok(())
            })
        })?;
        let (total_size_bytes, version) = (self.pages.used_bytes(), self.facts()?.storage_version);
        Ok(Summary { hash: digest.finalize(), revision, total_key, total_size_bytes, version })
    }

    /// What etcd keeps for itself.
    pub fn facts(&self) -> Result<Facts, FileError> {
        let mut facts = Facts { cluster_version: None, storage_version: None, consistent_index: 0, term: 0 };
        let number = |value: &[u8]| value.try_into().map(u64::from_be_bytes).map_err(|_| self.senseless("meta"));
        self.each(META, |key, value| {
            match key {
                b"storageVersion" => facts.storage_version = Some(self.version(value)?),
                b"consistent_index" => facts.consistent_index = number(value)?,
                b"term" => facts.term = number(value)?,
                _ => {}
            }
            Ok(())
        })?;
        self.each(CLUSTER, |key, value| {
            if key == b"clusterVersion" {
                facts.cluster_version = Some(self.version(value)?);
            }
            Ok(())
        })?;
        Ok(facts)
    }

    /// The members of the cluster, as this one knew them.
    pub fn members(&self) -> Result<Vec<Member>, FileError> {
        let mut members = Vec::new();
        self.each(MEMBERS, |_, value| {
            let member: StoredMember = serde_json::from_slice(value).map_err(|_| self.senseless("members"))?;
            self.room(&members)?;
            members.push(member.into());
            Ok(())
        })?;
        Ok(members)
    }

    /// The ids of the members that were removed. A member that was removed while it ran has its own among them.
    pub fn members_removed(&self) -> Result<Vec<u64>, FileError> {
        let mut removed = Vec::new();
        self.each(MEMBERS_REMOVED, |key, _| {
            let id = str::from_utf8(key).ok().and_then(|key| u64::from_str_radix(key, 16).ok());
            self.room(&removed)?;
            removed.push(id.ok_or_else(|| self.senseless("members_removed"))?);
            Ok(())
        })?;
        Ok(removed)
    }

    /// Tells the entries of a bucket, which need not be there.
    fn each(&self, name: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<(), FileError>) -> Result<(), FileError> {
        match find(&self.pages, name)? {
            Some(bucket) => {
                self.pages.entries(&mut self.pages.reading(), &bucket, |entry| each(&entry.key, &entry.value))
            }
            None => Ok(()),
        }
    }

    /// A version goes into logs and replies.
    fn version(&self, value: &[u8]) -> Result<String, FileError> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-+".contains(byte);
        match str::from_utf8(value) {
            Ok(version) if version.len() <= VERSION_MAX_BYTES && value.iter().all(plain) => Ok(version.to_owned()),
            _ => Err(self.senseless("version")),
        }
    }

    fn room<T>(&self, found: &[T]) -> Result<(), FileError> {
        if found.len() < ETCD_FILE_MEMBERS_MAX { Ok(()) } else { Err(self.pages.damaged("it has too many members")) }
    }

    fn senseless(&self, what: &str) -> FileError {
        self.pages.damaged(format!("its {what} makes no sense"))
    }
}

/// As etcd stores it.
#[derive(Deserialize)]
struct StoredMember {
    id: u64,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "peerURLs")]
    peer_urls: Option<Vec<String>>,
    #[serde(default, rename = "clientURLs")]
    client_urls: Option<Vec<String>>,
    #[serde(default, rename = "isLearner")]
    is_learner: bool,
}

impl From<StoredMember> for Member {
    fn from(stored: StoredMember) -> Self {
        let StoredMember { id, name, peer_urls, client_urls, is_learner } = stored;
        let (peer_ur_ls, client_ur_ls) = (peer_urls.unwrap_or_default(), client_urls.unwrap_or_default());
        Self { id, name, peer_ur_ls, client_ur_ls, is_learner }
    }
}

fn bucket(pages: &Pages, name: &[u8]) -> Result<Bucket, FileError> {
    find(pages, name)?.ok_or_else(|| pages.damaged("it has no rows of etcd"))
}

fn find(pages: &Pages, name: &[u8]) -> Result<Option<Bucket>, FileError> {
    let mut found = None;
    pages.buckets(|other, bucket| {
        if other == name {
            found = Some(bucket);
        }
        Ok(())
    })?;
    Ok(found)
}

const KEYS: &[u8] = b"key";
const META: &[u8] = b"meta";
const CLUSTER: &[u8] = b"cluster";
const MEMBERS: &[u8] = b"members";
const MEMBERS_REMOVED: &[u8] = b"members_removed";
const VERSION_MAX_BYTES: usize = 32;
