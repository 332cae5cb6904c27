//! From settings to a serving HSM, repeated at every reboot.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use casemate_api::KeyType;
use casemate_api::State;
use casemate_api::body::config::{LogLevel as Level, Logging as LoggingConfig, Network};
use casemate_core::config::tls;
use casemate_core::crypto::digest::sha256;
use casemate_core::hsm::BootError;
use casemate_core::hsm::update::UpdateKey;
use casemate_core::platform::stores::Movable;
use casemate_core::platform::{Applied, DeviceKeeper, EraseError, Host, Platform, ServeError, Swap};
use casemate_core::rows::tls_identity::TlsIdentity;
use casemate_core::runtime::Clock;
use casemate_core::store::StoreError;
use casemate_core::store::switch::{Away, Switch};
use casemate_core::{Error, Hsm};

use crate::clock::SystemClock;
use crate::device::FileDevice;
use crate::http::access::FailedState;
use crate::http::edge::Edge;
use crate::http::serve::{self, Bounds, CertSlot};
use crate::observe::listener::{self, Source};
use crate::observe::metrics::{Metrics, StoreName};
use crate::observe::plain::plain;
use crate::observe::syslog::{self, Remote};
use crate::observe::trace::{self, Logging};
use crate::pool::Workers;
use crate::process::{self, End, Exit, FolderError, Stop};
use crate::rng::SystemRng;
use crate::serving::{Serving, names};
use crate::settings::{self, Settings};
use crate::store::{Counted, Embedded, EtcdStore, OpenError, Volume};
use crate::stores::Stores;
use crate::update::{Trust, Updates, current_version};
use tracing::level_filters::LevelFilter;

/// Why `casemated` ended unexpectedly: an exit code and a sentence.
struct Fault(Exit, String);

/// Serves until asked to stop. An error is written to standard error as one sentence.
pub fn run(settings: &Settings) -> Exit {
    match try_run(settings) {
        Ok(()) => Exit::Ok,
        Err(Fault(exit, sentence)) => {
            // If standard error is closed, the error cannot be reported.
            let _ = writeln!(io::stderr(), "casemated: {}", plain(&sentence));
            exit
        }
    }
}

fn try_run(settings: &Settings) -> Result<(), Fault> {
    let failure = |error: io::Error| Fault(Exit::Failure, error.to_string());
    let swap = process::harden().map_err(failure)?;
    let clock = Arc::new(SystemClock::new());
    let metrics = Arc::new(Metrics::new(clock.monotonic()));
    let logging = log(settings, &clock, &metrics)?;
    if swap == process::Swap::Possible {
        tracing::warn!("memory is not locked, so keys may reach swap: raise the memlock limit to unlimited");
    }
    let folder = Folder(settings.data_dir.clone());
    let _lock = process::lock_folder(&folder.0).map_err(|error| {
        let exit = if matches!(error, FolderError::InUse(_)) { Exit::AlreadyRunning } else { Exit::DataFolder };
        Fault(exit, format!("{}: {error}", folder.0.display()))
    })?;
    let trust = settings.update.as_ref().map(trust).transpose()?;
    let whole = fs::canonicalize(&folder.0).map_err(failure)?;
    let updates = Updates::new(whole, trust, current_version());
    metrics.set_store_files(folder.files());
    let listeners = bind(&settings.listen, "--listen")?;
    let metrics_listeners = bind(settings.metrics_listen.as_slice(), "--metrics-listen")?;

    let lifecycle = Arc::new(Lifecycle::default());
    let signalled = lifecycle.clone();
    process::on_signal(move || signalled.shut_down()).map_err(failure)?;
    loop {
        // Logging that was configured through the API before may have been removed by a factory reset.
        logging.apply(settings.log, None);
        let host = Arc::new(Process::new(&lifecycle.stop.load(), folder.marker(), logging.clone()));
        let sockets =
            Sockets { listeners: &listeners, metrics_listeners: &metrics_listeners, failed: settings.failed_state };
        let end = boot(&folder, settings, sockets, clock.clone(), metrics.clone(), &updates, host);
        if !matches!(end, Ok(End::Reboot)) || !lifecycle.next_boot() {
            logging.remote.finish();
            return end.map(|_| ());
        }
        tracing::info!("rebooting");
    }
}

