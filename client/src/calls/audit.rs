//! `/audit*`, of one device. NetHSM has no such endpoints.

use std::io::Write;

use ureq::http::Method;

use crate::error::Error;
use crate::media::PEM;
use crate::request::Request;
use crate::session::Session;

/// Calls of `/audit`.
pub struct Audit<'a>(&'a Session);

impl Session {
    /// Calls of `/audit`.
    pub fn audit(&self) -> Audit<'_> {
        Audit(self)
    }
}

impl Audit<'_> {
    /// `GET /audit`: writes the records with the numbers `from` to `until` to `to`, by default all that are kept, and
    /// returns the number of bytes.
    pub fn export(&self, from: Option<u64>, until: Option<u64>, to: &mut dyn Write) -> Result<u64, Error> {
        let limits = [("from", from), ("to", until)];
        let query: Vec<_> =
            limits.iter().filter_map(|(name, value)| value.map(|value| format!("{name}={value}"))).collect();
        let path = if query.is_empty() { "/audit".into() } else { format!("/audit?{}", query.join("&")) };
        self.0
            .download_reply(Request { method: &Method::GET, ..Request::get(&path) }.to_one_node().accepting("*/*"), to)
    }

    /// `GET /audit/key.pem`: the public key for the signatures of checkpoints, in PEM.
    pub fn public_key(&self) -> Result<String, Error> {
        self.0.run(Request::get("/audit/key.pem").to_one_node().accepting(PEM))?.text()
    }
}
