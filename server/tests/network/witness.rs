//! A witness: what `casemated witness init` writes, carried out without systemd.

use std::fs;
use std::process::{Child, Stdio};

use casemate_testkit::{EtcdCertificates, Network, etcd};
use serde_json::Value;

use crate::daemon::{Folder, casemated, run};

/// A witness that runs. Dropped, it is killed.
pub(crate) struct Witness {
    arguments: Vec<String>,
    child: Child,
    _folder: Folder,
}

impl Witness {
    /// Sets up the member that `invitation` has registered at `url`, and starts it at a node. It ends with the calling thread.
    pub(crate) fn start(
        network: &Network,
        node: usize,
        (invitation, url): (&Value, &str),
        certificates: &EtcdCertificates,
    ) -> Self {
        let folder = Folder::new();
        let path = |name: &str| folder.file(name).to_str().unwrap().to_owned();
        fs::write(path("members.json"), invitation.to_string()).unwrap();
        fs::write(path("ca.pem"), &certificates.ca).unwrap();
        let (place, members, ca) = (path("witness"), path("members.json"), path("ca.pem"));
        let words = ["witness", "init", "--folder", &place, "--name", NAME, "--url", url, "--members", &members];
        let output = run(casemated(&words).args(["--ca", &ca]));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read = |name: &str| fs::read_to_string(folder.file("witness").join(name)).unwrap();
        let certificate = certificates.sign(&read("witness.csr"));
        fs::write(folder.file("witness").join("witness.pem"), certificate).unwrap();
        let arguments = arguments(&read("casemate-witness.service"), &place);
        let child = spawn(network, node, &arguments);
        Self { arguments, child, _folder: folder }
    }

    /// Kills it, as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again.
    pub(crate) fn restart(&mut self, network: &Network, node: usize) {
        self.child = spawn(network, node, &self.arguments);
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The name of the witness.
pub(crate) const NAME: &str = "witness";

fn spawn(network: &Network, node: usize, arguments: &[String]) -> Child {
    let mut command = network.command(node, etcd().to_str().unwrap());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// The arguments of etcd in a unit, with the folders that systemd would put in.
fn arguments(unit: &str, folder: &str) -> Vec<String> {
    let (_, command) = unit.split_once("ExecStart=/usr/local/bin/etcd \\\n").unwrap();
    let lines = command.lines().map(|line| (line.trim().trim_end_matches('\\').trim_end(), line.ends_with('\\')));
    let mut arguments = Vec::new();
    for (argument, continues) in lines {
        arguments.push(argument.replace("%d", folder).replace("%S", folder));
        if !continues {
            break;
        }
    }
    arguments
}
