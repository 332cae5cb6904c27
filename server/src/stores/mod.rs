//! The stores of this node, for the core: files in the data folder, and an etcd that is run here as a member of a cluster.

mod peers;
mod recover;
mod silence;
mod upkeep;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use casemate_api::limits::{
    MEMBER_FILE_AGAIN_MS, MEMBER_FILE_MS, MEMBER_POLL_MS, MEMBER_QUOTA_MAX_BYTES, MEMBER_RECOVER_MS, MEMBER_START_MS,
};
use casemate_core::platform::stores::{
    Begin, EtcdError, EtcdFile, EtcdReport, Member, MemberError, PeerIdentity, Place, PlaceKind, Sight, Standing,
    StoreKeeper,
};
use casemate_core::runtime::{BoxFuture, Rng};
use casemate_core::store::{Snapshot, Store, StoreError};
use casemate_etcd::{
    Client, DataFile, Error as EtcdCall, MemberError as Refusal, MemberKind, Settings as ClientSettings,
};
use casemate_etcd::{proto, when_healthy};
use tokio_rustls::TlsConnector;

use self::recover::FileSnapshot;
use crate::member::{Config, Identity, MemberState, PeerTls, Program, Start};
use crate::rng::SystemRng;
use crate::settings::{ETCD_PREFIX, Peers};
use crate::store::{Embedded, EtcdStore, OpenError, Volume};

/// The stores in a data folder.
pub struct Stores {
    folder: PathBuf,
    volume: Arc<Volume>,
    peers: Peers,
    running: Mutex<Option<Arc<Running>>>,
    /// What was last read of the file of an etcd that has ended. Locked while it is read.
    file: Arc<tokio::sync::Mutex<Option<KnownFile>>>,
}

/// What a file said when it was of this length and last written at this time, and when it was read.
struct KnownFile {
    stamp: (u64, Option<SystemTime>),
    read: tokio::time::Instant,
    said: Option<EtcdFile>,
}

/// An etcd that runs.
struct Running {
    member: crate::member::Member,
    folder: PathBuf,
    /// The cluster CA that it trusts, in DER.
    authority: Mutex<Vec<u8>>,
    /// With what other members are asked. `None`: it has none.
    tls: Mutex<Option<TlsConnector>>,
    /// Its database is defragmented, so it answers nothing.
    defragments: AtomicBool,
    /// The store in it, once it is there.
    store: OnceLock<Arc<EtcdStore>>,
}

impl Running {
    /// With what other members are asked.
    fn tls(&self) -> Option<TlsConnector> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show_others(&self, tls: TlsConnector) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(tls);
    }
}

impl Stores {
    /// The stores in `folder`, with the settings of `peers`.
    pub fn new(folder: PathBuf, volume: Arc<Volume>, peers: Peers) -> Arc<Self> {
        Arc::new(Self { folder, volume, peers, running: Mutex::default(), file: Arc::default() })
    }

