//! NetHSM's records: their paths, keys and formats. Only `backup/` knows them.
//!
//! Inside the seals of the backup, each value is sealed as in NetHSM's store: AES-256-GCM with the full path as
//! associated data, under SHA-256(Domain Key ‖ label) for values that belong to all devices, and under the
//! configuration key of a device for its own values.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64ct::{Base64, Encoding};
use casemate_api::{KeyId, Mechanism, NamespaceId, Role, UserId, mechanisms};
use zeroize::Zeroizing;

use crate::Error;
use crate::backup::format::Version;
use crate::backup::json::{BadJson, Members, Value};
use crate::crypto::digest;
use crate::crypto::material::Material;
use crate::crypto::seal::{self, OpenError};
use crate::crypto::secret::{DomainKey, SecretBytes, StoreKey};
use crate::crypto::user_digest::{Digest, Scheme};
use crate::crypto::x509;
use crate::keys::check_label;
use crate::rows::key::{KeyRecord, Mechanisms};
use crate::rows::user::UserRecord;

/// Value of a store's version, an entry of each of the three stores.
pub const STORE_VERSION: &[u8] = b"0";
/// The entry that marks the HSM as provisioned.
pub const INITIALIZED: &str = "/.initialized";
/// Version of the store as a whole, in clear.
pub const CONFIG_VERSION: &str = "/config/version";
/// The Backup Key.
pub const BACKUP_KEY: &str = "/config/backup-key";
/// The salt of the backup passphrase.
pub const BACKUP_SALT: &str = "/config/backup-salt";
/// The cluster CA, which signs the certificates of the members.
pub const CLUSTER_CA: &str = "/config/cluster-ca";
/// The manifest, the last entry of a backup written by Casemate; NetHSM ignores it.
pub const MANIFEST: &str = "/~manifest";

/// A store of NetHSM whose key derives from the Domain Key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NethsmStore {
    /// Users.
    Users,
    /// Keys.
    Keys,
    /// Namespaces.
    Namespaces,
    /// What is configured for all devices.
    Config,
}

impl NethsmStore {
    /// The prefix of the paths of this store.
    pub fn prefix(self) -> &'static str {
        match self {
            NethsmStore::Users => "/authentication/",
            NethsmStore::Keys => "/key/",
            NethsmStore::Namespaces => "/namespace/",
            NethsmStore::Config => "/config/",
        }
    }

    /// Whether `path` lies in one of the three stores that hold records, known by name or not.
    pub fn holds(path: &str) -> bool {
        [NethsmStore::Users, NethsmStore::Keys, NethsmStore::Namespaces]
            .iter()
            .any(|store| path.starts_with(store.prefix()))
    }

    /// The path of the store's version.
    pub fn version_path(self) -> String {
        format!("{}.version", self.prefix())
    }

    fn label(self) -> &'static [u8] {
        match self {
            NethsmStore::Users => b"auth_store",
            NethsmStore::Keys => b"key_store",
            NethsmStore::Namespaces => b"namespace_store",
            NethsmStore::Config => b"config_store",
        }
    }

    /// The key that seals this store's values.
    pub fn key(self, domain: &DomainKey) -> StoreKey {
        let joined = Zeroizing::new([domain.expose().as_slice(), self.label()].concat());
        StoreKey::new(digest::sha256(&joined))
    }
}

/// The value of [`CONFIG_VERSION`] in a backup of this version: one ASCII digit.
pub fn config_version(version: Version) -> [u8; 1] {
    [b'0' + version.byte()]
}

/// Opens a value of a store that the Domain Key opens, or of a device's own configuration.
pub fn open(key: &StoreKey, path: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    seal::open(key.expose(), path.as_bytes(), sealed)
}