/// The boot cycles of the process: a reboot ends one and begins the next.
#[derive(Default)]
struct Lifecycle {
    /// Stops the current cycle.
    stop: ArcSwap<Stop>,
    /// No further cycle is to begin. Kept apart from `stop`, so that a signal between two cycles is not lost with the
    /// old `stop`.
    over: AtomicBool,
}

impl Lifecycle {
    /// Ends the current cycle, and prevents another.
    fn shut_down(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.stop.load().request(End::Shutdown);
    }

    /// Prepares the next cycle; false if the process is to end.
    fn next_boot(&self) -> bool {
        self.stop.store(Arc::new(Stop::new()));
        // Read only now: a shutdown requested after this line acts on the new `stop`.
        !self.over.load(Ordering::SeqCst)
    }
}

/// Reads the key that signs software updates.
fn trust(update: &settings::Update) -> Result<Trust, Fault> {
    for file in [&update.key, &update.command] {
        Trust::check(file).map_err(|why| Fault(Exit::Settings, why))?;
    }
    let fault = |why: String| Fault(Exit::Settings, format!("update-key {}: {why}", update.key.display()));
    let pem = fs::read(&update.key).map_err(|error| fault(error.to_string()))?;
    let key = UpdateKey::from_pem(&pem).map_err(|why| fault(why.to_owned()))?;
    Ok(Trust { key, command: update.command.clone() })
}

/// Starts logging as configured in the settings.
fn log(settings: &Settings, clock: &Arc<SystemClock>, metrics: &Arc<Metrics>) -> Result<Logging, Fault> {
    let needs_trust = settings.syslog.iter().any(|server| server.tls);
    let tls = needs_trust.then(|| syslog::trust(settings.syslog_ca.as_deref())).transpose();
    let tls = tls.map_err(|why| Fault(Exit::Settings, format!("cannot verify syslog servers: {why}")))?;
    let remote = Remote::start(&settings.syslog, tls, syslog::Timing::default(), clock.clone(), metrics);
    let start = trace::Start {
        level: settings.log,
        format: settings.log_format,
        journal_stream: settings.journal_stream.clone(),
        remote: remote.map_err(|error| Fault(Exit::Failure, error.to_string()))?,
        clock: clock.clone(),
        metrics: metrics.clone(),
    };
    trace::start(start).map_err(|error| Fault(Exit::Failure, error.to_string()))
}

/// The listening sockets, which outlive reboots.
#[derive(Clone, Copy)]
struct Sockets<'a> {
    /// For the API.
    listeners: &'a [TcpListener],
    /// For metrics only.
    metrics_listeners: &'a [TcpListener],
    /// Who may use the API while the HSM is Failed.
    failed: FailedState,
}

fn bind(addresses: &[SocketAddr], flag: &str) -> Result<Vec<TcpListener>, Fault> {
    let bind = |address: &SocketAddr| {
        serve::bind(*address).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    format!("; another program is listening there: choose another address with {flag}")
                }
                _ => String::new(),
            };
            Fault(Exit::PortTaken, format!("cannot listen on {address}: {error}{hint}"))
        })
    };
    addresses.iter().map(bind).collect()
}

