//! Data files that real etcds have written (`cargo xtask etcd` builds etcd), read without them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::time::Duration;

use casemate_testkit::{EtcdServer, Folder};

use super::*;
use crate::proto::{KeyValue, TxnRequest};
use crate::request::{delete, prefix, put};
use crate::{Address, Client, MemberKind, Settings, when_healthy};

/// What a member answered before it was stopped, and its file.
struct Stopped {
    file: Vec<u8>,
    rows: Vec<KeyValue>,
    members: Vec<Member>,
    revision: i64,
    /// As etcd itself computes it, without what it goes on writing.
    hash: u32,
}

fn client(etcd: &EtcdServer) -> Client {
    Client::new(Settings::of(vec![Address::parse(&etcd.endpoints()[0]).unwrap()], None)).unwrap()
}

async fn fill(client: &Client, from: usize) {
    let write = async |operations| {
        client.txn(TxnRequest { success: operations, ..TxnRequest::default() }).await.unwrap();
    };
    for batch in 0..20 {
        let key = |n: usize| format!("{}/{:04}", ["a", "b/long/prefix", "c"][n % 3], from + batch * 50 + n);
        write((0..50).map(|n| put(key(n), format!("first {n}"), 0)).collect()).await;
        write((0..50).step_by(2).map(|n| put(key(n), "x".repeat(n * 20), 0)).collect()).await;
        write((0..50).step_by(5).map(|n| delete(key(n))).collect()).await;
        write((0..50).step_by(15).map(|n| put(key(n), "again", 0)).collect()).await;
    }
    for n in 0..6 {
        write(vec![put(format!("large/{n}"), vec![b'v'; 300_000 + n * 150_000], 0)]).await;
    }
    write(vec![
        put("large/1", "small", 0),
        put("empty", "", 0),
        put(vec![0], "first", 0),
        put(vec![255; 40], "last", 0),
    ])
    .await;
}

/// What etcd answers to `POST /v3/maintenance/hash`.
fn hash(etcd: &EtcdServer) -> u32 {
    let mut stream = TcpStream::connect(&etcd.endpoints()[0]).unwrap();
    write!(stream, "POST /v3/maintenance/hash HTTP/1.0\r\nContent-Length: 2\r\n\r\n{{}}").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (_, hash) = reply.rsplit_once("\"hash\":").unwrap_or_else(|| panic!("{reply}"));
    hash.trim_end_matches('}').parse().unwrap()
}

/// A member with history, compacted and defragmented in the middle.
fn stopped() -> &'static Stopped {
    static STOPPED: OnceLock<Stopped> = OnceLock::new();
    STOPPED.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut etcd = EtcdServer::start_plain(1, &[]);
        let stopped = runtime.block_on(async {
            let client = client(&etcd);
            fill(&client, 0).await;
            let now = client.range(prefix(b"", 1)).await.unwrap().header.unwrap().revision;
            client.compact(now - 7).await.unwrap();
            let endpoint = client.endpoints()[0].clone();
            client.defragment(&endpoint, Duration::from_secs(60)).await.unwrap();
            fill(&client, 600).await;
            let urls = [String::from("http://127.0.0.1:1")];
            let (gone, _) = when_healthy(|| client.member_add(&urls, MemberKind::Learner)).await.unwrap();
            client.member_remove(gone.id).await.unwrap();
            let members = client.member_add(&["http://127.0.0.1:2".into()], MemberKind::Learner).await.unwrap().1;
            let all = client.range(prefix(b"", 0)).await.unwrap();
            let revision = all.header.unwrap().revision;
            Stopped { file: Vec::new(), rows: all.kvs, members, revision, hash: hash(&etcd) }
        });
        etcd.stop(0);
        Stopped { file: fs::read(etcd.data_file(0)).unwrap(), ..stopped }
    })
}

/// A file with few rows in several pages.
fn small() -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut etcd = EtcdServer::start_plain(1, &[]);
    runtime.block_on(async {
        let client = client(&etcd);
        for n in 0..30 {
            let success = vec![put(format!("a/{n}"), vec![7; 500], 0), put("b", vec![8; 9_000 * (n % 2)], 0)];
            client.txn(TxnRequest { success, ..TxnRequest::default() }).await.unwrap();
        }
        let endpoint = client.endpoints()[0].clone();
        client.defragment(&endpoint, Duration::from_secs(60)).await.unwrap();
    });
    etcd.stop(0);
    fs::read(etcd.data_file(0)).unwrap()
}

/// The file with this content.
struct Copy {
    folder: Folder,
}

impl Copy {
    fn of(content: &[u8]) -> Self {
        let folder = Folder::new();
        folder.file("db", content);
        Self { folder }
    }

    fn open(&self) -> Result<DataFile, FileError> {
        DataFile::open(&self.folder.path("db"))
    }
}

