//! The subcommands of `casemated` that inspect files instead of serving.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use casemate_api::Passphrase;
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

/// A tool that works on files, without a running HSM.
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// Inspect or verify a backup
    #[command(subcommand)]
    Backup(Backup),
    /// Check an audit log
    #[command(subcommand)]
    Audit(Audit),
    /// Prepare a witness, an etcd that votes in a cluster and has no key of the HSM
    #[command(subcommand)]
    Witness(Witness),
}

/// Subcommands of `casemated backup`.
#[derive(Debug, Subcommand)]
pub enum Backup {
    /// List the contents of a backup: version, device, and every user, namespace and key by name
    Inspect(BackupFile),
    /// Check that every key in a backup can be decrypted and used
    Verify(BackupFile),
}

/// A backup file and where its passphrases come from.
#[derive(Debug, Args)]
pub struct BackupFile {
    /// The backup file
    pub file: PathBuf,
    /// File that holds the backup passphrase [env: CASEMATE_BACKUP_PASSPHRASE] [default: ask]
    #[arg(long, value_name = "FILE")]
    pub backup_passphrase_file: Option<PathBuf>,
    /// For `verify`: file that holds the unlock passphrase of the time of the backup [env: CASEMATE_UNLOCK_PASSPHRASE] [default: ask]
    #[arg(long, value_name = "FILE")]
    pub unlock_passphrase_file: Option<PathBuf>,
}

/// Subcommands of `casemated audit`.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Check that nothing in an exported audit log was altered, removed or reordered
    Verify {
        /// The exported log, from `GET /api/v1/audit`
        file: PathBuf,
        /// PEM file of the device's audit key, from `GET /api/v1/audit/key.pem`; without it, only internal consistency is checked
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
}

/// Subcommands of `casemated witness`.
#[derive(Debug, Subcommand)]
pub enum Witness {
    /// Write key, certificate request and unit of a witness to a new folder; nothing is started
    Init(WitnessInit),
}

/// A witness, and where its files go.
#[derive(Debug, Args)]
pub struct WitnessInit {
    /// Folder for its files; it must not exist, or be empty
    #[arg(long, value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Its name, which no other member has
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// URL with which it was added, https://IP:PORT; given once for each of them
    #[arg(long, required = true, value_name = "URL")]
    pub url: Vec<String>,
    /// The reply of `POST /api/v1/cluster/members` that added it
    #[arg(long, value_name = "FILE")]
    pub members: PathBuf,
    /// PEM file of the cluster CA's certificate, from `GET /api/v1/config/tls/cluster-ca.pem`; without it, put it there later
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

impl Backup {
    /// Path of the backup file.
    pub fn file(&self) -> &Path {
        let (Backup::Inspect(asked) | Backup::Verify(asked)) = self;
        &asked.file
    }
}

impl BackupFile {
    /// Reads the backup passphrase from its file or environment variable, or prompts for it. `Err` is a sentence for
    /// the operator.
    pub fn backup_passphrase(&self) -> Result<Passphrase, String> {
        let found = given("backup", self.backup_passphrase_file.as_ref(), "CASEMATE_BACKUP_PASSPHRASE")?;
        found.map_or_else(|| ask("backup"), Ok)
    }

    /// Reads the unlock passphrase from its file or environment variable, or prompts for it. `Err` is a sentence for
    /// the operator.
    pub fn unlock_passphrase(&self) -> Result<Passphrase, String> {
        let found = given("unlock", self.unlock_passphrase_file.as_ref(), "CASEMATE_UNLOCK_PASSPHRASE")?;
        found.map_or_else(|| ask("unlock"), Ok)
    }
}

fn given(what: &str, file: Option<&PathBuf>, variable: &str) -> Result<Option<Passphrase>, String> {
    if let Some(file) = file {
        let text = std::fs::read_to_string(file)
            .map(Zeroizing::new)
            .map_err(|error| format!("cannot read the {what} passphrase from {}: {error}", file.display()))?;
        return Ok(Some(one_line(&text)));
    }
    match std::env::var_os(variable).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(one_line(&Zeroizing::new(text)))),
        Some(Err(_)) => Err(format!("{variable}: the value is not UTF-8")),
    }
}

/// Editors end a file with a newline that is not part of the passphrase.
fn one_line(text: &str) -> Passphrase {
    let line = text.strip_suffix('\n').unwrap_or(text);
    Passphrase::from_text(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

fn ask(what: &str) -> Result<Passphrase, String> {
    let variable = what.to_uppercase();
    if !io::stdin().is_terminal() {
        return Err(format!(
            "the {what} passphrase is needed: name its file with --{what}-passphrase-file, or set CASEMATE_{variable}_PASSPHRASE"
        ));
    }
    let text = rpassword::prompt_password(format!("{what} passphrase: "))
        .map_err(|error| format!("cannot ask for the {what} passphrase: {error}"))?;
    Ok(Passphrase::from_text(text))
}
