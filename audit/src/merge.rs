//! One sequence of the logs of several nodes that share a store.
//!
//! The clocks of nodes differ, so times do not tell who was first. The outcome of a change has the revision at which the shared
//! store was changed, and of two revisions the store itself says which came first. So:
//!
//! - the records of one node stay in the order of its log;
//! - records with a revision are ordered by it across nodes;
//! - a record without one stands between those of its own node, and by its time among those of the others.
//!
//! Changes that ran at the same time at one node may be in its log in another order than in the store. That is no contradiction;
//! the earlier one then stands too late, behind the one that was recorded first. It is a contradiction if a change that began
//! after the outcome of another one has a lower revision, and if two nodes have the same one.
//!
//! A file is read twice, and verified both times: what is kept in memory is a few numbers for each change.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Write};

use crate::checkpoint::PublicKey;
use crate::record::{Hash, Kind, Record};
use crate::verify::{Broken, Found, Verifier};

/// A file with an export of a log, or of a part of it.
pub struct Log<'a> {
    /// How it is called in sentences.
    pub name: String,
    /// Opens it at its beginning.
    pub open: Opener<'a>,
}

/// Opens a file at its beginning, any number of times.
pub type Opener<'a> = Box<dyn Fn() -> io::Result<Box<dyn BufRead>> + 'a>;

/// Why logs are not merged, as a sentence.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A file cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// The same part of a log was given twice.
    #[error("{0}")]
    Twice(String),
    /// A log was altered, or contradicts itself or another one.
    #[error("{0}")]
    Broken(String),
    /// The result cannot be written.
    #[error("{0}")]
    Output(#[from] io::Error),
}

/// Verifies `logs` and writes their records to `out` as one sequence: the lines of the exports, with the device in front. The keys
/// must be among `known`, unless that is empty. Nothing is written before all logs are verified.
///
/// Returns what is to be known about the result, in sentences.
///
/// # Errors
/// The first log that is altered, and the first contradiction.
pub fn merge(logs: &[Log<'_>], known: &[PublicKey], out: &mut dyn Write) -> Result<Vec<String>, MergeError> {
    let mut nodes: BTreeMap<String, Node<'_>> = BTreeMap::new();
    let mut writers: BTreeMap<PublicKey, String> = BTreeMap::new();
    for log in logs {
        let (device, key, part) = Part::survey(log, known)?;
        // A device signs what it likes, but only with its own key.
        if let Some(other) = writers.insert(key, device.clone())
            && other != device
        {
            return Err(MergeError::Broken(format!(
                "the log of device {device} in {} is signed with the key of device {other}: one of them wrote it in the name of the other",
                log.name
            )));
        }
        nodes.entry(device).or_default().parts.push(part);
    }
    let missing = known.iter().filter(|key| !writers.contains_key(*key)).count();
    if missing > 0 {
        return Err(MergeError::Broken(format!(
            "of {missing} of the keys given there is no log: give the logs of all devices, or leave those keys out"
        )));
    }
    for (device, node) in &mut nodes {
        node.join(device)?;
    }
    let mut owners: BTreeMap<u64, (&str, u64)> = BTreeMap::new();
    for (device, node) in &nodes {
        for Change { revision, sequence, .. } in node.changes() {
            if let Some((other, theirs)) = owners.insert(*revision, (device, *sequence))
                && other != device
            {
                return Err(MergeError::Broken(format!(
                    "record {theirs} of device {other} and record {sequence} of device {device} both claim revision {revision} of the store: these nodes do not share one store, or one of them is a copy"
                )));
            }
        }
    }
    let mut cursors = Vec::new();
    for (device, node) in &nodes {
        cursors.push(Cursor::start(device, node)?);
    }
    while let Some(next) = next(&cursors).and_then(|at| cursors.get_mut(at)) {
        out.write_all(next.line().as_bytes())?;
        next.advance()?;
    }
    Ok(remarks(&nodes, known))
}

/// Which cursor is next: of those whose record has no revision, and the one with the lowest, the earliest by time.
fn next(cursors: &[Cursor<'_>]) -> Option<usize> {
    let lowest = cursors.iter().filter_map(Cursor::place).min();
    let mut earliest: Option<(usize, &str)> = None;
    for (at, cursor) in cursors.iter().enumerate() {
        let Some((record, _)) = &cursor.head else { continue };
        let may = !cursor.is_at_change() || cursor.place() == lowest;
        if may && earliest.is_none_or(|(_, time)| record.time.as_str() < time) {
            earliest = Some((at, &record.time));
        }
    }
    earliest.map(|(at, _)| at)
}

/// A record with a revision.
struct Change {
    sequence: u64,
    /// Its intent; 0 if it has none.
    of: u64,
    revision: u64,
}

/// What one file says.
struct Part<'a> {
    log: &'a Log<'a>,
    found: Found,
    changes: Vec<Change>,
    /// Intents without an outcome in this file.
    open: BTreeSet<u64>,
    /// Outcomes whose intent is not in this file.
    closed: Vec<u64>,
    /// Outcomes that do not say whether the change was made.
    doubtful: usize,
}

impl<'a> Part<'a> {
    /// Verifies a file. Returns the device and its key as well.
    fn survey(log: &'a Log<'a>, known: &[PublicKey]) -> Result<(String, PublicKey, Self), MergeError> {
        let mut verifier = open(log, known)?;
        let (device, key) = (verifier.device().to_owned(), *verifier.key());
        let (mut changes, mut open, mut closed, mut doubtful) = (Vec::new(), BTreeSet::new(), Vec::new(), 0);
        while let Some((record, _)) = verifier.record().map_err(|why| refused(log, why))? {
            let Record { sequence, event, .. } = record;
            match event.kind {
                Kind::Intent => _ = open.insert(sequence),
                Kind::Outcome => {
                    if event.of > 0 && !open.remove(&event.of) {
                        closed.push(event.of);
                    }
                    doubtful += usize::from(event.status >= 500 && event.revision == 0);
                }
                _ => {}
            }
            if event.revision > 0 {
                changes.push(Change { sequence, of: event.of, revision: event.revision });
            }
        }
        let found = verifier.finish().map_err(|why| refused(log, why))?;
        Ok((device, key, Self { log, found, changes, open, closed, doubtful }))
    }
}

/// One node: the parts of its log, in their order.
#[derive(Default)]
struct Node<'a> {
    parts: Vec<Part<'a>>,
    /// Where each change stands among those of all nodes.
    places: Vec<Place>,
    /// How many changes stand behind later ones.
    late: usize,
}

