//! Third-party code that we build: licences, versions, and on what grounds it is trusted.
//!
//! `deny.toml` is the only list of licences and bans. `tidy` reads it, without a network and within a second; `cargo
//! deny`, which takes minutes to build, reads it again and adds the database of advisories. `supply-chain/` lists every
//! package in `Cargo.lock`, in the format of `cargo vet`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::metadata::{self, list, text};
use crate::steps::cargo;

/// Adds violations to `broken`, a sentence each, and to `remarks` what merely deserves a look. `tree` is that of
/// [`metadata::Depth::Tree`].
pub(crate) fn judge(tree: &Value, broken: &mut Vec<String>, remarks: &mut Vec<String>) -> Result<()> {
    let rules = Rules::read(&read("deny.toml")?)?;
    let ours: Vec<&str> = list(tree, "workspace_members")?.iter().filter_map(Value::as_str).collect();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in list(tree, "packages")? {
        let name = text(package, "name")?;
        versions.entry(name).or_default().push(text(package, "version")?);
        if ours.contains(&text(package, "id")?) {
            not_to_be_used(package, &rules.bans, broken)?;
            continue;
        }
        match package.get("license").and_then(Value::as_str) {
            Some(expression) if permitted(expression, &rules.licences) => {}
            Some(expression) => broken.push(format!("{name} is under {expression}, which deny.toml does not allow")),
            None => remarks.push(format!("{name} has no SPDX licence: check its licence file")),
        }
    }
    let built = built()?;
    for ban in &rules.bans {
        let found = versions.get(ban.name.as_str()).map(Vec::as_slice).unwrap_or_default();
        if ban.second_version_only && found.len() > 1 {
            broken.push(format!("{} is used in {} versions: {}", ban.name, found.len(), found.join(", ")));
        }
        if !ban.second_version_only && built.contains(&ban.name) {
            broken.push(format!("{} must not be built in: {}", ban.name, ban.reason));
        }
    }
    record(
        &read("Cargo.lock")?,
        &[read("supply-chain/config.toml")?, read("supply-chain/audits.toml")?],
        broken,
        remarks,
    )
}

fn read(file: &str) -> Result<Value> {
    let text = fs::read_to_string(metadata::root().join(file)).with_context(|| file.to_owned())?;
    toml::from_str(&text).with_context(|| file.to_owned())
}

/// The part of `deny.toml` that `tidy` needs.
struct Rules {
    /// Permitted licences (SPDX) of what we ship.
    licences: Vec<String>,
    bans: Vec<Ban>,
}

/// A crate that must not be part of the product, or only in one version.
struct Ban {
    name: String,
    reason: String,
    /// The packages that may depend on it, for their tests.
    wrappers: Vec<String>,
    second_version_only: bool,
}

impl Rules {
    fn read(deny: &Value) -> Result<Self> {
        let licences = list(deny.get("licenses").context("no licenses")?, "allow")?;
        let bans = list(deny.get("bans").context("no bans")?, "deny")?;
        let ban = |entry: &Value| {
            let known = ["crate", "reason", "wrappers", "deny-multiple-versions"];
            let unknown = entry.as_object().into_iter().flatten().find(|(key, _)| !known.contains(&key.as_str()));
            ensure!(unknown.is_none(), "deny.toml: xtask/src/supply.rs does not know {unknown:?}");
            Ok(Ban {
                name: text(entry, "crate")?.to_owned(),
                reason: text(entry, "reason")?.to_owned(),
                wrappers: match entry.get("wrappers") {
                    Some(_) => list(entry, "wrappers")?.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                    None => Vec::new(),
                },
                second_version_only: entry.get("deny-multiple-versions") == Some(&Value::Bool(true)),
            })
        };
        Ok(Self {
            licences: licences.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            bans: bans.iter().map(ban).collect::<Result<_>>()?,
        })
    }
}

/// A package of ours depends on a banned crate, be it for its tests, only where the ban names it: as `cargo deny` has it.
fn not_to_be_used(package: &Value, bans: &[Ban], broken: &mut Vec<String>) -> Result<()> {
    let name = text(package, "name")?;
    for dependency in list(package, "dependencies")? {
        let used = text(dependency, "name")?;
        let ban = bans.iter().find(|ban| !ban.second_version_only && ban.name == used);
        if ban.is_some_and(|ban| !ban.wrappers.iter().any(|wrapper| wrapper == name)) {
            broken.push(format!("{name} uses {used}, and is not among its `wrappers` in deny.toml"));
        }
    }
    Ok(())
}

