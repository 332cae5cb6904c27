//! The honest client: one connection, a signature every ten milliseconds, and a watch on how long each took.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::line::{Line, PATIENCE, Reply};
use super::{HOME, attacks, runtime};

/// Time from one signature to the next.
const EVERY: Duration = Duration::from_millis(10);

/// What became of the honest client's requests.
pub struct Honest {
    statuses: BTreeMap<u16, u64>,
    /// From the moment each was due, so that one that had to queue behind a slow one counts as slow; in order of length.
    took: Vec<Duration>,
    /// Answers of 503 that do not say when to come again.
    pub hasty: u64,
    /// Requests without an answer on a second connection either.
    pub unanswered: u64,
    /// Connections after the first.
    reconnects: u64,
}

impl Honest {
    /// Requests that were answered 200.
    pub fn signatures(&self) -> u64 {
        self.statuses.get(&200).copied().unwrap_or(0)
    }

    /// Answers that an honest client must never get. 503 is none: it says to come again.
    pub fn failures(&self) -> impl Iterator<Item = (u16, u64)> {
        self.statuses.iter().map(|(status, count)| (*status, *count)).filter(|(status, _)| ![200, 503].contains(status))
    }

    /// The time within which this part of the answers came.
    pub fn within(&self, part: f64) -> Duration {
        let rank = (self.took.len() as f64 * part).ceil() as usize;
        self.took.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// Signs until it is over.
pub fn sign(server: SocketAddr, over: &AtomicBool) -> io::Result<Honest> {
    let ask = attacks::honest_signature();
    let mut honest = Honest { statuses: BTreeMap::new(), took: Vec::new(), hasty: 0, unanswered: 0, reconnects: 0 };
    runtime()?.block_on(async {
        let mut line = None;
        let begun = Instant::now();
        let mut number = 0;
        while !over.load(Ordering::Relaxed) {
            let due = begun + EVERY * number;
            number += 1;
            // The only task of this thread: it may sleep, and a timer of the runtime would be off by a millisecond.
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let mut answer = call(&mut line, server, &ask).await;
            if answer.is_err() {
                honest.reconnects += 1;
                answer = call(&mut line, server, &ask).await;
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

async fn call(line: &mut Option<Line>, server: SocketAddr, ask: &super::Ask) -> io::Result<Reply> {
    let work = async {
        let mut open = match line.take() {
            Some(open) => open,
            None => Line::open(HOME, server).await?,
        };
        let reply = open.call(ask).await?;
        if !reply.last {
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
            "the honest client: {} answers ({}), {} without an answer, {} reconnects",
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
