//! Reads a request body whole, within its bounds: size, a shared budget of memory, and pace.
//!
//! A body may hold a passphrase or a key, so it lives in memory that is wiped. Nothing is trusted, the declared length
//! least of all: memory is taken as bytes arrive, so that a promise of 67 MiB costs its maker 67 MiB of sending.

use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use casemate_api::limits::{BODY_GRACE_MS, BODY_PACE_BYTES_PER_S, BODY_SMALL_BYTES};
use casemate_core::platform::{BoxFuture, Clock};
use hyper::body::{Bytes, Frame};
use zeroize::Zeroizing;

/// Why a body was not read. After any of them the connection is not worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Larger than the endpoint takes (`413`).
    #[error("the body is too large")]
    TooLarge,
    /// Slower than `BODY_PACE_BYTES_PER_S` (`408`).
    #[error("the body came too slowly")]
    Slow,
    /// All large bodies together would hold more than the budget (`503`).
    #[error("too many large bodies at once")]
    Busy,
    /// The client closed the connection or broke the framing; nobody is left to answer.
    #[error("the client has gone")]
    Gone,
}

/// A body that was read, or none. Wiped when dropped; what it took of the budget goes back then.
#[derive(Default)]
pub struct Body {
    bytes: Zeroizing<Vec<u8>>,
    _grant: Option<Grant>,
}

impl Deref for Body {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Memory that all large bodies share.
pub struct Budget(AtomicUsize);

impl Budget {
    /// `bytes` to share.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(bytes)))
    }

    /// Bytes not taken.
    pub fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Part of a [`Budget`].
struct Grant {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Grant {
    fn grow(&mut self, bytes: usize) -> Result<(), BodyError> {
        let more = bytes.saturating_sub(self.bytes);
        let take = |left: usize| left.checked_sub(more);
        self.budget.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(|_| BodyError::Busy)?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Reads `body`, at most `limit` bytes, chunked or not. Bodies above `BODY_SMALL_BYTES` draw on `budget`.
pub async fn read<B>(mut body: B, limit: usize, budget: &Arc<Budget>, clock: &dyn Clock) -> Result<Body, BodyError>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let hint = body.size_hint();
    if hint.lower() > limit as u64 {
        return Err(BodyError::TooLarge);
    }
    // The body will not outgrow its declared length: then neither does the memory.
    let limit = hint.exact().and_then(|exact| usize::try_from(exact).ok()).unwrap_or(limit);
    let mut into = Growing {
        bytes: Zeroizing::new(Vec::with_capacity(if hint.exact().is_some() { limit.min(BODY_SMALL_BYTES) } else { 0 })),
        limit,
        grant: Grant { budget: Arc::clone(budget), bytes: 0 },
    };
    let mut pace = None;
    while let Some(frame) = next(&mut body, into.bytes.len(), &mut pace, clock).await? {
        if let Ok(data) = frame.into_data() {
            into.append(&data)?;
        }
    }
    Ok(Body { bytes: into.bytes, _grant: Some(into.grant) })
}

/// A body on its way in.
struct Growing {
    bytes: Zeroizing<Vec<u8>>,
    limit: usize,
    grant: Grant,
}

impl Growing {
    fn append(&mut self, data: &[u8]) -> Result<(), BodyError> {
        let needed = self.bytes.len() + data.len();
        if needed > self.limit {
            return Err(BodyError::TooLarge);
        }
        if needed > self.bytes.capacity() {
            let capacity = needed.max(self.bytes.capacity() * 2).min(self.limit);
            if capacity > BODY_SMALL_BYTES {
                self.grant.grow(capacity)?;
            }
            // By hand: a vector that grows on its own leaves its old bytes behind.
            let mut grown = Zeroizing::new(Vec::with_capacity(capacity));
            grown.extend_from_slice(&self.bytes);
            self.bytes = grown;
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

/// The next frame. The clock is asked only once the client keeps us waiting, which most do not.
pub(super) async fn next<B>(
    body: &mut B,
    received: usize,
    pace: &mut Option<Pace>,
    clock: &dyn Clock,
) -> Result<Option<Frame<Bytes>>, BodyError>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
        Poll::Ready(Some(Ok(frame))) => Poll::Ready(Ok(Some(frame))),
        Poll::Ready(Some(Err(_))) => Poll::Ready(Err(BodyError::Gone)),
        Poll::Ready(None) => Poll::Ready(Ok(None)),
        Poll::Pending => {
            pace.get_or_insert_with(|| Pace::start(clock)).poll_lost(cx, received, clock).map(|()| Err(BodyError::Slow))
        }
    })
    .await
}

/// How long the client may still take.
pub(super) struct Pace {
    began: Duration,
    wait: BoxFuture<'static, ()>,
}

impl Pace {
    fn start(clock: &dyn Clock) -> Self {
        Self { began: clock.monotonic(), wait: clock.sleep(Duration::from_millis(BODY_GRACE_MS)) }
    }