#[test]
fn the_file_has_what_the_member_answered() {
    let stopped = stopped();
    let copy = Copy::of(&stopped.file);
    let file = copy.open().unwrap();
    let rows = |prefix: &[u8]| file.rows(prefix).collect::<Result<Vec<_>, _>>().unwrap();
    let answered = |prefix: &[u8]| -> Vec<KeyValue> {
        stopped.rows.iter().filter(|row| row.key.starts_with(prefix)).cloned().collect()
    };
    assert!(rows(b"").iter().eq(&stopped.rows), "all rows, in order, with their revisions");
    for prefix in [&b"a/"[..], b"b/long/prefix/00", b"c/0601", b"large/", b"nothing", b"\0", b"\xff\xff"] {
        assert_eq!(rows(prefix).len(), answered(prefix).len(), "{prefix:?}");
        assert!(rows(prefix) == answered(prefix), "{prefix:?}");
        assert_eq!(file.count(prefix).unwrap(), answered(prefix).len() as u64);
    }
    assert!(stopped.rows.len() > 1000 && answered(b"large/").len() == 6);

    // With little memory, in many parts.
    for index_max_bytes in [0, 700, 50_000] {
        let parts = Rows::new(file.pages.clone(), b"", b"", index_max_bytes).take(if index_max_bytes == 0 {
            60
        } else {
            usize::MAX
        });
        let parts: Vec<KeyValue> = parts.map(Result::unwrap).collect();
        assert!(
            parts[..] == stopped.rows[..parts.len()] && (index_max_bytes == 0 || parts.len() == stopped.rows.len())
        );
    }

    let facts = file.facts().unwrap();
    assert_eq!(facts.cluster_version.as_deref(), Some("3.6.0"));
    assert!(facts.consistent_index > 0 && facts.term > 0, "{facts:?}");
    let sorted = |mut members: Vec<Member>| {
        members.sort_by_key(|member| member.id);
        members
    };
    assert_eq!(sorted(file.members().unwrap()), sorted(stopped.members.clone()));
    assert_eq!(file.members_removed().unwrap().len(), 1);
}

#[test]
fn the_summary_is_that_of_etcd() {
    let stopped = stopped();
    let (copy, other) = (Copy::of(&stopped.file), Copy::of(&stopped.file));
    let summary = copy.open().unwrap().summary().unwrap();
    assert_eq!(summary, other.open().unwrap().summary().unwrap());
    assert_eq!(summary.revision, stopped.revision);
    assert!(summary.total_key > stopped.rows.len() as u64);
    assert!(summary.total_size_bytes > 1 << 20 && summary.total_size_bytes <= stopped.file.len() as u64);
    assert_eq!(summary.version.as_deref(), Some("3.6.0"));
    // What etcd answers while it runs leaves out what it may write again at its end.
    let changing = |bucket: &[u8], key: &[u8]| {
        bucket == META && [&b"consistent_index"[..], b"term", b"storageVersion"].contains(&key)
    };
    let kept = copy.open().unwrap().hash(|bucket, key| !changing(bucket, key)).unwrap();
    assert_eq!(kept.hash, stopped.hash);
}

