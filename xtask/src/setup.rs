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
    Package {
        name: "nginx-light",
        what_for: "TLS with its key in the PKCS#11 module",
        present: || Path::new("/usr/sbin/nginx").exists(),
    },
    Package {
        name: "libhsm-bin",
        what_for: "OpenDNSSEC's ods-hsmutil, with the PKCS#11 module",
        present: || succeeds("sh", &["-c", "command -v ods-hsmutil"]),
    },
    GO,
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

const GO: Package = Package {
    name: "golang-go",
    what_for: "building etcd, and a program with the PKCS#11 module",
    present: || succeeds("go", &["version"]),
};

const OPENSSL_PROVIDER: Package = Package {
    name: "pkcs11-provider",
    what_for: "OpenSSL 3 with keys of the PKCS#11 module",
    present: || succeeds("sh", &["-c", "ls /usr/lib/*/ossl-modules/pkcs11.so"]),
};

/// Installs the missing Debian packages of the tests, with `sudo` if we are not root.
pub(crate) fn system_packages() -> Result<()> {
    install(PACKAGES)?;
    openssl_provider()
}

/// Debian 12 has it among its backports only. They are asked in these calls of apt-get, at the mirror that this machine has
/// already; what it installs otherwise stays as it is.
fn openssl_provider() -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if (OPENSSL_PROVIDER.present)() || codename(&release) != Some("bookworm") {
        return install(&[OPENSSL_PROVIDER]);
    }
    println!("missing: {} ({}), a backport to Debian 12", OPENSSL_PROVIDER.name, OPENSSL_PROVIDER.what_for);
    let mirrors = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Codename: bookworm"])
        .output()
        .context("cannot start apt-get")?;
    let mirrors = String::from_utf8_lossy(&mirrors.stdout);
    let mirror = mirrors.lines().next().context("apt-get knows no mirror of bookworm")?;
    let list = metadata::target_dir()?.join("backports.list");
    fs::write(&list, format!("deb [signed-by={DEBIAN_KEYS}] {mirror} bookworm-backports main\n"))?;
    let sources = format!("Dir::Etc::SourceList={}", list.display());
    let options = ["-o", &sources, "-o", "APT::Get::List-Cleanup=false", "--yes", "--no-install-recommends"];
    run(as_root("apt-get", &options).arg("update"))?;
    run(as_root("apt-get", &options).arg("install").arg(format!("{}/bookworm-backports", OPENSSL_PROVIDER.name)))?;
    ensure!((OPENSSL_PROVIDER.present)(), "installed, but still not usable: {}", OPENSSL_PROVIDER.name);
    Ok(())
}

const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The name of a release in `/etc/os-release`.
fn codename(release: &str) -> Option<&str> {
    release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(|name| name.trim_matches('"'))
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

/// Downloads the sources of the Go program that a test builds, so that the test needs no network.
pub(crate) fn crypto11() -> Result<()> {
    run(Command::new("go").args(["mod", "download"]).current_dir(metadata::root().join("tests/crypto11")))
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
    fn the_name_of_a_release_is_read() {
        assert_eq!(codename("NAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=bookworm\nID=debian\n"), Some("bookworm"));
        assert_eq!(codename("VERSION_CODENAME=\"noble\"\n"), Some("noble"));
        assert_eq!(codename("ID=arch\n"), None);
    }

    #[test]
    fn the_version_of_etcd_is_read_from_go_mod() {
        let manifest = "module m\n\nrequire (\n\tgo.etcd.io/etcd/server/v3 v3.6.16 // indirect\n)\n\ntool go.etcd.io/etcd/server/v3\n";
        assert_eq!(etcd_version(manifest), Some("3.6.16"));
        assert_eq!(etcd_version("require go.etcd.io/etcd/server/v3 v3.6.2\n"), Some("3.6.2"));
        assert_eq!(etcd_version("tool go.etcd.io/etcd/server/v3\n"), None);
        assert!(!is_etcd(Path::new("/nowhere/etcd"), "3.6.16"));
    }
}