/// The packages in the product, from `cargo tree`; `cargo metadata` also lists optional packages that nothing enables.
fn built() -> Result<BTreeSet<String>> {
    let output = cargo(&["tree", "--workspace", "--locked", "--edges", "normal,build", "--target", "all"])
        .args(["--prefix", "none", "--format", "{p}"])
        .output()?;
    ensure!(output.status.success(), "cargo tree failed:\n{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    Ok(tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

/// Compares the lock file with the record of reviews: `config.toml` (exempted) and `audits.toml` (audited).
fn record(lock: &Value, records: &[Value], broken: &mut Vec<String>, remarks: &mut Vec<String>) -> Result<()> {
    let mut recorded: BTreeSet<(&str, &str)> = BTreeSet::new();
    let tables = records.iter().flat_map(|file| ["exemptions", "audits"].map(|table| file.get(table)));
    for (name, entries) in tables.flatten().filter_map(Value::as_object).flatten() {
        for entry in entries.as_array().into_iter().flatten() {
            recorded.insert((name, text(entry, "version")?));
        }
    }
    for package in list(lock, "package")? {
        let (name, version) = (text(package, "name")?, text(package, "version")?);
        // Our own packages have no source.
        if package.get("source").is_some() && !recorded.remove(&(name, version)) {
            broken.push(format!(
                "{name} {version} is not in the record: who makes it, and why is it trusted? In supply-chain/config.toml:\n\
                 [[exemptions.{name}]]\nversion = \"{version}\"\ncriteria = \"safe-to-deploy\"\nnotes = \"…\""
            ));
        }
    }
    let gone =
        recorded.iter().map(|(name, version)| format!("supply-chain/ has {name} {version}, which Cargo.lock does not"));
    remarks.extend(gone);
    Ok(())
}

/// Whether an SPDX expression can be met with `licences`. Parentheses group, `AND` binds tighter than `OR`.
fn permitted(expression: &str, licences: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = Words { words: spaced.split_whitespace().collect(), at: 0, licences };
    let met = words.any_of();
    met && words.at == words.words.len()
}

struct Words<'a> {
    words: Vec<&'a str>,
    at: usize,
    licences: &'a [String],
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.at += 1;
        self.words.get(self.at - 1).copied()
    }

    fn is_next(&self, word: &str) -> bool {
        self.words.get(self.at) == Some(&word)
    }

    fn any_of(&mut self) -> bool {
        let mut met = self.all_of();
        while self.is_next("OR") {
            self.at += 1;
            met |= self.all_of();
        }
        met
    }

    fn all_of(&mut self) -> bool {
        let mut met = self.one();
        while self.is_next("AND") {
            self.at += 1;
            met &= self.one();
        }
        met
    }

    fn one(&mut self) -> bool {
        let Some(word) = self.next() else { return false };
        if word == "(" {
            let met = self.any_of();
            return met & (self.next() == Some(")"));
        }
        let mut name = word.to_owned();
        if self.is_next("WITH") {
            self.at += 1;
            name = format!("{name} WITH {}", self.next().unwrap_or_default());
        }
        self.licences.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn licence_expressions_are_read_as_spdx_means_them() {
        let licences = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        for yes in
            ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "(MIT OR GPL-2.0) AND ISC", "Apache-2.0 WITH LLVM-exception"]
        {
            assert!(permitted(yes, &licences), "{yes}");
        }
        for no in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT", "", "MIT AND (GPL-2.0 OR EUPL-1.2)", "Apache-2.0"] {
            assert!(!permitted(no, &licences), "{no}");
        }
    }

    #[test]
    fn the_rules_are_those_of_deny_toml() {
        let rules = Rules::read(&read("deny.toml").unwrap()).unwrap();
        assert!(rules.licences.iter().any(|licence| licence == "MIT"));
        assert!(rules.bans.iter().any(|ban| ban.name == "openssl" && !ban.second_version_only));
        assert!(rules.bans.iter().any(|ban| ban.name == "zeroize" && ban.second_version_only));
        let unknown = json!({ "licenses": { "allow": [] }, "bans": { "deny": [{ "crate": "a", "version": "<1" }] } });
        assert!(Rules::read(&unknown).is_err());
    }

    #[test]
    fn only_the_packages_that_a_ban_names_use_its_crate_even_in_tests() {
        let ban = |name: &str, second_version_only| Ban {
            name: name.to_owned(),
            reason: String::new(),
            wrappers: vec!["core".to_owned()],
            second_version_only,
        };
        let bans = [ban("openssl", false), ban("zeroize", true)];
        let uses = [json!({ "name": "openssl", "kind": "dev" }), json!({ "name": "zeroize", "kind": null })];
        let mut broken = Vec::new();
        for name in ["core", "module"] {
            not_to_be_used(&json!({ "name": name, "dependencies": uses }), &bans, &mut broken).unwrap();
        }
        assert_eq!(broken, ["module uses openssl, and is not among its `wrappers` in deny.toml"]);
    }

    #[test]
    fn what_is_not_in_the_record_is_found_and_what_is_gone_is_remarked() {
        let lock = json!({ "package": [
            { "name": "ours", "version": "1.0.0" },
            { "name": "a", "version": "1.0.0", "source": "registry" },
            { "name": "a", "version": "2.0.0", "source": "registry" },
            { "name": "b", "version": "1.0.0", "source": "registry" },
        ]});
        let config = json!({ "exemptions": { "a": [{ "version": "1.0.0" }, { "version": "0.9.0" }] } });
        let audits = json!({ "audits": { "b": [{ "version": "1.0.0" }] } });
        let (mut broken, mut remarks) = (Vec::new(), Vec::new());
        record(&lock, &[config, audits], &mut broken, &mut remarks).unwrap();
        assert!(broken.len() == 1 && broken[0].starts_with("a 2.0.0 is not in the record"), "{broken:?}");
        assert_eq!(remarks, ["supply-chain/ has a 0.9.0, which Cargo.lock does not"]);
    }
}