    /// Files and folders of stores in a data folder, with what they are.
    pub fn found_in(folder: &Path) -> Vec<(Place, PathBuf)> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let place = |entry: fs::DirEntry| Some((place_of(entry.file_name().to_str()?)?, entry.path()));
        entries.filter_map(place).collect()
    }

    fn path(&self, place: Place) -> PathBuf {
        self.folder.join(name_of(place))
    }

    fn running(&self) -> Option<Arc<Running>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The etcd that is run. Asking it for its version takes a while.
    async fn program(&self) -> Result<Program, EtcdError> {
        let setting = self.peers.program.clone();
        let find = move || Program::find(setting.as_deref(), std::env::var_os("PATH").as_deref());
        let program = tokio::task::spawn_blocking(find).await.unwrap_or_else(|error| Err(error.to_string()));
        program.map_err(|why| EtcdError(format!("This node cannot be a member of a cluster: {why}.")))
    }

    /// Starts an etcd and, unless it goes on with its data, waits until it is ready.
    async fn start(&self, number: u32, begin: Begin, identity: PeerIdentity) -> Result<Arc<EtcdStore>, EtcdError> {
        let ready_ms = (begin == Begin::Found).then_some(MEMBER_START_MS);
        let tls = peers::tls(&identity)?;
        let config = Config {
            peer_urls: self.urls(&identity)?,
            listen: self.peers.listen.clone(),
            clients: self.peers.clients.clone(),
            // Nobody goes by them, so an unclear address is no reason not to start.
            client_urls: self.client_urls(&identity).unwrap_or_default(),
            tls: Some(PeerTls { identity: member_identity(&identity)?, ca: identity.authority_pem() }),
            start: match begin {
                Begin::Found => {
                    let mut token = [0; 16];
                    SystemRng.fill(&mut token);
                    Start::Found { token: base16ct::lower::encode_string(&token) }
                }
                Begin::Again => Start::Again,
                Begin::Join(members) => Start::Join {
                    members: members
                        .into_iter()
                        .flat_map(|(name, urls)| urls.into_iter().map(move |url| (name.clone(), url)))
                        .collect(),
                },
            },
            ..self.alone(number, &identity.name)
        };
        self.launch(config, (identity.authority, Some(tls)), ready_ms).await
    }

    /// The etcd with this number as the only member of its cluster, which nobody else reaches.
    fn alone(&self, number: u32, name: &str) -> Config {
        let memory = memory_bytes();
        Config {
            folder: self.path(Place { kind: PlaceKind::Etcd, number }),
            name: name.to_owned(),
            peer_urls: vec!["http://127.0.0.1:1".into()],
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 1))],
            clients: Vec::new(),
            client_urls: Vec::new(),
            tls: None,
            behind_nat: false,
            memory_bytes: memory / 2,
            quota_bytes: (memory / 2).min(MEMBER_QUOTA_MAX_BYTES),
            start: Start::ForceNew,
        }
    }

    /// Starts an etcd that trusts the cluster CA `authority` and has `tls` to ask other members.
    async fn launch(
        &self,
        config: Config,
        (authority, tls): (Vec<u8>, Option<TlsConnector>),
        ready_ms: Option<u64>,
    ) -> Result<Arc<EtcdStore>, EtcdError> {
        if self.running().is_some() {
            return Err(EtcdError("Another etcd of this node runs. Reboot, then try again.".into()));
        }
        let program = self.program().await?;
        let folder = config.folder.clone();
        let started = tokio::task::spawn_blocking(move || crate::member::Member::start(&program, &config)).await;
        let member = started.map_err(|error| EtcdError(error.to_string()))?.map_err(EtcdError)?;
        let (authority, tls) = (Mutex::new(authority), Mutex::new(tls));
        let running = Arc::new(Running {
            member,
            folder,
            authority,
            tls,
            defragments: AtomicBool::new(false),
            store: OnceLock::new(),
        });
        *self.lock() = Some(running.clone());
        if let Some(ready_ms) = ready_ms
            && let Err(error) = until_ready(&running.member, ready_ms).await
        {
            self.stop().await;
            return Err(error);
        }
        // The new folder must be there when it is recorded that the store is in it.
        let synced = fs::File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| EtcdError(format!("{}: {error}", self.folder.display())))?;
        let client = client(&running).map_err(EtcdError)?;
        let store = EtcdStore::start(client, ETCD_PREFIX.into());
        let store = store.map_err(|error| EtcdError(format!("The thread of the store cannot be started: {error}.")))?;
        store.run_beside(silence::keep_looking(Arc::downgrade(&running)));
        store.run_beside(upkeep::keep_looking(Arc::downgrade(&running)));
        // It fails only if it is set.
        let _ = running.store.set(store.clone());
        Ok(store)
    }

    /// See [`StoreKeeper::recover`]. A member that knows that it was removed is not started by etcd any more, so its file is read.
    /// Everything before the removal is in it. Of the others, the newest rows may be in the log alone.
    async fn rows_left(&self, number: u32, copy: u32, name: &str) -> Result<Box<dyn Snapshot>, EtcdError> {
        let path = |number| self.path(Place { kind: PlaceKind::Etcd, number });
        let (from, to, own) = (path(number), path(copy), name.to_owned());
        let prepare = move || {
            let found = match recover::removed_member(&from.join("data"), &own) {
                Ok(found) => found,
                // etcd may still be able to do something with it.
                Err(why) => {
                    tracing::warn!(%why, "the file of etcd cannot be read");
                    None
                }
            };
            let copied = match found {
                Some(_) => Ok(()),
                None => recover::copy_folder(&from.join("data"), &to).map(|()| recover::commit_log(&to.join("data"))),
            };
            copied.map(|()| found).map_err(|why| EtcdError(format!("the data of etcd cannot be copied: {why}")))
        };
        let prepared = tokio::task::spawn_blocking(prepare).await.map_err(|error| EtcdError(error.to_string()))??;
        if let Some(file) = prepared {
            let open =
                move || FileSnapshot::open(file, ETCD_PREFIX.as_bytes()).map_err(|error| EtcdError(error.to_string()));
            let rows = tokio::task::spawn_blocking(open).await.map_err(|error| EtcdError(error.to_string()))??;
            return Ok(Box::new(rows));
        }
        let store = self.launch(self.alone(copy, name), (Vec::new(), None), Some(MEMBER_RECOVER_MS)).await?;
        store.snapshot().await.map_err(|error| EtcdError(error.to_string()))
    }

    /// What the file of this etcd says, or said a moment ago.
    async fn read_file(&self, etcd: &Running) -> Option<EtcdFile> {
        let path = etcd.folder.join(DATA_FILE);
        // One reading at a time, which goes on for later callers if this one does not wait for it.
        let mut known = self.file.clone().try_lock_owned().ok()?;
        let read = tokio::task::spawn_blocking(move || {
            let found = fs::symlink_metadata(&path).ok()?;
            let stamp = (found.len(), found.modified().ok());
            let holds = |known: &KnownFile| {
                known.stamp == stamp || known.read.elapsed() < Duration::from_millis(MEMBER_FILE_AGAIN_MS)
            };
            if !known.as_ref().is_some_and(holds) {
                *known = Some(KnownFile { stamp, read: tokio::time::Instant::now(), said: summary(&path) });
            }
            known.as_ref().and_then(|known| known.said.clone())
        });
        tokio::time::timeout(Duration::from_millis(MEMBER_FILE_MS), read).await.ok()?.ok()?
    }

    async fn stop(&self) {
        let Some(running) = self.lock().take() else { return };
        if let Some(store) = running.store.get() {
            store.close();
        }
        // A panic there was logged.
        let _ = tokio::task::spawn_blocking(move || running.member.stop()).await;
    }

    /// Changes members by way of this node's etcd, and repeats what etcd refuses only for a moment.
    async fn change<T, F: Future<Output = Result<T, EtcdCall>>>(
        &self,
        change: impl Fn(Arc<Client>) -> F,
    ) -> Result<T, MemberError> {
        let away = || StoreError::Unreachable("the etcd of this node does not run".into());
        let running = self.running().ok_or_else(away)?;
        let client = client(&running).map_err(StoreError::Unreachable)?;
        let client = Arc::new(client);
        match when_healthy(|| change(client.clone())).await {
            Ok(done) => Ok(done),
            Err(EtcdCall::Member(Refusal::NotFound)) => Err(MemberError::NotFound),
            Err(EtcdCall::Member(Refusal::TooManyLearners)) => Err(MemberError::HasLearner(learners(&client).await)),
            Err(EtcdCall::Member(refusal @ (Refusal::LearnerNotReady | Refusal::NotLearner))) => {
                Err(MemberError::NotReady(format!("{refusal}.")))
            }
            Err(EtcdCall::Member(refusal)) => Err(MemberError::Refused(refusal.to_string())),
            Err(EtcdCall::NoLeader) => Err(StoreError::NoMajority.into()),
            Err(error) => Err(StoreError::Unreachable(error.to_string()).into()),
        }
    }
}

