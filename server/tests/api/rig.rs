//! Builds the servers of these tests: real ones, on simulated stores, clock and device.
//!
//! Provisioning and creating users costs seconds of password hashing, so the world that most tests need is made once
//! and copied: same Device Key, same rows, unattended boot on for the copy's first boot and then off again.
//!
//! With `CASEMATE_TEST_STORE=etcd` the rows are in a real etcd, each rig under a prefix of its own, with the simulated faults
//! in front of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::body::config::{Logging, Network};
use casemate_api::limits::STORE_BEAT_MS;
use casemate_api::{State, UserId};
use casemate_core::Hsm;
use casemate_core::hsm::update::Version;
use casemate_core::platform::{Applied, DeviceKeeper, EraseError, Host, Platform, ServeError, Swap};
use casemate_core::rows::tls_identity::TlsIdentity;
use casemate_core::runtime::first;
use casemate_core::sim::{Sim, SimHost, SimLink, SimRng, SimStore};
use casemate_core::store::switch::Switch;
use casemate_core::store::{Path, Store};
use casemate_etcd::Address;
use casemate_server::http::access::FailedState;
use casemate_server::http::edge::Edge;
use casemate_server::http::serve::{self, Bounds, CertSlot, Running};
use casemate_server::observe::metrics::Metrics;
use casemate_server::pool::Workers;
use casemate_server::process::{End, Stop};
use casemate_server::run::fresh_identity;
use casemate_server::serving::Serving;
use casemate_server::store::EtcdStore;
use casemate_server::update::Updates;
use casemate_testkit::EtcdServer;
use pollster::block_on;
use rustls::ClientConfig;
use serde_json::{Value, json};

use crate::wire::{Reply, Wire, trusting};

/// The base path of the API.
pub const BASE: &str = "/api/v1";
/// The unlock passphrase of every provisioned rig.
pub const UNLOCK: &str = "the unlock passphrase";
/// The time at which every provisioned rig was provisioned.
pub const SYSTEM_TIME: &str = "2030-01-02T03:04:05Z";

/// The users of every provisioned rig beside `admin`. `ns1` and `ns2` exist, `ghost` does not.
pub const USERS: [(&str, &str); 13] = [
    ("operator", "Operator"),
    ("operator2", "Operator"),
    ("metrics", "Metrics"),
    ("backup", "Backup"),
    ("ns1~admin", "Administrator"),
    ("ns1~operator", "Operator"),
    ("ns1~metrics", "Metrics"),
    ("ns1~backup", "Backup"),
    ("ns2~admin", "Administrator"),
    ("ns2~operator", "Operator"),
    ("ghost~admin", "Administrator"),
    ("ghost~operator", "Operator"),
    ("ghost~metrics", "Metrics"),
];

/// The passphrase of a user of a provisioned rig.
pub fn passphrase_of(user: &str) -> String {
    format!("passphrase of {user}")
}

/// One HSM and its server.
pub struct Rig {
    pub sim: Sim,
    pub hsm: Arc<Hsm>,
    /// The way to the store, of a member of a cluster.
    link: Option<Arc<SimLink>>,
    failed: FailedState,
    updates: Arc<Updates>,
    server: Server,
    connections: Mutex<Vec<(IpAddr, Wire)>>,
}

/// The process around the HSM: power switch and log of the simulation, and the real server.
struct Process {
    sim: Arc<SimHost>,
    serving: OnceLock<Serving>,
}

impl Host for Process {
    fn erase(&self) -> Result<(), EraseError> {
        self.sim.erase()
    }
    fn reboot(&self) {
        self.sim.reboot();
    }
    fn shutdown(&self) {
        self.sim.shutdown();
    }
    fn serve_with(&self, identity: &TlsIdentity) -> Result<Swap, ServeError> {
        self.serving.get().unwrap().serve_with(identity)
    }
    fn names(&self) -> Vec<String> {
        self.serving.get().unwrap().names()
    }
    fn use_network(&self, network: &Network) -> Applied {
        self.serving.get().unwrap().use_network(network)
    }
    fn log_to(&self, logging: &Logging) {
        self.sim.log_to(logging);
    }
}

