//! What the module tells people, for which the standard has no way: sentences without secrets, to where
//! `CASEMATE_PKCS11_LOG` says. Unset, it tells nothing, because the process belongs to somebody else.

use std::env;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::functions::runs_for_another;

/// Where lines go.
enum Destination {
    Nowhere,
    Stderr,
    File(PathBuf),
}

/// Writes one line. A log that cannot be written is no reason to fail.
pub(crate) fn line(sentence: &str) {
    // A line is written at once, so that lines of several threads and processes stay whole.
    let line = format!("casemate-pkcs11[{}]: {}\n", std::process::id(), sentence.replace(['\n', '\r'], " "));
    let _ = match destination() {
        Destination::Nowhere => Ok(()),
        Destination::Stderr => std::io::stderr().write_all(line.as_bytes()),
        // It is opened for each line: a file that is held open would be inherited by children and kept from rotation.
        Destination::File(path) => {
            OpenOptions::new().append(true).create(true).open(path).and_then(|mut file| file.write_all(line.as_bytes()))
        }
    };
}

fn destination() -> &'static Destination {
    static DESTINATION: OnceLock<Destination> = OnceLock::new();
    #[allow(clippy::disallowed_methods, reason = "the only setting that does not come from a configuration file")]
    // Whoever starts a setuid program must not say which file it appends to.
    DESTINATION.get_or_init(|| parse(env::var_os(VARIABLE).filter(|_| !runs_for_another())))
}

fn parse(value: Option<OsString>) -> Destination {
    match value {
        None => Destination::Nowhere,
        Some(value) if value.is_empty() || value == "0" || value == "off" => Destination::Nowhere,
        Some(value) if value == "1" || value == "stderr" => Destination::Stderr,
        Some(path) => Destination::File(path.into()),
    }
}

const VARIABLE: &str = "CASEMATE_PKCS11_LOG";
