//! Copies a store into another one while it is in use.
//!
//! First the rows of one revision are copied and compared, while a watch notes which rows are changed meanwhile. Those are copied
//! again, and again, until few are left. The rest follows when nobody writes any more.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use casemate_api::limits::{COPY_ROUNDS_MAX, COPY_ROWS, COPY_TAIL_ROWS, STORE_TXN_MAX_BYTES};

use super::{Event, Outcome, Path, Range, Read, Revision, Room, Snapshot, Store, Txn, Versioned, Watch};
use crate::error::Error;
use crate::runtime::{First, first};

/// A copy of a store, up to the last changes.
pub struct Copy {
    from: Arc<dyn Store>,
    to: Arc<dyn Store>,
    /// Which rows belong to the copy.
    wanted: fn(&Path) -> bool,
    changes: Changes,
    rows: u64,
}

/// Copies the rows of `from` for which `wanted` is true, and compares. `to` is empty and used by nobody else. Returns how many there are.
///
/// # Errors
/// Those of [`Copy::begin`].
pub async fn copy_whole(from: &dyn Snapshot, to: &dyn Store, wanted: fn(&Path) -> bool) -> Result<u64, Error> {
    let rows = copy_snapshot(from, to, wanted).await?;
    compare(from, to, wanted).await?;
    Ok(rows)
}

/// Rows that were changed since they were copied.
struct Changes {
    watch: Box<dyn Watch>,
    changed: BTreeSet<Path>,
    /// Everything up to here was reported.
    seen: Revision,
}

impl Copy {
    /// Copies the rows for which `wanted` is true, and compares. `to` is empty and used by nobody else. `from` may be written to.
    ///
    /// # Errors
    /// Those of the stores; [`Error::Unavailable`] if a write was not confirmed, if `from` was changed faster than the copy could
    /// follow, or if the copy differs. `to` is of no use then.
    pub async fn begin(from: Arc<dyn Store>, to: Arc<dyn Store>, wanted: fn(&Path) -> bool) -> Result<Self, Error> {
        let seen = newest(&*from).await?;
        let changes = Changes { watch: from.watch(everything(), seen).await?, changed: BTreeSet::new(), seen };
        let snapshot = from.snapshot().await?;
        let mut copy = Self { from, to, wanted, changes, rows: 0 };
        let (to, wanted) = (copy.to.clone(), copy.wanted);
        copy.rows = copy.changes.noted_during(copy_snapshot(&*snapshot, &*to, wanted)).await??;
        copy.changes.noted_during(compare(&*snapshot, &*to, wanted)).await??;
        drop(snapshot);
        for _ in 0..COPY_ROUNDS_MAX {
            copy.changes.catch_up(&*copy.from).await?;
            if copy.changes.changed.len() <= COPY_TAIL_ROWS {
                return Ok(copy);
            }
            let changed = std::mem::take(&mut copy.changes.changed);
            let (from, to) = (copy.from.clone(), copy.to.clone());
            copy.changes.noted_during(copy_rows(&*from, &*to, wanted, changed)).await??;
        }
        Err(too_fast())
    }

    /// Copies what was changed since, when nobody writes to the original any more. Returns the last revision of the original
    /// and the number of rows that were copied at first.
    ///
    /// # Errors
    /// Those of [`Copy::begin`].
    pub async fn finish(mut self) -> Result<(Revision, u64), Error> {
        self.changes.catch_up(&*self.from).await?;
        let changed = std::mem::take(&mut self.changes.changed);
        copy_rows(&*self.from, &*self.to, self.wanted, changed).await?;
        Ok((self.changes.seen, self.rows))
    }
}

impl Changes {
    /// Does `work`, and notes which rows are changed meanwhile.
    async fn noted_during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Error> {
        let mut work = pin!(work);
        loop {
            match first(self.watch.next(), work.as_mut()).await {
                First::Left(event) => self.note(event)?,
                First::Right(done) => return Ok(done),
            }
        }
    }

    /// Notes everything that was changed up to now.
    async fn catch_up(&mut self, from: &dyn Store) -> Result<(), Error> {
        let newest = newest(from).await?;
        self.watch.ask_progress();
        while self.seen < newest {
            let event = self.watch.next().await;
            if matches!(event, Event::Progress(seen) if seen < newest) {
                self.watch.ask_progress();
            }
            self.note(event)?;
        }
        Ok(())
    }

    fn note(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Changed { path, .. } => {
                self.changed.insert(path);
            }
            Event::Progress(revision) => self.seen = self.seen.max(revision),
            Event::Lost | Event::Compacted => return Err(too_fast()),
        }
        Ok(())
    }
}

