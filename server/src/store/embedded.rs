//! The embedded store: one redb file, one writer thread and a few reader threads.
//!
//! No caller touches the disk: commits and reads are queued, and answered through one-shot channels. The writer takes
//! everything queued during the last write and makes it durable with one sync (group commit). redb refuses all work
//! after a disk error; the next call then reopens the file, so that the store recovers with its disk. Until it is open,
//! other callers get `Busy`.
//!
//! A full disk is such an error, so free space is checked before redb is asked to write (see [`super::volume`]). If
//! there is little, transactions that add data are refused, unless deletions left room in the file itself: redb rarely
//! returns it to the volume.
//!
//! Commits do not save redb's map of free pages, as that takes a second sync. Without the map of the last commit,
//! opening the file walks all of it (2 s for 200 k rows). So the writer saves the map once it is idle: only a kill
//! within a moment of a write causes a walk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use casemate_api::limits::{
    STORE_COMMITS_WAITING_MAX, STORE_GROUP_MAX_BYTES, STORE_HISTORY_EVENTS, STORE_MEASURE_MS, STORE_PAUSE_MAX_MS,
    STORE_PAUSE_MIN_MS, STORE_READS_WAITING_MAX, STORE_TXN_MAX_OPS, STORE_WORK_BYTES,
};
use casemate_core::runtime::{BoxFuture, Clock};
use casemate_core::store::history::History;
use casemate_core::store::{
    Expect, Outcome, Page, Path, Range, Read, Revision, Room, Snapshot, Store, StoreError, Txn, Versioned, Watch,
};
use futures_channel::oneshot;
use redb::{
    CommitError, Database, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table,
    WriteTransaction,
};

use super::file::{After, OpenError, StoreFile};
use super::row::{self, META, REVISION, ROWS};
use super::volume::{self, Volume};
use crate::clock::SystemClock;
use crate::queue::{Queue, Refused, TimedOut};

/// A store in one file. It is closed when the last reference is dropped, after everything queued was written; the drop
/// waits for that.
pub struct Embedded {
    pub(super) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

pub(super) struct Shared {
    myself: Weak<Shared>,
    pub(super) file: StoreFile,
    pub(super) volume: Arc<Volume>,
    /// Reusable room in the file from deleted rows, in bytes, as far as known.
    pub(super) vacant: AtomicU64,
    clock: SystemClock,
    /// When `vacant` was last measured, in monotonic milliseconds.
    measured_ms: AtomicU64,
    pub(super) pause: Mutex<Pause>,
    database: Mutex<DatabaseState>,
    commits: Queue<Commit>,
    reads: Queue<Job>,
    history: Arc<History>,
}

/// State of the redb database.
pub(super) enum DatabaseState {
    /// Open and working, as far as is known.
    Open(Arc<Database>),
    /// It failed; the next call reopens it.
    Closed,
    /// A caller is opening it, which may take a while.
    Opening,
}

/// When to try writing again after the disk was full although the volume reported free space.
#[derive(Default)]
pub(super) struct Pause {
    until: Duration,
    length: Duration,
}

struct Commit {
    txns: Vec<Txn>,
    answer: oneshot::Sender<Result<Vec<Outcome>, StoreError>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Embedded {
    /// Opens the store at `path`, or creates an empty one with mode 0600 if the file does not exist. redb caches at
    /// most `cache_bytes` of pages. Opening takes milliseconds, but after a kill during writes about 10 s per million
    /// rows.
    pub fn open(path: &FilePath, cache_bytes: usize, volume: &Arc<Volume>) -> Result<Arc<Embedded>, OpenError> {
        let file = StoreFile {
            path: path.into(),
            cache_bytes,
            #[cfg(test)]
            faults: Arc::default(),
        };
        volume.make_room(STORE_WORK_BYTES);
        file.create_if_absent()?;
        let shared = Arc::new_cyclic(|myself| Shared {
            myself: myself.clone(),
            file,
            volume: volume.clone(),
            vacant: AtomicU64::new(0),
            clock: SystemClock::new(),
            measured_ms: AtomicU64::new(0),
            pause: Mutex::default(),
            database: Mutex::new(DatabaseState::Closed),
            commits: Queue::new(STORE_COMMITS_WAITING_MAX),
            reads: Queue::new(STORE_READS_WAITING_MAX),
            history: History::new(Revision(0), STORE_HISTORY_EVENTS),
        });
        *shared.lock() = DatabaseState::Open(shared.open(After::Start)?);
        if shared.volume.is_nearly_full() {
            // If measuring fails now, a later read reports the error.
            let _ = shared.measure();
        }
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
            // A waker called by a store thread may have held the last reference, and a thread cannot join itself.
            if thread.thread().id() != current {
                let _ = thread.join();
            }
        }
        // Closes the file cleanly, so that the next start is quick, and releases its lock.
        let closed = std::mem::replace(&mut *self.shared.lock(), DatabaseState::Closed);
        drop(closed);
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
        // The caller may have been dropped; then its answer is dropped, too.
        let _ = send.send(job(&on));
    }));
    queued.map_err(refused)?;
    receive.await.unwrap_or_else(|_| Err(unreachable("a read was dropped")))
}

