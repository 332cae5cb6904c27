//! What becoming a cluster, growing it and losing a member costs. Real `casemated`, each with an etcd of its own, on this machine;
//! prints tables in Markdown. A benchmark: no figure fails it.
//!
//! ```text
//! cargo xtask bench cluster     # builds all of it in release mode and runs it
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

mod failover;
mod growth;
mod member;
#[allow(dead_code, reason = "the other benchmark uses the rest")]
#[path = "../etcd/process.rs"]
mod process;
#[allow(dead_code, reason = "the other benchmark uses the rest")]
#[path = "../etcd/times.rs"]
mod times;

use std::process::ExitCode;
use std::time::Instant;

/// How much is measured.
struct Plan {
    /// How many keys there are when a node becomes a cluster, one measurement for each number.
    keys: Vec<usize>,
    /// Kills of each kind of member.
    kills: usize,
}

fn main() -> ExitCode {
    let mut plan = Plan { keys: vec![0, 100_000, 1_000_000], kills: 8 };
    let mut parts = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => plan = Plan { keys: vec![0, 1_000], kills: 1 },
            "--keys" => match args.next().and_then(|number| number.parse().ok()) {
                Some(number) => plan.keys = vec![number],
                None => return wrong("--keys needs a number"),
            },
            "growth" | "failover" => parts.push(arg),
            other => return wrong(&format!("{other} is no part of the benchmark: there are growth and failover")),
        }
    }
    let is_wanted = |part: &str| parts.is_empty() || parts.iter().any(|one| one == part);
    println!(
        "\nAll nodes, their etcds and the clients share this machine's {} cores and one disk.",
        process::cores().len()
    );
    println!("Load average before: {}", process::load_average());
    let begun = Instant::now();
    if is_wanted("failover") {
        failover::measure(plan.kills);
    }
    if is_wanted("growth") {
        growth::measure(&plan.keys);
    }
    println!("\n({:.0?}; load average {})", begun.elapsed(), process::load_average());
    ExitCode::SUCCESS
}

fn wrong(why: &str) -> ExitCode {
    println!("{why}");
    ExitCode::FAILURE
}