/// One boot cycle of the HSM, from opening the stores to a stop.
fn boot(
    folder: &Folder,
    settings: &Settings,
    Sockets { listeners, metrics_listeners, failed }: Sockets<'_>,
    clock: Arc<SystemClock>,
    metrics: Arc<Metrics>,
    updates: &Arc<Updates>,
    host: Arc<Process>,
) -> Result<End, Fault> {
    let stop = host.stop.clone();
    let failure = |error: io::Error| Fault(Exit::Failure, error.to_string());
    // First, because the rest may need the disk space.
    updates.forget();
    folder.finish_erasure()?;
    folder.check_device_key()?;
    let platform = folder.platform(settings, clock.clone(), &metrics, host.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failure)?;
    let hsm = runtime.block_on(Hsm::boot(platform)).map_err(|error| {
        let exit = match error {
            BootError::Store(_) | BootError::File(StoreError::Damaged(_)) => Exit::StoreDamaged,
            BootError::File(_) => Exit::DataFolder,
            BootError::Device(_) | BootError::Sealed(_) => Exit::DeviceKey,
        };
        Fault(exit, format!("{}: {error}", folder.0.display()))
    })?;
    let settled: Vec<_> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let names = names(settled.iter().copied());
    let identity = runtime.block_on(hsm.tls_identity(|platform| fresh_identity(platform, &names)));
    let identity = identity.map_err(|error| Fault(Exit::StoreDamaged, error.to_string()))?;
    let fingerprint = identity.chain.first().map(|leaf| sha256(leaf)).unwrap_or_default();
    let slot = CertSlot::new(identity.chain, &identity.private_key);
    let slot = slot.map_err(|error| {
        Fault(Exit::StoreDamaged, format!("cannot use the stored TLS key and certificate: {error}"))
    })?;
    let slot = Arc::new(slot);

    let source = Arc::new(Source { hsm: hsm.clone(), metrics: metrics.clone(), clock: clock.clone() });
    let edge = Edge::new(hsm.clone(), clock, metrics, updates.clone(), failed);
    let clones = listeners.iter().map(TcpListener::try_clone).collect::<io::Result<_>>().map_err(failure)?;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let bounds = Bounds::within(process::raise_file_limit());
    let running = serve::start(clones, slot.clone(), workers, edge, bounds, &stop).map_err(failure)?;
    let scrape = |listener: &TcpListener| listener::start(listener.try_clone()?, source.clone(), &stop);
    let scrapes = metrics_listeners.iter().map(scrape).collect::<io::Result<Vec<_>>>().map_err(failure)?;
    host.set_server(Serving::new(slot, running.extra_listeners(), settled));
    if let Err(error) = runtime.block_on(hsm.use_stored_network()) {
        tracing::error!(%error, "cannot apply the stored network configuration");
    }
    announce(listeners, &hsm, &fingerprint, folder);
    runtime.block_on(async {
        tokio::select! {
            () = hsm.clone().keep_house() => {}
            () = hsm.clone().keep_probing() => {}
            () = hsm.clone().keep_watching() => {}
            () = hsm.clone().keep_audit() => {}
            () = hsm.clone().keep_index() => {}
            () = stop.requested() => {}
        }
    });
    running.wait();
    for scrape in scrapes {
        // A panic there was logged; it does not stop the HSM.
        let _ = scrape.join();
    }
    runtime.block_on(hsm.stop());
    Ok(stop.end().unwrap_or(End::Shutdown))
}

/// A P-256 key and a self-signed certificate for `names`.
pub fn fresh_identity(platform: &Platform, names: &[String]) -> Result<TlsIdentity, Error> {
    tls::fresh_identity(KeyType::EC_P256, 0, &*platform.rng, names)
}

fn announce(listeners: &[TcpListener], hsm: &Hsm, fingerprint: &[u8; 32], folder: &Folder) {
    let mut out = io::stdout().lock();
    let mut say = |line: &str| {
        // The service does not depend on this output.
        let _ = writeln!(out, "{line}");
    };
    let addresses: Vec<_> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let urls: Vec<_> = addresses.iter().map(|address| format!("https://{address}")).collect();
    let hex: Vec<_> = fingerprint.iter().map(|byte| format!("{byte:02X}")).collect();
    say(&format!("casemated {} is listening on {}", env!("CARGO_PKG_VERSION"), urls.join(", ")));
    say(&format!("  state        {:?}", hsm.state()));
    say(&format!("  data         {}", folder.0.display()));
    let hex = hex.join(":");
    say(&format!("  certificate  SHA-256 {hex}"));
    let host = addresses.first().map(|address| match address.ip().is_unspecified() {
        true => format!("localhost:{}", address.port()),
        false => address.to_string(),
    });
    let host = host.unwrap_or_default();
    match hsm.state() {
        State::Unprovisioned => {
            say(&format!("  next         provision it: casemate --host {host} --pin {hex} provision"));
        }
        State::Locked => {
            say(&format!("  next         unlock it: casemate --host {host} --pin {hex} unlock"));
        }
        State::Operational | State::Failed => {}
    }
}

/// The data folder.
struct Folder(PathBuf);

impl Folder {
    fn marker(&self) -> PathBuf {
        self.0.join("factory-reset")
    }

    fn device_key(&self) -> PathBuf {
        self.0.join("device-key")
    }

