//! The process itself: how it is hidden from the rest of the machine, how it stops, and its exit codes.
//!
//! The only file of the server with `unsafe` code, which an allocator requires.
#![expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout};
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{ExitCode, Termination};

use mimalloc::MiMalloc;
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::durable::NOFOLLOW;

/// Exit codes of `casemated`; scripts may rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Stopped as asked.
    Ok = 0,
    /// Any other failure.
    Failure = 1,
    /// A flag, an environment variable or the settings file is wrong.
    Settings = 2,
    /// A listen address is in use or does not belong to this machine.
    PortTaken = 3,
    /// The data folder cannot be created, read or written.
    DataFolder = 4,
    /// Another `casemated` uses the data folder.
    AlreadyRunning = 5,
    /// The store cannot be read, or was written by a newer version.
    StoreDamaged = 6,
    /// The Device Key is missing or cannot be read.
    DeviceKey = 7,
    /// An exported audit log was altered.
    AuditBroken = 8,
    /// A backup is incomplete, or cannot be decrypted with the passphrases given.
    BackupBroken = 9,
    /// A second signal ended the process while requests were running.
    Interrupted = 130,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// What happens after the server has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// End the process.
    Shutdown,
    /// Boot again.
    Reboot,
}

/// A request to stop, shared by those who make it and those who obey it. It is never withdrawn; every boot creates a
/// new one.
#[derive(Clone)]
pub struct Stop(watch::Sender<Option<End>>);

impl Stop {
    /// No stop is requested yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Requests a stop. A shutdown overrides a reboot, whichever was requested first.
    pub fn request(&self, end: End) {
        self.0.send_if_modified(|wish| {
            let news = wish.is_none() || (*wish == Some(End::Reboot) && end == End::Shutdown);
            if news {
                *wish = Some(end);
            }
            news
        });
    }

    /// What to do after the stop, if one was requested.
    pub fn end(&self) -> Option<End> {
        *self.0.borrow()
    }

    /// Resolves when a stop was requested.
    pub async fn requested(&self) {
        // It cannot fail: `self` keeps the sender alive.
        let _ = self.0.subscribe().wait_for(|end| end.is_some()).await;
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

/// Calls `first` at the first SIGINT or SIGTERM; a second one ends the process at once with [`Exit::Interrupted`]. Call
/// it once.
pub fn on_signal(first: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let watch = async move {
        let mut next = async || tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} };
        next().await;
        tracing::info!("stopping: running requests may finish; a second signal ends at once");
        first();
        next().await;
        std::process::exit(Exit::Interrupted as i32);
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(watch))?;
    Ok(())
}

/// Whether memory of the process may be swapped out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// All memory is locked.
    Never,
    /// Nothing is locked, so keys may be swapped out: RLIMIT_MEMLOCK is not unlimited. Locking under a limit would make
    /// later allocations fail instead.
    Possible,
}

/// Hides the process from the rest of the machine: no core dumps, no debugger without CAP_SYS_PTRACE, no files that
/// others may read, and no swap where possible. Call it first; an error says what the kernel refused.
pub fn harden() -> io::Result<Swap> {
    rustix::process::umask(Mode::from_bits_truncate(0o077));
    let refused = |what: &'static str| move |errno: Errno| io::Error::new(errno.kind(), format!("{what}: {errno}"));
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(refused("other processes cannot be kept from reading this one's memory"))?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(refused("core dumps cannot be turned off"))?;
    if rustix::process::getrlimit(Resource::Memlock).current.is_some() {
        return Ok(Swap::Possible);
    }
    // Pages are locked when first used: the allocator reserves far more than it will ever touch.
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    Ok(if mlockall(all).is_ok() { Swap::Never } else { Swap::Possible })
}

/// Raises the soft limit of open files to the hard limit, and returns it. The usual soft limit of 1024 is for programs
/// that use `select`.
pub fn raise_file_limit() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let files = rustix::process::setrlimit(Resource::Nofile, wanted).map_or(limit.current, |()| limit.maximum);
    files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}

