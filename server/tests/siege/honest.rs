//! The honest clients, with the duration of each answer. One signs every ten milliseconds on one connection; one logs
//! in every second from an address of its own, each time on a new connection, and reads its own user.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::line::{Line, PATIENCE, Reply};
use super::{Ask, HOME, attacks, runtime};

/// Time from one signature to the next.
const EVERY: Duration = Duration::from_millis(10);
/// Time from one login to the next.
const LOGIN_EVERY: Duration = Duration::from_secs(1);
/// Address of the client that logs in.
const DESK: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Results of an honest client.
pub struct Honest {
    /// Its name.
    pub who: &'static str,
    statuses: BTreeMap<u16, u64>,
    /// Durations from the moment each request was due, so that one that had to queue behind a slow one counts as slow;
    /// sorted.
    took: Vec<Duration>,
    /// Answers of 503 without Retry-After.
    pub hasty: u64,
    /// Requests without an answer even on a second connection.
    pub unanswered: u64,
    /// Connections after the first.
    reconnects: u64,
}

impl Honest {
    /// Requests answered with 200.
    pub fn successes(&self) -> u64 {
        self.statuses.get(&200).copied().unwrap_or(0)
    }

    /// Answers that an honest client must never get. 503 with Retry-After is not one of them.
    pub fn failures(&self) -> impl Iterator<Item = (u16, u64)> {
        self.statuses.iter().map(|(status, count)| (*status, *count)).filter(|(status, _)| ![200, 503].contains(status))
    }

    /// The time within which this share of the answers arrived.
    pub fn within(&self, part: f64) -> Duration {
        let rank = (self.took.len() as f64 * part).ceil() as usize;
        self.took.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// The repeated request of an honest client.
struct Errand {
    who: &'static str,
    source: IpAddr,
    every: Duration,
    ask: Ask,
    /// Whether each request has a connection of its own.
    afresh: bool,
}

/// Signs until it is over.
pub fn sign(server: SocketAddr, over: &AtomicBool) -> io::Result<Honest> {
    let ask = attacks::honest_signature();
    run(server, over, &Errand { who: "The honest client", source: HOME, every: EVERY, ask, afresh: false })
}

/// Logs in until it is over. Its credentials are not cached before the siege, so the first login needs a hash among all
/// those of the attackers.
pub fn log_in(server: SocketAddr, over: &AtomicBool) -> io::Result<Honest> {
    let ask = attacks::honest_login();
    run(server, over, &Errand { who: "The client that logs in", source: DESK, every: LOGIN_EVERY, ask, afresh: true })
}

fn run(server: SocketAddr, over: &AtomicBool, errand: &Errand) -> io::Result<Honest> {
    let who = errand.who;
    let mut honest =
        Honest { who, statuses: BTreeMap::new(), took: Vec::new(), hasty: 0, unanswered: 0, reconnects: 0 };
    runtime()?.block_on(async {
        let mut line = None;
        let begun = Instant::now();
        let mut number = 0;
        while !over.load(Ordering::Relaxed) {
            let due = begun + errand.every * number;
            number += 1;
            // The only task of this thread: it may sleep, and a timer of the runtime would be off by a millisecond.
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let mut answer = call(&mut line, server, errand).await;
            if answer.is_err() {
                honest.reconnects += 1;
                answer = call(&mut line, server, errand).await;
            }
            match answer {
                Ok(reply) => {
                    honest.took.push(due.elapsed());
                    *honest.statuses.entry(reply.status).or_default() += 1;
                    honest.hasty += u64::from(reply.status == 503 && !reply.retry_after);
                }
                Err(_) => honest.unanswered += 1,
            }
        }
    });
    honest.took.sort_unstable();
    Ok(honest)
}

async fn call(line: &mut Option<Line>, server: SocketAddr, errand: &Errand) -> io::Result<Reply> {
    let work = async {
        let mut open = match line.take() {
            Some(open) => open,
            None => Line::open(errand.source, server).await?,
        };
        let reply = open.call(&errand.ask).await?;
        if !reply.last && !errand.afresh {
            *line = Some(open);
        }
        Ok(reply)
    };
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl fmt::Display for Honest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statuses: Vec<_> = self.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        writeln!(
            f,
            "{}: {} answers ({}), {} without an answer, {} reconnects",
            self.who,
            self.took.len(),
            statuses.join(", "),
            self.unanswered,
            self.reconnects
        )?;
        let ms = |part| self.within(part).as_secs_f64() * 1e3;
        write!(
            f,
            "  ms from when each was due: p50 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2}",
            ms(0.5),
            ms(0.99),
            ms(0.999),
            ms(1.0)
        )
    }
}