/// The meaning of a path in a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryPath {
    /// [`INITIALIZED`]
    Initialized,
    /// The version of a store.
    StoreVersion(NethsmStore),
    /// A user.
    User(UserId),
    /// A namespace.
    Namespace(NamespaceId),
    /// A key.
    Key(Option<NamespaceId>, KeyId),
    /// [`CONFIG_VERSION`]
    ConfigVersion,
    /// [`BACKUP_KEY`], [`BACKUP_SALT`] or [`CLUSTER_CA`].
    Shared,
    /// Configuration of one device.
    Device {
        /// Id of the device; empty in V0, which has only one.
        device: String,
        /// Which value of the device.
        item: DeviceItem,
    },
    /// [`MANIFEST`]
    Manifest,
    /// A path that is not known or not used.
    Other,
}

/// A value that belongs to one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceItem {
    /// Salt of the unlock passphrase.
    UnlockSalt,
    /// TLS certificates.
    Certificate,
    /// TLS private key.
    PrivateKey,
    /// The network configuration.
    Network,
    /// The logging configuration.
    Logging,
    /// Seconds from the hardware clock to the HSM's time.
    TimeOffset,
    /// Whether unattended boot is on.
    UnattendedBoot,
    /// The Domain Key for attended boot, sealed under the Unlock Key and then under the Device Key.
    Attended,
    /// The Domain Key for unattended boot, sealed under the Device Key alone.
    Unattended,
}

const DEVICE_ITEMS: [(DeviceItem, &str); 9] = [
    (DeviceItem::Certificate, "config/certificate"),
    (DeviceItem::Network, "config/ip-config"),
    (DeviceItem::Logging, "config/log-config"),
    (DeviceItem::PrivateKey, "config/private-key"),
    (DeviceItem::TimeOffset, "config/time-offset"),
    (DeviceItem::UnattendedBoot, "config/unattended-boot"),
    (DeviceItem::UnlockSalt, "config/unlock-salt"),
    (DeviceItem::Attended, "domain-key/attended"),
    (DeviceItem::Unattended, "domain-key/unattended"),
];

impl DeviceItem {
    /// The path of this item of `device` in V1.
    pub fn path(self, device: &str) -> String {
        let name = DEVICE_ITEMS.iter().find(|(item, _)| *item == self).map_or("", |(_, name)| name);
        format!("/local/{device}/{name}")
    }

    /// The associated data of a slot's seal under the Device Key, which has no separator before the slot's name; `None`
    /// if this item is not a slot.
    pub fn slot_label(self, version: Version, device: &str) -> Option<Vec<u8>> {
        let slot = match self {
            DeviceItem::Attended => "attended",
            DeviceItem::Unattended => "unattended",
            _ => return None,
        };
        Some(match version {
            Version::V0 => format!("domain-key{slot}").into_bytes(),
            Version::V1 => format!("local/{device}/domain-key{slot}").into_bytes(),
        })
    }
}

impl EntryPath {
    /// Parses `path` in a backup of this version. Unknown or invalid paths are [`EntryPath::Other`].
    pub fn of(version: Version, path: &str) -> Self {
        for store in [NethsmStore::Users, NethsmStore::Keys, NethsmStore::Namespaces] {
            if let Some(rest) = path.strip_prefix(store.prefix()) {
                return Self::in_store(store, rest).unwrap_or(EntryPath::Other);
            }
        }
        match path {
            INITIALIZED => return EntryPath::Initialized,
            CONFIG_VERSION => return EntryPath::ConfigVersion,
            BACKUP_KEY | BACKUP_SALT | CLUSTER_CA => return EntryPath::Shared,
            MANIFEST => return EntryPath::Manifest,
            _ => {}
        }
        let (device, name) = match version {
            Version::V0 => (Some(""), path.strip_prefix('/')),
            Version::V1 => {
                let split = path.strip_prefix("/local/").and_then(|rest| rest.split_once('/'));
                (split.map(|(device, _)| device), split.map(|(_, name)| name))
            }
        };
        let item = DEVICE_ITEMS.iter().find(|(_, known)| Some(*known) == name).map(|(item, _)| *item);
        match (device, item) {
            (Some(device), Some(item)) => EntryPath::Device { device: device.to_owned(), item },
            _ => EntryPath::Other,
        }
    }

