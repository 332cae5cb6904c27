//! The stores that a node can have for what a cluster shares: files, and an etcd that it runs itself.

use std::sync::Arc;

use der::pem::LineEnding;
use zeroize::Zeroizing;

use crate::crypto::secret::SecretBytes;
use crate::rows::tls_identity::TlsIdentity;
use crate::runtime::BoxFuture;
use crate::store::switch::Switch;
use crate::store::{Snapshot, Store, StoreError};

/// What a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlaceKind {
    /// A file of this node, which nobody shares.
    File,
    /// An etcd that this node runs, a member of a cluster.
    Etcd,
}

/// One store. No two stores of a node have the same number, so that what is left of one is never taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// What it is.
    pub kind: PlaceKind,
    /// The first one is 0.
    pub number: u32,
}

/// A node whose shared store can move: what its tables use, and who makes the stores behind it.
#[derive(Clone)]
pub struct Movable {
    /// The store that the tables use. At boot, nothing is behind it.
    pub switch: Arc<Switch>,
    /// Makes the stores.
    pub keeper: Arc<dyn StoreKeeper>,
}

/// How an etcd begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// As the only member of a new cluster.
    Found,
    /// As it was when it was stopped.
    Again,
    /// As a member that others have registered. All members, the new one with this node's name among them.
    Join(Vec<(String, Vec<String>)>),
}

/// By what the members of a cluster know each other.
pub struct PeerIdentity {
    /// The device id, which is the name of the member.
    pub name: String,
    /// The TLS key and chain of this node.
    pub tls: TlsIdentity,
    /// The CA that has signed the chains of all members, in DER.
    pub authority: Vec<u8>,
}

impl PeerIdentity {
    /// The chain as PEM, this node's certificate first. Empty if it cannot be written.
    pub fn chain_pem(&self) -> Vec<u8> {
        self.tls.chain.iter().flat_map(|der| certificate_pem(der)).collect()
    }

    /// The CA as PEM. Empty if it cannot be written.
    pub fn authority_pem(&self) -> Vec<u8> {
        certificate_pem(&self.authority)
    }

    /// The private key as PEM (PKCS #8). `None` if it cannot be written.
    pub fn key_pem(&self) -> Option<SecretBytes> {
        let der = &self.tls.private_key;
        let mut buffer = Zeroizing::new(vec![0; der.len() * 2 + 128]);
        let pem = der::pem::encode("PRIVATE KEY", LineEnding::LF, der, &mut buffer).ok()?;
        Some(SecretBytes::from_slice(pem.as_bytes()))
    }
}

fn certificate_pem(der: &[u8]) -> Vec<u8> {
    der::pem::encode_string("CERTIFICATE", LineEnding::LF, der).unwrap_or_default().into_bytes()
}

/// What is known of the etcd of this node as a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdReport {
    /// Whether it runs, or is about to be started again.
    pub running: bool,
    /// Its exit code, if it has ended by itself.
    pub exited: Option<i32>,
    /// The signal that ended it.
    pub signaled: Option<i32>,
    /// Whether this node has stopped it.
    pub stopped: bool,
    /// Whether the cluster has removed it.
    pub removed: bool,
    /// Its latest messages, each with its level (`warn`, `error` and so on), the oldest first.
    pub logs: Vec<(String, String)>,
}

/// What the file with the rows of an etcd that does not run says, as `etcdutl snapshot status` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdFile {
    /// CRC-32C over its entries.
    pub hash: u32,
    /// The newest revision in it, as etcd counts.
    pub revision: i64,
    /// Its entries, among them old revisions of rows.
    pub total_key: u64,
    /// The bytes of it that are in use.
    pub total_size_bytes: u64,
    /// The version of its form, as `3.6.0`.
    pub version: Option<String>,
}

/// A member of the cluster of this node's etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Given by etcd.
    pub id: u64,
    /// Its name; empty until it has started.
    pub name: String,
    /// Where other members reach it.
    pub urls: Vec<String>,
    /// Whether it does not vote yet.
    pub learner: bool,
}

/// What a member of a cluster told about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// All members.
    pub members: Vec<Member>,
    /// By how many seconds its clock differs from that of this machine, up to the nearest second.
    pub clock_differs_s: u64,
}

/// What the etcd of this node is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It follows, and does not vote.
    Learner,
    /// It votes.
    Voter,
    /// It was removed by another member, and will not be started again.
    Removed,
    /// It does not run, or does not answer.
    Unknown,
}

