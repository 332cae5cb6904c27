//! Profiles: named sets of options in `~/.config/casemate/config.toml`, and the context of a command, made of its
//! arguments, the environment and a profile.
//!
//! ```toml
//! [profile.default]
//! hosts = ["hsm1.example:8443", "hsm2.example:8443"]
//! pin = ["3F:…"]
//! user = "admin"
//! passphrase-command = "pass show hsm/admin"
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use casemate_api::UserId;
use casemate_client::{Client, Fingerprint, Session, Settings, Trust};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::exit::{Failure, local};
use crate::prompt::{self, Source};
use crate::render::Out;

/// The profile that is used unless another one or a host is given.
const DEFAULT: &str = "default";

/// Options of every command.
#[derive(Args)]
pub(crate) struct Global {
    /// HSM as HOST, HOST:PORT or https://HOST:PORT; of several, another one is tried if one fails
    #[arg(long, global = true, env = "CASEMATE_HOST", value_delimiter = ',')]
    pub(crate) host: Vec<String>,
    /// Trust only certificates issued under those in this file (PEM)
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["pin", "insecure"])]
    pub(crate) ca_file: Option<PathBuf>,
    /// Trust the certificate with this SHA-256 fingerprint; repeatable
    #[arg(long, global = true, value_name = "SHA256", conflicts_with = "insecure")]
    pub(crate) pin: Vec<Fingerprint>,
    /// Trust any certificate: whoever intercepts the connection can read passphrases and keys. For tests only
    #[arg(long, global = true)]
    pub(crate) insecure: bool,
    /// User as NAME or NAMESPACE~NAME
    #[arg(long, short, global = true, env = "CASEMATE_USER", value_parser = UserId::parse)]
    pub(crate) user: Option<UserId>,
    /// File with the user's passphrase
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "passphrase_command")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Command that prints the user's passphrase
    #[arg(long, global = true, value_name = "COMMAND")]
    pub(crate) passphrase_command: Option<String>,
    /// Profile of the configuration file; without this and without --host: `default`
    #[arg(long, global = true, env = "CASEMATE_PROFILE", value_name = "NAME")]
    profile: Option<String>,
    /// Configuration file, instead of ~/.config/casemate/config.toml
    #[arg(long, global = true, env = "CASEMATE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Answer all questions with yes, also about what cannot be undone
    #[arg(long, short, global = true)]
    pub(crate) yes: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    profile: BTreeMap<String, Profile>,
}

/// One profile of the file.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Profile {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hosts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pin: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) passphrase_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) passphrase_command: Option<String>,
}

/// What every command needs.
pub(crate) struct Context {
    /// The client of the HSMs.
    pub(crate) client: Client,
    /// How to print.
    pub(crate) out: Out,
    yes: bool,
    /// Whether the hosts come from a profile.
    pub(crate) hosts_from_profile: bool,
    trust: Trust,
    /// The user.
    pub(crate) user: Option<UserId>,
    passphrase_source: Option<Source>,
    profile_passphrase_source: Option<Source>,
}

impl Context {
    /// Combines arguments, environment and profile. Does not connect yet.
    pub(crate) fn new(global: Global) -> Result<Self, Failure> {
        let profile = profile(&global)?;
        // The passphrase of a profile is for its user and its hosts, and is not given to others.
        let same_user = match (&global.user, &profile.user) {
            (Some(given), Some(name)) => given.to_string() == *name,
            _ => true,
        };
        let same_hosts = profile.hosts.is_empty() || global.host.iter().all(|host| profile.hosts.contains(host));
        let profile_passphrase_source = source(profile.passphrase_file, profile.passphrase_command).filter(|_| {
            same_user && same_hosts && (!global.insecure || profile.ca_file.is_none() && profile.pin.is_empty())
        });
        let hosts_from_profile = global.host.is_empty();
        let nodes = if hosts_from_profile { profile.hosts } else { global.host };
        if nodes.is_empty() {
            return Err(Failure::Usage("No HSM is given: use --host, CASEMATE_HOST, or hosts in the profile.".into()));
        }
        let trust = if global.insecure {
            Trust::Anyone
        } else if let Some(path) = global.ca_file {
            Trust::CaFile(path)
        } else if !global.pin.is_empty() {
            Trust::Pinned(global.pin)
        } else if let Some(path) = profile.ca_file {
            Trust::CaFile(path)
        } else if profile.pin.is_empty() {
            Trust::System
        } else {
            Trust::Pinned(profile.pin.iter().map(|pin| parse_pin(pin)).collect::<Result<_, _>>()?)
        };
        let user = match (global.user, profile.user) {
            (Some(user), _) => Some(user),
            (None, Some(name)) => Some(UserId::parse(&name).map_err(|why| {
                Failure::Usage(format!("The user {name} of the profile is not a valid user name: {why}"))
            })?),
            (None, None) => None,
        };
        Ok(Self {
            client: Client::new(Settings { trust: trust.clone(), ..Settings::of(nodes) })?,
            out: Out { json: global.json },
            yes: global.yes,
            hosts_from_profile,
            trust,
            user,
            passphrase_source: source(global.passphrase_file, global.passphrase_command),
            profile_passphrase_source,
        })
    }