    fn in_store(store: NethsmStore, rest: &str) -> Option<Self> {
        if rest == ".version" {
            return Some(EntryPath::StoreVersion(store));
        }
        // `.namespace/name`
        let split = rest.strip_prefix('.').map(|rest| rest.split_once('/'));
        match store {
            NethsmStore::Namespaces => NamespaceId::parse(rest).ok().map(EntryPath::Namespace),
            NethsmStore::Users => {
                let spelled = match split {
                    Some(split) => split.map(|(namespace, name)| format!("{namespace}~{name}"))?,
                    None => rest.to_owned(),
                };
                UserId::parse(&spelled).ok().map(EntryPath::User)
            }
            NethsmStore::Keys => {
                let (namespace, id) = match split {
                    Some(split) => split.map(|(namespace, id)| (Some(namespace), id))?,
                    None => (None, rest),
                };
                let namespace = namespace.map(NamespaceId::parse).transpose().ok()?;
                Some(EntryPath::Key(namespace, KeyId::parse(id).ok()?))
            }
            NethsmStore::Config => None,
        }
    }
}

/// The path of a user.
pub fn user_path(id: &str) -> String {
    format!("{}{id}", NethsmStore::Users.prefix())
}

/// The path of a namespace.
pub fn namespace_path(id: &NamespaceId) -> String {
    format!("{}{id}", NethsmStore::Namespaces.prefix())
}

/// The path of a key.
pub fn key_path(namespace: Option<&NamespaceId>, id: &str) -> String {
    match namespace {
        None => format!("{}{id}", NethsmStore::Keys.prefix()),
        Some(namespace) => format!("{}.{namespace}/{id}", NethsmStore::Keys.prefix()),
    }
}

/// A malformed value. The text names the part, never its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadValue(pub &'static str);

impl From<BadJson> for BadValue {
    fn from(_: BadJson) -> Self {
        BadValue("it is not the JSON of such a record")
    }
}

/// Prefix of a digest of scheme 1: scrypt over NetHSM's digest. A NetHSM compares its own digest with the whole value,
/// which never matches, so such a user needs a new passphrase there.
const SCRYPT_MARK: &[u8] = b"casemate-scrypt-1:";

/// Reads a user.
pub fn read_user(json: &[u8]) -> Result<UserRecord, BadValue> {
    let mut members = Members::of(Value::read(json)?)?;
    let real_name = String::from_utf8_lossy(&members.required("name")?.into_bytes()?).into_owned();
    let salt = members.required("salt")?.into_bytes()?;
    let salt = salt.as_slice().try_into().map_err(|_| BadValue("its salt does not have 16 bytes"))?;
    let stored = members.required("digest")?.into_bytes()?;
    let (scheme, hash) = match stored.strip_prefix(SCRYPT_MARK) {
        Some(hash) if stored.len() != 32 => (Scheme::Scrypt, hash),
        _ => (Scheme::HmacSha256, stored.as_slice()),
    };
    let hash = hash.try_into().map_err(|_| BadValue("its digest does not have 32 bytes"))?;
    let role = members.required("role")?.into_text()?;
    let role = Role::ALL.into_iter().find(|known| format!("{known:?}") == role);
    let role = role.ok_or(BadValue("it names an unknown role"))?;
    let tags = members.optional("tags").map_or(Ok(BTreeSet::new()), texts)?;
    members.end()?;
    Ok(UserRecord { real_name, role, digest: Digest { scheme, salt, hash }, tags })
}

/// Writes a user.
pub fn write_user(user: &UserRecord) -> Zeroizing<Vec<u8>> {
    let digest = match user.digest.scheme {
        Scheme::HmacSha256 => user.digest.hash.to_vec(),
        Scheme::Scrypt => [SCRYPT_MARK, &user.digest.hash].concat(),
    };
    let members = vec![
        ("name", Value::text(user.real_name.as_bytes())),
        ("salt", Value::text(user.digest.salt)),
        ("digest", Value::text(digest)),
        ("role", Value::text(format!("{:?}", user.role))),
        ("tags", Value::List(user.tags.iter().map(|tag| Value::text(tag.as_bytes())).collect())),
    ];
    Value::object(members).write()
}