/// What a boot creates and a stop ends.
struct Server {
    address: SocketAddr,
    client: Arc<ClientConfig>,
    stop: Stop,
    running: Option<Running>,
}

/// The world that most tests want, as rows.
struct World {
    shared: Vec<(Path, Vec<u8>)>,
    local: Vec<(Path, Vec<u8>)>,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let rig = Rig::unprovisioned();
        rig.provision().is(204);
        let admin = rig.admin();
        let create = |id: &str, role: &str| {
            let body = json!({"realName": id, "role": role, "passphrase": passphrase_of(id)});
            rig.admin().put(&format!("/users/{id}"), body).is(201);
        };
        USERS.iter().for_each(|(id, role)| create(id, role));
        admin.put("/namespaces/ns1", "").is(204);
        admin.put("/namespaces/ns2", "").is(204);
        // One key of the same id in the root and in a namespace.
        for user in ["admin", "ns1~admin"] {
            rig.user(user).put("/keys/k", ed25519()).is(204);
            rig.user(user).content_type("application/octet-stream").put("/keys/k/cert", "a certificate").is(201);
        }
        admin.put("/config/unattended-boot", json!({"status": "on"})).is(204);
        World { shared: rig.sim.store.raw_rows(), local: rig.sim.local.raw_rows() }
    })
}

/// An Ed25519 key that may sign, as a body of an import. Its seed is the one of RFC 8032 §7.1, test 1.
pub fn ed25519() -> Value {
    let seed = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
    json!({"mechanisms": ["EdDSA_Signature"], "type": "Curve25519", "private": {"data": seed}})
}

/// A request of [`ed25519`] to sign.
pub fn sign_something() -> Value {
    json!({"mode": "EdDSA", "message": "c29tZXRoaW5n"})
}

impl Rig {
    /// A new device.
    pub fn unprovisioned() -> Self {
        Self::boot(new_sim())
    }

    /// A new device whose store others share.
    pub fn sharing() -> Self {
        let sim = new_sim();
        sim.store.share(true);
        Self::boot(sim)
    }

    /// A provisioned member of a cluster, which has all rows itself, with an Operator and the key `k`.
    pub fn member() -> Self {
        let sim = new_sim();
        sim.store.share(true);
        let link = SimLink::new(sim.store.clone(), sim.clock.clone(), 1).with_own_copy();
        let rig = Self::boot_by(sim, Some(Arc::new(link)));
        rig.provision().is(204);
        let operator = json!({"realName": "", "role": "Operator", "passphrase": passphrase_of("operator")});
        rig.admin().put("/users/operator", operator).is(201);
        rig.admin().put("/keys/k", ed25519()).is(204);
        rig
    }

    /// Cuts a member off from all others, or ends that.
    pub fn cut_off(&self, cut: bool) {
        self.link.as_ref().expect("a member").cut(cut);
    }

