//! The shared store in etcd, through its client port: rows of this HSM below a prefix, which other nodes share.
//!
//! A thread with a runtime of its own does all calls, so that the runtimes that serve requests can end before it. Callers give
//! it tasks and wait for their results. Commits go through one queue (see [`commit`]), so that those of many callers become
//! one transaction of etcd.
//!
//! Nothing is asked of etcd when the store is opened, because a node must start without it.

mod commit;
mod facts;
mod pages;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use casemate_api::limits::{
    BACKUP_MAX_MS, ETCD_GET_ROWS, ETCD_READS_SENT_MAX, STORE_COMMITS_WAITING_MAX, STORE_READS_WAITING_MAX,
    STORE_TXN_MAX_OPS,
};
use casemate_core::runtime::BoxFuture;
use casemate_core::store::facts::Facts;
use casemate_core::store::{
    Outcome, Page, Path, Range, Read, Revision, Snapshot, Store, StoreError, Txn, Versioned, Watch,
};
use casemate_etcd::proto::response_op::Response;
use casemate_etcd::proto::{KeyValue, RangeRequest, ResponseHeader, TxnRequest};
use casemate_etcd::{Client, Error, request};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use commit::Commit;
use pages::Density;

/// The shared store in etcd. Its thread ends when the last reference is dropped.
pub struct EtcdStore {
    pub(super) shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    commits: mpsc::Sender<Commit>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

/// What the tasks of the thread use.
pub(super) struct Shared {
    pub(super) client: Client,
    prefix: Vec<u8>,
    density: Density,
    /// Places for calls that only read: those that wait, and those of them that are sent.
    reads: Semaphore,
    reads_sent: Semaphore,
    /// The same for those that one member answers alone: they do not wait behind others that wait for a majority.
    local_sent: Semaphore,
    /// Whether rows were read without a majority since it answered last.
    copy_in_use: AtomicBool,
    /// What was last seen of etcd.
    facts: Mutex<Facts>,
}

impl EtcdStore {
    /// Starts the thread. All keys begin with `prefix`, which is not empty.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(client: Client, prefix: Vec<u8>) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            client,
            prefix,
            density: Density::default(),
            reads: Semaphore::new(STORE_READS_WAITING_MAX),
            reads_sent: Semaphore::new(ETCD_READS_SENT_MAX),
            local_sent: Semaphore::new(ETCD_READS_SENT_MAX),
            copy_in_use: AtomicBool::new(false),
            facts: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (commits, queue) = mpsc::channel(STORE_COMMITS_WAITING_MAX);
        let stop = Arc::new(Notify::new());
        let (stopped, on) = (stop.clone(), shared.clone());
        let thread = std::thread::Builder::new().name("store-etcd".into()).spawn(move || {
            runtime.spawn(compact_old(on.clone()));
            runtime.spawn(facts::keep_looking(on.clone()));
            runtime.block_on(async move {
                tokio::select! {
                    // It ends when the queue is closed and empty.
                    () = commit::write_all(&on, queue) => {}
                    () = stopped.notified() => {}
                }
            });
            // Not to wait for the resolver of host names, which may take long to give up.
            runtime.shutdown_background();
        })?;
        Ok(Arc::new(Self { shared, runtime: handle, commits, stop, thread: Some(thread) }))
    }

    /// Ends the thread and with it all connections, as etcd waits for them before it ends. From then on the store cannot be reached.
    pub fn close(&self) {
        self.stop.notify_one();
    }

    /// Whether the node goes on with what this etcd tells without a majority.
    pub fn copy_in_use(&self) -> bool {
        self.shared.copy_in_use.load(Ordering::Relaxed)
    }

    /// Runs a task on the thread, until it or the store ends.
    pub fn run_beside(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Runs a task on the thread and waits for its result.
    async fn run<T: Send + 'static>(
        &self,
        read: Read,
        task: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        run_on(&self.runtime, self.shared.clone(), read, task).await
    }

    /// The same for a read of the node itself, which does not wait behind those of clients: on it depends whether anything that is
    /// cached may be used.
    async fn run_own<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.runtime.spawn(task).await.unwrap_or_else(|_| Err(closed()))
    }
}

