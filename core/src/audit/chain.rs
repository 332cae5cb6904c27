//! The head of the chain, and the only code that extends it.
//!
//! The holder of the chain writes all that is queued in one transaction: records, the new head, and a checkpoint if one
//! is due. If the outcome of a write is unknown, because its answer was lost or its request was abandoned, the head is
//! read again before anything else is written, so that no number is used twice.
//!
//! This file is the writing part of [`Audit`]; it and the parent module use each other.

use base16ct::lower::encode_string as hex;
use casemate_api::limits::STORE_TXN_MAX_OPS;
use casemate_audit::{Checkpoint, Ends, Event, Hash, Kind, Record, Signature};
use futures_channel::oneshot;

use super::{Audit, Time};
use crate::Error;
use crate::device::store::{DeviceStore, DeviceStoreChange};
use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::DevicePath;

/// The bounds of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Number of the last record; 0 if there is none.
    pub(super) sequence: u64,
    /// Hash of the last record; zeros if there is none.
    pub(super) hash: Hash,
    /// Number of the first record that is kept.
    pub(super) first: u64,
    /// Hash of the record before the first.
    pub(super) previous: Hash,
    /// Number of the record that the last checkpoint is about.
    pub(super) checkpoint: u64,
}

impl Default for Head {
    fn default() -> Self {
        Self { sequence: 0, hash: [0; 32], first: 1, previous: [0; 32], checkpoint: 0 }
    }
}

impl Head {
    fn encode(&self) -> Vec<u8> {
        let writer = Writer::new(1).u64(self.sequence).raw(&self.hash).u64(self.first).raw(&self.previous);
        writer.u64(self.checkpoint).finish().to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let (sequence, hash) = (reader.u64()?, reader.array()?);
        let head = Self { sequence, hash, first: reader.u64()?, previous: reader.array()?, checkpoint: reader.u64()? };
        reader.end()?;
        Ok(head)
    }

    /// Reads the stored head; the default if there is none.
    pub(super) async fn load(local: &DeviceStore) -> Result<Self, Error> {
        let damaged = |why: BadRecord| Error::internal(format!("the head of the audit log: {why}"));
        let stored = local.get(DevicePath::AuditHead).await?;
        stored.map_or(Ok(Self::default()), |bytes| Self::decode(&bytes).map_err(damaged))
    }

    /// Appends a record to the chain and to `change`.
    fn append(&mut self, change: DeviceStoreChange, time: &Time, event: &Event) -> DeviceStoreChange {
        let record = Record { sequence: self.sequence + 1, time: time.text.clone(), event: event.clone() };
        self.hash = record.hash(&self.hash);
        self.sequence = record.sequence;
        change.put(DevicePath::AuditRecord(record.sequence), [&self.hash[..], &record.encode()].concat())
    }
}

/// A stored record and its hash.
pub(super) fn stored_record(row: &[u8]) -> Result<(Hash, Record), BadRecord> {
    let (hash, encoded) = row.split_first_chunk().ok_or(BadRecord("it is too short"))?;
    Ok((*hash, Record::decode(encoded).map_err(BadRecord)?))
}

/// A queued event.
pub(super) struct Entry {
    pub(super) time: Time,
    pub(super) event: Event,
    /// Whether it stays queued if it could not be written. An event that a request waits for does not: the request has
    /// been answered.
    pub(super) keep: bool,
    /// Sends the record's number to the request that waits; dropped if it was not written.
    pub(super) done: Option<oneshot::Sender<u64>>,
}

/// The head of the chain, and the write whose outcome is unknown.
pub(super) struct Chain {
    pub(super) head: Head,
    /// A write whose outcome is unknown: the head it would have made, and its entries.
    unconfirmed: Option<(Head, Vec<Entry>)>,
}

/// When a checkpoint is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// If enough records have come since the last one.
    Counted,
    /// Now, if there are any new records.
    Now,
}

/// Records of one write; the transaction also has the head and a checkpoint.
const GROUP: usize = STORE_TXN_MAX_OPS - 2;

impl Chain {
    pub(super) fn new(head: Head) -> Self {
        Self { head, unconfirmed: None }
    }

    fn confirm(&mut self) {
        let Some((head, entries)) = self.unconfirmed.take() else { return };
        for (sequence, entry) in (self.head.sequence + 1..).zip(entries) {
            // The request may have been abandoned.
            let _ = entry.done.map(|done| done.send(sequence));
        }
        self.head = head;
    }
}

impl Audit {
    /// Determines the outcome of the last write.
    async fn settle(&self, chain: &mut Chain) -> Result<(), Error> {
        if chain.unconfirmed.is_none() {
            return Ok(());
        }
        self.device.store.settle().await?;
        let stored = Head::load(&self.device.store).await?;
        match &chain.unconfirmed {
            Some((head, _)) if *head == stored => chain.confirm(),
            _ if stored == chain.head => {
                if let Some((_, entries)) = chain.unconfirmed.take() {
                    self.requeue(entries);
                }
            }
            _ => return Err(Error::internal("the head of the audit log was changed by somebody else")),
        }
        Ok(())
    }

