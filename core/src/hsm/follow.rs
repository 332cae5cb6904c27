//! Follows what other nodes write to the shared store: invalidates what is cached, confirms the caches, and opens the
//! Operational phase again after a restore at another node.

use std::sync::Arc;
use std::time::Duration;

use casemate_api::limits::{LOCK_WAIT_MS, STORE_BEAT_MS};

use crate::crypto::secret::DomainKey;
use crate::error::Error;
use crate::hsm::Hsm;
use crate::hsm::phase::{Operational, Phase};
use crate::keys::counters::Counters;
use crate::rows::path::generation_pointer;
use crate::runtime::pool::race;
use crate::runtime::{BoxFuture, Clock, First, first};
use crate::store::{Event, Path, Range, Read, Revision, Store, StoreError, Watch};

/// What the store answered about its newest state, and when it was asked.
struct Beat {
    asked: Duration,
    newest: Revision,
    /// The revision of the generation pointer.
    pointer: Option<Revision>,
}

/// What happens beside the watch: waiting for the time of the next question, or for its answer.
enum Turn {
    Ask,
    Answered(Result<Beat, StoreError>),
}

/// A node that follows the shared store.
pub(super) trait Follower: Sync {
    /// The shared store.
    fn store(&self) -> &dyn Store;
    /// The clock of the node.
    fn clock(&self) -> &dyn Clock;
    /// Passes an event to the tables.
    fn apply_event(&self, event: &Event);
    /// Every change up to the moment `asked` was reported. At that moment the generation pointer was of the revision `pointer`.
    fn confirm(&self, asked: Duration, pointer: Option<Revision>);
    /// A majority has answered what it was asked at the moment `asked`.
    fn answered(&self, asked: Duration);
    /// Opens the tables again if the generation pointer, which is of the revision `found`, was moved; else has them mirror the setting
    /// for a lost majority.
    fn follow_pointer(&self, found: Option<Revision>) -> BoxFuture<'_, ()>;
}

/// Watches the shared store forever on behalf of `node`.
pub(super) async fn keep_watching(node: &impl Follower) {
    loop {
        let Ok(watch) = watch_rows(node.store()).await else {
            node.clock().sleep(RETRY).await;
            continue;
        };
        // Rows cached until now may be older than the revision at which the watch begins.
        node.apply_event(&Event::Lost);
        let reported = follow(node, watch).await;
        node.apply_event(&Event::Lost);
        if !reported {
            // Watches that end at once would otherwise empty the caches as fast as the store answers.
            node.clock().sleep(RETRY).await;
        }
    }
}

/// Applies what `watch` reports until it ends. Returns whether there was anything.
async fn follow(node: &impl Follower, mut watch: Box<dyn Watch>) -> bool {
    let shared = node.store().is_shared();
    let mut turn: BoxFuture<'_, Turn> = if shared { ask(node) } else { Box::pin(std::future::pending()) };
    let mut waiting: Option<Beat> = None;
    let mut reported = false;
    loop {
        match first(watch.next(), turn.as_mut()).await {
            First::Left(event) => {
                node.apply_event(&event);
                match event {
                    Event::Changed { path, revision } => {
                        reported = true;
                        if path == generation_pointer() {
                            node.follow_pointer(Some(revision)).await;
                        }
                    }
                    Event::Progress(revision) => {
                        reported = true;
                        if let Some(beat) = waiting.take_if(|beat| beat.newest <= revision) {
                            node.confirm(beat.asked, beat.pointer);
                        }
                    }
                    Event::Lost | Event::Compacted => return reported,
                }
            }
            First::Right(Turn::Ask) => turn = ask(node),
            First::Right(Turn::Answered(answer)) => {
                if let Ok(beat) = answer {
                    node.answered(beat.asked);
                    node.follow_pointer(beat.pointer).await;
                    waiting.get_or_insert(beat);
                    watch.ask_progress();
                }
                turn = Box::pin(async {
                    node.clock().sleep(Duration::from_millis(STORE_BEAT_MS)).await;
                    Turn::Ask
                });
            }
        }
    }
}

fn ask(node: &impl Follower) -> BoxFuture<'_, Turn> {
    Box::pin(async {
        let asked = node.clock().monotonic();
        let range = Range { keys_only: true, ..Range::prefix(&generation_pointer(), 1) };
        let page = node.store().range(range, Read::Fresh).await;
        Turn::Answered(page.map(|page| Beat {
            asked,
            newest: page.revision,
            pointer: page.rows.first().map(|(_, row)| row.revision),
        }))
    })
}

