//! The environment in which the commands of a transcript run: HSMs, profiles that name them, and files to read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use casemate_api::body::users::NewUser;
use casemate_api::{Role, UserId};
use casemate_testkit::{
    ADMIN, BACKUP, EtcdCertificates, EtcdServer, Folder, Hsm, Member, OPERATOR, UNLOCK, Vendor, admin, fingerprint,
    nethsm, secret,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use trycmd::schema::Bin;

/// What kind of HSM a profile names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum HsmKind {
    /// Unprovisioned.
    Fresh,
    /// With `admin` and the Operator `op`, the users `metrics` and `backup` in their roles.
    Operational,
    /// As [`HsmKind::Operational`], with its store in an etcd.
    Founder,
    /// A further node of the store of the first one.
    Further,
    /// As [`HsmKind::Operational`] but without `metrics` and `backup`, the only member of a cluster with a backup passphrase. Its etcd serves
    /// nodes without a vote.
    Member,
    /// One that can become a member of the cluster of the first one.
    Joiner,
    /// Unprovisioned, with settings that name the etcd of the first one.
    Serving,
    /// As [`HsmKind::Operational`], and it takes the update `update.bin`.
    Updatable,
    /// The mock of a NetHSM.
    NetHsm,
}

/// An HSM under its profile. A real one ends when this is dropped.
struct Server {
    profile: &'static str,
    address: String,
    hsm: Option<Hsm>,
    /// Instead of that, one that can be a member of a cluster.
    member: Option<Member>,
    /// The etcd of its store.
    _etcd: Option<EtcdServer>,
}

impl Server {
    fn of(profile: &'static str, hsm: Hsm) -> Self {
        Self { profile, address: hsm.address.clone(), hsm: Some(hsm), member: None, _etcd: None }
    }
}

