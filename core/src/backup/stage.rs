//! Staging of a backup's entries: rows of a generation that nobody reads, until the whole file has been verified and
//! the Domain Key that opens them is available.
//!
//! They are sealed under a key of this device and bound to their generation, path and part, because the store is not
//! trusted and an entry of NetHSM's format is bound to its path only. So they are of no use to other nodes: where nodes share
//! a store, the entries are in the device's own one.

use std::collections::BTreeMap;
use std::sync::Arc;

use casemate_api::limits::{
    BACKUP_PAGE_ROWS, LIST_PAGE_ROWS, RESTORE_GROUP_BYTES, RESTORE_GROUP_ROWS, RESTORE_PART_BYTES, STORE_TXN_MAX_OPS,
};
use zeroize::Zeroizing;

use crate::crypto::secret::StoreKey;
use crate::device::Device;
use crate::error::Error;
use crate::platform::Platform;
use crate::rows::cluster_id::ClusterId;
use crate::rows::fence::Fence;
use crate::rows::path::{
    DevicePath, Generation, RowPath, RowPrefix, generation_pointer, generation_prefix, highest_generation,
};
use crate::rows::staged::{StagedPart, staged_name};
use crate::rows::table::{RowKey, SealedRow};
use crate::runtime::witness;
use crate::store::settle::{Repeatable, Settled, Unsettled};
use crate::store::{Expect, Outcome, Path, Range, Read, Revision, Store, StoreError, Txn};

/// Reads the current generation, `None` before there is one, and the condition that writes put on its pointer.
pub(crate) async fn pointer(platform: &Platform) -> Result<(Option<Generation>, Expect), Error> {
    let Some(row) = platform.store.get(&generation_pointer(), Read::Fresh).await? else {
        return Ok((None, Expect::Absent));
    };
    let number = <[u8; 4]>::try_from(row.value.as_slice()).map(Generation::from_be_bytes);
    let number = number.map_err(|_| Error::internal("the generation pointer is damaged"))?;
    Ok((Some(number), Expect::At(row.revision)))
}

/// What every write of one attempt at a restore expects, so that none of them takes effect after the attempt is over.
#[derive(Clone)]
pub(crate) struct Guards {
    pointer: Expect,
    /// On a store that others share: this device's fence for restores. Every attempt, and every clearing up, takes it anew.
    fence: Option<(Path, Expect)>,
}

/// The store that entries are staged in, and whether the nodes share it.
fn staging_store(platform: &Platform) -> (&Arc<dyn Store>, bool) {
    // With a store of its own, a device has the users and keys in it, and the staged entries beside them.
    match platform.store.is_shared() {
        true => (&platform.local, false),
        false => (&platform.store, true),
    }
}

impl Guards {
    fn all(&self) -> Vec<(Path, Expect)> {
        std::iter::once((generation_pointer(), self.pointer)).chain(self.fence.clone()).collect()
    }
}

/// Begins an attempt: makes sure that nothing an earlier one of this device has sent is still applied, and reads the current
/// generation; `None` before there is one.
pub(crate) async fn begin(device: &Device) -> Result<(Option<Generation>, Guards), Error> {
    let Platform { store, rng, .. } = &device.platform;
    let fence = match store.is_shared() {
        true => Some(Fence::take(store.clone(), rng.clone(), &format!("{}/restore", device.id)).await?.guard()),
        false => None,
    };
    let (current, pointer) = pointer(&device.platform).await?;
    Ok((current, Guards { pointer, fence }))
}

