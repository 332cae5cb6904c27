//! Steps: what runs, how it ended, and how long it took.
//!
//! A step prints its name, lets its children write to the terminal, and ends in one line. The summary at the end is
//! printed whether or not a step failed.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The effect of a failed step on later ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// Stop at the first failure.
    Stop,
    /// Run all the others, and fail at the end.
    KeepGoing,
}

enum Outcome {
    Passed,
    Failed(anyhow::Error),
    Skipped(String),
}

struct Done {
    name: String,
    took: Duration,
    outcome: Outcome,
}

/// The steps of one run.
pub(crate) struct Steps {
    on_failure: OnFailure,
    began: Instant,
    done: Vec<Done>,
}

impl Steps {
    /// Runs `plan`, prints the summary, and fails if any step did.
    pub(crate) fn run(on_failure: OnFailure, plan: impl FnOnce(&mut Steps) -> Result<()>) -> Result<()> {
        let mut steps = Steps { on_failure, began: Instant::now(), done: Vec::new() };
        // A plan ends early only because a step failed, and that step is in the list.
        let ended = plan(&mut steps);
        steps.summary();
        let failed = steps.done.iter().filter(|done| matches!(done.outcome, Outcome::Failed(_))).count();
        match (failed, ended) {
            (0, ended) => ended,
            (1, _) => bail!("1 step failed"),
            (n, _) => bail!("{n} steps failed"),
        }
    }

    /// Runs one step. Returns an error only if the run is to stop here.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("== {name}");
        let began = Instant::now();
        let result = work();
        let took = began.elapsed();
        let (outcome, stop) = match result {
            Ok(()) => {
                println!("== {name}: ok, {}", human(took));
                (Outcome::Passed, false)
            }
            Err(error) => {
                println!("== {name}: FAILED, {}: {error:#}", human(took));
                (Outcome::Failed(error), self.on_failure == OnFailure::Stop)
            }
        };
        self.done.push(Done { name: name.to_owned(), took, outcome });
        if stop { bail!("stopped at {name}") } else { Ok(()) }
    }

    /// Prints that a step did not run, and why.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        println!("== {name}: SKIPPED: {why}");
        let outcome = Outcome::Skipped(why.to_owned());
        self.done.push(Done { name: name.to_owned(), took: Duration::ZERO, outcome });
    }

    fn summary(&self) {
        let width = self.done.iter().map(|done| done.name.len()).max().unwrap_or(0);
        println!("\nSummary");
        for done in &self.done {
            let (word, why) = match &done.outcome {
                Outcome::Passed => ("ok     ", String::new()),
                Outcome::Failed(error) => ("FAILED ", format!("  {error:#}")),
                Outcome::Skipped(why) => ("skipped", format!("  {why}")),
            };
            println!("  {word}  {:width$}  {:>8}{why}", done.name, human(done.took));
        }
        println!("  total    {:width$}  {:>8}", "", human(self.began.elapsed()));
    }
}

/// Runs `command`, printing it first; anything but exit code 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", spell(command));
    let status = command.status().with_context(|| format!("cannot start {}", spell(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", spell(command));
    }
    Ok(())
}

/// Whether `program args…` starts and ends with exit code 0; its output is discarded.
pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    let quiet = std::process::Stdio::null;
    let command = &mut Command::new(program);
    let command = command.args(args).stdin(quiet()).stdout(quiet()).stderr(quiet());
    command.status().is_ok_and(|status| status.success())
}

/// `cargo`, the one that runs this program, in the root of the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(crate::metadata::root());
    command
}

fn spell(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or(command.get_program()).to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

fn human(took: Duration) -> String {
    let seconds = took.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02} s", took.as_secs() / 60, took.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_stops_the_run_or_not_as_told() {
        let mut ran = 0;
        let mut plan = |steps: &mut Steps| -> Result<()> {
            steps.step("one", || bail!("broken"))?;
            ran += 1;
            Ok(())
        };
        assert!(Steps::run(OnFailure::Stop, &mut plan).is_err());
        assert!(Steps::run(OnFailure::KeepGoing, &mut plan).is_err());
        assert_eq!(ran, 1);
    }

    #[test]
    fn times_read_as_people_say_them() {
        assert_eq!(human(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(human(Duration::from_secs(185)), "3 min 05 s");
    }
}
