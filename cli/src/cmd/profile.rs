//! `profile …`: the profiles of this machine. When one is added, a person compares the fingerprint of the HSM's
//! certificate once; from then on every command requires it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use casemate_client::{Client, Settings, Trust};
use clap::Subcommand;
use serde_json::{Value, json};
use toml_edit::{Array, DocumentMut, Item, Table};

use crate::exit::{Failure, local};
use crate::output_file::replace;
use crate::profile::{Global, Profile, missing, parse, usual_path};
use crate::prompt;
use crate::render::Out;
use crate::terminal::{DefaultAnswer, Terminal};

/// Manage the profiles of this machine.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Add a profile with --host, --user and the other options, and ask whether to trust the HSM's certificate
    Add {
        /// Its name; the profile `default` is used unless another one is given
        name: String,
    },
    /// List the profiles
    List,
    /// Show a profile
    Show {
        /// Its name
        name: String,
    },
    /// Remove a profile
    Rm {
        /// Its name
        name: String,
    },
}

impl Command {
    pub(crate) fn run(self, global: Global) -> Result<(), Failure> {
        let out = Out { json: global.json };
        let path = global
            .config
            .clone()
            .or_else(usual_path)
            .ok_or_else(|| Failure::Usage("There is no home directory for profiles: use --config.".into()))?;
        // The target of a symbolic link is replaced, not the link.
        let file = Config::read(fs::canonicalize(&path).unwrap_or(path))?;
        match self {
            Command::Add { name } => add(&name, global, file, &out),
            Command::List => file.list(&out),
            Command::Show { name } => file.show(&name, &out),
            Command::Rm { name } => {
                file.profile(&name)?;
                let path = file.path.display().to_string();
                prompt::confirm(&path, &format!("Removing the profile {name}"), global.yes)?;
                file.write(|profiles| profiles.remove(&name).map(drop))?;
                out.done(&format!("The profile {name} was removed."))
            }
        }
    }
}

fn add(name: &str, global: Global, file: Config, out: &Out) -> Result<(), Failure> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(Failure::Usage("The name of a profile may contain only letters, digits, dots, - and _.".into()));
    }
    if file.profiles.contains_key(name) {
        let path = file.path.display();
        return Err(Failure::Usage(format!(
            "{path} already has a profile {name}: choose another name, or remove it with `casemate profile rm {name}`."
        )));
    }
    if global.host.is_empty() {
        return Err(Failure::Usage("No HSM is given: use --host.".into()));
    }
    if global.insecure {
        return Err(Failure::Usage("A profile cannot be --insecure: use --pin or --ca-file, or neither.".into()));
    }
    let trust = match (&global.ca_file, global.pin.as_slice()) {
        (Some(file), _) => Trust::CaFile(absolute(file)?),
        (None, []) => Trust::System,
        (None, pins) => Trust::Pinned(pins.to_vec()),
    };
    let client = Client::new(Settings { trust: trust.clone(), ..Settings::of(global.host.clone()) })?;
    let pin = match &trust {
        Trust::Pinned(pins) => pins.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    let asked = ask_for_trust(&client, &trust)?;
    let profile = Profile {
        hosts: client.nodes().to_vec(),
        ca_file: global.ca_file.as_deref().map(absolute).transpose()?,
        pin: if asked.is_empty() { pin } else { asked },
        user: global.user.map(|user| user.to_string()),
        passphrase_file: global.passphrase_file.as_deref().map(absolute).transpose()?,
        passphrase_command: global.passphrase_command,
    };
    let table = table(&profile)?;
    file.write(|profiles| {
        profiles.insert(name, Item::Table(table));
        Some(())
    })?;
    let option = if name == "default" { String::new() } else { format!(" --profile {name}") };
    let text = format!("The profile {name} was added. Try it: casemate{option} doctor");
    out.line(&json!({ "profile": name, "pin": profile.pin, "path": file.path }), &text)
}

/// Checks the certificate of every host. Asks a person whether to pin those that are not trusted, and returns the pins.
fn ask_for_trust(client: &Client, trust: &Trust) -> Result<Vec<String>, Failure> {
    let (mut pins, mut untrusted) = (Vec::new(), Vec::new());
    for (at, node) in client.nodes().iter().enumerate() {
        let shown = client.inspect_tls(at)?;
        if let Err(why) = shown.expect_trusted(node) {
            // A person decides only if neither --pin nor --ca-file was given. `--yes` is not enough to trust a
            // fingerprint.
            if !matches!(trust, Trust::System) {
                return Err(why.into());
            }
            untrusted.push((node, shown.fingerprint, why));
        }
        pins.push(shown.fingerprint.to_string());
    }
    if untrusted.is_empty() {
        return Ok(Vec::new());
    }
    let terminal = Terminal::open();
    for (node, fingerprint, why) in untrusted {
        let Some(terminal) = &terminal else { return Err(why.into()) };
        terminal.show(&why.to_string())?;
        terminal.show(&format!("The SHA-256 fingerprint of the certificate of {node} is"))?;
        terminal.show(&fingerprint.to_string())?;
        if !terminal.ask_yes_no("Does the HSM's operator confirm it? Trust it from now on?", DefaultAnswer::No)? {
            return Err(Failure::Declined);
        }
    }
    pins.dedup();
    Ok(pins)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(local(format_args!("The path {}", path.display())))
}

