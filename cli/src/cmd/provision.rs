//! `provision`: from a new HSM to one that works, and a sheet of what to keep.
//!
//! Nothing is asked before it is certain that the HSM is new, and nothing is sent before every passphrase is there, so a
//! mistake on the way changes nothing. Passphrases that are made here are shown before they are set: afterwards they
//! would be lost with the terminal.

use std::io::Write;
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use casemate_api::body::system;
use casemate_api::{Passphrase, State, UserId};
use clap::Args;
use jiff::Timestamp;
use serde_json::json;
use zeroize::Zeroizing;

use crate::clock::{now_rfc3339, rfc3339};
use crate::exit::{Failure, local};
use crate::output_file::{NewFile, Replace};
use crate::profile::Context;
use crate::terminal::{Answer, Terminal};
use crate::{prompt, render, strength};

/// Arguments of `provision`.
#[derive(Args)]
pub(crate) struct Provision {
    /// File with the unlock passphrase
    #[arg(long, value_name = "FILE")]
    unlock_passphrase_file: Option<PathBuf>,
    /// File with the passphrase of the user `admin`
    #[arg(long, value_name = "FILE")]
    admin_passphrase_file: Option<PathBuf>,
    /// File with the Backup Passphrase, which is then set as well
    #[arg(long, value_name = "FILE")]
    backup_passphrase_file: Option<PathBuf>,
    /// Make the passphrases for which there is no file, and show them once
    #[arg(long)]
    generate: bool,
    /// New file for passphrases that are made, instead of the terminal
    #[arg(long, value_name = "FILE", requires = "generate")]
    passphrases_to: Option<PathBuf>,
    /// Time to set, as 2026-01-31T12:00:00Z; without it the time of this machine
    #[arg(long, value_name = "TIME")]
    system_time: Option<Timestamp>,
}

/// One of the passphrases of a new HSM.
struct Secret {
    passphrase: Passphrase,
    /// It was made here, so nobody knows it yet.
    made: bool,
}

impl Secret {
    fn same_as(&self, other: &Secret) -> bool {
        verify_slices_are_equal(self.passphrase.expose(), other.passphrase.expose()).is_ok()
    }
}

/// The passphrases, each with its name and what it is for.
const UNLOCK: (&str, &str) = ("Unlock Passphrase", "opens the HSM after each start; nothing replaces it");
const ADMIN: (&str, &str) = ("passphrase of admin", "manages users, keys and settings");
const BACKUP: (&str, &str) = ("Backup Passphrase", "opens backups; without it they are of no use");

impl Provision {
    /// Sets up a new HSM.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let anonymous = context.client.anonymous();
        let node = context.client.nodes().join(", ");
        expect_new(&node, anonymous.health().state()?)?;
        let by_hand = self.unlock_passphrase_file.is_none() || self.admin_passphrase_file.is_none();
        let terminal = if by_hand { Terminal::open() } else { None };
        if self.generate && self.passphrases_to.is_none() && (terminal.is_none() || context.out.json) {
            return Err(Failure::Usage(
                "Passphrases that are made are shown on a terminal and without --json only: give --passphrases-to FILE."
                    .into(),
            ));
        }
        let fingerprint = if by_hand {
            // The look is a connection of its own: what goes onto the sheet is trusted as the others are.
            let shown = context.client.inspect_tls(0)?;
            shown.expect_trusted(&node)?;
            shown.fingerprint.to_string()
        } else {
            String::new()
        };
        if let Some(terminal) = &terminal {
            terminal.say(&format!("{node} is Unprovisioned. The SHA-256 fingerprint of its certificate is"))?;
            terminal.say(&fingerprint)?;
        }
        let known = ["casemate", "admin", "hsm", "unlock", "backup", node.as_str()];
        let choose = Choose { terminal: terminal.as_ref(), generate: self.generate, known: &known };
        let unlock = choose.one(UNLOCK.0, self.unlock_passphrase_file.as_deref(), "--unlock-passphrase-file")?;
        let admin = choose.one(ADMIN.0, self.admin_passphrase_file.as_deref(), "--admin-passphrase-file")?;
        let backup = match (&self.backup_passphrase_file, &terminal) {
            (None, None) if !self.generate => None,
            (None, Some(terminal)) if !self.generate && !terminal.agrees(WITH_BACKUP, Answer::Yes)? => None,
            (file, _) => Some(choose.one(BACKUP.0, file.as_deref(), "--backup-passphrase-file")?),
        };
        let kept: Vec<_> = [(UNLOCK, Some(&unlock)), (ADMIN, Some(&admin)), (BACKUP, backup.as_ref())]
            .into_iter()
            .filter_map(|(what, secret)| Some((what, secret?)))
            .collect();
        for (at, ((name, _), secret)) in kept.iter().enumerate() {
            if let Some(((other, _), _)) = kept.iter().take(at).find(|(_, other)| other.same_as(secret)) {
                render::warning(&format!("The {name} is the {other} as well: who learns one has both."));
            }
        }
        hand_over(&kept, self.passphrases_to.as_deref(), terminal.as_ref())?;
        let names: Vec<_> = kept.into_iter().map(|(what, _)| what).collect();

