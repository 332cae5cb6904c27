//! `completions` and `man`: completion scripts and manual pages, generated from the definition of the arguments.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::exit::{Failure, local};
use crate::render;

/// Arguments of `completions`.
#[derive(Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub(crate) fn run(self, mut command: Command) -> Result<(), Failure> {
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        render::write(&script)
    }
}

/// Arguments of `man`.
#[derive(Args)]
pub(crate) struct Man {
    /// Folder for the pages of all commands, such as casemate.1; by default the first page is printed
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
}

impl Man {
    /// Prints a page, or writes all.
    pub(crate) fn run(self, command: Command) -> Result<(), Failure> {
        // Without pages such as `casemate-help-key-list`.
        let command = command.disable_help_subcommand(true);
        let Some(folder) = self.to else {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).map_err(local("The page cannot be generated"))?;
            return render::write(&page);
        };
        let wrong = || format!("The pages cannot be written to {}", folder.display());
        std::fs::create_dir_all(&folder).map_err(local(wrong()))?;
        clap_mangen::generate_to(command, &folder).map_err(local(wrong()))
    }
}