/// The ids of the learners there are.
async fn learners(client: &Client) -> String {
    let members = client.member_list().await.unwrap_or_default();
    let ids = members.iter().filter(|member| member.is_learner).map(|member| format!("{:x}", member.id));
    ids.collect::<Vec<_>>().join(", ")
}

/// The file with the rows, in the folder of an etcd.
const DATA_FILE: &str = "data/member/snap/db";

fn client(running: &Running) -> Result<Client, String> {
    Client::new(ClientSettings::of(vec![running.member.endpoint()], None))
}

async fn until_ready(member: &crate::member::Member, ready_ms: u64) -> Result<(), EtcdError> {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(ready_ms) {
        if member.is_ready().await {
            return Ok(());
        }
        // It is started again, but not to another end.
        if matches!(member.state(), MemberState::Removed | MemberState::Exited(_) | MemberState::Signaled(_)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(MEMBER_POLL_MS)).await;
    }
    let said = messages(member).pop().map_or_else(String::new, |(_, text)| format!("; it said last: {text}"));
    Err(EtcdError(format!("its etcd was not ready after {} s{said}", begun.elapsed().as_secs())))
}

fn messages(member: &crate::member::Member) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let message = |record: crate::member::Record| {
        let level = record.get("level").map(&text).unwrap_or_default();
        let mut said = record.get("msg").map(&text).unwrap_or_default();
        if let Some(error) = record.get("error") {
            said = format!("{said}: {}", text(error));
        }
        (level, said)
    };
    member.diagnosis().logs.into_iter().map(message).collect()
}

