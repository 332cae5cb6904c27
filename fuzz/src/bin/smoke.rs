//! `smoke SECONDS [SEED]`: runs every target with mutations of its seeds, each for an equal share of the time.
//!
//! Works with the stable compiler and without coverage feedback: it finds what is easy to find, reproducibly. A failure
//! names the target and the seed of the run and leaves the input in `fuzz/artifacts/`; `smoke FILE` runs one such file.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use casemate_fuzz::{TARGETS, Target};

/// Time limit for one input of a few kilobytes, in a debug build on a slow machine.
const SLOW: Duration = Duration::from_secs(10);
const INPUT_MAX: usize = 1 << 14;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [seconds] if seconds.parse::<u64>().is_ok() => all(seconds.parse().unwrap_or(1), 1),
        [seconds, seed] => all(seconds.parse().unwrap_or(1), seed.parse().unwrap_or(1)),
        [file] => one(Path::new(file)),
        _ => {
            eprintln!("smoke SECONDS [SEED] | smoke FILE (in a folder named after its target)");
            ExitCode::FAILURE
        }
    }
}

/// Runs every target for its share of `seconds`.
fn all(seconds: u64, seed: u64) -> ExitCode {
    // The hook would print a backtrace for each panic; the report below is enough.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let share = Duration::from_secs(seconds) / u32::try_from(TARGETS.len()).unwrap_or(1);
    for target in TARGETS {
        match mutate(target, share, seed) {
            Ok(runs) => println!("{:>10}  {runs} inputs, seed {seed}", target.0),
            Err((file, why)) => {
                eprintln!(
                    "{}: {why}, seed {seed}\n  again: cargo run --manifest-path fuzz/Cargo.toml --bin smoke -- {}",
                    target.0,
                    file.display()
                );
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Runs one saved input.
fn one(file: &Path) -> ExitCode {
    let folder = file.parent().and_then(Path::file_name).unwrap_or_default();
    let target = TARGETS.iter().find(|(name, _)| folder == *name);
    match (target, fs::read(file)) {
        (Some((_, run)), Ok(bytes)) => {
            run(&bytes);
            println!("holds");
            ExitCode::SUCCESS
        }
        (None, _) => {
            eprintln!("no target named after the folder of {}", file.display());
            ExitCode::FAILURE
        }
        (_, Err(error)) => {
            eprintln!("{}: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}

/// Runs the seeds of a target unchanged, then mutations of them until `share` is over. Returns the number of runs.
fn mutate((name, run): &Target, share: Duration, seed: u64) -> Result<u64, (PathBuf, &'static str)> {
    let seeds = seeds(name);
    let mut chance = Chance(seed);
    let began = Instant::now();
    let mut runs = 0;
    while began.elapsed() < share || runs < seeds.len() as u64 {
        let input = match usize::try_from(runs).ok().and_then(|run| seeds.get(run)) {
            Some(seed) => seed.clone(),
            None => chance.mutation(&seeds),
        };
        let started = Instant::now();
        let held = catch_unwind(AssertUnwindSafe(|| run(&input))).is_ok();
        let why = if !held {
            "a property does not hold"
        } else if started.elapsed() > SLOW {
            "an input took too long"
        } else {
            runs += 1;
            continue;
        };
        return Err((keep(name, &input), why));
    }
    Ok(runs)
}

/// The files of `seeds/<name>`, sorted; at least one.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()).collect();
    files.sort();
    let read: Vec<Vec<u8>> = files.iter().filter_map(|file| fs::read(file).ok()).collect();
    assert!(!read.is_empty(), "seeds/{name} is empty");
    read
}

fn keep(name: &str, input: &[u8]) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts").join(name);
    let file = folder.join("smoke");
    if let Err(error) = fs::create_dir_all(&folder).and_then(|()| fs::write(&file, input)) {
        eprintln!("{}: {error}\ninput: {input:02x?}", file.display());
    }
    file
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same numbers everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, or 0 if `limit` is 0.
    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        self.next().checked_rem(limit).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
    }

    /// One to eight changes to one of the seeds.
    fn mutation(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.one_of(seeds).clone();
        for _ in 0..=self.below(8) {
            self.change(&mut input, seeds);
        }
        input.truncate(INPUT_MAX);
        input
    }

    fn one_of<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = at + self.below((input.len() - at).min(64) + 1);
        match self.below(8) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..end)),
            2 => drop(input.splice(at..at, TOKENS[self.below(TOKENS.len())].iter().copied())),
            3 => drop(input.splice(at..end, TOKENS[self.below(TOKENS.len())].iter().copied())),
            4 => {
                let piece = input[at..end].to_vec();
                drop(input.splice(at..at, piece));
            }
            5 => {
                let other = self.one_of(seeds);
                let from = self.below(other.len() + 1);
                drop(input.splice(at..end, other[from..].iter().copied().take(256)));
            }
            6 => {
                let bit = 1 << self.below(8);
                input.get_mut(at).into_iter().for_each(|byte| *byte ^= bit);
            }
            _ => {
                let new = self.next().to_le_bytes()[0];
                input.get_mut(at).into_iter().for_each(|byte| *byte = new);
            }
        }
    }
}

/// Tokens of the parsed formats, and bytes that parsers often mishandle.
const TOKENS: &[&[u8]] = &[
    b"",
    b"\0",
    b"\xff",
    b"\xc3\xbc",
    b"\xed\xa0\x80",
    b"\r\n",
    b"\n",
    b" ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[[[[[[[[",
    b"{\"a\":",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b":",
    b",",
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"18446744073709551616",
    b"//",
    b"/*",
    b"*/",
    b"/",
    b"~",
    b"%",
    b"%2F",
    b"%7e",
    b"%00",
    b"*",
    b";",
    b";q=0",
    b"q=",
    b"=",
    b"==",
    b"AAAA",
    b"Basic ",
    b"--",
    b"-----BEGIN ",
    b"-----END PRIVATE KEY-----",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x02\x00",
    b"\x30\x80",
    b"\x00\x00",
];
