//! What a member is to be, and the flags of etcd that say so.

use std::net::SocketAddr;
use std::path::PathBuf;

use casemate_api::limits::{ETCD_ELECTION_MS, ETCD_HEARTBEAT_MS};

use super::peer::PeerTls;

/// What a member is to be.
pub struct Config {
    /// Its own folder, which is created if there is none: its data, its socket, and nothing else. Its path may be as long as any.
    pub folder: PathBuf,
    /// Its name in the cluster, the id of the device.
    pub name: String,
    /// The URLs at which peers reach it, such as `https://192.0.2.1:2380`.
    pub peer_urls: Vec<String>,
    /// Where it listens for peers.
    pub listen: Vec<SocketAddr>,
    /// Where it listens for clients of other machines, which must show a certificate of the CA of `tls`. The node itself uses a socket.
    pub clients: Vec<SocketAddr>,
    /// The URLs at which those clients reach it.
    pub client_urls: Vec<String>,
    /// TLS with peers. `None`: without, on loopback addresses only.
    pub tls: Option<PeerTls>,
    /// Peers may come from other addresses than those in their certificates. Then whoever has a certificate of the cluster CA
    /// is taken for a peer, wherever they come from.
    pub behind_nat: bool,
    /// Bytes of memory that etcd tries to stay below. It is not a limit: rows that do not fit take more.
    pub memory_bytes: u64,
    /// Bytes that the database may have; above them etcd refuses writes until it is compacted and its alarm taken back.
    pub quota_bytes: u64,
    /// How it begins.
    pub start: Start,
}

/// How a member begins. It counts for the first start; when the process is started again it goes on with its data.
pub enum Start {
    /// It founds a cluster of its own. The folder must have no data.
    Found {
        /// The id of the cluster is made of this, the name and the URLs: random text, so that no two clusters are alike.
        token: String,
    },
    /// It joins a cluster that has registered it. The folder must have no data.
    Join {
        /// Name and peer URL of all members, this one included; a member with two URLs is there twice.
        members: Vec<(String, String)>,
    },
    /// It goes on with the data in the folder.
    Again,
    /// It goes on with the data in the folder as the only member of its cluster. It listens for no peers at all.
    ForceNew,
}

/// Where etcd has its data, in its folder. It refuses a folder that has other things in it.
pub(super) const DATA: &str = "data";
/// Its client port, in its folder.
pub(super) const SOCKET: &str = "client.sock";

impl Config {
    /// The flags of etcd 3.6 and 3.7. What is not said here is as etcd has it by default: no compaction by itself, as nodes
    /// do that; 128 operations and 1.5 MiB in a transaction, for which the store is made; pre-vote; TLS 1.2 or newer.
    /// `Err` is a sentence for the operator.
    pub(super) fn flags(&self) -> Result<Vec<String>, String> {
        self.check()?;
        let own = || self.peer_urls.iter().map(|url| format!("{}={url}", self.name)).collect::<Vec<_>>().join(",");
        let mut flags = vec![
            format!("--name={}", self.name),
            format!("--data-dir={DATA}"),
            "--enable-grpc-gateway=false".into(),
            format!("--initial-advertise-peer-urls={}", self.peer_urls.join(",")),
            format!("--quota-backend-bytes={}", self.quota_bytes),
            format!("--heartbeat-interval={ETCD_HEARTBEAT_MS}"),
            format!("--election-timeout={ETCD_ELECTION_MS}"),
            "--log-outputs=stderr".into(),
            "--log-level=warn".into(),
        ];
        match &self.start {
            Start::Found { token } => flags.extend([
                format!("--initial-cluster={}", own()),
                "--initial-cluster-state=new".into(),
                format!("--initial-cluster-token={token}"),
            ]),
            Start::Join { members } => {
                let members: Vec<_> = members.iter().map(|(name, url)| format!("{name}={url}")).collect();
                flags.push(format!("--initial-cluster={}", members.join(",")));
                flags.push("--initial-cluster-state=existing".into());
            }
            // 'existing': if the data is gone after all it ends, instead of founding a cluster without rows.
            Start::Again | Start::ForceNew => {
                flags.push(format!("--initial-cluster={}", own()));
                flags.push("--initial-cluster-state=existing".into());
            }
        }
        if let Start::ForceNew = self.start {
            flags.push("--force-new-cluster".into());
            flags.push("--listen-peer-urls=unix://peer.sock".into());
            flags.extend(client_flags(&[], &[]));
            return Ok(flags);
        }
        // A member whose data differs from that of the others does not start.
        flags.push("--feature-gates=InitialCorruptCheck=true".into());
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let listen: Vec<_> = self.listen.iter().map(|address| format!("{scheme}://{address}")).collect();
        flags.push(format!("--listen-peer-urls={}", listen.join(",")));
        flags.extend(client_flags(&self.clients, &self.client_urls));
        if !self.clients.is_empty() {
            flags.extend(PeerTls::CLIENT_FLAGS.map(str::to_owned));
        }
        if self.tls.is_some() {
            flags.extend(PeerTls::FLAGS.map(str::to_owned));
            if self.behind_nat {
                flags.push("--peer-skip-client-san-verification".into());
            }
        }
        Ok(flags)
    }

