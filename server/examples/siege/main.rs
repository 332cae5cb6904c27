//! A siege of a `casemated` of its own: a million hostile requests from 64 addresses, and beside them one honest client
//! that keeps signing and one that logs in every second. Prints the results, and fails with a sentence for each promise
//! that was not kept.
//!
//! ```text
//! cargo xtask siege          # builds both in release mode and runs it
//! cargo xtask siege 5000     # a short one
//! ```

#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a tool beside the product: it lives in real time and prints, and whatever goes wrong fails it"
)]

#[path = "../../tests/attack/any_certificate.rs"]
mod any_certificate;
#[path = "../../tests/siege/mod.rs"]
mod siege;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use siege::{Plan, Report};

/// Number of hostile requests by default.
const REQUESTS: u64 = 1_000_000;
/// Number of their addresses.
const ADDRESSES: u32 = 64;
/// The siege ends after this time in any case.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// 99 of 100 signatures of the honest client must be made within this time of when they were due.
const P99_MAX: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    match run() {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            faults.iter().for_each(|fault| println!("{fault}"));
            ExitCode::FAILURE
        }
        Err(why) => {
            println!("The siege could not be laid: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the siege, prints the figures, and returns a sentence for each promise that was not kept.
fn run() -> io::Result<Vec<String>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(casemated), count, None) = (args.next(), args.next(), args.next()) else {
        return Err(io::Error::other("usage: siege CASEMATED [COUNT]"));
    };
    let requests = match count {
        Some(count) => count.to_string_lossy().parse().map_err(io::Error::other)?,
        None => REQUESTS,
    };
    let server = Server::start(Path::new(&casemated))?;
    siege::set_up(server.address)?;
    let plan = Plan { server: server.address, pid: server.child.id(), requests, addresses: ADDRESSES, limit: LIMIT };
    let report = siege::lay(&plan)?;
    print!("{report}");
    let mut faults = report.faults();
    faults.extend(slow(&report));
    if report.requests() < requests {
        faults.push(format!("Only {} of {requests} hostile requests were made in time.", report.requests()));
    }
    Ok(faults)
}

/// The waiting times of the honest client, which depend on the machine.
fn slow(report: &Report) -> Option<String> {
    let p99 = report.honest.within(0.99);
    (p99 >= P99_MAX).then(|| format!("One signature in a hundred took the honest client {p99:.1?} or longer."))
}

/// A server in a folder of its own. Dropped, it is killed and the folder removed.
struct Server {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Server {
    fn start(casemated: &Path) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("casemate-siege-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let mut command = Command::new(casemated);
        command.args(["--listen", "127.0.0.1:0", "--log", "error", "--data-dir"]).arg(folder.join("data"));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(folder.join("log"))?);
        let mut server = Self { child: command.spawn()?, folder, address: ([127, 0, 0, 1], 0).into() };
        let stdout = server.child.stdout.take().ok_or_else(|| io::Error::other("no standard output"))?;
        for line in BufReader::new(stdout).lines() {
            if let Some((_, address)) = line?.split_once(" is listening on https://") {
                server.address = address.parse().map_err(io::Error::other)?;
                return Ok(server);
            }
        }
        Err(io::Error::other(fs::read_to_string(server.folder.join("log"))?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