    /// What is measured: the first store of users and keys, and the device's own store.
    fn files(&self) -> [PathBuf; 2] {
        [self.0.join("store.redb"), self.local()]
    }

    fn local(&self) -> PathBuf {
        self.0.join("local.redb")
    }

    /// All stores there are, in files and in folders.
    fn stores(&self) -> Vec<PathBuf> {
        let local = Some(self.local()).filter(|local| local.exists());
        Stores::found_in(&self.0).into_iter().map(|(_, path)| path).chain(local).collect()
    }

    fn device(&self) -> Arc<FileDevice> {
        Arc::new(FileDevice::new(self.device_key(), Arc::new(SystemRng)))
    }

    /// Completes a factory reset that was begun: the Device Key first, then the stores, the marker last.
    fn finish_erasure(&self) -> Result<(), Fault> {
        if !self.marker().exists() {
            return Ok(());
        }
        let fault = |why: String| Fault(Exit::DataFolder, format!("cannot finish the factory reset: {why}"));
        self.device().destroy().map_err(|error| fault(error.to_string()))?;
        for store in self.stores() {
            let removed = if store.is_dir() { fs::remove_dir_all(&store) } else { fs::remove_file(&store) };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error.to_string())),
                _ => {}
            }
        }
        sync(&self.0).map_err(|error| fault(error.to_string()))?;
        fs::remove_file(self.marker()).map_err(|error| fault(error.to_string()))?;
        sync(&self.0).map_err(|error| fault(error.to_string()))
    }

    /// Refuses stores whose Device Key is missing, instead of creating a new one that opens nothing.
    fn check_device_key(&self) -> Result<(), Fault> {
        let stored = !self.stores().is_empty();
        if stored && !self.device_key().exists() {
            let sentence = format!(
                "{} is missing, but stores in this folder are sealed under it; put the file back, or move the folder away to start with a new HSM",
                self.device_key().display()
            );
            return Err(Fault(Exit::DeviceKey, sentence));
        }
        Ok(())
    }

    fn platform(
        &self,
        settings: &Settings,
        clock: Arc<SystemClock>,
        metrics: &Arc<Metrics>,
        host: Arc<Process>,
    ) -> Result<Platform, Fault> {
        // The key is created before the stores, so that stores without a key are never the result of a crash.
        self.device().load().map_err(|error| Fault(Exit::DeviceKey, error.to_string()))?;
        let volume = Volume::of(&self.0);
        let counted = |name, store| Arc::new(Counted { store, name, metrics: metrics.clone(), clock: clock.clone() });
        let (switch, movable) = match &settings.etcd {
            Some(etcd) => (Switch::new(open_etcd(etcd)?), None),
            None => {
                let switch = Switch::new(Arc::new(Away("the store is not open yet".into())));
                let keeper = Stores::new(self.0.clone(), volume.clone(), settings.peers.clone());
                (switch.clone(), Some(Movable { switch, keeper }))
            }
        };
        let store = counted(StoreName::Shared, switch.clone());
        let local = counted(StoreName::Local, open(&self.local(), LOCAL_CACHE_BYTES, &volume)?);
        volume.keep_ballast();
        Ok(Platform {
            rng: Arc::new(SystemRng),
            store,
            switch,
            movable,
            local,
            device: self.device(),
            clock: clock.clone(),
            pool: Workers::per_core().map_err(|error| Fault(Exit::Failure, error.to_string()))?,
            host,
        })
    }
}

/// Cache of the device's own store, in bytes.
const LOCAL_CACHE_BYTES: usize = 4 << 20;

/// The shared store in etcd. It need not be reachable.
fn open_etcd(etcd: &settings::Etcd) -> Result<Arc<EtcdStore>, Fault> {
    let wrong = |why| Fault(Exit::Settings, why);
    let identity = etcd.identity.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
    let tls = match (&etcd.ca, identity) {
        (Some(ca), identity) => Some(casemate_etcd::Tls::read(ca, identity).map_err(wrong)?),
        (None, Some(_)) => return Err(wrong("etcd-cert: etcd-ca must be set as well".into())),
        (None, None) => None,
    };
    let settings = casemate_etcd::Settings::of(etcd.endpoints.clone(), tls);
    let client = casemate_etcd::Client::new(settings).map_err(wrong)?;
    EtcdStore::start(client, etcd.prefix.clone().into()).map_err(|error| Fault(Exit::Failure, error.to_string()))
}

