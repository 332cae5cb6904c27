//! What the module is told by configuration files: which slots there are, where their HSMs are, and as whom it logs in.
//!
//! The first of these that is there counts: the file that `CASEMATE_PKCS11_CONFIG` names (`toml.rs`); the one that
//! `P11NETHSM_CONFIG_FILE` names (`p11nethsm.rs`); `casemate/pkcs11.toml` below `~/.config` or `/etc`; `p11nethsm.conf`
//! where NetHSM's module looks for it; the profiles of `casemate`. Without any there are no slots, since p11-kit loads a
//! module into processes of users who have never heard of it.

mod p11nethsm;
mod toml;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fmt, fs, io};

use casemate_api::{Passphrase, UserId};
use casemate_client::{Client, Error, Fingerprint, Settings};
use serde::de::{Deserialize, Deserializer, Visitor};
use zeroize::Zeroizing;

use crate::functions::runs_for_another;

/// Everything that is configured.
#[derive(Debug, Default)]
pub struct Configuration {
    /// The slots, by their numbers.
    pub slots: Vec<SlotConfig>,
    /// The files it was read from; empty: there is none, and there are no slots.
    pub files: Vec<PathBuf>,
}

/// One slot: an HSM with one or several nodes.
#[derive(Debug)]
pub struct SlotConfig {
    /// The label of the token. Of more than 32 bytes, applications see the first.
    pub label: String,
    /// The description of the slot.
    pub description: String,
    /// The client of its nodes. It has not connected yet.
    pub client: Client,
    /// Who uses keys.
    pub operator: Option<Login>,
    /// Who manages keys.
    pub administrator: Option<Login>,
    /// How certificates are stored on the server.
    pub certificate_format: CertificateFormat,
}

/// How certificates are stored on the server. Both forms are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub enum CertificateFormat {
    /// As PEM.
    #[default]
    #[serde(rename = "PEM", alias = "pem", alias = "Pem")]
    Pem,
    /// As DER.
    #[serde(rename = "DER", alias = "der", alias = "Der")]
    Der,
}

/// A user, and where the passphrase is. Without a source, the PIN of `C_Login` is the passphrase.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub user: UserId,
    source: Option<Source>,
}

/// Where a passphrase is.
#[derive(Clone)]
enum Source {
    /// In the configuration.
    Text(Secret),
    /// In an environment variable, which was read with the configuration.
    Variable(Secret),
    /// In a file.
    File(PathBuf),
    /// In what a command prints.
    Command(String),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Text(_) => "Text",
            Source::Variable(_) => "Variable",
            Source::File(_) => "File",
            Source::Command(_) => "Command",
        })
    }
}

impl Login {
    /// A user whose passphrase is the PIN.
    pub fn of(user: UserId) -> Self {
        Self { user, source: None }
    }

    /// Whether a passphrase is configured, so that applications need no PIN.
    pub fn has_passphrase(&self) -> bool {
        self.source.is_some()
    }

    /// The configured passphrase, if any. Reads the file or runs the command if that is where it is.
    pub fn passphrase(&self) -> Result<Option<Passphrase>, ConfigError> {
        let text = match &self.source {
            None => return Ok(None),
            Some(Source::Text(Secret(text)) | Source::Variable(Secret(text))) => text.as_str().to_owned(),
            Some(Source::File(path)) => {
                let what = format!("The passphrase file {}", path.display());
                let bytes = fs::read(path).map_err(|why| ConfigError(format!("{what} cannot be read: {why}.")))?;
                line(Zeroizing::new(bytes), &what)?
            }
            Some(Source::Command(command)) => printed(command, &self.user)?,
        };
        Ok(Some(Passphrase::from_text(text)))
    }
}

/// What the passphrase command of `user` prints.
fn printed(command: &str, user: &UserId) -> Result<String, ConfigError> {
    let what = format!("The passphrase command of {user}");
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stderr(Stdio::null());
    if runs_for_another() {
        shell.env_clear().env("PATH", SYSTEM_PATH);
    }
    let output = shell.output().map_err(|why| ConfigError(format!("{what} cannot be started: {why}.")))?;
    let bytes = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(ConfigError(format!("{what} failed ({}). Run it in a shell to see why.", output.status)));
    }
    line(bytes, &format!("The output of the passphrase command of {user}"))
}

