//! `config time …` and `config ntp …`

use std::net::IpAddr;

use casemate_api::body::config::Ntp;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use crate::clock::{now_rfc3339, rfc3339};
use crate::exit::Failure;
use crate::profile::Context;

/// Show or set the clock of an HSM.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show it
    Show,
    /// Set it
    Set {
        /// Such as 2026-01-31T12:00:00Z; by default the time of this machine
        time: Option<Timestamp>,
    },
}

/// Show or set the time servers of an HSM.
#[derive(Subcommand)]
pub(crate) enum NtpCommand {
    /// Show it
    Show,
    /// Set it; what is not given stays as it is
    Set(NtpSet),
}

/// Arguments of `config ntp set`.
#[derive(Args)]
#[group(required = true, multiple = true)]
pub(crate) struct NtpSet {
    /// Address of the NTP server
    #[arg(long, value_name = "IP")]
    server: Option<IpAddr>,
    /// Name of the NTS server, which authenticates itself
    #[arg(long, value_name = "NAME")]
    nts: Option<String>,
    /// Use no time server
    #[arg(long, conflicts_with_all = ["server", "nts"])]
    off: bool,
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = context.session()?;
        let time = match self {
            Command::Show => session.config().time()?,
            Command::Set { time } => {
                let time = time.map_or_else(now_rfc3339, rfc3339);
                session.config().set_time(time.clone())?;
                time
            }
        };
        context.out.line(&json!({ "time": time }), &time)
    }
}

impl NtpCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let session = context.session()?;
        let ntp = match self {
            NtpCommand::Show => session.config().ntp()?,
            NtpCommand::Set(set) => {
                let before = if set.off { Ntp::default() } else { session.config().ntp()? };
                let ntp = Ntp { ntp_ip: set.server.or(before.ntp_ip), nts_name: set.nts.or(before.nts_name) };
                session.config().set_ntp(&ntp)?;
                ntp
            }
        };
        context.out.record(&ntp, members(&ntp))
    }
}

/// The time servers, for people.
pub(crate) fn members(ntp: &Ntp) -> Vec<(&'static str, String)> {
    let none = || "none".to_owned();
    let server = ntp.ntp_ip.map_or_else(none, |ip| ip.to_string());
    vec![("NTP server", server), ("NTS server", ntp.nts_name.clone().unwrap_or_else(none))]
}
