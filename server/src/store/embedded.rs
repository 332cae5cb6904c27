//! The embedded store: one redb file, one thread that writes it, a few that read it.
//!
//! No caller touches the disk: commits and reads are queued, and answered through one-shot channels. The writer takes
//! everything that queued up during the last write and makes it durable with one sync (group commit). redb refuses all
//! work after an error of the disk; the next call then opens the file anew, so that the store recovers with its disk.
//!
//! Commits do not save redb's map of free pages, as that takes a second sync. Without a map of the last commit, opening
//! walks the whole file (2 s for 200 k rows). So the writer saves it once it has nothing else to do: only a kill within
//! a moment of a write costs a walk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use casemate_api::limits::{
    STORE_COMMITS_WAITING_MAX, STORE_GROUP_MAX_BYTES, STORE_HISTORY_EVENTS, STORE_READS_WAITING_MAX,
};
use casemate_core::platform::BoxFuture;
use casemate_core::store::history::History;
use casemate_core::store::{
    Expect, Outcome, Page, Path, Range, Read, Revision, Snapshot, Store, StoreError, Txn, Versioned, Watch,
};
use futures_channel::oneshot;
use redb::{CommitError, Database, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, WriteTransaction};

use super::file::{After, OpenError, StoreFile};
use super::row::{self, META, REVISION, ROWS};
use crate::queue::{Queue, Refused, TimedOut};

/// A store in one file. It is closed when the last reference goes: what is queued is written first, for which the drop
/// waits.
pub struct Embedded {
    pub(super) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

pub(super) struct Shared {
    pub(super) file: StoreFile,
    /// `None` after an error, until the next call.
    database: Mutex<Option<Arc<Database>>>,
    commits: Queue<Commit>,
    reads: Queue<Job>,
    history: Arc<History>,
}

struct Commit {
    txns: Vec<Txn>,
    answer: oneshot::Sender<Result<Vec<Outcome>, StoreError>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Embedded {
    /// Opens the store at `path`, or makes an empty one with mode 0600 if there is no such file. redb keeps at most
    /// `cache_bytes` of pages in memory. Opening takes milliseconds, but after a kill during writes about 10 s for every
    /// million rows.
    pub fn open(path: &FilePath, cache_bytes: usize) -> Result<Arc<Embedded>, OpenError> {
        let file = StoreFile {
            path: path.into(),
            cache_bytes,
            #[cfg(test)]
            faults: Arc::default(),
        };
        file.create_if_absent()?;
        let shared = Arc::new(Shared {
            file,
            database: Mutex::new(None),
            commits: Queue::new(STORE_COMMITS_WAITING_MAX),
            reads: Queue::new(STORE_READS_WAITING_MAX),
            history: History::new(Revision(0), STORE_HISTORY_EVENTS),
        });
        *shared.lock() = Some(shared.open(After::Start)?);
        let mut embedded = Embedded { shared, threads: Vec::new() };
        embedded.start("store-writer", Shared::write_all)?;
        for _ in 0..READERS {
            embedded.start("store-reader", Shared::read_all)?;
        }
        Ok(Arc::new(embedded))
    }

    fn start(&mut self, name: &str, body: fn(&Shared)) -> Result<(), OpenError> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || body(&shared));
        self.threads.push(thread.map_err(|error| OpenError::Io(error.to_string()))?);
        Ok(())
    }

    /// Runs `job` on a reader thread.
    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        read_on(&self.shared, job).await
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.commits.close();
        self.shared.reads.close();
        let current = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // A waker that a store thread called may have held the last reference.
            if thread.thread().id() != current {
                let _ = thread.join();
            }
        }
        // Closes the file cleanly, so that the next start is quick, and frees its lock.
        drop(self.shared.lock().take());
        self.shared.history.restart(Revision(u64::MAX));
    }
}

