//! The parts of a `multipart/form-data` body (RFC 7578): of one that is read as it arrives (a backup and its
//! arguments), and of a complete one (the parameters and key file of a PEM import).
//!
//! Nothing in the body is trusted. Framing is left to `multer`, which only this file uses. Little is buffered of what
//! is neither headers nor content yet, so that endless headers do not fill the memory. The allocator wipes the buffers
//! of `multer`.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use casemate_api::limits::{BODY_INLINE_MAX_BYTES, PART_HEAD_MAX_BYTES};
use casemate_core::Error;
use casemate_core::runtime::{BoxFuture, stall};
use http_body_util::{BodyDataStream, Full};
use hyper::body::{Body as HttpBody, Bytes, Frame};
use zeroize::Zeroizing;

use super::body::Body;

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

/// Returns the next piece of a body, `None` at its end.
pub type Pull = Box<dyn FnMut() -> BoxFuture<'static, Result<Option<Bytes>, Error>> + Send>;

impl Parts {
    /// The parts of the body that `pull` returns.
    pub fn new(content_type: Option<&[u8]>, pull: Pull) -> Result<Self, Error> {
        let header = content_type.and_then(|header| std::str::from_utf8(header).ok()).unwrap_or_default();
        let waiting = Arc::new(AtomicUsize::new(0));
        Self::of(header, Pulled { pull, running: None, given: false, waiting: waiting.clone() }, waiting)
    }

    /// The parts of a complete body, which are available without waiting.
    fn whole(content_type: &str, body: Body) -> Result<Self, Error> {
        Self::of(content_type, Full::new(Bytes::from_owner(body)), Arc::default())
    }

    fn of<P>(content_type: &str, pieces: P, waiting: Arc<AtomicUsize>) -> Result<Self, Error>
    where
        P: HttpBody<Data = Bytes> + Send + 'static,
        P::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let boundary =
            multer::parse_boundary(content_type).map_err(|_| Error::invalid("The body is not multipart/form-data."))?;
        Ok(Self { form: multer::Multipart::new(BodyDataStream::new(pieces), boundary), waiting })
    }

    /// The next part. The previous one must have been read to its end.
    pub async fn next(&mut self) -> Result<Option<Part>, Error> {
        let field = self.form.next_field().await.map_err(broken)?;
        self.waiting.store(0, Ordering::Relaxed);
        Ok(field.map(|field| Part { field, waiting: self.waiting.clone() }))
    }
}

impl Part {
    /// Its `name` parameter.
    pub fn name(&self) -> Option<&str> {
        self.field.name()
    }

    /// The next piece of its content; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = self.field.chunk().await.map_err(broken)?;
        self.waiting.store(0, Ordering::Relaxed);
        Ok(chunk)
    }
}

/// The error of the body below, if it was that; otherwise the framing is broken.
fn broken(error: multer::Error) -> Error {
    if let multer::Error::StreamReadFailed(cause) = error
        && let Ok(cause) = cause.downcast::<Error>()
    {
        return *cause;
    }
    Error::invalid("The body is not complete multipart/form-data.")
}

/// A body as `multer` reads it: one piece per poll, so that it does not buffer what it was not asked for.
struct Pulled {
    pull: Pull,
    running: Option<BoxFuture<'static, Result<Option<Bytes>, Error>>>,
    given: bool,
    waiting: Arc<AtomicUsize>,
}

impl HttpBody for Pulled {
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
            // One piece may be larger; it is content then, and passed on at once.
            if waiting > PART_HEAD_MAX_BYTES {
                return Err(Error::invalid("The headers of a part of the body are too long."));
            }
            Ok(Frame::data(bytes))
        });
        Poll::Ready(Some(piece))
    }
}

/// The parts of a PEM import.
pub struct ImportParts {
    /// JSON.
    pub arguments: Zeroizing<Vec<u8>>,
    /// PEM.
    pub key_file: Zeroizing<Vec<u8>>,
}

/// The body does not have two parts: none, one, three, no boundary or broken framing. The text is the contract's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid multipart request, must have exactly two parts: json parameters and pem file.")]
pub struct NotTwoParts;

/// Splits `body`. Parts named `arguments` and `key_file` may come in any order; with other names (some clients use file
/// names) the parameters come first. Run it on the pool if the body is long.
pub fn import_parts(content_type: &str, body: Body) -> Result<ImportParts, NotTwoParts> {
    if body.len() > BODY_INLINE_MAX_BYTES {
        stall::begins("taking a large form apart");
    }
    let split = pin!(split(content_type, body));
    match split.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(parts) => parts,
        // Cannot happen: the body is complete, so there is nothing to wait for.
        Poll::Pending => Err(NotTwoParts),
    }
}

async fn split(content_type: &str, body: Body) -> Result<ImportParts, NotTwoParts> {
    let bytes_max = body.len();
    let mut parts = Parts::whole(content_type, body).map_err(|_| NotTwoParts)?;
    let first = read(&mut parts, bytes_max).await?.ok_or(NotTwoParts)?;
    let second = read(&mut parts, bytes_max).await?.ok_or(NotTwoParts)?;
    if read(&mut parts, bytes_max).await?.is_some() {
        return Err(NotTwoParts);
    }
    Ok(if first.name == Name::KeyFile && second.name == Name::Arguments {
        ImportParts { arguments: second.bytes, key_file: first.bytes }
    } else {
        ImportParts { arguments: first.bytes, key_file: second.bytes }
    })
}

/// A part that was read to its end.
struct Whole {
    name: Name,
    bytes: Zeroizing<Vec<u8>>,
}