/// The lock of the data folder, held while this value lives.
#[derive(Debug)]
pub struct FolderLock(#[expect(dead_code, reason = "the lock ends when the file is closed")] File);

/// Why the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has locked it; its pid, if it could be read.
    #[error("another casemated (pid {0}) uses this data folder")]
    InUse(String),
    /// The owner, with this uid, could replace every file in it.
    #[error(
        "the data folder belongs to another user (uid {0}); run casemated as that user, or change the owner of the folder with chown"
    )]
    Foreign(u32),
    /// Other users could replace every file in it; its mode.
    #[error("other users can write to the data folder (mode {0:04o}); run chmod go-w on it")]
    Shared(u32),
    /// It cannot be created, read or written.
    #[error("cannot use the data folder: {0}")]
    Unusable(#[from] io::Error),
}

/// Creates the data folder if there is none (mode 0700) and locks it. The kernel releases the lock when the process
/// ends, however it ends.
pub fn lock_folder(folder: &Path) -> Result<FolderLock, FolderError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    check_folder(&std::fs::metadata(folder)?)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(NOFOLLOW);
    let mut file = options.open(folder.join("casemated.lock"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(FolderError::InUse(pid_in(&mut file))),
        Err(errno) => return Err(io::Error::from(errno).into()),
    }
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(std::process::id().to_string().as_bytes())?;
    Ok(FolderLock(file))
}

/// Whoever may write to a folder can replace the store or the Device Key.
fn check_folder(about: &Metadata) -> Result<(), FolderError> {
    if about.uid() != rustix::process::geteuid().as_raw() {
        return Err(FolderError::Foreign(about.uid()));
    }
    let mode = about.mode() & 0o7777;
    if mode & 0o022 == 0 { Ok(()) } else { Err(FolderError::Shared(mode)) }
}

fn pid_in(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(16).read_to_string(&mut text) {
        Ok(length) if length > 0 && text.bytes().all(|b| b.is_ascii_digit()) => text,
        _ => "unknown".into(),
    }
}

/// An allocator that overwrites freed memory with zeros, because buffers inside the TLS, HTTP and JSON code hold
/// passphrases and plaintexts that no other code wipes.
pub struct WipingAllocator<A = MiMalloc>(A);

impl WipingAllocator {
    /// For `#[global_allocator]`.
    pub const fn new() -> Self {
        Self(MiMalloc)
    }
}

