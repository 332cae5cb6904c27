//! Passphrases, and questions. No passphrase is ever an argument, because every process can read arguments.

use std::env;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use casemate_api::Passphrase;
use casemate_api::limits::{PASSPHRASE_MAX_BYTES, PASSPHRASE_MIN_BYTES};
use zeroize::Zeroizing;

use crate::exit::{Failure, local};

/// The environment variable with the passphrase of the user.
const VARIABLE: &str = "CASEMATE_PASSPHRASE";

/// Where a passphrase is, as arguments, a profile or a set-up file tell.
#[derive(Clone)]
pub(crate) enum Source {
    /// The content of a file.
    File(PathBuf),
    /// The output of a command, such as that of a password manager.
    Command(String),
    /// The value of an environment variable.
    Variable(String),
}

/// The passphrase of `user`: from `given`, the environment, `profile`, or the terminal.
pub(crate) fn of_user(user: &str, given: Option<&Source>, profile: Option<&Source>) -> Result<Passphrase, Failure> {
    match without_asking(given, profile)? {
        Some(passphrase) => Ok(passphrase),
        None => {
            ask(&format!("Passphrase of {user}"), "give --passphrase-file, --passphrase-command or CASEMATE_PASSPHRASE")
        }
    }
}

/// The passphrase of the user, if it can be had without a question.
pub(crate) fn without_asking(given: Option<&Source>, profile: Option<&Source>) -> Result<Option<Passphrase>, Failure> {
    if let Some(source) = given {
        return read(source).map(Some);
    }
    if env::var_os(VARIABLE).is_some() {
        return from_variable(VARIABLE).map(Some);
    }
    profile.map(read).transpose()
}

/// A passphrase in use: from `file` or the terminal. `option` is the option for the file.
pub(crate) fn current(label: &str, file: Option<&Path>, option: &str) -> Result<Passphrase, Failure> {
    match file {
        Some(file) => from_file(file),
        None => ask(label, &format!("give {option}")),
    }
}

/// A new passphrase: from `file`, or asked for twice. `option` is the option for the file.
pub(crate) fn new(label: &str, file: Option<&Path>, option: &str) -> Result<Passphrase, Failure> {
    let passphrase = match file {
        Some(file) => from_file(file)?,
        None => {
            let first = ask(label, &format!("give {option}"))?;
            let second = ask(&format!("{label}, again"), &format!("give {option}"))?;
            if first.expose() != second.expose() {
                return Err(Failure::Usage(format!("{label}: the two entries differ. Nothing was done; try again.")));
            }
            first
        }
    };
    of_valid_length(label, passphrase)
}

/// The passphrase, if it has a length that the HSM accepts.
pub(crate) fn of_valid_length(label: &str, passphrase: Passphrase) -> Result<Passphrase, Failure> {
    if passphrase.has_valid_length() {
        return Ok(passphrase);
    }
    Err(Failure::Usage(format!(
        "{label}: a passphrase must have {PASSPHRASE_MIN_BYTES} to {PASSPHRASE_MAX_BYTES} bytes. Choose another one."
    )))
}

/// A copy of a passphrase, for a second call: a call consumes its passphrase.
pub(crate) fn copy(passphrase: &Passphrase) -> Passphrase {
    Passphrase::from_text(String::from_utf8_lossy(passphrase.expose()).into_owned())
}

/// Fails if [`confirm`] would have no terminal to ask on: for questions after long work.
pub(crate) fn can_confirm(what: &str, yes: bool) -> Result<(), Failure> {
    if yes || io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::Usage(format!("{what} cannot be undone. Confirm it with --yes.")))
}

/// Asks whether to do `what` at `whose`, which cannot be undone, unless `--yes` was given.
pub(crate) fn confirm(whose: &str, what: &str, yes: bool) -> Result<(), Failure> {
    can_confirm(what, yes)?;
    if yes {
        return Ok(());
    }
    question_on_terminal(&format!("{whose}: {what} cannot be undone. Continue?"))
}

/// Asks whether to do something that can be undone, unless `--yes` was given.
pub(crate) fn agree(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage("There is no terminal to ask on. Nothing was done; confirm it with --yes.".into()));
    }
    question_on_terminal(question)
}

fn question_on_terminal(question: &str) -> Result<(), Failure> {
    let mut screen = io::stderr().lock();
    write!(screen, "{question} [y/N] ").map_err(local("The terminal cannot be written"))?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(local("The terminal cannot be read"))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::Declined) }
}

pub(crate) fn ask(label: &str, instead: &str) -> Result<Passphrase, Failure> {
    match rpassword::prompt_password(format!("{label}: ")) {
        Ok(text) => Ok(Passphrase::from_text(text)),
        Err(_) => Err(Failure::Usage(format!("There is no terminal to ask for “{label}”: {instead}."))),
    }
}

/// Reads a passphrase from its source.
pub(crate) fn read(source: &Source) -> Result<Passphrase, Failure> {
    match source {
        Source::Variable(name) => from_variable(name),
        Source::File(path) => from_file(path),
        Source::Command(command) => from_command(command),
    }
}

fn from_variable(name: &str) -> Result<Passphrase, Failure> {
    let Some(text) = env::var_os(name) else {
        return Err(Failure::Usage(format!("The environment variable {name} is not set.")));
    };
    let text = text.into_string().map_err(|_| Failure::Usage(format!("{name} is not valid UTF-8.")))?;
    Ok(Passphrase::from_text(text))
}

pub(crate) fn from_file(path: &Path) -> Result<Passphrase, Failure> {
    let bytes =
        std::fs::read(path).map_err(local(format_args!("The passphrase file {} cannot be read", path.display())))?;
    text(Zeroizing::new(bytes), &format!("The passphrase file {}", path.display()))
}

fn from_command(command: &str) -> Result<Passphrase, Failure> {
    let output = Command::new("sh")
        .args(["-c", command])
        // The command has no need of it, and would pass it to its children.
        .env_remove(VARIABLE)
        // Standard input may be the message to sign or encrypt.
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(local("The passphrase command cannot be started"))?;
    let printed = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(Failure::Local(format!("The passphrase command failed ({}).", output.status)));
    }
    text(printed, "The output of the passphrase command")
}

/// The bytes as a passphrase, without the line end that editors and commands add.
fn text(bytes: Zeroizing<Vec<u8>>, what: &str) -> Result<Passphrase, Failure> {
    let text = str::from_utf8(&bytes).map_err(|_| Failure::Local(format!("{what} is not valid UTF-8.")))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Failure::Local(format!("{what} is empty.")));
    }
    Ok(Passphrase::from_text(text.into()))
}
