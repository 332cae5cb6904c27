//! A node's own member of the cluster: an etcd that runs as a child process and serves this node, and others only if it is told to.
//!
//! It is treated as a stranger, because what peers send reaches it first. It may read and write its own folder and nothing
//! else ([`confine`]), ends with this process, serves this node on a Unix socket in that folder, and gets the key of its TLS
//! to others in memory that it inherits (`peer.rs`), so that the key is in no file. It is started again when it ends unexpectedly
//! (`supervise.rs`). The rest is for the caller to decide: whether its data is still of use, when it is to join another cluster, and
//! when it hangs.

mod config;
pub mod confine;
mod log;
mod peer;
mod program;
mod reset;
mod supervise;

use std::fs::{DirBuilder, Permissions, set_permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use casemate_api::limits::{MEMBER_CONFIRM_MS, MEMBER_READY_MS};
use casemate_etcd::proto::StatusResponse;
use casemate_etcd::{Address, Client, Error, Settings, request};

use self::peer::PeerFiles;
use self::supervise::{Event, Seen, Supervised};

pub use self::config::{Config, Start};
pub use self::log::Record;
pub use self::peer::{Identity, PeerTls};
pub use self::program::Program;

/// What the process of a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It runs. Whether it serves is told by [`Member::is_ready`].
    Running,
    /// It ends, or has ended, to be started again at once.
    StartingAgain,
    /// It ended by itself with this code, and is started again after a pause.
    Exited(i32),
    /// A signal of this number ended it, and it is started again after a pause.
    Signaled(i32),
    /// It was stopped.
    Stopped,
    /// It has ended because its cluster has removed it, and will not be started again.
    Removed,
}

/// What is known of the process of a member.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// What it does.
    pub state: MemberState,
    /// Its process id while it runs.
    pub pid: Option<u32>,
    /// How many times it was started.
    pub starts: u64,
    /// The version of etcd.
    pub version: String,
    /// Whether the kernel keeps it from the files of others.
    pub confined: bool,
    /// The last records of its log of level `warn` or above, the oldest first.
    pub logs: Vec<Record>,
}

/// A member that runs until it is stopped or dropped. One that is dropped is killed, which loses nothing that it has confirmed.
pub struct Member {
    process: Supervised,
    endpoint: Address,
    version: String,
    confined: bool,
}

impl Member {
    /// Creates the folder if there is none (mode 0700) and starts `program` in it. It need not be ready, or last, when this
    /// returns. `Err` is a sentence for the operator: the configuration is wrong, or nothing can be started.
    pub fn start(program: &Program, config: &Config) -> Result<Self, String> {
        let flags = config.flags()?;
        let folder = &config.folder;
        let unusable = |error| format!("cannot use {} for a member of a cluster: {error}", folder.display());
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
        set_permissions(folder, Permissions::from_mode(0o700)).map_err(unusable)?;
        let files = config.tls.as_ref().map(PeerFiles::new).transpose();
        let files = files.map_err(|error| format!("cannot hold the TLS key of a member in memory: {error}"))?;

        let mut command = Command::new(&program.launcher);
        command.args(confine::arguments(&program.etcd)).args(flags).current_dir(folder);
        // Ctrl-C is for casemated, which stops it when it has answered its last request.
        command.process_group(0);
        command.env_clear().env("GOMEMLIMIT", config.memory_bytes.to_string());
        let confined = confine::is_possible();
        if !confined {
            tracing::warn!("this kernel has no Landlock (Linux 5.13): etcd could read the files of casemated");
        }
        let process = Supervised::start(command, files);
        let process = process.map_err(|error| format!("cannot start {}: {error}", program.etcd.display()))?;
        let endpoint = Address::unix(config.socket());
        Ok(Self { process, endpoint, version: program.version.clone(), confined })
    }

    /// What the process does.
    pub fn state(&self) -> MemberState {
        self.process.shared.seen().state
    }

    /// How many processes were started, the one that runs among them.
    pub fn starts(&self) -> u64 {
        self.process.shared.seen().starts
    }

    /// What is known of the process.
    pub fn diagnosis(&self) -> Diagnosis {
        let Seen { state, pid, starts } = self.process.shared.seen();
        let logs = self.process.shared.log().records();
        Diagnosis { state, pid, starts, version: self.version.clone(), confined: self.confined, logs }
    }

    /// Where it serves this node.
    pub fn endpoint(&self) -> Address {
        self.endpoint.clone()
    }

    /// Whether it serves clients, and knows a leader. Within [`MEMBER_READY_MS`], on the tokio runtime of the caller.
    pub async fn is_ready(&self) -> bool {
        self.status().await.is_ok_and(|status| status.leader != 0)
    }

    /// What it tells about itself. Within [`MEMBER_READY_MS`], on the tokio runtime of the caller. Errors: those of the client.
    pub async fn status(&self) -> Result<StatusResponse, Error> {
        self.client(MEMBER_READY_MS)?.status().await
    }

    /// Whether a majority of the members confirms within [`MEMBER_CONFIRM_MS`] what it has. On the tokio runtime of the caller.
    pub async fn is_confirmed(&self) -> bool {
        let Ok(client) = self.client(MEMBER_CONFIRM_MS) else { return false };
        // Of any key: what counts is that it is not read before the leader was asked how far it must be.
        client.range(request::get("confirmed")).await.is_ok()
    }

    fn client(&self, time_ms: u64) -> Result<Client, Error> {
        let time = Duration::from_millis(time_ms);
        let settings = Settings { endpoints: vec![self.endpoint()], tls: None, connect: time, deadline: time };
        Client::new(settings).map_err(Error::Other)
    }

    /// Trusts another cluster CA: starts the process again, without waiting for that. `Err` is a sentence for the operator.
    pub fn replace_ca(&self, ca: &[u8]) -> Result<(), String> {
        let files = self.process.shared.files.as_ref().ok_or("this member has no TLS with peers")?;
        files.replace_ca(ca).map_err(|error| format!("cannot hold the cluster CA of a member in memory: {error}"))?;
        self.restart();
        Ok(())
    }

    /// Shows another identity to peers from the next handshake on; connections that exist stay. It must be of the same cluster
    /// CA. `Err` is a sentence for the operator.
    pub fn replace_identity(&self, identity: &Identity) -> Result<(), String> {
        let files = self.process.shared.files.as_ref().ok_or("this member has no TLS with peers")?;
        files.replace(identity).map_err(|error| format!("cannot hold the TLS key of a member in memory: {error}"))
    }

    /// Kills the process, which loses nothing that it has confirmed, and starts it again, without waiting for that. Nothing happens if it
    /// is stopped or removed.
    pub fn restart(&self) {
        self.process.tell(Event::Restart);
    }

    /// Stops the process for good and returns once it has ended, which is after [`MEMBER_STOP_MS`](casemate_api::limits::MEMBER_STOP_MS)
    /// at the latest unless the kernel cannot end it. etcd waits 7 s for clients that stay connected, so drop them first. A
    /// member that was removed stays so.
    pub fn stop(&self) {
        self.process.end(Event::Stop);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.process.end(Event::Kill);
    }
}
