//! `cargo xtask bench pkcs11`: signatures a second through the PKCS#11 module, beside the client that it uses and beside SoftHSM2;
//! and searches among many keys. The load is an example of the package `casemate-pkcs11`, as it takes Rust to call a module.
//!
//! The server has core 0 and everything else core 1. So SoftHSM2 signs on one core as the server does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::load::{self, Protocol, Request};
use super::rig::{self, ADMIN, OPERATOR, Server};
use crate::steps::{cargo, run as run_command};
use crate::{metadata, setup};

/// How much is measured.
struct Plan {
    windows: &'static str,
    window_ms: &'static str,
    finds: usize,
    keys: usize,
}

const FULL: Plan = Plan { windows: "40", window_ms: "100", finds: 50, keys: 100_000 };
const QUICK: Plan = Plan { windows: "1", window_ms: "200", finds: 5, keys: 1_000 };

/// Ids of the keys that are signed with, and their members in `POST /keys/generate`.
const SIGNED_WITH: [(&str, &str); 3] = [
    ("RSA-2048", r#""type":"RSA","length":2048,"mechanisms":["RSA_Signature_PKCS1"]"#),
    ("P-256", r#""type":"EC_P256","mechanisms":["ECDSA_Signature"]"#),
    ("Ed25519", r#""type":"Curve25519","mechanisms":["EdDSA_Signature"]"#),
];

/// Measures and prints two tables, as Markdown: `--quick`, `--keys N`, and `signatures` or `keys` for one of them.
pub(super) fn run(args: &[&str]) -> Result<()> {
    let (mut plan, mut parts, mut rest) = (FULL, Vec::new(), args.iter());
    while let Some(arg) = rest.next() {
        match *arg {
            "--quick" => plan = QUICK,
            "--keys" => plan.keys = rest.next().and_then(|keys| keys.parse().ok()).context("--keys takes a number")?,
            part @ ("signatures" | "keys") => parts.push(part),
            other => bail!("no such argument of `bench pkcs11`: {other}"),
        }
    }
    setup::benchmark_packages()?;
    setup::system_packages()?;
    run_command(&mut cargo(&["build", "--release", "--locked", "-p", "casemate-server", "--bin", "casemated"]))?;
    // On its own, as it is installed: features apply to a whole build.
    run_command(&mut cargo(&[
        "build",
        "--release",
        "--locked",
        "-p",
        "casemate-pkcs11",
        "--lib",
        "--example",
        "bench",
    ]))?;
    let release = metadata::target_dir()?.join("release");
    print!("\n{}", rig::machine("softhsm2-util"));
    if parts.is_empty() || parts.contains(&"signatures") {
        signatures(&plan, &release)?;
    }
    if parts.is_empty() || parts.contains(&"keys") {
        keys(&plan, &release)?;
    }
    Ok(())
}

fn signatures(plan: &Plan, release: &Path) -> Result<()> {
    let server = Server::start(release, "signatures")?;
    server.provision()?;
    for (id, members) in SIGNED_WITH {
        server.generate(&format!("\"id\":\"{id}\",{members}"))?;
    }
    let files = Files::new(&server)?;
    println!("\n## Signatures through the PKCS#11 module\n");
    let mut load = files.load(release);
    run_command(load.args(["signatures", &server.address, OPERATOR.1, plan.windows, plan.window_ms]))?;
    println!(
        "\nModule, client and SoftHSM2 take turns in {} windows of {} ms. CPU: of the process that calls, for each signature; by CPU:\n\
         what the module would reach of the client's rate if nothing but this CPU time counted. Target: ≥ 80 %.",
        plan.windows, plan.window_ms
    );
    server.stop()
}

fn keys(plan: &Plan, release: &Path) -> Result<()> {
    let server = Server::start(release, "many")?;
    server.provision()?;
    let files = Files::new(&server)?;
    println!("\n## Searches by the PKCS#11 module among {} keys\n\n| | |\n|---|---|", plan.keys);
    println!("| of an HSM without keys: | |");
    run_command(files.load(release).arg("start"))?;
    let body = r#"{"type":"EC_P256","mechanisms":["ECDSA_Signature"]}"#.to_owned();
    let create = Request::post("/api/v1/keys/generate", body, ADMIN);
    load::run(&server, &create, Protocol::Http1, plan.keys.saturating_sub(plan.finds).max(64))?;
    for number in 0..plan.finds {
        server.generate(&format!(r#""label":"label {number}","type":"EC_P256","mechanisms":["ECDSA_Signature"]"#))?;
    }
    println!("| of the one with all keys: | |");
    run_command(files.load(release).arg("start"))?;
    run_command(files.load(release).args(["keys", &server.address, OPERATOR.1, &plan.finds.to_string()]))?;
    println!("\nMedians of {} searches, each for another key.", plan.finds);
    server.stop()
}

/// The configurations of both modules, and the token of SoftHSM2.
struct Files {
    folder: PathBuf,
}

impl Files {
    fn new(server: &Server) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("casemate-bench-{}-pkcs11", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("tokens"))?;
        let files = Self { folder };
        // Which certificate the server shows costs no request anything. The client has its fingerprint, and asks for it itself.
        let slot = format!(
            "[[slot]]\nlabel = \"bench\"\nhosts = [\"{}\"]\ninsecure = true\noperator = {{ user = \"{}\" }}\n",
            server.address, OPERATOR.0
        );
        fs::write(files.at("pkcs11.toml"), slot)?;
        let tokens = files.at("tokens");
        fs::write(files.at("softhsm2.conf"), format!("directories.tokendir = {}\n", tokens.display()))?;
        Ok(files)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The program that calls.
    fn load(&self, release: &Path) -> Command {
        let mut load = rig::on_core(1, &release.join("examples/bench"));
        load.env("CASEMATE_PKCS11_CONFIG", self.at("pkcs11.toml"));
        load.env("CASEMATE_PKCS11_LOG", "stderr");
        load.env("SOFTHSM2_CONF", self.at("softhsm2.conf")).env("SOFTHSM2_MODULE", SOFT_HSM);
        load
    }
}

/// The path on Debian and its derivatives.
const SOFT_HSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
