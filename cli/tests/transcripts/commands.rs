//! The commands there are, as `casemate --help` tells, and those that transcripts show.

use std::collections::BTreeSet;
use std::process::Command;

/// All commands.
pub(crate) struct Tree {
    /// Those that do something, such as `key tag add`.
    pub(crate) leaves: BTreeSet<String>,
    /// Options before or among them that take a value.
    valued: BTreeSet<String>,
}

impl Tree {
    /// Asks the program, and each command that has commands.
    pub(crate) fn of_casemate() -> Self {
        let mut tree = Tree { leaves: BTreeSet::new(), valued: BTreeSet::new() };
        let mut groups = vec![Vec::new()];
        while let Some(path) = groups.pop() {
            let help = help(&path);
            tree.valued.extend(valued(&help));
            let below = subcommands(&help);
            if below.is_empty() {
                tree.leaves.insert(path.join(" "));
            }
            groups.extend(below.into_iter().map(|name| [&path[..], &[name]].concat()));
        }
        assert!(tree.leaves.contains("key generate") && tree.leaves.contains("user tag add"), "{:?}", tree.leaves);
        assert!(tree.valued.contains("--profile"), "{:?}", tree.valued);
        tree
    }

    /// The commands these documents show a run of that succeeds.
    pub(crate) fn shown_in(&self, documents: &[String]) -> BTreeSet<String> {
        let mut shown = BTreeSet::new();
        for document in documents {
            let mut lines = document.lines().peekable();
            while let Some(line) = lines.next() {
                let Some(line) = line.strip_prefix("$ ") else { continue };
                let mut line = line.to_owned();
                while let Some(more) = lines.next_if(|line| line.starts_with("> ")) {
                    line.push_str(&more[1..]);
                }
                if !lines.peek().is_some_and(|line| line.starts_with("? ")) {
                    shown.extend(line.split(" | ").filter_map(|part| self.command(part)));
                }
            }
        }
        shown
    }

    /// The command of a line, without options and arguments.
    fn command(&self, line: &str) -> Option<String> {
        let mut words = line.split_ascii_whitespace().skip_while(|word| *word != "casemate").skip(1);
        let mut path = String::new();
        while let Some(word) = words.next() {
            if self.valued.contains(word) {
                words.next();
            } else if !word.starts_with('-') {
                path = if path.is_empty() { word.to_owned() } else { format!("{path} {word}") };
                if self.leaves.contains(&path) {
                    return Some(path);
                }
            }
        }
        None
    }
}

fn help(path: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_casemate")).args(path).arg("--help").env_clear().output().unwrap();
    assert!(output.status.success(), "{path:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The names below "Commands:".
fn subcommands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // Deeper lines go on with a description.
    let names = lines.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    names.filter_map(|line| line.split(' ').next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The options that are followed by a value.
fn valued(help: &str) -> Vec<String> {
    let mut options = Vec::new();
    for line in help.lines().filter(|line| line.trim_start().starts_with('-')) {
        let words: Vec<_> = line.split_ascii_whitespace().take(3).collect();
        if let Some(at) = words.iter().position(|word| word.starts_with('<')) {
            options.extend(words[..at].iter().map(|word| word.trim_end_matches(',').to_owned()));
        }
    }
    options
}
