//! Everything the core needs from the world, passed down and never global, so that a whole HSM can run in one test.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use casemate_api::body::config::{Logging, Network};
use casemate_api::sentences;
use futures_channel::oneshot;

use crate::error::Error;
use crate::local::TlsIdentity;
use crate::party::Party;
use crate::secret::DeviceKey;
use crate::store::Store;

/// A future whose type does not matter.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The world as the core sees it.
#[derive(Clone)]
pub struct Platform {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
    /// What all members of a cluster share: users, namespaces, keys.
    pub store: Arc<dyn Store>,
    /// What belongs to this device alone: slots, salts, TLS key, clock offset.
    pub local: Arc<dyn Store>,
    /// Keeper of the Device Key.
    pub device: Arc<dyn DeviceKeeper>,
    /// Threads for work that would stall a serving thread.
    pub pool: Arc<dyn Pool>,
    /// What only the process around the core can do.
    pub host: Arc<dyn Host>,
}

/// Time.
pub trait Clock: Send + Sync {
    /// The hardware's wall clock, as time since 1970-01-01T00:00:00Z; the HSM's own time adds its stored offset.
    fn wall(&self) -> Duration;
    /// Time since some fixed instant; never goes back.
    fn monotonic(&self) -> Duration;
    /// Ends after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Randomness, from the kernel outside simulations.
pub trait Rng: Send + Sync {
    /// Fills `bytes` with random ones.
    fn fill(&self, bytes: &mut [u8]);
}

/// Keeps the Device Key: a file of mode 0600, a TPM.
pub trait DeviceKeeper: Send + Sync {
    /// The Device Key, made at the first call on a new device. `Err` is a sentence for the operator.
    fn load(&self) -> Result<DeviceKey, String>;
    /// Destroys the Device Key, and with it everything sealed under it. The next [`DeviceKeeper::load`] makes a new one.
    fn destroy(&self) -> Result<(), String>;
}

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

/// What only the process around the core can do. Reboot and shutdown answer at once and act after the running reply.
pub trait Host: Send + Sync {
    /// Marks, durably, that Device Key and stores are to be erased: the next boot, even one after a crash, does it before
    /// anything else.
    fn erase(&self) -> Result<(), String>;
    /// Start over: finish running requests, then run boot again.
    fn reboot(&self);
    /// End the process after running requests.
    fn shutdown(&self);
    /// Checks that TLS can be served with this key and chain, and gives what makes connections from then on get them;
    /// running ones stay. `Err` is a sentence for the client.
    fn serve_with(&self, identity: &TlsIdentity) -> Result<Swap, String>;
    /// Names and addresses the server is reached at, for a certificate; addresses have `IP:` in front.
    fn names(&self) -> Vec<String>;
    /// Serves at these addresses, too, as far as this machine has them, and no longer at those of an earlier call.
    fn use_network(&self, network: &Network) -> Applied;
    /// Logs as this says from now on.
    fn log_to(&self, logging: &Logging);
}

/// Puts what was checked in place.
pub type Swap = Box<dyn FnOnce() + Send>;

/// What came of a network configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Where the server listens now because of it, or did already.
    pub serving: Vec<SocketAddr>,
    /// Addresses that are not served, and why.
    pub stored: Vec<(IpAddr, String)>,
}
