//! Detects connections that are idle for too long, and clients that read replies too slowly.
//!
//! What a client has read is measured by what the kernel has accepted for it. That runs ahead of the client by as much
//! as the kernels of both sides buffer, and then stands still until they have room again. So bytes accepted early count
//! for a while, and a client that always reads at the minimum pace is never cut off.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Bounds;
use crate::http::budget::Grant;

/// The activity of a connection. One thread serves it; the atomics only satisfy the type system.
#[derive(Default)]
pub(super) struct Activity {
    /// Requests received.
    came: AtomicU64,
    /// Requests whose replies have not been handed to hyper completely.
    running: AtomicUsize,
    /// Pieces of replies held by hyper.
    held: AtomicUsize,
    /// Whether the kernel currently accepts no more bytes.
    blocked: AtomicBool,
    /// Bytes accepted by the kernel.
    taken: AtomicU64,
    /// How often a reply began when the client had read everything before it.
    debts: AtomicU64,
    /// Value of `taken` at the last such time.
    taken_before: AtomicU64,
}

impl Activity {
    /// Counts a new request.
    pub(super) fn begin(self: &Arc<Self>) -> Running {
        self.came.fetch_add(1, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }

    /// Whether the client still has something to read.
    fn owes(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0 || self.blocked.load(Ordering::Relaxed)
    }
}

/// A request whose reply is not yet handed over completely.
pub(super) struct Running(Arc<Activity>);

impl Running {
    /// The reply begins.
    pub(super) fn reply(&self) {
        let activity = &self.0;
        if !activity.owes() {
            activity.debts.fetch_add(1, Ordering::Relaxed);
            activity.taken_before.store(activity.taken.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Wraps a piece of the reply, which is tracked, with the grant that counts it, until hyper drops it.
    pub(super) fn piece(&self, bytes: Bytes, grant: Option<&Arc<Grant>>) -> Bytes {
        self.0.held.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Piece { bytes, _grant: grant.cloned(), activity: Arc::clone(&self.0) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Piece {
    bytes: Bytes,
    _grant: Option<Arc<Grant>>,
    activity: Arc<Activity>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.activity.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Monitors one connection. It is polled now and then, so what it detects is at most one interval late.
pub(super) struct Watch {
    bounds: Bounds,
    activity: Arc<Activity>,
    /// Since when nothing runs and nothing is to be read, and how many requests had been received by then.
    quiet: (Instant, u64),
    owing: Option<Owing>,
}

/// A client that has something to read.
struct Owing {
    debt: u64,
    /// What it had read at the last check.
    taken: u64,
    /// When it is cut off unless it reads more.
    until: Instant,
}

impl Watch {
    pub(super) fn new(bounds: Bounds, activity: Arc<Activity>, now: Instant) -> Self {
        Self { bounds, activity, quiet: (now, 0), owing: None }
    }

    /// The reason to close the connection now, if any.
    pub(super) fn look(&mut self, now: Instant) -> Option<&'static str> {
        if self.too_slow(now) {
            return Some("its client takes replies too slowly");
        }
        self.idle(now).then_some("its client asked for nothing")
    }

    fn idle(&mut self, now: Instant) -> bool {
        let came = self.activity.came.load(Ordering::Relaxed);
        let busy = self.activity.running.load(Ordering::Relaxed) > 0 || self.owing.is_some();
        if busy || came != self.quiet.1 {
            self.quiet = (now, came);
        }
        let allowed = if came == 0 { self.bounds.head } else { self.bounds.idle };
        now.duration_since(self.quiet.0) >= allowed
    }

    fn too_slow(&mut self, now: Instant) -> bool {
        if !self.activity.owes() {
            self.owing = None;
            return false;
        }
        let (debt, taken) = (self.activity.debts.load(Ordering::Relaxed), self.activity.taken.load(Ordering::Relaxed));
        let owing = match self.owing.take() {
            Some(owing) if owing.debt == debt => owing,
            _ => {
                let taken_before = self.activity.taken_before.load(Ordering::Relaxed);
                Owing { debt, taken: taken_before, until: now + self.bounds.reply_grace }
            }
        };
        let earned = Duration::from_millis((taken - owing.taken).saturating_mul(1_000) / self.bounds.reply_pace.max(1));
        let until = owing.until.max((owing.until + earned).min(now + self.bounds.reply_credit));
        self.owing = Some(Owing { debt, taken, until });
        now >= until
    }
}

/// A connection that counts the bytes accepted by the kernel.
pub(super) struct Counted<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.blocked.store(written.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.activity.taken.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: fn() -> Bounds = || Bounds {
        reply_grace: Duration::from_secs(30),
        reply_pace: 8 << 10,
        reply_credit: Duration::from_secs(600),
        ..Bounds::default()
    };

    /// A connection with a reply to read, and how its client reads it.
    struct Client {
        activity: Arc<Activity>,
        running: Running,
        watch: Watch,
        begun: Instant,
    }

    impl Client {
        fn new() -> Self {
            let activity = Arc::<Activity>::default();
            let begun = Instant::now();
            let (watch, running) = (Watch::new(BOUNDS(), Arc::clone(&activity), begun), activity.begin());
            Self { activity, running, watch, begun }
        }

        /// Reads `bytes(second)` in each of `seconds`; returns the second in which it was cut off.
        fn takes(&mut self, seconds: u64, bytes: impl Fn(u64) -> u64) -> Option<u64> {
            (0..seconds).find(|second| {
                self.activity.taken.fetch_add(bytes(*second), Ordering::Relaxed);
                let now = self.begun + Duration::from_secs(*second);
                second.is_multiple_of(5) && self.watch.look(now).is_some()
            })
        }
    }

    #[test]
    fn a_client_at_the_minimum_pace_is_never_cut_off() {
        let mut client = Client::new();
        client.running.reply();
        let _piece = client.running.piece(Bytes::from_static(b"x"), None);
        assert_eq!(client.takes(20_000, |_| 8 << 10), None);
        // The kernels accept 4 MiB at once, and nothing more before a third of it was read.
        let mut client = Client::new();
        client.running.reply();
        let _piece = client.running.piece(Bytes::from_static(b"x"), None);
        let in_lumps = |second: u64| match second {
            0 => 4 << 20,
            _ if second.is_multiple_of(171) => 171 * (8 << 10),
            _ => 0,
        };
        assert_eq!(client.takes(20_000, in_lumps), None);
    }

    #[test]
    fn a_client_that_reads_nothing_or_too_slowly_is_cut_off() {
        for drip in [0, 1, 4 << 10] {
            let mut client = Client::new();
            client.running.reply();
            let _piece = client.running.piece(Bytes::from_static(b"x"), None);
            let cut = client.takes(20_000, |_| drip).unwrap();
            assert!((30..70).contains(&cut), "{drip} bytes a second: {cut} s");
        }
    }

    #[test]
    fn reading_fast_earns_minutes_and_not_hours() {
        let mut client = Client::new();
        client.running.reply();
        let _piece = client.running.piece(Bytes::from_static(b"x"), None);
        let cut = client.takes(20_000, |second| if second < 10 { 100 << 20 } else { 0 }).unwrap();
        assert!((600..=615).contains(&cut), "{cut} s");
    }

    #[test]
    fn each_reply_has_its_own_grace() {
        let mut client = Client::new();
        for _ in 0..100 {
            client.running.reply();
            let piece = client.running.piece(Bytes::from_static(b"x"), None);
            assert_eq!(client.takes(26, |_| 1), None);
            drop(piece);
            client.begun += Duration::from_secs(26);
        }
    }

    #[test]
    fn a_reply_in_the_making_is_neither_late_nor_idle() {
        let mut client = Client::new();
        client.running.reply();
        assert_eq!(client.takes(20_000, |_| 0), None);
    }
}
