//! Members that have reached their quota, that are damaged, that boot alone, and one that writes what it wants.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use casemate_etcd::proto::TxnRequest;
use casemate_etcd::request::{delete, get, prefix, put};
use casemate_etcd::{Address, Settings};
use casemate_testkit::{Folder, etcd, fingerprint};
use serde_json::{Value, json};

use super::cluster::{Cluster, NODES, block, id_of_new};
use super::daemon::{Answer, Client, UNLOCK};

/// Where the witness is.
const WITNESS: usize = NODES;

/// How large the database of the witness may become.
const QUOTA: u64 = 16 << 20;

/// Rows that are no node's, to fill the quota.
const FILLER: &str = "/filler/";

/// An etcd without a node, as `docs/operate/witness.md` sets it up. It is killed when it is dropped.
struct Witness {
    process: Child,
    folder: Folder,
}

impl Witness {
    /// Adds one to the cluster.
    fn join(cluster: &Cluster) -> Self {
        let invitation = cluster.register(0, WITNESS).expect(201).json();
        let folder = Folder::new();
        let place = &cluster.network.places()[WITNESS];
        let identity = cluster.certificates.issue_at("witness", &[place.v4.into()]);
        let (chain, key) =
            (folder.file("witness.pem", &identity.certificate), folder.file("witness.key", &identity.key));
        let ca = folder.file("ca.pem", &cluster.certificates.ca);
        let url = cluster.url(WITNESS);
        let members = invitation["members"].as_array().unwrap().iter().map(|member| {
            let name = member["name"].as_str().filter(|name| !name.is_empty()).unwrap_or("witness");
            format!("{name}={}", member["urls"][0].as_str().unwrap())
        });
        let members: Vec<String> = members.collect();
        let mut command = cluster.network.command(WITNESS, etcd().to_str().unwrap());
        command.args([
            "--name=witness",
            "--data-dir=data",
            "--initial-cluster-state=existing",
            "--peer-client-cert-auth",
        ]);
        command.args([
            format!("--initial-cluster={}", members.join(",")),
            format!("--initial-advertise-peer-urls={url}"),
            format!("--listen-peer-urls={url}"),
            format!("--peer-cert-file={chain}"),
            format!("--peer-key-file={key}"),
            format!("--peer-trusted-ca-file={ca}"),
            format!("--quota-backend-bytes={QUOTA}"),
            "--listen-client-urls=unix://client.sock".into(),
            "--advertise-client-urls=http://invalid:1".into(),
        ]);
        command.current_dir(folder.path("")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let witness = Self { process: command.spawn().unwrap(), folder };
        let promote = format!("/cluster/members/{}/promote", id_of_new(&invitation));
        cluster.eventually(0, "the witness is promoted", || {
            cluster.admin(0).call("POST", &promote, None).is_ok_and(|answer| answer.status == 204)
        });
        witness
    }

    fn client(&self) -> casemate_etcd::Client {
        client_at(self.folder.path("client.sock"))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn client_at(socket: PathBuf) -> casemate_etcd::Client {
    casemate_etcd::Client::new(Settings::of(vec![Address::unix(socket)], None)).unwrap()
}

/// Sends a change until etcd has an answer to it.
fn write(client: &casemate_etcd::Client, txn: &TxnRequest) -> Result<(), casemate_etcd::Error> {
    loop {
        match block(client.txn(txn.clone())) {
            Ok(_) => return Ok(()),
            Err(error @ casemate_etcd::Error::NoSpace) => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn all(cluster: &Cluster, node: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let rows = block(cluster.etcd(node).range(prefix(b"/casemate/", 0))).unwrap();
    rows.kvs.into_iter().map(|row| (row.key.to_vec(), row.value.to_vec())).collect()
}

const KEY: &str = r#"{ "type": "Curve25519", "mechanisms": ["EdDSA_Signature"] }"#;

fn generate(admin: &Client, id: &str) -> Answer {
    let mut key: Value = serde_json::from_str(KEY).unwrap();
    key["id"] = id.into();
    admin.call("POST", "/keys/generate", Some(&key)).unwrap()
}

fn sign(operator: &Client, id: &str) -> Answer {
    let message = json!({ "mode": "EdDSA", "message": "c29tZXRoaW5n" });
    operator.call("POST", &format!("/keys/{id}/sign"), Some(&message)).unwrap()
}

/// An Operator at a node, who is made if there is none.
fn operator(cluster: &Cluster, node: usize) -> Client {
    let body = json!({ "realName": "", "role": "Operator", "passphrase": "operator passphrase" });
    cluster.eventually(node, "the Operator is there", || {
        let answer = cluster.admin(node).call("PUT", "/users/op", Some(&body)).unwrap();
        matches!(answer.status, 201 | 409)
    });
    cluster.client(node).log_in("op", "operator passphrase")
}

#[test]
fn a_full_witness_refuses_additions_only_and_a_hostile_one_harms_no_other_key() {
    let cluster = Cluster::start(1);
    let witness = Witness::join(&cluster);
    let (admin, by) = (cluster.admin(0), operator(&cluster, 1));
    for id in ["garbled", "deleted", "moved", "kept"] {
        cluster.eventually(0, "a key is created", || matches!(generate(&admin, id).status, 201 | 400));
        sign(&by, id).expect(200);
    }

    // 13: the quota.
    let mut written = 0;
    loop {
        let filler = put(format!("{FILLER}{written}"), vec![0; 1 << 20], 0);
        if write(&cluster.etcd(1), &TxnRequest { success: vec![filler], ..TxnRequest::default() }).is_err() {
            break;
        }
        written += 1;
        assert!(written < 40, "the quota is not kept");
    }
    for node in 0..NODES {
        let (admin, by) = (cluster.admin(node), cluster.client(node).log_in("op", "operator passphrase"));
        let refused = generate(&admin, "one-more").expect(507).json();
        let why = refused["message"].as_str().unwrap();
        assert!(why.contains("full"), "{why}");
        sign(&by, "kept").expect(200);
        admin.call("GET", "/keys", None).unwrap().expect(200);
        assert_eq!(cluster.state(node), "Operational");
    }
    cluster.eventually(0, "a key can be deleted", || {
        let answer = admin.call("DELETE", "/keys/moved", None).unwrap();
        matches!(answer.status, 204 | 404)
    });
    // It is made smaller and the alarm is taken back, as an operator does with the tools of etcd.
    for row in 0..written {
        let filler = delete(format!("{FILLER}{row}"));
        write(&cluster.etcd(1), &TxnRequest { success: vec![filler], ..TxnRequest::default() }).unwrap();
    }
    let now = block(cluster.etcd(1).range(get("/"))).unwrap().header.unwrap().revision;
    block(cluster.etcd(1).compact(now)).unwrap();
    let at_witness = witness.client();
    block(at_witness.defragment(&at_witness.endpoints()[0], Duration::from_secs(60))).unwrap();
    for alarm in block(cluster.etcd(1).alarms()).unwrap() {
        block(cluster.etcd(1).lift_alarm(alarm)).unwrap();
    }
    cluster.eventually(0, "keys can be added", || matches!(generate(&admin, "afterwards").status, 201 | 400));

    // 20: the witness writes. Which row is whose it can only find out from when they change.
    let before = all(&cluster, 0);
    let restrict = |id: &str| {
        cluster.eventually(0, "a key is changed", || {
            let path = format!("/keys/{id}/restrictions/tags/red");
            matches!(admin.call("PUT", &path, None).unwrap().status, 204 | 304)
        });
    };
    let row_of = |id: &str| {
        let before = all(&cluster, 0);
        restrict(id);
        let after = all(&cluster, 0);
        let changed: Vec<_> = after.into_iter().filter(|row| !before.contains(row)).collect();
        assert_eq!(changed.len(), 1, "one row is changed");
        changed[0].0.clone()
    };
    let (garbled, deleted) = (row_of("garbled"), row_of("deleted"));
    let kept = row_of("kept");
    let value = |key: &[u8]| before.iter().find(|(path, _)| path == key).unwrap().1.clone();
    let hostile = [
        vec![put(garbled.clone(), b"garbage".to_vec(), 0), delete(deleted)],
        // The row of another key.
        vec![put(garbled, value(&kept), 0)],
        // Rows that nobody has written.
        (0..100u8).map(|n| put([b"/casemate/\x01".as_slice(), &[n; 40]].concat(), vec![n; 100], 0)).collect(),
    ];
    for ops in hostile {
        write(&witness.client(), &TxnRequest { success: ops, ..TxnRequest::default() }).unwrap();
        for node in 0..NODES {
            let admin = cluster.admin(node);
            cluster.eventually(node, "the garbled key is refused", || {
                let answer = admin.call("GET", "/keys/garbled", None).unwrap();
                assert_ne!(answer.status, 404, "it is not taken for missing");
                answer.status >= 500
            });
            cluster.eventually(node, "the deleted key is missing", || {
                admin.call("GET", "/keys/deleted", None).unwrap().status == 404
            });
            admin.call("GET", "/keys/afterwards", None).unwrap().expect(200);
            assert_eq!(cluster.state(node), "Operational");
        }
        generate(&admin, "").expect(201);
    }
    for node in 0..NODES {
        let log = cluster.log(node);
        let bad = log.lines().find(|line| line.contains("panicked"));
        assert_eq!(bad, None, "node {node}");
    }
}

#[test]
fn a_member_that_boots_alone_is_failed_and_one_whose_data_is_damaged_serves_nobody() {
    let cluster = Cluster::start(0);
    let by = operator(&cluster, 1);
    let admin = cluster.admin(0);
    for id in ["first", "second"] {
        cluster.eventually(0, "a key is created", || matches!(generate(&admin, id).status, 201 | 400));
    }

    // 11: all are killed, and one of them boots.
    let address = cluster.address(0);
    let shown = fingerprint(&address).to_string();
    (0..NODES).for_each(|node| cluster.kill(node));
    cluster.start_process(0);
    let client = cluster.client(0);
    cluster.eventually(0, "it is Failed", || client.state() == "Failed");
    assert_eq!(fingerprint(&address).to_string(), shown, "it shows its certificate");
    client.call("GET", "/info", None).unwrap().expect(200);
    let diagnosis = client.call("GET", "/health/diagnose", None).unwrap().expect(200).json();
    assert_eq!(diagnosis["clusterState"]["running"], true, "{diagnosis}");
    client.unlock(UNLOCK).expect(412);
    client.log_in("op", "operator passphrase").call("GET", "/keys", None).unwrap().expect(412);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(client.state(), "Failed");
    cluster.start_process(1);
    cluster.unlock(0);
    cluster.unlock(1);
    cluster.restart(2);
    cluster.settle();
    sign(&cluster.client(1).log_in("op", "operator passphrase"), "first").expect(200);
    drop(by);

    // 14: the pages of one member's database are damaged.
    cluster.kill(2);
    let database = cluster.etcd_folder(2).join("data/member/snap/db");
    damage(&database);
    cluster.start_process(2);
    let damaged = cluster.client(2);
    cluster.eventually(2, "its etcd does not start", || {
        let diagnosis = damaged.call("GET", "/health/diagnose", None).unwrap().expect(200).json();
        assert!(!diagnosis.to_string().contains("although its store answers"), "{diagnosis}");
        diagnosis["clusterState"] == json!({ "running": false, "exited": 1 })
    });
    let why = cluster.log(2).lines().rfind(|line| line.contains("etcd has ended")).unwrap_or_default().to_owned();
    assert!(why.contains("data inconsistency"), "{why}");
    for _ in 0..20 {
        assert_ne!(damaged.state(), "Operational");
        damaged.unlock(UNLOCK).expect(412);
        let admin = cluster.admin(0);
        cluster.eventually(0, "the others take changes", || generate(&admin, "").status == 201);
        sign(&cluster.client(1).log_in("op", "operator passphrase"), "second").expect(200);
        std::thread::sleep(Duration::from_millis(250));
    }
    // It is removed, and joins again as a new one.
    let members = cluster.admin(0).call("GET", "/cluster/members", None).unwrap().expect(200).json();
    let url = cluster.url(2);
    let bad = members.as_array().unwrap().iter().find(|member| member["urls"][0] == *url).unwrap();
    let path = format!("/cluster/members/{}", bad["id"].as_str().unwrap());
    cluster.eventually(0, "it is removed", || {
        matches!(cluster.admin(0).call("DELETE", &path, None).unwrap().status, 204 | 404)
    });
    cluster.kill(2);
    cluster.set_up(2);
    cluster.join(2);
    cluster.settle();
    sign(&cluster.client(2).log_in("op", "operator passphrase"), "second").expect(200);
}

/// Flips a bit in the value of each row of a user or a key. Other rows are shorter, and their pages would be damaged instead, which etcd
/// does not survive until it compares itself with the others.
fn damage(database: &std::path::Path) {
    let mut bytes = fs::read(database).unwrap();
    let name = b"/casemate/\x01";
    let found: Vec<usize> =
        bytes.windows(name.len()).enumerate().filter(|(_, at)| at == name).map(|(at, _)| at).collect();
    // Behind the generation there is the number of the table.
    let large = |at: &usize| matches!(bytes.get(at + name.len() + 4), Some(2 | 3));
    let found: Vec<usize> = found.into_iter().filter(large).collect();
    assert!(!found.is_empty(), "there are rows");
    for at in found {
        if let Some(byte) = bytes.get_mut(at + 100) {
            *byte ^= 1;
        }
    }
    fs::write(database, bytes).unwrap();
}
