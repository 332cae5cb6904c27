//! Verification of an export: every line must be exactly as the HSM writes it, every record must have its number and hash, and
//! every checkpoint a valid signature. The first line that fails is named.

use std::io::{self, BufRead, Read};

use serde::Deserialize;

use crate::checkpoint::{Checkpoint, Ends, PublicKey, Signature, header};
use crate::record::{Event, Hash, Kind, Record, is_plain};

/// Why a file was not accepted.
#[derive(Debug)]
pub enum Broken {
    /// It cannot be read.
    Unreadable(io::Error),
    /// What is altered, missing or moved, and where, as a sentence without the name of the file.
    Log(String),
}

impl From<io::Error> for Broken {
    fn from(why: io::Error) -> Self {
        Broken::Unreadable(why)
    }
}

fn broken<T>(sentence: impl Into<String>) -> Result<T, Broken> {
    Err(Broken::Log(sentence.into()))
}

/// What was verified.
#[derive(Debug)]
pub struct Found {
    /// The number of the first record in the file.
    pub from: u64,
    /// The hash of the record before it; zeros if there is none.
    pub previous: Hash,
    /// The checkpoint that ends the file.
    pub end: Checkpoint,
    /// How many checkpoints it has.
    pub checkpoints: u64,
    /// The key they were made with.
    pub key: PublicKey,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    audit: u64,
    device: String,
    key: String,
    from: u64,
    previous: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine {
    sequence: u64,
    time: String,
    kind: String,
    #[serde(default)]
    of: u64,
    #[serde(default)]
    user: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    endpoint: String,
    #[serde(default)]
    target: String,
    #[serde(default)]
    status: u16,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    count: u64,
    #[serde(default)]
    state: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    revision: u64,
    hash: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    checkpoint: u64,
    first: u64,
    last: u64,
    time: String,
    device: String,
    #[serde(default)]
    ends: String,
    hash: String,
    signature: String,
}

/// Lines of a file, with their numbers.
struct Lines<R> {
    reader: R,
    number: u64,
}

/// Our lines are much shorter.
const LINE_MAX_BYTES: u64 = 64 << 10;

impl<R: BufRead> Lines<R> {
    /// The next line with its line end, or nothing after the last.
    fn next(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        let mut line = Vec::new();
        (&mut self.reader).take(LINE_MAX_BYTES).read_until(b'\n', &mut line)?;
        self.number += 1;
        Ok((!line.is_empty()).then_some(line))
    }

