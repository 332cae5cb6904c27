//! The current rows of a data file, in the order of their keys.
//!
//! The file has them in the order of their revisions, old ones among them. So it is read once for the places of the newest
//! ones, as many as memory is allowed for, from the first key on, and then again for the keys behind those.

use std::collections::{BTreeMap, btree_map};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use prost::Message;

use super::pages::{Entry, Pages, Place};
use super::{FileError, KEYS, bucket};
use crate::proto::KeyValue;

/// The current rows whose keys start with a prefix, in order. After an error it ends.
pub struct Rows {
    pages: Arc<Pages>,
    prefix: Bytes,
    index_max_bytes: usize,
    /// The places of the next rows.
    window: btree_map::IntoIter<Bytes, Place>,
    /// The keys from this one on have not been looked for yet. `None`: all have.
    from: Option<Bytes>,
}

impl Rows {
    pub(super) fn new(pages: Arc<Pages>, prefix: &[u8], from: &[u8], index_max_bytes: usize) -> Self {
        let (prefix, from) = (Bytes::copy_from_slice(prefix), Bytes::copy_from_slice(from));
        Self { pages, from: Some(from), prefix, index_max_bytes, window: BTreeMap::new().into_iter() }
    }

    /// Finds the places of the rows from `from` on.
    fn look(&mut self, from: &Bytes) -> Result<(), FileError> {
        let mut window = BTreeMap::new();
        let (mut window_bytes, mut end) = (0, None);
        let pages = self.pages.clone();
        let found = bucket(&pages, KEYS)?;
        pages.entries(&mut pages.reading(), &found, |entry| {
            let Revised { tombstone, row, .. } = Revised::of(&pages, &entry)?;
            let key = row.key;
            if !key.starts_with(&self.prefix) || key < *from || end.as_ref().is_some_and(|end| key >= end) {
                return Ok(());
            }
            if tombstone {
                if window.remove(&key).is_some() {
                    window_bytes -= weight(&key);
                }
                return Ok(());
            }
            // Not a part of its page, which would stay in memory.
            let key = Bytes::copy_from_slice(&key);
            window_bytes += weight(&key);
            if let Some(_older) = window.insert(key.clone(), entry.place) {
                window_bytes -= weight(&key);
            }
            while window_bytes > self.index_max_bytes && window.len() > 1 {
                let Some((last, _)) = window.pop_last() else { break };
                window_bytes -= weight(&last);
                end = Some(last);
            }
            Ok(())
        })?;
        self.window = window.into_iter();
        self.from = end;
        Ok(())
    }

    fn row(&self, key: &Bytes, place: Place) -> Result<KeyValue, FileError> {
        let row = KeyValue::decode(self.pages.value(place)?);
        row.ok().filter(|row| row.key == key).ok_or_else(|| self.pages.damaged("it has changed while it was read"))
    }
}

impl Iterator for Rows {
    type Item = Result<KeyValue, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, place)) = self.window.next() {
                let row = self.row(&key, place);
                if row.is_err() {
                    (self.window, self.from) = (BTreeMap::new().into_iter(), None);
                }
                return Some(row);
            }
            let from = self.from.take()?;
            if let Err(error) = self.look(&from) {
                return Some(Err(error));
            }
        }
    }
}

/// What a row takes in memory until it is told.
fn weight(key: &Bytes) -> usize {
    const NODE_BYTES: usize = 96;
    key.len() + NODE_BYTES
}

/// A revision of a row.
pub(super) struct Revised {
    pub(super) revision: i64,
    /// It removes the row.
    tombstone: bool,
    /// Of a tombstone only the key is there.
    row: KeyValue,
}

impl Revised {
    /// Reads an entry of the bucket of keys: `revision (8) ‖ '_' ‖ number within it (8)`, then `t` if it is a removal.
    pub(super) fn of(pages: &Pages, entry: &Entry) -> Result<Self, FileError> {
        let wrong = || pages.damaged("a row of it makes no sense");
        let mut key = entry.key.clone();
        if key.len() < REVISION_BYTES {
            return Err(wrong());
        }
        let mark = key.split_off(REVISION_BYTES);
        let revision = key.get_i64();
        let row = KeyValue::decode(entry.value.clone()).map_err(|_| wrong())?;
        let tombstone = match &*mark {
            b"" if row.mod_revision == revision => false,
            b"t" => true,
            _ => return Err(wrong()),
        };
        if row.key.is_empty() { Err(wrong()) } else { Ok(Self { revision, tombstone, row }) }
    }
}

const REVISION_BYTES: usize = 17;
