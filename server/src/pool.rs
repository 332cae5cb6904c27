//! Threads for work that would stall a serving thread. Key operations, slow work, passphrase hashing and backups have
//! threads of their own, so that neither a flood of logins nor the generation of RSA keys delays a signature or a
//! backup; and in front of each kind, the parties for whom the work is done take turns. Turns share the threads, and
//! the kernel's priorities share the cores: serving and key operations come before hashing and backups, and these
//! before slow work.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use casemate_api::limits::{
    BACKUP_WAITING_MAX, CRYPTO_WAITING_MAX, KDF_THREADS_MAX, KDF_WAITING_MAX, POOL_PARTIES_REMEMBERED, SLOW_WAITING_MAX,
};
use casemate_core::runtime::party::Party;
use casemate_core::runtime::pool::{Job, Pool, Work};

use crate::turns::{Bounds, Turns};

/// Worker threads. They end when the last reference is dropped: running jobs are finished, waiting jobs are dropped.
pub struct Workers {
    crypto: Kind,
    slow: Kind,
    kdf: Kind,
    backup: Kind,
}

/// The threads for one kind of [`Work`].
struct Kind {
    turns: Arc<Turns<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `crypto` threads for key operations, half as many for slow work, which must leave cores for the rest, and
    /// `kdf` threads for passphrase hashing; each at least one. Slow work gets at least two, so that one namespace can
    /// occupy all but one. The other kinds need no such limit: their jobs are short, and the next turn is another
    /// party's.
    pub fn start(crypto: usize, kdf: usize) -> io::Result<Arc<Workers>> {
        let slow = (crypto / 2).max(2);
        Ok(Arc::new(Workers {
            crypto: Kind::start("crypto", crypto, CRYPTO_WAITING_MAX, usize::MAX, 0)?,
            slow: Kind::start("slow", slow, SLOW_WAITING_MAX, slow - 1, 10)?,
            kdf: Kind::start("kdf", kdf, KDF_WAITING_MAX, usize::MAX, 5)?,
            backup: Kind::start("backup", 1, BACKUP_WAITING_MAX, usize::MAX, 5)?,
        }))
    }

    /// One thread for key operations per core, and as many for hashing, up to `KDF_THREADS_MAX`.
    pub fn per_core() -> io::Result<Arc<Workers>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::start(cores, cores.min(KDF_THREADS_MAX))
    }
}

impl Kind {
    /// `nice` lowers the priority of the threads (sched(7)): at 0 they compete equally, each step gives up about a
    /// tenth.
    fn start(name: &str, count: usize, waiting: usize, running: usize, nice: i32) -> io::Result<Kind> {
        let bounds = Bounds { waiting, running, remembered: POOL_PARTIES_REMEMBERED };
        let mut kind = Kind { turns: Arc::new(Turns::new(bounds)), threads: Vec::new() };
        for _ in 0..count.max(1) {
            let turns = kind.turns.clone();
            let body = move || {
                // On Linux this applies to the calling thread alone. If it fails, the threads work all the same.
                let _ = rustix::process::setpriority_process(None, nice);
                work(&turns);
            };
            kind.threads.push(std::thread::Builder::new().name(name.into()).spawn(body)?);
        }
        Ok(kind)
    }

