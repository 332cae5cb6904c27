//! The queue in front of the password hash. A hash costs a tenth of a second of one core, so: equal attempts share one
//! run, one name from one address has one run at a time, addresses take turns, and the queue is bounded.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_api::limits::KDF_WAITING_MAX;
use futures_channel::oneshot;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::kdf;
use crate::limiter::{Attempt, Limiter};
use crate::platform::{Clock, Pool, Work};
use crate::users::Digest;

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The passphrase is right.
    Right,
    /// It is wrong, and the failure was counted.
    Wrong,
    /// Another attempt of the same name from the same address failed meanwhile.
    TooMany,
    /// Too many hashes wait already.
    Busy,
}

/// One attempt as it waits.
struct Ticket {
    attempt: Attempt,
    equal: Equal,
    passphrase: Zeroizing<Vec<u8>>,
    expected: Digest,
}

/// What makes two attempts equal: who, a keyed hash of the passphrase, and what it is compared with.
type Equal = (Attempt, [u8; 32], [u8; 32]);

/// Who shares a turn: an IPv4 address, or an IPv6 network of 64 bits.
type Neighbourhood = [u8; 8];

#[derive(Default)]
struct State {
    running: usize,
    waiting: usize,
    busy: HashSet<Attempt>,
    turns: VecDeque<Neighbourhood>,
    lines: HashMap<Neighbourhood, VecDeque<Ticket>>,
    answers: HashMap<Equal, Vec<oneshot::Sender<Verdict>>>,
}

/// The queue.
pub struct KdfQueue {
    state: Mutex<State>,
    pool: Arc<dyn Pool>,
    clock: Arc<dyn Clock>,
    limiter: Arc<Limiter>,
}

/// Hashes that run at once; the pool may run fewer.
const WORKERS: usize = 4;

impl KdfQueue {
    /// An empty queue.
    pub fn new(pool: Arc<dyn Pool>, clock: Arc<dyn Clock>, limiter: Arc<Limiter>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), pool, clock, limiter })
    }

    /// Checks `passphrase` against `expected`; a wrong one is counted by the limiter. `tag` is a keyed hash of name and
    /// passphrase by which equal attempts are known.
    pub async fn verify(
        self: &Arc<Self>,
        attempt: Attempt,
        tag: [u8; 32],
        passphrase: &[u8],
        expected: Digest,
    ) -> Verdict {
        let (send, receive) = oneshot::channel();
        let equal = (attempt.clone(), tag, expected.hash);
        {
            let mut state = self.state();
            if let Some(answers) = state.answers.get_mut(&equal) {
                answers.push(send);
            } else {
                let ours = neighbourhood(attempt.address);
                if state.waiting >= KDF_WAITING_MAX && !state.displace(ours) {
                    return Verdict::Busy;
                }
                state.waiting += 1;
                state.answers.insert(equal.clone(), vec![send]);
                let line = state.lines.entry(ours).or_default();
                let first = line.is_empty();
                line.push_back(Ticket { attempt, equal, passphrase: Zeroizing::new(passphrase.to_vec()), expected });
                if first {
                    state.turns.push_back(ours);
                }
            }
        }
        self.start_waiting();
        receive.await.unwrap_or(Verdict::Busy)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands tickets to the pool while workers are free. The lock is not held while the pool is called, because a
    /// simulation's pool runs the job at once.
    fn start_waiting(self: &Arc<Self>) {
        loop {
            let Some(ticket) = self.state().next() else { return };
            let run = Run { queue: self.clone(), ticket, verdict: Verdict::Busy };
            // A job that is refused, dropped or panics ends its run all the same, as `Busy`.
            self.pool.spawn(Work::Kdf, Box::new(move || run.hash()));
        }
    }

    /// Answers everybody who waits, for the end of the phase.
    pub fn abandon(&self) {
        let mut state = self.state();
        let lines = std::mem::take(&mut state.lines);
        state.turns.clear();
        state.waiting = 0;
        for ticket in lines.into_values().flatten() {
            state.answer(&ticket.equal, Verdict::Busy);
        }
    }

    fn judge(&self, ticket: &Ticket) -> Verdict {
        if self.limiter.blocks(&ticket.attempt, self.clock.monotonic()) {
            return Verdict::TooMany;
        }
        let hash = Zeroizing::new(ticket.expected.of(&ticket.passphrase));
        if hash.as_slice().ct_eq(ticket.expected.hash.as_slice()).into() {
            return Verdict::Right;
        }
        self.limiter.strike(ticket.attempt.clone(), self.clock.monotonic());
        Verdict::Wrong
    }
}

