//! A siege: hostile requests of every kind from many addresses, and beside them two honest clients: one keeps signing,
//! one logs in again and again.
//!
//! `examples/siege` runs a long one against a server of its own and prints figures; `attack/siege.rs` runs a short one
//! as a test. The attackers have the network, all names, and the credentials of an administrator of one namespace; they
//! must not be able to delay the honest clients, exhaust the server's memory, or end it.

mod attacker;
mod attacks;
mod h2;
mod honest;
mod line;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub use self::honest::Honest;
use self::line::{Ask, Line};

/// Maximum memory of the server at any time of a siege.
pub const RSS_MAX_BYTES: u64 = 1_000_000_000;

/// Address of the honest client; the attackers are elsewhere.
const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Connections of each hostile address that speak HTTP/1.1; it has one more for HTTP/2.
const H1_PER_ADDRESS: usize = 5;
/// Interval at which the memory of the server is read.
const WATCH: Duration = Duration::from_secs(1);

/// The parameters of a siege.
pub struct Plan {
    /// The server.
    pub server: SocketAddr,
    /// Its process.
    pub pid: u32,
    /// Hostile requests, all attackers together.
    pub requests: u64,
    /// Hostile addresses, from 127.1.0.1 on.
    pub addresses: u32,
    /// The siege ends after this time, even if requests are left.
    pub limit: Duration,
}

/// The outcome of one hostile request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The server answered with this status.
    Answered(u16),
    /// The server closed the connection, or did not accept one.
    Closed,
    /// The attacker left without a reply, on purpose or because none came in time.
    Left,
}

/// The results of a siege.
pub struct Report {
    /// Hostile requests by kind and outcome.
    pub hostile: BTreeMap<(&'static str, Outcome), u64>,
    /// Results of the honest client that signs.
    pub honest: Honest,
    /// Results of the one that logs in.
    pub logins: Honest,
    /// Peak memory of the server, in bytes.
    pub rss_max_bytes: u64,
    /// Whether it answers afterwards, and in an expected state.
    pub alive: bool,
    /// From the first hostile request to the last.
    pub took: Duration,
}

/// Provisions a new server for a siege: an operator and a key for the honest client, a namespace for the attackers.
pub fn set_up(server: SocketAddr) -> io::Result<()> {
    runtime()?.block_on(async {
        let mut line = Line::open(HOME, server).await?;
        for ask in attacks::setting() {
            let reply = line.call(&ask).await?;
            if !(200..300).contains(&reply.status) {
                return Err(io::Error::other(format!("{} {} was answered {}", ask.method, ask.path, reply.status)));
            }
        }
        Ok(())
    })
}

/// Runs a siege against a server that was [set up](set_up) for it.
pub fn lay(plan: &Plan) -> io::Result<Report> {
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    let seeds = attacks::seeds()?;
    thread::scope(|scope| {
        let honest = scope.spawn(|| honest::sign(plan.server, &over));
        let logins = scope.spawn(|| honest::log_in(plan.server, &over));
        let memory = scope.spawn(|| watch(plan.pid, &over));
        let hostile = attack(plan, seeds, begun + plan.limit);
        let took = begun.elapsed();
        over.store(true, Ordering::Relaxed);
        let honest = honest.join().map_err(|_| io::Error::other("the honest client panicked"))??;
        let logins = logins.join().map_err(|_| io::Error::other("the client that logs in panicked"))??;
        let rss_max_bytes = memory.join().map_err(|_| io::Error::other("the watch over the memory panicked"))?;
        Ok(Report { hostile: hostile?, honest, logins, rss_max_bytes, alive: is_alive(plan.server)?, took })
    })
}

/// All attackers, in one thread, so that they leave the other cores to the server.
fn attack(plan: &Plan, seeds: Vec<Vec<u8>>, until: Instant) -> io::Result<BTreeMap<(&'static str, Outcome), u64>> {
    let runtime = runtime()?;
    let seeds: Arc<[Vec<u8>]> = seeds.into();
    let left = Arc::new(AtomicU64::new(plan.requests));
    let sum = runtime.block_on(async {
        let mut attackers = tokio::task::JoinSet::new();
        for number in 0..plan.addresses {
            let source = IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + number));
            for line in 0..=H1_PER_ADDRESS {
                let seed = u64::from(number) << 8 | line as u64;
                let order = attacker::Order { server: plan.server, source, until, left: left.clone(), seed };
                if line < H1_PER_ADDRESS {
                    attackers.spawn(attacker::over_h1(order, seeds.clone()));
                } else {
                    attackers.spawn(attacker::over_h2(order, seeds.clone()));
                }
            }
        }
        let mut sum = BTreeMap::new();
        while let Some(tally) = attackers.join_next().await {
            for (what, count) in tally.map_err(io::Error::other)? {
                *sum.entry(what).or_default() += count;
            }
        }
        Ok(sum)
    });
    // Their remaining connections are not awaited.
    runtime.shutdown_background();
    sum
}

/// Peak memory of the process, as sampled, in bytes.
fn watch(pid: u32, over: &AtomicBool) -> u64 {
    let mut most = 0;
    loop {
        most = most.max(rss_bytes(pid));
        if over.load(Ordering::Relaxed) {
            return most;
        }
        thread::sleep(WATCH);
    }
}

/// Memory of a process; 0 if it has ended.
fn rss_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0) * 1024
}

fn is_alive(server: SocketAddr) -> io::Result<bool> {
    let ready = Ask::get("/health/ready");
    runtime()?.block_on(async {
        let answer = async { Line::open(HOME, server).await?.call(&ready).await };
        Ok(matches!(tokio::time::timeout(line::PATIENCE, answer).await, Ok(Ok(reply)) if reply.status == 200))
    })
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

impl Report {
    /// Hostile requests, all together.
    pub fn requests(&self) -> u64 {
        self.hostile.values().sum()
    }

    /// What the server did wrong, a sentence each, on any machine.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.alive {
            faults.push("The server does not answer any more.".to_owned());
        }
        for honest in [&self.honest, &self.logins] {
            let mut fault = |what: String| faults.push(format!("{} {what}", honest.who));
            for (status, count) in honest.failures() {
                fault(format!("was answered {status} {count} times."));
            }
            if honest.hasty > 0 {
                fault(format!("was answered 503 without Retry-After {} times.", honest.hasty));
            }
            if honest.unanswered > 0 {
                fault(format!("got no answer {} times.", honest.unanswered));
            }
            if honest.successes() == 0 {
                fault("got nothing at all.".to_owned());
            }
        }
        if self.rss_max_bytes > RSS_MAX_BYTES {
            faults.push(format!("The server held {} MB of memory.", self.rss_max_bytes / 1_000_000));
        }
        faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        let per_second = self.requests() as f64 / seconds;
        writeln!(f, "{} hostile requests in {seconds:.0} s, {per_second:.0} a second:", self.requests())?;
        let mut kinds: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for ((kind, outcome), count) in &self.hostile {
            kinds.entry(kind).or_default().push(format!("{outcome} {count}"));
        }
        for (kind, outcomes) in kinds {
            writeln!(f, "  {kind:<46}  {}", outcomes.join(", "))?;
        }
        writeln!(f, "{}\n{}", self.honest, self.logins)?;
        writeln!(f, "most memory of the server (RSS, once a second): {} MB", self.rss_max_bytes / 1_000_000)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status) => write!(f, "{status}"),
            Self::Closed => f.write_str("closed"),
            Self::Left => f.write_str("left"),
        }
    }
}