/// What this is for.
#[test]
fn a_member_that_was_removed_has_left_its_rows_and_knows_of_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut etcd = EtcdServer::start_plain(2, &[]);
    let (removed, rows, left) = runtime.block_on(async {
        let client = client(&etcd);
        fill(&client, 0).await;
        let members = client.member_list().await.unwrap();
        let removed = members.iter().find(|member| member.name == "m1").unwrap().id;
        let left = when_healthy(|| client.member_remove(removed)).await.unwrap();
        // The other one may have led.
        let rows = loop {
            match client.range(prefix(b"", 0)).await {
                Ok(all) => break all.kvs,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        (removed, rows, left)
    });
    etcd.await_end(1);
    let file = DataFile::open(&etcd.data_file(1)).unwrap();
    assert!(file.rows(b"").map(Result::unwrap).eq(rows));
    assert_eq!((file.members_removed().unwrap(), file.members().unwrap()), (vec![removed], left));
}

/// Two files that the library of etcd has written, and what `etcdutl snapshot status` (3.5.1) says about them.
#[test]
fn the_summary_is_that_of_etcdutl() {
    for (content, wanted) in [
        (&include_bytes!("../../../fuzz/seeds/datafile/few")[..], (2_937_348_919, 4, 9, 6144)),
        (&include_bytes!("../../../fuzz/seeds/datafile/many")[..], (4_164_612_542, 25, 30, 13_312)),
    ] {
        let copy = Copy::of(content);
        let Summary { hash, revision, total_key, total_size_bytes, .. } = copy.open().unwrap().summary().unwrap();
        assert_eq!((hash, revision, total_key, total_size_bytes), wanted);
    }
}

/// Whatever is in a file, reading it comes to an end. Tells whether all of it was accepted.
fn read_all(file: &DataFile) -> Result<(), FileError> {
    file.rows(b"").try_for_each(|row| row.map(drop))?;
    file.rows(b"a/").try_for_each(|row| row.map(drop))?;
    file.summary()?;
    file.facts()?;
    file.members()?;
    file.members_removed().map(drop)
}

#[test]
fn a_file_that_was_cut_off_is_refused() {
    let stopped = stopped();
    let used = Copy::of(&stopped.file).open().unwrap().summary().unwrap().total_size_bytes as usize;
    for length in [0, 1, 15, 16, 80, 4095, 4096, 4200, 8192, used / 2, used - 4096, used - 1] {
        let copy = Copy::of(&stopped.file[..length]);
        assert!(matches!(copy.open().err(), Some(FileError::Damaged { .. })), "{length}");
    }
    // What is behind the end is room.
    read_all(&Copy::of(&stopped.file[..used]).open().unwrap()).unwrap();
    let folder = Folder::new();
    let missing = DataFile::open(&folder.path("db")).err().unwrap();
    assert!(matches!(&missing, FileError::Unreadable { .. }), "{missing}");
    assert!(missing.to_string().contains(&folder.at("db")), "{missing}");
    let text = folder.file("text", "no database ".repeat(10_000));
    let error = DataFile::open(text.as_ref()).err().unwrap().to_string();
    assert!(error.contains("is not a whole data file of etcd") && error.contains(&text), "{error}");
}

#[test]
fn one_of_the_first_two_pages_is_enough() {
    let stopped = stopped();
    let mut outcomes = BTreeMap::new();
    for meta in [0, 4096] {
        let mut file = stopped.file.clone();
        file[meta + 30] ^= 1;
        let copy = Copy::of(&file);
        let rows = copy.open().unwrap().rows(b"large/").filter_map(Result::ok).count();
        *outcomes.entry(rows).or_insert(0) += 1;
        let mut file = file.clone();
        file[4096 - meta + 60] ^= 1;
        let error = Copy::of(&file).open().err().unwrap().to_string();
        assert!(error.contains("neither of its first two pages is whole"), "{error}");
    }
    // The older state of the two may have lost pages since.
    assert!(outcomes.contains_key(&6), "{outcomes:?}");
}

#[test]
fn a_damaged_file_ends_in_an_error_or_in_rows() {
    let good = small();
    let page = 4096;
    let copy = Copy::of(&good);
    let at = copy.folder.path("db");
    let (mut refused, mut accepted) = (0, 0);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize % below
    };
    let used = copy.open().unwrap().summary().unwrap().total_size_bytes as usize;
    let disk = fs::OpenOptions::new().write(true).open(&at).unwrap();
    for round in 0..3000 {
        // Places and lengths are where pages begin.
        let changed = match round % 3 {
            0 => next(2) * page + next(80),
            1 => next(used / page) * page + next(64),
            _ => next(used),
        };
        disk.write_all_at(&[good[changed] ^ (1 << next(8))], changed as u64).unwrap();
        match copy.open().and_then(|file| read_all(&file)) {
            Ok(()) => accepted += 1,
            Err(error) => {
                refused += 1;
                assert!(matches!(error, FileError::Damaged { .. }), "{error}");
            }
        }
        disk.write_all_at(&good[changed..=changed], changed as u64).unwrap();
    }
    println!("{refused} refused, {accepted} accepted");
    assert!(refused > 300 && accepted > 300, "{refused} refused, {accepted} accepted");
}

#[test]
fn pages_that_lead_nowhere_in_circles_or_out_of_the_file_are_refused() {
    const PAGE: usize = 1024;
    let good = include_bytes!("../../../fuzz/seeds/datafile/many");
    let branch = (2..good.len() / PAGE).find(|page| good[page * PAGE + 8] == 1).unwrap() * PAGE;
    let first_child = branch + 16 + 8;
    let second = good[first_child + 16..first_child + 24].to_vec();
    let number = |number: u64| number.to_le_bytes().to_vec();
    for (at, bytes, said) in [
        (first_child, number((branch / PAGE) as u64), "is used twice"),
        (first_child, second, "is used twice"),
        (first_child, number(0), "there is no page 0"),
        (first_child, number(1 << 60), "there is no page 1152921504606846976"),
        (branch, number(7), "is not what it should be"),
        (branch + 8, vec![4, 0], "is not what it should be"),
        (branch + 10, vec![0xff, 0xff], "is cut off"),
        (branch + 12, vec![0xff; 4], "is not what it should be"),
    ] {
        let mut file = good.to_vec();
        file[at..at + bytes.len()].copy_from_slice(&bytes);
        let copy = Copy::of(&file);
        let error = copy.open().and_then(|file| read_all(&file)).unwrap_err();
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
}