fn texts<T: FromIterator<String>>(list: Value) -> Result<T, BadValue> {
    list.into_list()?.into_iter().map(|item| Ok(item.into_text()?)).collect()
}

/// Reads a namespace; returns its name.
pub fn read_namespace(json: &[u8]) -> Result<String, BadValue> {
    Ok(Value::read(json)?.into_text()?)
}

/// Writes a namespace.
pub fn write_namespace(id: &NamespaceId) -> Zeroizing<Vec<u8>> {
    Value::text(id.as_str()).write()
}

/// A key with everything that NetHSM keeps in its record.
pub struct FullKey {
    /// The key's record, with the uid given.
    pub record: KeyRecord,
    /// The certificate, any bytes.
    pub certificate: Option<Vec<u8>>,
    /// Number of operations.
    pub operations: u64,
}

const CERTIFICATE_TYPE: &str = "application/octet-stream";

/// Reads a key; its record gets the uid `uid`. RSA primes are not tested again: the HSM that sealed the record under
/// the Domain Key tested or generated them. A certificate may be longer than the API allows.
pub fn read_key(json: &[u8], uid: crate::rows::path::Uid) -> Result<FullKey, BadValue> {
    let mut members = Members::of(Value::read(json)?)?;
    let names = members.required("mechanisms")?.into_list()?;
    let mut list = Vec::with_capacity(names.len());
    for name in names {
        list.push(mechanism(&name.into_text()?).ok_or(BadValue("it names an unknown mechanism"))?);
    }
    let material = read_private(members.required("priv")?)?;
    let certificate = members.optional("cert").map(read_certificate).transpose()?;
    let operations = members.optional("operations").map_or(Ok(0), Value::into_number)?;
    let mut tags: Vec<String> = match members.optional("restrictions") {
        None => Vec::new(),
        Some(restrictions) => {
            let mut members = Members::of(restrictions)?;
            let tags = members.optional("tags").map_or(Ok(Vec::new()), texts)?;
            members.end()?;
            tags
        }
    };
    tags.sort();
    tags.dedup();
    let label = members.optional("label").map_or(Ok(String::new()), Value::into_text)?;
    check_label(&label).map_err(|_| BadValue("its label is too long"))?;
    members.end()?;
    let record = KeyRecord::new(uid, Mechanisms::of(&list), label, tags, material);
    Ok(FullKey { record, certificate, operations })
}

fn mechanism(name: &str) -> Option<Mechanism> {
    let mut all = mechanisms::TABLE.iter().map(|row| row.mechanism);
    all.find(|mechanism| format!("{mechanism:?}") == name)
}

fn read_private(private: Value) -> Result<Material, BadValue> {
    let mut members = Members::of(private)?;
    let material = match (members.optional("PEM"), members.optional("raw")) {
        (Some(pem), None) => {
            let pem = pem.into_bytes()?;
            Material::from_known_pem(&pem).map_err(|_| BadValue("its private key is damaged or of an unknown type"))?
        }
        (None, Some(raw)) => {
            let text = raw.into_bytes()?;
            let mut bytes = Zeroizing::new(vec![0; text.len()]);
            let raw = Base64::decode(text.as_slice(), &mut bytes).map_err(|_| BadValue("its bytes are not base64"))?;
            Material::Generic(SecretBytes::from_slice(raw))
        }
        _ => return Err(BadValue("it has no private key, or two")),
    };
    members.end()?;
    Ok(material)
}

fn read_certificate(value: Value) -> Result<Vec<u8>, BadValue> {
    let mut parts = value.into_list()?.into_iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(bytes), None) => Ok(bytes.into_bytes()?.to_vec()),
        _ => Err(BadValue("its certificate is malformed")),
    }
}