fn refused(why: Refused) -> StoreError {
    match why {
        // The store works and will soon have caught up: it must not be reported as lost.
        Refused::Full => StoreError::Busy,
        Refused::Closed => unreachable("the store is closed"),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn unreachable(text: &str) -> StoreError {
    StoreError::Unreachable(text.into())
}

// --- The open database ---

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, DatabaseState> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, after: After) -> Result<Arc<Database>, OpenError> {
        let (database, revision) = match self.file.open(after) {
            Err(OpenError::Full) if self.volume.release_ballast() => self.file.open(after)?,
            opened => opened?,
        };
        self.history.restart(revision);
        Ok(Arc::new(database))
    }

    /// The open database. If it failed before, one caller reopens it while others get `Busy`.
    fn database(&self) -> Result<Arc<Database>, StoreError> {
        {
            let mut base = self.lock();
            match &*base {
                DatabaseState::Open(database) => return Ok(database.clone()),
                DatabaseState::Opening => return Err(StoreError::Busy),
                DatabaseState::Closed => *base = DatabaseState::Opening,
            }
        }
        let opened = catch_unwind(AssertUnwindSafe(|| self.open(After::Failure)));
        let opened = opened.unwrap_or_else(|_| Err(OpenError::Damaged("its pages make no sense".into())));
        *self.lock() = opened.as_ref().map_or(DatabaseState::Closed, |database| DatabaseState::Open(database.clone()));
        let opened = opened?;
        tracing::info!(file = %self.file.path.display(), "the store is open again");
        Ok(opened)
    }

    /// Closes a failed database.
    fn give_up(&self, failed: &Arc<Database>) {
        let mut database = self.lock();
        if matches!(&*database, DatabaseState::Open(current) if Arc::ptr_eq(current, failed)) {
            *database = DatabaseState::Closed;
        }
    }

    /// Runs `work` on `database`, which is closed if that fails.
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
        redb::Error::Io(error) if volume::is_out_of_space(error) => StoreError::Full,
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
    /// Either everything or nothing was applied.
    Unknown,
}

/// A written group that is not durable yet.
struct Written {
    transaction: WriteTransaction,
    /// The revision after the group.
    revision: Revision,
    /// Room in the file that its new rows take, and that its deleted rows free.
    taken: u64,
    left: u64,
    outcomes: Vec<Vec<Outcome>>,
    changes: Vec<(Path, Revision)>,
}

impl Shared {
    /// Body of the writer thread.
    fn write_all(&self) {
        // If opening had to walk the file, that must not happen again.
        let mut settled = false;
        loop {
            let next = if settled { Ok(self.commits.pop()) } else { self.commits.pop_within(SETTLE_AFTER) };
            settled = next.is_err();
            match next {
                Ok(Some(first)) => self.write_group(first),
                Ok(None) => return,
                Err(TimedOut) => {
                    self.settle();
                    self.volume.keep_ballast();
                }
            }
        }
    }