/// One hash, from the queue to its answer.
struct Run {
    queue: Arc<KdfQueue>,
    ticket: Ticket,
    verdict: Verdict,
}

impl Run {
    fn hash(mut self) {
        self.verdict = self.queue.judge(&self.ticket);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.running -= 1;
        state.busy.remove(&self.ticket.attempt);
        state.answer(&self.ticket.equal, self.verdict);
        drop(state);
        self.queue.start_waiting();
    }
}

impl State {
    /// Makes room for one of `ours` at the expense of the longest line, so that one address cannot keep all others out.
    fn displace(&mut self, ours: Neighbourhood) -> bool {
        let own = self.lines.get(&ours).map_or(0, VecDeque::len);
        let longest = self.lines.values_mut().max_by_key(|line| line.len()).filter(|line| line.len() > own + 1);
        // At least one stays in that line, so that its turn stays right.
        let Some(ticket) = longest.and_then(VecDeque::pop_back) else { return false };
        self.waiting -= 1;
        self.answer(&ticket.equal, Verdict::Busy);
        true
    }

    /// The next ticket whose name has no run of its own; neighbourhoods take turns.
    fn next(&mut self) -> Option<Ticket> {
        if self.running >= WORKERS {
            return None;
        }
        for _ in 0..self.turns.len() {
            let turn = self.turns.pop_front()?;
            let line = self.lines.get_mut(&turn)?;
            let ready = line.iter().position(|ticket| !self.busy.contains(&ticket.attempt));
            let ticket = ready.and_then(|position| line.remove(position));
            if line.is_empty() {
                self.lines.remove(&turn);
            } else {
                self.turns.push_back(turn);
            }
            if let Some(ticket) = ticket {
                self.waiting -= 1;
                self.running += 1;
                self.busy.insert(ticket.attempt.clone());
                return Some(ticket);
            }
        }
        None
    }

    fn answer(&mut self, equal: &Equal, verdict: Verdict) {
        for answer in self.answers.remove(equal).unwrap_or_default() {
            // Whoever asked may have gone.
            let _ = answer.send(verdict);
        }
    }
}

fn neighbourhood(address: IpAddr) -> Neighbourhood {
    let mut shared = [0; 8];
    match address {
        IpAddr::V4(v4) => shared.iter_mut().zip(v4.octets()).for_each(|(to, from)| *to = from),
        IpAddr::V6(v6) => shared.iter_mut().zip(v6.octets()).for_each(|(to, from)| *to = from),
    }
    shared
}

