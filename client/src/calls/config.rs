//! `/config*`, about one device, but for the Backup Passphrase, which the nodes share.

use casemate_api::Passphrase;
use casemate_api::body::config::{
    ChangePassphrase, GenerateTlsKey, Logging, Network, Ntp, Switch, Time, UnattendedBoot,
};
use casemate_api::body::keys::DistinguishedName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::Method;

use crate::error::Error;
use crate::media::{JSON, PEM, to_json};
use crate::request::Call;
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
        self.0.run(Call::get(&format!("/config/{name}")).at_one())?.json()
    }

    fn set(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let (path, body) = (format!("/config/{name}"), to_json(value)?);
        self.0.run(Call::change(&Method::PUT, &path).at_one().with(JSON, body.as_slice())).map(drop)
    }

    /// `PUT /config/unlock-passphrase`
    pub fn set_unlock_passphrase(&self, current: Passphrase, new: Passphrase) -> Result<(), Error> {
        self.set("unlock-passphrase", &ChangePassphrase { new_passphrase: new, current_passphrase: current })
    }

    /// `PUT /config/backup-passphrase`; the current one is empty at first.
    pub fn set_backup_passphrase(&self, current: Passphrase, new: Passphrase) -> Result<(), Error> {
        let body = ChangePassphrase { new_passphrase: new, current_passphrase: current };
        self.0.put_json("/config/backup-passphrase", &body).map(drop)
    }

    /// `GET /config/network`
    pub fn network(&self) -> Result<Network, Error> {
        self.read("network")
    }

    /// `PUT /config/network`. The HSM may be reached at another address from then on.
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

    /// `GET /config/time`: the HSM's clock, as RFC 3339.
    pub fn time(&self) -> Result<String, Error> {
        self.read("time").map(|time: Time| time.time)
    }

    /// `PUT /config/time`, as RFC 3339 with offset zero.
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

    /// `GET /config/tls/public.pem`: the key of the HSM's own certificate.
    pub fn tls_public_pem(&self) -> Result<String, Error> {
        self.0.run(Call::get("/config/tls/public.pem").at_one().accept(PEM))?.text()
    }

    /// `GET /config/tls/cert.pem`: the HSM's own certificate and what vouches for it.
    pub fn tls_certificate(&self) -> Result<String, Error> {
        self.0.run(Call::get("/config/tls/cert.pem").at_one().accept(PEM))?.text()
    }

    /// `PUT /config/tls/cert.pem`. It is shown to the next connection: a pin has to follow.
    pub fn set_tls_certificate(&self, pem: &str) -> Result<(), Error> {
        let call = Call::change(&Method::PUT, "/config/tls/cert.pem").at_one().with(PEM, pem.as_bytes());
        self.0.run(call.accept(PEM)).map(drop)
    }

    /// `POST /config/tls/csr.pem`: a certificate signing request for the HSM itself.
    pub fn tls_csr(&self, subject: &DistinguishedName) -> Result<String, Error> {
        let body = to_json(subject)?;
        let call = Call::change(&Method::POST, "/config/tls/csr.pem").at_one().freely();
        self.0.run(call.with(JSON, body.as_slice()).accept(PEM))?.text()
    }

    /// `POST /config/tls/generate`: a new key and a certificate it makes for itself. A pin has to follow.
    pub fn tls_generate(&self, key: &GenerateTlsKey) -> Result<(), Error> {
        let body = to_json(key)?;
        let call = Call::change(&Method::POST, "/config/tls/generate").at_one();
        self.0.run(call.with(JSON, body.as_slice())).map(drop)
    }

    /// `GET /config/tls/cluster-ca.pem`: the CA that the certificates of all members come from.
    pub fn cluster_ca(&self) -> Result<String, Error> {
        self.0.run(Call::get("/config/tls/cluster-ca.pem").at_one().accept(PEM))?.text()
    }

    /// `PUT /config/tls/cluster-ca.pem`: one certificate, which has to vouch for the HSM's own.
    pub fn set_cluster_ca(&self, pem: &str) -> Result<(), Error> {
        let call = Call::change(&Method::PUT, "/config/tls/cluster-ca.pem").at_one().with(PEM, pem.as_bytes());
        self.0.run(call.accept("*/*")).map(drop)
    }

    /// `DELETE /config/tls/cluster-ca.pem`
    pub fn delete_cluster_ca(&self) -> Result<(), Error> {
        self.0.run(Call::change(&Method::DELETE, "/config/tls/cluster-ca.pem").at_one().accept("*/*")).map(drop)
    }
}