/// The environment of one transcript.
pub(crate) struct Environment {
    folder: Folder,
    servers: Vec<Server>,
    variables: Vec<(&'static str, String)>,
}

/// The programs that transcripts may use.
const PROGRAMS: &[&str] = &["casemate", "cat", "env", "openssl", "wc"];

/// Placeholders for the addresses, of the same length, so that tables keep their layout.
const HSMS: [&str; 4] = ["[HSM_FRANKFURT]", "[HSM_AMSTERDAM]", "[HSM_STUTTGART]", "[HSM_BARCELONA]"];
/// The same for their certificates, which need no layout.
const PINS: [&str; 4] = ["[PIN]", "[PIN_AMSTERDAM]", "[PIN_STUTTGART]", "[PIN_BARCELONA]"];
/// The same for the addresses at which members reach each other, and for the names of members.
const PEERS: [(&str, &str); 3] =
    [("[NET_FRANKFURT]", "[NAME_FRA]"), ("[NET_AMSTERDAM]", "[NAME_AMS]"), ("[NET_STUTTGART]", "[NAME_STU]")];

/// A key for imports (EC P-256, PKCS #8), of no use for anything else.
const KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgVkWV8E4H7qSpOU3s
fHCOV4dmUHAgn3W+KeoEv+6x0FGhRANCAASEYghUVvMr6H2TyKPquNxCtoxkj1CU
Q+AtIqj1Qq2Ex5OSod/tlUAosa5Yl+Neg+yW7rwUR2jqpwpaDUSSBQ5N
-----END PRIVATE KEY-----
";

/// The key of RFC 8032 §7.1, test 2.
const PARTS: &str = "{\"data\": \"TM0Imyj/ltqdtsNG7BFOD1uKMZ81q6Yk2oz27U+4pvs=\"}\n";

/// The file of `casemate apply`.
const SET_UP: &str = r#"namespaces = ["ci"]

[[users]]
name = "ci~admin"
role = "Administrator"
passphrase-file = "admin.txt"

[[users]]
name = "ci~runner"
role = "Operator"
tags = ["release"]
passphrase-file = "op.txt"

[[keys]]
id = "release"
namespace = "ci"
type = "EC_P256"
mechanisms = ["ECDSA_Signature"]
tags = ["release"]
label = "Signs releases"

[config.logging]
ip-address = "192.0.2.5"
port = 514
log-level = "warning"
"#;

impl Environment {
    /// Starts these HSMs and writes the files.
    pub(crate) fn new(hsms: &[(&'static str, HsmKind)]) -> Self {
        let folder = Folder::new();
        for (name, content) in [
            ("unlock.txt", UNLOCK),
            ("admin.txt", ADMIN),
            ("op.txt", OPERATOR),
            ("metrics.txt", OPERATOR),
            ("backup.txt", OPERATOR),
            ("cluster.txt", BACKUP),
            ("new.txt", "another passphrase\n"),
            ("wrong.txt", "the wrong passphrase\n"),
            ("release.tar", "what is released\n"),
            ("message", "r"),
            ("secret.txt", "sixteen bytes ok"),
            ("ed25519.json", PARTS),
            ("shop.pem", KEY),
            ("set-up.toml", SET_UP),
        ] {
            folder.file(name, content);
        }
        authority(&folder);
        let updates = if hsms.iter().any(|(_, start)| *start == HsmKind::Updatable) {
            let settings = Vendor::settings(&folder);
            Vendor::image(&folder, "update.bin", "9.8", "Signs twice as fast.");
            settings
        } else {
            Vec::new()
        };
        let certificates = EtcdCertificates::new();
        let mut servers: Vec<Server> = Vec::new();
        for (profile, kind) in hsms {
            servers.push(kind.server(profile, &updates, &certificates, &servers));
        }
        let variables = variables(&servers);
        let environment = Self { folder, servers, variables };
        environment.folder.file("config.toml", environment.profiles());
        fs::create_dir(environment.folder.path("bin")).unwrap();
        for name in PROGRAMS {
            environment.program(name);
        }
        environment
    }

    /// One profile for each HSM, and one for each user of the first.
    fn profiles(&self) -> String {
        let first = &self.servers[0];
        let users = ["op", "metrics", "backup"].map(|user| (user, first, user));
        let each = self.servers.iter().map(|server| (server.profile, server, "admin"));
        let mut text = String::new();
        for (profile, Server { address, .. }, user) in each.chain(users) {
            let pin = fingerprint(address);
            text += &format!(
                "[profile.{profile}]\nhosts = [\"{address}\"]\npin = [\"{pin}\"]\nuser = \"{user}\"\n\
                 passphrase-file = \"{user}.txt\"\n"
            );
        }
        // One for all nodes of a cluster, except who is not in it yet.
        if self.servers.iter().any(|server| server.member.is_some()) {
            let nodes = || self.servers.iter().filter(|server| server.profile != "stuttgart");
            let hosts: Vec<_> = nodes().map(|server| server.address.clone()).collect();
            let pins: Vec<_> = nodes().map(|server| fingerprint(&server.address).to_string()).collect();
            text += &format!(
                "[profile.cluster]\nhosts = {hosts:?}\npin = {pins:?}\nuser = \"admin\"\npassphrase-file = \"admin.txt\"\n"
            );
        }
        // One without a pin, as before the first contact.
        text + &format!("[profile.unpinned]\nhosts = [\"{}\"]\n", first.address)
    }

    /// A program as transcripts start it: in the folder, with the profiles and without a terminal. trycmd splits a line
    /// into words and starts the first; pipes and redirections are left to a shell, and placeholders stand for what they do in outputs.
    fn program(&self, name: &str) {
        let places = self
            .variables()
            .into_iter()
            .map(|(name, value)| format!("s/\\[{}/{value}/g;", name[1..].replace(']', "\\]")));
        let places: String = places.collect();
        let (folder, path) = (self.folder.at(""), self.folder.at(&format!("bin/{name}")));
        let casemate = Path::new(env!("CARGO_BIN_EXE_casemate")).parent().unwrap().display();
        let script = format!(
            r#"#!/bin/sh
line={name}
for word; do
    case $word in
        '|' | '<' | '>') line="$line $word" ;;
        *) line="$line '$(printf %s "$word" | sed "{places}s/'/'\\\\''/g")'" ;;
    esac
done
cd {folder} && exec env -i PATH="{casemate}:$PATH" CASEMATE_CONFIG=config.toml setsid --wait sh -c "$line" </dev/null
"#
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The programs that transcripts can start.
    pub(crate) fn programs(&self) -> Vec<(&'static str, Bin)> {
        PROGRAMS.iter().map(|name| (*name, Bin::Path(self.folder.path("bin").join(name)))).collect()
    }

    /// The placeholders, and what they stand for.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        self.variables.clone()
    }
}

fn variables(servers: &[Server]) -> Vec<(&'static str, String)> {
    let mut variables = Vec::new();
    for ((server, hsm), pin) in servers.iter().zip(HSMS).zip(PINS) {
        variables.extend([(hsm, server.address.clone()), (pin, fingerprint(&server.address).to_string())]);
    }
    for (server, (peer, name)) in servers.iter().zip(PEERS) {
        variables.extend(server.member.iter().flat_map(|it| [(peer, it.peer.clone()), (name, it.device_id())]));
    }
    variables
}

impl HsmKind {
    fn server(
        self,
        profile: &'static str,
        updates: &[String],
        certificates: &EtcdCertificates,
        others: &[Server],
    ) -> Server {
        let hsm = match self {
            HsmKind::Fresh => Hsm::start(),
            HsmKind::Operational => operational(&[]),
            HsmKind::Founder => {
                let etcd = EtcdServer::single();
                let hsm = Hsm::founder(&etcd);
                return Server { _etcd: Some(etcd), ..Server::of(profile, hsm) };
            }
            HsmKind::Further => Hsm::beside(others.first().and_then(|first| first.hsm.as_ref()).unwrap()),
            HsmKind::Updatable => operational(updates),
            HsmKind::Member | HsmKind::Joiner => {
                let member = Member::start(certificates);
                member.found(certificates);
                let address = member.hsm.address.clone();
                return Server { profile, address, hsm: None, member: Some(member), _etcd: None };
            }
            HsmKind::Serving => {
                Hsm::start_serving(certificates, &[others.first().and_then(|first| first.member.as_ref()).unwrap()])
            }
            HsmKind::NetHsm => {
                let address = nethsm::start().address;
                return Server { profile, address, hsm: None, member: None, _etcd: None };
            }
        };
        Server::of(profile, hsm)
    }
}

/// An HSM with a user of each role.
fn operational(settings: &[String]) -> Hsm {
    let hsm = Hsm::start_with(|_| settings.to_vec());
    hsm.provision();
    for (name, role) in [("metrics", Role::Metrics), ("backup", Role::Backup)] {
        let user = NewUser { real_name: String::new(), role, passphrase: secret(OPERATOR) };
        admin(&hsm.client()).users().create_as(&UserId::parse(name).unwrap(), &user).unwrap();
    }
    hsm
}

/// An authority for certificates: `ca.pem` and `ca.key`.
fn authority(folder: &Folder) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "Example CA");
    let key = KeyPair::generate().unwrap();
    folder.file("ca.pem", params.self_signed(&key).unwrap().pem());
    folder.file("ca.key", key.serialize_pem());
}
