//! Reads a whole request body within its limits: size, memory of the client, and pace.
//!
//! A body may hold a passphrase or a key, so it lives in memory that is wiped. Nothing is trusted, least of all the
//! declared length: memory is allocated as bytes arrive, never more than four times as much, and counted before it is
//! allocated.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use casemate_api::limits::{BODY_COPIES, BODY_GRACE_MS, BODY_INLINE_MAX_BYTES, BODY_PACE_BYTES_PER_S};
use casemate_core::runtime::stall;
use casemate_core::runtime::{BoxFuture, Clock};
use hyper::body::{Bytes, Frame};
use zeroize::Zeroizing;

use super::budget::{Grant, NoRoom};
use super::pieces::free_in_pieces;

/// Why a body was not read. The connection is closed after any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Larger than the endpoint's limit (`413`).
    #[error("the body is too large")]
    TooLarge,
    /// Slower than `BODY_PACE_BYTES_PER_S` (`408`).
    #[error("the body came too slowly")]
    Slow,
    /// The client has used up its share of memory (`503`).
    #[error("too many large bodies at once")]
    Busy,
    /// The client closed the connection or broke the framing; a reply would not reach it.
    #[error("the client has disconnected")]
    Gone,
}

/// A complete body, possibly empty. Wiped when dropped.
#[derive(Default)]
pub struct Body {
    bytes: Zeroizing<Vec<u8>>,
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

/// A body as received: a long one in pieces, because joining them would hold up a serving thread for too long.
#[derive(Default)]
pub struct Received {
    /// All but the last are full.
    pieces: VecDeque<Zeroizing<Vec<u8>>>,
    length: usize,
    /// The memory grant that counts this body.
    grant: Option<Arc<Grant>>,
}

impl Drop for Received {
    /// The client may disconnect or be refused before the body is complete.
    fn drop(&mut self) {
        free_in_pieces(std::mem::take(&mut self.pieces), self.grant.take());
    }
}

impl Received {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the body has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Joins the pieces into one buffer. Run it on the pool if the body is long.
    pub fn into_body(mut self) -> Body {
        if self.pieces.len() <= 1 {
            return Body { bytes: self.pieces.pop_front().unwrap_or_default() };
        }
        stall::begins("joining a long body");
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.length));
        for piece in std::mem::take(&mut self.pieces) {
            bytes.extend_from_slice(&piece);
        }
        Body { bytes }
    }
}

/// Reads `body`, at most `limit` bytes, chunked or not. `grant` grows to cover the body and the copies made of it.
pub async fn read<B>(mut body: B, limit: usize, grant: &Arc<Grant>, clock: &dyn Clock) -> Result<Received, BodyError>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let hint = body.size_hint();
    if hint.lower() > limit as u64 {
        return Err(BodyError::TooLarge);
    }
    // The body will not exceed its declared length, so neither does the buffer.
    let limit = hint.exact().and_then(|exact| usize::try_from(exact).ok()).unwrap_or(limit);
    let received = Received { pieces: VecDeque::new(), length: 0, grant: Some(grant.clone()) };
    let mut into = Growing { received, room: 0, limit, grant };
    let mut pace = None;
    while let Some(frame) = next(&mut body, into.received.length, &mut pace, clock).await? {
        if let Ok(data) = frame.into_data() {
            into.append(&data)?;
        }
    }
    Ok(into.received)
}

/// A body that is being received.
struct Growing<'a> {
    received: Received,
    /// Capacity of all pieces together, in bytes.
    room: usize,
    limit: usize,
    grant: &'a Grant,
}

impl Growing<'_> {
    fn append(&mut self, mut data: &[u8]) -> Result<(), BodyError> {
        if self.received.length + data.len() > self.limit {
            return Err(BodyError::TooLarge);
        }
        while !data.is_empty() {
            if self.received.length == self.room {
                self.grow(data.len())?;
            }
            let (now, later) = data.split_at(data.len().min(self.room - self.received.length));
            if let Some(last) = self.received.pieces.back_mut() {
                last.extend_from_slice(now);
            }
            self.received.length += now.len();
            data = later;
        }
        Ok(())
    }

    /// Makes room for at least one more byte: the first piece grows up to the length of a piece, then another is
    /// started.
    fn grow(&mut self, needed: usize) -> Result<(), BodyError> {
        let left = self.limit - self.received.length;
        let first = self.room < BODY_INLINE_MAX_BYTES;
        let piece = match first {
            true => {
                (self.room + needed).max(self.room * GROWTH).max(FIRST_BYTES).min(self.limit).min(BODY_INLINE_MAX_BYTES)
            }
            false => left.min(BODY_INLINE_MAX_BYTES),
        };
        let room = if first { piece } else { self.room + piece };
        self.grant.cover(room * BODY_COPIES)?;
        // Grown by hand: a vector that grows on its own leaves its old bytes behind.
        let mut grown = Zeroizing::new(Vec::with_capacity(piece));
        if first && let Some(old) = self.received.pieces.pop_back() {
            grown.extend_from_slice(&old);
        }
        self.received.pieces.push_back(grown);
        self.room = room;
        Ok(())
    }
}