/// Where commands are found in a process that does not trust its environment.
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The bytes as a passphrase, without the line end that editors and commands add.
fn line(bytes: Zeroizing<Vec<u8>>, what: &str) -> Result<String, ConfigError> {
    let text = str::from_utf8(&bytes).map_err(|_| ConfigError(format!("{what} is not valid UTF-8.")))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(ConfigError(format!("{what} is empty.")));
    }
    Ok(text.to_owned())
}

/// A passphrase in a file. It is read from any scalar, so that no error quotes one that looks like a number.
#[derive(Clone)]
struct Secret(Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text in quotes")
            }
            fn visit_str<E>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(Zeroizing::new(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// What is wrong with the configuration: a sentence or two for people, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Reads the configuration of this process. One that runs with the rights of another user than the one who started it
/// reads that of the system only: the environment, and the home folder that it names, belong to the one who started it.
pub fn load() -> Result<Configuration, ConfigError> {
    if runs_for_another() {
        let configuration = load_in(&Environment(&|_| None))?;
        // They would replace the system's roots, by which HSMs may be trusted.
        let replaced = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().find(|name| env::var_os(name).is_some());
        return match replaced.filter(|_| !configuration.slots.is_empty()) {
            Some(name) => Err(ConfigError(format!("A program with the rights of another user needs {name} unset."))),
            None => Ok(configuration),
        };
    }
    load_in(&Environment(&|name| env::var_os(name)))
}

/// Which form a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Our own, TOML.
    Own,
    /// `p11nethsm.conf`, YAML.
    NetHsm,
}

/// Reads the text of a configuration file where no environment variable is set. `path` is what errors call the file.
pub fn parse(form: Form, path: &Path, text: &str) -> Result<Configuration, ConfigError> {
    let nothing = Environment(&|_| None);
    match form {
        Form::Own => toml::load(path, text, &nothing),
        Form::NetHsm => p11nethsm::load(&[(path.to_owned(), Zeroizing::new(text.to_owned()))], &nothing),
    }
}

/// Sentences about files of the configuration that people may read or write who should not.
pub fn warnings(configuration: &Configuration) -> Vec<String> {
    let users = configuration.slots.iter().flat_map(|slot| [&slot.operator, &slot.administrator]).flatten();
    let mut forbidden = 0;
    for user in users {
        match &user.source {
            Some(Source::Text(_)) => forbidden |= 0o026,
            // Whoever writes it says what is run.
            Some(Source::Command(_)) => forbidden |= 0o022,
            Some(Source::Variable(_) | Source::File(_)) | None => {}
        }
    }
    let open = |path: &&PathBuf| fs::metadata(path).is_ok_and(|file| file.permissions().mode() & forbidden != 0);
    let sentence = |path: &PathBuf| {
        format!(
            "{} has a passphrase or a command in it, and others may read or write it: make it the business of its owner by chmod.",
            path.display()
        )
    };
    configuration.files.iter().filter(open).map(sentence).collect()
}

/// The environment of the process; tests have one of their own.
struct Environment<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Environment<'_> {
    /// A variable that is set and not empty.
    fn path(&self, name: &str) -> Option<PathBuf> {
        (self.0)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// The text of a variable.
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name)?.into_string().ok()
    }

    /// The folder of the user's configuration files.
    fn folder(&self) -> Option<PathBuf> {
        self.path("XDG_CONFIG_HOME").or_else(|| Some(self.path("HOME")?.join(".config")))
    }
}

/// The folders of `p11nethsm.conf` that belong to the system, in the order in which they are read.
const NETHSM_FOLDERS: &[&str] = &["/usr/local/etc/nitrokey", "/etc/nitrokey"];

