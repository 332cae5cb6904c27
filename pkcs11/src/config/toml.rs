//! Our own file: slots, each with hosts, trust and users. A profile of `casemate` can stand for all or part of that.
//!
//! ```toml
//! [[slot]]
//! label = "signing"
//! hosts = ["hsm1.example:8443", "hsm2.example:8443"]
//! pin = ["3F:…"]
//! operator = { user = "operator" }
//! administrator = { user = "admin", passphrase-file = "/etc/casemate/admin" }
//!
//! [[slot]]
//! label = "test"
//! profile = "test"
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_client::{Settings, Trust};
use serde::Deserialize;

use super::{
    CertificateFormat, ConfigError, Configuration, Environment, Login, Owner, Place, Secret, SlotConfig, Source, read,
    read_if_there, without_value,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    slot: Vec<Slot>,
    #[serde(default)]
    profile: BTreeMap<String, Profile>,
}

/// A profile, as `casemate` has it.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Profile {
    #[serde(default)]
    hosts: Vec<String>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    pin: Vec<String>,
    user: Option<String>,
    passphrase_file: Option<PathBuf>,
    passphrase_command: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Slot {
    label: String,
    #[serde(default)]
    description: String,
    /// Stands for whatever of `hosts`, trust and users is not given.
    profile: Option<String>,
    #[serde(default)]
    hosts: Vec<String>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    pin: Vec<String>,
    #[serde(default)]
    insecure: bool,
    operator: Option<User>,
    administrator: Option<User>,
    #[serde(default)]
    certificate_format: CertificateFormat,
    /// How many times all hosts are asked again.
    retries: Option<u32>,
    retry_delay_seconds: Option<u64>,
    /// For one attempt at one host.
    timeout_seconds: Option<u64>,
    /// For a call with all its attempts.
    deadline_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct User {
    /// Stands for user and passphrase.
    profile: Option<String>,
    user: Option<String>,
    passphrase: Option<Secret>,
    passphrase_env: Option<String>,
    passphrase_file: Option<PathBuf>,
    passphrase_command: Option<String>,
}

/// The configuration in this file.
pub(super) fn load(path: &Path, text: &str, environment: &Environment<'_>) -> Result<Configuration, ConfigError> {
    let file = parse(path, text)?;
    let mut profiles = Profiles { own: file.profile, path, environment, others: None };
    let mut configuration = Configuration { slots: Vec::new(), files: vec![path.to_owned()] };
    if file.slot.is_empty() {
        configuration.slots = profiles.slots(None)?;
        return Ok(configuration);
    }
    for slot in file.slot {
        let label = slot.label.clone();
        configuration.slots.push(slot.checked(&Place { path, slot: &label }, &mut profiles)?);
    }
    if let Some((path, _)) = profiles.others {
        configuration.files.push(path);
    }
    Ok(configuration)
}

/// The profiles of `casemate`, each as a slot, or the one that `CASEMATE_PROFILE` names.
pub(super) fn load_profiles(environment: &Environment<'_>) -> Result<Configuration, ConfigError> {
    let Some((path, text)) = profile_file(environment)? else { return Ok(Configuration::default()) };
    let file = parse(&path, &text)?;
    let profiles = Profiles { own: file.profile, path: &path, environment, others: None };
    let slots = profiles.slots(environment.text("CASEMATE_PROFILE").as_deref())?;
    Ok(Configuration { slots, files: vec![path.clone()] })
}

/// The file where `casemate` has its profiles, and what is in it.
fn profile_file(environment: &Environment<'_>) -> Result<Option<(PathBuf, zeroize::Zeroizing<String>)>, ConfigError> {
    if let Some(path) = environment.path("CASEMATE_CONFIG") {
        let text = read(&path, "CASEMATE_CONFIG")?;
        return Ok(Some((path, text)));
    }
    let Some(folder) = environment.folder() else { return Ok(None) };
    let path = folder.join("casemate").join("config.toml");
    Ok(read_if_there(&path, Owner::User)?.map(|text| (path, text)))
}

fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    ::toml::from_str(text).map_err(|why| {
        let line = why.span().map_or(1, |span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
        let message = why.message().lines().collect::<Vec<_>>().join(", ");
        ConfigError(format!("{} line {line}: {}.", path.display(), without_value(&message)))
    })
}

/// Profiles of the file that is read, and of that of `casemate`.
struct Profiles<'a> {
    own: BTreeMap<String, Profile>,
    path: &'a Path,
    environment: &'a Environment<'a>,
    /// Read when they are first asked for.
    others: Option<(PathBuf, BTreeMap<String, Profile>)>,
}

impl Profiles<'_> {
    fn profile(&mut self, name: &str, place: &Place<'_>) -> Result<Profile, ConfigError> {
        if let Some(profile) = self.own.get(name) {
            return Ok(profile.clone());
        }
        if self.others.is_none()
            && let Some((path, text)) = profile_file(self.environment)?
        {
            let profiles = parse(&path, &text)?.profile;
            self.others = Some((path, profiles));
        }
        match &self.others {
            Some((_, profiles)) if profiles.contains_key(name) => Ok(profiles.get(name).cloned().unwrap_or_default()),
            Some((path, _)) => Err(place
                .error(format_args!("there is no profile {name:?}, neither in this file nor in {}", path.display()))),
            None => {
                Err(place.error(format_args!("there is no profile {name:?} in this file, and no file of profiles")))
            }
        }
    }

    /// Each profile, or the one of that name, as a slot.
    fn slots(&self, name: Option<&str>) -> Result<Vec<SlotConfig>, ConfigError> {
        if let Some(name) = name
            && !self.own.contains_key(name)
        {
            return Err(ConfigError(format!(
                "{} has no profile {name:?}: check CASEMATE_PROFILE.",
                self.path.display()
            )));
        }
        let chosen = self.own.iter().filter(|(label, _)| name.is_none_or(|name| name == *label));
        chosen.map(|(label, profile)| profile.slot(&Place { path: self.path, slot: label })).collect()
    }
}

