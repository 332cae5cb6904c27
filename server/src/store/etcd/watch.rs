//! Watches: what etcd reports, as the core wants it.

use std::sync::Arc;
use std::time::Duration;

use casemate_api::limits::STORE_HISTORY_EVENTS;
use casemate_core::runtime::BoxFuture;
use casemate_core::store::{Event, Path, Revision, StoreError, Watch};
use casemate_etcd::{Error, Notice};
use tokio::sync::{Notify, mpsc};

use super::{Shared, read_error};

/// Starts to watch the rows that begin with `prefix`, after the revision `from`.
pub(super) async fn start(shared: Arc<Shared>, prefix: &Path, from: Revision) -> Result<Box<dyn Watch>, StoreError> {
    // With `from` itself, which is left out of what is passed on: etcd tells no progress of a watch that begins at a revision
    // which does not exist yet, so where nobody writes a node would never know that it has seen everything.
    let watch = shared.client.watch(&shared.key(prefix), from.0.max(1).cast_signed()).await;
    let (events, queue) = mpsc::channel(STORE_HISTORY_EVENTS);
    let asked = Arc::new(Notify::new());
    match watch {
        Ok(watch) => drop(tokio::spawn(forward(shared, watch, from, events, asked.clone()))),
        Err(Error::Compacted) => drop(events.try_send(Event::Compacted)),
        Err(error) => return Err(read_error(&error)),
    }
    Ok(Box::new(Reported { queue, asked, ended: false }))
}

/// Passes on what etcd reports, until it ends or nobody listens. A listener that is too slow loses the watch.
async fn forward(
    shared: Arc<Shared>,
    mut watch: casemate_etcd::Watch,
    from: Revision,
    events: mpsc::Sender<Event>,
    asked: Arc<Notify>,
) {
    let mut asking = false;
    loop {
        let notice = tokio::select! {
            notice = watch.next() => notice,
            () = asked.notified() => {
                asking = true;
                match watch.request_progress() {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            }
            // etcd does not answer while it still catches up.
            () = tokio::time::sleep(ASK_AGAIN), if asking => {
                match watch.request_progress() {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            }
            () = events.closed() => return,
        };
        let passed = match notice {
            Ok(Notice::Changes { events: changes, .. }) => {
                let rows = changes.into_iter().filter_map(|change| change.kv);
                let changed = rows.map(|row| (shared.path(&row.key), Revision(row.mod_revision.cast_unsigned())));
                changed
                    .filter(|(_, revision)| *revision > from)
                    .try_for_each(|(path, revision)| events.try_send(Event::Changed { path, revision }))
            }
            Ok(Notice::Progress(revision)) if asking => {
                asking = false;
                events.try_send(Event::Progress(Revision(revision.cast_unsigned())))
            }
            // One that nobody has asked for.
            Ok(Notice::Progress(_)) => Ok(()),
            Err(Error::Compacted) => {
                let _ = events.try_send(Event::Compacted);
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the watch of etcd has ended");
                return;
            }
        };
        if passed.is_err() {
            return;
        }
    }
}

const ASK_AGAIN: Duration = Duration::from_millis(50);

struct Reported {
    queue: mpsc::Receiver<Event>,
    asked: Arc<Notify>,
    ended: bool,
}

impl Watch for Reported {
    fn next(&mut self) -> BoxFuture<'_, Event> {
        Box::pin(async {
            if self.ended {
                return std::future::pending().await;
            }
            let event = self.queue.recv().await.unwrap_or(Event::Lost);
            self.ended = matches!(event, Event::Lost | Event::Compacted);
            event
        })
    }

    fn ask_progress(&mut self) {
        self.asked.notify_one();
    }
}
