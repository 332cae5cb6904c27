//! Places for changes, which run on when their client leaves. Parties share them as clients share memory: none holds more
//! than is left for all others, so that whoever comes next still finds one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_core::runtime::party::Party;

/// All places.
pub(super) struct Places {
    most: usize,
    held: Mutex<HashMap<Party, usize>>,
}

/// One place of one party; given back by dropping it.
pub(super) struct Place {
    places: Arc<Places>,
    party: Party,
}

impl Places {
    /// `most` to share.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// A place; `None` if `party` holds as many as are left for others.
    pub(super) fn take(self: &Arc<Self>, party: Party) -> Option<Place> {
        let mut held = self.lock();
        let left = self.most.saturating_sub(held.values().sum());
        let own = held.get(&party).copied().unwrap_or(0);
        if own >= left {
            return None;
        }
        held.insert(party, own + 1);
        Some(Place { places: Arc::clone(self), party })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Party, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.lock();
        match held.get_mut(&self.party) {
            Some(count) if *count > 1 => *count -= 1,
            // Who has none is forgotten, so that the map is never larger than the places are many.
            Some(_) | None => _ = held.remove(&self.party),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_party_holds_more_places_than_are_left_for_others() {
        let places = Places::new(12);
        let all = |party| std::iter::from_fn(|| places.take(party)).collect::<Vec<_>>();
        let first = all(Party::Namespace(1));
        assert_eq!(first.len(), 6);
        let second = all(Party::Namespace(2));
        assert_eq!(second.len(), 3);
        assert!(places.take(Party::ROOT).is_some(), "whoever comes next finds one");
        drop((first, second));
        assert!(places.lock().is_empty());
    }
}
