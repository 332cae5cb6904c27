//! What a shared store in etcd costs, and how fast changes and failures get through to other nodes. Real `casemated` and real
//! etcd on this machine; prints tables in Markdown. A benchmark: no figure fails it.
//!
//! ```text
//! cargo xtask bench etcd     # builds all of it in release mode and runs it
//! ```

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a tool beside the product: it lives in real time and prints, and whatever goes wrong ends it"
)]

mod creation;
mod failover;
mod keys;
mod members;
mod node;
mod partition;
mod process;
mod revocation;
mod signature;
mod times;

use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How much is measured.
struct Plan {
    /// Windows of signatures at each of the two stores, and the signatures in one.
    windows: usize,
    signatures: usize,
    /// Windows of creations at each store, and their duration.
    creation_windows: usize,
    creation_window: Duration,
    /// Keys of the store that is listed and backed up.
    keys: usize,
    /// Revocations of each kind.
    revocations: usize,
    /// Kills of each kind of member.
    kills: usize,
    /// Times that the leader is cut off with each kind of settings, and for how long.
    cuts: usize,
    cut: Duration,
}

const FULL: Plan = Plan {
    windows: 25,
    signatures: 5_000,
    creation_windows: 5,
    creation_window: Duration::from_secs(4),
    keys: 1_000_000,
    revocations: 100,
    kills: 6,
    cuts: 3,
    cut: Duration::from_secs(30),
};
const QUICK: Plan = Plan {
    windows: 3,
    signatures: 200,
    creation_windows: 1,
    creation_window: Duration::from_millis(500),
    keys: 2_000,
    revocations: 3,
    kills: 1,
    cuts: 1,
    cut: Duration::from_secs(10),
};

/// A part of the benchmark.
type Part = (&'static str, fn(&Plan));

const PARTS: &[Part] = &[
    ("signature", signature::measure),
    ("creation", creation::measure),
    ("keys", keys::measure),
    ("revocation", revocation::measure),
    ("failover", failover::measure),
    ("partition", partition::measure),
];

fn main() -> ExitCode {
    let (plan, parts) = match read(std::env::args().skip(1)) {
        Ok(what) => what,
        Err(why) => {
            println!("{why}");
            return ExitCode::FAILURE;
        }
    };
    println!(
        "\nServers, clients and all members of etcd share this machine's {} cores and one disk.",
        process::cores().len()
    );
    println!("Load average before: {}", process::load_average());
    for (name, measure) in parts {
        let begun = Instant::now();
        measure(&plan);
        println!("\n({name}: {:.0?}; load average {})", begun.elapsed(), process::load_average());
    }
    ExitCode::SUCCESS
}

/// What is to be measured; `Err` is a sentence.
fn read(mut args: impl Iterator<Item = String>) -> Result<(Plan, Vec<Part>), String> {
    let mut plan = FULL;
    let mut keys = None;
    let mut parts: Vec<Part> = Vec::new();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => plan = QUICK,
            "--keys" => match args.next().map(|number| number.parse()) {
                Some(Ok(number)) => keys = Some(number),
                _ => return Err("--keys needs a number".into()),
            },
            name => match PARTS.iter().find(|(part, _)| *part == name) {
                Some(part) => parts.push(*part),
                None => return Err(format!("{name} is no part of the benchmark: see `cargo xtask bench --help`")),
            },
        }
    }
    plan.keys = keys.unwrap_or(plan.keys);
    if parts.is_empty() {
        parts = PARTS.to_vec();
    }
    Ok((plan, parts))
}
