//! `casemate`: the command line of Casemate and NetHSM, by hand and in scripts. See `docs/cli.md`.

mod apply;
mod cmd;
mod exit;
mod profile;
mod prompt;
mod render;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use exit::Failure;
use profile::{Context, Global};

/// Administer and use an HSM with the REST API of NetHSM.
#[derive(Parser)]
#[command(name = "casemate", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<cmd::Command>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            render::failure(&failure, json);
            ExitCode::from(failure.code().0)
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Some(command) => command.run(&Context::new(cli.global)?),
        None => render::write(Cli::command().render_help().to_string().as_bytes()),
    }
}