/// Takes a number for a generation to stage entries in; the number after it is for the rows that are made of them. No other
/// restore, at any node, gets the same numbers, also if this one never ends.
pub(crate) async fn take_generation(platform: &Platform, current: Option<Generation>) -> Result<Generation, Error> {
    let exhausted = || Error::internal("all numbers of generations are used up");
    let current = current.unwrap_or(0);
    if !platform.store.is_shared() {
        return current.checked_add(1).ok_or_else(exhausted);
    }
    let path = highest_generation();
    let row = platform.store.get(&path, Read::Fresh).await?;
    let highest = match &row {
        None => 0,
        Some(row) => row.value.first_chunk().map(|number| Generation::from_be_bytes(*number)).ok_or_else(exhausted)?,
    };
    let staged = highest.max(current).checked_add(1).ok_or_else(exhausted)?;
    let converted = staged.checked_add(1).ok_or_else(exhausted)?;
    // Random bytes tell this write from those of others.
    let mut value = [0; 20];
    platform.rng.fill(&mut value);
    value.iter_mut().zip(converted.to_be_bytes()).for_each(|(byte, digit)| *byte = digit);
    match Repeatable::replace(path, row.map(|row| row.revision), value.to_vec()).commit(&*platform.store).await {
        Ok(Settled::Committed(_)) => Ok(staged),
        Ok(Settled::Conflict) => {
            Err(Error::Unavailable("A restore was begun at another node at the same time. Try again.".into()))
        }
        Err(Unsettled::NotBegun(error)) => Err(error.into()),
        Err(Unsettled::Unknown) => Err(unconfirmed()),
    }
}

/// Makes `to` the current generation if the pointer still is as expected. This single write makes a restore take effect. On a
/// shared store without a generation it founds the cluster that the device has noted.
pub(crate) async fn move_pointer(device: &Device, guards: &Guards, to: Generation) -> Moved {
    let Device { platform, store: local, .. } = device;
    let found = match guards.pointer {
        Expect::Absent => None,
        Expect::At(revision) => Some(revision),
    };
    let mut moving = Repeatable::replace(generation_pointer(), found, to.to_be_bytes().to_vec());
    if let Some((path, expect)) = guards.fence.clone() {
        moving = moving.expect(path, expect);
    }
    if found.is_none() && platform.store.is_shared() {
        let cluster = match local.get(DevicePath::Cluster).await {
            Ok(cluster) => cluster.and_then(|bytes| ClusterId::from_bytes(&bytes)),
            Err(why) => return Moved::No(why),
        };
        let Some(cluster) = cluster else { return Moved::No(Error::internal("the cluster has no id")) };
        let (path, value) = cluster.row();
        moving = moving.expect(path.clone(), Expect::Absent).put(path, value);
    }
    match moving.commit(&*platform.store).await {
        Ok(Settled::Committed(revision)) => {
            witness::note(revision.0);
            Moved::Yes
        }
        Ok(Settled::Conflict) => Moved::No(unconfirmed()),
        Err(Unsettled::NotBegun(
            why @ (StoreError::Busy | StoreError::Held | StoreError::Full | StoreError::TooLarge),
        )) => Moved::No(why.into()),
        Err(Unsettled::NotBegun(why)) if platform.store.is_shared() => Moved::No(why.into()),
        // A store of this process may have failed while it wrote.
        Err(Unsettled::NotBegun(why)) => Moved::Perhaps(why.into()),
        Err(Unsettled::Unknown) => Moved::Perhaps(unconfirmed()),
    }
}

/// Whether the pointer was moved.
pub(crate) enum Moved {
    /// It was moved.
    Yes,
    /// It was not moved.
    No(Error),
    /// The outcome is unknown.
    Perhaps(Error),
}

impl Moved {
    /// The result for callers that read the pointer again whenever it is not certain that it moved.
    pub(crate) fn or_error(self) -> Result<(), Error> {
        match self {
            Moved::Yes => Ok(()),
            Moved::No(why) | Moved::Perhaps(why) => Err(why),
        }
    }
}

/// Removes what earlier restores left behind: the rows of all other generations than the current one. On a shared store those
/// of higher ones may belong to a restore at another node, so of them only the generation `own` and the one after it go, which
/// a restore of this device has taken. Rows of lower ones can be used by nobody: everything that is read or written refers to
/// the pointer.
pub(crate) async fn sweep(device: &Device, own: Option<Generation>) -> Result<(), Error> {
    let (current, guards) = begin(device).await?;
    let store = &*device.platform.store;
    let first = current.map_or(0, |current| current.saturating_add(1));
    let all = Some(Path(Box::from([2])));
    if let Some(current) = current {
        remove(store, &guards.all(), generation_prefix(0), Some(generation_prefix(current))).await?;
    }
    if !store.is_shared() {
        return remove(store, &guards.all(), generation_prefix(first), all).await;
    }
    remove(&*device.platform.local, &[], generation_prefix(0), all).await?;
    for generation in own.into_iter().flat_map(|own| [own, own.saturating_add(1)]).filter(|own| *own >= first) {
        sweep_generation(store, &guards, generation).await?;
    }
    Ok(())
}

