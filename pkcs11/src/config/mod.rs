//! What the module is told by configuration files: which slots there are, and where their HSMs are.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use casemate_api::{Passphrase, UserId};
use casemate_client::Settings;
use zeroize::Zeroizing;

/// Everything that is configured.
#[derive(Default)]
pub struct Configuration {
    /// The slots, by their numbers.
    pub slots: Vec<SlotConfig>,
    /// The files it was read from; empty: there is none, and there are no slots.
    pub files: Vec<PathBuf>,
}

/// One slot: an HSM with one or several nodes.
pub struct SlotConfig {
    /// The label of the token.
    pub label: String,
    /// The description of the slot.
    pub description: String,
    /// The nodes and how they are reached.
    pub settings: Settings,
    /// Who uses keys.
    pub operator: Option<Login>,
    /// Who manages keys.
    pub administrator: Option<Login>,
    /// How certificates are stored on the server.
    pub certificate_format: CertificateFormat,
}

/// How certificates are stored on the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertificateFormat {
    /// As PEM.
    #[default]
    Pem,
    /// As DER.
    Der,
}

/// A user, and where the passphrase is; no source: the PIN of `C_Login` is the passphrase.
pub struct Login {
    /// The user.
    pub user: UserId,
    source: Option<Source>,
}

/// Where a passphrase is.
enum Source {
    /// In the configuration or the environment.
    Text(Zeroizing<String>),
    /// In a file.
    File(PathBuf),
    /// In what a command prints.
    Command(String),
}

impl Login {
    /// Whether a passphrase is configured, so that applications need not ask for a PIN.
    pub fn has_passphrase(&self) -> bool {
        self.source.is_some()
    }

    /// The configured passphrase, if any. Reads a file or runs a command if that is where it is.
    pub fn passphrase(&self) -> Result<Option<Passphrase>, ConfigError> {
        match &self.source {
            None => Ok(None),
            Some(Source::Text(text)) => Ok(Some(Passphrase::from_text(text.as_str().to_owned()))),
            Some(Source::File(_) | Source::Command(_)) => Err(ConfigError("not yet".into())),
        }
    }
}

/// What is wrong with the configuration: one sentence for people, without secrets.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Reads the configuration of this process.
pub fn load() -> Result<Configuration, ConfigError> {
    let _ = Duration::ZERO;
    Ok(Configuration::default())
}
