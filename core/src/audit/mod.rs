//! The audit log: records of who did what, on which endpoint, with which outcome. Each record includes the hash of the
//! one before.
//!
//! One writer at a time extends the chain (`chain.rs`). An administrative change is recorded before it is carried out (its intent),
//! and its outcome afterwards; concurrent ones share a write to the disk. Refusals are recorded without making anybody
//! wait, and only counted if there are many. The use of keys is not recorded. Records stay on the device, sealed like
//! everything in the local store; exports are signed. No record holds any part of a body or of a passphrase.

mod chain;
mod flood;
mod key;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use casemate_api::limits::{
    AUDIT_CHECKPOINT_MS, AUDIT_CHECKPOINT_RECORDS, AUDIT_PATIENCE_MS, AUDIT_RECORDS_MAX, AUDIT_WAITING_MAX,
    LIST_PAGE_ROWS,
};
use casemate_api::{State, UserId};
use casemate_audit::{Ends, Event, Hash, Kind, header, plain, reason};
use futures_channel::oneshot;

use chain::{Chain, Due, Entry, Head, stored_checkpoint, stored_record};
use flood::Flood;
use key::AuditKey;

use crate::device::Device;
use crate::error::Error;
use crate::rows::path::DevicePath;
use crate::runtime::Clock;
use crate::runtime::pool::race;

/// The audit log of one device.
pub struct Audit {
    device: Arc<Device>,
    clock: Arc<dyn Clock>,
    key: AuditKey,
    bounds: Bounds,
    waiting: Mutex<VecDeque<Entry>>,
    flood: Mutex<Flood>,
    lost: AtomicU64,
    chain: async_lock::Mutex<Chain>,
    /// Whether the last write failed, so that it is logged once and not each second.
    failing: AtomicBool,
    /// When an hourly checkpoint was last due, in monotonic milliseconds.
    checkpoint_ms: AtomicU64,
}

/// Limits that tests make smaller.
struct Bounds {
    records_max: u64,
    checkpoint_records: u64,
}

/// The time of an event, in the form of its record: RFC 3339, UTC, milliseconds.
#[derive(Clone)]
struct Time {
    text: String,
}

/// A request, as far as the audit log records it.
pub struct Act {
    /// The user, if authenticated.
    pub user: Option<UserId>,
    /// The client's address.
    pub address: IpAddr,
    /// Method and path in the endpoint table.
    pub endpoint: String,
    /// The path with its ids as sent; empty if the path has no ids.
    pub target: String,
}

/// How an act ended.
#[derive(Clone, Copy, Default)]
pub struct ActOutcome<'a> {
    /// The number of its intent.
    pub intent: Option<u64>,
    /// The HTTP status of the answer.
    pub status: u16,
    /// Where is what was created; else empty.
    pub location: &'a str,
    /// The revision of the shared store at which it was committed; 0 if nothing was.
    pub revision: u64,
}

impl Act {
    fn event(&self, kind: Kind) -> Event {
        Event {
            user: self.user.as_ref().map(|user| plain(&user.to_string())).unwrap_or_default(),
            address: self.address.to_canonical().to_string(),
            endpoint: plain(&self.endpoint),
            target: plain(&self.target),
            ..Event::new(kind)
        }
    }
}

impl Audit {
    /// Opens the stored log; starts a new one on a new device. Fails if the head or the audit key is damaged.
    pub async fn open(device: Arc<Device>) -> Result<Self, Error> {
        let key = AuditKey::load(&device.store, &*device.platform.rng).await?;
        let head = Head::load(&device.store).await?;
        let checkpoint_ms = AtomicU64::new(millis(device.platform.clock.monotonic()));
        Ok(Self {
            clock: device.platform.clock.clone(),
            device,
            key,
            bounds: Bounds { records_max: AUDIT_RECORDS_MAX, checkpoint_records: AUDIT_CHECKPOINT_RECORDS },
            waiting: Mutex::default(),
            flood: Mutex::default(),
            lost: AtomicU64::new(0),
            chain: async_lock::Mutex::new(Chain::new(head)),
            failing: AtomicBool::new(false),
            checkpoint_ms,
        })
    }

