//! What etcd tells about itself, asked every few seconds so that whoever wants to know it asks nothing.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use casemate_api::limits::ETCD_LOOK_MS;
use casemate_core::store::Revision;
use casemate_core::store::facts::{Endpoint, Facts};
use casemate_etcd::proto::{RangeRequest, StatusResponse};
use casemate_etcd::{Address, Error, request};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Shared;

/// Looks at all endpoints, forever.
pub(super) async fn keep_looking(shared: Arc<Shared>) {
    let mut sample: Option<(Instant, Revision)> = None;
    loop {
        shared.look().await;
        if sample.is_none_or(|(taken, _)| taken.elapsed() >= SAMPLE_AGE) {
            if let Some((_, revision)) = sample
                && let Some(gone) = shared.is_gone(revision).await
            {
                shared.found_compacted(gone);
            }
            sample = shared.newest().await.ok().map(|revision| (Instant::now(), revision)).or(sample);
        }
        sleep(Duration::from_millis(ETCD_LOOK_MS)).await;
    }
}

impl Shared {
    /// What was seen last.
    pub(super) fn facts(&self) -> Facts {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn found_compacted(&self, gone: bool) {
        let before =
            std::mem::replace(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner).compacted_by_others, gone);
        if gone && !before {
            tracing::warn!("somebody else compacts etcd, so backups may break off: turn its automatic compaction off");
        }
    }

    /// Asks each endpoint for its status, all at the same time, and logs which of them can be used no longer, or again.
    pub(super) async fn look(self: &Arc<Self>) {
        let mut asked = JoinSet::new();
        let addresses = self.client.endpoints();
        for (at, address) in addresses.iter().cloned().enumerate() {
            let shared = self.clone();
            asked.spawn(async move { (at, shared.client.status_of(&address).await) });
        }
        let mut statuses: Vec<Option<Result<StatusResponse, Error>>> = addresses.iter().map(|_| None).collect();
        while let Some(joined) = asked.join_next().await {
            if let Ok((at, status)) = joined
                && let Some(place) = statuses.get_mut(at)
            {
                *place = Some(status);
            }
        }
        let seen = addresses.into_iter().zip(statuses.into_iter().flatten()).collect();
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let new = assemble(seen, &facts);
        log_changes(&facts, &new);
        *facts = new;
    }

    /// Whether the rows of `revision` are no longer kept. `None`: that was not found out.
    async fn is_gone(&self, revision: Revision) -> Option<bool> {
        let row = request::get(self.prefix.clone());
        let range = RangeRequest { revision: revision.0.cast_signed(), count_only: true, ..row };
        match self.client.range(range).await {
            Ok(_) => Some(false),
            Err(Error::Compacted) => Some(true),
            Err(_) => None,
        }
    }
}

/// What the endpoints have answered. What none of them tells is as it was `before`.
fn assemble(seen: Vec<(Address, Result<StatusResponse, Error>)>, before: &Facts) -> Facts {
    let mut facts = Facts { bytes: 0, quota_bytes: 0, endpoints: Vec::new(), ..before.clone() };
    for (address, status) in seen {
        let trouble = match status {
            Ok(status) => {
                facts.bytes = facts.bytes.max(status.db_size.max(0).cast_unsigned());
                // The smallest one is reached first. Before 3.6 it is not told.
                let quota = status.db_size_quota.max(0).cast_unsigned();
                facts.quota_bytes = if facts.quota_bytes == 0 { quota } else { quota.min(facts.quota_bytes) };
                facts.version = status.version;
                if status.leader == 0 { "it has no leader".to_owned() } else { String::new() }
            }
            Err(error) => error.to_string(),
        };
        facts.endpoints.push(Endpoint { address: address.to_string(), trouble });
    }
    facts
}

fn log_changes(old: &Facts, new: &Facts) {
    for Endpoint { address, trouble, .. } in &new.endpoints {
        let before = old.endpoints.iter().find(|endpoint| endpoint.address == *address);
        let before = before.is_none_or(|endpoint| endpoint.trouble.is_empty());
        match (before, trouble.is_empty()) {
            (true, false) => tracing::warn!(endpoint = address, why = trouble, "an endpoint of etcd cannot be used"),
            (false, true) => tracing::info!(endpoint = address, "an endpoint of etcd can be used again"),
            _ => {}
        }
    }
}

/// Nodes compact what is older than 70 minutes. A revision that is gone when it is as old as this was compacted by somebody else.
const SAMPLE_AGE: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests;
