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
const GUESSES: usize = 12;

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

/// The parts of a range in which one page is read.
struct Parts<'a> {
    density: &'a Density,
    /// How many bytes all keys of the range have in common.
    common: usize,
    /// The start of the next part.
    start: Vec<u8>,
    /// The end of the range.
    last: Vec<u8>,
    /// The guessed width of the next part. `None`: all that is left.
    step: Option<Distance>,
    guesses: usize,
}

impl<'a> Parts<'a> {
    fn new(density: &'a Density, start: Vec<u8>, last: Vec<u8>) -> Self {
        let common = start.iter().zip(&last).take_while(|(a, b)| a == b).count();
        let step = density.get(&last);
        Self { density, common, start, last, step, guesses: 0 }
    }

    /// The end of the next part. `None`: it is the last one.
    fn end(&self) -> Option<Vec<u8>> {
        let Distance(digits) = Distance::of(&self.start, self.common).plus(self.step?)?;
        let end = [self.start.get(..self.common).unwrap_or_default(), &digits].concat();
        // A guess that is not behind the start would never get on.
        (end > self.start && end < self.last).then_some(end)
    }

    /// Remembers how far apart the first and the last row of a page are.
    fn remember(&self, first: &[u8], last: &[u8]) {
        let width = Distance::of(last, self.common).minus(Distance::of(first, self.common));
        if !width.is_zero() {
            self.density.set(&self.last, width);
        }
    }

    /// Goes on behind a part that ended at `end` and did not fill the page.
    fn go_on(&mut self, end: Vec<u8>) {
        self.start = end;
        self.guesses += 1;
        // Between names are gaps that no name is in: of a byte, hexadecimal digits use 16 values. Fourfold steps leave a gap soon and
        // not far behind it. After a few guesses that were too near, the rest is read at once.
        let twice = |step: Distance| step.plus(step).unwrap_or(step);
        self.step = self.step.filter(|_| self.guesses < GUESSES).map(twice).map(twice);
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
        let start = self.key(&range.start);
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            let empty = RangeRequest { serializable: read == Read::Local, count_only: true, ..request::get(start) };
            page.revision = self.range(RangeRequest { revision: at, ..empty }).await?.revision;
            return Ok(page);
        }
        let mut parts = Parts::new(&self.density, start, last);
        loop {
            let end = parts.end();
            // To etcd, a limit of 0 is none at all.
            let missing = range.limit.saturating_sub(page.rows.len());
            let part = RangeRequest {
                key: parts.start.clone().into(),
                range_end: end.clone().unwrap_or_else(|| parts.last.clone()).into(),
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
                page.rows.extend(found.rows);
                page.more = found.more;
            }
            match end {
                // More are behind the guessed end, unless the page is full already.
                Some(end) if !page.more => parts.go_on(end),
                _ => break,
            }
        }
        if let ([(first, _), .., (last, _)], true) = (page.rows.as_slice(), page.rows.len() >= range.limit / 2) {
            parts.remember(&self.key(first), &self.key(last));
        }
        Ok(page)
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

    /// Reads all of `keys`, which are sorted, in pages as [`Shared::page`] does. Returns the calls that takes, and the keys that
    /// etcd counts in them: all of the range of each.
    fn calls_and_counted(keys: &[Vec<u8>], limit: usize) -> (usize, usize) {
        let density = Density::default();
        let at = |key: &[u8]| keys.partition_point(|other| other.as_slice() < key);
        let (mut calls, mut counted, mut listed) = (0, 0, 0);
        while listed < keys.len() {
            let first = listed;
            let mut parts = Parts::new(&density, keys[listed].clone(), b"prefix0".to_vec());
            let mut missing = limit;
            loop {
                let end = parts.end();
                let (from, to) = (at(&parts.start), end.as_ref().map_or(keys.len(), |end| at(end)));
                calls += 1;
                counted += to - from;
                let found = &keys[from..to.min(from + missing.max(1))];
                if missing > 0 {
                    listed += found.len();
                }
                let more = to - from > found.len() || missing == 0 && !found.is_empty();
                missing = missing.saturating_sub(found.len());
                match end {
                    Some(end) if !more => parts.go_on(end),
                    _ => break,
                }
            }
            parts.remember(&keys[first], &keys[listed - 1]);
        }
        (calls, counted)
    }

    #[test]
    fn pages_are_read_in_few_calls_for_which_few_rows_are_counted() {
        const KEYS: usize = 200_000;
        const PAGE: usize = 200;
        let random = |n: usize| (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) >> 48;
        let names: [fn(u128) -> String; 4] = [
            // As the server chooses them.
            |n| format!("{:020x}", n % (1 << 80)),
            |n| format!("{:07}", n % 10_000_000),
            |n| format!("key-{n}"),
            |n| format!("{}-{n:x}", ["mail", "tls", "web"][(n % 3) as usize]),
        ];
        for name in names {
            for number in [random, |n| n as u128] {
                let mut keys: Vec<_> = (0..KEYS).map(|n| format!("prefix/{}", name(number(n))).into_bytes()).collect();
                keys.sort();
                keys.dedup();
                let (calls, counted) = calls_and_counted(&keys, PAGE);
                let (calls, counted) = (calls * PAGE / keys.len(), counted / keys.len());
                let example = String::from_utf8_lossy(&keys[1]);
                assert!(calls <= 3, "{calls} calls for a page of names such as {example}");
                assert!(counted <= 10, "for each name, such as {example}, {counted} are counted");
            }
        }
    }

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