    /// Records that a change is about to be carried out, and returns the record's number once it is durable.
    /// `Unavailable` if it could not be written: then the change must not be carried out.
    pub async fn intent(&self, act: &Act) -> Result<u64, Error> {
        self.record(act.event(Kind::Intent)).await
    }

    /// The same for changes that must be possible even when nothing can be written. Waits for at most two seconds;
    /// `None` if there is no record by then.
    pub async fn intent_if_possible(&self, act: &Act) -> Option<u64> {
        let mut sequence = None;
        let intent = async { sequence = self.intent(act).await.ok() };
        race(intent, self.clock.sleep(Duration::from_millis(AUDIT_PATIENCE_MS))).await;
        if sequence.is_none() {
            tracing::error!(target: "audit", endpoint = act.endpoint, "the change is carried out without a record of its intent");
        }
        sequence
    }

    /// Queues the outcome of an act.
    pub fn outcome(&self, act: &Act, outcome: &ActOutcome<'_>) {
        let ActOutcome { intent, status, location, revision } = *outcome;
        let (of, reason, detail) = (intent.unwrap_or(0), reason(status).into(), plain(location));
        self.enqueue(Event { of, status, reason, detail, revision, ..act.event(Kind::Outcome) });
    }

    /// Queues a record of a refusal, or only counts it if there are many.
    pub fn refusal(&self, address: IpAddr, status: u16, act: impl FnOnce() -> Act) {
        let address = address.to_canonical();
        if !self.flood().itemises(self.clock.monotonic(), address, status) {
            return;
        }
        if self.waiting().len() >= AUDIT_WAITING_MAX {
            return self.flood().count(None, status);
        }
        self.enqueue(Event { status, reason: reason(status).into(), ..act().event(Kind::Refusal) });
    }

    /// Records that the HSM booted, and in which state it is; returns when it is written or has failed.
    pub async fn booted(&self, state: State) {
        let detail = env!("CARGO_PKG_VERSION").to_owned();
        self.enqueue(Event { state: format!("{state:?}"), detail, ..Event::new(Kind::Boot) });
        self.flush().await;
    }

    /// Queues a record that the HSM has entered another state.
    pub fn entered(&self, state: State) {
        self.enqueue(Event { state: format!("{state:?}"), ..Event::new(Kind::State) });
    }

    /// Queues a record that the HSM, which is in this state, `begins` or `ends` to serve what it knows without a majority.
    pub fn without_majority(&self, state: State, what: &str) {
        let state = format!("{state:?}");
        self.enqueue(Event { state, detail: format!("without a majority: {what}"), ..Event::new(Kind::State) });
    }

    /// Records that the HSM is about to enter another state; durable when this returns. `Unavailable` if it could not
    /// be written: then the state must not be entered.
    pub async fn entering(&self, state: State) -> Result<(), Error> {
        self.record(Event { state: format!("{state:?}"), ..Event::new(Kind::State) }).await.map(drop)
    }

    /// Records an orderly stop, and writes everything that is queued.
    pub async fn stop(&self) {
        self.queue_counts();
        self.enqueue(Event::new(Kind::Stop));
        self.flush().await;
    }

    /// To be called once a second: writes what is queued, and a checkpoint each hour.
    pub async fn tick(&self) {
        let now = self.clock.monotonic();
        let counted = self.flood().ended(now);
        counted.into_iter().for_each(|event| self.enqueue(event));
        let hourly = millis(now).saturating_sub(self.checkpoint_ms.load(Ordering::Relaxed)) >= AUDIT_CHECKPOINT_MS;
        if hourly {
            self.checkpoint_ms.store(millis(now), Ordering::Relaxed);
        }
        let due = if hourly { Due::Now } else { Due::Counted };
        let written = self.write_all(due).await;
        self.log_failure(&written);
    }