/// A watch on all rows of all generations, from now on.
async fn watch_rows(store: &dyn Store) -> Result<Box<dyn Watch>, StoreError> {
    let rows = || Path(Box::from([]));
    let one = Range { keys_only: true, ..Range::prefix(&generation_pointer(), 1) };
    let now = store.range(one, Read::Fresh).await?.revision;
    store.watch(rows(), now).await
}

impl Follower for Hsm {
    fn store(&self) -> &dyn Store {
        &*self.device().platform.store
    }

    fn clock(&self) -> &dyn Clock {
        &*self.device().platform.clock
    }

    /// Also while the Operational phase is suspended in Failed. A phase that is opened later has an empty cache.
    fn apply_event(&self, event: &Event) {
        self.store_health().reported(Follower::clock(self).monotonic(), event);
        if let Some(op) = self.phase().operational_in_memory() {
            op.tables.apply_event(event);
        }
    }

    fn confirm(&self, asked: Duration, pointer: Option<Revision>) {
        self.store_health().confirmed(asked);
        if let Some(op) = self.phase().operational_in_memory() {
            op.tables.confirm(asked, pointer);
        }
    }

    fn answered(&self, asked: Duration) {
        if let Some(op) = self.phase().operational_in_memory() {
            op.tables.answered(asked);
        }
    }

    fn follow_pointer(&self, found: Option<Revision>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.follow_moved_pointer(found).await;
            if let Some(op) = self.operational() {
                op.tables.mirror_without_majority(found).await;
            }
        })
    }
}

impl Hsm {
    /// Watches the shared store forever and invalidates cached rows that others have changed. Run it in the background.
    pub async fn keep_watching(self: Arc<Self>) {
        keep_watching(&*self).await;
    }

    /// Opens the Operational phase again if the generation pointer is of another revision than the one it was opened at: the
    /// data was replaced at another node. Requests that still run on the old phase are told to try again when they write.
    async fn follow_moved_pointer(&self, found: Option<Revision>) {
        let moved = |phase: &Phase| match phase {
            Phase::Operational(op) => found.is_some_and(|found| op.tables.pointer() < found),
            Phase::Unprovisioned(_) | Phase::Locked(_) | Phase::Failed(_) => false,
        };
        if !moved(&self.phase()) {
            return;
        }
        // A restore at this node holds the lock until it has opened the phase itself.
        let _guard = self.lock_transitions().await;
        let phase = self.phase();
        let (Phase::Operational(old), true) = (&*phase, moved(&phase)) else { return };
        let old = old.clone();
        drop(phase);
        tracing::info!(target: "hsm", "the HSM's data was replaced at another node");
        if self.reopen(&old).await {
            // Waiting for its last holder here would keep the watch from going on.
            self.close_later(&old);
        }
    }

    /// Replaces `old` by a phase on the current data, under the same Domain Key. If that data does not open, the HSM is Locked.
    /// The caller holds the lock on transitions, and closes `old` if this returns true.
    pub(super) async fn reopen(&self, old: &Operational) -> bool {
        self.reopen_with(old, None).await
    }

    /// [`Hsm::reopen`], with uses of keys that go on to be counted, if the data is the same.
    pub(super) async fn reopen_with(&self, old: &Operational, counters: Option<Arc<Counters>>) -> bool {
        let shared = self.device().platform.store.is_shared();
        let domain = DomainKey::new(*old.domain().expose());
        let mut opened = None;
        let opening = async {
            let opening = Operational::open_with(self.device().clone(), domain, counters.unwrap_or_default());
            opened = Some(Box::pin(opening).await);
        };
        if shared {
            // While the lock is held, the HSM cannot be locked.
            race(opening, self.clock().sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
        } else {
            opening.await;
        }
        let late = || Err(Error::Unavailable("The store did not answer in time.".into()));
        match opened.unwrap_or_else(late) {
            Ok(new) => self.enter(Phase::Operational(new)),
            // The beat finds the pointer moved, and tries again.
            Err(error @ (Error::Unavailable(_) | Error::Full(_))) if shared => {
                tracing::warn!(target: "hsm", %error, "the replaced data cannot be opened yet");
                return false;
            }
            Err(error) => {
                tracing::error!(target: "hsm", %error, "the restored data cannot be opened now; the HSM is Locked");
                self.enter(self.locked());
            }
        }
        old.retire();
        true
    }
}

/// Pause before a watch that cannot be opened, or that ended at once, is tried again.
const RETRY: Duration = Duration::from_secs(1);
