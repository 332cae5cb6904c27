//! Pages of a range.
//!
//! etcd counts all rows of a range before it returns the first ones, whatever the limit: a page of 1,000 out of a million
//! takes 260 ms. So a page is read as ranges with ends that are guessed from how far apart the rows of earlier pages were.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use casemate_api::limits::{ETCD_GET_ROWS, STORE_TXN_MAX_OPS};
use casemate_core::store::{Page, Range, Read, Revision, StoreError};
use casemate_etcd::proto::response_op::Response;
use casemate_etcd::proto::{RangeRequest, RangeResponse, TxnRequest};
use casemate_etcd::request;

use super::{Shared, read_error, revision, senseless, versioned};

/// How far apart rows are, by the end of the range that they were found in.
#[derive(Default)]
pub(super) struct Density(Mutex<HashMap<Vec<u8>, Distance>>);

/// Guesses of the end of one page.
const GUESSES: usize = 6;

/// Ranges whose density is remembered.
const REMEMBERED: usize = 64;

impl Density {
    fn get(&self, end: &[u8]) -> Option<Distance> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(end).copied()
    }

    fn set(&self, end: &[u8], distance: Distance) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED && !known.contains_key(end) {
            known.clear();
        }
        known.insert(end.to_vec(), distance);
    }
}

/// A distance between two keys: the difference of their bytes, as one number, behind what they have in common. Longer keys
/// are cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Distance([u8; DIGITS]);

const DIGITS: usize = 64;

impl Distance {
    /// What follows the first `common` bytes of `key`.
    fn of(key: &[u8], common: usize) -> Self {
        let mut digits = [0; DIGITS];
        digits.iter_mut().zip(key.iter().skip(common)).for_each(|(digit, byte)| *digit = *byte);
        Self(digits)
    }

    /// `self - other`, and 0 if that is negative.
    fn minus(self, other: Self) -> Self {
        if self <= other {
            return Self([0; DIGITS]);
        }
        let mut borrow = 0;
        let mut digits = self.0;
        for (digit, less) in digits.iter_mut().zip(other.0).rev() {
            let value = i16::from(*digit) - i16::from(less) - borrow;
            borrow = i16::from(value < 0);
            *digit = value.rem_euclid(256) as u8;
        }
        Self(digits)
    }

    /// `self + other`. `None` if that is more than the digits hold.
    fn plus(self, other: Self) -> Option<Self> {
        let mut carry = 0;
        let mut digits = self.0;
        for (digit, more) in digits.iter_mut().zip(other.0).rev() {
            let value = u16::from(*digit) + u16::from(more) + carry;
            carry = value >> 8;
            *digit = value as u8;
        }
        (carry == 0).then_some(Self(digits))
    }

    fn is_zero(self) -> bool {
        self.0 == [0; DIGITS]
    }
}