    /// Waits for running jobs.
    fn join(&mut self) {
        let current = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // A job may have held the last reference, and a thread cannot join itself.
            if thread.thread().id() != current {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Kind {
    /// Also ends the threads of a pool that could not be started completely.
    fn drop(&mut self) {
        self.turns.discard();
    }
}

/// Body of a worker thread.
fn work(turns: &Turns<Job>) {
    while let Some((party, job)) = turns.pop() {
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            // The caller of the job notices, as its answer is dropped; the panic itself is logged by the hook.
            tracing::error!("a job panicked");
        }
        turns.done(party);
    }
}

impl Pool for Workers {
    fn spawn(&self, work: Work, party: Party, job: Job) {
        let kind = match work {
            Work::Crypto => &self.crypto,
            Work::Slow => &self.slow,
            Work::Kdf => &self.kdf,
            Work::Backup => &self.backup,
        };
        kind.turns.push(party, job);
    }
}

impl Drop for Workers {
    /// Waiting jobs are dropped, so that their callers learn at once that they will not be done, and a stop is not held
    /// up by thousands of jobs. Running jobs are awaited, except slow ones: one may take half a minute, cannot be
    /// interrupted, and holds nothing that a stop or the next boot needs (no store, no file). Its thread ends after it,
    /// or with the process.
    fn drop(&mut self) {
        for kind in [&self.crypto, &self.slow, &self.kdf, &self.backup] {
            kind.turns.discard();
        }
        self.crypto.join();
        self.kdf.join();
        self.backup.join();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use casemate_core::Error;
    use casemate_core::runtime::party::Neighbourhood;
    use casemate_core::runtime::pool::run_on;
    use pollster::block_on;

    use super::*;

    const HERE: Party = Party::Address(Neighbourhood::V4(1));

    /// Keeps a thread of a kind busy until something is sent, or the sender is dropped.
    fn occupy(workers: &Workers, work: Work, party: Party) -> mpsc::Sender<()> {
        let (started, running) = mpsc::channel();
        let (release, gate) = mpsc::channel();
        let blocking = Box::new(move || {
            started.send(()).unwrap();
            let _ = gate.recv();
        });
        workers.spawn(work, party, blocking);
        running.recv().unwrap();
        release
    }

    #[test]
    fn a_panicking_job_harms_only_itself() {
        let workers = Workers::start(1, 1).unwrap();
        let panicked = block_on(run_on(&*workers, Work::Crypto, HERE, || -> u8 { panic!("on purpose") }));
        // Not 503: that would mean that nothing was begun.
        assert!(matches!(panicked, Err(Error::Internal(_))));
        assert!(matches!(block_on(run_on(&*workers, Work::Crypto, HERE, || 7)), Ok(7)));
    }

    #[test]
    fn a_full_queue_refuses_and_the_other_kinds_go_on() {
        let limits = [
            (Work::Crypto, CRYPTO_WAITING_MAX),
            (Work::Slow, SLOW_WAITING_MAX),
            (Work::Kdf, KDF_WAITING_MAX),
            (Work::Backup, BACKUP_WAITING_MAX),
        ];
        for (full, limit) in limits {
            let workers = Workers::start(1, 1).unwrap();
            let mut release = vec![occupy(&workers, full, HERE)];
            if full == Work::Slow {
                release.push(occupy(&workers, full, Party::Hsm));
            }
            (0..limit).for_each(|_| workers.spawn(full, HERE, Box::new(|| ())));
            let refused = block_on(run_on(&*workers, full, HERE, || 7));
            assert!(matches!(refused, Err(Error::Unavailable(_))), "{full:?}: {refused:?}");
            for (other, _) in limits.into_iter().filter(|(other, _)| *other != full) {
                assert!(matches!(block_on(run_on(&*workers, other, HERE, || 7)), Ok(7)), "{other:?}");
            }
            drop(release);
        }
    }

    #[test]
    fn one_party_never_has_all_threads_for_slow_work() {
        for crypto in [1, 2, 8] {
            let workers = Workers::start(crypto, 1).unwrap();
            let threads = workers.slow.threads.len();
            let release: Vec<_> = (1..threads).map(|_| occupy(&workers, Work::Slow, HERE)).collect();
            let (send, begun) = mpsc::channel();
            workers.spawn(Work::Slow, HERE, Box::new(move || send.send(()).unwrap()));
            assert!(matches!(block_on(run_on(&*workers, Work::Slow, Party::ROOT, || 7)), Ok(7)));
            assert_eq!(begun.try_recv(), Err(mpsc::TryRecvError::Empty), "with {threads} threads");
            drop(release);
            assert_eq!(begun.recv_timeout(PATIENCE), Ok(()));
        }
    }

    #[test]
    fn a_displaced_job_is_busy_and_not_a_fault() {
        let workers = Workers::start(1, 1).unwrap();
        let release = occupy(&workers, Work::Kdf, HERE);
        let jobs = (0..KDF_WAITING_MAX).map(|_| Box::pin(run_on(&*workers, Work::Kdf, HERE, || 7)));
        let mut jobs: Vec<_> = jobs.collect();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for job in &mut jobs {
            assert!(job.as_mut().poll(&mut context).is_pending());
        }
        workers.spawn(Work::Kdf, Party::ROOT, Box::new(|| ()));
        let displaced = jobs.pop().map(block_on);
        assert!(matches!(displaced, Some(Err(Error::Unavailable(_)))), "{displaced:?}");
        drop(release);
        assert!(jobs.into_iter().all(|job| matches!(block_on(job), Ok(7))));
    }

    #[test]
    fn the_end_drops_what_waits_and_waits_for_what_runs() {
        let workers = Workers::start(1, 1).unwrap();
        let release = occupy(&workers, Work::Crypto, HERE);
        let done = Arc::new(AtomicUsize::new(0));
        let (held, dropped) = mpsc::channel::<()>();
        let waiting = {
            let done = done.clone();
            move || {
                drop(held);
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        workers.spawn(Work::Crypto, HERE, Box::new(waiting));
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
        let release = occupy(&workers, Work::Slow, HERE);
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
