//! Stored formats of the configuration of this device. Formats are append-only, each with a golden file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use casemate_api::body::config::{Cidr6, LogLevel, Logging, Network, NetworkV6, Ntp};
use zeroize::Zeroizing;

use crate::device::store::DeviceStore;
use crate::error::Error;
use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::DevicePath;

/// A configuration with a row of its own.
pub(crate) trait StoredConfig: Sized {
    /// Its row.
    const PATH: DevicePath;
    /// The stored form, version tag first.
    fn encode(&self) -> Zeroizing<Vec<u8>>;
    /// Reads the fields after the version, which is always 1 so far.
    fn read(reader: &mut Reader<'_>) -> Result<Self, BadRecord>;

    /// Reads the stored form.
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != VERSION {
            return Err(BadRecord("its format is of a newer version"));
        }
        let config = Self::read(&mut reader)?;
        reader.end()?;
        Ok(config)
    }
}

const VERSION: u8 = 1;

/// The stored configuration; `None` if it was never set.
pub(crate) async fn stored<C: StoredConfig>(local: &DeviceStore) -> Result<Option<C>, Error> {
    let Some(bytes) = local.get(C::PATH).await? else { return Ok(None) };
    C::decode(&bytes).map(Some).map_err(|why| Error::internal(format!("row {:?} of the local store: {why}", C::PATH)))
}