/// The URLs of a node that listens at these addresses. For every address, those in its certificate count.
fn urls_at(listen: &[SocketAddr], identity: &PeerIdentity) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    for listen in listen {
        let addresses = match listen.ip().is_unspecified() {
            true => peers::addresses_in(&identity.tls),
            false => vec![listen.ip()],
        };
        let url = |ip: IpAddr| format!("https://{}", SocketAddr::new(ip, listen.port()));
        urls.extend(addresses.into_iter().map(url));
    }
    urls.dedup();
    urls
}

fn member_identity(identity: &PeerIdentity) -> Result<Identity, EtcdError> {
    let key = identity.key_pem().ok_or_else(|| EtcdError("The TLS key of this node cannot be read.".into()))?;
    Ok(Identity { chain: identity.chain_pem(), key })
}

fn name_of(Place { kind, number }: Place) -> String {
    match (kind, number) {
        (PlaceKind::File, 0) => "store.redb".into(),
        (PlaceKind::File, number) => format!("store-{number}.redb"),
        (PlaceKind::Etcd, number) => format!("etcd.{number}"),
    }
}

fn place_of(name: &str) -> Option<Place> {
    let (kind, number) = match name {
        "store.redb" => (PlaceKind::File, 0),
        _ => match name.strip_prefix("etcd.") {
            Some(number) => (PlaceKind::Etcd, number.parse().ok()?),
            None => (PlaceKind::File, name.strip_prefix("store-")?.strip_suffix(".redb")?.parse().ok()?),
        },
    };
    Some(Place { kind, number }).filter(|place| name_of(*place) == name)
}

/// Removes all stores in `folder` but those at `places`.
fn keep_only(folder: &Path, places: &[Place]) {
    // A record that names what is not there may be an old one, put back by somebody: then the others may be the only ones.
    if let Some(missing) = places.iter().find(|place| !folder.join(name_of(**place)).exists()) {
        if !Stores::found_in(folder).is_empty() {
            tracing::warn!(store = name_of(*missing), "a store is missing, so the others are not removed");
        }
        return;
    }
    for (_, path) in Stores::found_in(folder).into_iter().filter(|(place, _)| !places.contains(place)) {
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "a store that is not used any more could not be removed");
        }
    }
}

fn summary(path: &Path) -> Option<EtcdFile> {
    match DataFile::open(path).and_then(|file| file.summary()) {
        Ok(found) => Some(EtcdFile {
            hash: found.hash,
            revision: found.revision,
            total_key: found.total_key,
            total_size_bytes: found.total_size_bytes,
            version: found.version,
        }),
        Err(error) => {
            tracing::warn!(%error, "the file of etcd cannot be read");
            None
        }
    }
}

/// The memory of this machine.
fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

impl StoreKeeper for Stores {
    fn open_file(&self, number: u32) -> Result<Arc<dyn Store>, StoreError> {
        let path = self.path(Place { kind: PlaceKind::File, number });
        let store = Embedded::open(&path, SHARED_CACHE_BYTES, &self.volume).map_err(|error| {
            let text = format!("{}: {error}", path.display());
            match error {
                OpenError::NotAStore | OpenError::Damaged(_) => StoreError::Damaged(text),
                OpenError::Full => StoreError::Full,
                OpenError::Busy | OpenError::Io(_) => StoreError::Unreachable(text),
            }
        })?;
        Ok(store)
    }

