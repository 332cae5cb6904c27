//! One table of the shared store: typed rows, sealed in the store and cached in memory.
//!
//! Every value is sealed with AES-256-GCM (NIST SP 800-38D) under a key derived for its path alone, with the path as
//! associated data. So rows cannot be swapped, and few random nonces are used per key. A stored value is
//! `format ‖ version ‖ nonce ‖ ciphertext ‖ tag` (1, 8, 12, any, 16 bytes); format and version are associated data too.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_api::limits::{LIST_PAGE_ROWS, STORE_TXN_MAX_OPS};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use zeroize::Zeroizing;

use crate::crypto::seal;
use crate::crypto::secret::{DomainKey, StoreKey};
use crate::error::Error;
use crate::rows::confirm::{Confirmation, Freshness};
use crate::rows::encoding::BadRecord;
use crate::rows::path::{RowPath, RowPrefix, generation_pointer};
use crate::rows::record::Record;
use crate::runtime::lifetime::Closed;
use crate::runtime::tally::Tally;
use crate::runtime::{BoxFuture, First, Rng, first};
use crate::store::{Path, Range, Read, Revision, Store, StoreError, Versioned};

/// The only format of a sealed value so far.
const SEALED_V1: u8 = 1;
const HEADER_BYTES: usize = 9;
/// Bytes that sealing adds to a record: header, nonce and tag.
pub(crate) const SEALED_EXTRA_BYTES: usize = HEADER_BYTES + 12 + 16;

/// Seals a value for `path`. `seen` is the newest revision that its writer has read; it becomes the version in the header.
pub fn seal_row(key: &StoreKey, path: &Path, seen: Revision, plain: &[u8], rng: &dyn Rng) -> Vec<u8> {
    let mut header = [0; HEADER_BYTES];
    let (format, version) = header.split_at_mut(1);
    format.copy_from_slice(&[SEALED_V1]);
    version.copy_from_slice(&seen.0.to_be_bytes());
    let row_key = seal::derive(key.expose(), &[path.as_bytes()]);
    let mut value = header.to_vec();
    value.extend(seal::seal(row_key.expose(), &row_aad(path, &header), plain, rng));
    value
}