async fn run_on<T: Send + 'static>(
    runtime: &tokio::runtime::Handle,
    shared: Arc<Shared>,
    read: Read,
    task: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    let task = runtime.spawn(async move {
        let _place = shared.reads.try_acquire().map_err(|_| StoreError::Busy)?;
        let sent = match read {
            Read::Fresh => &shared.reads_sent,
            Read::Local => &shared.local_sent,
        };
        let _turn = sent.acquire().await;
        task.await
    });
    task.await.unwrap_or_else(|_| Err(closed()))
}

fn closed() -> StoreError {
    StoreError::Unreachable("the store is closed".into())
}

/// Whether a row is none of a table, but one that the node itself asks for.
fn is_own(path: &Path) -> bool {
    path.as_bytes().first() == Some(&0)
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.stop.notify_one();
        let thread = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id());
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn key(&self, path: &Path) -> Vec<u8> {
        [&self.prefix, path.as_bytes()].concat()
    }

    /// The path of a key below the prefix.
    fn path(&self, key: &[u8]) -> Path {
        Path(key.strip_prefix(self.prefix.as_slice()).unwrap_or(key).into())
    }

    /// The rows at `paths` as of one revision.
    async fn get_many(&self, paths: &[Path], read: Read) -> Result<Vec<Option<Versioned>>, StoreError> {
        if paths.len() > STORE_TXN_MAX_OPS {
            return Err(StoreError::TooLarge);
        }
        let mut rows = Vec::with_capacity(paths.len());
        let mut at = 0;
        // In parts, because each row may be large and a reply has a limit.
        for part in paths.chunks(ETCD_GET_ROWS) {
            let gets = part.iter().map(|path| {
                let range = RangeRequest { serializable: read == Read::Local, ..request::get(self.key(path)) };
                request::read(RangeRequest { revision: at, ..range })
            });
            let txn = TxnRequest { compare: Vec::new(), success: gets.collect(), failure: Vec::new() };
            let reply = self.client.txn(txn).await.map_err(|error| read_error(&error))?;
            if at == 0 {
                // The other parts are read at the same revision.
                at = revision(reply.header)?.0.cast_signed();
            }
            for response in reply.responses {
                let Some(Response::ResponseRange(range)) = response.response else { return Err(senseless()) };
                rows.push(range.kvs.into_iter().next().map(versioned));
            }
        }
        if rows.len() == paths.len() { Ok(rows) } else { Err(senseless()) }
    }
}

/// The rows of one revision.
struct EtcdSnapshot {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    revision: Revision,
}

impl Snapshot for EtcdSnapshot {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        let (shared, at) = (self.shared.clone(), self.revision.0.cast_signed());
        Box::pin(run_on(&self.runtime, self.shared.clone(), Read::Fresh, async move {
            let page = shared.page(&range, Read::Fresh, at).await?;
            Ok(Page { revision: Revision(at.cast_unsigned()), ..page })
        }))
    }

    fn ranges<'a>(&'a self, ranges: &'a [Range]) -> BoxFuture<'a, Result<Vec<Page>, StoreError>> {
        let (shared, at, ranges) = (self.shared.clone(), self.revision, ranges.to_vec());
        Box::pin(run_on(
            &self.runtime,
            self.shared.clone(),
            Read::Fresh,
            async move { shared.ranges(&ranges, at).await },
        ))
    }
}

