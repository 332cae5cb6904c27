//! `cargo xtask tidy`: the house rules that a machine can check.
//!
//! Every rule collects its findings, so that one run shows all of them. A finding fails the run; a remark does not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::metadata::{self, Depth, list, text};
use crate::rooms;
use crate::source::{before_tests, code_only, lines_naming};
use crate::supply;

/// What one of our crates may depend on (dev-dependencies are free: tests may use everything) and may not name in its
/// code.
struct House {
    /// Name of the package.
    package: &'static str,
    /// Its folder.
    folder: &'static str,
    /// Our crates that it may use.
    ours: &'static [&'static str],
    /// Third-party crates it may use; `None`: all but those in `never` and those that `deny.toml` bans.
    only: Option<&'static [&'static str]>,
    /// Third-party crates it may not use.
    never: &'static [&'static str],
    /// Paths that may not occur in its code.
    unsaid: &'static [&'static str],
}

const HOUSES: &[House] = &[
    House {
        package: "casemate-api",
        folder: "api",
        ours: &[],
        only: Some(&["serde", "zeroize", "schemars", "base64"]),
        never: &[],
        unsaid: &["std::fs", "std::env", "std::net", "std::io", "std::thread", "SystemTime::now", "Instant::now"],
    },
    House {
        package: "casemate-audit",
        folder: "audit",
        ours: &["casemate-api"],
        only: Some(&["aws-lc-rs", "base16ct", "rustls-pki-types", "serde", "serde_json", "thiserror"]),
        never: &[],
        unsaid: &["std::fs", "std::env", "std::net", "std::thread", "SystemTime::now", "Instant::now"],
    },
    House {
        package: "casemate-core",
        folder: "core",
        ours: &["casemate-api", "casemate-audit"],
        only: None,
        never: &["tokio", "hyper", "redb", "etcd-client", "rustls", "rustix", "tss-esapi", "rand", "getrandom", "clap"],
        unsaid: &[
            "tokio",
            "hyper",
            "std::fs",
            "std::env",
            // The addresses of `std::net` are plain values; the sockets are not.
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "ToSocketAddrs",
            "std::os",
            "std::process",
            "std::thread",
            "SystemTime",
            "Instant::now",
            "Timestamp::now",
        ],
    },
    // A driver: it carries opaque bytes, and whoever gives it keys and values has sealed them.
    House {
        package: "casemate-etcd",
        folder: "etcd",
        ours: &["casemate-api"],
        only: None,
        never: &["aws-lc-rs", "aws-lc-sys", "clap"],
        unsaid: &["std::env", "std::thread", "std::process"],
    },
    House {
        package: "casemate-server",
        folder: "server",
        ours: &["casemate-api", "casemate-audit", "casemate-core", "casemate-client", "casemate-etcd"],
        only: None,
        never: &["aws-lc-sys"],
        unsaid: &[],
    },
    House {
        package: "casemate-client",
        folder: "client",
        ours: &["casemate-api"],
        only: None,
        // Blocking and without threads: it must survive `fork` in any process that loads it.
        never: &["tokio", "hyper", "aws-lc-sys", "clap"],
        unsaid: &[
            "tokio",
            "std::thread::spawn",
            "thread::spawn",
            "thread::scope",
            "thread::Builder",
            "DefaultResolver",
        ],
    },
    House {
        package: "casemate-cli",
        folder: "cli",
        ours: &["casemate-api", "casemate-audit", "casemate-client"],
        only: None,
        // The client talks to the HSM: the command line makes no connections of its own.
        never: &["tokio", "hyper", "ureq", "rustls", "aws-lc-sys"],
        unsaid: &["TcpStream", "tokio", "println!", "eprintln!"],
    },
    House {
        package: "casemate-pkcs11",
        folder: "pkcs11",
        ours: &["casemate-api", "casemate-client"],
        only: None,
        // It is loaded into processes of others: no runtime, no threads, no arguments.
        never: &["tokio", "hyper", "ureq", "rustls", "aws-lc-sys", "clap"],
        unsaid: &[
            "tokio",
            "std::thread::spawn",
            "thread::spawn",
            "thread::scope",
            "thread::Builder",
            "println!",
            "eprintln!",
        ],
    },
    // No crate lists it in `ours`: it is for tests.
    House {
        package: "casemate-testkit",
        folder: "testkit",
        ours: &["casemate-api", "casemate-client"],
        only: None,
        never: &[],
        unsaid: &[],
    },
    House {
        package: "xtask",
        folder: "xtask",
        ours: &[],
        only: Some(&["anyhow", "proc-macro2", "serde_json", "syn", "toml"]),
        never: &[],
        unsaid: &[],
    },
];

/// The HTTP edge calls the core, which uses `Platform`: it does not access a store or a cluster itself.
const EDGE: (&str, &[&str]) =
    ("server/src/http", &["crate::store", "crate::cluster", "crate::device", "redb", "casemate_core::store"]);

/// The only files that may contain `unsafe`.
const UNSAFE: &[&str] =
    &["core/src/crypto/mech/ffi.rs", "server/src/process.rs", "pkcs11/src/functions.rs", "fuzz/src/pkcs11.rs"];