    fn available(&self) -> BoxFuture<'_, Result<(), EtcdError>> {
        Box::pin(async { self.program().await.map(|_| ()) })
    }

    fn urls(&self, identity: &PeerIdentity) -> Result<Vec<String>, EtcdError> {
        if !self.peers.urls.is_empty() {
            return Ok(self.peers.urls.clone());
        }
        let urls = urls_at(&self.peers.listen, identity);
        if urls.is_empty() {
            return Err(EtcdError(
                "It is not clear where other members reach this node: it listens for them at every address, and the TLS certificate has no alternative name with an address. Set peer-urls, or have a certificate signed with one.".into(),
            ));
        }
        Ok(urls)
    }

    fn client_urls(&self, identity: &PeerIdentity) -> Result<Vec<String>, EtcdError> {
        let urls = urls_at(&self.peers.clients, identity);
        if urls.is_empty() && !self.peers.clients.is_empty() {
            return Err(EtcdError(
                "It is not clear where other nodes reach the etcd of this one: client-listen is every address, and the TLS certificate has no alternative name with an address. Have one signed with an address.".into(),
            ));
        }
        Ok(urls)
    }

    fn start_etcd(
        &self,
        number: u32,
        begin: Begin,
        identity: PeerIdentity,
    ) -> BoxFuture<'_, Result<Arc<dyn Store>, EtcdError>> {
        Box::pin(async move { Ok(self.start(number, begin, identity).await? as Arc<dyn Store>) })
    }

    fn recover<'a>(
        &'a self,
        number: u32,
        copy: u32,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Snapshot>, EtcdError>> {
        Box::pin(self.rows_left(number, copy, name))
    }

    fn revision(&self) -> BoxFuture<'_, Option<u64>> {
        Box::pin(async {
            let running = self.running()?;
            let told = running.member.status().await.ok().and_then(|status| status.header);
            // etcd that has found no majority since its start answers nothing, and changes nothing.
            let revision = match told {
                Some(header) => header.revision,
                None => self.read_file(&running).await?.revision,
            };
            u64::try_from(revision).ok()
        })
    }

    fn etcd_file(&self) -> BoxFuture<'_, Option<EtcdFile>> {
        Box::pin(async {
            let running = self.running()?;
            match running.member.state() {
                MemberState::Running | MemberState::StartingAgain => None,
                _ => self.read_file(&running).await,
            }
        })
    }

    fn has_etcd(&self, number: u32) -> bool {
        let log = self.path(Place { kind: PlaceKind::Etcd, number }).join("data/member/wal");
        let is_log = |entry: fs::DirEntry| entry.path().extension().is_some_and(|end| end == "wal");
        fs::read_dir(log).into_iter().flatten().flatten().any(is_log)
    }

    fn look_at<'a>(
        &'a self,
        members: &'a [Member],
        identity: &'a PeerIdentity,
    ) -> BoxFuture<'a, Result<Sight, EtcdError>> {
        Box::pin(peers::look_at(members, identity))
    }

    fn standing(&self) -> BoxFuture<'_, Standing> {
        Box::pin(async {
            let Some(running) = self.running() else { return Standing::Unknown };
            if matches!(running.member.state(), MemberState::Removed) {
                return Standing::Removed;
            }
            match running.member.status().await {
                Ok(status) if status.is_learner => Standing::Learner,
                Ok(status) if status.leader != 0 => Standing::Voter,
                Ok(_) | Err(_) => Standing::Unknown,
            }
        })
    }

    fn report(&self) -> Option<EtcdReport> {
        let running = self.running()?;
        let mut report = EtcdReport { logs: messages(&running.member), ..EtcdReport::default() };
        match running.member.state() {
            MemberState::Running | MemberState::StartingAgain => report.running = true,
            MemberState::Exited(code) => report.exited = Some(code),
            MemberState::Signaled(signal) => report.signaled = Some(signal),
            MemberState::Stopped => report.stopped = true,
            // It ends in order.
            MemberState::Removed => (report.removed, report.exited) = (true, Some(0)),
        }
        Some(report)
    }

    fn stop_etcd(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.stop())
    }

    fn renew(&self, identity: PeerIdentity) {
        let Some(running) = self.running() else { return };
        let renew = || {
            running.member.replace_identity(&member_identity(&identity)?).map_err(EtcdError)?;
            running.show_others(peers::tls(&identity)?);
            let mut trusted = running.authority.lock().unwrap_or_else(PoisonError::into_inner);
            if *trusted != identity.authority {
                running.member.replace_ca(&identity.authority_pem()).map_err(EtcdError)?;
                trusted.clone_from(&identity.authority);
            }
            Ok::<_, EtcdError>(())
        };
        if let Err(error) = renew() {
            tracing::error!(%error, "the etcd of this node still uses its former certificate and CA; reboot the HSM");
        }
    }

    fn keep_only<'a>(&'a self, places: &'a [Place]) -> BoxFuture<'a, ()> {
        let (folder, places) = (self.folder.clone(), places.to_vec());
        Box::pin(async {
            // Large files take a while. A panic there was logged.
            let _ = tokio::task::spawn_blocking(move || keep_only(&folder, &places)).await;
        })
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>, MemberError>> {
        let member = |member: proto::Member| Member {
            id: member.id,
            name: member.name,
            urls: member.peer_ur_ls,
            learner: member.is_learner,
        };
        Box::pin(async move {
            let members = self.change(|client| async move { client.member_list().await }).await?;
            Ok(members.into_iter().map(member).collect())
        })
    }

    fn add_member(&self, urls: Vec<String>) -> BoxFuture<'_, Result<(), MemberError>> {
        Box::pin(async move {
            let urls = &urls;
            let add = |client: Arc<Client>| async move { client.member_add(urls, MemberKind::Learner).await };
            self.change(add).await.map(|_| ())
        })
    }

    fn remove_member(&self, id: u64) -> BoxFuture<'_, Result<(), MemberError>> {
        Box::pin(async move { self.change(|client| async move { client.member_remove(id).await }).await.map(|_| ()) })
    }

    fn set_member_urls(&self, id: u64, urls: Vec<String>) -> BoxFuture<'_, Result<(), MemberError>> {
        Box::pin(async move {
            let urls = &urls;
            self.change(|client| async move { client.member_update(id, urls).await }).await.map(|_| ())
        })
    }

    fn promote_member(&self, id: u64) -> BoxFuture<'_, Result<(), MemberError>> {
        Box::pin(async move { self.change(|client| async move { client.member_promote(id).await }).await.map(|_| ()) })
    }
}

