//! `cargo xtask bench cli`: the cost of one run of `casemate`, compared with the same request by `curl`. Both start,
//! perform a TLS handshake, request the state and exit.
//!
//! All take turns, so that other work on the machine affects them equally.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::rig::{self, ADMIN, Server};
use crate::metadata;
use crate::steps::{cargo, run as run_command, succeeds};

/// Target: at most this many times the duration of `curl`, for a `casemate` with a pinned certificate.
const TARGET: f64 = 3.0;

/// One way to send the request.
struct Way {
    name: &'static str,
    command: Command,
    times: Vec<Duration>,
}

/// Measures and prints the table, as Markdown. `--quick` runs fewer turns.
pub(super) fn run(args: &[&str]) -> Result<()> {
    let turns = match args {
        [] => 200,
        ["--quick"] => 10,
        other => bail!("no such argument of `bench cli`: {}", other.join(" ")),
    };
    for (tool, flag) in [("taskset", "--version"), ("curl", "--version"), ("openssl", "version")] {
        if !succeeds(tool, &[flag]) {
            bail!("{tool} is missing: apt-get install util-linux curl openssl");
        }
    }
    for (package, program) in [("casemate-server", "casemated"), ("casemate-cli", "casemate")] {
        run_command(&mut cargo(&["build", "--release", "--locked", "-p", package, "--bin", program]))?;
    }
    let target = metadata::target_dir()?;
    let release = target.join("release");
    // Built as `docs/cli.md` installs it: on its own, because features apply to a whole build.
    let alone = target.join("casemate-alone");
    let mut build =
        cargo(&["build", "--release", "--locked", "-p", "casemate-cli", "--bin", "casemate", "--target-dir"]);
    run_command(build.arg(&alone).env("AWS_LC_SYS_NO_JITTER_ENTROPY", "1"))?;
    let installed = alone.join("release").join("casemate");
    let server = Server::start(&release, "cli")?;
    server.provision()?;
    let papers = Papers::new(&server)?;
    let mut ways = ways(&server, &papers, &installed, &release.join("casemate"));
    for way in &mut ways {
        // Once to warm up, and to check the output.
        let output = way.command.output()?;
        ensure!(output.status.success(), "{}: {}", way.name, String::from_utf8_lossy(&output.stderr));
        way.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    }
    for _ in 0..turns {
        for way in &mut ways {
            let begun = Instant::now();
            let status = way.command.status()?;
            way.times.push(begun.elapsed());
            ensure!(status.success(), "{} ended with {status}", way.name);
        }
    }
    print!("\n{}", rig::machine("curl"));
    table(&mut ways);
    server.stop()
}

fn ways(server: &Server, papers: &Papers, installed: &Path, of_workspace: &Path) -> Vec<Way> {
    let ask_with = |program: &Path, trust: &[&str]| {
        let mut command = Command::new(program);
        command.env_clear().args(["--host", &server.address]).args(trust).arg("state");
        command
    };
    let ask = |trust: &[&str]| ask_with(installed, trust);
    let mut curl = Command::new("curl");
    curl.args(["-sk", &format!("https://{}/api/v1/health/state", server.address)]);
    let mut nothing = Command::new(installed);
    nothing.arg("--version");
    let mut system = ask(&[]);
    system.env("SSL_CERT_FILE", &papers.roots);
    let ca = papers.ca.to_string_lossy();
    [
        ("`curl -sk`", curl),
        ("`casemate state`, certificate pinned", ask(&["--pin", &papers.pin])),
        ("`casemate state`, CA file", ask(&["--ca-file", &ca])),
        ("`casemate state`, the system's roots and one more", system),
        ("`casemate state` of the workspace's build, pin", ask_with(of_workspace, &["--pin", &papers.pin])),
        ("`casemate --version`: no connection", nothing),
    ]
    .map(|(name, command)| Way { name, command, times: Vec::new() })
    .into()
}

fn table(ways: &mut [Way]) {
    println!("\n## Start of the command line, {} turns\n", ways.first().map_or(0, |way| way.times.len()));
    println!("| | median | least | nine of ten within | times curl | target |\n|---|---|---|---|---|---|");
    let mut curl = None;
    for way in ways {
        way.times.sort();
        let at = |share: usize| way.times.get(way.times.len() * share / 10).copied().unwrap_or_default();
        let (median, least, most) = (at(5), at(0), at(9));
        let curl = *curl.get_or_insert(median);
        let times = median.as_secs_f64() / curl.as_secs_f64();
        let target = if way.name.ends_with("pinned") { format!("≤ {TARGET}") } else { "–".into() };
        println!("| {} | {median:.2?} | {least:.2?} | {most:.2?} | {times:.2} | {target} |", way.name);
    }
}

/// A certificate authority, and the server certificate issued by it.
struct Papers {
    folder: PathBuf,
    ca: PathBuf,
    /// The system's roots and the authority.
    roots: PathBuf,
    pin: String,
}

impl Papers {
    fn new(server: &Server) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("casemate-bench-{}-papers", std::process::id()));
        fs::create_dir_all(&folder)?;
        let at = |name: &str| folder.join(name);
        let mut papers = Self { ca: at("ca.pem"), roots: at("roots.pem"), folder: folder.clone(), pin: String::new() };
        let subject = r#"{"commonName":"127.0.0.1","subjectAltNames":["IP:127.0.0.1"]}"#;
        fs::write(at("csr.pem"), server.call("POST", "/config/tls/csr.pem", Some(ADMIN), Some(subject))?)?;
        papers.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=bench -keyout ca.key -out ca.pem")?;
        papers.openssl("x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -copy_extensions copy -days 1 -out cert.pem")?;
        let mut put = server.curl("PUT", "/config/tls/cert.pem", Some(ADMIN));
        put.args(["-H", "content-type: application/x-pem-file", "--data-binary"]);
        let output = put.arg(format!("@{}", at("cert.pem").display())).output()?;
        ensure!(output.status.success(), "the certificate: {}", String::from_utf8_lossy(&output.stdout));
        let shown = papers.openssl("x509 -in cert.pem -noout -fingerprint -sha256")?;
        papers.pin = shown.trim().split_once('=').context("no fingerprint")?.1.to_owned();
        let system = fs::read_to_string(SYSTEM_ROOTS).with_context(|| SYSTEM_ROOTS.to_owned())?;
        fs::write(&papers.roots, system + &fs::read_to_string(&papers.ca)?)?;
        Ok(papers)
    }

    fn openssl(&self, line: &str) -> Result<String> {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(&self.folder).output()?;
        ensure!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Papers {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The path on Debian and its derivatives.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
