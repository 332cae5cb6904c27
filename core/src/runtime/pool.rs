//! Threads for work that would block a serving thread for too long.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use casemate_api::limits::BODY_INLINE_MAX_BYTES;
use casemate_api::sentences;
use futures_channel::oneshot;

use crate::error::Error;
use crate::runtime::BoxFuture;
use crate::runtime::party::Party;

/// Kinds of work. Each kind has its own threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Key operations of a millisecond and more.
    Crypto,
    /// Work of seconds: generating RSA keys, testing the primes of imported ones. Separate, so that it cannot delay the use
    /// of keys.
    Slow,
    /// Passphrase hashing. Separate, so that a flood of logins cannot delay key operations.
    Kdf,
    /// Backups and restores, page by page. Separate, so that key operations cannot delay them.
    Backup,
}

/// Worker threads.
pub trait Pool: Send + Sync {
    /// Queues `job`. It runs on a thread for `work` when it is `party`'s turn, or is dropped without running, now or later, if
    /// the queue is full and other parties take precedence.
    fn spawn(&self, work: Work, party: Party, job: Job);
}

/// A job for the pool.
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs `job` on the pool for `party` and waits for its result.
///
/// # Errors
/// [`Error::Unavailable`] if the pool dropped the job without running it; [`Error::Internal`] if it panicked.
pub async fn run_on<T: Send + 'static>(
    pool: &dyn Pool,
    work: Work,
    party: Party,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (send, receive) = oneshot::channel();
    let begun = Arc::new(AtomicBool::new(false));
    let begin = begun.clone();
    let job = move || {
        begin.store(true, Ordering::SeqCst);
        // The caller may no longer wait for the result.
        let _ = send.send(job());
    };
    pool.spawn(work, party, Box::new(job));
    // If the job returns no value, report whether it had begun.
    receive.await.map_err(|_| match begun.load(Ordering::SeqCst) {
        true => Error::internal("a job of the pool panicked"),
        false => Error::Unavailable(sentences::BUSY.into()),
    })
}

/// Runs `job`, which processes `bytes` bytes: on this thread up to [`BODY_INLINE_MAX_BYTES`], else on the pool for `party`.
///
/// # Errors
/// Those of [`run_on`].
pub async fn run_by_size<T: Send + 'static>(
    pool: &dyn Pool,
    bytes: usize,
    party: Party,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    if bytes <= BODY_INLINE_MAX_BYTES { Ok(job()) } else { run_on(pool, Work::Crypto, party, job).await }
}

/// Waits until `a` or `b` has resolved, whichever is first, and drops the other.
pub(crate) async fn race<T>(a: impl Future<Output = T>, mut b: BoxFuture<'static, ()>) {
    let mut a = std::pin::pin!(a);
    std::future::poll_fn(|context| {
        let done = a.as_mut().poll(context).is_ready() || b.as_mut().poll(context).is_ready();
        if done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