#[derive(PartialEq, Eq)]
enum Name {
    Arguments,
    KeyFile,
    Other,
}

async fn read(parts: &mut Parts, bytes_max: usize) -> Result<Option<Whole>, NotTwoParts> {
    let Some(mut part) = parts.next().await.map_err(|_| NotTwoParts)? else { return Ok(None) };
    let name = match part.name() {
        Some("arguments") => Name::Arguments,
        Some("key_file") => Name::KeyFile,
        _ => Name::Other,
    };
    // Allocated once, because a vector that grows leaves its old bytes behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max));
    while let Some(chunk) = part.chunk().await.map_err(|_| NotTwoParts)? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(Whole { name, bytes }))
}

#[cfg(test)]
mod tests {
    use super::super::body;
    use super::super::budget::Budget;
    use super::*;
    use casemate_core::runtime::{BoxFuture, Clock};
    use proptest::prelude::*;
    use std::time::Duration;

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

    fn split(content_type: &str, text: &[u8]) -> Result<(String, String), NotTwoParts> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let full = Full::new(Bytes::copy_from_slice(text));
            let grant = Budget::new(1 << 30).account([192, 0, 2, 1].into()).grant(0).unwrap();
            let body = body::read(full, 1 << 20, &grant, &Standing).await.unwrap();
            let parts = import_parts(content_type, body.into_body())?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Ok((text(&parts.arguments), text(&parts.key_file)))
        })
    }

    fn form(parts: &[(&str, &str)]) -> String {
        let mut text = String::new();
        for (name, value) in parts {
            text += &format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        }
        text + "--b--\r\n"
    }

    const TYPE: &str = "multipart/form-data; boundary=b";

    #[test]
    fn two_parts_are_identified_by_name_or_else_by_order() {
        let expected = Ok(("{}".into(), "PEM\r\n".into()));
        for parts in [
            [("arguments", "{}"), ("key_file", "PEM\r\n")],
            [("key_file", "PEM\r\n"), ("arguments", "{}")],
            [("params.json", "{}"), ("key.pem", "PEM\r\n")],
            [("key_file", "{}"), ("x", "PEM\r\n")],
        ] {
            assert_eq!(split(TYPE, form(&parts).as_bytes()), expected);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let good = [("arguments", "{}"), ("key_file", "PEM")];
        let three = form(&[("arguments", "{}"), ("key_file", "PEM"), ("x", "y")]);
        for (content_type, text) in [
            (TYPE, form(&[])),
            (TYPE, form(&good[..1])),
            (TYPE, three),
            (TYPE, String::new()),
            (TYPE, form(&good).replace("--b--", "--b")),
            ("multipart/form-data", form(&good)),
            ("multipart/form-data; boundary=c", form(&good)),
            ("application/json; boundary=b", form(&good)),
        ] {
            assert_eq!(split(content_type, text.as_bytes()), Err(NotTwoParts), "{content_type}: {text}");
        }
    }

    /// Reads all parts of a body that arrives in pieces of `size` bytes.
    fn pull_all(content_type: &str, body: &[u8], size: usize) -> Result<Vec<(String, Vec<u8>)>, Error> {
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

    #[test]
    fn parts_come_whole_however_the_body_is_cut() {
        let body = b"\r\n--b\r\nContent-Disposition: form-data; name=\"arguments\"\r\n\
            Content-Type: application/octet-stream\r\n\r\n{}\r\n--b\r\nContent-Disposition: form-data; \
            name=\"backup_file\"\r\n\r\n\x00\r\n--a\r\n\xff\r\n--b--\r\n";
        let expected =
            [("arguments".to_owned(), b"{}".to_vec()), ("backup_file".to_owned(), b"\x00\r\n--a\r\n\xff".to_vec())];
        for size in 1..=body.len() {
            assert_eq!(pull_all(TYPE, body, size).unwrap(), expected, "{size}");
        }
        for cut in 0..body.len() - 4 {
            assert!(pull_all(TYPE, &body[..cut], 7).is_err(), "{cut}");
        }
        assert!(
            pull_all("application/json", body, 100).is_err() && pull_all("multipart/form-data", body, 100).is_err()
        );
    }

    #[test]
    fn headers_without_an_end_are_not_kept() {
        let mut body = b"--b\r\nContent-Disposition: form-data; name=\"".to_vec();
        body.extend(vec![b'x'; PART_HEAD_MAX_BYTES + 5000]);
        let why = pull_all(TYPE, &body, 1000).unwrap_err().to_string();
        assert_eq!(why, "The headers of a part of the body are too long.");
    }

    #[test]
    fn an_error_of_the_body_below_is_the_answer() {
        let pull: Pull = Box::new(|| Box::pin(async { Err(Error::invalid("The body came too slowly.")) }));
        let mut parts = Parts::new(Some(TYPE.as_bytes()), pull).unwrap();
        let why = pollster::block_on(parts.next()).map(|_| ()).unwrap_err().to_string();
        assert_eq!(why, "The body came too slowly.");
    }

    proptest! {
        #[test]
        fn no_body_causes_a_panic(text in "((--b|--|\r\n|Content-Disposition: form-data; name=\"a\"|\r\n\r\n|.){0,40})") {
            let _ = split(TYPE, text.as_bytes());
        }

        #[test]
        fn no_content_type_causes_a_panic(content_type in ".{0,80}", bytes in any::<Vec<u8>>()) {
            let _ = split(&content_type, &bytes);
        }
    }
}
