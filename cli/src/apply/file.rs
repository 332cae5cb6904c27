//! Reads the file, in TOML or YAML. Unknown members are errors, and so are passphrases and private keys.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use casemate_api::body::config::{Cidr6, LogLevel, Logging, Network, NetworkV6, Ntp, Switch};
use casemate_api::{KeyId, KeyType, Mechanism, NamespaceId, Role, Tag, UserId};
use clap::ValueEnum;
use serde::de::{Error, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::desired;
use crate::exit::{Failure, local};
use crate::prompt::Source;

/// The format of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// TOML 1.0
    Toml,
    /// YAML 1.2
    Yaml,
}

/// The largest file, in bytes.
const FILE_MAX_BYTES: u64 = 64 << 20;

/// Reads and checks the file; `-` is standard input. Paths in it are relative to its folder.
pub(crate) fn read(path: &Path, format: Option<Format>) -> Result<desired::Desired, Failure> {
    let (name, folder) = if path == Path::new("-") {
        ("Standard input".to_owned(), Path::new(""))
    } else {
        (path.display().to_string(), path.parent().unwrap_or(Path::new("")))
    };
    let Some(format) = format.or_else(|| by_extension(path)) else {
        return Err(Failure::Usage(format!(
            "The format of {name} is not known: use the extension .toml, .yaml or .yml, or give --format."
        )));
    };
    let text = content(path).map_err(local(format_args!("{name} cannot be read")))?;
    let file: File = match format {
        Format::Toml => of_toml(&text),
        Format::Yaml => of_yaml(&text),
    }
    .map_err(|(line, why)| Failure::Usage(format!("{name} line {line}: {}.", why.trim_end_matches('.'))))?;
    let desired = file.desired(folder).map_err(|why| Failure::Usage(format!("{name}: {why}")))?;
    desired.check().map_err(|why| Failure::Usage(format!("{name}: {why}")))?;
    Ok(desired)
}

fn by_extension(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "toml" => Some(Format::Toml),
        "yaml" | "yml" => Some(Format::Yaml),
        _ => None,
    }
}

fn content(path: &Path) -> io::Result<String> {
    let reader: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(fs::File::open(path)?) };
    let mut text = String::new();
    reader.take(FILE_MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {FILE_MAX_BYTES} bytes")));
    }
    Ok(text)
}

fn of_toml(text: &str) -> Result<File, (u64, String)> {
    toml::from_str(text).map_err(|why| {
        let before = why.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        (1 + before.matches('\n').count() as u64, why.message().lines().collect::<Vec<_>>().join(", "))
    })
}

fn of_yaml(text: &str) -> Result<File, (u64, String)> {
    serde_saphyr::from_str(text).map_err(|why| {
        let line = why.location().map_or(1, |place| place.line());
        (line, plain(&why))
    })
}