/// A change stands where the highest revision up to it does, because the records of a node stay in their order.
struct Place {
    sequence: u64,
    highest: u64,
    /// The record with that revision.
    of: u64,
}

impl Node<'_> {
    fn changes(&self) -> impl Iterator<Item = &Change> {
        self.parts.iter().flat_map(|part| &part.changes)
    }

    /// Puts the parts in their order, and the changes in their places.
    fn join(&mut self, device: &str) -> Result<(), MergeError> {
        self.parts.sort_by_key(|part| part.found.from);
        for (part, next) in self.parts.iter().zip(self.parts.iter().skip(1)) {
            let (end, from) = (&part.found.end, next.found.from);
            if from <= end.sequence {
                return Err(MergeError::Twice(format!(
                    "{} and {} both hold record {from} of device {device}: give each record once",
                    part.log.name, next.log.name
                )));
            }
            let goes_on = from > end.sequence + 1 || next.found.previous == end.hash;
            if !goes_on || next.found.key != part.found.key {
                return Err(MergeError::Broken(format!(
                    "{} and {} are not parts of one log: device {device} has two histories, as if it was copied",
                    part.log.name, next.log.name
                )));
            }
        }
        for part in &self.parts {
            for Change { sequence, of, revision } in &part.changes {
                let before = self.places.partition_point(|place| place.sequence < *of);
                let before = before.checked_sub(1).and_then(|at| self.places.get(at));
                if let Some(Place { highest, of: earlier, .. }) = before.filter(|place| place.highest >= *revision) {
                    return Err(MergeError::Broken(format!(
                        "the log of device {device} contradicts the store: the change in record {sequence} began after the one in record {earlier} had ended, but has revision {revision} of the store and that one {highest}: the store was replaced by an older copy or another one"
                    )));
                }
                let last = self.places.last().filter(|place| place.highest > *revision);
                self.late += usize::from(last.is_some());
                let (highest, of) = last.map_or((*revision, *sequence), |place| (place.highest, place.of));
                self.places.push(Place { sequence: *sequence, highest, of });
            }
        }
        Ok(())
    }
}

/// Reads the log of one node, and knows the place of its next change.
struct Cursor<'a> {
    device: &'a str,
    parts: std::slice::Iter<'a, Part<'a>>,
    places: std::iter::Peekable<std::slice::Iter<'a, Place>>,
    reading: Option<(&'a Part<'a>, Verifier<Box<dyn BufRead>>)>,
    head: Option<(Record, Hash)>,
}