/// Writes a key.
pub fn write_key(key: &KeyRecord, certificate: Option<&[u8]>, operations: u64) -> Result<Zeroizing<Vec<u8>>, Error> {
    let private = match &key.material {
        Material::Generic(bytes) => ("raw", base64(bytes.expose())),
        material => {
            let der = x509::pkcs8_without_public(material)?;
            ("PEM", write_private_pem(&der))
        }
    };
    let certificate =
        certificate.map_or(Value::Null, |bytes| Value::List(vec![Value::text(CERTIFICATE_TYPE), Value::text(bytes)]));
    let list = |texts: &[String]| Value::List(texts.iter().map(|text| Value::text(text.as_bytes())).collect());
    let restrictions = if key.tags.is_empty() { vec![] } else { vec![("tags", list(&key.tags))] };
    let names: Vec<String> = key.mechanisms.list().iter().map(|mechanism| format!("{mechanism:?}")).collect();
    let mut members = vec![
        ("mechanisms", list(&names)),
        ("priv", Value::object(vec![(private.0, Value::Text(private.1))])),
        ("cert", certificate),
        ("operations", Value::Number(operations)),
        ("restrictions", Value::object(restrictions)),
    ];
    if !key.label.is_empty() {
        members.push(("label", Value::text(key.label.as_bytes())));
    }
    Ok(Value::object(members).write())
}

/// Base64 in constant time, in memory that is wiped.
pub(super) fn base64(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Base64::encode_string(bytes).into_bytes())
}

/// Reads certificates in DER, leaf first, each with its length in front (4 bytes, big-endian).
pub fn read_chain(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, BadValue> {
    let short = || BadValue("the certificate chain is cut off");
    let mut chain = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk().ok_or_else(short)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| short())?;
        let (certificate, rest) = rest.split_at_checked(length).ok_or_else(short)?;
        chain.push(certificate.to_vec());
        bytes = rest;
    }
    Ok(chain)
}

/// Writes certificates in DER, leaf first, each with its length in front (4 bytes, big-endian).
pub fn write_chain(chain: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for certificate in chain {
        out.extend_from_slice(&u32::try_from(certificate.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(certificate);
    }
    out
}

/// The PEM of a PKCS#8 private key.
pub fn write_private_pem(der: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut pem = Zeroizing::new(Vec::with_capacity(2 * der.len() + 100));
    pem.extend_from_slice(b"-----BEGIN PRIVATE KEY-----\n");
    for line in base64(der).chunks(64) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(b"-----END PRIVATE KEY-----\n");
    pem
}

/// Reads seconds in decimal.
pub fn read_seconds(text: &[u8]) -> Result<i64, BadValue> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or(BadValue("the clock offset is not a number"))
}

/// The network configuration of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// IPv4 address and the bits of its network.
    pub v4: (Ipv4Addr, u8),
    /// IPv4 gateway.
    pub v4_gateway: Option<Ipv4Addr>,
    /// IPv6 address and the bits of its network.
    pub v6: Option<(Ipv6Addr, u8)>,
    /// IPv6 gateway.
    pub v6_gateway: Option<Ipv6Addr>,
}

const BAD_NETWORK: BadValue = BadValue("the network configuration is malformed");

/// Reads a network configuration of either version.
pub fn read_network(version: Version, bytes: &[u8]) -> Result<Network, BadValue> {
    match version {
        Version::V0 => {
            let (gateway, rest) = bytes.split_first_chunk::<4>().ok_or(BAD_NETWORK)?;
            let (address, rest) = rest.split_first_chunk::<4>().ok_or(BAD_NETWORK)?;
            let mask = u32::from_be_bytes(rest.try_into().map_err(|_| BAD_NETWORK)?);
            if mask.leading_ones() + mask.trailing_zeros() < 32 {
                return Err(BAD_NETWORK);
            }
            let bits = u8::try_from(mask.leading_ones()).unwrap_or(32);
            let gateway = Some(Ipv4Addr::from(*gateway)).filter(|gateway| !gateway.is_unspecified());
            Ok(Network { v4: (Ipv4Addr::from(*address), bits), v4_gateway: gateway, v6: None, v6_gateway: None })
        }
        Version::V1 => {
            let mut members = Members::of(Value::read(bytes)?)?;
            let (v4, v4_gateway) = read_interface(members.required("ipv4")?, 32)?;
            let v6 = members.optional("ipv6").map(|v6| read_interface(v6, 128)).transpose()?;
            members.end()?;
            Ok(Network { v4, v4_gateway, v6: v6.map(|v6| v6.0), v6_gateway: v6.and_then(|v6| v6.1) })
        }
    }
}