    /// Lets a member be confirmed some times.
    #[expect(clippy::disallowed_methods, reason = "the thread that follows the store lives in real time")]
    pub fn confirm(&self) {
        for _ in 0..4 {
            self.advance(Duration::from_millis(STORE_BEAT_MS));
            let begun = Instant::now();
            while self.hsm.store_report().confirmed.is_none_or(|(age, _)| age >= Duration::from_millis(STORE_BEAT_MS)) {
                assert!(begun.elapsed() < Duration::from_secs(60), "it is not confirmed");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Another new device on the store of `first`.
    pub fn beside(first: &Self) -> Self {
        let sim = Sim { store: first.sim.store.clone(), ..Sim::new(2) };
        sim.device.load().unwrap();
        Self::boot(sim)
    }

    /// The usual world, after a cold boot.
    pub fn locked() -> Self {
        let mut rig = Self::operational();
        rig.reboot();
        assert_eq!(rig.hsm.state(), State::Locked);
        rig
    }

    /// The usual world, unlocked.
    pub fn operational() -> Self {
        let sim = new_sim();
        world().shared.iter().for_each(|(path, value)| sim.store.tamper(path.clone(), value.clone()));
        world().local.iter().for_each(|(path, value)| sim.local.tamper(path.clone(), value.clone()));
        let rig = Self::boot(sim);
        let op = rig.hsm.operational().expect("the world boots unattended");
        let admin = block_on(op.unauthenticated_caller(&UserId::parse("admin").unwrap())).unwrap();
        block_on(op.set_unattended_boot(&admin, false)).unwrap();
        rig
    }

    /// The usual world with its store gone.
    pub fn failed() -> Self {
        Self::failed_under(FailedState::Closed)
    }

    /// The same with this setting of `failed-state`.
    pub fn failed_under(failed: FailedState) -> Self {
        let mut rig = Self::operational();
        rig.failed = failed;
        rig.reboot();
        rig.unlock().is(204);
        rig.sim.store.fail(true);
        // A look that fails is not enough: what counts is the time since the last one that did not.
        block_on(rig.hsm.probe());
        let away = u64::from(casemate_api::limits::STORE_AWAY_S);
        rig.sim.clock.advance(Duration::from_secs(away - 1));
        block_on(rig.hsm.probe());
        assert_eq!(rig.hsm.state(), State::Operational);
        rig.sim.clock.advance(Duration::from_secs(1));
        block_on(rig.hsm.probe());
        assert_eq!(rig.hsm.state(), State::Failed);
        rig
    }

    /// A rig in this state.
    pub fn in_state(state: State) -> Self {
        match state {
            State::Unprovisioned => Self::unprovisioned(),
            State::Locked => Self::locked(),
            State::Operational => Self::operational(),
            State::Failed => Self::failed(),
        }
    }

    fn boot(sim: Sim) -> Self {
        Self::boot_by(sim, None)
    }

    fn boot_by(sim: Sim, link: Option<Arc<SimLink>>) -> Self {
        let updates = Updates::new("/nonexistent".into(), None, Version { major: 3, minor: 1 });
        let failed = FailedState::Closed;
        let (hsm, server) = boot(&sim, link.as_ref(), &updates, failed);
        Self { sim, hsm, link, updates, failed, server, connections: Mutex::default() }
    }

    /// Stops and boots again on the same stores and device, as a power cycle would.
    pub fn reboot(&mut self) {
        self.stop();
        (self.hsm, self.server) = boot(&self.sim, self.link.as_ref(), &self.updates, self.failed);
    }

    /// Boots again with these updates.
    pub fn with_updates(mut self, updates: Arc<Updates>) -> Self {
        self.updates = updates;
        self.reboot();
        self.unlock().is(204);
        self
    }

    fn stop(&mut self) {
        self.connections.lock().unwrap().clear();
        self.server.stop.request(End::Shutdown);
        if let Some(running) = self.server.running.take() {
            running.wait();
        }
    }

    /// Whether the rows are in a real store. For tests that count calls of a store and let them take simulated time: there the
    /// watch of the caches makes calls as well. Prints that such a test is skipped.
    #[expect(clippy::print_stdout, reason = "a skipped test is to be seen")]
    pub fn store_is_real(&self) -> bool {
        let real = self.sim.store.is_shared();
        if real {
            println!("skipped: it needs the simulated store");
        }
        real
    }

    /// Provisions with the usual passphrases.
    pub fn provision(&self) -> Reply {
        let body =
            json!({"unlockPassphrase": UNLOCK, "adminPassphrase": passphrase_of("admin"), "systemTime": SYSTEM_TIME});
        self.anonymous().post("/provision", body)
    }

    /// Unlocks with the usual passphrase.
    pub fn unlock(&self) -> Reply {
        self.anonymous().post("/unlock", json!({"passphrase": UNLOCK}))
    }

    /// The same from another address of this machine.
    pub fn unlock_from(&self, source: &str) -> Reply {
        self.anonymous().from(source).post("/unlock", json!({"passphrase": UNLOCK}))
    }

    /// Advances the platform's clock, for the limiter and everything else that uses it.
    pub fn advance(&self, time: Duration) {
        self.sim.clock.advance(time);
    }

    /// A client without credentials.
    pub fn anonymous(&self) -> Client<'_> {
        let headers = vec![("host".into(), "hsm".into())];
        Client { rig: self, source: Ipv4Addr::LOCALHOST.into(), headers, content_type: Sent::Usual }
    }

    /// A client with these credentials.
    pub fn login(&self, user: &str, passphrase: &str) -> Client<'_> {
        let basic = BASE64_STANDARD.encode(format!("{user}:{passphrase}"));
        self.anonymous().header("authorization", &format!("Basic {basic}"))
    }

    /// One of [`USERS`].
    pub fn user(&self, user: &str) -> Client<'_> {
        self.login(user, &passphrase_of(user))
    }

