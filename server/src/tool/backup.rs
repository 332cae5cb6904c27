//! `casemated backup inspect FILE` and `casemated backup verify FILE`: the contents of a backup, and whether it can be
//! restored.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use casemate_api::Passphrase;
use casemate_core::backup::inspect::{Finding, Inspector, Verdict};

use crate::observe::plain::plain;

/// Why a backup could not be inspected or is unusable. `Display` is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be read, or the output cannot be written.
    #[error("{0}")]
    Io(String),
    /// It is not a backup, it is incomplete, or a passphrase is wrong.
    #[error("{0}")]
    Refused(String),
    /// Some of its entries cannot be used.
    #[error("{0} entries of the backup cannot be used; they are listed above")]
    Bad(usize),
}

const PIECE_BYTES: usize = 64 << 10;

/// Passes the file to `take` piece by piece, with `None` at its end.
fn read(file: &Path, mut take: impl FnMut(Option<&[u8]>) -> Result<(), BackupError>) -> Result<(), BackupError> {
    let broken = |why: io::Error| BackupError::Io(format!("{}: {why}", file.display()));
    let mut source = File::open(file).map_err(broken)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = source.read(&mut piece).map_err(broken)?;
        match piece.get(..length) {
            Some(bytes) if !bytes.is_empty() => take(Some(bytes))?,
            _ => return take(None),
        }
    }
}

fn refused(why: impl ToString) -> BackupError {
    BackupError::Refused(why.to_string())
}

/// Writes a line. The file is foreign, and so is every name in it.
fn say(out: &mut dyn Write, line: &str) -> Result<(), BackupError> {
    writeln!(out, "{}", plain(line)).map_err(unwritten)
}

fn unwritten(why: io::Error) -> BackupError {
    BackupError::Io(format!("cannot write the output: {why}"))
}

/// Lists the contents of `file`, one line per entry, to `out`. Also `Err` if the file is incomplete.
pub fn inspect(file: &Path, passphrase: Passphrase, out: &mut dyn Write) -> Result<(), BackupError> {
    list(file, passphrase, out).map(drop)
}

fn list(file: &Path, passphrase: Passphrase, out: &mut dyn Write) -> Result<Inspector, BackupError> {
    let mut inspector = Inspector::new(passphrase);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    read(file, |piece| {
        let findings = match piece {
            Some(bytes) => inspector.feed(bytes),
            None => inspector.finish(),
        };
        for finding in findings.map_err(refused)? {
            match finding {
                Finding::Head { version, device_id, listed } => {
                    let device = if device_id.is_empty() { "unknown" } else { &device_id };
                    let by = if listed { "Casemate, with a list of its entries" } else { "NetHSM" };
                    say(out, &format!("version {version}, device {device}, made by {by}"))?;
                }
                Finding::Entry { path, kind, bytes } => {
                    *counts.entry(kind.to_string()).or_default() += 1;
                    say(out, &format!("{kind:<15} {bytes:>8}  {path}"))?;
                }
                Finding::End => {
                    let counts: Vec<_> = counts.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
                    say(out, &format!("the backup is complete; {}", counts.join(", ")))?;
                }
            }
        }
        Ok(())
    })?;
    Ok(inspector)
}

/// Decrypts every entry of `file` and uses each key once; one line for each to `out`. `Err` if any cannot be used.
pub fn verify(
    file: &Path,
    passphrase: Passphrase,
    unlock: &Passphrase,
    out: &mut dyn Write,
) -> Result<(), BackupError> {
    let inspector = list(file, passphrase, &mut io::sink())?;
    let mut verifier = inspector.verifier(unlock).map_err(refused)?;
    let (mut fine, mut keys, mut bad) = (0usize, 0usize, 0usize);
    read(file, |piece| {
        let verdicts = match piece {
            Some(bytes) => verifier.feed(bytes),
            None => verifier.finish(),
        };
        for verdict in verdicts.map_err(refused)? {
            match verdict {
                Verdict::Key { path, key_type, mechanisms } => {
                    keys += 1;
                    let names: Vec<_> = mechanisms.iter().map(|mechanism| format!("{mechanism:?}")).collect();
                    say(out, &format!("works  {path}  {} {}", key_type.as_str(), names.join(" ")))?;
                }
                Verdict::Fine { path } => {
                    fine += 1;
                    say(out, &format!("opens  {path}"))?;
                }
                Verdict::Bad { path, why } => {
                    bad += 1;
                    say(out, &format!("BAD    {path}: {why}"))?;
                }
            }
        }
        Ok(())
    })?;
    say(out, &format!("{keys} keys work, {fine} other entries open, {bad} cannot be used"))?;
    if bad == 0 { Ok(()) } else { Err(BackupError::Bad(bad)) }
}