async fn read_on<T: Send + 'static>(
    shared: &Arc<Shared>,
    job: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (send, receive) = oneshot::channel();
    let on = shared.clone();
    let queued = shared.reads.push(Box::new(move || {
        // The caller may have gone; its answer goes with it.
        let _ = send.send(job(&on));
    }));
    queued.map_err(refused)?;
    receive.await.unwrap_or_else(|_| Err(unreachable("a read was dropped")))
}

fn refused(why: Refused) -> StoreError {
    match why {
        // It works, and will soon have worked this off: no reason to call the store lost.
        Refused::Full => StoreError::Busy,
        Refused::Closed => unreachable("the store is closed"),
    }
}

fn unreachable(text: &str) -> StoreError {
    StoreError::Unreachable(text.into())
}

// --- The open database ---

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, after: After) -> Result<Arc<Database>, OpenError> {
        let (database, revision) = self.file.open(after)?;
        self.history.restart(revision);
        Ok(Arc::new(database))
    }

    /// The open database; opened anew if it failed before.
    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let mut database = self.lock();
        if let Some(database) = &*database {
            return Ok(database.clone());
        }
        let opened = self.open(After::Failure)?;
        tracing::info!(file = %self.file.path.display(), "the store is open again");
        *database = Some(opened.clone());
        Ok(opened)
    }

    /// Closes a database that failed.
    fn give_up(&self, failed: &Arc<Database>) {
        let mut database = self.lock();
        if database.as_ref().is_some_and(|current| Arc::ptr_eq(current, failed)) {
            *database = None;
        }
    }

    /// Runs `work` on `database`, which is given up if that fails.
    fn attempt<T>(
        &self,
        database: &Arc<Database>,
        work: impl FnOnce(&Arc<Database>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let error = match catch_unwind(AssertUnwindSafe(|| work(database))) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => store_error(&error),
            Err(_) => StoreError::Damaged("its pages make no sense".into()),
        };
        self.give_up(database);
        Err(error)
    }
}

fn store_error(error: &redb::Error) -> StoreError {
    match error {
        redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_) => {
            StoreError::Unreachable(error.to_string())
        }
        redb::Error::Corrupted(why) => StoreError::Damaged(why.clone()),
        other => StoreError::Damaged(other.to_string()),
    }
}

// --- Writing ---

/// Why a group of commits failed.
enum Failed {
    /// Nothing was applied.
    Nothing(StoreError),
    /// All or nothing was applied.
    Unknown,
}

/// A written group that is not durable yet.
struct Written {
    transaction: WriteTransaction,
    outcomes: Vec<Vec<Outcome>>,
    changes: Vec<(Path, Revision)>,
}

impl Shared {
    /// Body of the writer thread.
    fn write_all(&self) {
        // Opening walked the file if it had to; that is to happen once.
        let mut settled = false;
        loop {
            let next = if settled { Ok(self.commits.pop()) } else { self.commits.pop_within(SETTLE_AFTER) };
            settled = next.is_err();
            match next {
                Ok(Some(first)) => self.write_group(first),
                Ok(None) => return,
                Err(TimedOut) => self.settle(),
            }
        }
    }

    /// Writes `first` and what queued up behind it, then answers all.
    fn write_group(&self, first: Commit) {
        let (group, answers) = self.group(first);
        let counts: Vec<usize> = group.iter().map(Vec::len).collect();
        let written = catch_unwind(AssertUnwindSafe(|| self.write(group)));
        let results: Vec<Result<Vec<Outcome>, StoreError>> = match written.unwrap_or(Err(Failed::Unknown)) {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(Failed::Nothing(error)) => counts.iter().map(|_| Err(error.clone())).collect(),
            Err(Failed::Unknown) => counts.iter().map(|count| Ok(vec![Outcome::Unknown; *count])).collect(),
        };
        for (answer, result) in answers.into_iter().zip(results) {
            // The caller may have gone; its answer goes with it.
            let _ = answer.send(result);
        }
    }

