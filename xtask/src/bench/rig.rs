//! The machine and the server of the benchmark: which core runs what, its cost, and whether the machine is idle
//! otherwise.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// A user of the benchmark and its passphrase.
pub(super) type User = (&'static str, &'static str);

pub(super) const ADMIN: User = ("admin", "admin passphrase");
pub(super) const UNLOCK: &str = "unlock passphrase";
pub(super) const OPERATOR: User = ("operator", "operator passphrase");

/// `program`, pinned to one core.
pub(super) fn on_core(core: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// A server on core 0 with a data folder of its own, removed afterwards.
pub(super) struct Server {
    child: Child,
    /// The command: the program, or what it runs under, and the arguments.
    program: Vec<OsString>,
    folder: PathBuf,
    pub(super) address: String,
}

/// How a server is stopped.
pub(super) enum How {
    Asked,
    Killed,
}

impl Server {
    /// `name` distinguishes it from others that run at the same time.
    pub(super) fn start(release: &Path, name: &str) -> Result<Self> {
        Self::start_under(&[], release, name)
    }

    /// The same under another program with its arguments.
    pub(super) fn start_under(under: &[&str], release: &Path, name: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("casemate-bench-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let program: Vec<OsString> =
            under.iter().map(OsString::from).chain([release.join("casemated").into_os_string()]).collect();
        let (child, address) = spawn(&program, &folder)?;
        Ok(Self { child, program, folder, address })
    }

    /// Restarts it on the same data and returns how long that took.
    pub(super) fn restart(&mut self, how: How) -> Result<Duration> {
        self.end(how)?;
        let begun = Instant::now();
        (self.child, self.address) = spawn(&self.program, &self.folder)?;
        Ok(begun.elapsed())
    }

    pub(super) fn stop(mut self) -> Result<()> {
        self.end(How::Asked)
    }

    fn end(&mut self, how: How) -> Result<()> {
        match how {
            How::Killed => self.child.kill()?,
            How::Asked => {
                let status = Command::new("kill").arg(self.child.id().to_string()).status()?;
                ensure!(status.success(), "kill failed");
            }
        }
        let status = self.child.wait()?;
        ensure!(matches!(how, How::Killed) || status.success(), "casemated ended with {status}");
        Ok(())
    }

    /// Creates the two users, and enables unattended boot.
    pub(super) fn provision(&self) -> Result<()> {
        let body = format!(
            r#"{{"unlockPassphrase":"{UNLOCK}","adminPassphrase":"{}","systemTime":"2026-01-01T00:00:00Z"}}"#,
            ADMIN.1
        );
        self.call("POST", "/provision", None, Some(&body))?;
        let body = format!(r#"{{"realName":"","role":"Operator","passphrase":"{}"}}"#, OPERATOR.1);
        self.call("PUT", "/users/operator", Some(ADMIN), Some(&body))?;
        self.call("PUT", "/config/unattended-boot", Some(ADMIN), Some(r#"{"status":"on"}"#))?;
        Ok(())
    }

    /// `POST /keys/generate` with these members.
    pub(super) fn generate(&self, members: &str) -> Result<()> {
        self.call("POST", "/keys/generate", Some(ADMIN), Some(&format!("{{{members}}}"))).map(drop)
    }

    /// The URI of the sign endpoint of every key.
    pub(super) fn key_uris(&self) -> Result<Vec<String>> {
        let list: Value = serde_json::from_str(&self.call("GET", "/keys", Some(ADMIN), None)?)?;
        let ids = list.as_array().context("no list of keys")?.iter().filter_map(|item| item.get("id")?.as_str());
        Ok(ids.map(|id| format!("https://{}/api/v1/keys/{id}/sign", self.address)).collect())
    }

    /// A `curl` command for a request, to which arguments may be added.
    pub(super) fn curl(&self, method: &str, path: &str, user: Option<User>) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--insecure", "--fail-with-body", "-X", method]);
        if let Some((name, passphrase)) = user {
            curl.args(["-u", &format!("{name}:{passphrase}")]);
        }
        curl.arg(format!("https://{}/api/v1{path}", self.address));
        curl
    }

    pub(super) fn call(&self, method: &str, path: &str, user: Option<User>, body: Option<&str>) -> Result<String> {
        let mut curl = self.curl(method, path, user);
        if let Some(body) = body {
            curl.args(["-H", "content-type: application/json", "-d", body]);
        }
        let output = curl.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{method} {path}: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    /// CPU time of all its threads so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            sum += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(Duration::from_nanos(sum))
    }

    /// Resident memory, in KiB.
    pub(super) fn rss_kib(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// Peak resident memory since its start, in KiB.
    pub(super) fn peak_kib(&self) -> Result<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line in status")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Size of the store with the keys, in bytes.
    pub(super) fn store_bytes(&self) -> Result<u64> {
        Ok(fs::metadata(self.folder.join("store.redb"))?.len())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(program: &[OsString], folder: &Path) -> Result<(Child, String)> {
    let (program, arguments) = program.split_first().context("no program")?;
    let mut command = on_core(0, Path::new(program));
    command.args(arguments).args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(folder);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no standard output")?);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    let Some((_, address)) = line.trim_end().split_once(" is listening on https://") else {
        bail!("casemated does not listen: {line}{:?}", child.wait()?);
    };
    let address = address.to_owned();
    // The remaining lines are not needed; the server ignores a closed pipe.
    std::thread::spawn(move || lines.lines().map_while(Result::ok).for_each(drop));
    Ok((child, address))
}

/// A file that is removed when this is dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("casemate-bench-{}-{name}", std::process::id())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn text(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Busy time of core 0, for any process, since the machine started.
pub(super) fn core_busy() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    busy(&stat, "cpu0 ").context("no cpu0 in /proc/stat")
}

/// Without idle and waiting for disks; a tick of the kernel's clock is 10 ms.
fn busy(stat: &str, core: &str) -> Option<Duration> {
    let line = stat.lines().find_map(|line| line.strip_prefix(core))?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|ticks| ticks.parse().ok()).collect();
    let [user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen, ..] = *ticks else { return None };
    Some(Duration::from_millis(10 * (user + nice + system + interrupts + soft_interrupts + stolen)))
}

/// Remaining time to wait for an idle machine.
pub(super) struct Patience(Duration);

impl Patience {
    pub(super) fn new(whole: Duration) -> Self {
        Self(whole)
    }

    /// Waits until the whole machine was less than 12 % busy for a moment, or the time is used up.
    pub(super) fn wait(&mut self) {
        const MOMENT: Duration = Duration::from_millis(200);
        let look = || fs::read_to_string("/proc/stat").ok().and_then(|stat| busy(&stat, "cpu "));
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        while !self.0.is_zero() {
            let (before, begun) = (look(), Instant::now());
            std::thread::sleep(MOMENT);
            let (Some(before), Some(after)) = (before, look()) else { return };
            if after.saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64() / cores < 0.12 {
                return;
            }
            self.0 = self.0.saturating_sub(MOMENT);
        }
    }
}

/// The machine of the measurements, with the version of a program that takes part, as Markdown.
pub(super) fn machine(program: &str) -> String {
    let first = |text: String, name: &str| -> String {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown").to_owned();
        line.trim_start_matches([' ', '\t', ':']).to_owned()
    };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let say = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(crate::metadata::root()).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or("unknown").to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "## Machine\n\n{}, {cores} cores, {} of memory, Linux {}; {}; {}; commit {}, {}.\n",
        first(read("/proc/cpuinfo"), "model name"),
        first(read("/proc/meminfo"), "MemTotal:"),
        read("/proc/sys/kernel/osrelease").trim(),
        say("rustc", &["--version"]),
        say(program, &["--version"]),
        say("git", &["describe", "--always", "--dirty"]),
        say("date", &["-u", "+%Y-%m-%d"]),
    )
}

/// Base64 (RFC 4648 §4), for messages and credentials.
pub(super) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group.iter().enumerate().fold(0, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        let letter = |at: usize| char::from(LETTERS[(bits >> (18 - 6 * at)) as usize % 64]);
        (0..4).map(|at| if at <= group.len() { letter(at) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648 §10
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn idle_time_is_not_busy() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 400 500 4 5 6 0 0\n";
        assert_eq!(busy(stat, "cpu0 "), Some(Duration::from_millis(210)));
    }
}