/// The message of an error of the YAML reader, without the excerpt of the file.
fn plain(why: &serde_saphyr::Error) -> String {
    why.without_snippet().to_string().lines().collect::<Vec<_>>().join(", ")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, deserialize_with = "namespaces")]
    namespaces: Vec<NamespaceId>,
    #[serde(default)]
    users: Vec<User>,
    #[serde(default)]
    keys: Vec<Key>,
    #[serde(default)]
    config: Config,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct User {
    #[serde(deserialize_with = "user")]
    name: UserId,
    role: Role,
    real_name: Option<String>,
    #[serde(default, deserialize_with = "tags")]
    tags: Vec<Tag>,
    #[serde(default, deserialize_with = "inline", rename = "passphrase")]
    _inline: (),
    passphrase_file: Option<PathBuf>,
    passphrase_env: Option<String>,
    passphrase_command: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Key {
    #[serde(deserialize_with = "key")]
    id: KeyId,
    #[serde(default, deserialize_with = "namespace")]
    namespace: Option<NamespaceId>,
    #[serde(rename = "type")]
    key_type: KeyType,
    length: Option<i64>,
    mechanisms: Vec<Mechanism>,
    #[serde(default, deserialize_with = "some_tags")]
    tags: Option<Vec<Tag>>,
    label: Option<String>,
    certificate_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "private", rename = "private")]
    _private: (),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    logging: Option<LoggingMembers>,
    ntp: Option<NtpMembers>,
    unattended_boot: Option<Switch>,
    tls_certificate_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "inline", rename = "backup-passphrase")]
    _inline: (),
    backup_passphrase_file: Option<PathBuf>,
    backup_passphrase_env: Option<String>,
    backup_passphrase_command: Option<String>,
    network: Option<NetworkMembers>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LoggingMembers {
    ip_address: IpAddr,
    port: u16,
    log_level: LogLevel,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NtpMembers {
    ntp_ip: Option<IpAddr>,
    nts_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NetworkMembers {
    ip_address: Ipv4Addr,
    #[serde(deserialize_with = "netmask")]
    netmask: Ipv4Addr,
    gateway: Option<Ipv4Addr>,
    ipv6: Option<NetworkV6Members>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkV6Members {
    cidr: Cidr6,
    gateway: Option<Ipv6Addr>,
}

impl File {
    fn desired(self, folder: &Path) -> Result<desired::Desired, String> {
        let users = self.users.into_iter().map(|user| user.desired(folder)).collect::<Result<_, _>>()?;
        let keys = self.keys.into_iter().map(|key| key.desired(folder)).collect();
        Ok(desired::Desired { namespaces: self.namespaces, users, keys, config: self.config.desired(folder)? })
    }
}

impl User {
    fn desired(self, folder: &Path) -> Result<desired::User, String> {
        let whose = format!("The user {}", self.name);
        let passphrase =
            one_source(&whose, folder, self.passphrase_file, self.passphrase_env, self.passphrase_command)?;
        Ok(desired::User { name: self.name, role: self.role, real_name: self.real_name, tags: self.tags, passphrase })
    }
}

impl Key {
    fn desired(self, folder: &Path) -> desired::Key {
        desired::Key {
            id: self.id,
            namespace: self.namespace,
            key_type: self.key_type,
            length: self.length,
            mechanisms: self.mechanisms,
            tags: self.tags,
            label: self.label,
            certificate_file: self.certificate_file.map(|file| folder.join(file)),
        }
    }
}

impl Config {
    fn desired(self, folder: &Path) -> Result<desired::Config, String> {
        let (file, variable, command) =
            (self.backup_passphrase_file, self.backup_passphrase_env, self.backup_passphrase_command);
        Ok(desired::Config {
            logging: self.logging.map(|logging| Logging {
                ip_address: logging.ip_address,
                port: logging.port,
                log_level: logging.log_level,
            }),
            ntp: self.ntp.map(|ntp| Ntp { ntp_ip: ntp.ntp_ip, nts_name: ntp.nts_name }),
            unattended_boot: self.unattended_boot,
            backup_passphrase: one_source("The Backup Passphrase", folder, file, variable, command)?,
            tls_certificate_file: self.tls_certificate_file.map(|file| folder.join(file)),
            network: self.network.map(|network| Network {
                ip_address: network.ip_address,
                netmask: network.netmask,
                gateway: network.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED),
                ipv6: network.ipv6.map(|v6| NetworkV6 { cidr: v6.cidr, gateway: v6.gateway }),
            }),
        })
    }
}

/// The source of a passphrase; at most one may be given.
fn one_source(
    whose: &str,
    folder: &Path,
    file: Option<PathBuf>,
    variable: Option<String>,
    command: Option<String>,
) -> Result<Option<Source>, String> {
    match (file, variable, command) {
        (None, None, None) => Ok(None),
        (Some(file), None, None) => Ok(Some(Source::File(folder.join(file)))),
        (None, Some(variable), None) => Ok(Some(Source::Variable(variable))),
        (None, None, Some(command)) => Ok(Some(Source::Command(command))),
        _ => Err(format!("{whose} has several sources of one passphrase: keep one.")),
    }
}

/// Refuses a passphrase in the file without reading it, so that no error can contain it.
fn inline<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(deserializer)?;
    Err(D::Error::custom(
        "a passphrase must not be in this file: use the member with -file, -env or -command appended to tell where it is",
    ))
}

fn private<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(deserializer)?;
    Err(D::Error::custom(
        "a private key must not be in this file: keys are generated in the HSM; import one with `casemate key import`",
    ))
}

/// Parses `text` with `parse`; the error quotes it.
fn checked<T, E: fmt::Display, F: Error>(what: &str, text: &str, parse: impl Fn(&str) -> Result<T, E>) -> Result<T, F> {
    parse(text).map_err(|why| F::custom(format!("{text:?} is not a valid {what}: {why}")))
}

fn user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UserId, D::Error> {
    checked("user name", &String::deserialize(deserializer)?, UserId::parse)
}

fn key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyId, D::Error> {
    checked("key id", &String::deserialize(deserializer)?, KeyId::parse)
}

fn namespace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NamespaceId>, D::Error> {
    checked("namespace", &String::deserialize(deserializer)?, NamespaceId::parse).map(Some)
}

fn namespaces<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NamespaceId>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| checked("namespace", text, NamespaceId::parse)).collect()
}

fn tags<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Tag>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| checked("tag", text, Tag::parse)).collect()
}

fn some_tags<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Tag>>, D::Error> {
    tags(deserializer).map(Some)
}

fn netmask<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ipv4Addr, D::Error> {
    let mask = Ipv4Addr::deserialize(deserializer)?;
    let bits = mask.to_bits();
    if bits.leading_ones() + bits.trailing_zeros() < 32 {
        return Err(D::Error::custom(format!(
            "{mask} is not a netmask: it must be ones followed by zeros, such as 255.255.255.0"
        )));
    }
    Ok(mask)
}
