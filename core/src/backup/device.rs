//! The configuration of one device in a backup: writing it and restoring it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use casemate_api::body::config::{Cidr6, LogLevel, Logging, Network, NetworkV6};
use der::{Decode, Encode};
use zeroize::Zeroizing;

use crate::backup::format::Version;
use crate::backup::nethsm::{self, BadValue, DeviceItem};
use crate::config::{self, StoredConfig};
use crate::crypto::material::Material;
use crate::crypto::mech::LoadedKey;
use crate::crypto::seal;
use crate::crypto::secret::DomainKey;
use crate::crypto::x509;
use crate::device::store::{DeviceStore, DeviceStoreChange};
use crate::error::Error;
use crate::platform::Host;
use crate::rows::path::DevicePath;
use crate::rows::tls_identity::TlsIdentity;

/// The values of one device, unsealed except for the slots.
pub(crate) type Items = BTreeMap<DeviceItem, Zeroizing<Vec<u8>>>;

/// The configuration of this device, for a backup. The salt of the unlock passphrase is added where the locked Domain
/// Key is read, because both must match. Time servers are not included: NetHSM's format has no entry for them.
pub(crate) async fn items(local: &DeviceStore) -> Result<Items, Error> {
    let mut items = Items::new();
    let mut add = |item, value: Vec<u8>| drop(items.insert(item, Zeroizing::new(value)));
    let tls = local.get(DevicePath::Tls).await?.ok_or_else(|| Error::internal("there is no TLS identity"))?;
    let tls = TlsIdentity::decode(&tls).map_err(|why| Error::internal(why.to_string()))?;
    add(DeviceItem::Certificate, nethsm::write_chain(&tls.chain));
    add(DeviceItem::PrivateKey, nethsm::write_private_pem(&tls.private_key).to_vec());
    let offset = local.get(DevicePath::ClockOffset).await?;
    let offset = offset.and_then(|bytes| <[u8; 8]>::try_from(bytes.as_slice()).ok()).map_or(0, i64::from_be_bytes);
    add(DeviceItem::TimeOffset, offset.to_string().into_bytes());
    let unattended = local.get(DevicePath::Slot1).await?.is_some();
    add(DeviceItem::UnattendedBoot, if unattended { b"1".to_vec() } else { b"0".to_vec() });
    if let Some(network) = config::stored::<Network>(local).await? {
        add(DeviceItem::Network, nethsm::write_network(&to_nethsm(&network)));
    }
    if let Some(logging) = config::stored::<Logging>(local).await? {
        let level = match logging.log_level {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warning => "warning",
            LogLevel::Error => "error",
        };
        let logging = nethsm::Logging { address: logging.ip_address, port: logging.port, level: level.into() };
        add(DeviceItem::Logging, nethsm::write_logging(&logging));
    }
    Ok(items)
}

fn to_nethsm(network: &Network) -> nethsm::Network {
    let bits = u8::try_from(u32::from(network.netmask).leading_ones()).unwrap_or(32);
    nethsm::Network {
        v4: (network.ip_address, bits),
        v4_gateway: Some(network.gateway).filter(|gateway| !gateway.is_unspecified()),
        v6: network.ipv6.as_ref().map(|v6| (v6.cidr.address, v6.cidr.prefix)),
        v6_gateway: network.ipv6.as_ref().and_then(|v6| v6.gateway),
    }
}

fn from_nethsm(network: &nethsm::Network) -> Network {
    let (ip_address, bits) = network.v4;
    let netmask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
    Network {
        ip_address,
        netmask: netmask.into(),
        gateway: network.v4_gateway.unwrap_or(Ipv4Addr::UNSPECIFIED),
        ipv6: network
            .v6
            .map(|(address, prefix)| NetworkV6 { cidr: Cidr6 { address, prefix }, gateway: network.v6_gateway }),
    }
}

fn read_logging(version: Version, bytes: &[u8]) -> Result<Logging, BadValue> {
    let logging = nethsm::read_logging(version, bytes)?;
    let log_level = match logging.level.as_str() {
        "debug" => LogLevel::Debug,
        // `app` is NetHSM's level between info and warning.
        "info" | "app" => LogLevel::Info,
        "warning" => LogLevel::Warning,
        "error" => LogLevel::Error,
        _ => return Err(BadValue("it names an unknown level")),
    };
    Ok(Logging { ip_address: logging.address, port: logging.port, log_level })
}

