//! Reads the two parts of a PEM import (`multipart/form-data`, RFC 7578): parameters and key file.
//!
//! Trusts nothing of the body; `multer` does the framing. Its buffers are wiped by the allocator, the parts by themselves.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use casemate_api::limits::BODY_INLINE_MAX_BYTES;
use casemate_core::stall;
use http_body_util::{BodyDataStream, Full};
use hyper::body::Bytes;
use zeroize::Zeroizing;

use super::body::Body;

/// The parts of a PEM import.
pub struct ImportParts {
    /// JSON.
    pub arguments: Zeroizing<Vec<u8>>,
    /// PEM.
    pub key_file: Zeroizing<Vec<u8>>,
}

/// The body is not two parts: none, one, three, no boundary or broken framing. The text is the contract's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid multipart request, must have exactly two parts: json parameters and pem file.")]
pub struct NotTwoParts;

/// Splits `body`. Parts named `arguments` and `key_file` may come in any order; with other names (some clients use
/// file names) the parameters come first. Belongs on the pool if the body is long.
pub fn import_parts(content_type: &str, body: Body) -> Result<ImportParts, NotTwoParts> {
    if body.len() > BODY_INLINE_MAX_BYTES {
        stall::begins("taking a large form apart");
    }
    let split = pin!(split(content_type, body));
    match split.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(parts) => parts,
        // Never: the whole body is there, so that there is nothing to wait for.
        Poll::Pending => Err(NotTwoParts),
    }
}

async fn split(content_type: &str, body: Body) -> Result<ImportParts, NotTwoParts> {
    let boundary = multer::parse_boundary(content_type).map_err(|_| NotTwoParts)?;
    let bytes_max = body.len();
    let stream = BodyDataStream::new(Full::new(Bytes::from_owner(body)));
    let mut parts = multer::Multipart::new(stream, boundary);
    let first = next(&mut parts, bytes_max).await?.ok_or(NotTwoParts)?;
    let second = next(&mut parts, bytes_max).await?.ok_or(NotTwoParts)?;
    if next(&mut parts, bytes_max).await?.is_some() {
        return Err(NotTwoParts);
    }
    Ok(if first.name == Name::KeyFile && second.name == Name::Arguments {
        ImportParts { arguments: second.bytes, key_file: first.bytes }
    } else {
        ImportParts { arguments: first.bytes, key_file: second.bytes }
    })
}

struct Part {
    name: Name,
    bytes: Zeroizing<Vec<u8>>,
}

#[derive(PartialEq, Eq)]
enum Name {
    Arguments,
    KeyFile,
    Other,
}

async fn next(parts: &mut multer::Multipart<'static>, bytes_max: usize) -> Result<Option<Part>, NotTwoParts> {
    let Some(mut field) = parts.next_field().await.map_err(|_| NotTwoParts)? else { return Ok(None) };
    let name = match field.name() {
        Some("arguments") => Name::Arguments,
        Some("key_file") => Name::KeyFile,
        _ => Name::Other,
    };
    // Room for all, because a vector that grows leaves its old bytes behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max));
    while let Some(chunk) = field.chunk().await.map_err(|_| NotTwoParts)? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(Part { name, bytes }))
}

#[cfg(test)]
mod tests {
    use super::super::body;
    use super::super::budget::Budget;
    use super::*;
    use casemate_core::platform::{BoxFuture, Clock};
    use proptest::prelude::*;
    use std::time::Duration;

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
    fn two_parts_are_told_by_name_or_else_by_order() {
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

    proptest! {
        #[test]
        fn no_body_makes_it_panic(text in "((--b|--|\r\n|Content-Disposition: form-data; name=\"a\"|\r\n\r\n|.){0,40})") {
            let _ = split(TYPE, text.as_bytes());
        }

        #[test]
        fn no_content_type_makes_it_panic(content_type in ".{0,80}", bytes in any::<Vec<u8>>()) {
            let _ = split(&content_type, &bytes);
        }
    }
}
