//! `config logging …`

use std::net::IpAddr;

use casemate_api::body::config::{LogLevel, Logging};
use clap::{Args, Subcommand};

use crate::cmd::args::api_value;
use crate::exit::Failure;
use crate::profile::Context;

/// Show or set where an HSM sends its log lines.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show it
    Show,
    /// Set it; what is not given stays as it is
    Set(Set),
}

/// Arguments of `config logging set`.
#[derive(Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Set {
    /// Address of the syslog server; 0.0.0.0: none
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Its port (UDP)
    #[arg(long)]
    port: Option<u16>,
    /// The least important lines that are logged: debug, info, warning or error
    #[arg(long, value_parser = api_value::<LogLevel>)]
    level: Option<LogLevel>,
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = context.session()?;
        let before = session.config().logging()?;
        let logging = match self {
            Command::Show => before,
            Command::Set(set) => {
                let logging = Logging {
                    ip_address: set.address.unwrap_or(before.ip_address),
                    port: set.port.unwrap_or(before.port),
                    log_level: set.level.unwrap_or(before.log_level),
                };
                session.config().set_logging(&logging)?;
                logging
            }
        };
        context.out.record(&logging, members(&logging))
    }
}

/// The setting, for people.
pub(crate) fn members(logging: &Logging) -> Vec<(&'static str, String)> {
    let level = match logging.log_level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warning => "warning",
        LogLevel::Error => "error",
    };
    let server = logging.server().map_or_else(|| "none".into(), |server| server.to_string());
    vec![("Log server", server), ("Log level", level.into())]
}