    /// Whether the record `sequence` is somewhere in the rest of the file.
    fn has(&mut self, sequence: u64) -> Result<bool, Broken> {
        let start = format!("{{\"sequence\":{sequence},");
        while let Some(line) = self.next()? {
            if line.starts_with(start.as_bytes()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Reads an export record by record, and verifies it on the way. What was read is only good if its end was reached.
pub struct Verifier<R> {
    lines: Lines<R>,
    /// The id of the device.
    device: String,
    from: u64,
    /// The hash before the first record.
    previous: Hash,
    walk: Walk,
    end: Option<Checkpoint>,
}

impl<R: BufRead> Verifier<R> {
    /// Reads the first line. Its key must be one of `known`, unless that is empty.
    pub fn open(reader: R, known: &[PublicKey]) -> Result<Self, Broken> {
        let mut lines = Lines { reader, number: 0 };
        let first = lines.next()?.unwrap_or_default();
        let Some((head, key, previous)) = parse_header(&first) else {
            return broken("line 1 is not the first line of an export of an audit log, or it was altered");
        };
        if !known.is_empty() && !known.contains(&key) {
            return broken("line 1 has another key than the one given: another device wrote this, or it was altered");
        }
        let HeaderLine { device, from, .. } = head;
        let walk = Walk { from, next: from, hash: previous, agreed: from, checkpoints: 0, key };
        Ok(Self { lines, device, from, previous, walk, end: None })
    }

    /// The key that its checkpoints are signed with.
    pub fn key(&self) -> &PublicKey {
        &self.walk.key
    }

    /// The id of the device that wrote it.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The next record and its hash; `None` at the end of the export.
    pub fn record(&mut self) -> Result<Option<(Record, Hash)>, Broken> {
        while self.end.is_none() {
            let Some(line) = self.lines.next()? else {
                let next = self.walk.next;
                return broken(format!(
                    "the file ends after record {} without the checkpoint that ends an export: record {next} and what follows was cut off",
                    next - 1,
                ));
            };
            if !line.starts_with(b"{\"checkpoint\":") {
                return self.walk.record(&line, &mut self.lines).map(Some);
            }
            let checkpoint = self.walk.checkpoint(&line, &self.device, self.lines.number)?;
            if checkpoint.ends == Ends::Export {
                if self.lines.next()?.is_some() {
                    return broken(format!("line {} comes after the end of the export", self.lines.number));
                }
                self.end = Some(checkpoint);
            }
        }
        Ok(None)
    }

    /// What was verified. Reads what is left.
    pub fn finish(mut self) -> Result<Found, Broken> {
        loop {
            if self.record()?.is_some() {
                continue;
            }
            // There is one, as there are no more records.
            let Some(end) = self.end.take() else { return broken("the file has no end") };
            let Walk { checkpoints, key, .. } = self.walk;
            return Ok(Found { from: self.from, previous: self.previous, end, checkpoints, key });
        }
    }
}

/// The state of verification after some lines.
struct Walk {
    from: u64,
    /// The number of the next record.
    next: u64,
    /// The hash of the previous record.
    hash: Hash,
    /// The first record not yet covered by a checkpoint.
    agreed: u64,
    checkpoints: u64,
    key: PublicKey,
}

impl Walk {
    fn record(&mut self, line: &[u8], lines: &mut Lines<impl BufRead>) -> Result<(Record, Hash), Broken> {
        let (next, number) = (self.next, lines.number);
        let Some((record, hash)) = Record::parse(line) else {
            return broken(format!("record {next} was altered: line {number} is not as the device wrote it"));
        };
        let here = record.sequence;
        if here != next {
            let moved = lines.has(next)?;
            return broken(if moved {
                format!("record {next} was moved: line {number} holds record {here} instead")
            } else if here > next {
                format!("record {next} is missing: line {number} continues with record {here}")
            } else {
                format!("record {next} is missing: line {number} repeats record {here}")
            });
        }
        if record.hash(&self.hash) != hash {
            return broken(format!(
                "record {next} was altered, or the one before it was altered and hashed again: the hash in line {number} does not match both"
            ));
        }
        self.hash = hash;
        self.next = self.next.saturating_add(1);
        Ok((record, hash))
    }

    fn checkpoint(&mut self, line: &[u8], device: &str, number: u64) -> Result<Checkpoint, Broken> {
        let last = self.next - 1;
        let Some((checkpoint, signature)) = parse_checkpoint(line) else {
            return broken(format!(
                "the checkpoint after record {last} was altered: line {number} is not as the device wrote it"
            ));
        };
        let said = checkpoint.sequence;
        if !checkpoint.verify(&self.key, &signature) || checkpoint.device != device {
            return broken(format!(
                "the checkpoint after record {last} was altered: the signature in line {number} is not one of the device {device} over this checkpoint"
            ));
        }
        if said > last {
            return broken(format!(
                "record {} is missing: line {number} is the checkpoint of record {said}",
                self.next
            ));
        }
        if said < last {
            return broken(format!(
                "the checkpoint of record {said} was moved: line {number} comes after record {last}"
            ));
        }
        if checkpoint.hash != self.hash {
            return broken(format!(
                "the records from {} on were altered and hashed again: the signed checkpoint of record {said} in line {number} has another hash",
                self.agreed
            ));
        }
        if last < self.from {
            return broken(format!("record {} is missing: line {number} is a checkpoint before any record", self.from));
        }
        self.agreed = self.next;
        self.checkpoints += 1;
        Ok(checkpoint)
    }
}

/// Parses the first line; `None` if it is not exactly what the device would have written.
fn parse_header(line: &[u8]) -> Option<(HeaderLine, PublicKey, Hash)> {
    let head: HeaderLine = serde_json::from_slice(line).ok()?;
    let (key, previous) = (bytes(&head.key)?, bytes(&head.previous)?);
    let same = head.audit == 1 && head.from >= 1 && is_plain(&head.device);
    (same && header(&head.device, &key, head.from, &previous).as_bytes() == line).then_some((head, key, previous))
}

impl Record {
    /// Reads what [`Record::line`] wrote; `None` if it is not exactly that.
    pub fn parse(line: &[u8]) -> Option<(Record, Hash)> {
        let parsed: RecordLine = serde_json::from_slice(line).ok()?;
        let hash = bytes(&parsed.hash)?;
        let event = Event {
            kind: Kind::parse(&parsed.kind)?,
            of: parsed.of,
            user: parsed.user,
            address: parsed.address,
            endpoint: parsed.endpoint,
            target: parsed.target,
            status: parsed.status,
            reason: parsed.reason,
            count: parsed.count,
            state: parsed.state,
            detail: parsed.detail,
            revision: parsed.revision,
        };
        let record = Record { sequence: parsed.sequence, time: parsed.time, event };
        let Event { user, address, endpoint, target, reason, state, detail, .. } = &record.event;
        // What the device writes neither steers a terminal nor turns the direction of text.
        let texts = [&record.time, user, address, endpoint, target, reason, state, detail];
        let plain = texts.into_iter().all(|text| is_plain(text));
        (plain && record.line(&hash).as_bytes() == line).then_some((record, hash))
    }
}

/// Parses a checkpoint; `None` if it is not exactly what the device would have written.
fn parse_checkpoint(line: &[u8]) -> Option<(Checkpoint, Signature)> {
    let parsed: CheckpointLine = serde_json::from_slice(line).ok()?;
    let signature = bytes(&parsed.signature)?;
    let checkpoint = Checkpoint {
        sequence: parsed.checkpoint,
        hash: bytes(&parsed.hash)?,
        first: parsed.first,
        last: parsed.last,
        time: parsed.time,
        device: parsed.device,
        ends: [Ends::Nothing, Ends::Export].into_iter().find(|ends| ends.as_str() == parsed.ends)?,
    };
    (checkpoint.line(&signature).as_bytes() == line).then_some((checkpoint, signature))
}

/// Parses exactly `N` bytes of lower-case hexadecimal.
fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    base16ct::lower::decode_vec(hex).ok()?.try_into().ok()
}