    /// Writes everything that is queued.
    pub async fn flush(&self) {
        let written = self.write_all(Due::Counted).await;
        self.log_failure(&written);
    }

    fn log_failure(&self, written: &Result<(), Error>) {
        let failed_before = self.failing.swap(written.is_err(), Ordering::Relaxed);
        match written {
            Err(error) if !failed_before => {
                tracing::error!(target: "audit", %error, "the audit log cannot be written; no administrative change is carried out");
            }
            Ok(()) if failed_before => tracing::info!(target: "audit", "the audit log can be written again"),
            _ => {}
        }
    }

    /// The public key with which checkpoints are verified, as PEM (RFC 8410).
    pub fn public_key_pem(&self) -> Result<String, Error> {
        self.key.pem()
    }

    /// Begins an export of the records `from` to `to`, by default from the first to the last. `Invalid` if the log does
    /// not hold them all.
    pub async fn export(&self, from: Option<u64>, to: Option<u64>) -> Result<Export, Error> {
        self.queue_counts();
        // If the newest records cannot be written, the older ones can still be read.
        if let Err(error) = self.write_all(Due::Counted).await {
            tracing::error!(target: "audit", %error, "the newest records are not in this export of the audit log");
        }
        let head = self.chain.lock().await.head.clone();
        let (from, to) = (from.unwrap_or(head.first), to.unwrap_or(head.sequence));
        if from < head.first || to > head.sequence || from > to {
            let held = format!("The log holds the records {} to {}.", head.first, head.sequence);
            let field = if to > head.sequence { "to" } else { "from" };
            return Err(Error::invalid_field(
                field,
                match from > to {
                    true if to >= head.first && from <= head.sequence => "from must not be greater than to.".to_owned(),
                    _ => held,
                },
            ));
        }
        let previous = match from == head.first {
            true => head.previous,
            false => self.hash_of(from - 1).await?,
        };
        Ok(Export {
            begun: Some(header(&self.device.id, &self.key.public, from, &previous)),
            next: from,
            to,
            last: previous,
        })
    }

    /// The next lines of an export; `None` after its end. The last line is a new checkpoint.
    pub async fn page(&self, export: &mut Export) -> Result<Option<String>, Error> {
        if export.next > export.to {
            return Ok(None);
        }
        let end = export.to.min(export.next.saturating_add(PAGE - 1)) + 1;
        let limit = LIST_PAGE_ROWS;
        let records =
            self.device.store.page(DevicePath::AuditRecord(export.next), DevicePath::AuditRecord(end), limit).await?;
        let (start, stop) = (DevicePath::AuditCheckpoint(export.next), DevicePath::AuditCheckpoint(end));
        let mut checkpoints = self.device.store.page(start, stop, limit).await?.into_iter().peekable();
        let head = self.chain.lock().await.head.clone();
        if head.first > export.next {
            return Err(Error::Unavailable("These records were removed while they were read. Begin anew.".into()));
        }
        let mut lines = export.begun.take().unwrap_or_default();
        for (path, row) in records {
            // A row that does not open is left out: verifying the export shows which one is missing.
            let Some((hash, record)) = row.and_then(|row| stored_record(&row).ok()) else {
                tracing::error!(target: "audit", row = ?path, "a record of the audit log is damaged");
                continue;
            };
            lines.push_str(&record.line(&hash));
            export.last = hash;
            let of = |path: &crate::store::Path, sequence| *path == DevicePath::AuditCheckpoint(sequence).path();
            while let Some((_, row)) = checkpoints.next_if(|(path, _)| of(path, record.sequence)) {
                let line = row.and_then(|row| stored_checkpoint(&row, record.sequence, &self.device.id));
                lines.push_str(&line.unwrap_or_default());
            }
        }
        export.next = end;
        if end > export.to {
            let checkpoint = self.checkpoint(&head, export.to, export.last, Ends::Export);
            lines.push_str(&checkpoint.line(&self.key.sign(&checkpoint)?));
        }
        Ok(Some(lines))
    }