impl Default for WipingAllocator {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: every call is passed on with the layout the caller gave, and the block is touched only while it is allocated.
unsafe impl<A: GlobalAlloc> GlobalAlloc for WipingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which is the same for the inner allocator.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller guarantees that `block` is a live allocation of this layout, so that many bytes are
        // writable.
        unsafe { std::ptr::write_bytes(block, 0, layout.size()) };
        // The compiler must assume that the zeros are read, or it may remove the writes.
        std::hint::black_box(block);
        // SAFETY: the caller keeps the contract of `dealloc`; the block came from the inner allocator.
        unsafe { self.0.dealloc(block, layout) }
    }

    // `realloc` is the trait's default: allocate, copy, `dealloc`. A smarter one could move the block and leave the old
    // bytes behind.
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, Signal, kill_process};
    use std::alloc::System;
    use std::fs::Permissions;
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crate::scratch::Scratch;

    #[test]
    fn freed_memory_was_wiped() {
        static WIPED: AtomicUsize = AtomicUsize::new(0);
        struct Witness;
        // SAFETY: passes everything on to the system's allocator.
        unsafe impl GlobalAlloc for Witness {
            unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
                // SAFETY: as the caller promised.
                unsafe { System.alloc(layout) }
            }
            unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
                // SAFETY: the block is live until the next line.
                let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
                if bytes.iter().all(|b| *b == 0) {
                    WIPED.fetch_add(1, Ordering::Relaxed);
                }
                // SAFETY: as the caller promised.
                unsafe { System.dealloc(block, layout) }
            }
        }
        let allocator = WipingAllocator(Witness);
        let layout = Layout::array::<u8>(100).unwrap();
        // SAFETY: a block of 100 bytes is filled, grown to 200, and freed with the layout it then has.
        unsafe {
            let block = allocator.alloc(layout);
            std::ptr::write_bytes(block, 7, 100);
            let block = allocator.realloc(block, layout, 200);
            assert_eq!(WIPED.load(Ordering::Relaxed), 1, "growing wipes the old block");
            assert_eq!(*block.add(99), 7);
            allocator.dealloc(block, Layout::array::<u8>(200).unwrap());
        }
        assert_eq!(WIPED.load(Ordering::Relaxed), 2);
    }

    /// Runs an ignored test of this file in a separate process.
    fn in_child(test: &str) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("process::tests::{test}"), "--ignored", "--nocapture"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[test]
    fn a_hardened_process_hides() {
        assert!(in_child("harden_this_process").wait().unwrap().success());
    }

    #[test]
    #[ignore = "changes the whole process: run by the test above"]
    fn harden_this_process() {
        let swap = harden().unwrap();
        let files = raise_file_limit();
        assert_eq!(rustix::process::getrlimit(Resource::Nofile).current.map(|files| files as usize), Some(files));
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let locked = !status.contains("VmLck:\t       0 kB");
        assert_eq!(locked, swap == Swap::Never, "{status}");
        assert!(status.contains("Umask:\t0077"), "{status}");
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(rustix::process::getrlimit(Resource::Core).current, Some(0));
    }

    #[test]
    fn a_second_signal_ends_the_process_at_once() {
        let mut child = in_child("heed_signals");
        let pid = Pid::from_child(&child);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut wait_for = |word: &str| assert!(lines.any(|line| line.unwrap().contains(word)), "{word}");
        wait_for("ready");
        kill_process(pid, Signal::TERM).unwrap();
        wait_for("stopping");
        kill_process(pid, Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(Exit::Interrupted as i32));
    }

    #[test]
    #[ignore = "ends the whole process: run by the test above"]
    fn heed_signals() {
        on_signal(|| println!("\nstopping")).unwrap();
        println!("\nready");
        std::thread::park_timeout(std::time::Duration::from_secs(20));
    }

    #[test]
    fn a_shutdown_overrides_a_reboot() {
        let stop = Stop::new();
        assert_eq!(stop.end(), None);
        for (wish, end) in [(End::Reboot, End::Reboot), (End::Shutdown, End::Shutdown), (End::Reboot, End::Shutdown)] {
            stop.request(wish);
            assert_eq!(stop.end(), Some(end));
        }
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(stop.requested());
    }

    #[test]
    fn a_data_folder_has_one_owner() {
        let folder = std::env::temp_dir().join(format!("casemate-lock-{}", std::process::id()));
        let first = lock_folder(&folder).unwrap();
        let refused = lock_folder(&folder).unwrap_err();
        let expected = format!("another casemated (pid {}) uses this data folder", std::process::id());
        assert_eq!(refused.to_string(), expected);
        drop(first);
        drop(lock_folder(&folder).unwrap());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_data_folder_that_others_can_write_is_refused() {
        let folder = Scratch::new();
        let data = folder.path("data");
        drop(lock_folder(&data).unwrap());
        let refused = || lock_folder(&data).unwrap_err();
        for mode in [0o770, 0o702, 0o1777] {
            std::fs::set_permissions(&data, Permissions::from_mode(mode)).unwrap();
            assert!(matches!(refused(), FolderError::Shared(found) if found == mode));
        }
        std::fs::set_permissions(&data, Permissions::from_mode(0o775)).unwrap();
        let expected = "other users can write to the data folder (mode 0775); run chmod go-w on it";
        assert_eq!(refused().to_string(), expected);
        std::fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
        drop(lock_folder(&data).unwrap());
        // Only root can change the owner of a folder.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&data, Some(12345), None).unwrap();
            assert!(matches!(refused(), FolderError::Foreign(12345)));
        }
    }

    #[test]
    fn a_symbolic_link_is_not_a_lock_file() {
        let folder = Scratch::new();
        let victim = folder.path("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path("casemated.lock")).unwrap();
        assert!(matches!(lock_folder(&folder.path("")), Err(FolderError::Unusable(_))));
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn a_file_is_not_a_data_folder() {
        let file = std::env::temp_dir().join(format!("casemate-file-{}", std::process::id()));
        std::fs::write(&file, "").unwrap();
        assert!(matches!(lock_folder(&file.join("data")), Err(FolderError::Unusable(_))));
        std::fs::remove_file(&file).unwrap();
    }
}