    /// Saves the map of free pages. No row is at stake: all are durable already.
    pub(super) fn settle(&self) {
        let Some(database) = self.lock().clone() else { return };
        let saved = self.attempt(&database, |database| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            Ok(transaction.commit()?)
        });
        if let Err(error) = saved {
            tracing::error!(%error, "the store failed while it had nothing to do");
        }
    }

    /// `first` and what queued up behind it.
    #[expect(clippy::type_complexity, reason = "two lists of the same length, taken apart at once")]
    fn group(&self, first: Commit) -> (Vec<Vec<Txn>>, Vec<oneshot::Sender<Result<Vec<Outcome>, StoreError>>>) {
        let mut bytes = 0;
        let (mut group, mut answers) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(commit) = next {
            bytes += commit.txns.iter().flat_map(|txn| &txn.put).map(|(_, value)| value.len()).sum::<usize>();
            group.push(commit.txns);
            answers.push(commit.answer);
            next = if bytes < STORE_GROUP_MAX_BYTES { self.commits.try_pop() } else { None };
        }
        (group, answers)
    }

    fn write(&self, group: Vec<Vec<Txn>>) -> Result<Vec<Vec<Outcome>>, Failed> {
        let database = self.database().map_err(Failed::Nothing)?;
        let written = self.attempt(&database, |database| apply(database, group)).map_err(Failed::Nothing)?;
        if written.changes.is_empty() {
            // Every outcome tells of rows that are durable already.
            return Ok(written.outcomes);
        }
        match catch_unwind(AssertUnwindSafe(|| written.transaction.commit())) {
            Ok(Ok(())) => {
                self.history.record(written.changes);
                Ok(written.outcomes)
            }
            Ok(Err(CommitError::TransactionPoisoned)) => {
                self.give_up(&database);
                Err(Failed::Nothing(unreachable("a transaction was rolled back")))
            }
            failed => {
                let why = match failed {
                    Ok(Err(error)) => error.to_string(),
                    Ok(Ok(())) | Err(_) => "panic".into(),
                };
                tracing::error!(why, "the store may or may not have applied a group of commits");
                self.give_up(&database);
                // Watches cannot tell what was applied either.
                self.history.restart(Revision(u64::MAX));
                Err(Failed::Unknown)
            }
        }
    }
}

/// Applies each transaction by itself, within one transaction of redb.
fn apply(database: &Database, group: Vec<Vec<Txn>>) -> Result<Written, redb::Error> {
    let transaction = database.begin_write()?;
    let mut changes = Vec::new();
    let mut rows = transaction.open_table(ROWS)?;
    let mut meta = transaction.open_table(META)?;
    let mut revision = Revision(row::number(&meta, REVISION)?);
    let mut outcomes = Vec::with_capacity(group.len());
    for txns in group {
        let outcome = txns.into_iter().map(|txn| apply_one(&mut rows, txn, &mut revision, &mut changes));
        outcomes.push(outcome.collect::<Result<Vec<_>, _>>()?);
    }
    if !changes.is_empty() {
        meta.insert(REVISION, revision.0)?;
    }
    drop((rows, meta));
    Ok(Written { transaction, outcomes, changes })
}

fn apply_one(
    rows: &mut Table<'_, &'static [u8], &'static [u8]>,
    txn: Txn,
    revision: &mut Revision,
    changes: &mut Vec<(Path, Revision)>,
) -> Result<Outcome, redb::Error> {
    for (index, (path, expect)) in txn.expect.iter().enumerate() {
        let found = match rows.get(path.as_bytes())? {
            Some(row) => Some(row::split(row.value())?.0),
            None => None,
        };
        let wanted = match expect {
            Expect::Absent => None,
            Expect::At(revision) => Some(*revision),
        };
        if found != wanted {
            return Ok(Outcome::Conflict(index));
        }
    }
    let next = Revision(revision.0 + 1);
    let changes_before = changes.len();
    for (path, value) in txn.put {
        row::insert(rows, path.as_bytes(), &value, next)?;
        changes.push((path, next));
    }
    for path in txn.delete {
        if rows.remove(path.as_bytes())?.is_some() {
            changes.push((path, next));
        }
    }
    if changes.len() > changes_before {
        *revision = next;
    }
    Ok(Outcome::Committed(*revision))
}