    /// Writes `first` and what was queued behind it, then answers all of them.
    fn write_group(&self, first: Commit) {
        let group = self.admit(self.group(first));
        let (group, answers): (Vec<Vec<Txn>>, Vec<_>) =
            group.into_iter().map(|commit| (commit.txns, commit.answer)).unzip();
        let counts: Vec<usize> = group.iter().map(Vec::len).collect();
        let written = catch_unwind(AssertUnwindSafe(|| self.write(&group)));
        let results: Vec<Result<Vec<Outcome>, StoreError>> = match written.unwrap_or(Err(Failed::Unknown)) {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(Failed::Nothing(error)) => counts.iter().map(|_| Err(error.clone())).collect(),
            Err(Failed::Unknown) => counts.iter().map(|count| Ok(vec![Outcome::Unknown; *count])).collect(),
        };
        for (answer, result) in answers.into_iter().zip(results) {
            // The caller may have been dropped; then its answer is dropped, too.
            let _ = answer.send(result);
        }
    }

    /// Saves the map of free pages. No row is at risk: all are durable already.
    pub(super) fn settle(&self) {
        let database = match &*self.lock() {
            DatabaseState::Open(database) => database.clone(),
            DatabaseState::Closed | DatabaseState::Opening => return,
        };
        if self.volume.space().free < STORE_WORK_BYTES {
            return;
        }
        let saved = self.attempt(&database, |database| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            Ok(transaction.commit()?)
        });
        if let Err(error) = saved {
            tracing::error!(%error, "the store failed while it was idle");
        }
    }

    /// `first` and what was queued behind it.
    fn group(&self, first: Commit) -> Vec<Commit> {
        let mut bytes = 0;
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(commit) = next {
            bytes += commit.txns.iter().flat_map(|txn| &txn.put).map(|(_, value)| value.len()).sum::<usize>();
            group.push(commit);
            next = if bytes < STORE_GROUP_MAX_BYTES { self.commits.try_pop() } else { None };
        }
        group
    }

    /// Refuses transactions that add data if there is no room, and makes room for the rest.
    fn admit(&self, group: Vec<Commit>) -> Vec<Commit> {
        let space = self.volume.space();
        let (mut needed, mut refused) = (STORE_WORK_BYTES, false);
        let mut admitted = Vec::with_capacity(group.len());
        for commit in group {
            let need = volume::need(&commit.txns);
            let after = space.free.saturating_sub(needed.saturating_add(need));
            // Vacant room may be held by a snapshot or be fragmented, so the volume must have some free space as well.
            let has_room = after >= space.reserve()
                || (after >= space.reserve() / 2 && self.vacant.load(Ordering::Relaxed) >= needed.saturating_add(need));
            let replaces = commit.txns.iter().any(|txn| txn.room == Room::Replacing && !txn.put.is_empty());
            if (commit.txns.iter().any(Txn::grows) && !has_room) || (replaces && after < space.reserve() / 2) {
                refused = true;
                let _ = commit.answer.send(Err(StoreError::Full));
            } else {
                needed = needed.saturating_add(need);
                admitted.push(commit);
            }
        }
        if refused {
            self.measure_soon();
        }
        if !admitted.is_empty() {
            self.volume.make_room(needed);
        }
        admitted
    }

    /// Writes a group. If the disk is full, it is tried once more after releasing the ballast.
    fn write(&self, group: &[Vec<Txn>]) -> Result<Vec<Vec<Outcome>>, Failed> {
        if self.clock.monotonic() < self.pause().until {
            return Err(Failed::Nothing(StoreError::Full));
        }
        let mut written = self.write_once(group);
        if matches!(written, Err(Failed::Nothing(StoreError::Full))) && self.volume.release_ballast() {
            written = self.write_once(group);
        }
        let mut pause = self.pause();
        match written {
            Err(Failed::Nothing(StoreError::Full)) => {
                let (min, max) = (Duration::from_millis(STORE_PAUSE_MIN_MS), Duration::from_millis(STORE_PAUSE_MAX_MS));
                pause.length = (2 * pause.length).clamp(min, max);
                pause.until = self.clock.monotonic() + pause.length;
                tracing::error!(file = %self.file.path.display(), "the disk is full: cannot write to the store");
            }
            Ok(_) => *pause = Pause::default(),
            Err(_) => {}
        }
        written
    }

    fn pause(&self) -> MutexGuard<'_, Pause> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_once(&self, group: &[Vec<Txn>]) -> Result<Vec<Vec<Outcome>>, Failed> {
        let database = self.database().map_err(Failed::Nothing)?;
        let written = self.attempt(&database, |database| apply(database, group)).map_err(Failed::Nothing)?;
        if written.changes.is_empty() {
            // Every outcome refers to rows that are durable.
            return Ok(written.outcomes);
        }
        let Written { transaction, outcomes, changes, revision, taken, left } = written;
        let why = match catch_unwind(AssertUnwindSafe(|| transaction.commit())) {
            Ok(Ok(())) => {
                self.history.record(changes);
                let adjust = |vacant: u64| Some(vacant.saturating_sub(taken).saturating_add(left));
                let _ = self.vacant.fetch_update(Ordering::Relaxed, Ordering::Relaxed, adjust);
                return Ok(outcomes);
            }
            Ok(Err(CommitError::TransactionPoisoned)) => {
                self.give_up(&database);
                return Err(Failed::Nothing(unreachable("a transaction was rolled back")));
            }
            Ok(Err(error)) => redb::Error::from(error),
            Err(_) => row::damaged("panic"),
        };
        tracing::error!(%why, "the store may or may not have applied a group of commits");
        // Watches cannot know what was applied either. They end before the store can be opened again, which sets where new ones
        // begin.
        self.history.restart(Revision(u64::MAX));
        self.give_up(&database);
        drop(database);
        if store_error(&why) != StoreError::Full {
            return Err(Failed::Unknown);
        }
        // There is no other writer, so the revision tells.
        match self.view(|view| Ok(view.revision)) {
            Ok(found) if found == revision => Ok(outcomes),
            Ok(_) => Err(Failed::Nothing(StoreError::Full)),
            Err(_) => Err(Failed::Unknown),
        }
    }

    /// Measures the room in the file that no row takes. This reads the whole file.
    fn measure(&self) -> Result<(), StoreError> {
        self.measured_ms.store(millis(self.clock.monotonic()), Ordering::Relaxed);
        let rows = self.view(|view| {
            let stats = view.rows.stats()?;
            Ok(stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes())
        })?;
        let file = self.file.allocated().map_err(|error| unreachable(&error.to_string()))?;
        // redb's own metadata takes room, too.
        self.vacant.store(file.saturating_sub(rows + rows / 16), Ordering::Relaxed);
        Ok(())
    }

    /// Measures on a reader thread, unless that was done recently.
    fn measure_soon(&self) {
        let now = millis(self.clock.monotonic());
        if now.saturating_sub(self.measured_ms.load(Ordering::Relaxed)) < STORE_MEASURE_MS {
            return;
        }
        let Some(shared) = self.myself.upgrade() else { return };
        let measured = self.reads.push(Box::new(move || {
            // Room that is not known is not used, which does no harm.
            let _ = shared.measure();
        }));
        if measured.is_ok() {
            self.measured_ms.store(now, Ordering::Relaxed);
        }
    }
}

