//! `casemate`: the command line of Casemate and NetHSM, by hand and in scripts. See `docs/cli.md`.

mod apply;
mod clock;
mod cmd;
mod exit;
mod input_file;
mod output_file;
mod profile;
mod progress;
mod prompt;
mod render;
mod strength;
mod terminal;

use std::process::ExitCode;
use std::thread;

use clap::{CommandFactory, Parser, Subcommand};

use exit::Failure;
use profile::{Context, Global};
use render::Out;

/// Administer and use an HSM with the REST API of NetHSM.
#[derive(Parser)]
#[command(name = "casemate", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// The commands.
#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Hsm(cmd::Command),
    /// Manage the profiles of this machine
    #[command(subcommand)]
    Profile(cmd::profile::Command),
    /// Print a completion script for a shell
    Completions(cmd::manual::Completions),
    /// Print the manual, or write it to a folder
    Man(cmd::manual::Man),
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
        Some(Command::Hsm(cmd::Command::Audit(cmd::audit::Command::Merge(asked)))) => {
            asked.run(&Out { json: cli.global.json })
        }
        Some(Command::Hsm(command)) => {
            let context = Context::new(cli.global)?;
            thread::scope(|scope| {
                // The first random number of a process takes AWS-LC some 30 ms, as it collects entropy from the timing
                // of the processor. That is most of the time of a short command, so it is done while the passphrase is
                // read and the host name is looked up. If the thread cannot be started, the TLS handshake waits for it.
                let _ = thread::Builder::new().spawn_scoped(scope, || aws_lc_rs::rand::fill(&mut [0]));
                command.run(&context)
            })
        }
        Some(Command::Profile(command)) => command.run(cli.global),
        Some(Command::Completions(arguments)) => arguments.run(Cli::command()),
        Some(Command::Man(arguments)) => arguments.run(Cli::command()),
        None => render::write(Cli::command().render_help().to_string().as_bytes()),
    }
}
