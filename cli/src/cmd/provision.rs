//! `provision`: sets a new HSM up and prints a sheet of what to keep.
//!
//! Nothing is asked before it is certain that the HSM is new, and nothing is sent before all passphrases are known, so
//! that a mistake changes nothing. Generated passphrases are shown before they are set, because they would be lost if
//! the terminal failed afterwards.

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
use crate::output_file::{OutputFile, Overwrite};
use crate::profile::Context;
use crate::terminal::{DefaultAnswer, Terminal};
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
    /// File with the Backup Passphrase, which is set as well if given
    #[arg(long, value_name = "FILE")]
    backup_passphrase_file: Option<PathBuf>,
    /// Generate the passphrases for which there is no file, and show them once
    #[arg(long)]
    generate: bool,
    /// New file for the generated passphrases, instead of the terminal
    #[arg(long, value_name = "FILE", requires = "generate")]
    passphrases_to: Option<PathBuf>,
    /// Time to set, such as 2026-01-31T12:00:00Z; by default the time of this machine
    #[arg(long, value_name = "TIME")]
    system_time: Option<Timestamp>,
}

/// One of the passphrases of a new HSM.
struct Secret {
    passphrase: Passphrase,
    /// Whether it was generated here.
    generated: bool,
}

impl Secret {
    fn same_as(&self, other: &Secret) -> bool {
        verify_slices_are_equal(self.passphrase.expose(), other.passphrase.expose()).is_ok()
    }
}

/// The passphrases, each with its name and its purpose.
const UNLOCK: (&str, &str) = ("Unlock Passphrase", "unlocks the HSM after each start; it cannot be recovered");
const ADMIN: (&str, &str) = ("passphrase of admin", "to manage users, keys and settings");
const BACKUP: (&str, &str) = ("Backup Passphrase", "opens backups, which are useless without it");

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
                "Generated passphrases can only be shown on a terminal and without --json: use --passphrases-to FILE."
                    .into(),
            ));
        }
        let fingerprint = if by_hand {
            // The inspection uses a connection of its own, so the certificate on the sheet has to be trusted, too.
            let shown = context.client.inspect_tls(0)?;
            shown.expect_trusted(&node)?;
            shown.fingerprint.to_string()
        } else {
            String::new()
        };
        if let Some(terminal) = &terminal {
            terminal.show(&format!("{node} is Unprovisioned. The SHA-256 fingerprint of its certificate is"))?;
            terminal.show(&fingerprint)?;
        }
        let known = ["casemate", "admin", "hsm", "unlock", "backup", node.as_str()];
        let choose = Choose { terminal: terminal.as_ref(), generate: self.generate, known: &known };
        let unlock = choose.one(UNLOCK.0, self.unlock_passphrase_file.as_deref(), "--unlock-passphrase-file")?;
        let admin = choose.one(ADMIN.0, self.admin_passphrase_file.as_deref(), "--admin-passphrase-file")?;
        let backup = match (&self.backup_passphrase_file, &terminal) {
            (None, None) if !self.generate => None,
            (None, Some(terminal)) if !self.generate && !terminal.ask_yes_no(WITH_BACKUP, DefaultAnswer::Yes)? => None,
            (file, _) => Some(choose.one(BACKUP.0, file.as_deref(), "--backup-passphrase-file")?),
        };
        let kept: Vec<_> = [(UNLOCK, Some(&unlock)), (ADMIN, Some(&admin)), (BACKUP, backup.as_ref())]
            .into_iter()
            .filter_map(|(what, secret)| Some((what, secret?)))
            .collect();
        for (at, ((name, _), secret)) in kept.iter().enumerate() {
            if let Some(((other, _), _)) = kept.iter().take(at).find(|(_, other)| other.same_as(secret)) {
                render::warning(&format!("The {name} is the same as the {other}: whoever learns one knows both."));
            }
        }
        hand_over(&kept, self.passphrases_to.as_deref(), terminal.as_ref())?;
        let names: Vec<_> = kept.into_iter().map(|(what, _)| what).collect();

        let system_time = self.system_time.map_or_else(now_rfc3339, rfc3339);
        let session = context.client.log_in(&admin_user()?, prompt::copy(&admin.passphrase));
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
                "The HSM is set up and Operational. Write both passphrases down and keep them in another place: without \
                 the unlock passphrase the HSM cannot be unlocked again, and without that of admin it cannot be managed.",
            );
        }
        // Provisioning takes a while after the HSM has got the time.
        if self.system_time.is_none()
            && let Err(why) = session.config().set_time(now_rfc3339())
        {
            render::warning(&format!("The HSM is set up, but its clock may be slow. {why}"));
        }
        // The HSM is set up, so it does not matter if this cannot be read.
        let device = match session.system().info() {
            Ok(info) => info.device_id,
            Err(why) => {
                render::warning(&format!("The HSM is set up, but its device id cannot be read. {why}"));
                "see `casemate system info`".into()
            }
        };
        sheet(context, &Sheet { device, node, fingerprint, system_time, names })
    }
}

