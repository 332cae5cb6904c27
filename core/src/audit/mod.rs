//! The audit log: who did what, where, and what came of it, in records of which each holds the hash of the one before.
//!
//! One writer owns the chain. A change of an administrator is written down before it is carried out, and its outcome
//! behind it; many at once share a write to the disk. Refusals are written without anybody waiting for it, and only
//! counted when they are many. The use of keys is not written down. Records stay on the device, sealed like everything in the local store;
//! what leaves it is signed. No record holds anything of a body or of a passphrase.

mod chain;
mod checkpoint;
mod flood;
mod record;
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
use futures_channel::oneshot;

use chain::{Chain, Due, Entry, Head, stored_checkpoint, stored_record};
use checkpoint::AuditKey;
pub use checkpoint::{Checkpoint, Ends, PublicKey, Signature, header, public_key_from_pem};
use flood::Flood;
use record::plain;
pub use record::{Event, Hash, Kind, Record, is_plain, reason};

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
    /// Whether the last write failed: that is said once, not each second.
    failing: AtomicBool,
    /// When the last hourly checkpoint was looked after, as monotonic milliseconds.
    looked_ms: AtomicU64,
}

/// What a test makes smaller.
struct Bounds {
    records_max: u64,
    checkpoint_records: u64,
}

/// The time of an event, as its record spells it.
#[derive(Clone)]
struct Time {
    text: String,
}