        let system_time = self.system_time.map_or_else(now_rfc3339, rfc3339);
        // Needed once more, for the login.
        let again =
            |secret: &Passphrase| Passphrase::from_text(str::from_utf8(secret.expose()).unwrap_or_default().to_owned());
        let session = context.client.log_in(&admin_user()?, again(&admin.passphrase));
        anonymous.provision(&system::Provision {
            unlock_passphrase: unlock.passphrase,
            admin_passphrase: admin.passphrase,
            system_time: system_time.clone(),
        })?;
        if let Some(backup) = backup {
            let set = session.config().set_backup_passphrase(Passphrase::from_text(String::new()), backup.passphrase);
            set.map_err(|why| {
                let next = "Set it with `casemate config backup-passphrase --first`.";
                Failure::Local(format!("The HSM is set up, but without a Backup Passphrase. {why} {next}"))
            })?;
        }
        if !by_hand {
            return context.out.done(
                "The HSM is set up and Operational. Write both passphrases down and keep them apart from it: without \
                 the unlock passphrase it does not start again, and without admin's nobody manages it.",
            );
        }
        // The HSM was busy for a while after it was told the time.
        if self.system_time.is_none()
            && let Err(why) = session.config().set_time(now_rfc3339())
        {
            render::warning(&format!("The HSM is set up, but its clock may be late. {why}"));
        }
        // It is set up: that something cannot be looked up is no failure of it.
        let device = match session.system().info() {
            Ok(info) => info.device_id,
            Err(why) => {
                render::warning(&format!("The HSM is set up, but does not tell its device id. {why}"));
                "see `casemate system info`".into()
            }
        };
        sheet(context, &Sheet { device, node, fingerprint, system_time, names })
    }
}

const WITH_BACKUP: &str = "Set a Backup Passphrase as well? Without one there are no backups.";

fn admin_user() -> Result<UserId, Failure> {
    UserId::parse("admin").map_err(local("The name of the first user"))
}

/// Only a new HSM is set up.
fn expect_new(node: &str, state: State) -> Result<(), Failure> {
    let next = match state {
        State::Unprovisioned => return Ok(()),
        State::Locked => "`casemate unlock` opens it",
        State::Operational => {
            "log in with --user; to erase everything and begin anew, an Administrator says `casemate system factory-reset`"
        }
        State::Failed => "it cannot reach its store, and its log says why",
    };
    Err(Failure::WrongState(format!("{node} is {state:?}, so it is set up already: {next}.")))
}

/// How passphrases come about.
struct Choose<'a> {
    terminal: Option<&'a Terminal>,
    generate: bool,
    /// Words that are no secret.
    known: &'a [&'a str],
}

