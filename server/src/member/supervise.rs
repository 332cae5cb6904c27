//! The process of a member: it is started, watched, started again, and stopped.
//!
//! One thread does all of it, because the kernel ends etcd when the *thread* that has started it ends. What it is told comes
//! through one channel: the end of the log, which is the end of the process, and what the owner wants.

use std::io::{self, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use casemate_api::limits::{MEMBER_PAUSE_MAX_MS, MEMBER_PAUSE_MIN_MS, MEMBER_STEADY_MS, MEMBER_STOP_MS};
use rustix::process::{Pid, Signal, kill_process};

use super::MemberState;
use super::log::{Log, next_line, tells_removal};
use super::peer::PeerFiles;
use super::reset::reset_when_it_ends;

/// A process under the care of its thread.
pub(super) struct Supervised {
    pub(super) shared: Arc<Shared>,
    events: Sender<Event>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread and others look at.
pub(super) struct Shared {
    pub(super) files: Option<PeerFiles>,
    process: Mutex<Seen>,
    log: Mutex<Log>,
    /// Whether the log has told that the member was removed.
    removed: AtomicBool,
}

/// What is seen of the process from outside.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) state: MemberState,
    pub(super) pid: Option<u32>,
    /// How many were started.
    pub(super) starts: u64,
}

/// What the thread is told.
pub(super) enum Event {
    /// The process of this number has closed its log.
    Ended(u64),
    Restart,
    Stop,
    Kill,
}

impl Supervised {
    /// Runs `command` with `files` as its standard input and output, until it is to end.
    pub(super) fn start(command: Command, files: Option<PeerFiles>) -> io::Result<Self> {
        let process = Mutex::new(Seen { state: MemberState::StartingAgain, pid: None, starts: 0 });
        let shared = Arc::new(Shared { files, process, log: Mutex::default(), removed: AtomicBool::new(false) });
        let (sender, events) = mpsc::channel();
        let mut supervisor =
            Supervisor { command, shared: shared.clone(), events, news: sender.clone(), pause: SHORTEST_PAUSE };
        let (report, first) = mpsc::channel();
        let run = move || {
            let (process, failed) = match supervisor.start() {
                Ok(process) => (Some(process), None),
                Err(error) => (None, Some(error)),
            };
            // Who has asked waits for it.
            let _ = report.send(failed);
            if let Some(process) = process {
                supervisor.supervise(process);
            }
        };
        let thread = thread::Builder::new().name("member".into()).spawn(run)?;
        match first.recv() {
            Ok(Some(error)) => Err(error),
            Ok(None) | Err(_) => Ok(Self { shared, events: sender, thread: Mutex::new(Some(thread)) }),
        }
    }

    pub(super) fn tell(&self, event: Event) {
        // It fails when the thread has ended, as the process has.
        let _ = self.events.send(event);
    }

    /// Tells that it is to end, and waits until it has.
    pub(super) fn end(&self, how: Event) {
        self.tell(how);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic there was logged, and the process ended with its thread.
            let _ = thread.join();
        }
    }
}

impl Shared {
    pub(super) fn seen(&self) -> Seen {
        *self.process()
    }

    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn process(&self) -> MutexGuard<'_, Seen> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It does not run any more, or will not soon.
    fn set(&self, state: MemberState) {
        let mut process = self.process();
        (process.state, process.pid) = (state, None);
    }

    /// Reads the log to its end.
    fn follow(&self, stderr: ChildStderr) {
        let mut lines = BufReader::new(stderr);
        while let Ok(Some(line)) = next_line(&mut lines) {
            tracing::debug!(line, "etcd");
            if tells_removal(&line) {
                self.removed.store(true, Ordering::Relaxed);
            }
            self.log().push(&line);
        }
    }
}

struct Supervisor {
    command: Command,
    shared: Arc<Shared>,
    events: Receiver<Event>,
    /// For the thread that reads the log.
    news: Sender<Event>,
    /// Before the next start, if the process ends by itself.
    pause: Duration,
}

/// A process, and the thread that reads its log.
struct Process {
    number: u64,
    child: Child,
    log: JoinHandle<()>,
}

/// What comes after the end of a process.
enum After {
    Restart,
    Pause,
    Stop,
    Removed,
}