    /// A session of the user; asks for the passphrase if it has no other source.
    pub(crate) fn session(&self) -> Result<Session, Failure> {
        let Some(user) = &self.user else {
            return Err(Failure::Usage("No user is given: use --user, CASEMATE_USER, or user in the profile.".into()));
        };
        let passphrase = prompt::of_user(
            &user.to_string(),
            self.passphrase_source.as_ref(),
            self.profile_passphrase_source.as_ref(),
        )?;
        Ok(self.client.log_in(user, passphrase))
    }

    /// A session of the user, if one is given and the passphrase can be had without a question.
    pub(crate) fn session_without_asking(&self) -> Result<Option<Session>, Failure> {
        let Some(user) = &self.user else { return Ok(None) };
        let passphrase =
            prompt::without_asking(self.passphrase_source.as_ref(), self.profile_passphrase_source.as_ref())?;
        Ok(passphrase.map(|passphrase| self.client.log_in(user, passphrase)))
    }

    /// The user.
    pub(crate) fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// Whether `--yes` was given.
    pub(crate) fn yes(&self) -> bool {
        self.yes
    }

    /// Asks a question, which `--yes` answers.
    pub(crate) fn agree(&self, question: &str) -> Result<(), Failure> {
        prompt::agree(question, self.yes)
    }

    /// Asks whether to do `what`, which cannot be undone.
    pub(crate) fn confirm(&self, what: &str) -> Result<(), Failure> {
        prompt::confirm(&self.client.nodes().join(", "), what, self.yes)
    }

    /// Fails if [`Context::confirm`] would have no terminal to ask on: before long work that ends with a question.
    pub(crate) fn can_confirm(&self, what: &str) -> Result<(), Failure> {
        prompt::can_confirm(what, self.yes)
    }

    /// A client of another HSM: with these pins, or if there are none, with the trust of this context.
    pub(crate) fn client_for(&self, host: &str, pins: Vec<Fingerprint>) -> Result<Client, Failure> {
        let trust = if pins.is_empty() { self.trust.clone() } else { Trust::Pinned(pins) };
        Ok(Client::new(Settings { trust, ..Settings::of([host]) })?)
    }
}

fn source(file: Option<PathBuf>, command: Option<String>) -> Option<Source> {
    file.map(Source::File).or(command.map(Source::Command))
}

fn parse_pin(pin: &str) -> Result<Fingerprint, Failure> {
    pin.parse().map_err(|why| Failure::Usage(format!("The pin of the profile is not valid: {why}.")))
}

/// The profile to use. With `--host` the default profile is not used, as its passphrase is not for every host.
fn profile(global: &Global) -> Result<Profile, Failure> {
    let name = match &global.profile {
        Some(name) => name.as_str(),
        None if global.host.is_empty() => DEFAULT,
        None => return Ok(Profile::default()),
    };
    let Some(path) = global.config.clone().or_else(usual_path) else {
        return match &global.profile {
            Some(_) => Err(Failure::Usage("There is no home directory with profiles: use --config.".into())),
            None => Ok(Profile::default()),
        };
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(why) if why.kind() == io::ErrorKind::NotFound && global.profile.is_none() && global.config.is_none() => {
            return Ok(Profile::default());
        }
        Err(why) => return Err(local(format_args!("The profiles in {} cannot be read", path.display()))(why)),
    };
    let mut profiles = parse(&path, &text)?;
    let found = match profiles.remove(name) {
        Some(profile) => profile,
        None if global.profile.is_none() => Profile::default(),
        None => return Err(missing(&path, name, &profiles)),
    };
    let twice = if found.ca_file.is_some() && !found.pin.is_empty() {
        Some("ca-file and pin")
    } else if found.passphrase_file.is_some() && found.passphrase_command.is_some() {
        Some("passphrase-file and passphrase-command")
    } else {
        None
    };
    match twice {
        Some(both) => Err(Failure::Usage(format!("The profile {name} has both {both}: keep one."))),
        None => Ok(found),
    }
}

/// Parses a file of profiles; unknown members are errors.
pub(crate) fn parse(path: &Path, text: &str) -> Result<BTreeMap<String, Profile>, Failure> {
    let file: File = toml::from_str(text).map_err(|why| {
        let line = why.span().map_or(1, |span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
        Failure::Usage(format!("{} line {line}: {}.", path.display(), why.message().trim_end_matches('.')))
    })?;
    Ok(file.profile)
}

/// The failure that there is no profile `name`, with those there are.
pub(crate) fn missing(path: &Path, name: &str, others: &BTreeMap<String, Profile>) -> Failure {
    let there: Vec<_> = others.keys().map(String::as_str).collect();
    let there = if there.is_empty() { "none".into() } else { there.join(", ") };
    Failure::Usage(format!("{} has no profile {name}; its profiles: {there}.", path.display()))
}

pub(crate) fn usual_path() -> Option<PathBuf> {
    let folder = match env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env::var_os("HOME")?).join(".config"),
    };
    Some(folder.join("casemate").join("config.toml"))
}