type Interface<A> = ((A, u8), Option<A>);

fn read_interface<A: std::str::FromStr + Copy>(value: Value, bits_max: u8) -> Result<Interface<A>, BadValue> {
    let mut members = Members::of(value)?;
    let cidr = members.required("cidr")?.into_text()?;
    let (address, bits) = cidr.split_once('/').ok_or(BAD_NETWORK)?;
    let address = address.parse().map_err(|_| BAD_NETWORK)?;
    let bits = bits.parse().ok().filter(|bits| *bits <= bits_max).ok_or(BAD_NETWORK)?;
    let gateway = members.optional("gateway").map(Value::into_text).transpose()?;
    let gateway = gateway.map(|text| text.parse().map_err(|_| BAD_NETWORK)).transpose()?;
    members.end()?;
    Ok(((address, bits), gateway))
}

/// Writes a network configuration in the form of V1.
pub fn write_network(network: &Network) -> Vec<u8> {
    let interface = |address: String, bits: u8, gateway: Option<String>| {
        let gateway = gateway.map_or(Value::Null, Value::text);
        Value::object(vec![("cidr", Value::text(format!("{address}/{bits}"))), ("gateway", gateway)])
    };
    let (address, bits) = network.v4;
    let v4 = interface(address.to_string(), bits, network.v4_gateway.map(|gateway| gateway.to_string()));
    let mut members = vec![("ipv4", v4)];
    if let Some((address, bits)) = network.v6 {
        let gateway = network.v6_gateway.map(|gateway| gateway.to_string());
        members.push(("ipv6", interface(address.to_string(), bits, gateway)));
    }
    Value::object(members).write().to_vec()
}

/// The logging configuration of a device: level and syslog server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// The syslog server; the unspecified address means none.
    pub address: IpAddr,
    /// Its UDP port.
    pub port: u16,
    /// Least level that is sent, in the API's spelling.
    pub level: String,
}

const BAD_LOGGING: BadValue = BadValue("the log configuration is malformed");

/// Reads a logging configuration of either version.
pub fn read_logging(version: Version, bytes: &[u8]) -> Result<Logging, BadValue> {
    match version {
        Version::V0 => {
            let (address, rest) = bytes.split_first_chunk::<4>().ok_or(BAD_LOGGING)?;
            let (port, level) = rest.split_first_chunk().ok_or(BAD_LOGGING)?;
            let level = String::from_utf8(level.to_vec()).map_err(|_| BAD_LOGGING)?;
            Ok(Logging { address: Ipv4Addr::from(*address).into(), port: u16::from_be_bytes(*port), level })
        }
        Version::V1 => {
            let mut members = Members::of(Value::read(bytes)?)?;
            let address = members.required("ipAddress")?.into_text()?.parse().map_err(|_| BAD_LOGGING)?;
            let port = u16::try_from(members.required("port")?.into_number()?).map_err(|_| BAD_LOGGING)?;
            let level = members.required("logLevel")?.into_text()?;
            members.end()?;
            Ok(Logging { address, port, level })
        }
    }
}

