//! How long a phase lasts: who it refuses from when on, and when its last holder is gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use casemate_api::limits::BODY_INLINE_MAX_BYTES;
use casemate_api::sentences;
use futures_channel::oneshot;

use crate::error::Error;
use crate::runtime::party::Party;
use crate::runtime::pool::{Pool, Work, run_on};

/// Refuses everything once the phase it belongs to is closed.
#[derive(Clone, Default)]
pub struct Closed(Arc<AtomicBool>);

impl Closed {
    /// From now on [`Closed::check`] refuses.
    pub fn close(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// `Err` once closed.
    pub fn check(&self) -> Result<(), Error> {
        if self.0.load(Ordering::SeqCst) { Err(Error::Precondition(sentences::WRONG_STATE.into())) } else { Ok(()) }
    }
}

/// The life of one Operational phase.
pub struct Lifetime {
    /// Refuses the use of keys; comes before the end of the tables, which refuse everything.
    pub(crate) retired: Closed,
    /// Resolves when the last holder is gone, the phase itself and jobs on the pool alike: each holds the sender.
    gone: Mutex<Option<oneshot::Receiver<()>>>,
    alive: Arc<oneshot::Sender<()>>,
}

impl Default for Lifetime {
    fn default() -> Self {
        let (alive, gone) = oneshot::channel();
        Self { retired: Closed::default(), gone: Mutex::new(Some(gone)), alive: Arc::new(alive) }
    }
}

impl Lifetime {
    /// Runs `job` on the pool, unless the phase has ended by then: for work that would stall a serving thread.
    pub async fn off_thread<T: Send + 'static>(
        &self,
        pool: &dyn Pool,
        work: Work,
        party: Party,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (retired, alive) = (self.retired.clone(), self.alive.clone());
        let job = move || {
            let done = retired.check().map(|()| job());
            drop(alive);
            done
        };
        run_on(pool, work, party, job).await?
    }

    /// What resolves when the last holder is gone; only the first who asks is told.
    pub(crate) fn gone(&self) -> Option<oneshot::Receiver<()>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Runs `job` on this thread, or on the pool if it goes over more bytes than a small body has.
pub async fn by_size<T: Send + 'static>(
    pool: &dyn Pool,
    bytes: usize,
    party: Party,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    if bytes <= BODY_INLINE_MAX_BYTES { Ok(job()) } else { run_on(pool, Work::Crypto, party, job).await }
}
