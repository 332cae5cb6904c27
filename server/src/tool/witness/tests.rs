//! A real cluster whose third member is a witness, and what is refused before anything is written.

use std::time::Duration;

use casemate_etcd::proto::TxnRequest;
use casemate_etcd::request::put;
use casemate_etcd::{Address, Client, Error, MemberError, MemberKind, Settings, Tls, when_healthy};
use casemate_testkit::EtcdServer;
use serde_json::{Value, json};

use super::*;
use crate::scratch::Scratch;

fn asked(folder: &Scratch, members: &Value, name: &str, url: &[&str]) -> WitnessInit {
    fs::write(folder.path("members.json"), members.to_string()).unwrap();
    WitnessInit {
        folder: folder.path("witness"),
        name: name.into(),
        url: url.iter().map(|url| (*url).to_owned()).collect(),
        members: folder.path("members.json"),
        ca: None,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn client(etcd: &EtcdServer, members: &[usize]) -> Client {
    let certificates = etcd.certificates().unwrap();
    let identity = &certificates.client;
    let tls =
        Tls::from_pem(certificates.ca.as_bytes(), Some((identity.certificate.as_bytes(), identity.key.as_bytes())));
    let endpoints = members.iter().map(|at| Address::parse(&etcd.endpoints()[*at]).unwrap()).collect();
    Client::new(Settings::of(endpoints, Some(tls.unwrap()))).unwrap()
}

async fn write(client: &Client) -> Result<(), Error> {
    client.txn(TxnRequest { success: vec![put("k", "v", 0)], ..TxnRequest::default() }).await.map(drop)
}

/// The arguments in the unit, with the folders that systemd would put in, and another client port.
fn arguments(unit: &str, folder: &Path, client: &str) -> Vec<String> {
    let (_, rest) = unit.split_once("ExecStart=").unwrap();
    let mut arguments = Vec::new();
    for line in rest.lines() {
        arguments.push(line.trim_end_matches('\\').trim().to_owned());
        if !line.ends_with('\\') {
            break;
        }
    }
    assert_eq!(arguments.remove(0), "/usr/local/bin/etcd");
    let folder = folder.to_str().unwrap();
    let put_in =
        |argument: String| argument.replace("%d", folder).replace("%S", folder).replace("127.0.0.1:2379", client);
    arguments.into_iter().map(put_in).collect()
}

#[test]
fn a_witness_is_the_third_vote_of_two_members() {
    let mut etcd = EtcdServer::start(2, &[]);
    let new = etcd.prepare();
    let url = etcd.peer_url(new);
    let (id, invitation) = runtime().block_on(async {
        let client = client(&etcd, &[0, 1]);
        let (added, members) =
            when_healthy(|| client.member_add(std::slice::from_ref(&url), MemberKind::Learner)).await.unwrap();
        let member = |member: &casemate_etcd::proto::Member| {
            let (id, urls) = (format!("{:x}", member.id), &member.peer_ur_ls);
            json!({ "id": id, "name": member.name, "urls": urls, "learner": member.is_learner })
        };
        let members: Vec<_> = members.iter().map(member).collect();
        (added.id, json!({ "members": members, "joinerKit": "c2VhbGVkIGtleXM=" }))
    });

    let folder = Scratch::new();
    let certificates = etcd.certificates().unwrap();
    fs::write(folder.path("ca.pem"), &certificates.ca).unwrap();
    let asked = WitnessInit { ca: Some(folder.path("ca.pem")), ..asked(&folder, &invitation, "third", &[&url]) };
    let mut out = Vec::new();
    init(&asked, &mut out).unwrap();
    let place = asked.folder.canonicalize().unwrap();
    assert!(String::from_utf8(out).unwrap().contains(place.join("NEXT-STEPS.txt").to_str().unwrap()));
    let text = |name: &str| fs::read_to_string(place.join(name)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&place), mode(&place.join("witness.key"))), (0o700, 0o600));
    for file in fs::read_dir(&place).unwrap() {
        assert!(!fs::read_to_string(file.unwrap().path()).unwrap().contains("c2VhbGVkIGtleXM"), "the joiner kit");
    }
    let steps = text("NEXT-STEPS.txt");
    assert!(steps.contains(&format!("POST /api/v1/cluster/members/{id:x}/promote")), "{steps}");
    assert!(!text("casemate-witness.service").contains("skip-client-san"));

    fs::write(place.join("witness.pem"), certificates.sign(&text("witness.csr"))).unwrap();
    let (_, port) =
        etcd.endpoints()[new].rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
    let arguments = arguments(&text("casemate-witness.service"), &place, &format!("127.0.0.1:{port}"));
    etcd.join_by(new, arguments);

    runtime().block_on(async {
        let two = client(&etcd, &[0, 1]);
        loop {
            match when_healthy(|| two.member_promote(id)).await {
                Err(Error::Member(MemberError::LearnerNotReady)) => tokio::time::sleep(Duration::from_millis(50)).await,
                outcome => break outcome.unwrap(),
            }
        }
    });
    etcd.kill(1);
    runtime().block_on(async {
        let left = client(&etcd, &[0]);
        // Until another one leads, if that was the leader.
        while write(&left).await.is_err() {}
        let members = left.member_list().await.unwrap();
        assert!(members.iter().any(|member| member.name == "third" && !member.is_learner), "{members:?}");
        // Its client port is for those with a certificate of the CA.
        write(&client(&etcd, &[new])).await.unwrap();
    });
}

