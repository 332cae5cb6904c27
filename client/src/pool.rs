//! The connections of a client, and what it knows about its nodes.
//!
//! Both belong to the process that made them. A child of `fork` must not write into its parent's TLS streams, and a lock
//! that another thread of the parent held stays locked in the child for ever. So everything with a lock or a socket lives
//! in [`Lines`], marked with its process; a child finds the foreign mark, leaves the old lines alone and makes its own.
//! There are no threads: what takes time is done by whoever calls.

use std::process;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use casemate_api::limits::{
    CLIENT_IDLE_CONNECTIONS, CLIENT_IDLE_MS, CLIENT_NODES_MAX, CLIENT_PROBE_MS, CLIENT_REPLY_HEAD_MAX_BYTES,
};
use rustls::ClientConfig;
use rustls::client::Resumption;
use ureq::config::AutoHeaderValue;
use ureq::http::Uri;

use crate::clock;
use crate::error::Error;
use crate::pick::{Pick, Picker, Tried};
use crate::settings::Settings;
use crate::tls;
use crate::wire::{Dialer, Later};

/// A client's nodes, and the connections of this process to them.
pub(crate) struct Pool {
    /// `host:port`, as they are named in errors.
    pub(crate) nodes: Vec<String>,
    pub(crate) settings: Settings,
    /// Never used itself: the store of its TLS sessions has a lock.
    tls: ClientConfig,
    lines: ArcSwap<Lines>,
    /// TLS handshakes of this client in this process, for tests and figures; a fork goes on counting by itself.
    pub(crate) handshakes: Arc<AtomicU64>,
}

/// What belongs to one process.
pub(crate) struct Lines {
    process: u32,
    pub(crate) agent: ureq::Agent,
    picker: Mutex<Picker>,
    began: Instant,
}

impl Pool {
    pub(crate) fn new(mut settings: Settings) -> Result<Self, Error> {
        // Beyond this nobody waits, and instants do not overflow.
        for limit in [&mut settings.connect, &mut settings.request, &mut settings.deadline, &mut settings.pause] {
            *limit = (*limit).min(Duration::from_secs(24 * 3600));
        }
        let nodes = settings.nodes.iter().map(|node| authority(node)).collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() || nodes.len() > CLIENT_NODES_MAX {
            return Err(Error::Settings(format!("a client needs 1 to {CLIENT_NODES_MAX} nodes")));
        }
        let tls = tls::config(&settings.trust)?;
        let handshakes = Arc::default();
        let lines = ArcSwap::from_pointee(Lines::new(&nodes, &tls, &settings, &handshakes));
        Ok(Self { nodes, settings, tls, lines, handshakes })
    }

    /// The lines of this process.
    pub(crate) fn lines(&self) -> Arc<Lines> {
        let lines = self.lines.load_full();
        if lines.process == process::id() {
            return lines;
        }
        let own = Arc::new(Lines::new(&self.nodes, &self.tls, &self.settings, &self.handshakes));
        // Dropping the parent's lines closes the child's copies of its sockets and writes nothing into them.
        self.lines.store(Arc::clone(&own));
        own
    }

    /// How errors call `node`.
    pub(crate) fn name(&self, node: usize) -> String {
        self.nodes.get(node).cloned().unwrap_or_default()
    }
}

impl Lines {
    fn new(nodes: &[String], tls: &ClientConfig, settings: &Settings, handshakes: &Arc<AtomicU64>) -> Self {
        let mut tls = tls.clone();
        tls.resumption = Resumption::in_memory_sessions(4 * CLIENT_NODES_MAX);
        let dialer = Dialer { tls: Arc::new(tls), connect: settings.connect, handshakes: Arc::clone(handshakes) };
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .https_only(true)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("casemate/", env!("CARGO_PKG_VERSION")))
            .accept_encoding(AutoHeaderValue::None)
            .max_response_header_size(CLIENT_REPLY_HEAD_MAX_BYTES)
            .max_idle_connections(CLIENT_IDLE_CONNECTIONS * nodes.len())
            .max_idle_connections_per_host(CLIENT_IDLE_CONNECTIONS)
            .max_idle_age(Duration::from_millis(CLIENT_IDLE_MS))
            .build();
        let process = process::id();
        // Clients that start together begin at different nodes.
        let first = usize::try_from(process).unwrap_or_default();
        Self {
            process,
            agent: ureq::Agent::with_parts(config, dialer, Later),
            picker: Mutex::new(Picker::new(nodes.len(), first)),
            began: clock::now(),
        }
    }

    /// The next node for a call that has tried `tried` and has `rest` left. A node whose time aside is over is asked first
    /// whether it is ready.
    pub(crate) fn pick(&self, tried: &mut Tried, pool: &Pool, rest: Duration) -> Option<usize> {
        loop {
            let node = match self.with_picker(|picker, now_ms| picker.pick(now_ms, *tried))? {
                Pick::Use(node) => return Some(node),
                Pick::Probe(node) => node,
            };
            tried.probed();
            // Of a short rest most is kept for the call itself.
            if self.is_ready(&pool.name(node), Duration::from_millis(CLIENT_PROBE_MS).min(rest / 4)) {
                self.with_picker(|picker, _| picker.ready(node));
            } else {
                self.failed(node);
            }
        }
    }

    /// `node` works.
    pub(crate) fn well(&self, node: usize) {
        self.with_picker(|picker, _| picker.well(node));
    }

    /// `node` does not work.
    pub(crate) fn failed(&self, node: usize) {
        self.with_picker(|picker, now_ms| picker.failed(node, now_ms));
    }

    fn with_picker<T>(&self, work: impl FnOnce(&mut Picker, u64) -> T) -> T {
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        work(&mut self.picker.lock().unwrap_or_else(PoisonError::into_inner), now_ms)
    }

    fn is_ready(&self, node: &str, limit: Duration) -> bool {
        let request =
            self.agent.get(format!("https://{node}/api/v1/health/ready")).config().timeout_global(Some(limit)).build();
        request.call().is_ok_and(|mut reply| reply.status() == 200 && reply.body_mut().read_to_vec().is_ok())
    }
}

