//! `p11nethsm.conf`, the YAML file of NetHSM's module, as it is. Files of several folders count together: their slots
//! one after the other.

use std::path::PathBuf;
use std::time::Duration;

use casemate_client::{Settings, Trust};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    CertificateFormat, ConfigError, Configuration, Environment, Login, Place, Secret, SlotConfig, Source, without_value,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "log_file")]
    _log_file: Ignored,
    #[serde(default, rename = "log_level")]
    _log_level: Ignored,
    /// `C_SetAttributeValue` always works here.
    #[serde(rename = "enable_set_attribute_value")]
    _enable_set_attribute_value: Option<bool>,
    #[serde(default, rename = "syslog_socket")]
    _syslog_socket: Ignored,
    #[serde(default, rename = "syslog_udp")]
    _syslog_udp: Ignored,
    #[serde(default, rename = "syslog_tcp")]
    _syslog_tcp: Ignored,
    #[serde(default, rename = "syslog_facility")]
    _syslog_facility: Ignored,
    #[serde(default, rename = "syslog_hostname")]
    _syslog_hostname: Ignored,
    #[serde(default, rename = "syslog_process")]
    _syslog_process: Ignored,
    #[serde(default, rename = "syslog_pid")]
    _syslog_pid: Ignored,
    #[serde(default)]
    slots: Vec<Slot>,
}

/// Any value: it belongs to NetHSM's module and has no meaning here.
type Ignored = serde::de::IgnoredAny;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    label: String,
    #[serde(default)]
    description: Option<String>,
    operator: Option<User>,
    administrator: Option<User>,
    #[serde(default)]
    certificate_format: CertificateFormat,
    instances: Vec<Instance>,
    retries: Option<Retries>,
    timeout_seconds: Option<u64>,
    /// The client closes connections that are idle for half a minute, so that it needs none of these.
    #[serde(default, rename = "tcp_keepalive")]
    _tcp_keepalive: Option<Keepalive>,
    #[serde(rename = "connections_max_idle_duration")]
    _connections_max_idle_duration: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    username: String,
    password: Option<Secret>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Instance {
    url: String,
    #[serde(default)]
    danger_insecure_cert: bool,
    #[serde(default)]
    sha256_fingerprints: Vec<String>,
    #[serde(rename = "max_idle_connections")]
    _max_idle_connections: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retries {
    count: u32,
    #[serde(default)]
    delay_seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keepalive {
    #[serde(rename = "time_seconds")]
    _time_seconds: u64,
    #[serde(rename = "interval_seconds")]
    _interval_seconds: u64,
    #[serde(rename = "retries")]
    _retries: u32,
}

/// The configuration in these files.
pub(super) fn load(
    files: &[(PathBuf, Zeroizing<String>)],
    environment: &Environment<'_>,
) -> Result<Configuration, ConfigError> {
    let mut configuration = Configuration::default();
    for (path, text) in files {
        let file: File = serde_saphyr::from_str(text).map_err(|why| {
            let line = why.location().map_or(1, |location| location.line());
            let message = why.without_snippet().to_string();
            // The message begins or ends with its place in the words of the parser.
            let message = message.split_once(" at line ").map_or(message.as_str(), |(message, _)| message);
            ConfigError(format!("{} line {line}: {}.", path.display(), without_value(message)))
        })?;
        for slot in file.slots {
            let label = slot.label.clone();
            configuration.slots.push(slot.checked(&Place { path, slot: &label }, environment)?);
        }
        configuration.files.push(path.clone());
    }
    Ok(configuration)
}

impl Slot {
    fn settings(&self, place: &Place<'_>) -> Result<Settings, ConfigError> {
        if self.instances.is_empty() {
            return Err(place.error("there are no instances: give the url of one at least"));
        }
        let nodes = self.instances.iter().map(|instance| node(&instance.url, place)).collect::<Result<Vec<_>, _>>()?;
        let mut settings = Settings { trust: trust(&self.instances, place)?, ..Settings::of(nodes) };
        if let Some(retries) = &self.retries {
            settings.rounds = retries.count.saturating_add(1);
            settings.pause = Duration::from_secs(retries.delay_seconds);
        }
        if let Some(seconds) = self.timeout_seconds {
            if seconds == 0 {
                return Err(place.error("timeout_seconds is 0: give 1 at least"));
            }
            settings.request = Duration::from_secs(seconds);
            settings.connect = settings.connect.min(settings.request);
        }
        Ok(settings)
    }

    fn checked(self, place: &Place<'_>, environment: &Environment<'_>) -> Result<SlotConfig, ConfigError> {
        let client = place.client(self.settings(place)?)?;
        let login = |user: Option<User>| user.map(|user| user.checked(place, environment)).transpose();
        Ok(SlotConfig {
            operator: login(self.operator)?,
            administrator: login(self.administrator)?,
            description: self.description.unwrap_or_default(),
            label: self.label,
            client,
            certificate_format: self.certificate_format,
        })
    }
}

impl User {
    fn checked(self, place: &Place<'_>, environment: &Environment<'_>) -> Result<Login, ConfigError> {
        let user = place.user(&self.username)?;
        let password = match self.password {
            Some(Secret(text)) => match text.strip_prefix("env:") {
                Some(name) => Some(Source::Variable(place.variable(name, environment)?)),
                None => Some(Source::Text(Secret(text))),
            },
            None => None,
        };
        Ok(Login { user, source: password })
    }
}

/// The node that a URL names: `https://host:port/api/v1`.
fn node(url: &str, place: &Place<'_>) -> Result<String, ConfigError> {
    // Before `@` may be a password.
    let shown = url.rsplit_once('@').map_or(url, |(_, shown)| shown);
    let wrong = || place.error(format_args!("the url {shown:?} is not of the form https://HOST:PORT/api/v1"));
    let rest = url.strip_prefix("https://").ok_or_else(wrong)?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() || url.contains('@') || !matches!(path.trim_end_matches('/'), "" | "api/v1") {
        return Err(wrong());
    }
    Ok(authority.to_owned())
}

/// Which certificates are trusted. The client has one answer for all nodes of a slot.
fn trust(instances: &[Instance], place: &Place<'_>) -> Result<Trust, ConfigError> {
    let insecure = instances.iter().filter(|instance| instance.danger_insecure_cert).count();
    if insecure == instances.len() {
        return Ok(Trust::Anyone);
    }
    let mut pins = Vec::new();
    for instance in instances {
        for pin in &instance.sha256_fingerprints {
            pins.push(place.pin(pin)?);
        }
    }
    let pinned = instances.iter().filter(|instance| !instance.sha256_fingerprints.is_empty()).count();
    match (insecure, pinned) {
        (0, 0) => Ok(Trust::System),
        (0, pinned) if pinned == instances.len() => Ok(Trust::Pinned(pins)),
        _ => Err(place.error(
            "its instances are trusted in different ways: give sha256_fingerprints, or danger_insecure_cert, for all or for none",
        )),
    }
}

#[cfg(test)]
pub(super) fn settings_of_slot(text: &str) -> Settings {
    let slot: Slot = serde_saphyr::from_str(text).unwrap();
    slot.settings(&Place { path: std::path::Path::new("x"), slot: "x" }).unwrap()
}
