//! `/config*`, about one device, except for the Backup Passphrase, which the nodes share.

use casemate_api::Passphrase;
use casemate_api::body::config::{
    ChangePassphrase, GenerateTlsKey, Logging, Network, Ntp, Switch, Time, UnattendedBoot, WithoutMajority,
};
use casemate_api::body::keys::DistinguishedName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::Method;

use super::cluster::STORE_MOVE;
use crate::error::Error;
use crate::media::{JSON, PEM, to_json};
use crate::request::Request;
use crate::session::Session;

/// Calls of `/config`.
pub struct Config<'a>(&'a Session);

impl Session {
    /// Calls of `/config`.
    pub fn config(&self) -> Config<'_> {
        Config(self)
    }
}

impl Config<'_> {
    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        self.0.run(Request::get(&format!("/config/{name}")).to_one_node())?.json()
    }

    fn set(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let (path, body) = (format!("/config/{name}"), to_json(value)?);
        self.0.run(Request::change(&Method::PUT, &path).to_one_node().with_body(JSON, body.as_slice())).map(drop)
    }

    /// `PUT /config/unlock-passphrase`
    pub fn set_unlock_passphrase(&self, current: Passphrase, new: Passphrase) -> Result<(), Error> {
        self.set("unlock-passphrase", &ChangePassphrase { new_passphrase: new, current_passphrase: current })
    }

    /// `PUT /config/backup-passphrase`; `current` is empty if none was set yet.
    pub fn set_backup_passphrase(&self, current: Passphrase, new: Passphrase) -> Result<(), Error> {
        let body = ChangePassphrase { new_passphrase: new, current_passphrase: current };
        self.0.put_json("/config/backup-passphrase", &body).map(drop)
    }

    /// `GET /config/network`
    pub fn network(&self) -> Result<Network, Error> {
        self.read("network")
    }

    /// `PUT /config/network`. Afterwards the HSM may have another address.
    pub fn set_network(&self, network: &Network) -> Result<(), Error> {
        self.set("network", network)
    }

    /// `GET /config/logging`
    pub fn logging(&self) -> Result<Logging, Error> {
        self.read("logging")
    }

    /// `PUT /config/logging`
    pub fn set_logging(&self, logging: &Logging) -> Result<(), Error> {
        self.set("logging", logging)
    }

    /// `GET /config/time`: the time of the HSM (RFC 3339).
    pub fn time(&self) -> Result<String, Error> {
        self.read("time").map(|time: Time| time.time)
    }

    /// `PUT /config/time`: a time with offset zero (RFC 3339).
    pub fn set_time(&self, time: String) -> Result<(), Error> {
        self.set("time", &Time { time })
    }

    /// `GET /config/ntp`
    pub fn ntp(&self) -> Result<Ntp, Error> {
        self.read("ntp")
    }

    /// `PUT /config/ntp`
    pub fn set_ntp(&self, ntp: &Ntp) -> Result<(), Error> {
        self.set("ntp", ntp)
    }

    /// `GET /config/unattended-boot`
    pub fn unattended_boot(&self) -> Result<Switch, Error> {
        self.read("unattended-boot").map(|boot: UnattendedBoot| boot.status)
    }

    /// `PUT /config/unattended-boot`
    pub fn set_unattended_boot(&self, status: Switch) -> Result<(), Error> {
        self.set("unattended-boot", &UnattendedBoot { status })
    }

    /// `GET /config/without-majority`, an extension of Casemate: what a member of a cluster does that reaches no majority.
    pub fn without_majority(&self) -> Result<WithoutMajority, Error> {
        self.read("without-majority")
    }

    /// `PUT /config/without-majority`, for all members.
    pub fn set_without_majority(&self, setting: &WithoutMajority) -> Result<(), Error> {
        self.set("without-majority", setting)
    }

    /// `GET /config/tls/public.pem`: the public key of the HSM's own certificate.
    pub fn tls_public_pem(&self) -> Result<String, Error> {
        self.0.run(Request::get("/config/tls/public.pem").to_one_node().accepting(PEM))?.text()
    }

    /// `GET /config/tls/cert.pem`: the HSM's own certificate and its chain.
    pub fn tls_certificate(&self) -> Result<String, Error> {
        self.0.run(Request::get("/config/tls/cert.pem").to_one_node().accepting(PEM))?.text()
    }

    /// `PUT /config/tls/cert.pem`. New connections get this certificate, so pins have to be changed.
    pub fn set_tls_certificate(&self, pem: &str) -> Result<(), Error> {
        let request =
            Request::change(&Method::PUT, "/config/tls/cert.pem").to_one_node().with_body(PEM, pem.as_bytes());
        self.0.run(request.accepting(PEM)).map(drop)
    }

    /// `POST /config/tls/csr.pem`: a certificate signing request for the HSM itself.
    pub fn tls_csr(&self, subject: &DistinguishedName) -> Result<String, Error> {
        let body = to_json(subject)?;
        let request = Request::change(&Method::POST, "/config/tls/csr.pem").to_one_node().repeatable();
        self.0.run(request.with_body(JSON, body.as_slice()).accepting(PEM))?.text()
    }

    /// `POST /config/tls/generate`: a new key and a self-signed certificate. Pins have to be changed.
    pub fn tls_generate(&self, key: &GenerateTlsKey) -> Result<(), Error> {
        let body = to_json(key)?;
        let request = Request::change(&Method::POST, "/config/tls/generate").to_one_node();
        self.0.run(request.with_body(JSON, body.as_slice())).map(drop)
    }

    /// `GET /config/tls/cluster-ca.pem`: the CA that issues the certificates of all members.
    pub fn cluster_ca(&self) -> Result<String, Error> {
        self.0.run(Request::get("/config/tls/cluster-ca.pem").to_one_node().accepting(PEM))?.text()
    }

    /// `PUT /config/tls/cluster-ca.pem`: one certificate, under which the HSM's own has to be issued.
    pub fn set_cluster_ca(&self, pem: &str) -> Result<(), Error> {
        let request = Request::change(&Method::PUT, "/config/tls/cluster-ca.pem").to_one_node();
        let request = request.with_min_time_limit(STORE_MOVE).with_body(PEM, pem.as_bytes());
        self.0.run(request.accepting("*/*")).map(drop)
    }

    /// `DELETE /config/tls/cluster-ca.pem`
    pub fn delete_cluster_ca(&self) -> Result<(), Error> {
        self.0
            .run(Request::change(&Method::DELETE, "/config/tls/cluster-ca.pem").to_one_node().accepting("*/*"))
            .map(drop)
    }
}