/// A file with more lines than this probably holds two ideas. Tables may be long.
const LINES_MAX: usize = 800;
const TABLES: &[&str] = &["server/src/http/endpoints.rs", "api/src/mechanisms.rs", "pkcs11/src/functions.rs"];

/// The numbered cases of the contract, and the test folders that refer to them.
const CASES: &str = "docs/contract.md";
const CASE_TESTS: &[&str] = &["server/tests", "client/tests", "cli/tests", "tests"];

/// Folders of Rust code.
const CODE: &[&str] =
    &["api", "audit", "core", "etcd", "server", "client", "cli", "pkcs11", "testkit", "xtask", "fuzz", "tests"];

/// Checks every rule.
pub(crate) fn all() -> Result<()> {
    let mut findings = Findings::default();
    let tree = metadata::read(Depth::Tree)?;
    dependencies(&tree, &mut findings)?;
    supply::judge(&tree, &mut findings.broken, &mut findings.remarks)?;
    manifests(&mut findings)?;
    for file in files(CODE, &["rs"])? {
        file_rules(&file, &mut findings);
    }
    cases(&mut findings)?;
    findings.broken.extend(rooms::broken()?);
    findings.report()
}

/// The findings of all rules.
#[derive(Default)]
struct Findings {
    broken: Vec<String>,
    remarks: Vec<String>,
}

impl Findings {
    fn report(self) -> Result<()> {
        for remark in &self.remarks {
            println!("remark: {remark}");
        }
        for broken in &self.broken {
            println!("broken: {broken}");
        }
        match self.broken.len() {
            0 => Ok(()),
            1 => bail!("1 house rule broken"),
            n => bail!("{n} house rules broken"),
        }
    }
}

/// Checks the dependencies of our crates.
fn dependencies(tree: &Value, findings: &mut Findings) -> Result<()> {
    let ours: Vec<&str> = list(tree, "workspace_members")?.iter().filter_map(Value::as_str).collect();
    for package in list(tree, "packages")? {
        let name = text(package, "name")?;
        if ours.contains(&text(package, "id")?) {
            match HOUSES.iter().find(|house| house.package == name) {
                Some(house) => directions(house, package, findings)?,
                None => findings.broken.push(format!("{name} has no rule in xtask/src/tidy.rs: add what it may use")),
            }
        }
    }
    Ok(())
}

fn directions(house: &House, package: &Value, findings: &mut Findings) -> Result<()> {
    for dependency in list(package, "dependencies")? {
        // `kind` is null for a normal dependency; tests may use anything.
        if dependency.get("kind").and_then(Value::as_str) == Some("dev") {
            continue;
        }
        let name = text(dependency, "name")?;
        let allowed = if HOUSES.iter().any(|house| house.package == name) || name.starts_with("casemate-") {
            house.ours.contains(&name)
        } else {
            house.only.is_none_or(|only| only.contains(&name)) && !house.never.contains(&name)
        };
        if !allowed {
            findings.broken.push(format!("{} must not depend on {name}", house.package));
        }
    }
    Ok(())
}