/// Address, netmask, gateway (4 bytes each), 0 or 1; then address (16), prefix (1), 0 or 1; then gateway (16).
impl StoredConfig for Network {
    const PATH: DevicePath = DevicePath::Network;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let v4 = [self.ip_address, self.netmask, self.gateway].map(|address| address.octets()).concat();
        let writer = Writer::new(VERSION).raw(&v4);
        let Some(v6) = &self.ipv6 else { return writer.u8(0).finish() };
        let writer = writer.u8(1).raw(&v6.cidr.address.octets()).u8(v6.cidr.prefix);
        match v6.gateway {
            None => writer.u8(0).finish(),
            Some(gateway) => writer.u8(1).raw(&gateway.octets()).finish(),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, BadRecord> {
        let [ip_address, netmask, gateway] = [ipv4(reader)?, ipv4(reader)?, ipv4(reader)?];
        let ipv6 = match flag(reader)? {
            false => None,
            true => {
                let cidr = Cidr6 { address: ipv6(reader)?, prefix: reader.u8()? };
                Some(NetworkV6 { cidr, gateway: if flag(reader)? { Some(ipv6(reader)?) } else { None } })
            }
        };
        Ok(Self { ip_address, netmask, gateway, ipv6 })
    }
}

/// Address, port (2), level (0 debug, 1 info, 2 warning, 3 error).
impl StoredConfig for Logging {
    const PATH: DevicePath = DevicePath::Logging;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let level = match self.log_level {
            LogLevel::Debug => 0,
            LogLevel::Info => 1,
            LogLevel::Warning => 2,
            LogLevel::Error => 3,
        };
        address(Writer::new(VERSION), Some(self.ip_address)).raw(&self.port.to_be_bytes()).u8(level).finish()
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, BadRecord> {
        let ip_address = read_address(reader)?.ok_or(BadRecord("an address is missing in it"))?;
        let port = u16::from_be_bytes(reader.array()?);
        let log_level = match reader.u8()? {
            0 => LogLevel::Debug,
            1 => LogLevel::Info,
            2 => LogLevel::Warning,
            3 => LogLevel::Error,
            _ => return Err(BadRecord("a log level in it is unknown")),
        };
        Ok(Self { ip_address, port, log_level })
    }
}

/// Address or none, then the name with its length in front; an empty name means none.
impl StoredConfig for Ntp {
    const PATH: DevicePath = DevicePath::Ntp;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let name = self.nts_name.as_deref().unwrap_or_default();
        address(Writer::new(VERSION), self.ntp_ip).bytes(name.as_bytes()).finish()
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, BadRecord> {
        let ntp_ip = read_address(reader)?;
        let nts_name = Some(reader.text()?).filter(|name| !name.is_empty());
        Ok(Self { ntp_ip, nts_name })
    }
}

/// The family (4, 6, or 0 for none), then 4 or 16 bytes.
fn address(writer: Writer, address: Option<IpAddr>) -> Writer {
    match address {
        None => writer.u8(0),
        Some(IpAddr::V4(address)) => writer.u8(4).raw(&address.octets()),
        Some(IpAddr::V6(address)) => writer.u8(6).raw(&address.octets()),
    }
}

fn read_address(reader: &mut Reader<'_>) -> Result<Option<IpAddr>, BadRecord> {
    match reader.u8()? {
        0 => Ok(None),
        4 => Ok(Some(ipv4(reader)?.into())),
        6 => Ok(Some(ipv6(reader)?.into())),
        _ => Err(BadRecord("an address in it is of no known family")),
    }
}

fn ipv4(reader: &mut Reader<'_>) -> Result<Ipv4Addr, BadRecord> {
    reader.array::<4>().map(Ipv4Addr::from)
}

fn ipv6(reader: &mut Reader<'_>) -> Result<Ipv6Addr, BadRecord> {
    reader.array::<16>().map(Ipv6Addr::from)
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, BadRecord> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(BadRecord("a flag in it is neither 0 nor 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;

    fn v6(gateway: Option<&str>) -> Option<NetworkV6> {
        let cidr = Cidr6 { address: "2001:db8::7".parse().unwrap(), prefix: 64 };
        Some(NetworkV6 { cidr, gateway: gateway.map(|gateway| gateway.parse().unwrap()) })
    }

    fn network(ipv6: Option<NetworkV6>) -> Network {
        let [ip_address, netmask, gateway] =
            ["192.0.2.7", "255.255.255.0", "192.0.2.1"].map(|text| text.parse().unwrap());
        Network { ip_address, netmask, gateway, ipv6 }
    }

    /// Each line of the golden file is the stored form of one value, in order.
    #[track_caller]
    fn keeps<C: StoredConfig + PartialEq + Debug>(golden: &str, values: Vec<C>) {
        let lines: Vec<_> = golden.lines().collect();
        assert_eq!(lines.len(), values.len());
        for (line, value) in lines.iter().zip(values) {
            assert_eq!(base16ct::lower::encode_string(&value.encode()), *line, "{value:?}");
            assert_eq!(C::decode(&value.encode()).unwrap(), value);
        }
    }

    #[test]
    fn the_stored_forms_of_version_1_do_not_change() {
        let networks = vec![network(None), network(v6(None)), network(v6(Some("2001:db8::1")))];
        keeps(include_str!("../../testdata/formats/network-v1.hex"), networks);
        let logging =
            |address: &str, port, log_level| Logging { ip_address: address.parse().unwrap(), port, log_level };
        let loggings = vec![
            logging("0.0.0.0", 514, LogLevel::Info),
            logging("192.0.2.9", 0, LogLevel::Debug),
            logging("2001:db8::9", 65535, LogLevel::Warning),
            logging("192.0.2.9", 6514, LogLevel::Error),
        ];
        keeps(include_str!("../../testdata/formats/logging-v1.hex"), loggings);
        let ntp = |address: Option<&str>, name: Option<&str>| Ntp {
            ntp_ip: address.map(|address| address.parse().unwrap()),
            nts_name: name.map(str::to_owned),
        };
        let ntps =
            vec![ntp(None, None), ntp(Some("192.0.2.3"), None), ntp(Some("2001:db8::3"), Some("nts.example.com"))];
        keeps(include_str!("../../testdata/formats/ntp-v1.hex"), ntps);
    }

    #[test]
    fn bytes_that_are_not_a_record_are_refused() {
        for bad in [&[][..], &[2], &[1], &[1; 13], &[1; 15]] {
            assert!(Network::decode(bad).is_err(), "{bad:?}");
            assert!(Logging::decode(bad).is_err(), "{bad:?}");
            assert!(Ntp::decode(bad).is_err(), "{bad:?}");
        }
    }
}
