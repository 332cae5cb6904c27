//! Nodes: `casemated` with a store of its own or on an etcd, provisioned or joined.

use std::time::Duration;

use casemate_api::body::cluster::Join;
use casemate_api::body::config::Switch;
use casemate_api::body::keys::{GenerateKey, Restrictions, Sign};
use casemate_api::{KeyType, Mechanism, Passphrase, SignMode, UserId};
use casemate_client::{Client, Session, Settings, Trust};
use casemate_testkit::{EtcdServer, Folder, Hsm, UNLOCK, admin, fingerprint, operator, secret};
use jiff::Timestamp;

/// The backup passphrase.
pub(crate) const BACKUP: &str = "backup passphrase";

/// One node. The users are those of [`Hsm::provision`].
pub(crate) struct Node {
    pub(crate) hsm: Hsm,
    settings: Settings,
}

impl Node {
    /// One with a store of its own, Operational.
    pub(crate) fn embedded() -> Self {
        let node = Self::of(Hsm::start());
        node.hsm.provision();
        node
    }

    /// The first one on `etcd`, Operational, with a backup passphrase and unattended boot. It uses the members in their order.
    pub(crate) fn first(etcd: &EtcdServer) -> Self {
        let node = Self::of(Hsm::start_with(|folder| settings(folder, etcd, 0)));
        node.hsm.provision();
        let config = node.admin();
        config.config().set_unattended_boot(Switch::On).unwrap();
        config.config().set_backup_passphrase(secret(""), secret(BACKUP)).unwrap();
        node
    }

    /// A further one, Operational. It uses the members in their order from `member` on.
    pub(crate) fn joining(&self, etcd: &EtcdServer, member: usize) -> Self {
        let node = Self::of(Hsm::start_with(|folder| settings(folder, etcd, member)));
        let invitation = self.admin().cluster().add_serving(vec![format!("https://{}", node.hsm.address)]).unwrap();
        let join = Join {
            members: invitation.members,
            joiner_kit: invitation.joiner_kit,
            backup_passphrase: secret(BACKUP),
            system_time: Some(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        };
        let anonymous = node.client().anonymous();
        anonymous.cluster().join(&join, Duration::from_secs(60)).unwrap();
        anonymous.unlock(secret(UNLOCK)).unwrap();
        node
    }

    fn of(hsm: Hsm) -> Self {
        let trust = Trust::Pinned(vec![fingerprint(&hsm.address)]);
        let hour = Duration::from_secs(3600);
        let settings = Settings { trust, request: hour, deadline: hour, ..Settings::of([hsm.address.clone()]) };
        Self { hsm, settings }
    }

    /// Kills it and starts it again; it uses the members in their order from `member` on.
    pub(crate) fn restart(&mut self, etcd: &EtcdServer, member: usize) {
        self.hsm.kill();
        settings(&self.hsm.folder, etcd, member);
        self.hsm.restart();
    }

    /// A client with connections of its own.
    fn client(&self) -> Client {
        Client::new(self.settings.clone()).unwrap()
    }

    /// A session of the Administrator with connections of its own.
    pub(crate) fn admin(&self) -> Session {
        admin(&self.client())
    }

    /// A session of the Operator with connections of its own.
    pub(crate) fn operator(&self) -> Session {
        operator(&self.client())
    }

    /// A session of another user with connections of its own.
    pub(crate) fn user(&self, name: &UserId, passphrase: Passphrase) -> Session {
        self.client().log_in(name, passphrase)
    }

    /// Generates a P-256 key.
    pub(crate) fn generate_p256(&self, id: &str) {
        let key = GenerateKey {
            mechanisms: vec![Mechanism::ECDSA_Signature],
            key_type: KeyType::EC_P256,
            length: 0,
            id: id.into(),
            restrictions: Restrictions::default(),
            label: String::new(),
        };
        self.admin().keys().generate(&key).unwrap();
    }
}

/// A request for a signature with a P-256 key.
pub(crate) fn ecdsa() -> Sign {
    Sign { mode: SignMode::ECDSA, message: "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".into() }
}

/// Writes the settings file and returns the arguments that name it.
fn settings(folder: &Folder, etcd: &EtcdServer, first: usize) -> Vec<String> {
    let mut endpoints = etcd.endpoints();
    endpoints.rotate_left(first);
    let file = |name: &str| etcd.folder.at(name);
    let text = format!(
        "store = \"etcd\"\netcd-endpoints = {endpoints:?}\netcd-ca = {:?}\netcd-cert = {:?}\netcd-key = {:?}\netcd-prefix = \"/casemate/\"\n",
        file("ca.pem"),
        file("client.pem"),
        file("client.key"),
    );
    vec!["--config".to_owned(), folder.file("casemated.toml", text)]
}