// --- Reading ---

/// The rows as of one revision.
struct View {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    revision: Revision,
    /// What it is a view of.
    database: Weak<Database>,
}

impl View {
    fn new(database: &Arc<Database>) -> Result<Self, redb::Error> {
        let transaction = database.begin_read()?;
        let revision = Revision(row::number(&transaction.open_table(META)?, REVISION)?);
        Ok(Self { rows: transaction.open_table(ROWS)?, revision, database: Arc::downgrade(database) })
    }

    fn get(&self, path: &Path) -> Result<Option<Versioned>, redb::Error> {
        let Some(row) = self.rows.get(path.as_bytes())? else { return Ok(None) };
        let (revision, value) = row::split(row.value())?;
        Ok(Some(Versioned { value: value.to_vec(), revision }))
    }

    fn page(&self, range: &Range) -> Result<Page, redb::Error> {
        let mut page = Page { revision: self.revision, ..Page::default() };
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return Ok(page);
        }
        let rows = match &range.end {
            Some(end) => self.rows.range(range.start.as_bytes()..end.as_bytes())?,
            None => self.rows.range(range.start.as_bytes()..)?,
        };
        for entry in rows {
            if page.rows.len() == range.limit {
                page.more = true;
                break;
            }
            let (path, row) = entry?;
            let (revision, value) = row::split(row.value())?;
            let value = if range.keys_only { Vec::new() } else { value.to_vec() };
            page.rows.push((Path(path.value().into()), Versioned { value, revision }));
        }
        Ok(page)
    }
}

impl Shared {
    /// Body of a reader thread.
    fn read_all(&self) {
        while let Some(job) = self.reads.pop() {
            // A panic ends one read, not all that follow.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn view<T>(&self, read: impl FnOnce(View) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let database = self.database()?;
        self.attempt(&database, |database| read(View::new(database)?))
    }
}

struct Held {
    shared: Arc<Shared>,
    view: Arc<View>,
}

impl Snapshot for Held {
    fn revision(&self) -> Revision {
        self.view.revision
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        let view = self.view.clone();
        Box::pin(read_on(&self.shared, move |shared| {
            let database = view.database.upgrade().ok_or_else(|| unreachable("the snapshot was lost"))?;
            shared.attempt(&database, |_| view.page(&range))
        }))
    }
}

impl Store for Embedded {
    fn get<'a>(&'a self, path: &'a Path, _read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        let path = path.clone();
        Box::pin(self.read(move |shared| shared.view(|view| view.get(&path))))
    }

    fn range(&self, range: Range, _read: Read) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(self.read(move |shared| shared.view(|view| view.page(&range))))
    }

    fn commit(&self, txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        Box::pin(async move {
            if !txns.iter().all(Txn::fits) {
                return Err(StoreError::TooLarge);
            }
            let (answer, receive) = oneshot::channel();
            self.shared.commits.push(Commit { txns, answer }).map_err(refused)?;
            receive.await.unwrap_or_else(|_| Err(unreachable("the writer ended")))
        })
    }

    fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        Box::pin(self.read(move |shared| {
            // Opening it anew may change what is known of the history.
            shared.database()?;
            Ok(shared.history.watch(prefix, from))
        }))
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
        Box::pin(async move {
            let view = self.read(|shared| shared.view(|view| Ok(Arc::new(view)))).await?;
            Ok(Box::new(Held { shared: self.shared.clone(), view }) as Box<dyn Snapshot>)
        })
    }
}

/// Threads that read; the cache above the store answers nearly everything.
const READERS: usize = 2;
/// Time without commits after which the map of free pages is saved.
const SETTLE_AFTER: Duration = Duration::from_secs(1);