/// The clock offset of the backup's device: seconds from its hardware clock to its HSM time; 0 if missing or malformed.
pub(crate) fn clock_offset_s(items: &Items) -> i64 {
    let offset = items.get(&DeviceItem::TimeOffset).map(|text| nethsm::read_seconds(text));
    match offset {
        None => 0,
        Some(Ok(seconds)) => seconds,
        Some(Err(why)) => {
            tracing::warn!(target: "hsm.backup", %why, "the clock offset in the backup is not taken over");
            0
        }
    }
}

/// Adds to `change` what a full restore takes over for this device: TLS key and certificates, network, logging. It
/// takes effect at the next boot. `Invalid` if key or certificates are missing or do not belong together; a network or
/// logging configuration that cannot be read is not taken over.
pub(crate) fn take_over(
    items: &Items,
    version: Version,
    host: &dyn Host,
    change: DeviceStoreChange,
) -> Result<DeviceStoreChange, Error> {
    let missing = || Error::invalid("The backup holds no TLS key and certificate. Nothing was restored.");
    let chain = items.get(&DeviceItem::Certificate).ok_or_else(missing)?;
    let key = items.get(&DeviceItem::PrivateKey).ok_or_else(missing)?;
    let identity = tls_identity(key, chain)?;
    let change = match host.serve_with(&identity) {
        Ok(_) => change.put(DevicePath::Tls, identity.encode().to_vec()),
        Err(why) => {
            tracing::warn!(target: "hsm.backup", %why, "the TLS key in the backup cannot be served; this device keeps its own");
            change
        }
    };
    let network = items
        .get(&DeviceItem::Network)
        .map(|bytes| nethsm::read_network(version, bytes).map(|network| from_nethsm(&network).encode().to_vec()));
    let logging = items.get(&DeviceItem::Logging);
    let logging = logging.map(|bytes| read_logging(version, bytes).map(|logging| logging.encode().to_vec()));
    let mut change = change;
    for (path, value) in [(DevicePath::Network, network), (DevicePath::Logging, logging)] {
        match value {
            None => {}
            Some(Ok(value)) => change = change.put(path, value),
            Some(Err(why)) => {
                tracing::warn!(target: "hsm.backup", ?path, %why, "a configuration in the backup is not taken over");
            }
        }
    }
    Ok(change)
}

/// The TLS identity of a backup. `Invalid` unless its key and its certificate belong together.
fn tls_identity(key_pem: &[u8], chain: &[u8]) -> Result<TlsIdentity, Error> {
    let unfit =
        || Error::invalid("The TLS key and certificate of the backup do not belong together. Nothing was restored.");
    let material = Material::from_known_pem(key_pem).map_err(|_| unfit())?;
    let chain = nethsm::read_chain(chain).map_err(|_| unfit())?;
    let leaf = x509_cert::Certificate::from_der(chain.first().ok_or_else(unfit)?).map_err(|_| unfit())?;
    let certified = leaf.tbs_certificate().subject_public_key_info().to_der().map_err(|_| unfit())?;
    let loaded = LoadedKey::load(&material).map_err(|_| unfit())?;
    let own = loaded.public().spki().ok().flatten().and_then(|spki| spki.to_der().ok()).ok_or_else(unfit)?;
    if own != certified {
        return Err(unfit());
    }
    Ok(TlsIdentity { private_key: x509::pkcs8_der(&material)?, chain })
}

/// The Domain Key of the unattended slot, if unattended boot was on when the backup was made and the backup is of this
/// device.
pub(crate) fn unattended_key(items: &Items, version: Version, device: &str, local: &DeviceStore) -> Option<DomainKey> {
    let on = items.get(&DeviceItem::UnattendedBoot).is_some_and(|flag| flag.as_slice() == b"1");
    let slot = items.get(&DeviceItem::Unattended).filter(|_| on)?;
    let label = DeviceItem::Unattended.slot_label(version, device)?;
    let domain = seal::open(local.backup_slots.expose(), &label, slot).ok()?;
    DomainKey::from_slice(&domain)
}