/// A profile as TOML.
fn table(profile: &Profile) -> Result<Table, Failure> {
    let text = |path: &PathBuf| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| Failure::Usage(format!("The path {} is not valid UTF-8.", path.display())))
    };
    let mut table = Table::new();
    let list = |items: &[String]| toml_edit::value(items.iter().collect::<Array>());
    table.insert("hosts", list(&profile.hosts));
    if !profile.pin.is_empty() {
        table.insert("pin", list(&profile.pin));
    }
    let others = [
        ("ca-file", profile.ca_file.as_ref().map(text).transpose()?),
        ("user", profile.user.clone()),
        ("passphrase-file", profile.passphrase_file.as_ref().map(text).transpose()?),
        ("passphrase-command", profile.passphrase_command.clone()),
    ];
    for (name, value) in others {
        if let Some(value) = value {
            table.insert(name, toml_edit::value(value));
        }
    }
    Ok(table)
}

/// The file of the profiles, as text and parsed.
struct Config {
    path: PathBuf,
    text: String,
    profiles: BTreeMap<String, Profile>,
}

impl Config {
    fn read(path: PathBuf) -> Result<Self, Failure> {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(why) if why.kind() == io::ErrorKind::NotFound => String::new(),
            Err(why) => return Err(local(format_args!("The profiles in {} cannot be read", path.display()))(why)),
        };
        let profiles = parse(&path, &text)?;
        Ok(Self { path, text, profiles })
    }

    fn profile(&self, name: &str) -> Result<&Profile, Failure> {
        self.profiles.get(name).ok_or_else(|| missing(&self.path, name, &self.profiles))
    }

    fn list(&self, out: &Out) -> Result<(), Failure> {
        let value: Vec<_> = self.profiles.iter().map(|(name, profile)| as_json(name, profile)).collect();
        let rows = self.profiles.iter().map(|(name, profile)| {
            let user = profile.user.clone().unwrap_or_default();
            vec![name.clone(), profile.hosts.join(", "), user, trust(profile).to_owned()]
        });
        out.list(&value, &["profile", "hosts", "user", "trust"], rows)
    }

    fn show(&self, name: &str, out: &Out) -> Result<(), Failure> {
        let profile = self.profile(name)?;
        let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let members = vec![
            ("Profile", name.to_owned()),
            ("Hosts", profile.hosts.join(", ")),
            ("Trust", trust(profile).to_owned()),
            ("Pin", profile.pin.join(", ")),
            ("CA file", file(&profile.ca_file)),
            ("User", profile.user.clone().unwrap_or_default()),
            ("Passphrase file", file(&profile.passphrase_file)),
            ("Passphrase command", profile.passphrase_command.clone().unwrap_or_default()),
        ];
        out.record(&as_json(name, profile), members.into_iter().filter(|(_, text)| !text.is_empty()).collect())
    }

    /// Changes the profiles and keeps the rest of the file, with its comments.
    fn write(&self, change: impl FnOnce(&mut Table) -> Option<()>) -> Result<(), Failure> {
        let unchangeable = || Failure::Usage(format!("{} cannot be changed: edit it yourself.", self.path.display()));
        let mut document: DocumentMut = self.text.parse().map_err(|_| unchangeable())?;
        let mut none = Table::new();
        // So that there is no line `[profile]`, only `[profile.NAME]`.
        none.set_implicit(true);
        let profiles = document.entry("profile").or_insert(Item::Table(none));
        profiles.as_table_mut().and_then(change).ok_or_else(unchangeable)?;
        let text = document.to_string();
        // The new content has to be valid.
        parse(&self.path, &text)?;
        replace(&self.path, text.as_bytes())
    }
}

fn trust(profile: &Profile) -> &'static str {
    match (&profile.ca_file, profile.pin.is_empty()) {
        (Some(_), _) => "ca-file",
        (None, false) => "pin",
        (None, true) => "system",
    }
}

/// A profile as JSON, whose members do not change; what the profile does not have is left out.
fn as_json(name: &str, profile: &Profile) -> Value {
    let mut value = json!(profile);
    if let Some(members) = value.as_object_mut() {
        members.insert("profile".into(), name.into());
        members.insert("trust".into(), trust(profile).into());
    }
    value
}
