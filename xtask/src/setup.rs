//! Installs what the tests need and prints it; what cannot be installed is named.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::metadata;
use crate::steps::{cargo, run, succeeds};

/// A Debian package, and how to tell that it is already there.
struct Package {
    name: &'static str,
    what_for: &'static str,
    present: fn() -> bool,
}

/// What a Debian machine with rustup may lack. There must be a C compiler, or this program could not have been linked.
const PACKAGES: &[Package] = &[
    Package { name: "pkg-config", what_for: "finding OpenSSL", present: || succeeds("pkg-config", &["--version"]) },
    Package {
        name: "libssl-dev",
        what_for: "OpenSSL as second opinion on every mechanism",
        present: || succeeds("pkg-config", &["--exists", "openssl"]),
    },
    Package { name: "openssl", what_for: "verifying as clients do", present: || succeeds("openssl", &["version"]) },
    Package {
        name: "rsyslog",
        what_for: "a real receiver of log lines",
        present: || Path::new("/usr/sbin/rsyslogd").exists(),
    },
    Package {
        name: "rsyslog-gnutls",
        what_for: "the same over TLS",
        present: || succeeds("sh", &["-c", "ls /usr/lib/*/rsyslog/lmnsd_gtls.so"]),
    },
    Package { name: "curl", what_for: "the quick start", present: || succeeds("curl", &["--version"]) },
    Package { name: "iproute2", what_for: "networks that can be cut", present: || succeeds("ip", &["-Version"]) },
    Package {
        name: "libp11-kit-dev",
        what_for: "C programs that load the PKCS#11 module",
        present: || Path::new("/usr/include/p11-kit-1/p11-kit/pkcs11.h").exists(),
    },
    Package {
        name: "opensc",
        what_for: "pkcs11-tool, with the PKCS#11 module",
        present: || succeeds("sh", &["-c", "command -v pkcs11-tool"]),
    },
    Package {
        name: "gnutls-bin",
        what_for: "p11tool and certtool, with the PKCS#11 module",
        present: || succeeds("sh", &["-c", "command -v p11tool"]),
    },
    Package {
        name: "libengine-pkcs11-openssl",
        what_for: "OpenSSL with keys of the PKCS#11 module",
        present: || succeeds("sh", &["-c", "ls /usr/lib/*/engines-3/pkcs11.so"]),
    },
    Package {
        name: "default-jdk-headless",
        what_for: "keytool and jarsigner, with the PKCS#11 module",
        present: || succeeds("sh", &["-c", "command -v jarsigner"]),
    },
    Package {
        name: "knot",
        what_for: "keymgr, with the PKCS#11 module",
        present: || Path::new("/usr/sbin/keymgr").exists(),
    },
    Package {
        name: "knot-dnssecutils",
        what_for: "signing a zone with the PKCS#11 module",
        present: || succeeds("sh", &["-c", "command -v kzonesign"]),
    },
    Package {
        name: "libnss3-tools",
        what_for: "certutil, with the PKCS#11 module",
        present: || succeeds("sh", &["-c", "command -v certutil"]),
    },
    Package {
        name: "openssh-client",
        what_for: "ssh-keygen and ssh-agent, with the PKCS#11 module",
        present: || succeeds("sh", &["-c", "command -v ssh-agent"]),
    },
    Package {
        name: "softhsm2",
        what_for: "the programs of the PKCS#11 module with another one",
        present: || succeeds("sh", &["-c", "command -v softhsm2-util"]),
    },
    VALGRIND,
    Package { name: "python3", what_for: "real clients", present: || succeeds("python3", &["--version"]) },
    Package {
        name: "python3-venv",
        what_for: "their packages",
        present: || succeeds("python3", &["-c", "import ensurepip, venv"]),
    },
];

/// Additional packages for the benchmark.
const FOR_BENCHMARKS: &[Package] = &[
    Package {
        name: "util-linux",
        what_for: "taskset: the server and its clients on cores of their own",
        present: || succeeds("taskset", &["--version"]),
    },
    Package { name: "curl", what_for: "setting up the server", present: || succeeds("curl", &["--version"]) },
    Package { name: "nghttp2-client", what_for: "h2load: load", present: || succeeds("h2load", &["--version"]) },
];

const VALGRIND: Package = Package {
    name: "valgrind",
    what_for: "leaks of the PKCS#11 module; counting instructions in the benchmark",
    present: || succeeds("valgrind", &["--version"]),
};

const GO: Package = Package { name: "golang-go", what_for: "building etcd", present: || succeeds("go", &["version"]) };

/// Installs the missing Debian packages of the tests, with `sudo` if we are not root.
pub(crate) fn system_packages() -> Result<()> {
    install(PACKAGES)
}

/// Installs the missing packages of the benchmark.
pub(crate) fn benchmark_packages() -> Result<()> {
    install(FOR_BENCHMARKS)
}

/// Installs the missing packages of the instruction count of the benchmark.
pub(crate) fn valgrind() -> Result<()> {
    install(&[VALGRIND])
}