/// Applies each transaction by itself, within one transaction of redb.
fn apply(database: &Database, group: &[Vec<Txn>]) -> Result<Written, redb::Error> {
    let transaction = database.begin_write()?;
    let mut changes = Vec::new();
    let (mut taken, mut left) = (0, 0);
    let mut rows = transaction.open_table(ROWS)?;
    let mut meta = transaction.open_table(META)?;
    let mut revision = Revision(row::number(&meta, REVISION)?);
    let mut outcomes = Vec::with_capacity(group.len());
    for txns in group {
        let outcome = txns.iter().map(|txn| apply_one(&mut rows, txn, &mut revision, &mut changes, &mut left));
        outcomes.push(outcome.collect::<Result<Vec<_>, _>>()?);
        taken += volume::need(txns);
    }
    if !changes.is_empty() {
        meta.insert(REVISION, revision.0)?;
    }
    drop((rows, meta));
    Ok(Written { transaction, outcomes, changes, revision, taken, left })
}

fn apply_one(
    rows: &mut Table<'_, &'static [u8], &'static [u8]>,
    txn: &Txn,
    revision: &mut Revision,
    changes: &mut Vec<(Path, Revision)>,
    left: &mut u64,
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
    for (path, value) in &txn.put {
        row::insert(rows, path.as_bytes(), value, next)?;
        changes.push((path.clone(), next));
    }
    for path in &txn.delete {
        if let Some(row) = rows.remove(path.as_bytes())? {
            *left += row.value().len() as u64;
            changes.push((path.clone(), next));
        }
    }
    if changes.len() > changes_before {
        *revision = next;
    }
    Ok(Outcome::Committed(*revision))
}