    /// The first Administrator.
    pub fn admin(&self) -> Client<'_> {
        self.user("admin")
    }

    /// An Operator.
    pub fn operator(&self) -> Client<'_> {
        self.user("operator")
    }

    /// A connection of its own, for tests that misbehave.
    pub fn connect(&self) -> Wire {
        self.connect_from(Ipv4Addr::LOCALHOST.into())
    }

    /// Address and trusted certificate of the server, for other kinds of clients.
    pub fn server(&self) -> (SocketAddr, ClientConfig) {
        (self.server.address, (*self.server.client).clone())
    }

    fn connect_from(&self, source: IpAddr) -> Wire {
        Wire::connect(self.server.client.clone(), source, self.server.address)
    }

    /// Uses an idle connection, or opens one.
    fn exchange(&self, source: IpAddr, method: &str, request: &[u8]) -> Reply {
        let mut connections = self.connections.lock().unwrap();
        let free = connections.iter().position(|(from, _)| *from == source);
        let free = free.map(|at| connections.swap_remove(at).1);
        drop(connections);
        let mut wire = free.unwrap_or_else(|| self.connect_from(source));
        wire.send(request);
        let reply = wire.reply(method);
        if reply.header("connection") != Some("close") {
            self.connections.lock().unwrap().push((source, wire));
        }
        reply
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The Device Key comes from the seed, everything drawn later is random, so that copies of the world never draw the
/// same.
#[expect(clippy::disallowed_methods, reason = "a setting of the tests")]
fn new_sim() -> Sim {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1_000);
    let mut sim = Sim::new(1);
    sim.device.load().unwrap();
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    sim.rng = Arc::new(SimRng::new(number));
    match std::env::var("CASEMATE_TEST_STORE").as_deref() {
        Err(_) => {}
        Ok("etcd") => sim.store = Arc::new(SimStore::in_front_of(in_etcd(&format!("/rig/{number}/")), number)),
        Ok(other) => panic!("CASEMATE_TEST_STORE: `{other}` is not etcd"),
    }
    sim
}

fn in_etcd(prefix: &str) -> Arc<EtcdStore> {
    // All tests share it. It ends with the process.
    static SERVER: Mutex<Option<EtcdServer>> = Mutex::new(None);
    let endpoints = SERVER.lock().unwrap().get_or_insert_with(|| EtcdServer::start_plain(1, &[])).endpoints();
    let endpoints = endpoints.iter().map(|endpoint| Address::parse(endpoint).unwrap()).collect();
    let client = casemate_etcd::Client::new(casemate_etcd::Settings::of(endpoints, None)).unwrap();
    EtcdStore::start(client, prefix.into()).unwrap()
}

fn boot(sim: &Sim, link: Option<&Arc<SimLink>>, updates: &Arc<Updates>, failed: FailedState) -> (Arc<Hsm>, Server) {
    let host = Arc::new(Process { sim: sim.host.clone(), serving: OnceLock::new() });
    let mut platform = Platform { pool: Workers::start(2, 2).unwrap(), host: host.clone(), ..sim.platform() };
    if let Some(link) = link {
        platform.switch = Switch::new(link.clone());
        platform.store = platform.switch.clone();
    }
    let hsm = block_on(Hsm::boot(platform)).unwrap();
    let server = serve(sim, &hsm, &host, updates, failed);
    (hsm, server)
}