/// Opens what [`seal_row`] sealed for the same path.
///
/// # Errors
/// [`BadRecord`] if the value is too short, has an unknown format, or was sealed for another path or under another key.
pub fn open_row(key: &StoreKey, path: &Path, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, BadRecord> {
    let (header, sealed) = value.split_at_checked(HEADER_BYTES).ok_or(BadRecord("it is too short"))?;
    if header.first() != Some(&SEALED_V1) {
        return Err(BadRecord("its format is of a newer version"));
    }
    let row_key = seal::derive(key.expose(), &[path.as_bytes()]);
    seal::open(row_key.expose(), &row_aad(path, header), sealed).map_err(|_| BadRecord("its seal does not hold"))
}

fn row_aad(path: &Path, header: &[u8]) -> Vec<u8> {
    let mut aad = path.as_bytes().to_vec();
    aad.extend_from_slice(header);
    aad
}

/// An opened row.
pub struct Row<R> {
    /// The content.
    pub record: R,
    /// The revision of the transaction that wrote it. Guards compare it.
    pub revision: Revision,
}

/// A row in the cache.
struct Cached<R> {
    row: Arc<Row<R>>,
    /// If the row was replaced: the revision that did it. Then it is never returned, and only kept so that the new record
    /// can reuse parts of it.
    replaced: Option<Revision>,
}

impl<R> Clone for Cached<R> {
    fn clone(&self) -> Self {
        Self { row: self.row.clone(), replaced: self.replaced }
    }
}

#[derive(Clone)]
struct ByWeight;

impl<R: Record> Weighter<Path, Cached<R>> for ByWeight {
    fn weight(&self, path: &Path, cached: &Cached<R>) -> u64 {
        cached.row.record.weight() + path.as_bytes().len() as u64 + 96
    }
}

/// Counts the moments at which all cached rows became invalid, because it is unknown what was written: a commit whose answer
/// was lost, or a watch that was interrupted. Each table empties its cache when it sees a new number.
#[derive(Clone, Default)]
pub struct CacheEpoch(Arc<AtomicU64>);

impl CacheEpoch {
    /// Invalidates everything that is cached now.
    pub fn advance(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn number(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What all tables of one generation share.
#[derive(Clone)]
pub struct TableContext {
    /// The store of the rows.
    pub store: Arc<dyn Store>,
    /// Generates nonces.
    pub rng: Arc<dyn Rng>,
    /// Makes the tables refuse everything once closed.
    pub closed: Closed,
    /// Invalidates the caches.
    pub epoch: CacheEpoch,
    /// Tells whether cached rows may be used.
    pub confirmation: Arc<Confirmation>,
    /// The revision of the generation pointer while this generation is the current one. `None`: only this process moves it, and
    /// closes the tables when it does.
    pub pointer: Option<Revision>,
}

impl TableContext {
    /// Reads one row from the store.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if another node has replaced the data, so that the row is an old one; the store's errors.
    pub(super) async fn read(&self, path: &Path) -> Result<Option<Versioned>, Error> {
        let Some(current) = self.pointer else { return Ok(self.store.get(path, Read::Fresh).await?) };
        let paths = [generation_pointer(), path.clone()];
        let mut rows = self.ask(|read| self.store.get_many(&paths, read)).await?.into_iter();
        match (rows.next().flatten(), rows.next()) {
            (Some(pointer), Some(row)) if pointer.revision == current => Ok(row),
            _ => Err(replaced()),
        }
    }

    /// Calls the store, as the confirmation says how.
    async fn ask<'a, T: Send>(
        &self,
        call: impl Fn(Read) -> BoxFuture<'a, Result<T, StoreError>> + Send + Sync,
    ) -> Result<T, Error> {
        if let Freshness::FreshFor(time) = self.confirmation.freshness() {
            let mut over = self.confirmation.sleep(time);
            match first(call(Read::Fresh), &mut over).await {
                // A majority may be there again before the time is over.
                First::Left(Err(error)) if error.is_away() => over.await,
                First::Left(answer) => return Ok(answer?),
                First::Right(()) => {}
            }
        }
        if self.confirmation.freshness() != Freshness::Own {
            return Ok(call(Read::Fresh).await?);
        }
        let answer = call(Read::Local).await?;
        self.check_copy().await?;
        // The answer may have taken long: until after the limit, or until there was a majority again.
        if self.confirmation.freshness() == Freshness::Own { Ok(answer) } else { Ok(call(Read::Fresh).await?) }
    }

    /// Checks that what this node's own copy told before this call was not older than its last confirmation, and not replaced then.
    async fn check_copy(&self) -> Result<(), Error> {
        let pointer = Range { keys_only: true, ..Range::prefix(&generation_pointer(), 1) };
        let page = self.store.range(pointer, Read::Local).await?;
        if !self.confirmation.covers(page.revision) {
            return Err(StoreError::NoMajority.into());
        }
        let found = page.rows.first().map(|(_, row)| row.revision);
        if found == self.pointer { Ok(()) } else { Err(replaced()) }
    }

    /// Reads rows from the store, in the order of `paths`. Not all of them are of one moment.
    ///
    /// # Errors
    /// As for [`TableContext::read`].
    async fn read_many(&self, paths: &[Path]) -> Result<Vec<Option<Versioned>>, Error> {
        let mut rows = Vec::with_capacity(paths.len());
        for part in paths.chunks(STORE_TXN_MAX_OPS) {
            rows.extend(self.ask(|read| self.store.get_many(part, read)).await?);
        }
        self.check_pointer().await?;
        Ok(rows)
    }

    /// Checks that what was read before this call was not of replaced data.
    ///
    /// # Errors
    /// As for [`TableContext::read`].
    pub(super) async fn check_pointer(&self) -> Result<(), Error> {
        if self.pointer.is_some() {
            self.read(&generation_pointer()).await?;
        }
        Ok(())
    }
}

/// The rows are of a generation that is no longer the current one, or of a store that is no longer the one.
pub(super) fn replaced() -> Error {
    Error::Unavailable("The HSM's data was replaced by a restore, or moved to another store. Try again.".into())
}

/// The key that seals the rows of one table.
pub struct RowKey<R> {
    key: StoreKey,
    record: PhantomData<fn() -> R>,
}

/// A sealed row that is not stored yet.
#[derive(Clone)]
pub struct SealedRow {
    pub(super) path: Path,
    pub(super) value: Vec<u8>,
}

impl SealedRow {
    /// Length of the sealed value in bytes.
    pub fn value_bytes(&self) -> usize {
        self.value.len()
    }

    /// Path and value as a store takes them.
    pub fn into_parts(self) -> (Path, Vec<u8>) {
        (self.path, self.value)
    }
}

impl<R: Record> RowKey<R> {
    /// Derives the key of the table of `R` from the Domain Key (HKDF, RFC 5869).
    pub fn of(domain: &DomainKey) -> Self {
        Self::from(seal::derive(domain.expose(), &[b"shared store", &[R::TABLE as u8]]))
    }

    /// Seals `record` for `path`. `seen` is the newest revision that its writer has read.
    pub fn seal(&self, path: &RowPath<R>, seen: Revision, record: &R, rng: &dyn Rng) -> SealedRow {
        let value = seal_row(&self.key, path.path(), seen, &record.encode(), rng);
        SealedRow { path: path.path().clone(), value }
    }

    /// Opens what [`RowKey::seal`] sealed for the same path.
    ///
    /// # Errors
    /// [`Error::Internal`] if the value does not open or is not a valid record.
    pub fn open(&self, path: &Path, value: &[u8]) -> Result<R, Error> {
        let read = || R::decode(&open_row(&self.key, path, value)?);
        read().map_err(|why| Error::internal(format!("row {}: {why}", path.as_bytes().escape_ascii())))
    }
}

impl<R> From<StoreKey> for RowKey<R> {
    fn from(key: StoreKey) -> Self {
        Self { key, record: PhantomData }
    }
}

/// One table of the shared store.
pub struct Table<R> {
    context: TableContext,
    key: RowKey<R>,
    /// The epoch at which the cache was last emptied.
    epoch: AtomicU64,
    cache: Cache<Path, Cached<R>, ByWeight>,
    /// Changes per stripe of paths. A reader that fetched a row before a change must not cache it after the change.
    changes: [Mutex<u64>; STRIPES],
    hits: Tally,
    misses: Tally,
}

/// Statistics of one table's cache since the phase began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheFigures {
    /// Name of the table.
    pub table: &'static str,
    /// Rows in the cache.
    pub entries: u64,
    /// Approximate memory use, in bytes.
    pub bytes: u64,
    /// Reads answered from the cache.
    pub hits: u64,
    /// Reads that went to the store.
    pub misses: u64,
}

const STRIPES: usize = 64;

impl<R: Record> Table<R> {
    /// A table whose values are sealed under `key`. It caches rows of up to `cache_bytes` bytes in all.
    pub fn new(context: TableContext, key: RowKey<R>, cache_bytes: u64) -> Self {
        Self {
            key,
            epoch: AtomicU64::new(context.epoch.number()),
            context,
            cache: Cache::with_weighter(4096, cache_bytes, ByWeight),
            changes: [const { Mutex::new(0) }; STRIPES],
            hits: Tally::default(),
            misses: Tally::default(),
        }
    }

    /// The row at `path`, from the cache if possible. `None` if it does not exist.
    pub async fn get(&self, path: &RowPath<R>) -> Result<Option<Arc<Row<R>>>, Error> {
        self.context.closed.check()?;
        // Asked before the epoch is looked at: a confirmation that is seen here implies the epochs that began before it.
        let confirmed = self.context.confirmation.allows_cached();
        self.follow_epoch();
        let path = path.path();
        if let (Some(Cached { row, replaced: None }), true) = (self.cache.get(path), confirmed) {
            self.hits.add();
            return Ok(Some(row));
        }
        self.misses.add();
        self.fetch(path).await
    }

    /// Reads a row from the store, and keeps it in the cache.
    async fn fetch(&self, path: &Path) -> Result<Option<Arc<Row<R>>>, Error> {
        let before = *self.stripe(path);
        let Some(found) = self.context.read(path).await? else {
            // The row may have been moved here and removed before the move reached the cache. Do not keep its remains. Nothing
            // else is touched, as anybody may ask for what does not exist.
            if self.cache.get(path).is_some() {
                self.forget(path);
            }
            return Ok(None);
        };
        let mut row = self.open(path, &found)?;
        let now = self.stripe(path);
        if *now != before {
            if let Some(older) = self.cache.get(path) {
                row.record.reuse_from(&older.row.record);
            }
            return Ok(Some(Arc::new(row)));
        }
        match self.cache.get(path) {
            // Another reader was faster, or the caches are not confirmed. Share that row, so that what is computed from it is
            // computed once.
            Some(Cached { row, replaced: None }) if row.revision >= found.revision => return Ok(Some(row)),
            Some(older) => row.record.reuse_from(&older.row.record),
            None => {}
        }
        let row = Arc::new(row);
        self.cache.insert(path.clone(), Cached { row: row.clone(), replaced: None });
        Ok(Some(row))
    }

    /// The row at `path` as the store has it now, for a refusal: one must not be given because a change made at another node has
    /// not reached this one's cache yet. On a store that nobody else writes to the cache is always right. A row that has not
    /// changed stays cached: who is refused over and over makes nothing slow for others.
    pub async fn refresh(&self, path: &RowPath<R>) -> Result<Option<Arc<Row<R>>>, Error> {
        if self.context.pointer.is_none() {
            return self.get(path).await;
        }
        self.context.closed.check()?;
        self.follow_epoch();
        self.fetch(path.path()).await
    }

    /// The row at `path`, read from the store and not from the cache: for read-modify-write.
    pub async fn read(&self, path: &RowPath<R>) -> Result<Option<Row<R>>, Error> {
        self.context.closed.check()?;
        let found = self.context.read(path.path()).await?;
        found.map(|found| self.open(path.path(), &found)).transpose()
    }

    /// The rows at `paths`, each as [`Table::get`] gives it, in as few calls of the store as possible. Does not fill the cache.
    pub async fn get_many(&self, paths: &[RowPath<R>]) -> Result<Vec<Option<Arc<Row<R>>>>, Error> {
        self.context.closed.check()?;
        let confirmed = self.context.confirmation.allows_cached();
        self.follow_epoch();
        let cached = |path: &RowPath<R>| match self.cache.get(path.path()) {
            Some(Cached { row, replaced: None }) if confirmed => Some(row),
            _ => None,
        };
        let mut rows: Vec<Option<Arc<Row<R>>>> = paths.iter().map(cached).collect();
        let missing = || rows.iter().zip(paths).filter(|(row, _)| row.is_none()).map(|(_, path)| path.clone());
        let mut found = self.read_many(&missing().collect::<Vec<_>>()).await?.into_iter();
        for row in rows.iter_mut().filter(|row| row.is_none()) {
            *row = found.next().flatten().map(Arc::new);
        }
        Ok(rows)
    }

    /// The rows at `paths`, each as [`Table::read`] gives it, in as few calls of the store as possible.
    pub async fn read_many(&self, paths: &[RowPath<R>]) -> Result<Vec<Option<Row<R>>>, Error> {
        self.context.closed.check()?;
        let paths: Vec<Path> = paths.iter().map(|path| path.path().clone()).collect();
        let found = self.context.read_many(&paths).await?;
        let open = |(path, row): (&Path, Option<Versioned>)| row.map(|row| self.open(path, &row)).transpose();
        paths.iter().zip(found).map(open).collect()
    }

    /// Whether there is a row at each of `paths`, as of one moment. Reads no row.
    pub async fn exist(&self, paths: &[RowPath<R>]) -> Result<Vec<bool>, Error> {
        self.context.closed.check()?;
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        if self.context.confirmation.freshness() == Freshness::Own {
            // A snapshot is of a revision that a majority has confirmed.
            let paths: Vec<_> = paths.iter().map(|path| path.path().clone()).collect();
            return Ok(self.context.read_many(&paths).await?.iter().map(Option::is_some).collect());
        }
        let one = |path: &RowPath<R>| Range {
            start: path.path().clone(),
            end: Some(path.path().next()),
            limit: 1,
            keys_only: true,
        };
        let ranges: Vec<_> = paths.iter().map(one).collect();
        let snapshot = self.context.store.snapshot().await?;
        let mut found = Vec::with_capacity(paths.len());
        for part in ranges.chunks(STORE_TXN_MAX_OPS) {
            found.extend(snapshot.ranges(part).await?.iter().map(|page| !page.rows.is_empty()));
        }
        self.context.check_pointer().await?;
        Ok(found)
    }

    /// One page of the paths that start with `prefix`, in order and after `after`, and whether more follow.
    pub async fn paths(
        &self,
        prefix: &RowPrefix<R>,
        after: Option<&RowPath<R>>,
    ) -> Result<(Vec<RowPath<R>>, bool), Error> {
        self.context.closed.check()?;
        let start = match after {
            Some(after) if after.path() >= prefix.path() => after.path().next(),
            Some(_) | None => prefix.path().clone(),
        };
        let range = Range { start, end: prefix.path().after_prefix(), limit: LIST_PAGE_ROWS, keys_only: true };
        let page = self.context.ask(|read| self.context.store.range(range.clone(), read)).await?;
        self.context.check_pointer().await?;
        Ok((page.rows.into_iter().map(|(path, _)| RowPath::found(path)).collect(), page.more))
    }

    /// Seals `record` for `path`, for a transaction. `seen` is the newest revision that its writer has read.
    pub fn sealed(&self, path: &RowPath<R>, seen: Revision, record: &R) -> Result<SealedRow, Error> {
        self.context.closed.check()?;
        Ok(self.key.seal(path, seen, record, &*self.context.rng))
    }

    /// Removes a row from the cache because it was deleted. The next reader asks the store.
    pub(super) fn forget(&self, path: &Path) {
        let mut changes = self.stripe(path);
        *changes += 1;
        self.cache.remove(path);
    }

    /// Invalidates a row that the transaction `at` replaced. The next reader asks the store, and reuses what it can of the old
    /// row. The new row is not cached here, because two writers may get here in another order than their commits had.
    pub(super) fn replaced(&self, path: &Path, at: Revision) {
        let mut changes = self.stripe(path);
        *changes += 1;
        if let Some((_, older)) = self.cache.remove(path) {
            self.keep_for_reuse(path, older, at);
        }
    }

    /// Invalidates a row that the transaction `at` moved, and keeps the old row at `to` for reuse. If the row at `to` was removed
    /// or moved again before this call, what is kept there is never returned; it goes at the next read of that path, by the
    /// size limit of the cache, or with the phase.
    pub(super) fn moved(&self, from: &Path, to: &Path, at: Revision) {
        let older = {
            let mut changes = self.stripe(from);
            *changes += 1;
            self.cache.remove(from)
        };
        let mut changes = self.stripe(to);
        *changes += 1;
        self.cache.remove(to);
        if let Some((_, older)) = older {
            self.keep_for_reuse(to, older, at);
        }
    }

    /// Invalidates a row that the store's watch reports as changed by the transaction `at`. A cached row of that revision or a
    /// later one stays.
    pub(super) fn reported(&self, path: &Path, at: Revision) {
        let mut changes = self.stripe(path);
        *changes += 1;
        if self.cache.get(path).is_some_and(|cached| cached.replaced.unwrap_or(cached.row.revision) < at)
            && let Some((_, older)) = self.cache.remove(path)
        {
            // It may be this process's own write whose commit has not returned yet, so the old row is kept for reuse.
            self.keep_for_reuse(path, older, at);
        }
    }

    /// Keeps a replaced row for reuse, if records of this type support it. The caller holds the lock of the path's stripe.
    fn keep_for_reuse(&self, path: &Path, older: Cached<R>, at: Revision) {
        if R::REUSES_OLDER {
            self.cache.insert(path.clone(), Cached { replaced: Some(at), ..older });
        }
    }

    /// Statistics of the cache; `table` becomes the name in them.
    pub fn cache_figures(&self, table: &'static str) -> CacheFigures {
        CacheFigures {
            table,
            entries: self.cache.len() as u64,
            bytes: self.cache.weight(),
            hits: self.hits.sum(),
            misses: self.misses.sum(),
        }
    }

    /// Empties the cache.
    pub fn clear(&self) {
        for stripe in &self.changes {
            *stripe.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        self.cache.clear();
    }

    /// Empties the cache if a new epoch has begun.
    fn follow_epoch(&self) {
        let now = self.context.epoch.number();
        if self.epoch.load(Ordering::SeqCst) != now {
            // Cleared first and recorded second: a concurrent reader rather clears once more than reads a stale row.
            self.clear();
            self.epoch.store(now, Ordering::SeqCst);
        }
    }

    fn open(&self, path: &Path, found: &Versioned) -> Result<Row<R>, Error> {
        Ok(Row { record: self.key.open(path, &found.value)?, revision: found.revision })
    }

    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the length")]
    fn stripe(&self, path: &Path) -> MutexGuard<'_, u64> {
        let sum = path.as_bytes().iter().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(usize::from(*b)));
        self.changes[sum % STRIPES].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a row was changed.
#[derive(Clone, Copy)]
pub(super) enum RowChange {
    Removed,
    /// By a transaction of this process.
    Replaced(Revision),
    /// By anybody, as the store's watch reports.
    Reported(Revision),
}

impl RowChange {
    pub(super) fn apply<R: Record>(self, table: &Table<R>, path: &Path) {
        match self {
            RowChange::Removed => table.forget(path),
            RowChange::Replaced(at) => table.replaced(path, at),
            RowChange::Reported(at) => table.reported(path, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::certificate::CertificateRecord;
    use crate::rows::namespace::NamespaceRecord;

    use crate::rows::tls_identity::TlsIdentity;
    use crate::sim::SimStore;
    use crate::store::{Outcome, Txn};
    use base16ct::lower::encode_string as hex;

    struct Fixed;
    impl Rng for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0x55);
        }
    }

    fn context(store: Arc<SimStore>, closed: Closed) -> TableContext {
        TableContext {
            store,
            rng: Arc::new(Fixed),
            closed,
            epoch: CacheEpoch::default(),
            confirmation: Confirmation::always().into(),
            pointer: None,
        }
    }

    fn key(byte: u8) -> StoreKey {
        StoreKey::new([byte; 32])
    }

    #[test]
    fn the_sealed_form_of_version_1_does_not_change() {
        let path = Path(Box::from(b"path".as_slice()));
        let sealed = seal_row(&key(1), &path, Revision(7), b"plain", &Fixed);
        assert_eq!(hex(&sealed), include_str!("../../testdata/formats/sealed-v1.hex").trim());
        assert_eq!(*open_row(&key(1), &path, &sealed).unwrap(), b"plain");
    }

    #[test]
    fn a_row_opens_only_where_it_was_sealed_and_as_it_was() {
        let (path, other) = (Path(Box::from(b"a".as_slice())), Path(Box::from(b"b".as_slice())));
        let sealed = seal_row(&key(1), &path, Revision(7), b"plain", &Fixed);
        assert!(open_row(&key(1), &other, &sealed).is_err());
        assert!(open_row(&key(2), &path, &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open_row(&key(1), &path, &changed).is_err(), "byte {at}");
            assert!(open_row(&key(1), &path, &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn small_records_keep_their_form() {
        assert_eq!(hex(&NamespaceRecord::new(3).encode()), "0100000003");
        assert_eq!(hex(&CertificateRecord(vec![0xaa]).encode()), "01aa");
        let count = crate::rows::counter::CounterRecord { count: 258 };
        assert_eq!(hex(&count.encode()), "010000000000000102");
        let tls = TlsIdentity { private_key: Zeroizing::new(vec![1, 2]), chain: vec![vec![3], vec![4]] };
        assert_eq!(hex(&tls.encode()), "010000000201020000000200000001030000000104");
        assert_eq!(TlsIdentity::decode(&tls.encode()).unwrap().chain, tls.chain);
    }

    #[test]
    fn a_row_read_before_a_change_is_not_cached_after_it() {
        let id = casemate_api::NamespaceId::parse("ns").unwrap();
        let path = RowPath::namespace(1, &id);
        let store = Arc::new(SimStore::new(1));
        let table: Table<NamespaceRecord> =
            Table::new(context(store.clone(), Closed::default()), RowKey::from(key(1)), 1 << 20);
        let write = |number| {
            let record = NamespaceRecord::new(number);
            let put = vec![table.sealed(&path, Revision::default(), &record).unwrap().into_parts()];
            let outcome = pollster::block_on(store.commit(vec![Txn { put, ..Txn::default() }])).unwrap();
            assert!(matches!(outcome[..], [Outcome::Committed(_)]));
        };
        write(1);
        // The change comes between reading the store and inserting into the cache.
        let before = *table.stripe(path.path());
        write(2);
        table.replaced(path.path(), Revision(2));
        assert_ne!(*table.stripe(path.path()), before);
        let row = pollster::block_on(table.get(&path)).unwrap().unwrap();
        assert_eq!(row.record.number, 2);
    }

    #[test]
    fn nothing_cached_outlives_a_write_of_unknown_outcome() {
        let path = RowPath::namespace(1, &casemate_api::NamespaceId::parse("ns").unwrap());
        let store = Arc::new(SimStore::new(1));
        let epoch = CacheEpoch::default();
        let context = TableContext { epoch: epoch.clone(), ..context(store.clone(), Closed::default()) };
        let table: Table<NamespaceRecord> = Table::new(context, RowKey::from(key(1)), 1 << 20);
        let write = |number| {
            let put =
                vec![table.sealed(&path, Revision::default(), &NamespaceRecord::new(number)).unwrap().into_parts()];
            pollster::block_on(store.commit(vec![Txn { put, ..Txn::default() }])).unwrap();
        };
        let number = || pollster::block_on(table.get(&path)).unwrap().unwrap().record.number;
        write(1);
        assert_eq!(number(), 1);
        write(2);
        assert_eq!(number(), 1, "the cache was not told");
        epoch.advance();
        assert_eq!(number(), 2);
    }

    #[test]
    fn a_row_misses_the_cache_once() {
        let path = RowPath::namespace(1, &casemate_api::NamespaceId::parse("ns").unwrap());
        let store = Arc::new(SimStore::new(1));
        let table: Table<NamespaceRecord> =
            Table::new(context(store.clone(), Closed::default()), RowKey::from(key(1)), 1 << 20);
        let put = vec![table.sealed(&path, Revision::default(), &NamespaceRecord::new(1)).unwrap().into_parts()];
        pollster::block_on(store.commit(vec![Txn { put, ..Txn::default() }])).unwrap();
        for _ in 0..3 {
            pollster::block_on(table.get(&path)).unwrap().unwrap();
        }
        let figures = table.cache_figures("namespaces");
        assert_eq!((figures.entries, figures.hits, figures.misses), (1, 2, 1));
        assert!(figures.bytes > 0);
    }

    #[test]
    fn a_closed_table_answers_nothing() {
        let closed = Closed::default();
        let store = Arc::new(SimStore::new(1));
        let table: Table<NamespaceRecord> = Table::new(context(store, closed.clone()), RowKey::from(key(1)), 1 << 20);
        let path = RowPath::namespace(1, &casemate_api::NamespaceId::parse("ns").unwrap());
        assert!(pollster::block_on(table.get(&path)).unwrap().is_none());
        closed.close();
        assert!(pollster::block_on(table.get(&path)).is_err());
        assert!(table.sealed(&path, Revision::default(), &NamespaceRecord::new(1)).is_err());
    }
}