fn open(file: &Path, cache_bytes: usize, volume: &Arc<Volume>) -> Result<Arc<Embedded>, Fault> {
    Embedded::open(file, cache_bytes, volume).map_err(|error| {
        let exit = match &error {
            OpenError::Busy => Exit::AlreadyRunning,
            OpenError::NotAStore | OpenError::Damaged(_) => Exit::StoreDamaged,
            OpenError::Full | OpenError::Io(_) => Exit::DataFolder,
        };
        Fault(exit, format!("{}: {error}", file.display()))
    })
}

/// The process, as the core controls it.
struct Process {
    stop: Stop,
    marker: PathBuf,
    logging: Logging,
    /// The server, once it runs.
    serving: OnceLock<Serving>,
}

impl Process {
    fn new(stop: &Stop, marker: PathBuf, logging: Logging) -> Self {
        Self { stop: stop.clone(), marker, logging, serving: OnceLock::new() }
    }

    /// Sets the server that is configured through this host.
    fn set_server(&self, serving: Serving) {
        // There is one server per boot cycle.
        let _ = self.serving.set(serving);
    }
}

impl Host for Process {
    fn erase(&self) -> Result<(), EraseError> {
        let durably = |file: &File| {
            file.sync_all()?;
            self.marker.parent().map_or(Ok(()), sync)
        };
        // After a factory reset, the reserved disk space is not needed.
        let marked = match mark(&self.marker, durably) {
            Err(_) if self.marker.parent().is_some_and(|folder| Volume::of(folder).release_ballast()) => {
                mark(&self.marker, durably)
            }
            marked => marked,
        };
        marked.map_err(|error| EraseError::NotMarked { place: self.marker.display().to_string(), cause: error.into() })
    }

    fn reboot(&self) {
        self.stop.request(End::Reboot);
    }

    fn shutdown(&self) {
        self.stop.request(End::Shutdown);
    }

    fn serve_with(&self, identity: &TlsIdentity) -> Result<Swap, ServeError> {
        self.serving.get().ok_or(ServeError::Starting)?.serve_with(identity)
    }

    fn names(&self) -> Vec<String> {
        self.serving.get().map(Serving::names).unwrap_or_default()
    }

    fn use_network(&self, network: &Network) -> Applied {
        // A configuration stored before the server runs is applied once it does.
        self.serving.get().map(|serving| serving.use_network(network)).unwrap_or_default()
    }

    fn log_to(&self, config: &LoggingConfig) {
        let level = match config.log_level {
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warning => LevelFilter::WARN,
            Level::Error => LevelFilter::ERROR,
        };
        self.logging.apply(level, config.server());
    }
}

/// Creates the marker of a factory reset. If it cannot be made durable it is removed: a reset that was refused must not
/// happen at the next boot after all. A marker from before is kept, as that reset was acknowledged.
fn mark(marker: &Path, durably: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let (file, fresh) = match File::create_new(marker) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (File::open(marker)?, false),
        created => (created?, true),
    };
    let done = durably(&file);
    if done.is_err() && fresh {
        // The first error is the one to report.
        let _ = fs::remove_file(marker);
        let _ = marker.parent().map_or(Ok(()), sync);
    }
    done
}

/// Makes changes in a folder durable.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_shutdown_between_two_boots_is_not_lost() {
        let lifecycle = Lifecycle::default();
        lifecycle.stop.load().request(End::Reboot);
        assert!(lifecycle.next_boot());
        assert_eq!(lifecycle.stop.load().end(), None);
        let before = lifecycle.stop.load_full();
        lifecycle.shut_down();
        assert_eq!(before.end(), Some(End::Shutdown));
        assert!(!lifecycle.next_boot());
    }

    #[test]
    fn a_refused_reset_leaves_no_marker() {
        let folder = Scratch::new();
        let marker = folder.path("factory-reset");
        let fails = |_: &File| Err(io::Error::other("the disk is gone"));
        assert!(mark(&marker, fails).is_err());
        assert!(!marker.exists());
        mark(&marker, File::sync_all).unwrap();
        assert!(mark(&marker, fails).is_err());
        assert!(marker.exists(), "this one was promised");
    }
}
