//! `/info`, `/health/*`, `/metrics`, `/random`: what can be asked of an HSM without changing it.

use std::collections::BTreeMap;

use casemate_api::State;
use casemate_api::body::system::{Diagnosis, HealthState, Info, Random, RandomRequest};
use ureq::http::Method;

use crate::error::Error;
use crate::media::{JSON, to_json};
use crate::request::Call;
use crate::session::Session;

/// Calls of `/health`, about one device.
pub struct Health<'a>(&'a Session);

impl Session {
    /// Calls of `/health`, about one device.
    pub fn health(&self) -> Health<'_> {
        Health(self)
    }

    /// `GET /info`
    pub fn info(&self) -> Result<Info, Error> {
        self.run(Call::get("/info")).map_err(no_hsm)?.json()
    }

    /// `GET /metrics`, about one device.
    pub fn metrics(&self) -> Result<BTreeMap<String, String>, Error> {
        self.run(Call::get("/metrics").at_one())?.json()
    }

    /// `POST /random`: 1 to 1024 bytes, in base64.
    pub fn random(&self, length: usize) -> Result<Random, Error> {
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        let body = to_json(&RandomRequest { length })?;
        self.run(Call::change(&Method::POST, "/random").freely().with(JSON, body.as_slice()))?.json()
    }
}

impl Health<'_> {
    /// `GET /health/alive`: whether it runs and waits to be provisioned or unlocked.
    pub fn alive(&self) -> Result<bool, Error> {
        self.says("/health/alive")
    }

    /// `GET /health/ready`: whether it is Operational.
    pub fn ready(&self) -> Result<bool, Error> {
        self.says("/health/ready")
    }

    /// `GET /health/state`
    pub fn state(&self) -> Result<State, Error> {
        let state: HealthState = self.0.run(Call::get("/health/state").at_one()).map_err(no_hsm)?.json()?;
        Ok(state.state)
    }

    /// What the clock of the HSM says, as the `Date` of an answer (RFC 9110 §6.6.1), in whole seconds; none: it does not
    /// tell without a login.
    pub fn date(&self) -> Result<Option<String>, Error> {
        self.0.run(Call::get("/info").at_one()).map(|answer| answer.date)
    }

    /// `GET /health/diagnose`
    pub fn diagnose(&self) -> Result<Diagnosis, Error> {
        self.0.run(Call::get("/health/diagnose").at_one())?.json()
    }

    fn says(&self, path: &str) -> Result<bool, Error> {
        match self.0.run(Call::get(path).at_one()) {
            Ok(_) => Ok(true),
            Err(Error::WrongState { .. }) => Ok(false),
            Err(why) => Err(why),
        }
    }
}

/// Every HSM answers these calls to anyone: whoever refuses them is another server.
fn no_hsm(error: Error) -> Error {
    let (node, status) = match error {
        Error::Unauthenticated { node } => (node, 401),
        Error::Forbidden { node, .. } => (node, 403),
        Error::NotFound { node, .. } => (node, 404),
        Error::Refused { node, status, .. } => (node, status),
        error => return error,
    };
    Error::Garbled { node, why: format!("an HSM does not answer {status} to this") }
}