    /// Writes one group of queued entries, and a checkpoint if it is due.
    pub(super) async fn write(&self, chain: &mut Chain, due: Due) -> Result<(), Error> {
        if let Err(error) = self.settle(chain).await {
            // No request waits for a store that cannot be reached.
            let entries = self.take_queued(usize::MAX);
            self.requeue(entries);
            return Err(error);
        }
        let entries = self.take_queued(GROUP);
        let mut head = chain.head.clone();
        let append = |change, entry: &Entry| head.append(change, &entry.time, &entry.event);
        let change = entries.iter().fold(DeviceStoreChange::default(), append);
        let fresh = head.sequence - head.checkpoint;
        let signs = fresh >= self.bounds.checkpoint_records || (due == Due::Now && fresh > 0);
        let (change, signed) = match signs {
            true => self.with_checkpoint(change, &mut head).map(|(change, signed)| (change, Some(signed)))?,
            false => (change, None),
        };
        if head == chain.head {
            return Ok(());
        }
        let change = change.put(DevicePath::AuditHead, head.encode());
        chain.unconfirmed = Some((head, entries));
        let wanted = chain.unconfirmed.as_ref().map(|(head, _)| head.sequence);
        match self.device.store.commit(change).await {
            Ok(()) => chain.confirm(),
            Err(error) => {
                if self.settle(chain).await.is_err()
                    && let Some((_, entries)) = &mut chain.unconfirmed
                {
                    entries.iter_mut().for_each(|entry| entry.done = None);
                }
                // If the stored head is the new one, only the answer was lost.
                if wanted != Some(chain.head.sequence) {
                    return Err(error);
                }
            }
        }
        // Logged only once it is durable: a log server must never hold a history that the device does not have.
        if let Some((checkpoint, signature)) = signed {
            let Checkpoint { first, last, time, .. } = &checkpoint;
            tracing::info!(target: "audit", first, last, time, hash = hex(&checkpoint.hash), device = self.device.id,
                signature = hex(&signature), "checkpoint of the audit log");
        }
        if signs && let Err(error) = self.prune(chain, fresh).await {
            tracing::error!(target: "audit", %error, "old records of the audit log could not be removed");
        }
        Ok(())
    }

    fn with_checkpoint(
        &self,
        change: DeviceStoreChange,
        head: &mut Head,
    ) -> Result<(DeviceStoreChange, (Checkpoint, Signature)), Error> {
        head.checkpoint = head.sequence;
        let checkpoint = self.checkpoint(head, head.sequence, head.hash, Ends::Nothing);
        let signature = self.key.sign(&checkpoint)?;
        let row = Writer::new(1).u64(checkpoint.first).u64(checkpoint.last).bytes(checkpoint.time.as_bytes());
        let row = row.raw(&checkpoint.hash).raw(&signature).finish();
        let change = change.put(DevicePath::AuditCheckpoint(head.sequence), row.to_vec());
        Ok((change, (checkpoint, signature)))
    }

    /// Removes the oldest records beyond the limit. If the disk is nearly full, removes as many as have come since the
    /// last checkpoint (`fresh`), so that the log does not use up the room for deletions and unlocking. The head with
    /// the new beginning is written first, then the rows are removed; if a crash interrupts that, the next pruning
    /// finishes it.
    async fn prune(&self, chain: &mut Chain, fresh: u64) -> Result<(), Error> {
        let head = &chain.head;
        let beyond = head.sequence.saturating_sub(self.bounds.records_max);
        let through = match self.device.store.is_nearly_full() {
            // Never removes the records since the last checkpoint.
            true => beyond.max((head.first + fresh - 1).min(head.sequence.saturating_sub(fresh))),
            false => beyond,
        };
        if through < head.first {
            return Ok(());
        }
        let row = self.device.store.get(DevicePath::AuditRecord(through)).await?;
        let (previous, _) = row
            .ok_or_else(|| Error::internal(format!("record {through} of the audit log is missing")))
            .and_then(|row| stored_record(&row).map_err(|why| Error::internal(why.to_string())))?;
        let event = Event { of: through, detail: hex(&previous), ..Event::new(Kind::Pruned) };
        let entry = Entry { time: self.now(), event, keep: false, done: None };
        let mut head = Head { first: through + 1, previous, ..head.clone() };
        let change = head.append(DeviceStoreChange::default(), &entry.time, &entry.event);
        let change = change.put(DevicePath::AuditHead, head.encode());
        chain.unconfirmed = Some((head, vec![entry]));
        self.device.store.commit(change).await?;
        chain.confirm();
        self.device.store.sweep(DevicePath::AuditRecord(0), DevicePath::AuditRecord(chain.head.first)).await?;
        self.device.store.sweep(DevicePath::AuditCheckpoint(0), DevicePath::AuditCheckpoint(chain.head.first)).await
    }

    /// The checkpoint about the record `sequence` with the hash `hash`, with the time of now.
    pub(super) fn checkpoint(&self, head: &Head, sequence: u64, hash: Hash, ends: Ends) -> Checkpoint {
        let (time, device) = (self.now().text, self.device.id.clone());
        Checkpoint { sequence, hash, first: head.first, last: head.sequence, time, device, ends }
    }
}

/// A stored checkpoint as a line of an export; `None` if it is malformed.
pub(super) fn stored_checkpoint(row: &[u8], sequence: u64, device: &str) -> Option<String> {
    let (_, mut reader) = Reader::open(row).ok().filter(|(version, _)| *version == 1)?;
    let (first, last) = (reader.u64().ok()?, reader.u64().ok()?);
    let (time, hash) = (reader.text().ok()?, reader.array().ok()?);
    let signature = reader.array().ok()?;
    let device = device.to_owned();
    Some(Checkpoint { sequence, hash, first, last, time, device, ends: Ends::Nothing }.line(&signature))
}
