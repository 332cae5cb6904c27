//! `/audit*`, of one device; a NetHSM has none.

use std::io::Write;

use ureq::http::Method;

use crate::error::Error;
use crate::media::PEM;
use crate::request::Call;
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
    /// `GET /audit` into `to`, the records `from` to `to_record` or all that are kept; how many bytes.
    pub fn export(&self, from: Option<u64>, until: Option<u64>, to: &mut dyn Write) -> Result<u64, Error> {
        let members = [("from", from), ("to", until)];
        let query: Vec<_> =
            members.iter().filter_map(|(name, value)| value.map(|value| format!("{name}={value}"))).collect();
        let path = if query.is_empty() { "/audit".into() } else { format!("/audit?{}", query.join("&")) };
        self.0.fetch(Call { method: &Method::GET, ..Call::get(&path) }.at_one().accept("*/*"), to)
    }

    /// `GET /audit/key.pem`: the public key that the checkpoints are signed with.
    pub fn public_key(&self) -> Result<String, Error> {
        self.0.run(Call::get("/audit/key.pem").at_one().accept(PEM))?.text()
    }
}