/// Cache of the file, in bytes.
const SHARED_CACHE_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_removed_only_if_the_one_in_use_is_there() {
        let folder = crate::scratch::Scratch::new();
        let (file, etcd) = (Place { kind: PlaceKind::File, number: 0 }, Place { kind: PlaceKind::Etcd, number: 1 });
        fs::write(folder.path("store.redb"), "x").unwrap();
        fs::write(folder.path("local.redb"), "x").unwrap();
        let found = || Stores::found_in(&folder.path("")).into_iter().map(|(place, _)| place).collect::<Vec<_>>();
        keep_only(&folder.path(""), &[etcd]);
        assert_eq!(found(), [file], "the record may be the one that is wrong");
        fs::create_dir_all(folder.path("etcd.1/data")).unwrap();
        keep_only(&folder.path(""), &[etcd]);
        assert_eq!(found(), [etcd]);
        assert!(folder.path("local.redb").exists());
    }

    #[test]
    fn each_place_has_a_name_and_each_name_a_place() {
        for (kind, number, name) in
            [(PlaceKind::File, 0, "store.redb"), (PlaceKind::File, 7, "store-7.redb"), (PlaceKind::Etcd, 1, "etcd.1")]
        {
            assert_eq!(name_of(Place { kind, number }), name);
            assert_eq!(place_of(name), Some(Place { kind, number }));
        }
        for other in
            ["store-0.redb", "store-07.redb", "etcd.01", "etcd.", "etcd.x", "local.redb", "store-.redb", "etcd"]
        {
            assert_eq!(place_of(other), None, "{other}");
        }
    }
}
