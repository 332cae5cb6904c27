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

/// Administer and use an HSM with the REST API of NetHSM.
#[derive(Parser)]
#[command(name = "casemate", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What can be done with an HSM, and without one.
#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Hsm(cmd::Command),
    /// Manage the profiles of this machine
    #[command(subcommand)]
    Profile(cmd::profile::Command),
    /// Print a completion script for a shell
    Completions(cmd::pages::Completions),
    /// Print the manual, or write it to a folder
    Man(cmd::pages::Man),
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
        Some(Command::Hsm(command)) => {
            let context = Context::new(cli.global)?;
            thread::scope(|scope| {
                // The first random number of a process costs AWS-LC some 30 ms, in which it times the processor for
                // entropy: most of what a short command takes. They pass while a passphrase is fetched and a host is
                // looked up. Without the thread the handshake waits for them.
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
