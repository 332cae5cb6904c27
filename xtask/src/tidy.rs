//! `cargo xtask tidy`: the house rules that a machine can check. A rule that is not checked is a wish.
//!
//! Every rule collects what it finds, so that one run shows all of it. A finding fails the run; a remark does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::metadata::{self, Depth, list, text};
use crate::rooms;
use crate::source::{before_tests, code_only, lines_naming};
use crate::steps::cargo;

/// What a crate of ours may depend on (dev-dependencies are free: tests may see everything) and may not name in its code.
struct House {
    /// Name of the package.
    package: &'static str,
    /// Its folder.
    folder: &'static str,
    /// The crates of ours it may use.
    ours: &'static [&'static str],
    /// The foreign crates it may use; `None` is any but those in [`BANNED`] and `never`.
    only: Option<&'static [&'static str]>,
    /// Foreign crates it may not use.
    never: &'static [&'static str],
    /// Paths that may not stand in its code.
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
        package: "casemate-core",
        folder: "core",
        ours: &["casemate-api"],
        only: None,
        never: &["tokio", "hyper", "redb", "etcd-client", "rustls", "rustix", "tss-esapi", "rand", "getrandom", "clap"],
        unsaid: &[
            "tokio",
            "hyper",
            "std::fs",
            "std::env",
            // Of `std::net` the addresses are mere values; the sockets are not.
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
    House {
        package: "casemate-server",
        folder: "server",
        ours: &["casemate-api", "casemate-core", "casemate-client"],
        only: None,
        never: &["aws-lc-sys"],
        unsaid: &[],
    },
    House {
        package: "casemate-client",
        folder: "client",
        ours: &["casemate-api"],
        only: None,
        // Blocking and without threads: it must survive `fork` in whatever process loads it.
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
        ours: &["casemate-api", "casemate-client"],
        only: None,
        // What talks to the HSM is the client: the command line makes no connection of its own.
        never: &["tokio", "hyper", "ureq", "rustls", "aws-lc-sys"],
        unsaid: &["TcpStream", "tokio", "println!", "eprintln!"],
    },
    // No house names it among its own: it is for tests.
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
        only: Some(&["anyhow", "proc-macro2", "serde_json", "syn"]),
        never: &[],
        unsaid: &[],
    },
];

/// The HTTP edge calls the core, which asks `Platform`: it reaches neither a store nor a cluster itself.
const EDGE: (&str, &[&str]) =
    ("server/src/http", &["crate::store", "crate::cluster", "crate::device", "redb", "casemate_core::store"]);

/// Crates that nothing may bring in, and why.
const BANNED: &[(&str, &str)] = &[
    ("ring", "AWS-LC is our one TLS and AEAD provider"),
    ("openssl", "it is a second opinion in tests, never part of the product"),
    ("native-tls", "rustls is our TLS"),
    ("rsa", "RUSTSEC-2023-0071: its private operations leak timing"),
    ("serde_yaml", "unmaintained"),
];

/// Crates of which two versions side by side would mean two implementations of the same secret-bearing thing.
const ONE_VERSION: &[&str] = &["aws-lc-rs", "aws-lc-sys", "k256", "rustls", "subtle", "zeroize", "der", "pkcs8"];

/// Licences (SPDX) of what we ship.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "OpenSSL",
    "MIT-0",
    "BSL-1.0",
    "Unlicense",
    "CDLA-Permissive-2.0",
];

/// The only files that may hold `unsafe`.
const UNSAFE: &[&str] = &["core/src/mech/ffi.rs", "server/src/process.rs", "pkcs11/src/functions.rs"];

/// Above this many lines a second idea has moved into a file. Tables may be long.
const LINES_MAX: usize = 800;
const TABLES: &[&str] = &["server/src/http/endpoints.rs", "api/src/mechanisms.rs"];

/// Folders of Rust code.
const CODE: &[&str] = &["api", "core", "server", "client", "cli", "pkcs11", "testkit", "xtask", "fuzz", "tests"];

/// Checks every rule.
pub(crate) fn all() -> Result<()> {
    let mut findings = Findings::default();
    let tree = metadata::read(Depth::Tree)?;
    dependencies(&tree, &mut findings)?;
    manifests(&mut findings)?;
    for file in rust_files()? {
        file_rules(&file, &mut findings);
    }
    findings.broken.extend(rooms::broken()?);
    findings.report()
}

/// What the rules found.
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

