//! Bodies of `/config*`.

// Only the address types; the rest of `std::net` would bring sockets.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::fmt;
use std::str::FromStr;

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::STALE_DEFAULT_S;
use crate::secret::Passphrase;
use crate::words::KeyType;

/// `PUT /config/unlock-passphrase`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ChangePassphrase {
    /// The new passphrase, 10 to 200 bytes.
    pub new_passphrase: Passphrase,
    /// The current passphrase; never refused for its length.
    pub current_passphrase: Passphrase,
}

/// `GET` and `PUT /config/unattended-boot`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UnattendedBoot {
    /// Whether the HSM boots to Operational without the unlock passphrase.
    pub status: Switch,
}

/// `GET` and `PUT /config/without-majority`: what a member of a cluster does that reaches no majority. An extension of Casemate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "mode", deny_unknown_fields, rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum WithoutMajority {
    /// It serves nothing.
    Strict {},
    /// It goes on to use keys, and to read them, with what it knows.
    Degraded {
        /// For how long after a majority has confirmed what it knows, 1 to 86400 seconds.
        #[serde(default = "stale_default_s")]
        max_stale_seconds: u32,
    },
}

fn stale_default_s() -> u32 {
    STALE_DEFAULT_S
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// `POST /config/tls/generate`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GenerateTlsKey {
    /// Type of the key.
    #[serde(rename = "type")]
    pub key_type: TlsKeyType,
    /// Bits of the RSA modulus, required for RSA; ignored for other types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<i64>,
}

/// Type of a TLS key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(non_camel_case_types, missing_docs, reason = "the API's own spelling")]
pub enum TlsKeyType {
    RSA,
    Curve25519,
    EC_P256,
    EC_P384,
    EC_P521,
    BrainpoolP256,
    BrainpoolP384,
    BrainpoolP512,
}

impl From<TlsKeyType> for KeyType {
    fn from(key_type: TlsKeyType) -> Self {
        match key_type {
            TlsKeyType::RSA => KeyType::RSA,
            TlsKeyType::Curve25519 => KeyType::Curve25519,
            TlsKeyType::EC_P256 => KeyType::EC_P256,
            TlsKeyType::EC_P384 => KeyType::EC_P384,
            TlsKeyType::EC_P521 => KeyType::EC_P521,
            TlsKeyType::BrainpoolP256 => KeyType::BrainpoolP256,
            TlsKeyType::BrainpoolP384 => KeyType::BrainpoolP384,
            TlsKeyType::BrainpoolP512 => KeyType::BrainpoolP512,
        }
    }
}

/// `GET` and `PUT /config/network`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Network {
    /// IPv4 address of the HSM.
    #[serde(deserialize_with = "ipv4")]
    pub ip_address: Ipv4Addr,
    /// Netmask: ones, then zeros.
    #[serde(deserialize_with = "netmask")]
    pub netmask: Ipv4Addr,
    /// Default gateway; `0.0.0.0`: none.
    #[serde(deserialize_with = "ipv4", default = "no_gateway")]
    pub gateway: Ipv4Addr,
    /// IPv6 configuration; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<NetworkV6>,
}

/// The IPv6 part of [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NetworkV6 {
    /// Address and prefix length.
    pub cidr: Cidr6,
    /// Default gateway, or `null`; the member is required.
    #[serde(deserialize_with = "gateway6")]
    pub gateway: Option<Ipv6Addr>,
}

/// An IPv6 address and the prefix length of its network, as `2001:db8::7/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr6 {
    /// The address.
    pub address: Ipv6Addr,
    /// Prefix length in bits, at most 128.
    pub prefix: u8,
}

impl fmt::Display for Cidr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Cidr6 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr6 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "an IPv6 address and the length of its prefix, such as 2001:db8::7/64", |text| {
            let (address, prefix) = text.split_once('/')?;
            // `parse` would also accept a sign.
            let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
            let prefix = prefix.parse().ok().filter(|prefix| digits && *prefix <= 128)?;
            Some(Self { address: address.parse().ok()?, prefix })
        })
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Cidr6 {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cidr6".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9A-Fa-f:.]+/[0-9]{1,3}$" })
    }
}

/// `GET` and `PUT /config/logging`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Logging {
    /// IPv4 address of the syslog server; `0.0.0.0`: none.
    #[serde(deserialize_with = "ip")]
    pub ip_address: IpAddr,
    /// UDP port of the syslog server.
    pub port: u16,
    /// The lowest level that is logged.
    pub log_level: LogLevel,
}

