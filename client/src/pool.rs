//! The connections of a client, and what it knows about its nodes.
//!
//! Both belong to the process that made them. A child of `fork` must not write into its parent's TLS streams, and a
//! lock that another thread of the parent held stays locked in the child for ever. So everything with a lock or a
//! socket is in [`Connections`], marked with the id of its process. A child finds another id, does not touch these
//! connections and makes its own. There are no threads: the caller does all work.

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
use crate::transport::{NoLookup, TlsConnector};

/// A client's nodes, and the connections of this process to them.
pub(crate) struct Pool {
    /// `host:port`, as errors name them.
    pub(crate) nodes: Vec<String>,
    pub(crate) settings: Settings,
    /// Only a template: its store of TLS sessions has a lock, so each process gets a clone with a store of its own.
    tls: ClientConfig,
    connections: ArcSwap<Connections>,
    /// TLS handshakes of this client in this process. After a fork, parent and child count separately.
    pub(crate) handshakes: Arc<AtomicU64>,
}

/// The connections of one process, and what it knows about the nodes.
pub(crate) struct Connections {
    process: u32,
    pub(crate) agent: ureq::Agent,
    picker: Mutex<Picker>,
    began: Instant,
}

impl Pool {
    pub(crate) fn new(mut settings: Settings) -> Result<Self, Error> {
        // Longer limits mean nothing, and could overflow an `Instant`.
        for limit in [&mut settings.connect, &mut settings.request, &mut settings.deadline, &mut settings.pause] {
            *limit = (*limit).min(Duration::from_secs(24 * 3600));
        }
        let nodes = settings.nodes.iter().map(|node| authority(node)).collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() || nodes.len() > CLIENT_NODES_MAX {
            return Err(Error::Settings(format!("a client needs 1 to {CLIENT_NODES_MAX} nodes")));
        }
        let tls = tls::config(&settings.trust)?;
        let handshakes = Arc::default();
        let connections = ArcSwap::from_pointee(Connections::new(&nodes, &tls, &settings, &handshakes));
        Ok(Self { nodes, settings, tls, connections, handshakes })
    }

    /// The connections of this process.
    pub(crate) fn connections(&self) -> Arc<Connections> {
        let connections = self.connections.load_full();
        if connections.process == process::id() {
            return connections;
        }
        let own = Arc::new(Connections::new(&self.nodes, &self.tls, &self.settings, &self.handshakes));
        // Dropping the parent's connections closes the child's copies of the sockets and writes nothing to them.
        self.connections.store(Arc::clone(&own));
        own
    }

    /// The name of `node` in errors.
    pub(crate) fn name(&self, node: usize) -> String {
        self.nodes.get(node).cloned().unwrap_or_default()
    }
}

impl Connections {
    fn new(nodes: &[String], tls: &ClientConfig, settings: &Settings, handshakes: &Arc<AtomicU64>) -> Self {
        let mut tls = tls.clone();
        tls.resumption = Resumption::in_memory_sessions(4 * CLIENT_NODES_MAX);
        let connector =
            TlsConnector { tls: Arc::new(tls), connect: settings.connect, handshakes: Arc::clone(handshakes) };
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
        // Clients that start at the same time begin at different nodes.
        let first = usize::try_from(process).unwrap_or_default();
        Self {
            process,
            agent: ureq::Agent::with_parts(config, connector, NoLookup),
            picker: Mutex::new(Picker::new(nodes.len(), first)),
            began: clock::now(),
        }
    }

    /// The next node for a call that has tried `tried` and has `time_left`. If the picker says so, a node is probed
    /// first: asked whether it is ready.
    pub(crate) fn pick(&self, tried: &mut Tried, pool: &Pool, time_left: Duration) -> Option<usize> {
        loop {
            let node = match self.with_picker(|picker, now_ms| picker.pick(now_ms, *tried))? {
                Pick::Use(node) => return Some(node),
                Pick::Probe(node) => node,
            };
            tried.probed();
            // Most of a short time is kept for the call itself.
            if self.is_ready(&pool.name(node), Duration::from_millis(CLIENT_PROBE_MS).min(time_left / 4)) {
                self.with_picker(|picker, _| picker.ready(node));
            } else {
                self.failed(node);
            }
        }
    }

    /// Notes that `node` works.
    pub(crate) fn succeeded(&self, node: usize) {
        self.with_picker(|picker, _| picker.succeeded(node));
    }

    /// Notes that `node` failed.
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

/// The port of HTTPS (RFC 9110 §4.2.2).
const HTTPS: u16 = 443;

/// `host:port` out of `host`, `host:port`, `https://host:port` or NetHSM's `https://host:port/api/v1`. The port is 443
/// unless one is given.
fn authority(node: &str) -> Result<String, Error> {
    // The text before an @ may contain a passphrase.
    let shown = if node.contains('@') { "the address".into() } else { format!("{node:?}") };
    let wrong = |why: &str| Error::Settings(format!("{shown} is not the address of an HSM: {why}"));
    let text = if node.contains("://") { node.to_owned() } else { format!("https://{node}") };
    let uri: Uri = text.parse().map_err(|_| wrong("write it as host:port"))?;
    if uri.scheme_str() != Some("https") {
        return Err(wrong("only https is supported"));
    }
    if !matches!(uri.path().trim_end_matches('/'), "" | "/api/v1") || uri.query().is_some() {
        return Err(wrong("it must not have a path"));
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => Err(wrong("it must not have a user name")),
        Some(authority) if !authority.host().is_empty() => {
            let port = match authority.as_str().strip_prefix(authority.host()) {
                Some("") => HTTPS,
                _ => authority
                    .port_u16()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| wrong("its port is not a number from 1 to 65535"))?,
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

    /// The situation of a child after `fork`: connections of another process, and a lock that nobody will ever release.
    #[test]
    fn connections_of_another_process_are_not_touched() {
        let pool = Pool::new(Settings { trust: Trust::Anyone, ..Settings::of(["127.0.0.1:1"]) }).unwrap();
        let mut foreign = Connections::new(&pool.nodes, &pool.tls, &pool.settings, &pool.handshakes);
        foreign.process ^= 1;
        let foreign = Arc::new(foreign);
        pool.connections.store(Arc::clone(&foreign));
        let held = foreign.picker.lock().unwrap();
        let own = pool.connections();
        assert_eq!(own.process, process::id());
        assert_eq!(own.pick(&mut Tried::default(), &pool, Duration::MAX), Some(0));
        assert!(Arc::ptr_eq(&own, &pool.connections()), "created once");
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
