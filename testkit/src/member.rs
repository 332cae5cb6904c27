//! Nodes that can be members of a cluster, each with an etcd of its own, as an operator prepares them.

use std::net::{Ipv4Addr, SocketAddr};

use casemate_api::body::keys::DistinguishedName;

use crate::certificates::EtcdCertificates;
use crate::etcd::etcd;
use crate::fixtures::{BACKUP, admin, secret};
use crate::hsm::Hsm;
use crate::seat::free_port;

/// A `casemated` whose store can move into an etcd of its own.
pub struct Member {
    /// The node itself.
    pub hsm: Hsm,
    /// Where its etcd listens for other members, as `address:port`.
    pub peer: String,
    /// Where its etcd serves nodes without a vote, as `address:port`.
    pub clients: String,
}

impl Member {
    /// Starts one that is Operational, with the Operator `op` and a certificate of the CA. Its store is in a file.
    pub fn start(certificates: &EtcdCertificates) -> Self {
        Self::start_at(free(), certificates)
    }

    /// The same, where `peer` was the address of another member, which is lost.
    pub fn start_at(peer: String, certificates: &EtcdCertificates) -> Self {
        let clients = free();
        let hsm = Hsm::start_with(|_| {
            vec![
                format!("--etcd-program={}", etcd().display()),
                format!("--peer-listen={peer}"),
                format!("--client-listen={clients}"),
            ]
        });
        hsm.provision();
        let session = admin(&hsm.client());
        let config = session.config();
        let subject = DistinguishedName {
            common_name: "node".into(),
            country_name: String::new(),
            locality_name: String::new(),
            state_or_province_name: String::new(),
            organization_name: String::new(),
            organizational_unit_name: String::new(),
            email_address: String::new(),
            subject_alt_names: Some(vec!["IP:127.0.0.1".into()]),
        };
        config.set_tls_certificate(&certificates.sign(&config.tls_csr(&subject).unwrap())).unwrap();
        Self { hsm, peer, clients }
    }

    /// Sets the cluster CA, which moves the store into the etcd, and the backup passphrase.
    pub fn found(&self, certificates: &EtcdCertificates) {
        let session = admin(&self.hsm.client());
        session.config().set_cluster_ca(&certificates.ca).unwrap();
        session.config().set_backup_passphrase(secret(""), secret(BACKUP)).unwrap();
    }

    /// The URL at which other members reach it.
    pub fn url(&self) -> String {
        format!("https://{}", self.peer)
    }

    /// Its device id, which is its name among the members. As long as it is Operational.
    pub fn device_id(&self) -> String {
        admin(&self.hsm.client()).system().info().unwrap().device_id
    }
}

fn free() -> String {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())).to_string()
}

impl Hsm {
    /// Starts one that is Unprovisioned and whose settings name the etcds of these members.
    pub fn start_serving(certificates: &EtcdCertificates, members: &[&Member]) -> Self {
        Self::start_with(|folder| {
            let identity = &certificates.client;
            let files = [("ca", &certificates.ca), ("cert", &identity.certificate), ("key", &identity.key)];
            let mut settings = vec!["--store=etcd".to_owned()];
            settings.extend(files.map(|(name, pem)| format!("--etcd-{name}={}", folder.file(name, pem))));
            settings.extend(members.iter().map(|member| format!("--etcd-endpoints={}", member.clients)));
            settings
        })
    }
}
