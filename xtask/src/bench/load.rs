//! Load by h2load on core 1, and its effect on the server.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::rig::{self, Scratch, Server, User};

/// The request that is repeated.
pub(super) struct Request {
    path: String,
    body: Option<String>,
    user: Option<User>,
}

impl Request {
    pub(super) fn get(path: &str) -> Self {
        Self { path: path.to_owned(), body: None, user: None }
    }

    pub(super) fn post(path: &str, body: String, user: User) -> Self {
        Self { path: path.to_owned(), body: Some(body), user: Some(user) }
    }
}

/// The protocol and its parallelism.
#[derive(Clone, Copy)]
pub(super) enum Protocol {
    /// 32 connections.
    Http1,
    /// 4 connections, 8 concurrent requests on each.
    Http2,
}

impl Protocol {
    pub(super) fn name(self) -> &'static str {
        match self {
            Protocol::Http1 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Protocol::Http1 => &["--h1", "-c", "32"],
            Protocol::Http2 => &["-c", "4", "-m", "8"],
        }
    }
}

/// The result of one or several windows of load.
pub(super) struct Load {
    /// CPU time of the server per request, in microseconds.
    pub(super) cpu_us: f64,
    /// Minimum and maximum of it, if there were several windows.
    pub(super) range: (f64, f64),
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Share of the window in which core 0 worked for other processes.
    pub(super) foreign: f64,
}

impl Load {
    /// The medians of each figure.
    pub(super) fn summary(windows: Vec<Load>) -> Result<Load> {
        let sorted = |pick: fn(&Load) -> f64| {
            let mut values: Vec<f64> = windows.iter().map(pick).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let middle = |pick: fn(&Load) -> f64| sorted(pick).get(windows.len() / 2).copied().unwrap_or_default();
        let cpu = sorted(|load| load.cpu_us);
        Ok(Load {
            cpu_us: middle(|load| load.cpu_us),
            range: (*cpu.first().context("no window")?, *cpu.last().context("no window")?),
            per_second: middle(|load| load.per_second),
            p50_ms: middle(|load| load.p50_ms),
            p99_ms: middle(|load| load.p99_ms),
            foreign: middle(|load| load.foreign),
        })
    }

    /// CPU time with its range.
    pub(super) fn cost(&self) -> String {
        let us = |us: f64| if us < 100.0 { format!("{us:.2}") } else { format!("{us:.0}") };
        format!("{} ({}–{})", us(self.cpu_us), us(self.range.0), us(self.range.1))
    }

    /// Figures of the client: the end of a row of the table.
    pub(super) fn rest(&self) -> String {
        format!("{:.0} | {:.2} / {:.2} |", self.per_second, self.p50_ms, self.p99_ms)
    }
}

/// One window of `requests` requests.
pub(super) fn run(server: &Server, request: &Request, protocol: Protocol, requests: usize) -> Result<Load> {
    let uri = format!("https://{}{}", server.address, request.path);
    h2load(server, request, requests, protocol.arguments(), &[&uri])
}

/// `request` once at each of `uris`, 32 concurrently on one connection.
pub(super) fn each_once(server: &Server, request: &Request, uris: &[String]) -> Result<Load> {
    let file = Scratch::new("uris");
    fs::write(file.path(), uris.join("\n"))?;
    h2load(server, request, uris.len(), &["-c", "1", "-m", "32"], &["-i", &file.text()])
}

fn h2load(server: &Server, request: &Request, requests: usize, how: &[&str], to: &[&str]) -> Result<Load> {
    let log = Scratch::new("log");
    let body = Scratch::new("body");
    let mut command = rig::on_core(1, Path::new("h2load"));
    command.args(how).args(["-t", "1", "-n", &requests.to_string(), "--log-file", &log.text()]);
    if let Some(text) = &request.body {
        fs::write(body.path(), text)?;
        command.args(["-d", &body.text(), "-H", "content-type: application/json"]);
    }
    if let Some((name, passphrase)) = request.user {
        let basic = rig::base64(format!("{name}:{passphrase}").as_bytes());
        command.args(["-H", &format!("authorization: Basic {basic}")]);
    }
    let (cpu, busy, begun) = (server.cpu()?, rig::core_busy()?, Instant::now());
    let output = command.args(to).output().context("cannot start h2load")?;
    let (cpu, busy, took) = (server.cpu()? - cpu, rig::core_busy()?.saturating_sub(busy), begun.elapsed());
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        text.contains(&format!(" {requests} succeeded, 0 failed, 0 errored")),
        "not every request was answered with success:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut micros = latencies(log.path())?;
    micros.sort_unstable();
    let at = |part: f64| micros.get((micros.len() as f64 * part) as usize).map_or(0.0, |us| *us as f64 / 1000.0);
    let cpu_us = cpu.as_secs_f64() * 1e6 / requests as f64;
    Ok(Load {
        cpu_us,
        range: (cpu_us, cpu_us),
        per_second: per_second(&text).with_context(|| format!("no rate in:\n{text}"))?,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        foreign: foreign(busy, cpu, took),
    })
}

fn foreign(busy: Duration, ours: Duration, took: Duration) -> f64 {
    busy.saturating_sub(ours).as_secs_f64() / took.as_secs_f64()
}

/// `finished in 1.23s, 49000.12 req/s, 12.34MB/s`
fn per_second(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("finished in "))?;
    line.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok()
}

/// The third column of h2load's log.
fn latencies(log: &Path) -> Result<Vec<u64>> {
    let text = fs::read_to_string(log).context("h2load wrote no log")?;
    let third = |line: &str| line.split('\t').nth(2).and_then(|us| us.trim().parse().ok());
    Ok(text.lines().filter_map(third).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_off_h2loads_summary() {
        let text = "starting benchmark...\n\nfinished in 1.02s, 49000.12 req/s, 12.34MB/s\nrequests: 5 total";
        assert_eq!(per_second(text), Some(49000.12));
    }

    #[test]
    fn what_others_used_is_what_was_not_ours() {
        let ms = Duration::from_millis;
        assert!((foreign(ms(900), ms(800), ms(1000)) - 0.1).abs() < 1e-9);
        assert_eq!(foreign(ms(790), ms(800), ms(1000)), 0.0);
    }
}
