//! `cargo xtask bench`: the performance table. Our figure of merit compares the cost of a request with that of its
//! operation in the library: efficiency = raw operation / server CPU per request.
//!
//! The server is pinned to core 0 (and has one serving thread there), the client to core 1, and the raw operations run
//! on core 0 before and after. CPU per request comes from the scheduler's accounting, so other load on the machine
//! affects it far less than requests per second. A benchmark, not a test: no figure fails it.

mod backup;
mod cli;
mod etcd;
mod instructions;
mod load;
mod pkcs11;
mod rig;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::load::{Load, Protocol, Request};
use self::rig::{OPERATOR, Patience, Server};
use crate::steps::{cargo, run as run_command};
use crate::{metadata, setup};

/// One operation in the table.
struct Row {
    name: &'static str,
    /// Body of `POST /keys/generate`, without the braces.
    key: &'static str,
    /// Last segment of the path.
    verb: &'static str,
    mode: &'static str,
    /// Length of the message in bytes.
    message: usize,
    /// Minimum efficiency for a release, by HTTP/1.1 and HTTP/2, where one is set.
    target: Option<(f64, f64)>,
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { name: "RSA-2048",    key: r#""type":"RSA","length":2048,"mechanisms":["RSA_Signature_PKCS1"]"#, verb: "sign", mode: "PKCS1", message: 51, target: Some((0.91, 0.94)) },
    Row { name: "RSA-3072",    key: r#""type":"RSA","length":3072,"mechanisms":["RSA_Signature_PKCS1"]"#, verb: "sign", mode: "PKCS1", message: 51, target: None },
    Row { name: "RSA-4096",    key: r#""type":"RSA","length":4096,"mechanisms":["RSA_Signature_PKCS1"]"#, verb: "sign", mode: "PKCS1", message: 51, target: Some((0.96, 0.96)) },
    Row { name: "P-256",       key: r#""type":"EC_P256","mechanisms":["ECDSA_Signature"]"#,               verb: "sign", mode: "ECDSA", message: 32, target: Some((0.50, 0.58)) },
    Row { name: "P-384",       key: r#""type":"EC_P384","mechanisms":["ECDSA_Signature"]"#,               verb: "sign", mode: "ECDSA", message: 48, target: None },
    Row { name: "Ed25519",     key: r#""type":"Curve25519","mechanisms":["EdDSA_Signature"]"#,            verb: "sign", mode: "EdDSA", message: 32, target: Some((0.33, 0.40)) },
    Row { name: "secp256k1",   key: r#""type":"EC_P256K1","mechanisms":["ECDSA_Signature"]"#,             verb: "sign", mode: "ECDSA", message: 32, target: None },
    Row { name: "AES-256-CBC", key: r#""type":"Generic","length":256,"mechanisms":["AES_Encryption_CBC"]"#, verb: "encrypt", mode: "AES_CBC", message: 64, target: None },
];

/// Target for the server's CPU time of a request without an operation, in microseconds, by HTTP/1.1 and HTTP/2.
const NO_OP_TARGET_US: (f64, f64) = (10.7, 7.5);

/// Durations of the benchmark.
struct Plan {
    /// One window under load.
    window: Duration,
    windows: usize,
    /// One window of a raw operation, in seconds.
    raw_s: f64,
    /// Keys created for the memory figures.
    keys: usize,
    /// Total time to wait for other work on the machine to end.
    patience: Duration,
}

const FULL: Plan = Plan {
    window: Duration::from_millis(500),
    windows: 9,
    raw_s: 0.05,
    keys: 100_000,
    patience: Duration::from_secs(120),
};
const QUICK: Plan =
    Plan { window: Duration::from_millis(200), windows: 1, raw_s: 0.02, keys: 2_000, patience: Duration::ZERO };

const HELP: &str = "\
cargo xtask bench [--quick] [--no-memory] [ROW…]
cargo xtask bench instructions
cargo xtask bench cli [--quick]
cargo xtask bench pkcs11 [--quick] [--keys N] [PART…]
cargo xtask bench etcd [--quick] [--keys N] [PART…]
cargo xtask bench cluster [--quick] [--keys N] [PART…]

  --quick      short windows: to see that it works, not to quote
  --no-memory  leave out the part that creates 100,000 keys
  ROW          only these: RSA-2048, P-256, …
  instructions only the instructions of a P-256 request besides its ECDSA, which do not depend on other load
  cli          the duration of a command of casemate, compared with curl
  pkcs11       the PKCS#11 module, compared with the client and SoftHSM2: the parts signatures and keys (100,000, or N)
  etcd         a shared store in etcd: the parts signature, creation, keys (a million, or N), revocation,
               failover, partition (as root)
  cluster      members with an etcd of their own: the parts growth (with 0, 100,000 and a million keys, or N) and failover

Needs Linux with two cores, taskset, curl, h2load and valgrind; installs what is missing where there is apt-get.";

/// Measures and prints the table, as Markdown.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    if args.contains(&"--help") {
        println!("{HELP}");
        return Ok(());
    }
    match args {
        ["cli", rest @ ..] => return cli::run(rest),
        ["pkcs11", rest @ ..] => return pkcs11::run(rest),
        [example @ ("etcd" | "cluster"), rest @ ..] => return etcd::run(example, rest),
        _ => {}
    }
    let mut plan = FULL;
    let mut memory = true;
    let mut instructions_only = false;
    let mut rows: Vec<&Row> = Vec::new();
    for arg in args {
        match *arg {
            "--quick" => plan = QUICK,
            "--no-memory" => memory = false,
            "instructions" => instructions_only = true,
            name => {
                let row = ROWS.iter().find(|row| row.name.eq_ignore_ascii_case(name));
                rows.push(row.with_context(|| format!("no such row: {name}\n\n{HELP}"))?);
            }
        }
    }
    if rows.is_empty() {
        rows = ROWS.iter().collect();
    }
    setup::benchmark_packages()?;
    run_command(&mut cargo(&["build", "--release", "--locked", "-p", "casemate-server", "--bin", "casemated"]))?;
    if !instructions_only {
        run_command(&mut cargo(&["build", "--release", "--locked", "-p", "casemate-server", "--example", "raw"]))?;
    }
    let release = metadata::target_dir()?.join("release");
    print!("\n{}", rig::machine("h2load"));
    if !instructions_only {
        let mut quiet = Patience::new(plan.patience);
        efficiency(&plan, &mut quiet, &rows, &release)?;
        if memory {
            capacity(&plan, &mut quiet, &release)?;
        }
    }
    if let Some(row) = rows.iter().find(|row| row.name == "P-256") {
        instructions::measure(&release, row)?;
    }
    Ok(())
}

/// Operations per second and their cost.
fn efficiency(plan: &Plan, quiet: &mut Patience, rows: &[&Row], release: &Path) -> Result<()> {
    let server = Server::start(release, "keys")?;
    server.provision()?;
    for row in rows {
        server.generate(&format!("\"id\":\"{}\",{}", row.name, row.key))?;
    }
    println!("\n## Operations on one core\n");
    println!(
        "| operation | raw: library (ours) µs | | server µs a request | efficiency | target | req/s | p50 / p99 ms |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut noise = 0.0_f64;
    let no_op = Request::get("/api/v1/health/state");
    for (protocol, target) in [(Protocol::Http1, NO_OP_TARGET_US.0), (Protocol::Http2, NO_OP_TARGET_US.1)] {
        let load = measure(plan, quiet, &server, &no_op, protocol, 8.0)?;
        noise = noise.max(load.foreign);
        println!("| no-op | – | {} | {} | – | ≤ {target:.1} µs | {}", protocol.name(), load.cost(), load.rest());
    }
    for row in rows {
        quiet.wait();
        let before = raw(plan, release, row.name)?;
        let cost_us = before.library.0 / 1000.0 + 12.0;
        let h1 = measure(plan, quiet, &server, &row.request(), Protocol::Http1, cost_us)?;
        let h2 = measure(plan, quiet, &server, &row.request(), Protocol::Http2, cost_us)?;
        let raw = before.and(&raw(plan, release, row.name)?);
        for (load, target, protocol) in [
            (&h1, row.target.map(|target| target.0), Protocol::Http1),
            (&h2, row.target.map(|target| target.1), Protocol::Http2),
        ] {
            noise = noise.max(load.foreign);
            let median = raw.library.0 / 1000.0 / load.cpu_us;
            let least = raw.library.1 / 1000.0 / load.range.0;
            let target = target.map_or("–".into(), |target| format!("≥ {target:.2}"));
            println!(
                "| {} | {} | {} | {} | {median:.2} ({least:.2}) | {target} | {}",
                row.name,
                raw.show(),
                protocol.name(),
                load.cost(),
                load.rest()
            );
        }
    }
    println!(
        "\nServer: CPU time for one request, median of {} windows of {:?} (least to most).",
        plan.windows, plan.window
    );
    println!(
        "HTTP/1.1: 32 connections. HTTP/2: 4 connections, 8 streams each. Raw: just before and just after the row."
    );
    println!(
        "Efficiency: raw library by server, of the medians (of the least, which other work on the machine disturbs less)."
    );
    println!("Other work on the server's core: up to {:.0} % of the time of a row.", noise * 100.0);
    server.stop()
}

fn measure(
    plan: &Plan,
    quiet: &mut Patience,
    server: &Server,
    request: &Request,
    protocol: Protocol,
    cost_us: f64,
) -> Result<Load> {
    let requests = (plan.window.as_secs_f64() * 1e6 / cost_us) as usize;
    // Warm: the key is cached, the passphrase verified.
    load::run(server, request, protocol, 64)?;
    let mut windows = Vec::new();
    for _ in 0..plan.windows {
        quiet.wait();
        windows.push(load::run(server, request, protocol, requests.max(64))?);
    }
    Load::summary(windows)
}

/// Nanoseconds of one operation, median and minimum: in our code, and in the library it calls.
#[derive(Clone, Copy)]
struct Raw {
    ours: (f64, f64),
    library: (f64, f64),
}

impl Raw {
    fn and(&self, other: &Raw) -> Raw {
        let both = |a: (f64, f64), b: (f64, f64)| ((a.0 + b.0) / 2.0, a.1.min(b.1));
        Raw { ours: both(self.ours, other.ours), library: both(self.library, other.library) }
    }

    fn show(&self) -> String {
        let us = |ns: f64| if ns < 100_000.0 { format!("{:.2}", ns / 1000.0) } else { format!("{:.0}", ns / 1000.0) };
        format!("{} ({})", us(self.library.0), us(self.ours.0))
    }
}

fn raw(plan: &Plan, release: &Path, name: &str) -> Result<Raw> {
    let mut command = rig::on_core(0, &release.join("examples/raw"));
    let output = command.arg(plan.raw_s.to_string()).arg(name).output()?;
    let text = String::from_utf8(output.stdout)?;
    let figures: Vec<f64> = text.split_whitespace().skip(1).filter_map(|figure| figure.parse().ok()).collect();
    let [ours, ours_least, library, library_least] = *figures else {
        bail!("cannot parse the output of examples/raw: {text}")
    };
    Ok(Raw { ours: (ours, ours_least), library: (library, library_least) })
}

impl Row {
    fn request(&self) -> Request {
        let message = rig::base64(&vec![7; self.message]);
        let body = match self.verb {
            "encrypt" => {
                format!(r#"{{"mode":"{}","message":"{message}","iv":"{}"}}"#, self.mode, rig::base64(&[7; 16]))
            }
            _ => format!(r#"{{"mode":"{}","message":"{message}"}}"#, self.mode),
        };
        Request::post(&format!("/api/v1/keys/{}/{}", self.name, self.verb), body, OPERATOR)
    }
}

/// Memory, speed of creation, and time to start, with many keys.
fn capacity(plan: &Plan, quiet: &mut Patience, release: &Path) -> Result<()> {
    let mut server = Server::start(release, "keys")?;
    server.provision()?;
    let empty = server.rss_kib()?;
    let body = r#"{"type":"EC_P256","mechanisms":["ECDSA_Signature"]}"#.to_owned();
    let create = Request::post("/api/v1/keys/generate", body, rig::ADMIN);
    load::run(&server, &create, Protocol::Http1, 64)?;
    quiet.wait();
    let created = load::run(&server, &create, Protocol::Http1, plan.keys - 64)?;
    let after_creation = server.rss_kib()?;
    let clean = server.restart(rig::How::Asked)?;
    let stored = server.rss_kib()?;
    let killed = server.restart(rig::How::Killed)?;

    let uris = server.key_uris()?;
    let keys = uris.len();
    let message = rig::base64(&[7; 32]);
    let sign = Request::post("", format!(r#"{{"mode":"ECDSA","message":"{message}"}}"#), OPERATOR);
    quiet.wait();
    let cold = load::each_once(&server, &sign, &uris)?;
    let used = server.rss_kib()?;
    let warm = load::each_once(&server, &sign, &uris)?;

    let per_key = |from: u64, to: u64| to.saturating_sub(from) as f64 * 1024.0 / keys as f64;
    println!("\n## {keys} P-256 keys\n");
    println!("| | |\n|---|---|");
    println!(
        "| creation over HTTP/1.1, 32 connections, each key durable before its answer | {:.0} keys/s ({:.0} µs of CPU each) |",
        created.per_second, created.cpu_us
    );
    println!("| store file | {} bytes a key |", server.store_bytes()? / keys as u64);
    println!("| memory of an empty HSM (RSS) | {:.1} MiB |", mib(empty));
    println!(
        "| after the creation (none cached yet) | {:.1} MiB, {:.0} bytes a key |",
        mib(after_creation),
        per_key(empty, after_creation)
    );
    println!("| after a restart, nothing used | {:.1} MiB |", mib(stored));
    println!(
        "| after each key signed once (all cached, parsed) | {:.1} MiB, {:.0} bytes a key |",
        mib(used),
        per_key(stored, used)
    );
    println!("| first signature of a key after a restart, from the store | {:.1} µs of CPU |", cold.cpu_us);
    println!("| second signature of each of them | {:.1} µs of CPU |", warm.cpu_us);
    println!("| start to 'listening', after a clean stop | {clean:?} |");
    println!("| start to 'listening', after kill -9 while idle | {killed:?} |");
    backup::measure(&mut server, release)?;
    server.stop()
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
