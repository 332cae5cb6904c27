//! Nodes that become members of one cluster.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use casemate_api::body::cluster::Join;
use casemate_api::body::config::Switch;
use casemate_api::body::keys::DistinguishedName;
use casemate_client::{Client, Session, Settings, Trust};
use casemate_etcd::Address;
use casemate_testkit::{
    BACKUP, EtcdCertificates, Hsm, UNLOCK, admin, ed25519, etcd, fingerprint, free_port, key, operator, secret,
};
use tokio::runtime::Builder;

/// Limit for what may take long.
const HOUR: Duration = Duration::from_secs(3600);

/// A node with the users of [`Hsm::provision`], unattended boot and the key `k`.
pub(crate) struct Member {
    pub(crate) hsm: Hsm,
    peer_port: u16,
}

impl Member {
    /// One with its store in a file, and a certificate of the CA.
    pub(crate) fn start(certificates: &EtcdCertificates) -> Self {
        let peer_port = free_port();
        let settings = [format!("--peer-listen=127.0.0.1:{peer_port}"), format!("--etcd-program={}", etcd().display())];
        let hsm = Hsm::start_with(|_| settings.into());
        hsm.provision();
        let member = Self { hsm, peer_port };
        let session = member.admin();
        session.config().set_unattended_boot(Switch::On).unwrap();
        session.config().set_backup_passphrase(secret(""), secret(BACKUP)).unwrap();
        session.keys().import_as(&key("k"), &ed25519()).unwrap();
        let subject = DistinguishedName {
            common_name: "node".into(),
            country_name: String::new(),
            locality_name: String::new(),
            state_or_province_name: String::new(),
            organization_name: String::new(),
            organizational_unit_name: String::new(),
            email_address: String::new(),
            subject_alt_names: Some(vec![format!("IP:{}", Ipv4Addr::LOCALHOST)]),
        };
        let request = session.config().tls_csr(&subject).unwrap();
        session.config().set_tls_certificate(&certificates.sign(&request)).unwrap();
        member
    }

    /// Moves its store into an etcd.
    pub(crate) fn found(&self, certificates: &EtcdCertificates) -> Duration {
        let session = self.admin();
        let begun = Instant::now();
        session.config().set_cluster_ca(&certificates.ca).unwrap();
        begun.elapsed()
    }

    /// Makes `self` a member beside `first`: the time from its registration to the answer that it has joined, of which `self` is
    /// unlocked then.
    pub(crate) fn join(&self, first: &Self) -> Duration {
        let (at_first, here) = (first.admin(), self.admin());
        let begun = Instant::now();
        let invitation = at_first.cluster().add(vec![format!("https://127.0.0.1:{}", self.peer_port)]).unwrap();
        let new = invitation.members.iter().find(|member| member.name.is_empty()).unwrap().id.clone();
        let join = Join {
            members: invitation.members,
            joiner_kit: invitation.joiner_kit,
            backup_passphrase: secret(BACKUP),
            system_time: None,
        };
        let took = thread::scope(|scope| {
            let joining = scope.spawn(|| here.cluster().join(&join, HOUR));
            while !joining.is_finished() && at_first.cluster().promote(&new).is_err() {
                thread::sleep(Duration::from_millis(20));
            }
            joining.join().unwrap().unwrap();
            begun.elapsed()
        });
        self.client().anonymous().unlock(secret(UNLOCK)).unwrap();
        // It has another Domain Key now.
        self.admin().config().set_unattended_boot(Switch::On).unwrap();
        took
    }

    fn settings(&self) -> Settings {
        let trust = Trust::Pinned(vec![fingerprint(&self.hsm.address)]);
        Settings { trust, request: HOUR, deadline: HOUR, ..Settings::of([self.hsm.address.clone()]) }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.settings()).unwrap()
    }

    /// A session of the Administrator with connections of its own.
    pub(crate) fn admin(&self) -> Session {
        admin(&self.client())
    }

    /// A session of the Operator with connections of its own.
    pub(crate) fn operator(&self) -> Session {
        operator(&self.client())
    }

    /// The folder of its etcd.
    fn etcd_folder(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(self.hsm.folder.path("data")).unwrap().flatten();
        entries.map(|entry| entry.path()).find(|path| path.join("client.sock").exists())
    }

    /// The size of the database of its etcd, in MiB.
    pub(crate) fn database(&self) -> f64 {
        let file = self.etcd_folder().unwrap().join("data/member/snap/db");
        std::fs::metadata(file).unwrap().len() as f64 / f64::from(1 << 20)
    }

    /// The process of its etcd, if it has one.
    pub(crate) fn etcd_pid(&self) -> Option<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.hsm.pid())).unwrap().flatten();
        let mut children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        children.find_map(|text| text.split_whitespace().next()?.parse().ok())
    }

    /// Whether its etcd leads.
    pub(crate) fn leads(&self) -> bool {
        let socket = Address::unix(self.etcd_folder().unwrap().join("client.sock"));
        let client = casemate_etcd::Client::new(casemate_etcd::Settings::of(vec![socket], None)).unwrap();
        let status = Builder::new_current_thread().enable_all().build().unwrap().block_on(client.status());
        status.is_ok_and(|status| status.header.is_some_and(|header| header.member_id == status.leader))
    }
}
