//! The configuration of this device that an Administrator may change: TLS, network, time, logging.
//!
//! It is kept in the device's own store, except for the cluster CA, which all members share. Settings that take effect
//! outside the HSM, such as a listening address, are stored first and then passed to the
//! [`Host`](crate::platform::Host).

mod brainpool;
mod chain;
mod device_tls;
mod local;
mod network;
pub mod peers;
pub mod tls;
mod without_majority;

pub use chain::{check_chain, parse_chain};
pub(crate) use device_tls::DeviceTls;
pub(crate) use local::{StoredConfig, stored};
pub(crate) use network::apply as apply_network;
pub use network::default_network;

use casemate_api::body::config::{LogLevel, Logging, Ntp};
use casemate_api::limits::HOST_NAME_MAX_BYTES;
use jiff::Timestamp;
use rustls_pki_types::DnsName;

use crate::device::Device;
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::identity::caller::Caller;
use crate::identity::right::Rights;
use crate::rows::path::DevicePath;
use crate::rows::tables::Tables;
use crate::runtime::lifetime::Lifetime;

/// The default for logging: the level of the `--log` setting decides, and no syslog server.
pub fn default_logging() -> Logging {
    Logging { ip_address: std::net::Ipv4Addr::UNSPECIFIED.into(), port: SYSLOG_PORT, log_level: LogLevel::Info }
}

/// The port of syslog over UDP (RFC 3164 §2).
const SYSLOG_PORT: u16 = 514;

/// The configuration of an Operational HSM, to read and to change.
pub struct Config<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) device: &'a Device,
    pub(crate) rights: &'a Rights,
    pub(crate) life: &'a Lifetime,
}

impl Config<'_> {
    /// Stores a new value in its row of the device's store.
    async fn store<C: StoredConfig>(&self, by: &Caller, value: &C) -> Result<(), Error> {
        self.commit_local(by, DeviceStoreChange::default().put(C::PATH, value.encode().to_vec())).await
    }

    async fn commit_local(&self, by: &Caller, change: DeviceStoreChange) -> Result<(), Error> {
        self.rights.commit_local(self.tables, &self.device.store, by, change).await
    }

    /// The logging configuration: level and syslog server.
    pub async fn logging(&self) -> Result<Logging, Error> {
        Ok(stored(&self.device.store).await?.unwrap_or_else(default_logging))
    }

    /// Sets level and syslog server, with immediate effect.
    pub async fn set_logging(&self, by: &Caller, logging: &Logging) -> Result<(), Error> {
        let _guard = self.device.store.changing.lock().await;
        self.store(by, logging).await?;
        // Logged before the level changes, so that it appears if either level allows it.
        tracing::info!(target: "hsm", "logging is now configured as {logging:?}");
        self.device.platform.host.log_to(logging);
        Ok(())
    }

    /// The configured time servers, which this HSM only stores.
    pub async fn ntp(&self) -> Result<Ntp, Error> {
        Ok(stored(&self.device.store).await?.unwrap_or_default())
    }

    /// Stores the time servers. The clock belongs to the host, so they are not used; a log line tells the operator to
    /// configure the host. `Invalid` if the name is not a host name.
    pub async fn set_ntp(&self, by: &Caller, ntp: &Ntp) -> Result<(), Error> {
        if ntp.nts_name.as_ref().is_some_and(|name| !is_host_name(name)) {
            return Err(Error::invalid_field(
                "ntsName",
                "ntsName must be the name of a host, such as nts.example.com.",
            ));
        }
        let _guard = self.device.store.changing.lock().await;
        self.store(by, ntp).await?;
        if *ntp == Ntp::default() {
            tracing::info!(target: "hsm", "no time server is configured any more");
        } else {
            tracing::warn!(
                target: "hsm",
                "the time servers are stored and not used: the clock belongs to this machine, so configure its own time \
                 service ({ntp:?})"
            );
        }
        Ok(())
    }

    /// Sets the HSM's time (RFC 3339, offset zero) by storing its offset from the host's clock, in seconds.
    pub async fn set_time(&self, by: &Caller, time: &str) -> Result<(), Error> {
        let time = parse_time(time).map_err(|error| error.in_field("time"))?;
        let _guard = self.device.store.changing.lock().await;
        let offset_s = time.as_second().saturating_sub(self.device.wall().as_second());
        self.commit_local(by, DeviceStoreChange::default().put(DevicePath::ClockOffset, offset_s.to_be_bytes()))
            .await?;
        let before = self.device.now();
        self.device.use_clock_offset(offset_s);
        tracing::info!(target: "hsm", "the time was set from {before} to {}", self.device.now());
        Ok(())
    }
}

fn is_host_name(name: &str) -> bool {
    name.len() <= HOST_NAME_MAX_BYTES && DnsName::try_from(name).is_ok()
}

/// Parses an RFC 3339 time with offset zero (`Z`, `+00:00` or `-00:00`), the only form the API accepts. `Invalid`
/// otherwise.
pub fn parse_time(text: &str) -> Result<Timestamp, Error> {
    let offset = || Error::invalid("Error while parsing timestamp. Offset must be 0.");
    let time: Timestamp = text.parse().map_err(|_| {
        Error::invalid("Error while parsing timestamp. RFC 3339 is expected, e.g. 2026-01-31T12:00:00Z.")
    })?;
    if ["Z", "z", "+00:00", "-00:00"].iter().any(|zero| text.ends_with(zero)) { Ok(time) } else { Err(offset()) }
}

/// A time in the form of `/config/time`: RFC 3339 with whole seconds.
pub fn time_text(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_an_offset_of_zero() {
        for text in ["2020-01-01T00:00:00Z", "2020-01-01T00:00:00+00:00", "2020-01-01T00:00:00.5-00:00"] {
            assert_eq!(parse_time(text).unwrap().as_second(), 1_577_836_800, "{text}");
        }
        for text in
            ["2020-01-01T00:00:00+01:00", "2020-01-01T00:00:00", "2020-01-01", "", "now", "2020-13-01T00:00:00Z"]
        {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_shown_in_whole_seconds() {
        let time: Timestamp = "2030-01-02T03:04:05.999Z".parse().unwrap();
        assert_eq!(time_text(time), "2030-01-02T03:04:05Z");
    }

    #[test]
    fn names_of_time_servers_are_names_of_hosts() {
        for good in ["nts.example.com", "localhost", "ptbtime1.ptb.de"] {
            assert!(is_host_name(good), "{good}");
        }
        let long = format!("{}.example", "a.".repeat(130));
        for bad in
            ["", "two words", "a..b", "-a.example", "nts.example.com:123", "http://x", "ü.example", "a\nb", &long]
        {
            assert!(!is_host_name(bad), "{bad}");
        }
    }
}