#[test]
fn what_cannot_become_a_witness_is_refused_before_anything_is_written() {
    let folder = Scratch::new();
    let member =
        |name: &str, urls: &[&str]| json!({ "id": "a1", "name": name, "urls": urls, "learner": name.is_empty() });
    let (one, url) = (member("one", &["https://192.0.2.1:2380"]), "https://192.0.2.3:2380");
    let good = json!([one, member("", &[url])]);
    let refusal = |members: &Value, name: &str, urls: &[&str]| {
        let asked = asked(&folder, members, name, urls);
        let sentence = init(&asked, &mut io::sink()).unwrap_err();
        assert!(!asked.folder.exists(), "{sentence}");
        sentence
    };
    for (members, name, urls, said) in [
        (&json!([one]), "w", &[url][..], "every member has a name"),
        (
            &json!([one, member("", &[url]), member("", &["https://192.0.2.4:1"])]),
            "w",
            &[url],
            "2 members have no name",
        ),
        (&json!([member("", &[url])]), "w", &[url], "no other member"),
        (&good, "one", &[url], "has this name already"),
        (&good, "", &[url], "a name is made of letters"),
        (&good, "a=b", &[url], "a name is made of letters"),
        (&good, "w", &["https://192.0.2.9:2380"], "was added with https://192.0.2.3:2380"),
        (&good, "w", &["http://192.0.2.3:2380"], "write https://IP:PORT"),
        (&good, "w", &["https://192.0.2.3"], "write https://IP:PORT"),
        (&good, "w", &["https://witness.example.org:2380"], "with an IP address"),
        (
            &json!([one, member("", &[url, "https://[2001:db8::3]:2380"])]),
            "w",
            &[url],
            "give --url https://[2001:db8::3]:2380",
        ),
        (
            &json!([member("one\nUser=root", &["https://192.0.2.1:2380"]), member("", &[url])]),
            "w",
            &[url],
            "is not the name",
        ),
        (&json!([member("one", &["https://192.0.2.1:2380 %n"]), member("", &[url])]), "w", &[url], "is not a URL"),
        (&json!([one, { "name": "", "urls": [url] }]), "w", &[url], "is not the id"),
        (&json!("text"), "w", &[url], "is not a reply of POST /cluster/members"),
    ] {
        let sentence = refusal(members, name, urls);
        assert!(sentence.contains(said), "{said}: {sentence}");
    }

    let mut asked = asked(&folder, &good, "w", &[url]);
    for ca in ["no PEM", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        fs::write(folder.path("ca.pem"), ca).unwrap();
        asked.ca = Some(folder.path("ca.pem"));
        assert!(init(&asked, &mut io::sink()).unwrap_err().contains("certificate of the cluster CA"));
    }
    asked.ca = None;
    fs::create_dir(&asked.folder).unwrap();
    fs::write(asked.folder.join("file"), "").unwrap();
    assert!(init(&asked, &mut io::sink()).unwrap_err().contains("is not empty"));
    fs::remove_file(asked.folder.join("file")).unwrap();
    // An empty one will do, and without the CA the text says where to get it.
    init(&asked, &mut io::sink()).unwrap();
    assert!(fs::read_to_string(asked.folder.join("NEXT-STEPS.txt")).unwrap().contains("tls/cluster-ca.pem"));
    assert!(!asked.folder.join("cluster-ca.pem").exists());
    let mode = fs::metadata(&asked.folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    asked.members = folder.path("nowhere");
    assert!(init(&asked, &mut io::sink()).unwrap_err().contains("nowhere"));
}