fn too_fast() -> Error {
    Error::Unavailable(
        "The store was changed faster than it could be copied. Nothing was done; try again when there is less load."
            .into(),
    )
}

fn differs() -> Error {
    Error::Unavailable(
        "The copy of the store is not like the original. Nothing was done; check the disk, then try again.".into(),
    )
}

fn everything() -> Path {
    Path(Box::from([]))
}

/// The newest revision of a store.
async fn newest(store: &dyn Store) -> Result<Revision, Error> {
    let one = Range { keys_only: true, ..Range::prefix(&everything(), 1) };
    Ok(store.range(one, Read::Fresh).await?.revision)
}

/// Copies all rows of `from`. Returns how many.
async fn copy_snapshot(from: &dyn Snapshot, to: &dyn Store, wanted: fn(&Path) -> bool) -> Result<u64, Error> {
    let mut range = Range { start: everything(), end: None, limit: COPY_ROWS, keys_only: false };
    let mut count = 0;
    loop {
        let page = from.range(range.clone()).await?;
        let next = page.rows.last().map(|(path, _)| path.next());
        let rows: Vec<(Path, Vec<u8>)> =
            page.rows.into_iter().filter(|(path, _)| wanted(path)).map(|(path, row)| (path, row.value)).collect();
        count += rows.len() as u64;
        write(to, rows, Vec::new()).await?;
        match next {
            Some(next) if page.more => range.start = next,
            _ => return Ok(count),
        }
    }
}

/// Checks that `to` has the same rows as `from`, and no others.
async fn compare(from: &dyn Snapshot, to: &dyn Store, wanted: fn(&Path) -> bool) -> Result<(), Error> {
    let mut range = Range { start: everything(), end: None, limit: COPY_ROWS, keys_only: false };
    loop {
        let page = from.range(range.clone()).await?;
        let next = page.rows.last().map(|(path, _)| path.next()).filter(|_| page.more);
        let copied = rows_until(to, range.start, next.clone()).await?;
        let same = |((path, row), (copied_path, copied)): ((Path, Versioned), (Path, Versioned))| {
            path == copied_path && row.value == copied.value
        };
        let rows: Vec<_> = page.rows.into_iter().filter(|(path, _)| wanted(path)).collect();
        if rows.len() != copied.len() || !rows.into_iter().zip(copied).all(same) {
            return Err(differs());
        }
        match next {
            Some(next) => range.start = next,
            None => return Ok(()),
        }
    }
}

/// The rows from `start` up to, but without, `end`; more than wanted if there are too many.
async fn rows_until(store: &dyn Store, mut start: Path, end: Option<Path>) -> Result<Vec<(Path, Versioned)>, Error> {
    let mut rows = Vec::new();
    loop {
        let range = Range { start, end: end.clone(), limit: COPY_ROWS, keys_only: false };
        let page = store.range(range, Read::Fresh).await?;
        rows.extend(page.rows);
        match rows.last() {
            Some((last, _)) if page.more && rows.len() <= COPY_ROWS => start = last.next(),
            _ => return Ok(rows),
        }
    }
}

/// Copies these rows as they are now.
async fn copy_rows(
    from: &dyn Store,
    to: &dyn Store,
    wanted: fn(&Path) -> bool,
    paths: BTreeSet<Path>,
) -> Result<(), Error> {
    let paths: Vec<Path> = paths.into_iter().filter(wanted).collect();
    for part in paths.chunks(COPY_ROWS) {
        let rows = from.get_many(part, Read::Fresh).await?;
        let (mut put, mut delete) = (Vec::new(), Vec::new());
        for (path, row) in part.iter().zip(rows) {
            match row {
                Some(row) => put.push((path.clone(), row.value)),
                None => delete.push(path.clone()),
            }
        }
        write(to, put, delete).await?;
    }
    Ok(())
}

