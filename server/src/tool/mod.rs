//! Tools of `casemated` that need no running HSM.

pub mod audit;
pub mod backup;
pub mod witness;

use std::io::{self, Write};

use self::backup::BackupError;
use crate::command::{Audit, Backup, Tool, Witness};
use crate::observe::plain::plain;
use crate::process::{self, Exit};

/// Runs a tool and writes its result to standard output. An error is one sentence on standard error.
pub fn run(tool: &Tool) -> Exit {
    let mut out = io::stdout().lock();
    let done = match tool {
        Tool::Backup(asked) => look_into(asked, &mut out),
        Tool::Audit(Audit::Verify { file, key }) => {
            audit::verify(file, key.as_deref(), &mut out).map_err(|fault| (fault.exit, fault.sentence))
        }
        Tool::Witness(Witness::Init(asked)) => {
            // A private key will be in memory.
            let hardened = process::harden().map_err(|error| (Exit::Failure, error.to_string()));
            hardened.and_then(|_| witness::init(asked, &mut out).map_err(|why| (Exit::Settings, why)))
        }
    };
    match done {
        Ok(()) => Exit::Ok,
        Err((exit, sentence)) => {
            // If standard error is closed, the error cannot be reported.
            let _ = writeln!(io::stderr(), "casemated: {}", plain(&sentence));
            exit
        }
    }
}

fn look_into(asked: &Backup, out: &mut dyn Write) -> Result<(), (Exit, String)> {
    // Passphrases and keys will be in memory, as when serving.
    process::harden().map_err(|error| (Exit::Failure, error.to_string()))?;
    let settings = |why| (Exit::Settings, why);
    let done = match asked {
        Backup::Inspect(asked) => backup::inspect(&asked.file, asked.backup_passphrase().map_err(settings)?, out),
        Backup::Verify(asked) => {
            let passphrase = asked.backup_passphrase().map_err(settings)?;
            backup::verify(&asked.file, passphrase, &asked.unlock_passphrase().map_err(settings)?, out)
        }
    };
    done.map_err(|error| {
        match error {
            // Its sentence already names the file.
            BackupError::Io(why) => (Exit::Failure, why),
            error @ (BackupError::Refused(_) | BackupError::Bad(_)) => {
                (Exit::BackupBroken, format!("{}: {error}", asked.file().display()))
            }
        }
    })
}