/// Removes every row of one generation.
pub(crate) async fn sweep_generation(store: &dyn Store, guards: &Guards, generation: Generation) -> Result<(), Error> {
    let begin = generation_prefix(generation);
    let end = begin.after_prefix();
    remove(store, &guards.all(), begin, end).await
}

async fn remove(store: &dyn Store, expect: &[(Path, Expect)], start: Path, end: Option<Path>) -> Result<(), Error> {
    loop {
        let range = Range { start: start.clone(), end: end.clone(), limit: LIST_PAGE_ROWS, keys_only: true };
        let page = store.range(range, Read::Fresh).await?;
        let paths: Vec<Path> = page.rows.into_iter().map(|(path, _)| path).collect();
        let txn = |delete: &[Path]| Txn { expect: expect.to_vec(), delete: delete.to_vec(), ..Txn::default() };
        let txns: Vec<Txn> = paths.chunks(STORE_TXN_MAX_OPS - expect.len()).map(txn).collect();
        if txns.is_empty() {
            return Ok(());
        }
        confirmed(store.commit(txns).await?)?;
    }
}

/// Whether all transactions were applied. An unknown outcome is not an error: the caller reads or writes again.
fn confirmed(outcomes: Vec<Outcome>) -> Result<Applied, Error> {
    let mut settled = Applied::All;
    for outcome in outcomes {
        match outcome {
            Outcome::Committed(_) => {}
            Outcome::Unknown => settled = Applied::Perhaps,
            Outcome::Conflict(_) => {
                return Err(Error::Unavailable("The HSM's data was replaced meanwhile. Try again.".into()));
            }
        }
    }
    Ok(settled)
}

#[derive(PartialEq, Eq)]
enum Applied {
    All,
    Perhaps,
}

fn unconfirmed() -> Error {
    Error::Unavailable("The store did not confirm the change. Try again.".into())
}

/// Collects rows for a generation that nobody reads, and writes them in groups.
pub(crate) struct Batch {
    store: Arc<dyn Store>,
    expect: Vec<(Path, Expect)>,
    rows: BTreeMap<Path, Vec<u8>>,
    bytes: usize,
}

impl Batch {
    /// An empty batch for the store of users and keys.
    pub(crate) fn new(platform: &Platform, guards: &Guards) -> Self {
        Self { store: platform.store.clone(), expect: guards.all(), rows: BTreeMap::new(), bytes: 0 }
    }

    /// An empty batch for entries to stage.
    fn staging(platform: &Platform, guards: &Guards) -> Self {
        let (store, guarded) = staging_store(platform);
        let expect = if guarded { guards.all() } else { Vec::new() };
        Self { store: store.clone(), expect, rows: BTreeMap::new(), bytes: 0 }
    }

    /// Adds a row. Of two with the same path the later one counts.
    pub(crate) async fn put(&mut self, row: SealedRow) -> Result<(), Error> {
        let (path, value) = row.into_parts();
        self.bytes += path.as_bytes().len() + value.len();
        self.rows.insert(path, value);
        if self.rows.len() >= RESTORE_GROUP_ROWS || self.bytes >= RESTORE_GROUP_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes the remaining rows; durable when this returns.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        self.bytes = 0;
        let expect = &self.expect;
        let mut txns = Vec::new();
        let mut txn = Txn { expect: expect.clone(), ..Txn::default() };
        let mut txn_bytes = 0;
        for (path, value) in std::mem::take(&mut self.rows) {
            let too_many = txn.put.len() + expect.len() >= STORE_TXN_MAX_OPS;
            if !txn.put.is_empty() && (too_many || txn_bytes + value.len() > RESTORE_PART_BYTES) {
                txns.push(std::mem::replace(&mut txn, Txn { expect: expect.clone(), ..Txn::default() }));
                txn_bytes = 0;
            }
            txn_bytes += value.len();
            txn.put.push((path, value));
        }
        if !txn.put.is_empty() {
            txns.push(txn);
        }
        for _ in 0..ATTEMPTS {
            // Writing the same rows again does no harm.
            if confirmed(self.store.commit(txns.clone()).await?)? == Applied::All {
                return Ok(());
            }
        }
        Err(unconfirmed())
    }
}