impl Shared {
    /// One page of `range` as of the revision `at`; 0: the newest.
    pub(super) async fn page(&self, range: &Range, read: Read, at: i64) -> Result<Page, StoreError> {
        let last = match &range.end {
            Some(end) => self.key(end),
            None => request::prefix_end(&self.prefix).to_vec(),
        };
        let mut page = Page::default();
        let mut at = at;
        let mut start = self.key(&range.start);
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            let empty = RangeRequest { serializable: read == Read::Local, count_only: true, ..request::get(start) };
            page.revision = self.range(RangeRequest { revision: at, ..empty }).await?.revision;
            return Ok(page);
        }
        let common = start.iter().zip(&last).take_while(|(a, b)| a == b).count();
        let mut step = self.density.get(&last);
        let mut short = 0;
        loop {
            let end = step.and_then(|step| Distance::of(&start, common).plus(step));
            let end = end.map(|Distance(digits)| [start.get(..common).unwrap_or_default(), &digits].concat());
            // A guess that is not behind the start would never get on.
            let end = end.filter(|end| *end > start && *end < last);
            // To etcd, a limit of 0 is none at all.
            let missing = range.limit.saturating_sub(page.rows.len());
            let part = RangeRequest {
                key: start.clone().into(),
                range_end: end.clone().unwrap_or_else(|| last.clone()).into(),
                limit: i64::try_from(missing.max(1)).unwrap_or(i64::MAX),
                revision: at,
                serializable: read == Read::Local,
                keys_only: range.keys_only,
                ..RangeRequest::default()
            };
            let found = self.range(part).await?;
            if at == 0 {
                // The rest of the page is read at the same revision.
                at = found.revision.0.cast_signed();
                page.revision = found.revision;
            }
            if missing == 0 {
                page.more = !found.rows.is_empty();
            } else {
                if let (Some((first, _)), Some((last_row, _)), true) =
                    (found.rows.first(), found.rows.last(), found.rows.len() > 1 && found.rows.len() >= missing / 2)
                {
                    let keys = [last_row, first].map(|path| Distance::of(&self.key(path), common));
                    let [end, begin] = keys;
                    let width = end.minus(begin);
                    if !width.is_zero() {
                        self.density.set(&last, width);
                        step = Some(width);
                    }
                }
                page.rows.extend(found.rows);
                page.more = found.more;
            }
            match end {
                // More are behind the guessed end, unless the page is full already.
                Some(end) if !page.more => {
                    start = end;
                    short += 1;
                    // After a few guesses that were too near, the rest is read at once.
                    step = step.filter(|_| short < GUESSES).map(|step| step.plus(step).unwrap_or(step));
                }
                _ => return Ok(page),
            }
        }
    }

    /// One page of each of `ranges` as of the revision `at`.
    pub(super) async fn ranges(&self, ranges: &[Range], at: Revision) -> Result<Vec<Page>, StoreError> {
        if ranges.len() > STORE_TXN_MAX_OPS {
            return Err(StoreError::TooLarge);
        }
        let mut pages = Vec::with_capacity(ranges.len());
        // In parts, because each row may be large and a reply has a limit.
        for part in ranges.chunks(ETCD_GET_ROWS) {
            let reads = part.iter().map(|range| {
                let end = range.end.as_ref().map(|end| self.key(end).into());
                request::read(RangeRequest {
                    range_end: end.unwrap_or_else(|| request::prefix_end(&self.prefix)),
                    limit: i64::try_from(range.limit).unwrap_or(i64::MAX),
                    revision: at.0.cast_signed(),
                    keys_only: range.keys_only,
                    ..request::get(self.key(&range.start))
                })
            });
            let txn = TxnRequest { success: reads.collect(), ..TxnRequest::default() };
            let reply = self.client.txn(txn).await.map_err(|error| read_error(&error))?;
            for response in reply.responses {
                let Some(Response::ResponseRange(range)) = response.response else { return Err(senseless()) };
                pages.push(self.found(range, at));
            }
        }
        if pages.len() == ranges.len() { Ok(pages) } else { Err(senseless()) }
    }

    async fn range(&self, request: RangeRequest) -> Result<Page, StoreError> {
        let reply = self.client.range(request).await.map_err(|error| read_error(&error))?;
        let at = revision(reply.header)?;
        Ok(self.found(reply, at))
    }

    fn found(&self, reply: RangeResponse, at: Revision) -> Page {
        let rows = reply.kvs.into_iter().map(|row| (self.path(&row.key), versioned(row)));
        Page { rows: rows.collect(), more: reply.more, revision: at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(key: &[u8]) -> Distance {
        Distance::of(key, 0)
    }

    #[test]
    fn distances_are_added_and_subtracted_as_numbers() {
        assert_eq!(distance(b"b").minus(distance(b"a")), distance(&[1]));
        assert_eq!(distance(&[1, 0]).minus(distance(&[0, 1])), distance(&[0, 255]));
        assert_eq!(distance(&[0, 255]).plus(distance(&[0, 1])), Some(distance(&[1])));
        assert_eq!(distance(&[255]).plus(distance(&[1])), None);
        assert!(distance(b"a").minus(distance(b"b")).is_zero());
        assert_eq!(Distance::of(b"ns/key", 3), distance(b"key"));
        assert!(Distance::of(b"ns", 3).is_zero());
    }
}
