//! `cargo xtask`: the single entry point for development tasks.
//!
//! Every task is a function over [`steps::Steps`], which prints what runs, how long it took, and what to do when
//! something is missing. There are no shell scripts or other tools to learn.

mod bench;
mod chaos;
mod check;
mod compat;
mod fuzz;
mod listing;
mod metadata;
mod rooms;
mod setup;
mod siege;
mod source;
mod steps;
mod supply;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::steps::{OnFailure, Steps};

const HELP: &str = "\
cargo xtask COMMAND

  check                 formatting, clippy, house rules, unit tests, documentation: before every commit
  test [--keep-going]   everything CI runs; installs missing apt and Python packages and etcd, and prints which
  tidy                  the house rules alone: who may depend on whom, licences, supply chain, unsafe, file sizes
  tidy --rooms          which room of the core uses which, and all circles, of rooms and of files
  compat [PYTEST ARGS]  real clients (nitropy, Python SDK, curl, OpenSSL, schemathesis) against a running casemated, and,
                        without arguments, nitropy's tour of a cluster in network namespaces
  etcd                  builds the etcd that some tests start; needed once before `cargo test` by hand
  fuzz                  20 seconds of seeded mutations on every parser, with the stable compiler
  fuzz TARGET [ARGS]    one target under cargo-fuzz (nightly), until it is interrupted
  bench [ARGS]          the performance table
  chaos [PARTS]         nodes and members under load while they are killed and cut off: nodes, members (--seconds N), moves,
                        joins (--kills N); --seed N
  siege [COUNT]         hostile requests, a million by default, and their effect on an honest client
  policy                who may call what, in which state, as a table
  openapi               the OpenAPI document that casemated serves
  mechanisms            key types and what they can do, as a table
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["check"] => Steps::run(OnFailure::Stop, check::all),
        ["test"] => Steps::run(OnFailure::Stop, test::all),
        ["test", "--keep-going"] => Steps::run(OnFailure::KeepGoing, test::all),
        ["tidy"] => Steps::run(OnFailure::Stop, |steps| steps.step("tidy", tidy::all)),
        ["tidy", "--rooms"] => rooms::print(),
        ["compat", rest @ ..] => Steps::run(OnFailure::Stop, |steps| compat::all(steps, rest)),
        ["etcd"] => Steps::run(OnFailure::Stop, |steps| steps.step("etcd", setup::etcd)),
        ["fuzz"] => Steps::run(OnFailure::Stop, |steps| steps.step("fuzz smoke", fuzz::smoke)),
        ["fuzz", target, rest @ ..] => fuzz::libfuzzer(target, rest),
        ["bench", rest @ ..] => bench::run(rest),
        ["chaos", rest @ ..] => chaos::start(rest),
        ["siege", rest @ ..] => siege::start(rest),
        [listing @ ("policy" | "openapi" | "mechanisms")] => listing::print(listing),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        other => bail!("no such command: {}\n\n{HELP}", other.join(" ")),
    }
}
