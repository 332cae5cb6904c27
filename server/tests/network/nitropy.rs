//! The released `nitropy`, as an administrator of NetHSM uses it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::daemon::Folder;
use crate::node::{Node, admin_passphrase};

/// A `nitropy`, and where it leaves its files.
pub(crate) struct Nitropy {
    program: PathBuf,
    pub(crate) folder: Folder,
}

impl Nitropy {
    /// That of `cargo xtask compat`, which installs it.
    pub(crate) fn installed() -> Self {
        let exe = env::current_exe().unwrap();
        let target = exe.ancestors().nth(3).unwrap();
        let program = target.join("venv/bin/nitropy");
        assert!(program.is_file(), "there is no {}: run `cargo xtask compat`", program.display());
        Self { program, folder: Folder::new() }
    }

    /// Runs a subcommand as the Administrator that `node` has from the node `holder`. Returns what it printed.
    #[track_caller]
    pub(crate) fn admin(&self, node: &Node, holder: &str, arguments: &[&str]) -> String {
        self.try_as(node, ("admin", &admin_passphrase(holder)), arguments)
            .unwrap_or_else(|said| panic!("nitropy {}: {said}\n{}", arguments.join(" "), node.log()))
    }

    /// Runs a subcommand as a user with a passphrase. Returns what it printed, as an error if it failed.
    pub(crate) fn try_as(&self, node: &Node, user: (&str, &str), arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.args(["nethsm", "--no-verify-tls"]).args(arguments).env_clear();
        command.env("ALLOW_ROOT", "1").env("NETHSM_HOST", node.host()).env("TMPDIR", self.folder.file(""));
        command.env("NETHSM_USERNAME", user.0).env("NETHSM_PASSWORD", user.1);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(said.into_owned()) } else { Err(said.into_owned()) }
    }
}