fn load_in(environment: &Environment<'_>) -> Result<Configuration, ConfigError> {
    if let Some(path) = environment.path("CASEMATE_PKCS11_CONFIG") {
        return toml::load(&path, &read(&path, "CASEMATE_PKCS11_CONFIG")?, environment);
    }
    if let Some(path) = environment.path("P11NETHSM_CONFIG_FILE") {
        let text = read(&path, "P11NETHSM_CONFIG_FILE")?;
        return p11nethsm::load(&[(path, text)], environment);
    }
    let of_user = environment.folder().map(|folder| (folder, Owner::User));
    let etc = (PathBuf::from("/etc"), Owner::System);
    for (folder, owner) in of_user.iter().cloned().chain([etc]) {
        let path = folder.join("casemate").join("pkcs11.toml");
        if let Some(text) = read_if_there(&path, owner)? {
            return toml::load(&path, &text, environment);
        }
    }
    let mut files = Vec::new();
    let of_system = NETHSM_FOLDERS.iter().map(|folder| (PathBuf::from(folder), Owner::System));
    for (folder, owner) in of_system.chain(of_user.map(|(folder, owner)| (folder.join("nitrokey"), owner))) {
        let path = folder.join("p11nethsm.conf");
        if let Some(text) = read_if_there(&path, owner)? {
            files.push((path, text));
        }
    }
    if !files.is_empty() {
        return p11nethsm::load(&files, environment);
    }
    toml::load_profiles(environment)
}

/// The file that a variable names.
fn read(path: &Path, variable: &str) -> Result<Zeroizing<String>, ConfigError> {
    fs::read_to_string(path).map(Zeroizing::new).map_err(|why| {
        ConfigError(format!("The configuration file {} cannot be read ({why}): check {variable}.", path.display()))
    })
}

/// Whose a file is that nobody has named.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    System,
    User,
}

/// The file, if there is one.
fn read_if_there(path: &Path, owner: Owner) -> Result<Option<Zeroizing<String>>, ConfigError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(why) if is_absent(why.kind(), owner) => Ok(None),
        Err(why) => Err(ConfigError(format!("The configuration file {} cannot be read: {why}.", path.display()))),
    }
}

/// A daemon that has become another user still has the `HOME` of root, which it may not even look into.
fn is_absent(why: io::ErrorKind, owner: Owner) -> bool {
    match why {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => true,
        io::ErrorKind::PermissionDenied => owner == Owner::User,
        _ => false,
    }
}

/// Where in the configuration something is wrong.
struct Place<'a> {
    path: &'a Path,
    slot: &'a str,
}

impl Place<'_> {
    fn error(&self, what: impl fmt::Display) -> ConfigError {
        ConfigError(format!("{}, slot {:?}: {what}.", self.path.display(), self.slot))
    }

    /// The client of these settings.
    fn client(&self, settings: Settings) -> Result<Client, ConfigError> {
        Client::new(settings).map_err(|why| match why {
            Error::Settings(why) => self.error(why),
            why => self.error(why.to_string().trim_end_matches('.')),
        })
    }

    fn user(&self, name: &str) -> Result<UserId, ConfigError> {
        UserId::parse(name).map_err(|why| {
            let why = why.to_string();
            self.error(format_args!("the user {name:?} is not a valid user name: {}", why.trim_end_matches('.')))
        })
    }

    fn pin(&self, pin: &str) -> Result<Fingerprint, ConfigError> {
        pin.parse().map_err(|why| self.error(format_args!("the fingerprint {pin:?} is not valid: {why}")))
    }

    /// The passphrase in this environment variable.
    fn variable(&self, name: &str, environment: &Environment<'_>) -> Result<Secret, ConfigError> {
        let Some(text) = environment.text(name) else {
            return Err(self.error(format_args!(
                "the passphrase is in the environment variable {name}, which is not set or not valid UTF-8"
            )));
        };
        Ok(Secret(Zeroizing::new(text)))
    }
}

/// What a parser says, without the value that it found, which may be a passphrase in the wrong place.
fn without_value(message: &str) -> String {
    let message = message.trim().trim_end_matches('.');
    let found_other = ["invalid type:", "invalid value:", "invalid length:"];
    match message.split_once(", expected ") {
        Some((found, expected)) if found_other.iter().any(|start| found.starts_with(start)) => {
            format!("here belongs {expected}")
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
