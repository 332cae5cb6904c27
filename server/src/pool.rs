//! Threads for work that would stall a serving thread. Key operations, work of seconds and passphrase hashing have their
//! own each, so that neither a flood of logins nor the generation of RSA keys delays a signature.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use casemate_api::limits::{CRYPTO_WAITING_MAX, KDF_WAITING_MAX, SLOW_WAITING_MAX};
use casemate_core::platform::{Pool, Work};

use crate::queue::Queue;

/// Worker threads. They end when the last reference goes: jobs that run are finished, jobs that wait are dropped.
pub struct Workers {
    crypto: Kind,
    slow: Kind,
    kdf: Kind,
}

/// The threads for one kind of [`Work`].
struct Kind {
    queue: Arc<Queue<Job>>,
    threads: Vec<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Workers {
    /// Starts `crypto` threads for key operations, half as many for work of seconds, which shall leave room for the
    /// rest, and `kdf` threads for passphrase hashing; each at least one.
    pub fn start(crypto: usize, kdf: usize) -> io::Result<Arc<Workers>> {
        Ok(Arc::new(Workers {
            crypto: Kind::start("crypto", crypto, CRYPTO_WAITING_MAX)?,
            slow: Kind::start("slow", crypto / 2, SLOW_WAITING_MAX)?,
            kdf: Kind::start("kdf", kdf, KDF_WAITING_MAX)?,
        }))
    }

    /// One thread for key operations and one for hashing for every core.
    pub fn per_core() -> io::Result<Arc<Workers>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::start(cores, cores)
    }
}

impl Kind {
    fn start(name: &str, count: usize, waiting_max: usize) -> io::Result<Kind> {
        let mut kind = Kind { queue: Arc::new(Queue::new(waiting_max)), threads: Vec::new() };
        for _ in 0..count.max(1) {
            let queue = kind.queue.clone();
            kind.threads.push(std::thread::Builder::new().name(name.into()).spawn(move || work(&queue))?);
        }
        Ok(kind)
    }

    /// Waits for the jobs that run.
    fn join(&mut self) {
        let current = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // The last reference may have been held by a job.
            if thread.thread().id() != current {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Kind {
    /// Also lets the threads of a pool end that could not be started whole.
    fn drop(&mut self) {
        self.queue.discard();
    }
}

/// Body of a worker thread.
fn work(queue: &Queue<Job>) {
    while let Some(job) = queue.pop() {
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            // What the job was for is told by its caller, whose answer was dropped; the panic itself by the hook.
            tracing::error!("a job panicked");
        }
    }
}

impl Pool for Workers {
    fn spawn(&self, work: Work, job: Job) -> bool {
        let kind = match work {
            Work::Crypto => &self.crypto,
            Work::Slow => &self.slow,
            Work::Kdf => &self.kdf,
        };
        kind.queue.push(job).is_ok()
    }
}

impl Drop for Workers {
    /// What waits is dropped, so that its callers learn at once that it will not be done, and a stop is not held up by
    /// thousands of jobs. What runs is waited for, except for slow jobs: one may take half a minute, cannot be
    /// interrupted, and holds nothing that a stop or the next boot needs (no store, no file). Its thread ends by itself
    /// after it, or with the process.
    fn drop(&mut self) {
        for kind in [&self.crypto, &self.slow, &self.kdf] {
            kind.queue.discard();
        }
        self.crypto.join();
        self.kdf.join();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use casemate_core::Error;
    use casemate_core::platform::run_on;
    use pollster::block_on;

    use super::*;

    /// Keeps the only thread of a kind busy until something is sent, or the sender dropped.
    fn occupy(workers: &Workers, work: Work) -> mpsc::Sender<()> {
        let (started, running) = mpsc::channel();
        let (release, gate) = mpsc::channel();
        let blocking = Box::new(move || {
            started.send(()).unwrap();
            let _ = gate.recv();
        });
        assert!(workers.spawn(work, blocking));
        running.recv().unwrap();
        release
    }

    #[test]
    fn a_panicking_job_harms_only_itself() {
        let workers = Workers::start(1, 1).unwrap();
        let panicked = block_on(run_on(&*workers, Work::Crypto, || -> u8 { panic!("on purpose") }));
        // Not 503: that would say that nothing was begun.
        assert!(matches!(panicked, Err(Error::Internal(_))));
        assert!(matches!(block_on(run_on(&*workers, Work::Crypto, || 7)), Ok(7)));
    }

    #[test]
    fn a_full_queue_refuses_and_the_other_kinds_go_on() {
        let limits = [(Work::Crypto, CRYPTO_WAITING_MAX), (Work::Slow, SLOW_WAITING_MAX), (Work::Kdf, KDF_WAITING_MAX)];
        for (full, limit) in limits {
            let workers = Workers::start(1, 1).unwrap();
            let release = occupy(&workers, full);
            for _ in 0..limit {
                assert!(workers.spawn(full, Box::new(|| ())));
            }
            assert!(!workers.spawn(full, Box::new(|| ())), "{full:?}");
            for (other, _) in limits.into_iter().filter(|(other, _)| *other != full) {
                assert!(matches!(block_on(run_on(&*workers, other, || 7)), Ok(7)), "{other:?}");
            }
            drop(release);
        }
    }

    #[test]
    fn the_end_drops_what_waits_and_waits_for_what_runs() {
        let workers = Workers::start(1, 1).unwrap();
        let release = occupy(&workers, Work::Crypto);
        let done = Arc::new(AtomicUsize::new(0));
        let (held, dropped) = mpsc::channel::<()>();
        let waiting = {
            let done = done.clone();
            move || {
                drop(held);
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        assert!(workers.spawn(Work::Crypto, Box::new(waiting)));
        let end = std::thread::spawn(move || drop(workers));
        assert_eq!(dropped.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
        assert!(!end.is_finished(), "the running job is waited for");
        drop(release);
        end.join().unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 0, "what waited was not done");
    }

    #[test]
    fn the_end_does_not_wait_for_slow_jobs() {
        let workers = Workers::start(1, 1).unwrap();
        let release = occupy(&workers, Work::Slow);
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || {
            drop(workers);
            ended.send(()).unwrap();
        });
        assert_eq!(end.recv_timeout(PATIENCE), Ok(()));
        drop(release);
    }

    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
}