// --- Reading ---

/// The rows at one revision.
struct View {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    revision: Revision,
    /// Keeps the database open.
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

    fn get_many(&self, paths: &[Path]) -> Result<Vec<Option<Versioned>>, redb::Error> {
        paths.iter().map(|path| self.get(path)).collect()
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
            // A panic ends one read, not all later ones.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn view<T>(&self, read: impl FnOnce(View) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let database = self.database()?;
        self.attempt(&database, |database| read(View::new(database)?))
    }
}

struct OpenSnapshot {
    shared: Arc<Shared>,
    view: Arc<View>,
}

impl Snapshot for OpenSnapshot {
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

    fn ranges<'a>(&'a self, ranges: &'a [Range]) -> BoxFuture<'a, Result<Vec<Page>, StoreError>> {
        let (view, ranges) = (self.view.clone(), ranges.to_vec());
        Box::pin(read_on(&self.shared, move |shared| {
            many(&ranges, || {
                let database = view.database.upgrade().ok_or_else(|| unreachable("the snapshot was lost"))?;
                shared.attempt(&database, |_| ranges.iter().map(|range| view.page(range)).collect())
            })
        }))
    }
}

/// Runs `read` unless it is for more than the trait allows.
fn many<I, T>(wanted: &[I], read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    if wanted.len() > STORE_TXN_MAX_OPS { Err(StoreError::TooLarge) } else { read() }
}

impl Store for Embedded {
    fn get<'a>(&'a self, path: &'a Path, _read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        let path = path.clone();
        Box::pin(self.read(move |shared| shared.view(|view| view.get(&path))))
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn get_many<'a>(
        &'a self,
        paths: &'a [Path],
        _read: Read,
    ) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>> {
        let paths = paths.to_vec();
        Box::pin(self.read(move |shared| many(&paths, || shared.view(|view| view.get_many(&paths)))))
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
            // Reopening may change what the history knows.
            shared.database()?;
            Ok(shared.history.watch(prefix, from))
        }))
    }

    fn is_nearly_full(&self) -> bool {
        self.shared.volume.is_nearly_full()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
        Box::pin(async move {
            let view = self.read(|shared| shared.view(|view| Ok(Arc::new(view)))).await?;
            Ok(Box::new(OpenSnapshot { shared: self.shared.clone(), view }) as Box<dyn Snapshot>)
        })
    }
}

/// Number of reader threads; the cache above the store answers nearly everything.
const READERS: usize = 2;
/// Idle time after which the map of free pages is saved.
const SETTLE_AFTER: Duration = Duration::from_secs(1);