impl Digest {
    fn of(&self, passphrase: &[u8]) -> [u8; 32] {
        match self.scheme {
            crate::users::Scheme::HmacSha256 => kdf::user_digest_v0(passphrase, &self.salt),
            crate::users::Scheme::Scrypt => kdf::user_digest(passphrase, &self.salt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimClock;
    use crate::users::Scheme;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// Keeps jobs until they are run, or drops them.
    #[derive(Default)]
    struct Held(Mutex<Vec<Box<dyn FnOnce() + Send>>>);

    impl Pool for Held {
        fn spawn(&self, _: Work, job: Box<dyn FnOnce() + Send>) -> bool {
            self.0.lock().unwrap().push(job);
            true
        }
    }

    struct Rig {
        queue: Arc<KdfQueue>,
        pool: Arc<Held>,
    }

    impl Rig {
        fn new() -> Self {
            let pool = Arc::new(Held::default());
            let queue = KdfQueue::new(pool.clone(), Arc::new(SimClock::new()), Arc::default());
            Self { queue, pool }
        }

        fn run_all(&self) {
            loop {
                let Some(job) = self.pool.0.lock().unwrap().pop() else { return };
                job();
            }
        }

        /// An attempt whose passphrase is right if it is `right`; the cheap digest keeps the tests quick.
        fn attempt(&self, address: &str, name: &str, passphrase: &str) -> impl Future<Output = Verdict> + use<> {
            let digest =
                Digest { scheme: Scheme::HmacSha256, salt: [1; 16], hash: kdf::user_digest_v0(b"right", &[1; 16]) };
            let attempt = Attempt::new(address.parse().unwrap(), name);
            let mut tag = [0; 32];
            tag.iter_mut().zip(passphrase.bytes()).for_each(|(to, from)| *to = from);
            let (queue, passphrase) = (self.queue.clone(), passphrase.to_owned());
            async move { queue.verify(attempt, tag, passphrase.as_bytes(), digest).await }
        }
    }

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn equal_attempts_share_one_hash_and_one_name_has_one_run_at_a_time() {
        let rig = Rig::new();
        let mut first = pin!(rig.attempt("10.0.0.1", "a", "right"));
        let mut equal = pin!(rig.attempt("10.0.0.1", "a", "right"));
        let mut other = pin!(rig.attempt("10.0.0.1", "a", "wrong"));
        assert!(poll(first.as_mut()).is_pending() && poll(equal.as_mut()).is_pending());
        assert!(poll(other.as_mut()).is_pending());
        assert_eq!(rig.pool.0.lock().unwrap().len(), 1);
        rig.run_all();
        assert_eq!(poll(first), Poll::Ready(Verdict::Right));
        assert_eq!(poll(equal), Poll::Ready(Verdict::Right));
        assert_eq!(poll(other), Poll::Ready(Verdict::Wrong));
    }

    #[test]
    fn a_name_that_failed_meanwhile_is_not_hashed_again() {
        let rig = Rig::new();
        let mut wrong = pin!(rig.attempt("10.0.0.1", "a", "wrong"));
        let mut right = pin!(rig.attempt("10.0.0.1", "a", "right"));
        assert!(poll(wrong.as_mut()).is_pending() && poll(right.as_mut()).is_pending());
        rig.run_all();
        assert_eq!(poll(wrong), Poll::Ready(Verdict::Wrong));
        assert_eq!(poll(right), Poll::Ready(Verdict::TooMany));
    }

    #[test]
    fn one_address_cannot_keep_the_others_out() {
        let rig = Rig::new();
        let mut flood: Vec<_> = (0..KDF_WAITING_MAX + WORKERS + 10)
            .map(|i| Box::pin(rig.attempt("10.0.0.1", &format!("n{i}"), "wrong")))
            .collect();
        let answers = flood.iter_mut().map(|attempt| poll(attempt.as_mut()));
        let refused = answers.filter(|answer| *answer == Poll::Ready(Verdict::Busy)).count();
        assert_eq!(refused, 10);
        let mut honest = pin!(rig.attempt("10.0.0.2", "admin", "right"));
        assert!(poll(honest.as_mut()).is_pending(), "it displaces one of the longest line");
        rig.run_all();
        assert_eq!(poll(honest), Poll::Ready(Verdict::Right));
    }

    #[test]
    fn a_job_that_is_dropped_answers_and_frees_its_place() {
        let rig = Rig::new();
        for _ in 0..2 * WORKERS {
            let mut attempt = pin!(rig.attempt("10.0.0.1", "a", "right"));
            assert!(poll(attempt.as_mut()).is_pending());
            rig.pool.0.lock().unwrap().clear();
            assert_eq!(poll(attempt), Poll::Ready(Verdict::Busy));
        }
        let mut attempt = pin!(rig.attempt("10.0.0.1", "a", "right"));
        assert!(poll(attempt.as_mut()).is_pending());
        rig.run_all();
        assert_eq!(poll(attempt), Poll::Ready(Verdict::Right));
    }

    #[test]
    fn the_end_of_the_phase_answers_all_who_wait() {
        let rig = Rig::new();
        let mut attempts: Vec<_> =
            (0..WORKERS + 3).map(|i| Box::pin(rig.attempt("10.0.0.1", &format!("n{i}"), "right"))).collect();
        attempts.iter_mut().for_each(|attempt| assert!(poll(attempt.as_mut()).is_pending()));
        rig.queue.abandon();
        let answered = attempts.iter_mut().map(|attempt| poll(attempt.as_mut())).filter(Poll::is_ready).count();
        assert_eq!(answered, 3);
    }
}