impl Profile {
    fn slot(&self, place: &Place<'_>) -> Result<SlotConfig, ConfigError> {
        let login = self.login(place)?;
        Ok(SlotConfig {
            label: place.slot.to_owned(),
            description: String::new(),
            client: place.client(settings(self.hosts.clone(), self.ca_file.clone(), &self.pin, false, place)?)?,
            // The role of this user is not known here: what it may do is said by the HSM.
            operator: login.clone(),
            administrator: login,
            certificate_format: CertificateFormat::default(),
        })
    }

    fn login(&self, place: &Place<'_>) -> Result<Option<Login>, ConfigError> {
        let Some(user) = &self.user else { return Ok(None) };
        let user = place.user(user)?;
        Ok(Some(Login {
            user,
            source: source(None, self.passphrase_file.clone(), self.passphrase_command.clone(), place)?,
        }))
    }
}

impl Slot {
    fn checked(self, place: &Place<'_>, profiles: &mut Profiles<'_>) -> Result<SlotConfig, ConfigError> {
        let profile =
            self.profile.as_deref().map(|name| profiles.profile(name, place)).transpose()?.unwrap_or_default();
        let hosts = if self.hosts.is_empty() { profile.hosts.clone() } else { self.hosts };
        // The pins and the CA of a profile are for its own hosts, too, unless the slot says how its hosts are trusted.
        let own_trust = self.ca_file.is_some() || !self.pin.is_empty() || self.insecure;
        let (ca_file, pin) =
            if own_trust { (self.ca_file, self.pin) } else { (profile.ca_file.clone(), profile.pin.clone()) };
        let mut settings = settings(hosts, ca_file, &pin, self.insecure, place)?;
        if let Some(retries) = self.retries {
            settings.rounds = retries.saturating_add(1);
        }
        if let Some(seconds) = self.retry_delay_seconds {
            settings.pause = Duration::from_secs(seconds);
        }
        if let Some(seconds) = self.timeout_seconds {
            settings.request = positive(seconds, "timeout-seconds", place)?;
            settings.connect = settings.connect.min(settings.request);
        }
        if let Some(seconds) = self.deadline_seconds {
            settings.deadline = positive(seconds, "deadline-seconds", place)?;
        }
        let other = profile.login(place)?;
        let given = self.operator.is_some() || self.administrator.is_some();
        let mut login = |user: Option<User>| match user {
            Some(user) => user.checked(place, profiles).map(Some),
            None => Ok(other.clone().filter(|_| !given)),
        };
        Ok(SlotConfig {
            operator: login(self.operator)?,
            administrator: login(self.administrator)?,
            label: self.label,
            description: self.description,
            client: place.client(settings)?,
            certificate_format: self.certificate_format,
        })
    }
}

impl User {
    fn checked(self, place: &Place<'_>, profiles: &mut Profiles<'_>) -> Result<Login, ConfigError> {
        let secret = match (self.passphrase, self.passphrase_env) {
            (Some(_), Some(_)) => {
                return Err(place.error("a user has both passphrase and passphrase-env: keep one"));
            }
            (Some(secret), None) => Some(Source::Text(secret)),
            (None, Some(name)) => Some(Source::Variable(place.variable(&name, profiles.environment)?)),
            (None, None) => None,
        };
        let own = source(secret, self.passphrase_file, self.passphrase_command, place)?;
        match (self.user, self.profile) {
            (Some(user), None) => Ok(Login { user: place.user(&user)?, source: own }),
            (None, Some(name)) => {
                let login = profiles.profile(&name, place)?.login(place)?;
                let login = login.ok_or_else(|| place.error(format_args!("the profile {name:?} has no user")))?;
                Ok(Login { source: own.or(login.source), ..login })
            }
            (Some(_), Some(_)) => Err(place.error("a user has both user and profile: keep one")),
            (None, None) => Err(place.error("a user has neither user nor profile: give one")),
        }
    }
}

/// The one place where a passphrase is.
fn source(
    text: Option<Source>,
    file: Option<PathBuf>,
    command: Option<String>,
    place: &Place<'_>,
) -> Result<Option<Source>, ConfigError> {
    let given = [text, file.map(Source::File), command.map(Source::Command)];
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (source, None) => Ok(source),
        (_, Some(_)) => Err(place.error("the passphrase of a user is given twice: keep one")),
    }
}

fn settings(
    hosts: Vec<String>,
    ca_file: Option<PathBuf>,
    pins: &[String],
    insecure: bool,
    place: &Place<'_>,
) -> Result<Settings, ConfigError> {
    if hosts.is_empty() {
        return Err(place.error("there are no hosts: give one at least"));
    }
    let pins = pins.iter().map(|pin| place.pin(pin)).collect::<Result<Vec<_>, _>>()?;
    let trust = match (ca_file, pins.is_empty(), insecure) {
        (None, true, false) => Trust::System,
        (Some(path), true, false) => Trust::CaFile(path),
        (None, false, false) => Trust::Pinned(pins),
        (None, true, true) => Trust::Anyone,
        _ => return Err(place.error("of ca-file, pin and insecure only one can be given")),
    };
    Ok(Settings { trust, ..Settings::of(hosts) })
}

fn positive(seconds: u64, name: &str, place: &Place<'_>) -> Result<Duration, ConfigError> {
    if seconds == 0 {
        return Err(place.error(format_args!("{name} is 0: give 1 at least")));
    }
    Ok(Duration::from_secs(seconds))
}
