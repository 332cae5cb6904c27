//! `cargo xtask chaos`: nodes and members under load while they are killed and cut off from each other, for as long as one likes.
//! Runs tests of `casemate-server` in release mode, in their long form, and prints their figures.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::setup;
use crate::steps::{cargo, run};

/// One kind of trouble.
struct Part {
    name: &'static str,
    /// The binary of the test, and its name.
    binary: &'static str,
    test: &'static str,
    /// The variable that says how long it takes, and the option for that.
    length: (&'static str, &'static str),
}

const PARTS: [Part; 4] = [
    Part {
        name: "nodes",
        binary: "nodes",
        test: "what_clients_are_told_has_one_explanation_whatever_is_killed",
        length: ("CASEMATE_NODES_SECONDS", "--seconds"),
    },
    Part {
        name: "members",
        binary: "chaos",
        test: "what_clients_are_told_has_one_explanation_whatever_happens_to_members",
        length: ("CASEMATE_CHAOS_SECONDS", "--seconds"),
    },
    Part {
        name: "moves",
        binary: "crash",
        test: "moved::what_was_acknowledged_outlives_a_kill_while_the_store_moves",
        length: ("CASEMATE_MOVE_KILLS", "--kills"),
    },
    Part {
        name: "joins",
        binary: "chaos",
        test: "joins::a_join_that_is_killed_anywhere_ends_with_a_member_or_the_node_from_before",
        length: ("CASEMATE_JOIN_KILLS", "--kills"),
    },
];

/// `args` are names of parts, all if there is none, and `--seconds`, `--kills` and `--seed`, each with a number.
pub(crate) fn start(args: &[&str]) -> Result<()> {
    let mut options =
        [("--seconds", 600), ("--kills", 60), ("--seed", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())];
    let mut parts = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if let Some(part) = PARTS.iter().find(|part| part.name == *arg) {
            parts.push(part);
            continue;
        }
        let Some((_, number)) = options.iter_mut().find(|(option, _)| option == arg) else {
            bail!(
                "no such part or option: {arg}; there are nodes, members, moves, joins, --seconds, --kills and --seed"
            );
        };
        let value = args.next().with_context(|| format!("{arg} needs a number"))?;
        *number = value.parse().with_context(|| format!("{value} is not a number"))?;
    }
    if parts.is_empty() {
        parts.extend(&PARTS);
    }
    setup::etcd()?;
    for Part { name, binary, test, length } in parts {
        println!("\n## {name}\n");
        let mut command = cargo(&["test", "--release", "--locked", "-p", "casemate-server", "--test", *binary]);
        command.args(["--", "--nocapture", "--exact", *test]);
        for (option, number) in options {
            if option == length.1 {
                command.env(length.0, number.to_string());
            }
            if option == "--seed" {
                command.env("CASEMATE_NODES_SEED", number.to_string());
                command.env("CASEMATE_CHAOS_SEED", number.to_string());
            }
        }
        run(&mut command)?;
    }
    Ok(())
}