impl<'a> Cursor<'a> {
    fn start(device: &'a str, node: &'a Node<'a>) -> Result<Self, MergeError> {
        let (parts, places) = (node.parts.iter(), node.places.iter().peekable());
        let mut cursor = Self { device, parts, places, reading: None, head: None };
        cursor.read()?;
        Ok(cursor)
    }

    /// The place of its next change.
    fn place(&self) -> Option<u64> {
        self.places.clone().next().map(|place| place.highest)
    }

    /// Whether its next record is that change.
    fn is_at_change(&self) -> bool {
        let change = self.places.clone().next().map(|place| place.sequence);
        change.is_some() && change == self.head.as_ref().map(|(record, _)| record.sequence)
    }

    /// Its next record, with the device in front.
    fn line(&self) -> String {
        let line = self.head.as_ref().map(|(record, hash)| record.line(hash)).unwrap_or_default();
        format!("{{\"device\":\"{}\",{}", self.device, line.trim_start_matches('{'))
    }

    fn advance(&mut self) -> Result<(), MergeError> {
        if self.is_at_change() {
            self.places.next();
        }
        self.read()
    }

    fn read(&mut self) -> Result<(), MergeError> {
        loop {
            let Some((part, mut verifier)) = self.reading.take() else {
                let Some(part) = self.parts.next() else {
                    self.head = None;
                    return Ok(());
                };
                self.reading = Some((part, open(part.log, &[part.found.key])?));
                continue;
            };
            self.head = verifier.record().map_err(|why| refused(part.log, why))?;
            if self.head.is_some() {
                self.reading = Some((part, verifier));
                return Ok(());
            }
            if verifier.finish().map_err(|why| refused(part.log, why))?.end != part.found.end {
                return Err(MergeError::Unreadable(format!("{}: it was changed while it was read", part.log.name)));
            }
        }
    }
}

fn open(log: &Log<'_>, known: &[PublicKey]) -> Result<Verifier<Box<dyn BufRead>>, MergeError> {
    let opened = (log.open)().map_err(|why| refused(log, Broken::Unreadable(why)))?;
    Verifier::open(opened, known).map_err(|why| refused(log, why))
}

fn refused(log: &Log<'_>, why: Broken) -> MergeError {
    match why {
        Broken::Unreadable(why) => MergeError::Unreadable(format!("{}: {why}", log.name)),
        Broken::Log(why) => MergeError::Broken(format!("{}: {why}", log.name)),
    }
}

/// What was verified, and what is not known.
fn remarks(nodes: &BTreeMap<String, Node<'_>>, known: &[PublicKey]) -> Vec<String> {
    let mut remarks = Vec::new();
    let (mut records, mut changes, mut late, mut unknown) = (0, 0, 0, 0);
    for (device, node) in nodes {
        let mut after = None;
        let mut open: BTreeSet<u64> = BTreeSet::new();
        for Part { found, open: begun, closed, doubtful, .. } in &node.parts {
            let (from, to) = (found.from, found.end.sequence);
            let (first, last) = (found.end.first, found.end.last);
            let held =
                if (first, last) == (from, to) { String::new() } else { format!("; its log held {first} to {last}") };
            remarks.push(format!("Records {from} to {to} of device {device} are in order and unaltered{held}."));
            if let Some(after) = after.filter(|after| *after < from) {
                remarks.push(format!("Records {after} to {} of device {device} are in no file.", from - 1));
            }
            after = Some(to + 1);
            records += to + 1 - from;
            open.extend(begun);
            closed.iter().for_each(|intent| _ = open.remove(intent));
            unknown += doubtful;
        }
        changes += node.places.len();
        late += node.late;
        unknown += open.len();
        if node.places.is_empty() {
            remarks.push(format!("No record of device {device} has a revision: only its clock tells when they were."));
        }
    }
    if known.is_empty() {
        remarks.push("The keys were taken from the files themselves: so each file is consistent, but nothing shows which device wrote it. Give the keys of the devices with --key.".into());
    }
    remarks.push(format!(
        "{changes} of {records} records have a revision of the store: across nodes they are in the order in which the store was changed. All others, such as refusals and intents, are placed by the clocks of the nodes, and clocks differ."
    ));
    if late > 0 {
        remarks.push(format!(
            "{late} changes stand behind later ones of the same node, with which they ran at the same time, and may stand behind later ones of other nodes: their order is that of `revision`."
        ));
    }
    if unknown > 0 {
        remarks.push(format!(
            "Of {unknown} changes it is not known whether and when they were made: they have no outcome, or a failure without a revision."
        ));
    }
    remarks
}

#[cfg(test)]
mod tests;