impl Store for EtcdStore {
    fn get<'a>(&'a self, path: &'a Path, read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        let shared = self.shared.clone();
        let range = RangeRequest { serializable: read == Read::Local, ..request::get(shared.key(path)) };
        let task = async move {
            let reply = shared.client.range(range).await.map_err(|error| read_error(&error))?;
            Ok(reply.kvs.into_iter().next().map(versioned))
        };
        if is_own(path) { Box::pin(self.run_own(task)) } else { Box::pin(self.run(read, task)) }
    }

    fn get_many<'a>(
        &'a self,
        paths: &'a [Path],
        read: Read,
    ) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>> {
        let (shared, paths) = (self.shared.clone(), paths.to_vec());
        Box::pin(self.run(read, async move {
            let rows = shared.get_many(&paths, read).await?;
            shared.copy_in_use.store(read == Read::Local, Ordering::Relaxed);
            Ok(rows)
        }))
    }

    fn is_shared(&self) -> bool {
        true
    }

    /// Only the etcd that this node runs itself is reached through a socket.
    fn has_own_copy(&self) -> bool {
        self.shared.client.endpoints().iter().all(|endpoint| endpoint.port().is_none())
    }

    fn range(&self, range: Range, read: Read) -> BoxFuture<'_, Result<Page, StoreError>> {
        let shared = self.shared.clone();
        let own = is_own(&range.start);
        let task = async move {
            let page = shared.page(&range, read, 0).await?;
            if own && read == Read::Fresh {
                shared.copy_in_use.store(false, Ordering::Relaxed);
            }
            Ok(page)
        };
        if own { Box::pin(self.run_own(task)) } else { Box::pin(self.run(read, task)) }
    }

    fn commit(&self, txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        Box::pin(async move {
            if !txns.iter().all(Txn::fits) {
                return Err(StoreError::TooLarge);
            }
            let count = txns.len();
            let (answer, receive) = oneshot::channel();
            let queued = self.commits.try_send(Commit::new(txns, answer));
            queued.map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => StoreError::Busy,
                mpsc::error::TrySendError::Closed(_) => StoreError::Unreachable("the store is closed".into()),
            })?;
            // If the thread has ended, what it had sent by then is not known.
            receive.await.unwrap_or_else(|_| Ok(vec![Outcome::Unknown; count]))
        })
    }

    fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        let shared = self.shared.clone();
        Box::pin(self.run_own(async move { watch::start(shared, &prefix, from).await }))
    }

    fn facts(&self) -> Option<Facts> {
        Some(self.shared.facts())
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
        let (shared, runtime) = (self.shared.clone(), self.runtime.clone());
        Box::pin(self.run(Read::Fresh, async move {
            let revision = shared.newest().await?;
            Ok(Box::new(EtcdSnapshot { shared, runtime, revision }) as Box<dyn Snapshot>)
        }))
    }
}

impl Shared {
    /// The newest revision, agreed with the majority.
    async fn newest(&self) -> Result<Revision, StoreError> {
        let range = RangeRequest { count_only: true, ..request::get(self.prefix.clone()) };
        revision(self.client.range(range).await.map_err(|error| read_error(&error))?.header)
    }
}

/// Compacts what is older than any snapshot may become, forever. Each node does it; compacting twice does no harm.
async fn compact_old(shared: Arc<Shared>) {
    let mut before = None;
    loop {
        // A revision is compacted one round after it was the newest.
        tokio::time::sleep(COMPACT_EVERY).await;
        let Ok(now) = shared.newest().await else { continue };
        if let Some(Revision(old)) = before.replace(now)
            && let Err(error) = shared.client.compact(old.cast_signed()).await
            && error != Error::Compacted
        {
            tracing::warn!(%error, "etcd could not be compacted; this is tried again");
        }
    }
}

/// Longer than a snapshot may last, so that none meets compacted revisions.
const COMPACT_EVERY: Duration = Duration::from_millis(BACKUP_MAX_MS + 10 * 60 * 1000);

fn versioned(row: KeyValue) -> Versioned {
    Versioned { value: row.value.to_vec(), revision: Revision(row.mod_revision.cast_unsigned()) }
}

fn revision(header: Option<ResponseHeader>) -> Result<Revision, StoreError> {
    header.map(|header| Revision(header.revision.cast_unsigned())).ok_or_else(senseless)
}

/// An answer that etcd never gives.
fn senseless() -> StoreError {
    StoreError::Damaged("an answer of etcd makes no sense".into())
}

/// The error of a call that changes nothing, so that it does not matter whether it was carried out.
fn read_error(error: &Error) -> StoreError {
    match error {
        Error::NotBegun(_) | Error::Unknown(_) | Error::Learner | Error::LeaseNotFound => {
            StoreError::Unreachable(error.to_string())
        }
        Error::Refused(why) => StoreError::Refused(why.clone()),
        Error::Unsupported(why) => StoreError::Unsupported(why.clone()),
        Error::NoLeader => StoreError::NoMajority,
        Error::NoSpace => StoreError::Full,
        Error::Compacted => StoreError::Compacted,
        Error::TooLarge => StoreError::TooLarge,
        Error::Member(_) | Error::Other(_) => StoreError::Damaged(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