/// Who depends on whom, under which licence, in how many versions.
fn dependencies(tree: &Value, findings: &mut Findings) -> Result<()> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let ours: Vec<&str> = list(tree, "workspace_members")?.iter().filter_map(Value::as_str).collect();
    for package in list(tree, "packages")? {
        let name = text(package, "name")?;
        versions.entry(name).or_default().push(text(package, "version")?);
        if ours.contains(&text(package, "id")?) {
            match HOUSES.iter().find(|house| house.package == name) {
                Some(house) => directions(house, package, findings)?,
                None => findings.broken.push(format!("{name} has no rule in xtask/src/tidy.rs: say what it may use")),
            }
        } else {
            licence(package, name, findings);
        }
    }
    for name in ONE_VERSION {
        if let Some(found) = versions.get(name).filter(|found| found.len() > 1) {
            findings.broken.push(format!("{name} is there in {} versions: {}", found.len(), found.join(", ")));
        }
    }
    banned(findings)
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

/// What ends up in the product. `cargo tree` knows; `cargo metadata` also lists optional packages that nothing enables.
fn banned(findings: &mut Findings) -> Result<()> {
    let output = cargo(&["tree", "--workspace", "--locked", "--edges", "normal,build", "--target", "all"])
        .args(["--prefix", "none", "--format", "{p}"])
        .output()?;
    ensure!(output.status.success(), "cargo tree failed:\n{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    let built: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    for (name, why) in BANNED.iter().filter(|(name, _)| built.contains(name)) {
        findings.broken.push(format!("{name} must not be built in: {why}"));
    }
    Ok(())
}

fn licence(package: &Value, name: &str, findings: &mut Findings) {
    match package.get("license").and_then(Value::as_str) {
        Some(expression) if permitted(expression) => {}
        Some(expression) => findings.broken.push(format!("{name} is under {expression}, which is not in our list")),
        None => findings.remarks.push(format!("{name} names no SPDX licence: look at its licence file")),
    }
}

/// Whether an SPDX expression can be met with [`LICENCES`]. Parentheses group, `AND` binds tighter than `OR`.
fn permitted(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any_of(&words, &mut at);
    met && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize) -> bool {
    let mut met = all_of(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize) -> bool {
    let mut met = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at);
    }
    met
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = any_of(words, at);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return met && closed;
    }
    let mut name = (*word).to_owned();
    if let (Some(&"WITH"), Some(exception)) = (words.get(*at), words.get(*at + 1)) {
        name = format!("{name} WITH {exception}");
        *at += 2;
    }
    LICENCES.contains(&name.as_str())
}

/// In a manifest every foreign dependency says which job it does.
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
                findings.remarks.push(format!("{path}:{}: which job does it do? ({})", number + 1, line.trim()));
            }
        }
    }
    Ok(())
}

/// Rules about one source file.
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
            finding(line, format!("{mark}: do it, or open an issue"));
        }
    }
    for unfinished in ["todo!", "unimplemented!", "dbg!"] {
        for line in lines_naming(&code, unfinished) {
            finding(line, format!("{unfinished} is not for commits"));
        }
    }
    if !UNSAFE.contains(&name.as_str()) {
        for line in lines_naming(&code, "unsafe") {
            finding(line, format!("unsafe belongs into {} only", UNSAFE.join(", ")));
        }
    }
    if name == LIMITS {
        for (line, bound) in bounds_of_nobody(&source) {
            finding(line, format!("{bound}: say who shares it ('Shared by …', 'Each … has its own')"));
        }
    }
    let lines = source.lines().count();
    if lines > LINES_MAX && !TABLES.contains(&name.as_str()) {
        finding(lines, format!("{lines} lines: which second idea moved in?"));
    }
    if is_test(&name) {
        return;
    }
    let product = before_tests(&code);
    let house = HOUSES.iter().find(|house| name.starts_with(&format!("{}/src/", house.folder)));
    let edge = name.starts_with(EDGE.0).then_some(EDGE.1);
    for path in house.map(|house| house.unsaid).into_iter().chain(edge).flatten() {
        for line in lines_naming(product, path) {
            finding(line, format!("{path} may not be named here"));
        }
    }
}

/// The file of every bound.
const LIMITS: &str = "api/src/limits.rs";

/// Bounds whose comment does not say who shares them, by line and name.
fn bounds_of_nobody(source: &str) -> Vec<(usize, &str)> {
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

/// Files that hold tests only.
fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/") || name.contains("/benches/")
}

/// Every Rust file of the repository, in order.
fn rust_files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = CODE.iter().map(|folder| metadata::root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
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
    fn a_bound_that_nobody_shares_is_found() {
        let source =
            "/// One.\npub const A: u8 = 1;\n/// Two. Shared by all.\npub const B: u8 = 2;\npub const C: u8 = 3;\n";
        assert_eq!(bounds_of_nobody(source), [(2, "A"), (5, "C")]);
    }

    #[test]
    fn licence_expressions_are_read_as_spdx_means_them() {
        for yes in
            ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "(MIT OR GPL-2.0) AND ISC", "Apache-2.0 WITH LLVM-exception"]
        {
            assert!(permitted(yes), "{yes}");
        }
        for no in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT", "", "MIT AND (GPL-2.0 OR EUPL-1.2)"] {
            assert!(!permitted(no), "{no}");
        }
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
