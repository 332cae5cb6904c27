//! Threads for work that would stall a serving thread.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use casemate_api::sentences;
use futures_channel::oneshot;

use crate::error::Error;
use crate::runtime::BoxFuture;
use crate::runtime::party::Party;

/// Which workers a job belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Key operations of a millisecond and more.
    Crypto,
    /// Work of seconds: generating RSA keys, testing the primes of imported ones. Apart, so that it cannot delay the use
    /// of keys.
    Slow,
    /// Passphrase hashing, so that a flood of logins cannot delay key operations.
    Kdf,
    /// Backups and restores, page by page. Apart, so that keys of others cannot delay them.
    Backup,
}

/// Threads for work that would stall a serving thread.
pub trait Pool: Send + Sync {
    /// Queues `job`, which runs when it is `party`'s turn, on a thread of its kind; or drops it, now or later, when others
    /// have the better claim to its place.
    fn spawn(&self, work: Work, party: Party, job: Job);
}

/// What the pool runs.
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs `job` on the pool for `party` and waits for its value. `503` if there is no place for it.
pub async fn run_on<T: Send + 'static>(
    pool: &dyn Pool,
    work: Work,
    party: Party,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (send, receive) = oneshot::channel();
    let begun = Arc::new(AtomicBool::new(false));
    let begins = begun.clone();
    let job = move || {
        begins.store(true, Ordering::SeqCst);
        // The caller may have gone; its answer goes with it.
        let _ = send.send(job());
    };
    pool.spawn(work, party, Box::new(job));
    // Of a job that gives no value it is to be told whether anything was begun.
    receive.await.map_err(|_| match begun.load(Ordering::SeqCst) {
        true => Error::internal("a job of the pool panicked"),
        false => Error::Unavailable(sentences::BUSY.into()),
    })
}

/// Waits until `a` or `b` is done.
pub(crate) async fn first_of<T>(a: impl Future<Output = T>, mut b: BoxFuture<'static, ()>) {
    let mut a = std::pin::pin!(a);
    std::future::poll_fn(|context| {
        let done = a.as_mut().poll(context).is_ready() || b.as_mut().poll(context).is_ready();
        if done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
