//! `/info`, `/health/*`, `/metrics`, `/random`: what can be asked of an HSM without changing it.

use std::collections::BTreeMap;

use casemate_api::State;
use casemate_api::body::system::{Diagnosis, HealthState, Info, Random, RandomRequest};
use ureq::http::Method;

use crate::error::Error;
use crate::session::{Call, JSON, Session, to_json};

/// Calls of `/health`, about one device.
pub struct Health<'a>(&'a Session);

impl Session {
    /// Calls of `/health`, about one device.
    pub fn health(&self) -> Health<'_> {
        Health(self)
    }

    /// `GET /info`
    pub fn info(&self) -> Result<Info, Error> {
        self.get_json("/info")
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
        let state: HealthState = self.0.run(Call::get("/health/state").at_one())?.json()?;
        Ok(state.state)
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
