//! Limits the changes that run at the same time, since they continue when their client disconnects. Parties share the
//! limit as clients share memory: none uses more than is left for all others, so that the next one can still begin.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_core::runtime::party::Party;

/// The running changes, counted by party.
pub(super) struct RunningChanges {
    most: usize,
    held: Mutex<HashMap<Party, usize>>,
}

/// One running change of one party, until it is dropped.
pub(super) struct RunningChange {
    changes: Arc<RunningChanges>,
    party: Party,
}

impl RunningChanges {
    /// At most `most` changes at the same time.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// Counts one more change; `None` if `party` already runs as many as are left for others.
    pub(super) fn begin(self: &Arc<Self>, party: Party) -> Option<RunningChange> {
        let mut held = self.lock();
        let left = self.most.saturating_sub(held.values().sum());
        let own = held.get(&party).copied().unwrap_or(0);
        if own >= left {
            return None;
        }
        held.insert(party, own + 1);
        Some(RunningChange { changes: Arc::clone(self), party })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Party, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunningChange {
    fn drop(&mut self) {
        let mut held = self.changes.lock();
        match held.get_mut(&self.party) {
            Some(count) if *count > 1 => *count -= 1,
            // A party without changes is removed, so that the map is never larger than the number of changes.
            Some(_) | None => _ = held.remove(&self.party),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_party_runs_more_changes_than_are_left_for_others() {
        let changes = RunningChanges::new(12);
        let all = |party| std::iter::from_fn(|| changes.begin(party)).collect::<Vec<_>>();
        let first = all(Party::Namespace(1));
        assert_eq!(first.len(), 6);
        let second = all(Party::Namespace(2));
        assert_eq!(second.len(), 3);
        assert!(changes.begin(Party::ROOT).is_some(), "another party can still begin");
        drop((first, second));
        assert!(changes.lock().is_empty());
    }
}
