//! The parts of a `multipart/form-data` body (RFC 7578) that is read as it comes: a backup and what to do with it.
//!
//! Trusts nothing of the body; `multer` does the framing. Of what is neither headers nor content yet only a little is kept,
//! so that headers without an end do not fill the memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use casemate_api::limits::PART_HEAD_MAX_BYTES;
use casemate_core::Error;
use casemate_core::runtime::BoxFuture;
use http_body_util::BodyDataStream;
use hyper::body::{Body, Bytes, Frame};

/// The parts of a body, one after the other.
pub struct Parts {
    form: multer::Multipart<'static>,
    waiting: Arc<AtomicUsize>,
}

/// One part.
pub struct Part {
    field: multer::Field<'static>,
    waiting: Arc<AtomicUsize>,
}

/// Gives the next piece of a body, `None` at its end.
pub type Pull = Box<dyn FnMut() -> BoxFuture<'static, Result<Option<Bytes>, Error>> + Send>;

impl Parts {
    /// The parts of the body that `pull` gives.
    pub fn new(content_type: Option<&[u8]>, pull: Pull) -> Result<Self, Error> {
        let header = content_type.and_then(|header| std::str::from_utf8(header).ok()).unwrap_or_default();
        let boundary =
            multer::parse_boundary(header).map_err(|_| Error::invalid("The body is not multipart/form-data."))?;
        let waiting = Arc::new(AtomicUsize::new(0));
        let pulled = Pulled { pull, running: None, given: false, waiting: waiting.clone() };
        Ok(Self { form: multer::Multipart::new(BodyDataStream::new(pulled), boundary), waiting })
    }

    /// The next part. The one before must have been read to its end.
    pub async fn next(&mut self) -> Result<Option<Part>, Error> {
        let field = self.form.next_field().await.map_err(broken)?;
        self.waiting.store(0, Ordering::Relaxed);
        Ok(field.map(|field| Part { field, waiting: self.waiting.clone() }))
    }
}

impl Part {
    /// Its name.
    pub fn name(&self) -> Option<&str> {
        self.field.name()
    }

    /// The next piece of its content.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = self.field.chunk().await.map_err(broken)?;
        self.waiting.store(0, Ordering::Relaxed);
        Ok(chunk)
    }
}

/// The error of the body below, if it was that; else the framing is broken.
fn broken(error: multer::Error) -> Error {
    if let multer::Error::StreamReadFailed(cause) = error
        && let Ok(cause) = cause.downcast::<Error>()
    {
        return *cause;
    }
    Error::invalid("The body is not whole multipart/form-data.")
}

/// A body as `multer` wants it: one piece per look, so that it does not gather what it was not asked for.
struct Pulled {
    pull: Pull,
    running: Option<BoxFuture<'static, Result<Option<Bytes>, Error>>>,
    given: bool,
    waiting: Arc<AtomicUsize>,
}

impl Body for Pulled {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if std::mem::take(&mut self.given) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut running = match self.running.take() {
            Some(running) => running,
            None => (self.pull)(),
        };
        let Poll::Ready(piece) = running.as_mut().poll(cx) else {
            self.running = Some(running);
            return Poll::Pending;
        };
        self.given = true;
        let Some(piece) = piece.transpose() else { return Poll::Ready(None) };
        let piece = piece.and_then(|bytes| {
            let waiting = self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
            // One piece may be larger; it is content then, and given on at once.
            if waiting > PART_HEAD_MAX_BYTES {
                return Err(Error::invalid("The headers of a part of the body are too long."));
            }
            Ok(Frame::data(bytes))
        });
        Poll::Ready(Some(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads all parts of a body that comes in pieces of `size` bytes.
    fn read(content_type: &str, body: &[u8], size: usize) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut pieces = body.chunks(size).map(Bytes::copy_from_slice).collect::<Vec<_>>().into_iter();
        let pull: Pull = Box::new(move || {
            let piece = pieces.next();
            Box::pin(async move { Ok(piece) })
        });
        pollster::block_on(async {
            let mut parts = Parts::new(Some(content_type.as_bytes()), pull)?;
            let mut all = Vec::new();
            while let Some(mut part) = parts.next().await? {
                let name = part.name().unwrap_or_default().to_owned();
                let mut content = Vec::new();
                while let Some(chunk) = part.chunk().await? {
                    content.extend_from_slice(&chunk);
                }
                all.push((name, content));
            }
            Ok(all)
        })
    }

    const TYPE: &str = "multipart/form-data; boundary=b";

    #[test]
    fn parts_come_whole_however_the_body_is_cut() {
        let body = b"\r\n--b\r\nContent-Disposition: form-data; name=\"arguments\"\r\n\
            Content-Type: application/octet-stream\r\n\r\n{}\r\n--b\r\nContent-Disposition: form-data; \
            name=\"backup_file\"\r\n\r\n\x00\r\n--a\r\n\xff\r\n--b--\r\n";
        let expected =
            [("arguments".to_owned(), b"{}".to_vec()), ("backup_file".to_owned(), b"\x00\r\n--a\r\n\xff".to_vec())];
        for size in 1..=body.len() {
            assert_eq!(read(TYPE, body, size).unwrap(), expected, "{size}");
        }
        for cut in 0..body.len() - 4 {
            assert!(read(TYPE, &body[..cut], 7).is_err(), "{cut}");
        }
        assert!(read("application/json", body, 100).is_err() && read("multipart/form-data", body, 100).is_err());
    }

    #[test]
    fn headers_without_an_end_are_not_kept() {
        let mut body = b"--b\r\nContent-Disposition: form-data; name=\"".to_vec();
        body.extend(vec![b'x'; PART_HEAD_MAX_BYTES + 5000]);
        let why = read(TYPE, &body, 1000).unwrap_err().to_string();
        assert_eq!(why, "The headers of a part of the body are too long.");
    }

    #[test]
    fn what_breaks_the_body_below_is_what_is_answered() {
        let pull: Pull = Box::new(|| Box::pin(async { Err(Error::invalid("The body came too slowly.")) }));
        let mut parts = Parts::new(Some(TYPE.as_bytes()), pull).unwrap();
        let why = pollster::block_on(parts.next()).map(|_| ()).unwrap_err().to_string();
        assert_eq!(why, "The body came too slowly.");
    }
}