/// Writes a logging configuration in the form of V1.
pub fn write_logging(logging: &Logging) -> Vec<u8> {
    let members = vec![
        ("ipAddress", Value::text(logging.address.to_string())),
        ("port", Value::Number(logging.port.into())),
        ("logLevel", Value::text(logging.level.as_bytes())),
    ];
    Value::object(members).write().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::mech::LoadedKey;
    use crate::crypto::mech::tests::any_key;
    use base16ct::lower::encode_string as hex;
    use casemate_api::KeyType;

    fn domain() -> DomainKey {
        DomainKey::new(std::array::from_fn(|at| u8::try_from(at).unwrap()))
    }

    #[test]
    fn the_keys_of_the_stores_match_those_of_nethsm() {
        for (store, key) in [
            (NethsmStore::Users, "20d24b77cc7757a72de921352a14c754c2224b0af1c95b982144014050cdfc3d"),
            (NethsmStore::Keys, "8d34d71df5d472f35f47376312375aced265a146cf697bfe807cd0eace7529f2"),
            (NethsmStore::Namespaces, "033d94707816eea83a55e2839723abbd3771eecb7348f05760b60c417f5cc560"),
            (NethsmStore::Config, "9aa71e909563fc3838998ed43c6442ae3ea9fdfee061a3c5556ff57c5e2d07d0"),
        ] {
            assert_eq!(hex(store.key(&domain()).expose()), key);
        }
    }

    #[test]
    fn paths_are_parsed_and_written() {
        let ns = || NamespaceId::parse("ns1").unwrap();
        let key = || KeyId::parse("k").unwrap();
        let v1 = |path: &str| EntryPath::of(Version::V1, path);
        assert_eq!(v1("/key/k"), EntryPath::Key(None, key()));
        assert_eq!(v1("/key/.ns1/k"), EntryPath::Key(Some(ns()), key()));
        assert_eq!(v1("/key/.version"), EntryPath::StoreVersion(NethsmStore::Keys));
        for path in ["/authentication/ns1~op", "/authentication/.ns1/op"] {
            assert_eq!(v1(path), EntryPath::User(UserId::parse("ns1~op").unwrap()));
        }
        assert_eq!(v1("/namespace/ns1"), EntryPath::Namespace(ns()));
        for path in [
            "/key/",
            "/key/.ns1",
            "/key/a/b",
            "/key/.ns1/.k",
            "/authentication/.x",
            "/namespace/a/b",
            "/config/ip-config",
        ] {
            assert_eq!(v1(path), EntryPath::Other, "{path}");
        }
        let device = |device: &str, item| EntryPath::Device { device: device.into(), item };
        assert_eq!(v1("/local/0000000000/config/unlock-salt"), device("0000000000", DeviceItem::UnlockSalt));
        assert_eq!(EntryPath::of(Version::V0, "/config/unlock-salt"), device("", DeviceItem::UnlockSalt));
        assert_eq!(EntryPath::of(Version::V0, "/domain-key/attended"), device("", DeviceItem::Attended));
        for (item, _) in DEVICE_ITEMS {
            assert_eq!(v1(&item.path("x")), device("x", item));
        }
        assert_eq!(v1(&key_path(Some(&ns()), "k")), EntryPath::Key(Some(ns()), key()));
        assert_eq!(
            DeviceItem::Unattended.slot_label(Version::V1, "0000000000").unwrap(),
            b"local/0000000000/domain-keyunattended"
        );
        assert_eq!(DeviceItem::Attended.slot_label(Version::V0, "").unwrap(), b"domain-keyattended");
    }

    #[test]
    fn users_of_both_schemes_survive() {
        for scheme in [Scheme::HmacSha256, Scheme::Scrypt] {
            let digest = Digest { scheme, salt: [0xff; 16], hash: std::array::from_fn(|at| 250 - at as u8) };
            let tags: BTreeSet<String> = ["a".to_owned(), "ü".to_owned()].into();
            let user = UserRecord { real_name: "Ada \"L\"\n".into(), role: Role::Operator, digest, tags };
            let read = read_user(&write_user(&user)).unwrap();
            assert_eq!((&read.real_name, read.role, &read.tags), (&user.real_name, user.role, &user.tags));
            assert_eq!(read.digest.scheme, scheme);
            assert_eq!((read.digest.salt, read.digest.hash), (user.digest.salt, user.digest.hash));
        }
        let old = b"{\"name\":\"x\",\"salt\":\"0123456789abcdef\",\"digest\":\"0123456789abcdef0123456789abcdef\",\"role\":\"Metrics\"}";
        assert!(read_user(old).unwrap().tags.is_empty());
        for (part, other) in
            [("Metrics", "King"), ("\"salt\":\"0", "\"salt\":\""), ("\"name\":\"x\",", ""), ("}", ",\"new\":1}")]
        {
            let text = std::str::from_utf8(old).unwrap().replace(part, other);
            assert!(read_user(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_of_every_type_survive_with_certificate_and_count() {
        for key_type in KeyType::ALL {
            let material = any_key(key_type);
            let public = LoadedKey::load(&material).unwrap().public();
            let mechanisms: Vec<_> =
                mechanisms::TABLE.iter().filter(|row| row.key == key_type).map(|row| row.mechanism).collect();
            let tags = vec!["b".to_owned(), "ü".to_owned()];
            let record = KeyRecord::new([1; 16], Mechanisms::of(&mechanisms), "laßel".into(), tags, material);
            let certificate: Vec<u8> = (0..=255).collect();
            let json = write_key(&record, Some(&certificate), 1 << 40).unwrap();
            let read = read_key(&json, [2; 16]).unwrap();
            assert_eq!((read.certificate, read.operations), (Some(certificate), 1 << 40));
            assert_eq!(read.record.mechanisms, record.mechanisms);
            assert_eq!((&read.record.label, &read.record.tags), (&record.label, &record.tags));
            assert_eq!((read.record.uid, read.record.key_type()), ([2; 16], key_type));
            assert_eq!(LoadedKey::load(&read.record.material).unwrap().public(), public);
            let same = |a: &Material, b: &Material| {
                let (mut one, mut two) = (vec![], vec![]);
                a.encode(&mut one);
                b.encode(&mut two);
                one == two
            };
            assert!(same(&read.record.material, &record.material));
        }
    }

    #[test]
    fn a_key_with_unknown_members_is_refused() {
        let json = r#"{"mechanisms":["AES_Encryption_CBC"],"priv":{"raw":"AAAA"},"cert":null,"operations":0,"restrictions":{}}"#;
        let read = read_key(json.as_bytes(), [0; 16]).unwrap();
        assert_eq!((read.operations, read.certificate, read.record.tags.len()), (0, None, 0));
        for (part, other) in [
            ("AES_Encryption_CBC", "Quantum"),
            ("\"restrictions\":{}", "\"restrictions\":{\"hours\":[]}"),
            ("{\"raw\":\"AAAA\"}", "{}"),
            ("AAAA", "AA A"),
            ("null", "[\"x\"]"),
            (",\"operations\":0", ",\"operations\":0,\"owner\":\"x\""),
        ] {
            assert!(read_key(json.replace(part, other).as_bytes(), [0; 16]).is_err(), "{other}");
        }
    }

    #[test]
    fn configuration_values_of_both_versions_are_read() {
        let network = read_network(Version::V0, &[10, 0, 0, 1, 10, 0, 0, 2, 255, 255, 255, 0]).unwrap();
        assert_eq!(write_network(&network), br#"{"ipv4":{"cidr":"10.0.0.2/24","gateway":"10.0.0.1"}}"#);
        let v1 = br#"{"ipv4":{"cidr":"192.168.1.1/24","gateway":null},"ipv6":{"cidr":"::1/8","gateway":"::1"}}"#;
        let network = read_network(Version::V1, v1).unwrap();
        assert_eq!(write_network(&network), v1);
        assert_eq!(read_network(Version::V0, &[0, 0, 0, 0, 1, 2, 3, 4, 255, 0, 255, 0]), Err(BAD_NETWORK));
        assert!(read_network(Version::V1, br#"{"ipv4":{"cidr":"192.168.1.1/33","gateway":null}}"#).is_err());

        let logging = read_logging(Version::V0, b"\x01\x02\x03\x04\x02\x02info").unwrap();
        let v1 = br#"{"ipAddress":"1.2.3.4","port":514,"logLevel":"info"}"#;
        assert_eq!(write_logging(&logging), v1);
        assert_eq!(read_logging(Version::V1, v1).unwrap(), logging);
        assert!(read_logging(Version::V0, b"\x01\x02").is_err());

        assert_eq!((read_seconds(b"-1"), read_seconds(b"7")), (Ok(-1), Ok(7)));
        assert!(read_seconds(b"").is_err() && read_seconds(b"1.5").is_err());
        let chain = vec![vec![1, 2, 3], vec![4]];
        assert_eq!(read_chain(&write_chain(&chain)).unwrap(), chain);
        assert!(read_chain(&write_chain(&chain)[..9]).is_err());
    }
}