    fn check(&self) -> Result<(), String> {
        let has_data = self.folder.join(DATA).join("member").exists();
        let folder = self.folder.display();
        match &self.start {
            Start::Found { .. } | Start::Join { .. } if has_data => {
                return Err(format!("{folder} has the data of another member of a cluster: move that folder away"));
            }
            Start::Again | Start::ForceNew if !has_data => {
                return Err(format!("{folder} has no data of a member of a cluster: put it back, or join again"));
            }
            Start::Found { .. } | Start::Join { .. } | Start::Again | Start::ForceNew => {}
        }
        let joined: &[(String, String)] = if let Start::Join { members } = &self.start { members } else { &[] };
        let mut words = joined.iter().flat_map(|(name, url)| [name, url]).chain([&self.name]).chain(&self.peer_urls);
        if let Some(word) = words.find(|word| word.is_empty() || word.contains([',', '='])) {
            return Err(format!("{word:?} cannot be the name or the URL of a member of a cluster"));
        }
        if self.peer_urls.is_empty() || self.listen.is_empty() {
            return Err("a member of a cluster needs a peer URL, and an address to listen at".into());
        }
        if self.tls.is_none() && !self.clients.is_empty() {
            return Err("clients of other machines are served with TLS only".into());
        }
        match self.listen.iter().find(|address| self.tls.is_none() && !address.ip().is_loopback()) {
            Some(far) => Err(format!("without TLS no peers are listened for at {far}, which other machines reach")),
            None => Ok(()),
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join(SOCKET)
    }
}

/// Where etcd serves clients: the node itself at its socket, and others at `listen`, who know it by `urls`.
fn client_flags(listen: &[SocketAddr], urls: &[String]) -> [String; 2] {
    let listen: String = listen.iter().map(|address| format!(",https://{address}")).collect();
    // The others are told this, and nobody may listen there (RFC 6761 §6.4). Without a value etcd tells localhost.
    let urls = if urls.is_empty() { "http://invalid:1".into() } else { urls.join(",") };
    [format!("--listen-client-urls=unix://{SOCKET}{listen}"), format!("--advertise-client-urls={urls}")]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use casemate_core::crypto::secret::SecretBytes;

    use super::super::peer::Identity;
    use super::*;
    use crate::scratch::Scratch;

    fn config(folder: &Scratch, start: Start) -> Config {
        Config {
            folder: folder.path("member"),
            name: "0123456789".into(),
            peer_urls: vec!["https://192.0.2.1:2380".into(), "https://[2001:db8::1]:2380".into()],
            listen: vec!["127.0.0.1:2380".parse().unwrap()],
            clients: Vec::new(),
            client_urls: Vec::new(),
            tls: None,
            behind_nat: false,
            memory_bytes: 1 << 30,
            quota_bytes: 1 << 30,
            start,
        }
    }

    fn found() -> Start {
        Start::Found { token: "t".into() }
    }

    #[test]
    fn a_cluster_is_described_by_names_and_urls() {
        let folder = Scratch::new();
        let flags = config(&folder, found()).flags().unwrap();
        let own = "--initial-cluster=0123456789=https://192.0.2.1:2380,0123456789=https://[2001:db8::1]:2380";
        for flag in [own, "--initial-cluster-state=new", "--listen-peer-urls=http://127.0.0.1:2380"] {
            assert!(flags.iter().any(|found| found == flag), "{flag} in {flags:?}");
        }
        let members =
            vec![("a".into(), "https://192.0.2.9:2380".into()), ("b".into(), "https://192.0.2.1:2380".into())];
        let flags = config(&folder, Start::Join { members }).flags().unwrap();
        let all = "--initial-cluster=a=https://192.0.2.9:2380,b=https://192.0.2.1:2380";
        assert!(flags.iter().any(|found| found == all), "{flags:?}");
    }

    #[test]
    fn clients_of_other_machines_are_served_with_tls_only_and_not_while_the_cluster_is_made_anew() {
        let folder = Scratch::new();
        let tls = || {
            let identity = Identity { chain: Vec::new(), key: SecretBytes::from_slice(b"key") };
            Some(PeerTls { identity, ca: Vec::new() })
        };
        let clients = |start| Config {
            clients: vec!["192.0.2.1:2379".parse().unwrap(), "[::]:2379".parse().unwrap()],
            client_urls: vec!["https://192.0.2.1:2379".into()],
            ..config(&folder, start)
        };
        let has = |config: Config, wanted: &str| config.flags().unwrap().iter().any(|flag| flag == wanted);
        let (alone, nobody) = ("--listen-client-urls=unix://client.sock", "--advertise-client-urls=http://invalid:1");
        let known = "--client-cert-auth";
        for (wanted, expected) in [(alone, true), (nobody, true), (known, false)] {
            assert_eq!(has(Config { tls: tls(), ..config(&folder, found()) }, wanted), expected, "{wanted}");
        }
        let open = "--listen-client-urls=unix://client.sock,https://192.0.2.1:2379,https://[::]:2379";
        for wanted in [open, "--advertise-client-urls=https://192.0.2.1:2379", known] {
            assert!(has(Config { tls: tls(), ..clients(found()) }, wanted), "{wanted}");
        }
        assert!(clients(found()).flags().unwrap_err().contains("TLS only"));
        fs::create_dir_all(folder.path("member/data/member")).unwrap();
        let anew = || Config { tls: tls(), ..clients(Start::ForceNew) };
        assert!(has(anew(), alone) && has(anew(), nobody) && !has(anew(), known));
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_runs() {
        let folder = Scratch::new();
        let refused = |config: Config| config.flags().unwrap_err();
        let far = Config { listen: vec!["0.0.0.0:2380".parse().unwrap()], ..config(&folder, found()) };
        assert_eq!(refused(far), "without TLS no peers are listened for at 0.0.0.0:2380, which other machines reach");
        let two = Config { name: "a=http://x:1,b".into(), ..config(&folder, found()) };
        assert!(refused(two).contains("cannot be the name"));
        let nameless = Start::Join { members: vec![(String::new(), "https://192.0.2.9:2380".into())] };
        assert!(refused(config(&folder, nameless)).contains("cannot be the name"));
        assert!(refused(Config { listen: Vec::new(), ..config(&folder, found()) }).contains("address to listen"));
        for start in [Start::Again, Start::ForceNew] {
            assert!(refused(config(&folder, start)).contains("has no data"));
        }
        fs::create_dir_all(folder.path("member/data/member")).unwrap();
        assert!(refused(config(&folder, found())).contains("has the data of another member"));
        assert!(config(&folder, Start::Again).flags().is_ok());
    }
}