impl Logging {
    /// Address and port of the syslog server, if there is one.
    pub fn server(&self) -> Option<SocketAddr> {
        (!self.ip_address.is_unspecified() && self.port != 0).then(|| SocketAddr::new(self.ip_address, self.port))
    }
}

/// Log levels, most important last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Details for finding faults.
    Debug,
    /// Normal operation.
    Info,
    /// An operator should have a look.
    Warning,
    /// A failure.
    Error,
}

/// `GET` and `PUT /config/time`.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Time {
    /// RFC 3339 with offset zero.
    pub time: String,
}

/// `GET` and `PUT /config/ntp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Ntp {
    /// Address of the NTP server; absent: none.
    #[serde(rename = "ntpIP", default, deserialize_with = "optional_ip", skip_serializing_if = "Option::is_none")]
    pub ntp_ip: Option<IpAddr>,
    /// Name of the NTS server; absent: none.
    #[serde(rename = "ntsName", default, skip_serializing_if = "Option::is_none")]
    pub nts_name: Option<String>,
}

const IPV4: &str = "an IPv4 address, such as 192.168.1.1";
const IPV6: &str = "an IPv6 address, such as 2001:db8::1";
const IP: &str = "an IP address, such as 192.168.1.1 or 2001:db8::1";
const NETMASK: &str = "a netmask of ones and then zeros, such as 255.255.255.0";

fn no_gateway() -> Ipv4Addr {
    Ipv4Addr::UNSPECIFIED
}

/// Deserialises a text with `parse`; `expected` completes the error message.
fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| D::Error::invalid_value(Unexpected::Other("a string"), &expected))
}

fn ipv4<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ipv4Addr, D::Error> {
    text(deserializer, IPV4, |text| text.parse().ok())
}

fn ip<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    text(deserializer, IP, |text| text.parse().ok())
}

fn netmask<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ipv4Addr, D::Error> {
    let contiguous = |mask: &Ipv4Addr| mask.to_bits().leading_ones() + mask.to_bits().trailing_zeros() >= 32;
    text(deserializer, NETMASK, |text| text.parse().ok().filter(contiguous))
}

fn optional<'de, D: Deserializer<'de>, T: FromStr>(
    deserializer: D,
    expected: &'static str,
) -> Result<Option<T>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let wrong = |_| D::Error::invalid_value(Unexpected::Other("a string"), &expected);
    text.parse().map(Some).map_err(wrong)
}

fn gateway6<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ipv6Addr>, D::Error> {
    optional(deserializer, IPV6)
}

fn optional_ip<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    optional(deserializer, IP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Option<Network> {
        serde_json::from_str(text).ok()
    }

    #[test]
    fn netmasks_are_ones_and_then_zeros() {
        let mask = |mask: &str| network(&format!(r#"{{"ipAddress":"10.0.0.1","netmask":"{mask}"}}"#));
        for good in ["0.0.0.0", "128.0.0.0", "255.255.255.0", "255.255.240.0", "255.255.255.255"] {
            assert_eq!(mask(good).unwrap().netmask.to_string(), good);
        }
        for bad in ["255.0.255.0", "0.0.0.255", "255.255.255.1", "255.255.255", "24", ""] {
            assert_eq!(mask(bad), None, "{bad}");
        }
    }

    #[test]
    fn prefixes_are_digits_and_at_most_128() {
        let cidr = |cidr: &str| serde_json::from_str::<Cidr6>(&format!("\"{cidr}\"")).map(|cidr| cidr.to_string()).ok();
        assert_eq!(cidr("::1/8").as_deref(), Some("::1/8"));
        assert_eq!(cidr("2001:DB8:0::7/128").as_deref(), Some("2001:db8::7/128"));
        for bad in ["::1", "::1/", "::1/129", "::1/+8", "::1/-1", "::1/8/8", "1.2.3.4/8", "/8", "::1/ 8", "::1/64000"] {
            assert_eq!(cidr(bad), None, "{bad}");
        }
    }

    #[test]
    fn both_members_of_the_ipv6_part_are_needed() {
        let with = |v6: &str| {
            network(&format!(r#"{{"ipAddress":"10.0.0.1","netmask":"255.0.0.0","gateway":"0.0.0.0","ipv6":{v6}}}"#))
        };
        assert_eq!(with("null").unwrap().ipv6, None);
        assert!(with(r#"{"cidr":"::1/8","gateway":null}"#).unwrap().ipv6.is_some());
        for bad in [r#"{"cidr":"::1/8"}"#, r#"{"gateway":"::1"}"#, r#"{"cidr":"::1/8","gateway":""}"#, "{}", "[]"] {
            assert_eq!(with(bad), None, "{bad}");
        }
    }
}
