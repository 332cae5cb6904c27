//! What an administrator configures of this device: TLS, network, time, logging.
//!
//! All of it lies in the device's own store, but for the cluster CA, which all members share. What reaches beyond the
//! HSM, such as a listening address, is stored first and then handed to the [`Host`](crate::platform::Host).

mod brainpool;
mod chain;
mod local;
mod network;
pub mod tls;

pub use chain::{check_chain, parse_chain};
pub(crate) use local::{StoredConfig, stored};
pub(crate) use network::apply as apply_network;
pub use network::default_network;

use casemate_api::body::config::{LogLevel, Logging, Ntp};
use casemate_api::limits::HOST_NAME_MAX_BYTES;
use jiff::Timestamp;
use rustls_pki_types::DnsName;

use crate::device::store::LocalChange;
use crate::error::Error;
use crate::hsm::phase::Operational;
use crate::identity::caller::Caller;
use crate::rows::path::LocalPath;

/// What is logged until somebody configures it: as the `--log` setting says, and nowhere else.
pub fn default_logging() -> Logging {
    Logging { ip_address: std::net::Ipv4Addr::UNSPECIFIED.into(), port: SYSLOG_PORT, log_level: LogLevel::Info }
}

/// The port of syslog over UDP (RFC 3164 §2).
const SYSLOG_PORT: u16 = 514;

/// Puts a new value in its row.
async fn store<C: StoredConfig>(op: &Operational, by: &Caller, value: &C) -> Result<(), Error> {
    op.commit_local(by, LocalChange::default().put(C::PATH, value.encode().to_vec())).await
}

impl Operational {
    /// What is logged, and where to.
    pub async fn logging(&self) -> Result<Logging, Error> {
        Ok(stored(&self.local).await?.unwrap_or_else(default_logging))
    }

    /// Sets what is logged, and where to, from now on.
    pub async fn set_logging(&self, by: &Caller, logging: &Logging) -> Result<(), Error> {
        let _guard = self.local.changing.lock().await;
        store(self, by, logging).await?;
        // Before the level changes, so that it is seen with whichever of the two lets it through.
        tracing::info!(target: "hsm", "logging is now configured as {logging:?}");
        self.platform.host.log_to(logging);
        Ok(())
    }

    /// The time servers somebody wants this device to follow.
    pub async fn ntp(&self) -> Result<Ntp, Error> {
        Ok(stored(&self.local).await?.unwrap_or_default())
    }

    /// Notes which time servers somebody wants this device to follow. The clock belongs to the machine, so nothing
    /// follows from it here but a line in the log that says what is to be done there.
    pub async fn set_ntp(&self, by: &Caller, ntp: &Ntp) -> Result<(), Error> {
        if ntp.nts_name.as_ref().is_some_and(|name| !is_host_name(name)) {
            return Err(Error::invalid("ntsName must be the name of a host, such as nts.example.com."));
        }
        let _guard = self.local.changing.lock().await;
        store(self, by, ntp).await?;
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

    /// Stores how far the HSM's time is from the machine's clock.
    pub(crate) async fn store_clock_offset(&self, by: &Caller, offset_s: i64) -> Result<(), Error> {
        self.commit_local(by, LocalChange::default().put(LocalPath::ClockOffset, offset_s.to_be_bytes())).await
    }
}

fn is_host_name(name: &str) -> bool {
    name.len() <= HOST_NAME_MAX_BYTES && DnsName::try_from(name).is_ok()
}

/// A time as `/config/time` shows it: whole seconds.
pub fn time_text(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

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
