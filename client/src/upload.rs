//! Bodies that are streamed from a reader: an update as it is, a backup as the second part of a form (RFC 7578).

use std::io::{self, Read};

use serde::Serialize;

use crate::error::Error;
use crate::media::{Form, JSON, OCTETS, to_json};
use crate::wipe::WipedBytes;

/// Something to upload: a reader, its length in bytes, and optionally a function that is told the progress.
pub struct Upload<'a> {
    before: WipedBytes,
    reader: &'a mut dyn Read,
    length: u64,
    after: Vec<u8>,
    content_type: String,
    progress: Option<&'a mut dyn FnMut(u64)>,
}

impl<'a> Upload<'a> {
    /// An upload of `length` bytes of `reader`.
    pub fn new(reader: &'a mut dyn Read, length: u64) -> Self {
        Self {
            before: WipedBytes::default(),
            reader,
            length,
            after: Vec::new(),
            content_type: OCTETS.into(),
            progress: None,
        }
    }

    /// Makes it the second part of a form, called `name`, after a part `arguments` of JSON.
    pub fn with_arguments(self, arguments: &impl Serialize, name: &str) -> Result<Self, Error> {
        let form = Form::new()?;
        let mut before = WipedBytes::default();
        form.part(&mut before, "arguments", JSON, to_json(arguments)?.as_slice());
        form.open(&mut before, name, OCTETS);
        let mut after = WipedBytes::default();
        form.close(&mut after);
        Ok(Self { before, after: after.as_slice().to_vec(), content_type: form.content_type(), ..self })
    }

    /// Calls `progress` repeatedly with the number of bytes of the reader that were sent so far.
    pub fn on_progress(self, progress: &'a mut dyn FnMut(u64)) -> Self {
        Self { progress: Some(progress), ..self }
    }

    pub(crate) fn content_type(&self) -> &str {
        &self.content_type
    }

    /// The length of the whole body in bytes.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.before.as_slice().len() as u64 + self.length + self.after.len() as u64
    }
}

/// The body of an upload as one reader. It fails if the source is shorter or longer than announced, so that the node
/// never takes a part for the whole.
pub(crate) struct UploadBody<'a> {
    upload: Upload<'a>,
    at: u64,
    failure: Option<io::Error>,
}

impl<'a> UploadBody<'a> {
    pub(crate) fn new(upload: Upload<'a>) -> Self {
        Self { upload, at: 0, failure: None }
    }

    /// The error of the caller's reader, if it failed.
    pub(crate) fn failure(self) -> Option<io::Error> {
        self.failure
    }

    fn read_source(&mut self, buffer: &mut [u8], left: u64) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let amount = self.upload.reader.read(buffer.get_mut(..room).unwrap_or_default())?;
        if amount == 0 && room > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than announced"));
        }
        // Checked before the last bytes are sent.
        if amount as u64 == left && self.upload.reader.read(&mut [0])? > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than announced"));
        }
        Ok(amount)
    }
}

impl Read for UploadBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begin = self.upload.before.as_slice().len() as u64;
        let end = begin + self.upload.length;
        let skip = |from: u64| usize::try_from(self.at.saturating_sub(from)).unwrap_or(usize::MAX);
        let amount = if self.at < begin {
            self.upload.before.as_slice().get(skip(0)..).unwrap_or_default().read(buffer)?
        } else if self.at < end {
            let left = end - self.at;
            match self.read_source(buffer, left) {
                Ok(amount) => {
                    let sent = self.at + amount as u64 - begin;
                    if let Some(progress) = &mut self.upload.progress {
                        progress(sent);
                    }
                    amount
                }
                Err(why) => {
                    self.failure = Some(io::Error::new(why.kind(), why.to_string()));
                    return Err(why);
                }
            }
        } else {
            self.upload.after.get(skip(end)..).unwrap_or_default().read(buffer)?
        };
        self.at += amount as u64;
        Ok(amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_has_the_announced_length_and_reports_its_progress() {
        let (content, mut told) = (vec![7_u8; 100_000], Vec::new());
        let mut reader = content.as_slice();
        let mut progress = |bytes| told.push(bytes);
        let upload = Upload::new(&mut reader, 100_000)
            .with_arguments(&serde_json::json!({ "backupPassphrase": "x" }), "backup_file")
            .unwrap()
            .on_progress(&mut progress);
        let total = upload.total_bytes();
        let mut body = Vec::new();
        UploadBody::new(upload).read_to_end(&mut body).unwrap();
        assert_eq!(body.len() as u64, total);
        assert_eq!(told.last(), Some(&100_000));
        let text = String::from_utf8_lossy(&body);
        let boundary = text.lines().next().unwrap();
        assert_eq!(text.matches(boundary).count(), 3);
        assert!(text.ends_with(&format!("\r\n{boundary}--\r\n")));
    }

    #[test]
    fn a_source_that_ends_early_fails() {
        let mut reader = [1_u8; 10].as_slice();
        let mut body = UploadBody::new(Upload::new(&mut reader, 11));
        assert!(body.read_to_end(&mut Vec::new()).is_err());
        assert_eq!(body.failure().unwrap().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_source_that_goes_on_fails_before_its_last_bytes_are_sent() {
        let mut reader = [1_u8; 12].as_slice();
        let (mut body, mut sent) = (UploadBody::new(Upload::new(&mut reader, 11)), Vec::new());
        assert!(body.read_to_end(&mut sent).is_err());
        assert_eq!((body.failure().unwrap().kind(), sent.len()), (io::ErrorKind::InvalidData, 0));
    }
}
