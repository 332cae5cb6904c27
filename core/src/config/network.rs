//! The network configuration: addresses at which the HSM should be reachable.
//!
//! On NetHSM it configures the network interface. Here the interface belongs to the host: the HSM listens on the
//! address if the host has it. Everything else is stored, returned by the API, and reported in the log.

use std::net::Ipv4Addr;

use casemate_api::body::config::Network;

use super::{Config, stored};
use crate::error::Error;
use crate::identity::caller::Caller;
use crate::platform::Host;

/// The default configuration, the same as NetHSM's.
pub fn default_network() -> Network {
    Network {
        ip_address: Ipv4Addr::new(192, 168, 1, 1),
        netmask: Ipv4Addr::new(255, 255, 255, 0),
        gateway: Ipv4Addr::UNSPECIFIED,
        ipv6: None,
    }
}

impl Config<'_> {
    /// The network configuration.
    pub async fn network(&self) -> Result<Network, Error> {
        Ok(stored(&self.device.store).await?.unwrap_or_else(default_network))
    }

    /// Stores the network configuration and listens on its addresses if the host has them.
    pub async fn set_network(&self, by: &Caller, network: &Network) -> Result<(), Error> {
        let _guard = self.device.store.changing.lock().await;
        self.store(by, network).await?;
        apply(&*self.device.platform.host, network);
        Ok(())
    }
}

/// Makes the host listen on the addresses of `network`, and logs the result.
pub(crate) fn apply(host: &dyn Host, network: &Network) {
    let applied = host.use_network(network);
    for address in applied.serving {
        tracing::info!(target: "hsm", "the configured network address is served at https://{address}");
    }
    for (address, why) in applied.not_served {
        tracing::warn!(
            target: "hsm",
            "the network address {address} is stored and not served: {why}; give the address to this machine by its own \
             network configuration, then reboot the HSM"
        );
    }
    let v6 = network.ipv6.as_ref().map_or_else(String::new, |v6| {
        let gateway = v6.gateway.map_or_else(|| "none".into(), |gateway| gateway.to_string());
        format!(", IPv6 prefix {} and gateway {gateway}", v6.cidr.prefix)
    });
    tracing::info!(
        target: "hsm",
        "netmask {}, gateway {}{v6} are stored only: they belong to the network configuration of this machine",
        network.netmask,
        network.gateway
    );
}