impl Choose<'_> {
    /// From a file, made, or asked for until it is good or meant.
    fn one(&self, name: &str, file: Option<&Path>, option: &str) -> Result<Secret, Failure> {
        let typed = |passphrase| Secret { passphrase, made: false };
        if let Some(file) = file {
            let passphrase = prompt::of_valid_length(name, prompt::from_file(file)?)?;
            if let Some(why) = strength::weakness(&passphrase, self.known) {
                render::warning(&format!("The {name} in {} is {why}.", file.display()));
            }
            return Ok(typed(passphrase));
        }
        let made = || Ok(Secret { passphrase: strength::make()?, made: true });
        if self.generate {
            return made();
        }
        let Some(terminal) = self.terminal else {
            return Ok(typed(prompt::new(&format!("New {name}"), None, option)?));
        };
        loop {
            let first = prompt::ask(&format!("New {name} (empty: one is made)"), "")?;
            if first.expose().is_empty() {
                return made();
            }
            let first = match prompt::of_valid_length(name, first) {
                Ok(first) => first,
                Err(why) => {
                    terminal.say(&why.to_string())?;
                    continue;
                }
            };
            if let Some(why) = strength::weakness(&first, self.known) {
                terminal.say(&format!("This is {why}, or leave it empty."))?;
                if !terminal.agrees("Take it all the same?", Answer::No)? {
                    continue;
                }
            }
            if prompt::ask(&format!("New {name}, again"), "")?.expose() == first.expose() {
                return Ok(typed(first));
            }
            terminal.say("The two differ. Try again.")?;
        }
    }
}

/// Gives out what was made here, before it counts.
fn hand_over(
    kept: &[((&str, &str), &Secret)],
    file: Option<&Path>,
    terminal: Option<&Terminal>,
) -> Result<(), Failure> {
    let made: Vec<_> = kept.iter().filter(|(_, secret)| secret.made).collect();
    if made.is_empty() {
        return Ok(());
    }
    let mut text = Zeroizing::new(String::with_capacity(1024));
    for ((name, _), secret) in made {
        text.push_str(name);
        text.push_str(": ");
        text.push_str(str::from_utf8(secret.passphrase.expose()).unwrap_or_default());
        text.push('\n');
    }
    match (file, terminal) {
        (Some(path), _) => {
            let mut file = NewFile::create(path, Replace::Never)?;
            let wrong = format!("The passphrases cannot be written to {}", path.display());
            file.write_all(text.as_bytes()).map_err(local(wrong))?;
            file.finish().map(drop)
        }
        (None, Some(terminal)) => {
            for line in text.lines() {
                terminal.say(line)?;
            }
            let written = terminal.agrees("They are shown only now. Are they written down?", Answer::No)?;
            if written { Ok(()) } else { Err(Failure::Declined) }
        }
        (None, None) => {
            Err(Failure::Usage("There is no terminal to show passphrases on: give --passphrases-to.".into()))
        }
    }
}

/// What whoever set the HSM up should keep.
struct Sheet {
    device: String,
    node: String,
    fingerprint: String,
    system_time: String,
    names: Vec<(&'static str, &'static str)>,
}

fn sheet(context: &Context, sheet: &Sheet) -> Result<(), Failure> {
    let Sheet { device, node, fingerprint, system_time, names } = sheet;
    let add = format!("casemate profile add default --host {node} --pin {fingerprint} --user admin");
    let mut next = if context.of_a_profile { Vec::new() } else { vec![add] };
    next.extend(["casemate doctor".to_owned(), "casemate user add operator --role Operator".to_owned()]);
    let value = json!({
        "done": true,
        "deviceId": device,
        "node": node,
        "fingerprint": fingerprint,
        "time": system_time,
        "passphrases": names.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "next": next,
    });
    let mut lines = vec![
        "The HSM is set up and Operational. Keep this sheet; keep the passphrases apart from the HSM.".to_owned(),
        String::new(),
        format!("Device id    {device}"),
        format!("Address      {node}"),
        format!("Fingerprint  {fingerprint}"),
        format!("Set up       {system_time}"),
        String::new(),
    ];
    lines.extend(names.iter().map(|(name, purpose)| format!("{name:<20} {purpose}")));
    lines.extend([String::new(), "Next:".to_owned()]);
    lines.extend(next.iter().map(|command| format!("  {command}")));
    context.out.lines(&value, lines)
}