/// Writes rows, in transactions of the size that every store takes.
async fn write(to: &dyn Store, put: Vec<(Path, Vec<u8>)>, delete: Vec<Path>) -> Result<(), Error> {
    let first = Txn { delete, room: Room::Reserved, ..Txn::default() };
    let mut bytes = first.bytes();
    let mut txns = vec![first];
    for (path, value) in put {
        let length = path.as_bytes().len() + value.len();
        if bytes + length > STORE_TXN_MAX_BYTES {
            txns.push(Txn::default());
            bytes = 0;
        }
        bytes += length;
        if let Some(txn) = txns.last_mut() {
            txn.put.push((path, value));
        }
    }
    txns.retain(|txn| !(txn.put.is_empty() && txn.delete.is_empty()));
    if txns.is_empty() {
        return Ok(());
    }
    let outcomes = to.commit(txns).await?;
    if outcomes.iter().all(|outcome| matches!(outcome, Outcome::Committed(_))) {
        return Ok(());
    }
    // One that is applied late could put an older row in the place of a newer one.
    Err(Error::Unavailable("The new store did not confirm a write. Nothing was done; try again.".into()))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use pollster::block_on;

    use super::*;
    use crate::runtime::BoxFuture;
    use crate::sim::SimStore;

    fn path(text: impl AsRef<[u8]>) -> Path {
        Path(text.as_ref().into())
    }

    fn put(store: &SimStore, at: &str, value: &str) {
        let txn = Txn { put: vec![(path(at), value.into())], ..Txn::default() };
        assert!(matches!(block_on(store.commit(vec![txn])).unwrap()[..], [Outcome::Committed(_)]));
    }

    fn remove(store: &SimStore, at: &str) {
        block_on(store.commit(vec![Txn { delete: vec![path(at)], ..Txn::default() }])).unwrap();
    }

    fn all(_: &Path) -> bool {
        true
    }

    /// Lets the test write to the original each time the copy writes.
    fn between(to: &SimStore, act: impl Fn(usize) + Send + Sync + 'static) {
        let calls = std::sync::atomic::AtomicUsize::new(0);
        to.delay(move || -> BoxFuture<'static, ()> {
            act(calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
            Box::pin(poll_fn(|_| Poll::Ready(())))
        });
    }

    #[test]
    fn what_is_written_and_removed_while_the_copy_runs_is_in_it() {
        let (from, to) = (Arc::new(SimStore::new(1)), Arc::new(SimStore::new(2)));
        for at in 0..1_000 {
            put(&from, &format!("row/{at:04}"), "first");
        }
        let writer = from.clone();
        between(&to, move |call| {
            if call < 20 {
                put(&writer, &format!("row/{:04}", call * 7), &format!("second {call}"));
                put(&writer, &format!("new/{call}"), "new");
                remove(&writer, &format!("row/{:04}", call * 11 + 1));
            }
        });
        let copy = block_on(Copy::begin(from.clone(), to.clone(), all)).unwrap();
        to.no_delay();
        put(&from, "row/0500", "last");
        remove(&from, "row/0501");
        let (revision, rows) = block_on(copy.finish()).unwrap();
        assert_eq!(revision, block_on(newest(&*from)).unwrap());
        assert!(rows >= 1_000);
        assert_eq!(from.raw_rows(), to.raw_rows());
        assert!(from.raw_rows().iter().any(|(_, value)| value == b"second 3"), "rows were changed meanwhile");
    }

    #[test]
    fn rows_that_are_not_wanted_are_left_out() {
        let (from, to) = (Arc::new(SimStore::new(1)), Arc::new(SimStore::new(2)));
        put(&from, "fence/a", "x");
        put(&from, "row", "y");
        let copy = block_on(Copy::begin(from.clone(), to.clone(), |path| !path.as_bytes().starts_with(b"fence/")));
        put(&from, "fence/b", "x");
        block_on(copy.unwrap().finish()).unwrap();
        assert_eq!(to.raw_rows(), [(path("row"), b"y".to_vec())]);
    }

    #[test]
    fn a_copy_that_differs_is_refused() {
        let (from, to) = (Arc::new(SimStore::new(1)), Arc::new(SimStore::new(2)));
        put(&from, "row", "x");
        // A row that nobody copied.
        put(&to, "stray", "x");
        assert!(block_on(Copy::begin(from.clone(), to.clone(), all)).is_err());
        let to = Arc::new(SimStore::new(2));
        to.lose_answers(1);
        assert!(block_on(Copy::begin(from.clone(), to.clone(), all)).is_err(), "a write was not confirmed");
    }

    #[test]
    fn large_rows_are_split_over_transactions() {
        let (from, to) = (Arc::new(SimStore::new(1)), Arc::new(SimStore::new(2)));
        let large = "x".repeat(casemate_api::limits::STORE_VALUE_MAX_BYTES);
        for at in 0..5 {
            put(&from, &format!("row/{at}"), &large);
        }
        block_on(block_on(Copy::begin(from.clone(), to.clone(), all)).unwrap().finish()).unwrap();
        assert_eq!(from.raw_rows(), to.raw_rows());
    }
}