const WITH_BACKUP: &str = "Set a Backup Passphrase as well? Without one no backups can be created.";

fn admin_user() -> Result<UserId, Failure> {
    UserId::parse("admin").map_err(local("The name of the first user"))
}

/// Fails unless the HSM is new.
fn expect_new(node: &str, state: State) -> Result<(), Failure> {
    let next = match state {
        State::Unprovisioned => return Ok(()),
        State::Locked => "unlock it with `casemate unlock`",
        State::Operational => {
            "log in with --user; to erase everything and start again, an Administrator runs `casemate system factory-reset`"
        }
        State::Failed => "it cannot reach its store; see its log",
    };
    Err(Failure::WrongState(format!("{node} is {state:?}, so it is already set up: {next}.")))
}

/// How passphrases are chosen.
struct Choose<'a> {
    terminal: Option<&'a Terminal>,
    generate: bool,
    /// Words that an attacker would try first.
    known: &'a [&'a str],
}

impl Choose<'_> {
    /// From a file, generated, or asked for until it is strong or confirmed.
    fn one(&self, name: &str, file: Option<&Path>, option: &str) -> Result<Secret, Failure> {
        let typed = |passphrase| Secret { passphrase, generated: false };
        if let Some(file) = file {
            let passphrase = prompt::of_valid_length(name, prompt::from_file(file)?)?;
            if let Some(why) = strength::weakness(&passphrase, self.known) {
                render::warning(&format!("The {name} in {} is {why}.", file.display()));
            }
            return Ok(typed(passphrase));
        }
        let made = || Ok(Secret { passphrase: strength::make()?, generated: true });
        if self.generate {
            return made();
        }
        let Some(terminal) = self.terminal else {
            return Ok(typed(prompt::new(&format!("New {name}"), None, option)?));
        };
        loop {
            let first = prompt::ask(&format!("New {name} (leave empty to generate one)"), "")?;
            if first.expose().is_empty() {
                return made();
            }
            let first = match prompt::of_valid_length(name, first) {
                Ok(first) => first,
                Err(why) => {
                    terminal.show(&why.to_string())?;
                    continue;
                }
            };
            if let Some(why) = strength::weakness(&first, self.known) {
                terminal.show(&format!("This is {why}, or leave it empty to generate one."))?;
                if !terminal.ask_yes_no("Use it anyway?", DefaultAnswer::No)? {
                    continue;
                }
            }
            if prompt::ask(&format!("New {name}, again"), "")?.expose() == first.expose() {
                return Ok(typed(first));
            }
            terminal.show("The two entries differ. Try again.")?;
        }
    }
}

/// Hands over the generated passphrases, before they are set.
fn hand_over(
    kept: &[((&str, &str), &Secret)],
    file: Option<&Path>,
    terminal: Option<&Terminal>,
) -> Result<(), Failure> {
    let made: Vec<_> = kept.iter().filter(|(_, secret)| secret.generated).collect();
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
            let mut file = OutputFile::create(path, Overwrite::Never)?;
            let wrong = format!("The passphrases cannot be written to {}", path.display());
            file.write_all(text.as_bytes()).map_err(local(wrong))?;
            file.finish().map(drop)
        }
        (None, Some(terminal)) => {
            for line in text.lines() {
                terminal.show(line)?;
            }
            let written =
                terminal.ask_yes_no("They are not shown again. Have you written them down?", DefaultAnswer::No)?;
            if written { Ok(()) } else { Err(Failure::Declined) }
        }
        (None, None) => {
            Err(Failure::Usage("There is no terminal to show passphrases on: use --passphrases-to.".into()))
        }
    }
}

/// What to keep about a new HSM.
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
    let mut next = if context.hosts_from_profile { Vec::new() } else { vec![add] };
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
        "The HSM is set up and Operational. Keep this sheet, and keep the passphrases away from the HSM.".to_owned(),
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
