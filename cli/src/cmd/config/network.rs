//! `config network …`

use std::net::{Ipv4Addr, Ipv6Addr};

use casemate_api::body::config::{Cidr6, Network, NetworkV6};
use clap::{Args, Subcommand};

use crate::cmd::args::api_value;
use crate::exit::Failure;
use crate::profile::Context;

/// Show or set the addresses of an HSM.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show them
    Show,
    /// Set them; what is not given stays as it is
    Set(Set),
}

/// Arguments of `config network set`.
#[derive(Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Set {
    /// IPv4 address
    #[arg(long, value_name = "IP")]
    address: Option<Ipv4Addr>,
    /// Netmask, such as 255.255.255.0
    #[arg(long, value_name = "MASK")]
    netmask: Option<Ipv4Addr>,
    /// IPv4 router; 0.0.0.0: none
    #[arg(long, value_name = "IP")]
    gateway: Option<Ipv4Addr>,
    /// IPv6 address and length of its prefix, such as 2001:db8::7/64
    #[arg(long, value_name = "CIDR", value_parser = api_value::<Cidr6>)]
    ipv6: Option<Cidr6>,
    /// IPv6 router
    #[arg(long, value_name = "IP")]
    ipv6_gateway: Option<Ipv6Addr>,
    /// No IPv6 router
    #[arg(long, conflicts_with = "ipv6_gateway")]
    no_ipv6_gateway: bool,
    /// No IPv6 at all
    #[arg(long, conflicts_with_all = ["ipv6", "ipv6_gateway", "no_ipv6_gateway"])]
    no_ipv6: bool,
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = context.session()?;
        let network = session.config().network()?;
        let network = match self {
            Command::Show => network,
            Command::Set(set) => {
                let network = set.applied_to(network)?;
                session.config().set_network(&network)?;
                network
            }
        };
        context.out.record(&network, members(&network))
    }
}

impl Set {
    /// `network` with what was given replaced.
    fn applied_to(self, network: Network) -> Result<Network, Failure> {
        let ipv6 = match (network.ipv6, self.ipv6) {
            _ if self.no_ipv6 => None,
            (None, None) if self.ipv6_gateway.is_some() || self.no_ipv6_gateway => {
                return Err(Failure::Usage("The HSM has no IPv6 address yet: set one with --ipv6.".into()));
            }
            (None, None) => None,
            (old, new) => {
                let before = old.as_ref().and_then(|old| old.gateway);
                let gateway = if self.no_ipv6_gateway { None } else { self.ipv6_gateway.or(before) };
                new.or(old.map(|old| old.cidr)).map(|cidr| NetworkV6 { cidr, gateway })
            }
        };
        Ok(Network {
            ip_address: self.address.unwrap_or(network.ip_address),
            netmask: self.netmask.unwrap_or(network.netmask),
            gateway: self.gateway.unwrap_or(network.gateway),
            ipv6,
        })
    }
}

/// The addresses, for people.
pub(crate) fn members(network: &Network) -> Vec<(&'static str, String)> {
    let none = || "none".to_owned();
    let gateway = if network.gateway.is_unspecified() { none() } else { network.gateway.to_string() };
    let mut members = vec![
        ("Address", network.ip_address.to_string()),
        ("Netmask", network.netmask.to_string()),
        ("Gateway", gateway),
    ];
    if let Some(ipv6) = &network.ipv6 {
        members.push(("IPv6", ipv6.cidr.to_string()));
        members.push(("IPv6 gateway", ipv6.gateway.map_or_else(none, |gateway| gateway.to_string())));
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(ipv6: bool) -> Network {
        let ipv6 =
            ipv6.then(|| NetworkV6 { cidr: api_value("2001:db8::7/64").unwrap(), gateway: "fe80::1".parse().ok() });
        let address = |text: &str| text.parse().unwrap();
        Network { ip_address: address("10.0.0.7"), netmask: address("255.0.0.0"), gateway: address("10.0.0.1"), ipv6 }
    }

    fn nothing() -> Set {
        Set {
            address: None,
            netmask: None,
            gateway: None,
            ipv6: None,
            ipv6_gateway: None,
            no_ipv6_gateway: false,
            no_ipv6: false,
        }
    }

    #[test]
    fn what_is_not_given_stays() {
        for network in [there(false), there(true)] {
            assert_eq!(nothing().applied_to(network.clone()).unwrap(), network);
        }
        let set = Set { ipv6: api_value("2001:db8::8/64").ok(), ..nothing() };
        let ipv6 = set.applied_to(there(true)).unwrap().ipv6.unwrap();
        assert_eq!((ipv6.cidr.to_string().as_str(), ipv6.gateway), ("2001:db8::8/64", "fe80::1".parse().ok()));
    }

    #[test]
    fn ipv6_comes_and_goes() {
        assert_eq!(Set { no_ipv6: true, ..nothing() }.applied_to(there(true)).unwrap().ipv6, None);
        let alone = Set { no_ipv6_gateway: true, ..nothing() }.applied_to(there(true)).unwrap().ipv6.unwrap();
        assert_eq!(alone.gateway, None);
        let set = Set { ipv6: api_value("2001:db8::8/64").ok(), ..nothing() };
        assert_eq!(set.applied_to(there(false)).unwrap().ipv6.unwrap().gateway, None);
        assert!(Set { ipv6_gateway: "fe80::2".parse().ok(), ..nothing() }.applied_to(there(false)).is_err());
    }
}