/// Where HTTPS is served unless a port is given.
const HTTPS: u16 = 443;

/// `host:port` out of `host`, `host:port`, `https://host:port` or NetHSM's `https://host:port/api/v1`. The port is 443
/// unless one is given.
fn authority(node: &str) -> Result<String, Error> {
    // What stands before an @ may be a passphrase.
    let shown = if node.contains('@') { "what was given".into() } else { format!("{node:?}") };
    let wrong = |why: &str| Error::Settings(format!("{shown} is no address of an HSM: {why}"));
    let text = if node.contains("://") { node.to_owned() } else { format!("https://{node}") };
    let uri: Uri = text.parse().map_err(|_| wrong("write it as host:port"))?;
    if uri.scheme_str() != Some("https") {
        return Err(wrong("only https is spoken"));
    }
    if !matches!(uri.path().trim_end_matches('/'), "" | "/api/v1") || uri.query().is_some() {
        return Err(wrong("a path does not belong there"));
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => Err(wrong("users do not belong there")),
        Some(authority) if !authority.host().is_empty() => {
            let port = match authority.as_str().strip_prefix(authority.host()) {
                Some("") => HTTPS,
                _ => authority.port_u16().filter(|port| *port > 0).ok_or_else(|| wrong("its port is no port"))?,
            };
            Ok(format!("{}:{port}", authority.host()))
        }
        _ => Err(wrong("write it as host:port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Trust;

    /// What a child finds after `fork`: lines marked with another process, and a lock that nobody will ever release.
    #[test]
    fn lines_of_another_process_are_left_alone() {
        let pool = Pool::new(Settings { trust: Trust::Anyone, ..Settings::of(["127.0.0.1:1"]) }).unwrap();
        let mut foreign = Lines::new(&pool.nodes, &pool.tls, &pool.settings, &pool.handshakes);
        foreign.process ^= 1;
        let foreign = Arc::new(foreign);
        pool.lines.store(Arc::clone(&foreign));
        let held = foreign.picker.lock().unwrap();
        let own = pool.lines();
        assert_eq!(own.process, process::id());
        assert_eq!(own.pick(&mut Tried::default(), &pool, Duration::MAX), Some(0));
        assert!(Arc::ptr_eq(&own, &pool.lines()), "made once");
        drop(held);
    }

    #[test]
    fn nodes_are_written_in_many_ways() {
        for (text, node) in [
            ("hsm.example", "hsm.example:443"),
            ("hsm.example:8443", "hsm.example:8443"),
            ("https://hsm.example", "hsm.example:443"),
            ("https://10.0.0.1:8443/", "10.0.0.1:8443"),
            ("https://hsm.example/api/v1", "hsm.example:443"),
            ("[::1]:8443", "[::1]:8443"),
            ("https://[2001:db8::1]", "[2001:db8::1]:443"),
        ] {
            assert_eq!(authority(text).unwrap(), node, "{text}");
        }
        for text in ["", "http://hsm", "https://", "hsm/other", "https://u:p@hsm", "hsm:port", "a b", "https://hsm/?x"]
        {
            assert!(matches!(authority(text), Err(Error::Settings(_))), "{text}");
        }
        for text in ["https://u:hidden@hsm", "u:hidden@hsm/x", "u:hid den@hsm"] {
            assert!(!authority(text).unwrap_err().to_string().contains("hid"), "{text}");
        }
    }
}