fn serve(sim: &Sim, hsm: &Arc<Hsm>, host: &Process, updates: &Arc<Updates>, failed: FailedState) -> Server {
    updates.forget();
    let names = ["IP:127.0.0.1".to_owned()];
    let identity = block_on(hsm.tls_identity(|platform| fresh_identity(platform, &names))).unwrap();
    let client = trusting(identity.chain[0].clone());
    let slot = Arc::new(CertSlot::new(identity.chain, &identity.private_key).unwrap());
    let metrics = Arc::new(Metrics::new(Duration::ZERO));
    let edge = Edge::new(hsm.clone(), sim.clock.clone(), metrics, updates.clone(), failed);
    let listener = serve::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let stop = Stop::new();
    let bounds = Bounds { grace: Duration::from_secs(2), ..Bounds::default() };
    let running = serve::start(vec![listener], slot.clone(), 2, edge, bounds, &stop).unwrap();
    assert!(host.serving.set(Serving::new(slot, running.extra_listeners(), vec![address])).is_ok());
    block_on(hsm.use_stored_network()).unwrap();
    if sim.store.is_shared() {
        let (hsm, stop) = (hsm.clone(), stop.clone());
        // As `casemated` does it. Without it nothing cached would be used.
        std::thread::spawn(move || block_on(first(hsm.keep_watching(), stop.requested())));
    }
    Server { address, client, stop, running: Some(running) }
}

/// A client that sends requests.
#[derive(Clone)]
pub struct Client<'a> {
    rig: &'a Rig,
    source: IpAddr,
    headers: Vec<(String, String)>,
    content_type: Sent,
}

#[derive(Clone)]
enum Sent {
    /// `application/json` with a JSON body, otherwise nothing.
    Usual,
    Nothing,
    This(String),
}

/// A request body.
#[derive(Clone)]
pub struct Content {
    bytes: Vec<u8>,
    json: bool,
}

impl From<Value> for Content {
    fn from(json: Value) -> Self {
        Self { bytes: json.to_string().into(), json: true }
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self { bytes: text.into(), json: !text.is_empty() }
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, json: false }
    }
}

impl Client<'_> {
    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this type of body.
    pub fn content_type(mut self, media: &str) -> Self {
        self.content_type = Sent::This(media.into());
        self
    }

    /// Without a Content-Type.
    pub fn untyped(mut self) -> Self {
        self.content_type = Sent::Nothing;
        self
    }

    /// From another address of this machine.
    pub fn from(mut self, source: &str) -> Self {
        self.source = source.parse().unwrap();
        self
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "")
    }

    pub fn post(&self, path: &str, body: impl Into<Content>) -> Reply {
        self.send("POST", path, body)
    }

    pub fn put(&self, path: &str, body: impl Into<Content>) -> Reply {
        self.send("PUT", path, body)
    }

    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, "")
    }

    /// Any method on a path below [`BASE`].
    pub fn send(&self, method: &str, path: &str, body: impl Into<Content>) -> Reply {
        self.send_to(method, &format!("{BASE}{path}"), body)
    }

    /// Any method on any target.
    pub fn send_to(&self, method: &str, target: &str, body: impl Into<Content>) -> Reply {
        let Content { bytes, json } = body.into();
        let mut request = self.head(method, target, json);
        if !bytes.is_empty() || method == "POST" || method == "PUT" {
            request.extend_from_slice(format!("content-length: {}\r\n", bytes.len()).as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(&bytes);
        let mut reply = self.rig.exchange(self.source, method, &request);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        reply.asked = format!("{method} {target} {shown}");
        reply
    }

    /// The request line and the headers, without the empty line after them.
    pub fn head(&self, method: &str, target: &str, json: bool) -> Vec<u8> {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match &self.content_type {
            Sent::Usual if json => head.push_str("content-type: application/json\r\n"),
            Sent::Usual | Sent::Nothing => {}
            Sent::This(media) => head.push_str(&format!("content-type: {media}\r\n")),
        }
        head.into_bytes()
    }
}
