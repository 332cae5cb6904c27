//! `/info`, `/health/*`, `/metrics`, `/random`: requests that change nothing.

use std::collections::BTreeMap;

use casemate_api::State;
use casemate_api::body::system::{Diagnosis, HealthState, Info, Random, RandomRequest};
use ureq::http::Method;

use crate::error::Error;
use crate::media::{JSON, to_json};
use crate::request::Request;
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
        self.run(Request::get("/info")).map_err(not_an_hsm)?.json()
    }

    /// `GET /metrics`, about one device.
    pub fn metrics(&self) -> Result<BTreeMap<String, String>, Error> {
        self.run(Request::get("/metrics").to_one_node())?.json()
    }

    /// `POST /random`: 1 to 1024 bytes, in base64.
    pub fn random(&self, length: usize) -> Result<Random, Error> {
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        let body = to_json(&RandomRequest { length })?;
        self.run(Request::change(&Method::POST, "/random").repeatable().with_body(JSON, body.as_slice()))?.json()
    }
}

impl Health<'_> {
    /// `GET /health/alive`: whether the HSM is Unprovisioned or Locked.
    pub fn alive(&self) -> Result<bool, Error> {
        self.is_ok("/health/alive")
    }

    /// `GET /health/ready`: whether the HSM is Operational.
    pub fn ready(&self) -> Result<bool, Error> {
        self.is_ok("/health/ready")
    }

    /// `GET /health/state`
    pub fn state(&self) -> Result<State, Error> {
        let state: HealthState = self.0.run(Request::get("/health/state").to_one_node()).map_err(not_an_hsm)?.json()?;
        Ok(state.state)
    }

    /// The time of the HSM, from the `Date` header of an answer (RFC 9110 §6.6.1), in whole seconds; `None` if there is
    /// no such header.
    pub fn date(&self) -> Result<Option<String>, Error> {
        self.0.run(Request::get("/info").to_one_node()).map(|reply| reply.date)
    }

    /// `GET /health/diagnose`
    pub fn diagnose(&self) -> Result<Diagnosis, Error> {
        self.0.run(Request::get("/health/diagnose").to_one_node())?.json()
    }

    fn is_ok(&self, path: &str) -> Result<bool, Error> {
        match self.0.run(Request::get(path).to_one_node()) {
            Ok(_) => Ok(true),
            Err(Error::WrongState { .. }) => Ok(false),
            Err(why) => Err(why),
        }
    }
}

/// Every HSM answers these calls without credentials, so a server that refuses them is not an HSM.
fn not_an_hsm(error: Error) -> Error {
    let (node, status) = match error {
        Error::Unauthenticated { node } => (node, 401),
        Error::Forbidden { node, .. } => (node, 403),
        Error::NotFound { node, .. } => (node, 404),
        Error::Refused { node, status, .. } => (node, status),
        error => return error,
    };
    Error::Garbled { node, why: format!("an HSM does not answer {status} to this") }
}