impl Supervisor {
    fn start(&mut self) -> io::Result<Process> {
        let [stdin, stdout] = match &self.shared.files {
            Some(files) => files.stdio()?,
            None => [Stdio::null(), Stdio::null()],
        };
        self.shared.removed.store(false, Ordering::Relaxed);
        let mut child = self.command.stdin(stdin).stdout(stdout).stderr(Stdio::piped()).spawn()?;
        let number = self.shared.seen().starts + 1;
        let (shared, news, stderr) = (self.shared.clone(), self.news.clone(), child.stderr.take());
        let follow = move || {
            if let Some(stderr) = stderr {
                shared.follow(stderr);
            }
            // The supervisor waits for it before it ends.
            let _ = news.send(Event::Ended(number));
        };
        let log = thread::Builder::new().name("member-log".into()).spawn(follow).inspect_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
        })?;
        *self.shared.process() = Seen { state: MemberState::Running, pid: Some(child.id()), starts: number };
        Ok(Process { number, child, log })
    }

    fn supervise(&mut self, mut process: Process) {
        loop {
            let pause = match self.watch(process) {
                After::Restart => None,
                After::Pause => Some(self.next_pause()),
                After::Stop => return self.shared.set(MemberState::Stopped),
                After::Removed => {
                    tracing::error!("the cluster has removed this node, and its etcd has ended");
                    return self.shared.set(MemberState::Removed);
                }
            };
            let Some(next) = self.start_after(pause) else { return self.shared.set(MemberState::Stopped) };
            process = next;
        }
    }

    /// Starts another process. `None`: it was stopped before.
    fn start_after(&mut self, mut pause: Option<Duration>) -> Option<Process> {
        loop {
            if let Some(pause) = pause {
                match self.events.recv_timeout(pause) {
                    Err(RecvTimeoutError::Timeout) | Ok(Event::Restart | Event::Ended(_)) => {}
                    Ok(Event::Stop | Event::Kill) | Err(RecvTimeoutError::Disconnected) => return None,
                }
            }
            match self.start() {
                Ok(process) => return Some(process),
                Err(error) => {
                    tracing::error!(%error, "etcd cannot be started");
                    pause = Some(self.next_pause());
                }
            }
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }

    /// Waits until the process has ended, whoever wants that.
    fn watch(&mut self, process: Process) -> After {
        loop {
            // Once it has run for so long there is nothing to wait for.
            let event = match self.pause {
                SHORTEST_PAUSE => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                _ => self.events.recv_timeout(STEADY),
            };
            match event {
                Err(RecvTimeoutError::Timeout) => self.pause = SHORTEST_PAUSE,
                Ok(Event::Ended(number)) if number == process.number => return self.unexpected(reap(process)),
                Ok(Event::Ended(_)) => {}
                Ok(Event::Restart) => {
                    self.shared.set(MemberState::StartingAgain);
                    reset_when_it_ends(&process.child);
                    // Asked to end, it would wait for its clients for seconds.
                    reap(process);
                    return After::Restart;
                }
                Ok(Event::Stop) => {
                    self.terminate(process);
                    return After::Stop;
                }
                Ok(Event::Kill) | Err(RecvTimeoutError::Disconnected) => {
                    reap(process);
                    return After::Stop;
                }
            }
        }
    }

    fn unexpected(&self, status: Option<ExitStatus>) -> After {
        let state = end(status, self.shared.removed.load(Ordering::Relaxed));
        if state == MemberState::Removed {
            return After::Removed;
        }
        // In quotes, as it has words of other members in it.
        let why = self.shared.log().last_error();
        tracing::error!(?state, ?why, "etcd has ended and is started again");
        self.shared.set(state);
        After::Pause
    }

    /// Asks the process to end, and kills it if it has not in time.
    fn terminate(&self, process: Process) {
        self.shared.set(MemberState::StartingAgain);
        // It is still ours: nobody has waited for it.
        let _ = kill_process(Pid::from_child(&process.child), Signal::TERM);
        loop {
            match self.events.recv_timeout(Duration::from_millis(MEMBER_STOP_MS)) {
                Ok(Event::Ended(number)) if number == process.number => break,
                Ok(Event::Ended(_) | Event::Restart | Event::Stop) => {}
                Ok(Event::Kill) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!("etcd has not ended within {MEMBER_STOP_MS} ms and is killed");
                    break;
                }
            }
        }
        reap(process);
    }
}

/// What the end of a process means that nobody has asked for. `told`: its log has told that it was removed.
fn end(status: Option<ExitStatus>, told: bool) -> MemberState {
    match (status.and_then(|status| status.code()), status.and_then(|status| status.signal())) {
        // Without being asked etcd ends with 0 in one case only. It takes 1 if it is removed, or told so, while it starts.
        (Some(0), _) => MemberState::Removed,
        (Some(1), _) if told => MemberState::Removed,
        (Some(code), _) => MemberState::Exited(code),
        (None, Some(signal)) => MemberState::Signaled(signal),
        (None, None) => MemberState::StartingAgain,
    }
}

/// Ends the process, if it has not ended. One that has closed its log because it ends keeps its own exit code: it is past where
/// a signal would change it.
fn reap(Process { mut child, log, .. }: Process) -> Option<ExitStatus> {
    let _ = child.kill();
    let status = child.wait().ok();
    let _ = log.join();
    status
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(MEMBER_PAUSE_MIN_MS);
const LONGEST_PAUSE: Duration = Duration::from_millis(MEMBER_PAUSE_MAX_MS);
const STEADY: Duration = Duration::from_millis(MEMBER_STEADY_MS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_etcd_itself_says_is_a_removal() {
        let status = |raw| Some(ExitStatus::from_raw(raw));
        assert_eq!(end(status(0), true), MemberState::Removed);
        assert_eq!(end(status(0), false), MemberState::Removed);
        assert_eq!(end(status(1 << 8), true), MemberState::Removed);
        assert_eq!(end(status(1 << 8), false), MemberState::Exited(1));
        assert_eq!(end(status(2 << 8), true), MemberState::Exited(2), "Go has broken down");
        assert_eq!(end(status(9), true), MemberState::Signaled(9));
    }
}
