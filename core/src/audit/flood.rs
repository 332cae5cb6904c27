//! Refusals: recorded one by one while there are few, counted if there are many.
//!
//! Time is cut into windows. In each, the first few refusals get a record of their own; the others are counted by
//! address and reason, and each count becomes one record at the window's end. After a window with counts the next one
//! is twice as long, up to a minute, so that continual refusals cannot push everything else out of the log.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use casemate_api::limits::{
    AUDIT_REFUSAL_MS, AUDIT_REFUSAL_PAIRS_MAX, AUDIT_REFUSALS_ITEMISED, AUDIT_WINDOW_MAX_MS, AUDIT_WINDOW_MS,
};
use casemate_audit::{Event, Kind, reason};

/// The refusals of the current window.
#[derive(Default)]
pub(super) struct Flood {
    /// End of the window (monotonic); the first refusal after it opens a new one.
    until: Duration,
    length: Duration,
    /// How many more may get their own record, and when that number last grew.
    left: Option<(u32, Duration)>,
    counted: HashMap<(Option<IpAddr>, u16), u64>,
}

/// The first 64 bits of an IPv6 address, which usually belong to one client; an IPv4 address unchanged.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

impl Flood {
    /// Takes one refusal at `now` (monotonic). Returns whether it gets a record of its own; otherwise it is counted.
    pub(super) fn itemises(&mut self, now: Duration, address: IpAddr, status: u16) -> bool {
        if now >= self.until {
            self.until = now + self.length.max(Duration::from_millis(AUDIT_WINDOW_MS));
        }
        // A few at once get their records, continual ones only now and then: otherwise a patient attacker could push
        // everything else out of the log.
        let (left, since) = self.left.unwrap_or((AUDIT_REFUSALS_ITEMISED, now));
        let more = now.saturating_sub(since).as_millis() / u128::from(AUDIT_REFUSAL_MS);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let left = left.saturating_add(more).min(AUDIT_REFUSALS_ITEMISED);
        let since =
            if left == AUDIT_REFUSALS_ITEMISED { now } else { since + Duration::from_millis(AUDIT_REFUSAL_MS) * more };
        self.left = Some((left.saturating_sub(1), since));
        if left == 0 {
            self.count(Some(address), status);
        }
        left > 0
    }

    /// Counts a refusal that gets no record of its own.
    pub(super) fn count(&mut self, address: Option<IpAddr>, status: u16) {
        let address = address.map(network);
        let known = self.counted.contains_key(&(address, status));
        let full = self.counted.len() >= AUDIT_REFUSAL_PAIRS_MAX && !known;
        let count = self.counted.entry((address.filter(|_| !full), status)).or_default();
        *count = count.saturating_add(1);
    }

    /// The counts, if the window has ended by `now` (monotonic).
    pub(super) fn ended(&mut self, now: Duration) -> Vec<Event> {
        if now < self.until {
            return Vec::new();
        }
        let shortest = Duration::from_millis(AUDIT_WINDOW_MS);
        self.length = match self.counted.is_empty() {
            true => shortest,
            false => (self.length.max(shortest) * 2).min(Duration::from_millis(AUDIT_WINDOW_MAX_MS)),
        };
        self.drain()
    }

    /// The counts so far, which are reset.
    pub(super) fn drain(&mut self) -> Vec<Event> {
        let event = |((address, status), count): ((Option<IpAddr>, u16), u64)| Event {
            address: address.map(|address| address.to_string()).unwrap_or_default(),
            status,
            reason: reason(status).into(),
            count,
            ..Event::new(Kind::Refusals)
        };
        let mut events: Vec<_> = std::mem::take(&mut self.counted).into_iter().map(event).collect();
        events.sort_by(|a, b| (&a.address, a.status).cmp(&(&b.address, b.status)));
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_few_get_their_own_records_and_the_rest_is_counted() {
        let mut flood = Flood::default();
        let address = "10.0.0.1".parse().unwrap();
        let itemised = (0..1000).filter(|_| flood.itemises(at(5_000), address, 401)).count();
        assert_eq!(itemised, 10);
        assert!(flood.ended(at(5_999)).is_empty(), "the window runs");
        let events = flood.ended(at(6_000));
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].count, events[0].address.as_str()), (990, "10.0.0.1"));
        assert_eq!((events[0].status, events[0].reason.as_str()), (401, "unauthenticated"));
        assert!(flood.ended(at(6_000)).is_empty());
    }

    #[test]
    fn many_addresses_take_bounded_memory() {
        let mut flood = Flood::default();
        for i in 0..100_000u32 {
            flood.itemises(at(1), IpAddr::V4(i.into()), 401);
        }
        let events = flood.ended(at(2_000));
        assert_eq!(events.len(), AUDIT_REFUSAL_PAIRS_MAX + 1);
        assert_eq!(events.iter().map(|event| event.count).sum::<u64>(), 100_000 - 10);
        assert_eq!(events.iter().filter(|event| event.address.is_empty()).count(), 1);
    }

    #[test]
    fn a_flood_that_lasts_a_day_leaves_few_records() {
        let mut flood = Flood::default();
        let address = "10.0.0.1".parse().unwrap();
        let mut records = 0;
        for second in 0..86_400 {
            records += flood.ended(at(second * 1000)).len();
            records += (0..20).filter(|_| flood.itemises(at(second * 1000), address, 429)).count();
        }
        assert!(records < 20_000, "{records}");
        // After a quiet while refusals get their own records again.
        flood.ended(at(100_000_000));
        flood.ended(at(100_064_000));
        assert!(flood.itemises(at(100_065_000), address, 429));
        assert_eq!(flood.until, at(100_066_000));
    }
}