/// Number of attempts to write rows while the outcome is unknown.
const ATTEMPTS: usize = 4;

/// Writes the entries of a backup to their generation.
pub(crate) struct Staging {
    device: Arc<Device>,
    key: RowKey<StagedPart>,
    /// The generation that they are written to.
    pub(crate) generation: Generation,
    batch: Batch,
}

/// The key of this device that seals staged entries.
fn key(device: &Device) -> RowKey<StagedPart> {
    RowKey::from(StoreKey::new(*device.store.staged.expose()))
}

impl Staging {
    pub(crate) fn new(device: Arc<Device>, generation: Generation, guards: &Guards) -> Self {
        let batch = Batch::staging(&device.platform, guards);
        Self { key: key(&device), device, generation, batch }
    }

    /// Adds an entry, split into parts if its value is long.
    pub(crate) async fn add(&mut self, path: &str, value: &[u8]) -> Result<(), Error> {
        let empty: &[u8] = &[];
        let parts: Vec<&[u8]> = if value.is_empty() { vec![empty] } else { value.chunks(RESTORE_PART_BYTES).collect() };
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        for (number, part) in (0..).zip(parts) {
            let row = RowPath::staged(self.generation, path, number);
            let part = StagedPart { count, bytes: Zeroizing::new(part.to_vec()) };
            let sealed = self.key.seal(&row, Revision::default(), &part, &*self.device.platform.rng);
            self.batch.put(sealed).await?;
        }
        Ok(())
    }

    /// Writes the remaining entries; durable when this returns.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        self.batch.flush().await
    }
}

/// One staged entry: its path in the backup, and its value as the backup had it.
pub(crate) type Staged = (String, Zeroizing<Vec<u8>>);

/// One page of the entries of `generation` whose paths start with `prefix`, after the path `after`; and the path where
/// it ends if there may be more.
pub(crate) async fn page(
    device: &Device,
    generation: Generation,
    prefix: &str,
    after: Option<&str>,
) -> Result<(Vec<Staged>, Option<String>), Error> {
    let ((store, _), key) = (staging_store(&device.platform), key(device));
    let mut range = Range::prefix(RowPrefix::staged(generation, prefix).path(), BACKUP_PAGE_ROWS);
    if let Some(after) = after {
        range.start = RowPath::staged(generation, after, u32::MAX).path().next();
    }
    let found = store.range(range, Read::Fresh).await?;
    let mut entries: Vec<Staged> = Vec::new();
    for (row, stored) in &found.rows {
        let Some((path, 0)) = staged_name(row) else { continue };
        let StagedPart { count, bytes: mut value } = key.open(row, &stored.value)?;
        for number in 1..count {
            let row = RowPath::staged(generation, path, number);
            let missing = || Error::internal("a part of a staged entry is missing");
            let stored = store.get(row.path(), Read::Fresh).await?.ok_or_else(missing)?;
            value.extend_from_slice(&key.open(row.path(), &stored.value)?.bytes);
        }
        entries.push((path.to_owned(), value));
    }
    let end = entries.last().filter(|_| found.more).map(|(path, _)| path.clone());
    Ok((entries, end))
}

/// Reads one staged entry of a single part; `None` if there is none.
pub(crate) async fn entry(
    device: &Device,
    generation: Generation,
    path: &str,
) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let row = RowPath::staged(generation, path, 0);
    let (store, _) = staging_store(&device.platform);
    let Some(stored) = store.get(row.path(), Read::Fresh).await? else { return Ok(None) };
    match key(device).open(row.path(), &stored.value)? {
        StagedPart { count: 1, bytes } => Ok(Some(bytes)),
        _ => Err(Error::internal("a small staged entry has more than one part")),
    }
}
