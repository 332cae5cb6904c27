//! An attacker: one connection at a time from one address, one request after the other until none are left.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Outcome;
use super::attacks::{Attack, Chance, Manner, attack};
use super::h2::{Sender, connect, send};
use super::line::{Line, Reply};

/// Longest wait of an attacker for a reply: it then disconnects and sends something else.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for a connection.
const OPENING: Duration = Duration::from_secs(10);
/// Longest time that an attacker keeps a connection on which it no longer sends or reads.
const LINGER_MS: u64 = 200;
/// Pause after a refused connection, so that requests are not wasted.
const PAUSE: Duration = Duration::from_millis(20);

/// Instructions of one attacker.
pub struct Order {
    pub server: SocketAddr,
    pub source: IpAddr,
    pub until: Instant,
    /// Requests left for all attackers together.
    pub left: Arc<AtomicU64>,
    /// Seed of its random numbers.
    pub seed: u64,
}

/// Requests by kind and outcome.
pub type Tally = BTreeMap<(&'static str, Outcome), u64>;

impl Order {
    /// Takes one of the requests that are left.
    fn take(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        Instant::now() < self.until && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

/// Attacks over HTTP/1.1.
pub async fn over_h1(order: Order, seeds: Arc<[Vec<u8>]>) -> Tally {
    let mut chance = Chance(order.seed);
    let mut tally = Tally::new();
    let mut line = None;
    while order.take() {
        let attack = attack(&mut chance, &seeds);
        let linger = Duration::from_millis(chance.below(LINGER_MS));
        let open = match line.take() {
            Some(open) => Some(open),
            None => opened(Line::open(order.source, order.server)).await,
        };
        let outcome = match open {
            Some(open) => in_time(attempt(open, &mut line, &attack, linger)).await,
            None => Outcome::Closed,
        };
        *tally.entry((attack.kind, outcome)).or_default() += 1;
    }
    tally
}

/// One request over `open`, which becomes the next one's `line` if it is still usable.
async fn attempt(mut open: Line, line: &mut Option<Line>, attack: &Attack, linger: Duration) -> io::Result<Outcome> {
    let ask = &attack.ask;
    match attack.manner {
        Manner::Whole => {
            let reply = open.call(ask).await?;
            if !reply.last {
                *line = Some(open);
            }
            return Ok(Outcome::Answered(reply.status));
        }
        Manner::HeadOnly => open.send(&ask.head()).await?,
        Manner::Half => {
            open.send(&ask.head()).await?;
            open.send(ask.body.get(..ask.body.len() / 2).unwrap_or_default()).await?;
            return Ok(Outcome::Left);
        }
        Manner::Unread => {
            open.send(&ask.head()).await?;
            tokio::time::sleep(linger).await;
            return Ok(Outcome::Left);
        }
        Manner::Raw => open.send(&ask.body).await?,
    }
    // There may be an answer to what was sent so far.
    match tokio::time::timeout(linger, open.reply()).await {
        Ok(reply) => reply.map(|Reply { status, .. }| Outcome::Answered(status)),
        Err(_) => Ok(Outcome::Left),
    }
}

/// Attacks over HTTP/2.
pub async fn over_h2(order: Order, seeds: Arc<[Vec<u8>]>) -> Tally {
    let mut chance = Chance(order.seed);
    let mut tally = Tally::new();
    let mut sender: Option<Sender> = None;
    while order.take() {
        let attack = attack(&mut chance, &seeds);
        let linger = Duration::from_millis(chance.below(LINGER_MS));
        if sender.as_ref().is_none_or(Sender::is_closed) {
            sender = opened(connect(order.source, order.server)).await;
        }
        let outcome = match &mut sender {
            Some(open) => in_time(send(open, &attack, linger)).await,
            None => Outcome::Closed,
        };
        *tally.entry((attack.kind, outcome)).or_default() += 1;
    }
    tally
}

/// A new connection, if the server accepts it. Attackers wait longer for it than for a reply: without a connection they
/// cannot attack, and retrying would only keep them busy.
async fn opened<T>(work: impl Future<Output = io::Result<T>>) -> Option<T> {
    let open = tokio::time::timeout(OPENING, work).await.ok()?.ok();
    if open.is_none() {
        tokio::time::sleep(PAUSE).await;
    }
    open
}

async fn in_time(work: impl Future<Output = io::Result<Outcome>>) -> Outcome {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Outcome::Closed,
        Err(_) => Outcome::Left,
    }
}
