//! The cost of a request in user-space instructions, which depends neither on other load nor on the clock of the
//! processor.
//!
//! The server runs under callgrind, once for few requests and once for more: start, set-up and logins are the same in
//! both runs, so the difference is that of the requests alone. Callgrind counts a byte wiped by `rep stosb` as one
//! instruction.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Row;
use super::load::{self, Protocol};
use super::rig::{Scratch, Server};
use crate::setup;

/// Requests of the two runs.
const FEW: usize = 200;
const MORE: usize = 1_200;

/// The signature function of AWS-LC.
const SIGNATURE: &str = "ECDSA_sign";

/// Counts and prints the instructions of a request of `row`, an ECDSA signature over HTTP/1.1.
pub(super) fn measure(release: &Path, row: &Row) -> Result<()> {
    println!("\n## Instructions of a {} request\n", row.name);
    if let Err(why) = setup::valgrind() {
        println!("NOT MEASURED: valgrind is missing: {why:#}");
        return Ok(());
    }
    let (few, more) = (count(release, row, FEW)?, count(release, row, MORE)?);
    let each = |few: u64, more: u64| more.saturating_sub(few) / (MORE - FEW) as u64;
    let (all, signature) = (each(few.all, more.all), each(few.signature, more.signature));
    ensure!(all > signature && signature > 0, "callgrind saw {signature} of {all} instructions in {SIGNATURE}");
    println!("| the server, beside the ECDSA | the ECDSA itself |\n|---|---|");
    println!("| {} | {} |", thousands(all - signature), thousands(signature));
    println!("\nUser space, HTTP/1.1, 32 connections; the kernel's part is not counted.");
    Ok(())
}

/// Instructions of one run of the server.
struct Counted {
    all: u64,
    signature: u64,
}

fn count(release: &Path, row: &Row, requests: usize) -> Result<Counted> {
    let file = Scratch::new("callgrind");
    let out = format!("--callgrind-out-file={}", file.text());
    let server = Server::start_under(&["valgrind", "--quiet", "--tool=callgrind", &out], release, "instructions")?;
    server.provision()?;
    server.generate(&format!("\"id\":\"{}\",{}", row.name, row.key))?;
    load::run(&server, &row.request(), Protocol::Http1, requests)?;
    server.stop()?;
    let profile = fs::read_to_string(file.path()).context("callgrind wrote no profile")?;
    let mut annotate = Command::new("callgrind_annotate");
    let output = annotate.args(["--inclusive=yes", "--threshold=100"]).arg(file.path()).output()?;
    let functions = String::from_utf8_lossy(&output.stdout);
    Ok(Counted {
        all: all(&profile).context("a profile without totals")?,
        signature: inclusive(&functions, SIGNATURE).with_context(|| format!("no {SIGNATURE} in the profile"))?,
    })
}

/// `totals: 123`, or `summary: 123` if that is missing.
fn all(profile: &str) -> Option<u64> {
    let number = |name: &str| profile.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    number("totals:").or_else(|| number("summary:"))
}

/// `1,234 (5.6%) file:function [object]`, where the function's name has a prefix with the library's version.
fn inclusive(functions: &str, name: &str) -> Option<u64> {
    let is_it =
        |line: &&str| line.split(['[', ' ', ':', '\'']).any(|word| word.ends_with(&format!("_{name}")) || word == name);
    let figure = |line: &str| line.trim_start().split(' ').next()?.replace(',', "").parse().ok();
    functions.lines().filter(is_it).filter_map(figure).max()
}

/// `61000` as `61,000`.
fn thousands(number: u64) -> String {
    match number / 1000 {
        0 => number.to_string(),
        high => format!("{},{:03}", thousands(high), number % 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_off_a_profile() {
        assert_eq!(all("events: Ir\nfn=(1) main\nsummary: 12\ntotals: 13\n"), Some(13));
        assert_eq!(all("summary: 12\n"), Some(12));
        let functions = "\
            9,999,999 (100.0%)  PROGRAM TOTALS\n\
            1,234,567 (12.35%)  ???:aws_lc_0_47_0_ECDSA_sign [/casemated]\n  \
            12,345 ( 0.12%)  ???:aws_lc_0_47_0_ECDSA_sign_setup [/casemated]\n";
        assert_eq!(inclusive(functions, "ECDSA_sign"), Some(1_234_567));
        assert_eq!(inclusive(functions, "RSA_sign"), None);
        assert_eq!(["7", "61,000", "1,002,003"], [7, 61_000, 1_002_003].map(thousands).each_ref().map(String::as_str));
    }
}
