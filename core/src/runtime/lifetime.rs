//! The lifetime of an Operational phase: from when on it refuses work, and when its last holder has released it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use casemate_api::sentences;
use futures_channel::oneshot;

use crate::error::Error;
use crate::runtime::party::Party;
use crate::runtime::pool::{Pool, Work, run_on};

/// A flag that is set once: from then on a phase refuses work. Clones share the flag.
#[derive(Clone, Default)]
pub struct Closed(Arc<AtomicBool>);

impl Closed {
    /// From now on [`Closed::check`] refuses.
    pub fn close(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// [`Error::Precondition`] once closed.
    pub fn check(&self) -> Result<(), Error> {
        if self.0.load(Ordering::SeqCst) { Err(Error::Precondition(sentences::WRONG_STATE.into())) } else { Ok(()) }
    }
}

/// The life of one Operational phase.
pub struct Lifetime {
    /// Closed first: refuses the use of keys. The tables, closed after it, refuse everything.
    pub(crate) retired: Closed,
    /// Resolves when the last holder, the phase itself or a job on the pool, has dropped its reference to the sender.
    released: Mutex<Option<oneshot::Receiver<()>>>,
    holder: Arc<oneshot::Sender<()>>,
}

impl Default for Lifetime {
    fn default() -> Self {
        let (holder, released) = oneshot::channel();
        Self { retired: Closed::default(), released: Mutex::new(Some(released)), holder: Arc::new(holder) }
    }
}

impl Lifetime {
    /// Runs `job` on the pool for `party`, for work that would block a serving thread for too long.
    ///
    /// # Errors
    /// [`Error::Precondition`] if the phase has ended before the job runs; those of [`run_on`].
    pub async fn off_thread<T: Send + 'static>(
        &self,
        pool: &dyn Pool,
        work: Work,
        party: Party,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (retired, holder) = (self.retired.clone(), self.holder.clone());
        let job = move || {
            let done = retired.check().map(|()| job());
            drop(holder);
            done
        };
        run_on(pool, work, party, job).await?
    }

    /// A future that resolves, with `Canceled`, when the last holder is gone. Only the first call returns it.
    pub(crate) fn released(&self) -> Option<oneshot::Receiver<()>> {
        self.released.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