fn install(packages: &[Package]) -> Result<()> {
    let missing: Vec<&Package> = packages.iter().filter(|package| !(package.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        println!("missing: {} ({})", package.name, package.what_for);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    ensure!(
        succeeds("apt-get", &["--version"]),
        "there is no apt-get here: please install what your system calls {}",
        names.join(", ")
    );
    run(&mut as_root("apt-get", &["update"]))?;
    run(as_root("apt-get", &["install", "--yes", "--no-install-recommends"]).args(&names))?;
    let still: Vec<&str> = missing.iter().filter(|package| !(package.present)()).map(|package| package.name).collect();
    ensure!(still.is_empty(), "installed, but still not usable: {}", still.join(", "));
    Ok(())
}

fn as_root(program: &str, args: &[&str]) -> Command {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let mut command = if root {
        let mut command = Command::new("env");
        command.arg("DEBIAN_FRONTEND=noninteractive");
        command
    } else {
        let mut command = Command::new("sudo");
        command.args(["env", "DEBIAN_FRONTEND=noninteractive"]);
        command
    };
    command.arg(program).args(args);
    command
}

/// Adds rustfmt and clippy if the toolchain came without them.
pub(crate) fn rust_components() -> Result<()> {
    for (component, probe) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if !succeeds("cargo", &[probe, "--version"]) {
            println!("missing: {component}");
            run(Command::new("rustup").args(["component", "add", component]))
                .with_context(|| format!("please add the component {component} to your Rust toolchain"))?;
        }
    }
    Ok(())
}

/// Builds cargo-deny if it is missing: two to five minutes, once.
pub(crate) fn cargo_deny() -> Result<()> {
    if succeeds("cargo", &["deny", "--version"]) {
        return Ok(());
    }
    println!("missing: cargo-deny (licences, bans, sources, advisories)");
    run(cargo(&["install", "--locked", "cargo-deny", "--version", "0.20.2"]).env_remove("CARGO_TARGET_DIR"))
        .context("please install cargo-deny")
}

/// Builds the etcd that tests start, `etcd/etcd` in the target directory: a minute or two, once for each version. The
/// version and the hashes of all sources are in `tests/etcd`.
pub(crate) fn etcd() -> Result<()> {
    let module = metadata::root().join("tests/etcd");
    let manifest = fs::read_to_string(module.join("go.mod")).context("tests/etcd/go.mod")?;
    let version = etcd_version(&manifest).context("tests/etcd/go.mod does not name a version of etcd")?;
    let binary = metadata::target_dir()?.join("etcd/etcd");
    if is_etcd(&binary, version) {
        return Ok(());
    }
    println!("missing: etcd {version} (a real cluster)");
    install(&[GO])?;
    let mut list = Command::new("go");
    let usable = list.arg("list").arg("-m").current_dir(&module).output().context("cannot start go")?;
    if !usable.status.success() {
        let why = String::from_utf8_lossy(&usable.stderr);
        bail!("etcd cannot be built with this Go: {}; please install the version that it asks for", why.trim());
    }
    let mut build = Command::new("go");
    // A binary of its own: no C library, and the version is that of the module and not of this repository.
    build.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"]).arg(&binary);
    run(build.arg(ETCD).current_dir(&module).env("CGO_ENABLED", "0"))?;
    ensure!(is_etcd(&binary, version), "{} was built, but is not etcd {version}", binary.display());
    Ok(())
}

const ETCD: &str = "go.etcd.io/etcd/server/v3";

/// The version of etcd in a `go.mod`, without its `v`.
fn etcd_version(manifest: &str) -> Option<&str> {
    manifest.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != ETCD).skip(1);
        words.next()?.strip_prefix('v')
    })
}

fn is_etcd(binary: &Path, version: &str) -> bool {
    let output = Command::new(binary).arg("--version").output();
    output.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).lines().any(|line| line == format!("etcd Version: {version}"))
    })
}

/// A Python environment with the pinned clients, created again when the list of requirements changes. Returns its
/// `bin`.
pub(crate) fn python() -> Result<PathBuf> {
    let requirements = metadata::root().join("tests/compat/requirements.txt");
    let wanted = fs::read_to_string(&requirements).context("tests/compat/requirements.txt")?;
    let venv = metadata::target_dir()?.join("venv");
    let bin = venv.join("bin");
    let stamp = venv.join("requirements.installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(bin);
    }
    if !succeeds("python3", &["-c", "import sys; sys.exit(sys.version_info < (3, 10))"]) {
        bail!("the clients need Python 3.10 or newer as `python3`");
    }
    println!("installing the Python clients into {}", venv.display());
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    run(Command::new(bin.join("python")).args(pip).arg(&requirements))?;
    fs::write(&stamp, wanted)?;
    Ok(bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_etcd_is_read_from_go_mod() {
        let manifest = "module m\n\nrequire (\n\tgo.etcd.io/etcd/server/v3 v3.6.16 // indirect\n)\n\ntool go.etcd.io/etcd/server/v3\n";
        assert_eq!(etcd_version(manifest), Some("3.6.16"));
        assert_eq!(etcd_version("require go.etcd.io/etcd/server/v3 v3.6.2\n"), Some("3.6.2"));
        assert_eq!(etcd_version("tool go.etcd.io/etcd/server/v3\n"), None);
        assert!(!is_etcd(Path::new("/nowhere/etcd"), "3.6.16"));
    }
}