impl From<NoRoom> for BodyError {
    fn from(NoRoom: NoRoom) -> Self {
        BodyError::Busy
    }
}

/// The next frame. The clock is read only if the client makes us wait, which most do not.
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

/// The remaining time a client has under the minimum pace.
pub(super) struct Pace {
    began: Duration,
    wait: BoxFuture<'static, ()>,
}

impl Pace {
    fn start(clock: &dyn Clock) -> Self {
        Self { began: clock.monotonic(), wait: clock.sleep(Duration::from_millis(BODY_GRACE_MS)) }
    }

    /// Ready when the client should have sent more than `received` bytes by now.
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

/// Factor by which a buffer grows: old and new together are never more than the copies of the body will be.
const GROWTH: usize = 4;
const FIRST_BYTES: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use std::sync::Mutex;

    use crate::http::budget::Budget;

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

    /// Sends its pieces, with a pending poll before each.
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

    /// A grant of the only client of a budget of this size.
    fn grant(budget: usize) -> (Arc<Budget>, Arc<Grant>) {
        let budget = Budget::new(budget);
        let grant = budget.account([192, 0, 2, 1].into()).grant(0).unwrap();
        (budget, grant)
    }

    #[test]
    fn a_body_is_read_up_to_its_limit() {
        let (_budget, grant) = grant(1 << 20);
        let clock = Jumping::default();
        for (size, limit, expected) in [(0, 0, Ok(0)), (5, 5, Ok(5)), (6, 5, Err(BodyError::TooLarge))] {
            let got = run(read(Full::new(Bytes::from(vec![1; size])), limit, &grant, &clock));
            assert_eq!(got.map(|body| body.len()), expected);
            let chunked = halting(&[size], None);
            let got = run(read(chunked, limit, &grant, &Standing));
            assert_eq!(got.map(|body| body.len()), expected, "chunked");
        }
    }

    #[test]
    fn a_body_counts_with_its_copies_for_as_long_as_its_grant_lives() {
        let (budget, grant) = grant(1 << 20);
        let sent = |bytes: usize| run(read(Full::new(Bytes::from(vec![1; bytes])), 1 << 20, &grant, &Standing));
        let body = sent(100 << 10).unwrap();
        drop(body);
        assert_eq!(budget.left(), (1 << 20) - BODY_COPIES * (100 << 10));
        // A single client may use half of the budget.
        assert_eq!(sent(200 << 10).err(), Some(BodyError::Busy));
        drop(grant);
        assert_eq!(budget.left(), 1 << 20);
    }

    #[test]
    fn an_abandoned_body_is_freed_piece_by_piece() {
        let (budget, grant) = grant(8 << 20);
        let clock = Jumping::default();
        run(async {
            let body = read(Full::new(Bytes::from(vec![1; 1 << 20])), 1 << 20, &grant, &clock).await.unwrap();
            let before = stall::begun_here("wiping unneeded pieces");
            drop((body, grant));
            assert_eq!(stall::begun_here("wiping unneeded pieces"), before);
            assert!(budget.left() < 8 << 20, "what is still there counts");
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            assert_eq!(budget.left(), 8 << 20);
        });
    }

    fn capacity(body: &Received) -> usize {
        body.pieces.iter().map(|piece| piece.capacity()).sum()
    }

    #[test]
    fn a_long_body_is_put_together_as_it_came() {
        let (_budget, grant) = grant(1 << 30);
        let bytes: Vec<u8> = (0..300_000usize).map(|at| (at % 251) as u8).collect();
        for piece in [1_000, 65_536, 100_001, 300_000] {
            let mut into = Growing { received: Received::default(), room: 0, limit: 1 << 20, grant: &grant };
            bytes.chunks(piece).for_each(|piece| into.append(piece).unwrap());
            let got = into.received;
            assert_eq!((got.len(), capacity(&got) < 400_000), (bytes.len(), true));
            assert!(*got.into_body() == bytes[..], "in pieces of {piece}");
        }
    }

    #[test]
    fn a_declared_length_takes_no_memory_before_its_bytes() {
        let (budget, grant) = grant(1 << 30);
        let got = run(read(halting(&[], Some(67 << 20)), 67 << 20, &grant, &Standing));
        assert_eq!((got.map(|body| capacity(&body)).ok(), budget.left()), (Some(0), 1 << 30));
        let got = run(read(halting(&[10_000, 1], Some(67 << 20)), 67 << 20, &grant, &Standing));
        assert_eq!(got.map(|body| capacity(&body)).ok(), Some(40_000));
        let got = run(read(halting(&[10, 10], Some(20)), 67 << 20, &grant, &Standing));
        assert_eq!(got.map(|body| capacity(&body)).ok(), Some(20));
    }

    /// A clock that stands still.
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
        let (_budget, grant) = grant(1 << 20);
        let clock = Jumping::default();
        let got = run(read(halting(&[1, 1, 1], None), 1 << 20, &grant, &clock));
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
        let got = run(read(Breaking(false), 10, &grant(1 << 20).1, &Standing));
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