/// Why members could not be changed. `Display` is a sentence for the caller; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// There is no such member.
    #[error("there is no such member")]
    NotFound,
    /// etcd does not accept what was asked for.
    #[error("cluster error: {0}")]
    Refused(String),
    /// A learner must be promoted or removed first.
    #[error("cluster has learners: {0}")]
    HasLearner(String),
    /// The member is not in the state for this, for instance not in sync yet.
    #[error("{0}")]
    NotReady(String),
    /// etcd could not be asked, or did not answer. A change may have been made if this says so.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An etcd cannot be started. `Display` is a sentence for the operator with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EtcdError(pub String);

/// Makes and removes the stores of a node, and speaks for its etcd. It has at most one etcd running.
pub trait StoreKeeper: Send + Sync {
    /// Opens the store in a file, which is created if it does not exist.
    fn open_file(&self, number: u32) -> Result<Arc<dyn Store>, StoreError>;
    /// Checks that an etcd can be started here: the program is there, in a version that is used.
    fn available(&self) -> BoxFuture<'_, Result<(), EtcdError>>;
    /// The URLs at which other members reach this node's etcd, as its settings and its certificate have them.
    ///
    /// # Errors
    /// If there is none.
    fn urls(&self, identity: &PeerIdentity) -> Result<Vec<String>, EtcdError>;
    /// The URLs at which nodes without a vote reach this node's etcd, in the same way. Empty if it is not to serve them.
    ///
    /// # Errors
    /// If there is none, although it is.
    fn client_urls(&self, identity: &PeerIdentity) -> Result<Vec<String>, EtcdError>;
    /// Starts an etcd. Resolves when it runs, except with [`Begin::Again`], as it may need others to be ready.
    ///
    /// # Errors
    /// If it cannot be started, does not become ready in time, or another one runs. Then none runs.
    fn start_etcd(
        &self,
        number: u32,
        begin: Begin,
        identity: PeerIdentity,
    ) -> BoxFuture<'_, Result<Arc<dyn Store>, EtcdError>>;
    /// Whether there is an etcd with this number that was started once.
    fn has_etcd(&self, number: u32) -> bool;
    /// The rows that the etcd with this number has on its disk, as the member `name`, whether the other members have removed it or
    /// are gone. It does not run, and stays as it is: an etcd on a copy, with the number `copy`, may tell the rows. That one
    /// runs until [`StoreKeeper::stop_etcd`].
    ///
    /// # Errors
    /// If what is there cannot be read or copied.
    fn recover<'a>(
        &'a self,
        number: u32,
        copy: u32,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Snapshot>, EtcdError>>;
    /// The newest revision that the etcd has stored, as it counts them, without asking others. `None`: it does not tell.
    fn revision(&self) -> BoxFuture<'_, Option<u64>>;
    /// What the file of the etcd says that was stopped or has ended. `None`: it runs, there is none, or its file was not read in time.
    fn etcd_file(&self) -> BoxFuture<'_, Option<EtcdFile>>;
    /// Asks the other `members` what they see, as a node does that is to join them.
    ///
    /// # Errors
    /// If none of them accepts this node's certificate and answers.
    fn look_at<'a>(
        &'a self,
        members: &'a [Member],
        identity: &'a PeerIdentity,
    ) -> BoxFuture<'a, Result<Sight, EtcdError>>;
    /// What the etcd that runs is in its cluster.
    fn standing(&self) -> BoxFuture<'_, Standing>;
    /// What is known of the etcd, as a process. `None`: none was started.
    fn report(&self) -> Option<EtcdReport>;
    /// Stops the etcd that runs, if any.
    fn stop_etcd(&self) -> BoxFuture<'_, ()>;
    /// Makes the etcd that runs, if any, use another key and chain. If it is of another cluster CA, the etcd is started again.
    fn renew(&self, identity: PeerIdentity);
    /// Removes all stores but these. What cannot be removed now is logged, and removed by a later call.
    fn keep_only<'a>(&'a self, places: &'a [Place]) -> BoxFuture<'a, ()>;
    /// The members of the cluster.
    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>, MemberError>>;
    /// Registers a member, as a learner.
    fn add_member(&self, urls: Vec<String>) -> BoxFuture<'_, Result<(), MemberError>>;
    /// Removes a member.
    fn remove_member(&self, id: u64) -> BoxFuture<'_, Result<(), MemberError>>;
    /// Changes where a member is reached.
    fn set_member_urls(&self, id: u64, urls: Vec<String>) -> BoxFuture<'_, Result<(), MemberError>>;
    /// Gives a learner its vote.
    fn promote_member(&self, id: u64) -> BoxFuture<'_, Result<(), MemberError>>;
}
