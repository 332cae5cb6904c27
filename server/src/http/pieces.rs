//! Long byte strings in separately allocated pieces.
//!
//! All memory is wiped when it is freed, and wiping megabytes at once would hold up a thread that serves requests. So a
//! long body or reply is never one block of memory there, and what is left of it is freed piece by piece.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use casemate_api::limits::{REPLY_PIECE_BYTES, REPLY_UNCUT_MAX_BYTES, REQUEST_BYTES};
use casemate_core::runtime::stall;
use tokio::runtime::Handle;

use super::budget::Grant;

/// A byte string of known length: a short one is a single piece, and costs nothing more than a vector.
#[derive(Default)]
pub struct Pieces {
    /// All but the last are full.
    first: Vec<u8>,
    more: VecDeque<Vec<u8>>,
    /// What they are counted in until they are taken apart.
    held: Option<Arc<Grant>>,
}

impl Drop for Pieces {
    fn drop(&mut self) {
        free_in_pieces(std::mem::take(&mut self.more), self.held.take());
    }
}

impl Pieces {
    /// Empty, with capacity for `bytes` bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut pieces = Self::default();
        pieces.first.reserve_exact(bytes.min(REPLY_PIECE_BYTES));
        pieces
    }

    /// Length of all pieces together, in bytes.
    pub fn len(&self) -> usize {
        self.iter().map(<[u8]>::len).sum()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// The same, counted in `grant` until they are taken apart or freed.
    pub fn holding(mut self, grant: Arc<Grant>) -> Self {
        self.held = Some(grant);
        self
    }

    /// The pieces: a single one of at most [`REPLY_UNCUT_MAX_BYTES`], or several of at most [`REPLY_PIECE_BYTES`].
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.first).chain(&self.more).map(Vec::as_slice)
    }

    /// The first piece and the remaining ones.
    pub fn apart(mut self) -> (Vec<u8>, VecDeque<Vec<u8>>) {
        (std::mem::take(&mut self.first), std::mem::take(&mut self.more))
    }

    /// Adds `bytes` at the end.
    pub fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let last = self.more.back_mut().unwrap_or(&mut self.first);
            let room = REPLY_PIECE_BYTES.saturating_sub(last.len());
            if room == 0 {
                self.more.push_back(Vec::with_capacity(bytes.len().min(REPLY_PIECE_BYTES)));
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(room));
            last.extend_from_slice(now);
            bytes = later;
        }
    }
}

impl From<Vec<u8>> for Pieces {
    /// Run it on the pool if `bytes` are more than [`REPLY_UNCUT_MAX_BYTES`].
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.len() <= REPLY_UNCUT_MAX_BYTES {
            return Self { first: bytes, more: VecDeque::new(), held: None };
        }
        stall::begins("cutting a long reply");
        let mut pieces = Self::with_capacity(REPLY_PIECE_BYTES);
        pieces.append(&bytes);
        pieces
    }
}

impl io::Write for Pieces {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // JSON comes in many small parts, and most replies are short.
        if self.more.is_empty() && self.first.len() + bytes.len() <= REPLY_PIECE_BYTES {
            self.first.extend_from_slice(bytes);
        } else {
            self.append(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Frees `pieces` that are no longer needed, one at a time, and yields to other tasks in between. `held`, the grant
/// that counts them, shrinks to what is left. Outside of a runtime there are no other tasks, and all are freed at once.
pub(super) fn free_in_pieces<P>(mut pieces: VecDeque<P>, held: Option<Arc<Grant>>)
where
    P: AsRef<[u8]> + Send + 'static,
{
    if pieces.len() <= 1 {
        return;
    }
    let Ok(runtime) = Handle::try_current() else { return stall::begins(WIPING) };
    let mut left: usize = pieces.iter().map(|piece| piece.as_ref().len()).sum();
    // Shrink at once: no copies of these will be made, and their client may send another request before they are freed.
    // Not below the base amount of a request, which may still be in memory.
    let shrink = move |left: usize| held.iter().for_each(|held| held.shrink(left.max(2 * REQUEST_BYTES)));
    shrink(left);
    runtime.spawn(async move {
        while let Some(piece) = pieces.pop_front() {
            left -= piece.as_ref().len();
            drop(piece);
            shrink(left);
            tokio::task::yield_now().await;
        }
    });
}

/// The label of [`free_in_pieces`] for `stall`, where it frees everything at once.
const WIPING: &str = "wiping unneeded pieces";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::budget::Budget;
    use crate::http::serve::ReplyBody;
    use http_body_util::BodyExt;
    use std::io::Write;

    const LONG: usize = 17 * REPLY_PIECE_BYTES + 1;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn bytes_are_cut_and_written_into_pieces_and_come_out_as_they_were() {
        let bytes: Vec<u8> = (0..LONG).map(|at| (at % 251) as u8).collect();
        for step in [1_000, REPLY_PIECE_BYTES, LONG] {
            let mut written = Pieces::with_capacity(10);
            bytes.chunks(step).for_each(|part| written.write_all(part).unwrap());
            for pieces in [written, Pieces::from(bytes.clone())] {
                assert_eq!((pieces.len(), pieces.is_empty(), pieces.iter().count()), (LONG, false, 18));
                assert!(pieces.iter().all(|piece| piece.len() <= REPLY_PIECE_BYTES));
                let body = ReplyBody::pieces(pieces);
                assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(LONG as u64));
                assert!(run(body.collect()).unwrap().to_bytes() == bytes, "in steps of {step}");
            }
        }
        let empty = Pieces::from(Vec::new());
        assert!(empty.is_empty());
        assert!(hyper::body::Body::is_end_stream(&ReplyBody::pieces(empty)));
    }

    #[test]
    fn an_unread_reply_is_freed_piece_by_piece() {
        let budget = Budget::new(8 << 20);
        let grant = budget.account([192, 0, 2, 1].into()).grant(LONG).unwrap();
        let before = stall::begun_here(WIPING);
        let reply = || ReplyBody::pieces(vec![7; LONG].into());
        run(async {
            drop(reply().holding(grant));
            assert_eq!(stall::begun_here(WIPING), before);
            assert!(budget.left() < 8 << 20, "what is still there counts");
            for _ in 0..40 {
                tokio::task::yield_now().await;
            }
            assert_eq!(budget.left(), 8 << 20);
            // The same before it is a body: a handler's reply whose client has left.
            let grant = budget.account([192, 0, 2, 1].into()).grant(LONG).unwrap();
            drop(Pieces::from(vec![7; LONG]).holding(grant));
            assert_eq!(stall::begun_here(WIPING), before);
            assert!(budget.left() < 8 << 20, "what is still there counts");
            for _ in 0..40 {
                tokio::task::yield_now().await;
            }
            assert_eq!(budget.left(), 8 << 20);
        });
        drop(reply());
        assert_eq!(stall::begun_here(WIPING), before + 1, "outside of a runtime it goes at once");
    }
}
