//! Software updates: an image is received and verified, waits to be committed, and is then passed to a command of the
//! host.
//!
//! How software is replaced differs from host to host (a package, a container, an image of the whole machine), so the
//! last step is the host's. The contract with the command is in `docs/operate/update.md`. A waiting image is deleted at
//! every start, as in NetHSM.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use casemate_api::limits::{UPDATE_COMMAND_MAX_MS, UPDATE_RESERVE_BYTES};
use casemate_core::Error;
use casemate_core::hsm::update::{Intake, UpdateKey, Version};
use casemate_core::identity::caller::Caller;
use casemate_core::identity::right::Held;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::http::upload::Upload;

/// Who signs images, and what installs them.
pub struct Trust {
    /// The key that verifies images.
    pub key: UpdateKey,
    /// The program that installs an image.
    pub command: PathBuf,
}

/// The software updates of one HSM.
pub struct Updates {
    folder: PathBuf,
    trust: Option<Trust>,
    current: Version,
    state: Mutex<State>,
}

impl Trust {
    /// Refuses files that users other than root and the owner of this process can change. `Err` is a sentence.
    pub fn check(file: &Path) -> Result<(), String> {
        let about = fs::metadata(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let ours = about.uid() == 0 || about.uid() == rustix::process::geteuid().as_raw();
        match ours && about.mode() & 0o022 == 0 {
            true => Ok(()),
            false => Err(format!(
                "{}: other users can change it; make root its owner, with mode 0755 or stricter",
                file.display()
            )),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// There is no image.
    Idle,
    /// An image is being received or installed.
    Busy,
    /// A verified image waits to be committed.
    Pending(Version),
}

/// The version of this program.
pub fn current_version() -> Version {
    let number = |text: &str| text.parse().unwrap_or(0);
    Version { major: number(env!("CARGO_PKG_VERSION_MAJOR")), minor: number(env!("CARGO_PKG_VERSION_MINOR")) }
}

impl Updates {
    /// Keeps images in `folder`. Without `trust`, updates are not available; images with an older major version than
    /// `current` are refused.
    pub fn new(folder: PathBuf, trust: Option<Trust>, current: Version) -> Arc<Self> {
        Arc::new(Self { folder, trust, current, state: Mutex::new(State::Idle) })
    }

    /// Deletes a waiting image, or one left by a crash: at every boot.
    pub fn forget(&self) {
        drop(Work { updates: self, then: State::Idle });
    }

    fn image(&self) -> PathBuf {
        self.folder.join("update-image")
    }

    fn remove(&self) {
        if let Err(error) = fs::remove_file(self.image())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(target: "hsm", %error, "cannot remove the update image");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives an image, verifies it and returns its release notes. `Exists` if there is one already, or if its major
    /// version is older; `Invalid` if its signature or format is wrong.
    pub async fn receive(&self, upload: &mut Upload, caller: Option<Caller>) -> Result<String, Error> {
        let Some(Trust { key, .. }) = &self.trust else {
            return Err(Error::Precondition(
                "Updates are not set up: set update-key and update-command in the settings.".into(),
            ));
        };
        match &mut *self.state() {
            state @ State::Idle => *state = State::Busy,
            State::Busy | State::Pending(_) => return Err(Error::Exists("Update already in progress.".into())),
        }
        let mut work = Work { updates: self, then: State::Idle };
        let mut intake = Intake::default();
        let path = self.image();
        let mut file =
            off_thread(move || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)).await?;
        let mut piece = Vec::new();
        let mut fits = false;
        while let Some(bytes) = upload.next().await? {
            upload.recheck(caller.as_ref()).await?;
            piece.append(&mut intake.feed(&bytes)?);
            if let (false, Some(left)) = (fits, intake.left()) {
                fits = self.has_room_for(left).await?;
            }
            if piece.len() >= PIECE_BYTES {
                file = write(file, std::mem::take(&mut piece)).await?;
            }
        }
        file = write(file, piece).await?;
        off_thread(move || file.sync_all()).await?;
        let release = intake.finish(key, self.current)?;
        let held = upload.confirm(caller.as_ref()).await?;
        let Version { major, minor } = release.version;
        tracing::info!(target: "hsm", "an update to version {major}.{minor} was verified and waits to be committed");
        work.then = State::Pending(release.version);
        // In this order: the image waits while the rights of its sender are confirmed.
        drop(work);
        drop(held);
        Ok(release.notes)
    }

    /// Passes the waiting image to the host's command. It keeps waiting if that fails. `held` confirms the caller's
    /// right until the command runs.
    pub async fn commit(&self, held: Held) -> Result<(), Error> {
        let version = self.take_pending()?;
        let mut work = Work { updates: self, then: State::Pending(version) };
        let Some(Trust { command, .. }) = &self.trust else { return Err(none_pending()) };
        let image = self.image();
        let failed = |why: String| {
            tracing::error!(target: "hsm", command = %command.display(), why, "the update command failed");
            Error::Unavailable(
                "The update command failed. Check the log; the update can be committed again or cancelled.".into(),
            )
        };
        let Version { major, minor } = version;
        let mut child = Command::new(command);
        // A process group of its own: a signal from the terminal is meant for us, and if the command must be killed,
        // then with everything it started.
        child.arg(image).arg(format!("{major}.{minor}")).stdin(Stdio::null()).process_group(0);
        install(child, held).await.map_err(failed)?;
        tracing::info!(target: "hsm", "the update to version {major}.{minor} was handed over");
        work.then = State::Idle;
        Ok(())
    }

    /// Refuses an image that would leave too little room for the stores.
    async fn has_room_for(&self, bytes: u64) -> Result<bool, Error> {
        let folder = self.folder.clone();
        let disk = off_thread(move || Ok(rustix::fs::statvfs(&folder)?)).await?;
        match disk.f_bavail.saturating_mul(disk.f_frsize) >= bytes.saturating_add(UPDATE_RESERVE_BYTES) {
            true => Ok(true),
            false => Err(Error::invalid(format!("update failed: there is no room for an image of {bytes} bytes"))),
        }
    }

    /// Deletes the waiting image.
    pub fn cancel(&self) -> Result<(), Error> {
        self.take_pending()?;
        drop(Work { updates: self, then: State::Idle });
        Ok(())
    }

    fn take_pending(&self) -> Result<Version, Error> {
        let mut state = self.state();
        match *state {
            State::Pending(version) => {
                *state = State::Busy;
                Ok(version)
            }
            State::Idle | State::Busy => Err(none_pending()),
        }
    }
}

fn none_pending() -> Error {
    Error::Precondition("No update available. Please upload a system image to /system/update.".into())
}

/// An operation that keeps others from the image until it is dropped. The image is then deleted unless it is to wait.
struct Work<'a> {
    updates: &'a Updates,
    then: State,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let then = std::mem::replace(&mut self.then, State::Idle);
        // Under one lock, so that a caller who sees no image can send one.
        let mut state = self.updates.state();
        if then == State::Idle {
            self.updates.remove();
        }
        *state = then;
    }
}

/// Runs a command to its end, on a separate thread: the end of this process must not stop an installation half-way, and
/// the installation may be what ends this process. `held` is dropped once it runs. `Err` says why it failed.
async fn install(mut command: Command, held: Held) -> Result<(), String> {
    let (send, receive) = tokio::sync::oneshot::channel();
    let run = move || {
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        drop(held);
        let limit = Duration::from_millis(UPDATE_COMMAND_MAX_MS);
        let mut waited = Duration::ZERO;
        loop {
            match child.try_wait() {
                Err(error) => return Err(error.to_string()),
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(status.to_string()),
                Ok(None) if waited < limit => {
                    #[expect(clippy::disallowed_methods, reason = "a thread of its own that waits for a real process")]
                    std::thread::sleep(LOOK);
                    waited += LOOK;
                }
                Ok(None) => {
                    let killed = kill_process_group(Pid::from_child(&child), Signal::KILL);
                    let _ = child.wait();
                    let rest = if killed.is_ok() { "" } else { ", and could not be killed" };
                    return Err(format!("it took longer than {} s{rest}", limit.as_secs()));
                }
            }
        }
    };
    let started = std::thread::Builder::new().name("update".into()).spawn(move || {
        // The receiver is gone if the client's connection and the runtime have ended.
        let _ = send.send(run());
    });
    started.map_err(|error| error.to_string())?;
    receive.await.unwrap_or_else(|_| Err("its thread ended".into()))
}

/// How often a running command is polled.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes written at once.
const PIECE_BYTES: usize = 1 << 20;

async fn write(mut file: File, bytes: Vec<u8>) -> Result<File, Error> {
    off_thread(move || file.write_all(&bytes).map(|()| file)).await
}

/// Runs `job` on a blocking thread: disks may stall, and a serving thread must not.
async fn off_thread<T: Send + 'static>(job: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(job).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| Error::invalid(format!("update failed: {error}")))
}
