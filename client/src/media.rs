//! Content types, and bodies of JSON and forms (RFC 7578).

use aws_lc_rs::rand;
use serde::Serialize;

use crate::error::Error;
use crate::wipe::WipedBytes;

/// JSON (RFC 8259).
pub(crate) const JSON: &str = "application/json";
/// PEM (RFC 7468), as the API names it.
pub(crate) const PEM: &str = "application/x-pem-file";
/// Any bytes.
pub(crate) const OCTETS: &str = "application/octet-stream";

/// `body` as JSON, in a buffer that is wiped.
pub(crate) fn to_json(body: &impl Serialize) -> Result<WipedBytes, Error> {
    let mut bytes = WipedBytes::with_capacity(256);
    serde_json::to_writer(&mut bytes, body)
        .map_err(|why| Error::Settings(format!("the request cannot be written as JSON: {why}")))?;
    Ok(bytes)
}

/// A form with two parts, as `POST /keys` takes a key in PEM: its content type and its body.
pub(crate) fn form(arguments: &impl Serialize, name: &str, content: &[u8]) -> Result<(String, WipedBytes), Error> {
    let form = Form::new()?;
    let mut body = WipedBytes::with_capacity(content.len() + 1024);
    form.part(&mut body, "arguments", JSON, to_json(arguments)?.as_slice());
    form.part(&mut body, name, "text/plain", content);
    form.close(&mut body);
    Ok((form.content_type(), body))
}

/// A form with a random boundary, which no content contains.
pub(crate) struct Form {
    boundary: String,
}

impl Form {
    pub(crate) fn new() -> Result<Self, Error> {
        let mut random = [0_u8; 16];
        rand::fill(&mut random).map_err(|_| Error::Settings("the system provides no random bytes".into()))?;
        Ok(Self { boundary: format!("casemate-{:032x}", u128::from_be_bytes(random)) })
    }

    pub(crate) fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    pub(crate) fn open(&self, body: &mut WipedBytes, name: &str, content_type: &str) {
        let head = format!(
            "--{}\r\ncontent-disposition: form-data; name=\"{name}\"\r\ncontent-type: {content_type}\r\n\r\n",
            self.boundary
        );
        body.push(head.as_bytes());
    }

    pub(crate) fn part(&self, body: &mut WipedBytes, name: &str, content_type: &str, content: &[u8]) {
        self.open(body, name, content_type);
        body.push(content);
        body.push(b"\r\n");
    }

    pub(crate) fn close(&self, body: &mut WipedBytes) {
        body.push(format!("\r\n--{}--\r\n", self.boundary).as_bytes());
    }
}
