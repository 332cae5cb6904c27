//! `config without-majority …`

use casemate_api::body::config::WithoutMajority;
use casemate_api::limits::STALE_DEFAULT_S;
use clap::{Args, Subcommand, ValueEnum};

use crate::exit::Failure;
use crate::profile::Context;

/// Show or set what the members of a cluster do that reach no majority.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show it
    Show,
    /// Set it, for all members
    Set(Set),
}

/// Arguments of `config without-majority set`.
#[derive(Args)]
pub(crate) struct Set {
    /// Whether they serve nothing, or go on to use and read keys
    mode: Mode,
    /// For how long they go on after the last confirmation, in seconds [default: 900]
    #[arg(long, value_name = "SECONDS")]
    max_stale: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Strict,
    Degraded,
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = context.session()?;
        let setting = match self {
            Command::Show => session.config().without_majority()?,
            Command::Set(set) => {
                let setting = match (set.mode, set.max_stale) {
                    (Mode::Strict, None) => WithoutMajority::Strict {},
                    (Mode::Strict, Some(_)) => {
                        return Err(Failure::Usage(
                            "--max-stale goes with degraded only: members that are strict serve nothing".into(),
                        ));
                    }
                    (Mode::Degraded, limit) => {
                        WithoutMajority::Degraded { max_stale_seconds: limit.unwrap_or(STALE_DEFAULT_S) }
                    }
                };
                session.config().set_without_majority(&setting)?;
                setting
            }
        };
        context.out.line(&setting, &format!("Without a majority, members {}.", what_they_do(&setting)))
    }
}

/// What members do, for people.
pub(crate) fn what_they_do(setting: &WithoutMajority) -> String {
    match setting {
        WithoutMajority::Strict {} => "serve nothing".into(),
        WithoutMajority::Degraded { max_stale_seconds } => format!("use and read keys for {max_stale_seconds} s"),
    }
}