/// In a manifest, every third-party dependency has a comment with its purpose.
fn manifests(findings: &mut Findings) -> Result<()> {
    for house in HOUSES {
        let path = format!("{}/Cargo.toml", house.folder);
        let manifest = fs::read_to_string(metadata::root().join(&path)).with_context(|| path.clone())?;
        let mut section = "";
        for (number, line) in manifest.lines().enumerate() {
            if line.starts_with('[') {
                section = line.trim();
            }
            let silent = line.contains(" = ") && !line.contains('#') && !line.starts_with("casemate-");
            if section == "[dependencies]" && silent {
                findings.remarks.push(format!(
                    "{path}:{}: add a comment with its purpose ({})",
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    Ok(())
}

/// The rules for one source file.
fn file_rules(file: &Path, findings: &mut Findings) {
    let name = file.strip_prefix(metadata::root()).unwrap_or(file).to_string_lossy().into_owned();
    let Ok(source) = fs::read_to_string(file) else {
        findings.broken.push(format!("{name} is not readable as UTF-8"));
        return;
    };
    let code = code_only(&source);
    let mut finding = |line: usize, what: String| findings.broken.push(format!("{name}:{line}: {what}"));

    for mark in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")] {
        for line in lines_naming(&source, mark) {
            finding(line, format!("{mark}: resolve it, or open an issue"));
        }
    }
    for unfinished in ["todo!", "unimplemented!", "dbg!"] {
        for line in lines_naming(&code, unfinished) {
            finding(line, format!("{unfinished} is not for commits"));
        }
    }
    if !UNSAFE.contains(&name.as_str()) {
        for line in lines_naming(&code, "unsafe") {
            finding(line, format!("unsafe is allowed in {} only", UNSAFE.join(", ")));
        }
    }
    if name == LIMITS {
        for (line, bound) in limits_without_a_sharer(&source) {
            finding(line, format!("{bound}: say who shares it ('Shared by …', 'Each … has its own')"));
        }
    }
    let lines = source.lines().count();
    if lines > LINES_MAX && !TABLES.contains(&name.as_str()) {
        finding(lines, format!("{lines} lines: split the file by subject"));
    }
    if is_test(&name) {
        return;
    }
    let product = before_tests(&code);
    let house = HOUSES.iter().find(|house| name.starts_with(&format!("{}/src/", house.folder)));
    let edge = name.starts_with(EDGE.0).then_some(EDGE.1);
    for path in house.map(|house| house.unsaid).into_iter().chain(edge).flatten() {
        for line in lines_naming(product, path) {
            finding(line, format!("{path} may not be used here"));
        }
    }
}

/// The file of all limits.
const LIMITS: &str = "api/src/limits.rs";

/// Limits whose comment does not say who shares them, by line and name.
fn limits_without_a_sharer(source: &str) -> Vec<(usize, &str)> {
    let mut shared = false;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(source.lines()) {
        if let Some(comment) = line.strip_prefix("///") {
            shared |= ["hared by", "share it", "Each ", "each "].iter().any(|words| comment.contains(words));
        } else if let Some(rest) = line.strip_prefix("pub const ")
            && !std::mem::take(&mut shared)
        {
            found.push((number, rest.split(':').next().unwrap_or(rest)));
        }
    }
    found
}

/// A case that a test refers to by its number is in the list, and none is listed twice.
fn cases(findings: &mut Findings) -> Result<()> {
    let list = fs::read_to_string(metadata::root().join(CASES)).context(CASES)?;
    let mut listed = BTreeSet::new();
    for case in list.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |")?.0.parse::<u32>().ok()) {
        if !listed.insert(case) {
            findings.broken.push(format!("{CASES}: case {case} is listed twice"));
        }
    }
    for file in files(CASE_TESTS, &["rs", "py"])? {
        let name = file.strip_prefix(metadata::root()).unwrap_or(&file).display();
        let source = fs::read_to_string(&file).with_context(|| name.to_string())?;
        for (line, case) in cases_named(&source).into_iter().filter(|(_, case)| !listed.contains(case)) {
            findings.broken.push(format!("{name}:{line}: case {case} is not in {CASES}"));
        }
    }
    Ok(())
}

/// The numbers of cases in `source`, by line: `Case 30`, `Cases 1 to 3, 13 and 17`, `.case(30, 404)`.
fn cases_named(source: &str) -> Vec<(usize, u32)> {
    let mut found = Vec::new();
    for (line, text) in (1..).zip(source.lines()) {
        // A call names one case; the number after it is a status.
        let called = text.split("case(").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok());
        found.extend(called.map(|case| (line, case)));
        let text = text.replace("case(", "(").to_ascii_lowercase();
        let (mut naming, mut range, mut last) = (false, false, 0);
        for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
            match word.parse() {
                Ok(case) if naming => {
                    let first = if range { last + 1 } else { case };
                    found.extend((first..=case).map(|case| (line, case)));
                    (range, last) = (false, case);
                }
                _ => {
                    naming = matches!(word, "case" | "cases") || naming && matches!(word, "and" | "to");
                    range = word == "to";
                }
            }
        }
    }
    found
}

/// Whether a file contains only tests.
fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/") || name.contains("/benches/")
}

/// Every file in `folders`, at any depth, with one of `extensions`, sorted.
fn files(folders: &[&str], extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| metadata::root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted)) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_limit_without_a_sharer_is_found() {
        let source =
            "/// One.\npub const A: u8 = 1;\n/// Two. Shared by all.\npub const B: u8 = 2;\npub const C: u8 = 3;\n";
        assert_eq!(limits_without_a_sharer(source), [(2, "A"), (5, "C")]);
    }

    #[test]
    fn numbers_of_cases_are_found_in_comments_and_calls() {
        let named = |text: &str| cases_named(text).into_iter().map(|(_, case)| case).collect::<Vec<_>>();
        assert_eq!(named("/// Cases 1 to 4, 13, 17 and 19 to 20."), [1, 2, 3, 4, 13, 17, 19, 20]);
        assert_eq!(named(r#"get(path).case(7, 204).case(8, 204); assert!(x, "case 9: {reply}");"#), [7, 8, 9]);
        assert_eq!(named("In any case the 404 is not one, nor is lowercase 5. # Case 6"), [6]);
        assert_eq!(named("/// Case 23 and 24 hours, from 9 to 17."), [23, 24]);
        assert_eq!(cases_named("\n\ncase 5"), [(3, 5)]);
    }

    #[test]
    fn a_wrong_direction_is_found_and_dev_dependencies_are_free() {
        let core = HOUSES.iter().find(|house| house.package == "casemate-core").unwrap();
        let package = json!({ "dependencies": [
            { "name": "tokio", "kind": null }, { "name": "casemate-server", "kind": null },
            { "name": "casemate-api", "kind": null }, { "name": "openssl", "kind": "dev" },
        ]});
        let mut findings = Findings::default();
        directions(core, &package, &mut findings).unwrap();
        assert_eq!(findings.broken.len(), 2, "{:?}", findings.broken);
    }
}