    async fn hash_of(&self, sequence: u64) -> Result<Hash, Error> {
        let damaged = || Error::internal(format!("record {sequence} of the audit log is missing or damaged"));
        let row = self.device.store.get(DevicePath::AuditRecord(sequence)).await?.ok_or_else(damaged)?;
        stored_record(&row).map(|(hash, _)| hash).map_err(|_| damaged())
    }

    /// Writes one record; returns its number once it is durable.
    async fn record(&self, event: Event) -> Result<u64, Error> {
        let unwritten = || Error::Unavailable("The audit log cannot be written. Check the log and the disk.".into());
        let (done, mut written) = oneshot::channel();
        self.waiting().push_back(Entry { time: self.now(), event, keep: false, done: Some(done) });
        let mut chain = self.chain.lock().await;
        loop {
            // The previous holder of the chain may have written this record as well.
            match written.try_recv() {
                Ok(Some(sequence)) => return Ok(sequence),
                Err(oneshot::Canceled) => return Err(unwritten()),
                Ok(None) => {}
            }
            let written = self.write(&mut chain, Due::Counted).await;
            self.log_failure(&written);
        }
    }

    async fn write_all(&self, due: Due) -> Result<(), Error> {
        let mut chain = self.chain.lock().await;
        // Only what is queued now: requests that come later write their records themselves.
        let groups = self.waiting().len();
        self.write(&mut chain, due).await?;
        let mut left = groups;
        while left > 0 && !self.waiting().is_empty() {
            left = left.saturating_sub(1);
            self.write(&mut chain, due).await?;
        }
        Ok(())
    }

    /// Queues an event that no request waits for.
    fn enqueue(&self, event: Event) {
        let mut waiting = self.waiting();
        if waiting.len() >= 2 * AUDIT_WAITING_MAX {
            drop(waiting);
            self.lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!(target: "audit", kind = event.kind.as_str(), endpoint = event.endpoint, user = event.user,
                status = event.status, "the queue of the audit log is full: this event is not recorded");
            return;
        }
        waiting.push_back(Entry { time: self.now(), event, keep: true, done: None });
    }

    /// Queues the counts of the current window.
    fn queue_counts(&self) {
        let counted = self.flood().drain();
        counted.into_iter().for_each(|event| self.enqueue(event));
    }

    /// Takes at most `limit` entries from the queue.
    fn take_queued(&self, limit: usize) -> Vec<Entry> {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let mut waiting = self.waiting();
        if lost > 0 {
            let event = Event { count: lost, ..Event::new(Kind::Lost) };
            waiting.push_back(Entry { time: self.now(), event, keep: true, done: None });
        }
        let count = waiting.len().min(limit);
        waiting.drain(..count).collect()
    }

    /// Puts entries that were not written back into the queue, for the next attempt.
    fn requeue(&self, entries: Vec<Entry>) {
        let mut waiting = self.waiting();
        for entry in entries.into_iter().rev().filter(|entry| entry.keep) {
            waiting.push_front(entry);
        }
    }

    fn now(&self) -> Time {
        Time { text: format!("{:.3}", self.device.now()) }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flood(&self) -> MutexGuard<'_, Flood> {
        self.flood.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An export in progress.
pub struct Export {
    /// Its first line, until it is written.
    begun: Option<String>,
    next: u64,
    to: u64,
    /// Hash of the last record that was written.
    last: Hash,
}

impl Export {
    /// Whether there are no further lines.
    pub fn is_done(&self) -> bool {
        self.next > self.to
    }
}

/// Records per page of an export.
const PAGE: u64 = LIST_PAGE_ROWS as u64;

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