/// Who asks for what.
pub struct Act {
    /// Who, if they were believed.
    pub user: Option<UserId>,
    /// The client's address.
    pub address: IpAddr,
    /// Method and path of the row of the endpoint table.
    pub endpoint: String,
    /// The path with its ids as they were sent; empty if there are none.
    pub target: String,
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
    /// The log as it is stored; a new one on a new device.
    pub async fn open(device: Arc<Device>) -> Result<Self, Error> {
        let key = AuditKey::load(&device.store, &*device.platform.rng).await?;
        let head = Head::load(&device.store).await?;
        let looked_ms = AtomicU64::new(millis(device.platform.clock.monotonic()));
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
            looked_ms,
        })
    }

    /// Writes down that somebody is about to change something. It is durable when this returns the record's number;
    /// `Unavailable` if it could not be written: then the change must not happen.
    pub async fn intent(&self, act: &Act) -> Result<u64, Error> {
        self.record(act.event(Kind::Intent)).await
    }

    /// The same for what must be possible even when nothing can be written; waits for two seconds at most.
    pub async fn intent_if_possible(&self, act: &Act) -> Option<u64> {
        let mut sequence = None;
        let intent = async { sequence = self.intent(act).await.ok() };
        race(intent, self.clock.sleep(Duration::from_millis(AUDIT_PATIENCE_MS))).await;
        if sequence.is_none() {
            tracing::error!(target: "audit", endpoint = act.endpoint, "this is carried out without a record of its intent");
        }
        sequence
    }

    /// Writes down what came of an act, soon. `detail` is where a thing was created.
    pub fn outcome(&self, act: &Act, intent: Option<u64>, status: u16, detail: &str) {
        let event = act.event(Kind::Outcome);
        let reason = reason(status).into();
        self.note(Event { of: intent.unwrap_or(0), status, reason, detail: plain(detail), ..event });
    }

    /// Writes down a refusal, soon, or counts it when they are many.
    pub fn refusal(&self, address: IpAddr, status: u16, act: impl FnOnce() -> Act) {
        let address = address.to_canonical();
        if !self.flood().itemises(self.clock.monotonic(), address, status) {
            return;
        }
        if self.waiting().len() >= AUDIT_WAITING_MAX {
            return self.flood().count(None, status);
        }
        self.note(Event { status, reason: reason(status).into(), ..act().event(Kind::Refusal) });
    }

    /// Writes down that the HSM booted, and to which state.
    pub async fn booted(&self, state: State) {
        let detail = env!("CARGO_PKG_VERSION").to_owned();
        self.note(Event { state: format!("{state:?}"), detail, ..Event::new(Kind::Boot) });
        self.flush().await;
    }

    /// Writes down that the HSM is now in another state, soon.
    pub fn entered(&self, state: State) {
        self.note(Event { state: format!("{state:?}"), ..Event::new(Kind::State) });
    }

    /// Writes down that the HSM is about to enter another state. It is durable when this returns; `Unavailable` if it
    /// could not be written: then the state must not be entered.
    pub async fn entering(&self, state: State) -> Result<(), Error> {
        self.record(Event { state: format!("{state:?}"), ..Event::new(Kind::State) }).await.map(drop)
    }

    /// Writes down that the HSM stops in good order, and everything that waits.
    pub async fn stop(&self) {
        self.count_out();
        self.note(Event::new(Kind::Stop));
        self.flush().await;
    }

    /// What is to be done once a second: writes what nobody waits for, and a checkpoint each hour.
    pub async fn tick(&self) {
        let now = self.clock.monotonic();
        let counted = self.flood().ended(now);
        counted.into_iter().for_each(|event| self.note(event));
        let hourly = millis(now).saturating_sub(self.looked_ms.load(Ordering::Relaxed)) >= AUDIT_CHECKPOINT_MS;
        if hourly {
            self.looked_ms.store(millis(now), Ordering::Relaxed);
        }
        let due = if hourly { Due::Now } else { Due::Counted };
        let written = self.write_all(due).await;
        self.say(&written);
    }

    /// Writes everything that waits.
    pub async fn flush(&self) {
        let written = self.write_all(Due::Counted).await;
        self.say(&written);
    }

    fn say(&self, written: &Result<(), Error>) {
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

    /// Begins an export of the records `from` to `to`; without them from the first, to the last. `Invalid` if the log
    /// does not hold them.
    pub async fn export(&self, from: Option<u64>, to: Option<u64>) -> Result<Export, Error> {
        self.count_out();
        // What cannot be written now must not keep anybody from reading what was.
        if let Err(error) = self.write_all(Due::Counted).await {
            tracing::error!(target: "audit", %error, "the newest records are not in this export of the audit log");
        }
        let head = self.chain.lock().await.head.clone();
        let (from, to) = (from.unwrap_or(head.first), to.unwrap_or(head.sequence));
        if from < head.first || to > head.sequence || from > to {
            let held = format!("The log holds the records {} to {}.", head.first, head.sequence);
            return Err(Error::invalid(match from > to {
                true if to >= head.first && from <= head.sequence => "from must not be greater than to.".to_owned(),
                _ => held,
            }));
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

    /// The next lines of an export; none behind its end. The last of them is a fresh checkpoint.
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
            // A row that does not open is left out: who verifies the export learns which one is missing.
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

    /// Writes one record; its number when it is durable.
    async fn record(&self, event: Event) -> Result<u64, Error> {
        let unwritten = || Error::Unavailable("The audit log cannot be written. Check the log and the disk.".into());
        let (done, mut written) = oneshot::channel();
        self.waiting().push_back(Entry { time: self.now(), event, keep: false, done: Some(done) });
        let mut chain = self.chain.lock().await;
        loop {
            // Whoever held the chain before may have written ours, too.
            match written.try_recv() {
                Ok(Some(sequence)) => return Ok(sequence),
                Err(oneshot::Canceled) => return Err(unwritten()),
                Ok(None) => {}
            }
            let written = self.write(&mut chain, Due::Counted).await;
            self.say(&written);
        }
    }

    async fn write_all(&self, due: Due) -> Result<(), Error> {
        let mut chain = self.chain.lock().await;
        // One look first: whoever waits from now on writes for themselves.
        let groups = self.waiting().len();
        self.write(&mut chain, due).await?;
        let mut left = groups;
        while left > 0 && !self.waiting().is_empty() {
            left = left.saturating_sub(1);
            self.write(&mut chain, due).await?;
        }
        Ok(())
    }

    /// Queues an event that nobody waits for.
    fn note(&self, event: Event) {
        let mut waiting = self.waiting();
        if waiting.len() >= 2 * AUDIT_WAITING_MAX {
            drop(waiting);
            self.lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!(target: "audit", kind = event.kind.as_str(), endpoint = event.endpoint, user = event.user,
                status = event.status, "too much waits for the audit log: this event is not recorded");
            return;
        }
        waiting.push_back(Entry { time: self.now(), event, keep: true, done: None });
    }

    /// Queues what was counted in the window that still runs.
    fn count_out(&self) {
        let counted = self.flood().drain();
        counted.into_iter().for_each(|event| self.note(event));
    }

    /// At most `limit` of what waits.
    fn take(&self, limit: usize) -> Vec<Entry> {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let mut waiting = self.waiting();
        if lost > 0 {
            let event = Event { count: lost, ..Event::new(Kind::Lost) };
            waiting.push_back(Entry { time: self.now(), event, keep: true, done: None });
        }
        let count = waiting.len().min(limit);
        waiting.drain(..count).collect()
    }

    /// Takes back what was not written, for the next try.
    fn give_back(&self, entries: Vec<Entry>) {
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

/// An export on its way.
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

/// Records of one page.
const PAGE: u64 = LIST_PAGE_ROWS as u64;

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
