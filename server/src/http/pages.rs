//! What is served outside the API, without credentials: a page for people who open the address in a browser, the
//! OpenAPI document, and the liveness and readiness probes of orchestrators.

use casemate_api::State;
use casemate_core::Hsm;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Response, StatusCode};

use super::serve::ReplyBody;

/// Answers a path outside the API. `openapi` is the OpenAPI document.
pub(super) fn answer(hsm: &Hsm, openapi: &Bytes, method: &Method, path: &str) -> Response<ReplyBody> {
    let read = method == Method::GET || method == Method::HEAD;
    let page = if read { page(hsm.state(), openapi, path) } else { None };
    respond(page)
}

/// A page: status, type, body.
type Page = (StatusCode, &'static str, Bytes);

fn page(state: State, openapi: &Bytes, path: &str) -> Option<Page> {
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let (status, media, body) = match path {
        "/" | "/index.html" => (StatusCode::OK, "text/html; charset=utf-8", text(INDEX)),
        "/favicon.ico" => (StatusCode::OK, "image/x-icon", Bytes::from_static(ICON)),
        "/openapi.json" => (StatusCode::OK, "application/json", openapi.clone()),
        // Alive means that the process answers, whatever its state.
        "/livez" => (StatusCode::OK, "text/plain", text("ok\n")),
        "/readyz" if state == State::Operational => (StatusCode::OK, "text/plain", text("ok\n")),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", text("not Operational\n")),
        _ => return None,
    };
    Some((status, media, body))
}

fn respond(page: Option<Page>) -> Response<ReplyBody> {
    let Some((status, media, body)) = page else {
        // As in the contract: no Content-Type and no body.
        let mut missing = Response::new(ReplyBody::whole(Bytes::from_static(b"Not found")));
        *missing.status_mut() = StatusCode::NOT_FOUND;
        return missing;
    };
    let mut response = Response::new(ReplyBody::whole(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"),
    );
    response
}

const INDEX: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<title>Casemate</title>
<style>body{font-family:sans-serif;max-width:40em;margin:4em auto;padding:0 1em}</style>
<h1>Casemate</h1>
<p>This is a network HSM. Its REST API is at <code>/api/v1</code>; <a href=\"/openapi.json\">/openapi.json</a> describes it.</p>
<p>Its state: <a href=\"/api/v1/health/state\">/api/v1/health/state</a>.</p>
</html>
";

/// One dark pixel. Browsers request an icon on their own; with this, they do so once, and without a 404 in the log.
const ICON: &[u8] = &[
    // The directory: an icon, one image.
    0, 0, 1, 0, 1, 0, //
    // The image: 1 by 1, no palette, one plane, 32 bits a pixel, 48 bytes from byte 22.
    1, 1, 0, 0, 1, 0, 32, 0, 48, 0, 0, 0, 22, 0, 0, 0, //
    // Its header of 40 bytes: width 1, height 1 and the mask's, one plane, 32 bits, the rest 0.
    40, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 32, 0, //
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, //
    // Blue, green, red, opacity; then a mask that hides nothing.
    0x50, 0x3a, 0x2c, 0xff, 0, 0, 0, 0,
];

#[cfg(test)]
mod tests {
    use hyper::body::Body;

    use super::*;

    #[test]
    fn the_document_is_shared_not_copied() {
        let openapi = Bytes::from(vec![b'x'; 100]);
        let (status, media, body) = page(State::Locked, &openapi, "/openapi.json").unwrap();
        assert_eq!((status, media, body.as_ptr()), (StatusCode::OK, "application/json", openapi.as_ptr()));
    }

    #[test]
    fn ready_is_operational() {
        for (state, status) in [(State::Operational, 200), (State::Locked, 503), (State::Unprovisioned, 503)] {
            assert_eq!(page(state, &Bytes::new(), "/readyz").unwrap().0, status);
            assert_eq!(page(state, &Bytes::new(), "/livez").unwrap().0, 200);
        }
    }

    #[test]
    fn what_is_not_there_has_no_headers() {
        let missing = respond(page(State::Locked, &Bytes::new(), "/other"));
        assert_eq!((missing.status(), missing.headers().len()), (StatusCode::NOT_FOUND, 0));
        assert_eq!(missing.body().size_hint().exact(), Some(9));
        assert_eq!(respond(page(State::Locked, &Bytes::new(), "/")).headers().len(), 3);
    }

    #[test]
    fn the_icon_is_as_long_as_it_says() {
        let number = |at: usize| u32::from_le_bytes(ICON[at..at + 4].try_into().unwrap()) as usize;
        let (length, offset) = (number(14), number(18));
        assert_eq!(offset + length, ICON.len());
        assert_eq!(number(offset), 40);
    }
}