    /// Ready when fewer than `received` bytes would have been due by now.
    fn poll_lost(&mut self, cx: &mut Context<'_>, received: usize, clock: &dyn Clock) -> Poll<()> {
        let covered = Duration::from_millis((received as u64).saturating_mul(1_000) / BODY_PACE_BYTES_PER_S);
        let due = self.began + covered.max(Duration::from_millis(BODY_GRACE_MS));
        while self.wait.as_mut().poll(cx).is_ready() {
            let left = due.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return Poll::Ready(());
            }
            self.wait = clock.sleep(left);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use std::collections::VecDeque;
    use std::sync::Mutex;

    /// A clock that jumps to the end of every sleep.
    #[derive(Default)]
    struct Jumping(Arc<Mutex<Duration>>);

    impl Clock for Jumping {
        fn wall(&self) -> Duration {
            self.monotonic()
        }
        fn monotonic(&self) -> Duration {
            *self.0.lock().unwrap()
        }
        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            let now = Arc::clone(&self.0);
            Box::pin(async move { *now.lock().unwrap() += duration })
        }
    }

    /// Sends its pieces, each after a moment in which nothing is there.
    struct Halting {
        pieces: VecDeque<usize>,
        ready: bool,
        declared: Option<u64>,
    }

    impl hyper::body::Body for Halting {
        type Data = Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            self.ready = !self.ready;
            if self.ready {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(self.pieces.pop_front().map(|size| Ok(Frame::data(vec![1; size].into()))))
        }
        fn size_hint(&self) -> hyper::body::SizeHint {
            self.declared.map_or_else(Default::default, hyper::body::SizeHint::with_exact)
        }
    }

    fn halting(pieces: &[usize], declared: Option<u64>) -> Halting {
        Halting { pieces: pieces.iter().copied().collect(), ready: false, declared }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_body_is_read_up_to_its_limit() {
        let budget = Budget::new(1 << 20);
        let clock = Jumping::default();
        for (size, limit, expected) in [(0, 0, Ok(0)), (5, 5, Ok(5)), (6, 5, Err(BodyError::TooLarge))] {
            let got = run(read(Full::new(Bytes::from(vec![1; size])), limit, &budget, &clock));
            assert_eq!(got.map(|body| body.len()), expected);
            let chunked = halting(&[size], None);
            let got = run(read(chunked, limit, &budget, &Standing));
            assert_eq!(got.map(|body| body.len()), expected, "chunked");
        }
    }

    #[test]
    fn large_bodies_share_a_budget_and_give_it_back() {
        let budget = Budget::new(100 << 10);
        let clock = Jumping::default();
        let large = || Full::new(Bytes::from(vec![1; 80 << 10]));
        let first = run(read(large(), 1 << 20, &budget, &clock)).unwrap();
        assert_eq!(budget.left(), 20 << 10);
        assert_eq!(run(read(large(), 1 << 20, &budget, &clock)).err(), Some(BodyError::Busy));
        let small = run(read(Full::new(Bytes::from(vec![1; BODY_SMALL_BYTES])), 1 << 20, &budget, &clock));
        assert!(small.is_ok(), "small bodies are always let in");
        drop(first);
        assert_eq!(budget.left(), 100 << 10);
    }

    #[test]
    fn a_declared_length_takes_no_memory_before_its_bytes() {
        let budget = Budget::new(1 << 20);
        let got = run(read(halting(&[10], Some(67 << 20)), 67 << 20, &budget, &Standing));
        assert_eq!(got.map(|body| body.bytes.capacity()).ok(), Some(BODY_SMALL_BYTES));
        assert_eq!(budget.left(), 1 << 20);
    }

    /// Time stands still.
    struct Standing;
    impl Clock for Standing {
        fn wall(&self) -> Duration {
            Duration::ZERO
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    #[test]
    fn a_slow_body_is_given_up() {
        let budget = Budget::new(1 << 20);
        let clock = Jumping::default();
        let got = run(read(halting(&[1, 1, 1], None), 1 << 20, &budget, &clock));
        assert_eq!(got.err(), Some(BodyError::Slow));
        assert_eq!(clock.monotonic(), Duration::from_millis(BODY_GRACE_MS));
    }

    #[test]
    fn a_large_body_may_take_longer() {
        let clock = Jumping::default();
        let twenty_seconds = usize::try_from(BODY_PACE_BYTES_PER_S * 20).unwrap();
        run(async {
            let mut pace = Pace::start(&clock);
            poll_fn(|cx| pace.poll_lost(cx, twenty_seconds, &clock)).await;
        });
        assert_eq!(clock.monotonic(), Duration::from_secs(20));
    }

    #[test]
    fn a_broken_body_is_an_error() {
        let got = run(read(Breaking(false), 10, &Budget::new(0), &Standing));
        assert_eq!(got.err(), Some(BodyError::Gone));
    }

    /// One byte, then the connection breaks.
    struct Breaking(bool);
    impl hyper::body::Body for Breaking {
        type Data = Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            let first = !std::mem::replace(&mut self.0, true);
            Poll::Ready(Some(if first {
                Ok(Frame::data(Bytes::from_static(b"a")))
            } else {
                Err(std::io::Error::other("reset"))
            }))
        }
    }
}
