//! Logs of real etcds (`cargo xtask etcd` builds etcd) that were killed, and logs made by hand.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casemate_testkit::{EtcdServer, Folder};
use tokio::task::JoinSet;

use super::*;
use crate::proto::{RangeRequest, TxnRequest};
use crate::request::{prefix, put};
use crate::{Address, Client, Settings};

/// With these, what etcd has applied stays in its memory, so that only the log has it after it was killed.
const LOG_ALONE: [&str; 2] = ["--backend-batch-interval=1h", "--backend-batch-limit=1000000"];

type Keys = BTreeSet<String>;

const NONE: [&str; 0] = [];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn client(etcd: &EtcdServer, members: &[usize]) -> Client {
    let endpoints = etcd.endpoints();
    let addresses = members.iter().map(|member| Address::parse(&endpoints[*member]).unwrap()).collect();
    Client::new(Settings::of(addresses, None)).unwrap()
}

/// Whether the write was confirmed.
async fn write(client: &Client, key: &str, value: impl Into<Vec<u8>>) -> bool {
    let success = vec![put(key.to_owned(), value.into(), 0)];
    client.txn(TxnRequest { success, ..TxnRequest::default() }).await.is_ok()
}

async fn write_surely(client: &Client, keys: &mut Keys, key: String) {
    while !write(client, &key, "value").await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    keys.insert(key);
}

async fn keys(client: &Client) -> Keys {
    let all = RangeRequest { keys_only: true, ..prefix(b"", 0) };
    let rows = client.range(all).await.unwrap().kvs;
    rows.into_iter().map(|row| String::from_utf8(row.key.to_vec()).unwrap()).collect()
}

/// The leader, and the others.
async fn roles(etcd: &EtcdServer) -> (usize, Vec<usize>) {
    let all = client(etcd, &[0, 1, 2]);
    for _ in 0..600 {
        for (member, endpoint) in all.endpoints().iter().enumerate() {
            let status = all.status_of(endpoint).await;
            if status.is_ok_and(|status| status.leader != 0 && status.header.unwrap().member_id == status.leader) {
                return (member, (0..3).filter(|other| *other != member).collect());
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("there is no leader");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Copies of the folder of a member that was killed, and etcds that are started on them.
struct Left {
    etcd: EtcdServer,
    member: usize,
    confirmed: Keys,
}

struct Copied {
    member: usize,
    name: String,
    path: PathBuf,
}

impl Left {
    fn copy(&mut self) -> Copied {
        let member = self.etcd.prepare();
        let path = self.etcd.folder.path(&format!("copy{member}"));
        let name = format!("m{}", self.member);
        copy(&self.etcd.folder.path(&name), &path);
        Copied { member, name, path }
    }

    /// The keys that an etcd has which is started alone on a copy. It is killed then.
    fn keys_alone(&mut self, copied: &Copied) -> Keys {
        let found = self.keys_of(copied, &["--force-new-cluster"]);
        // Once more, on what it has made of the log.
        assert_eq!(found, self.keys_of(copied, &[]));
        found
    }

    /// The keys that were confirmed and that such an etcd does not have.
    fn lost_alone(&mut self, copied: &Copied) -> Vec<String> {
        let found = self.keys_alone(copied);
        self.confirmed.difference(&found).cloned().collect()
    }

    fn keys_of(&mut self, copied: &Copied, flags: &[&str]) -> Keys {
        let (client_url, peer_url) =
            (format!("http://{}", self.etcd.endpoints()[copied.member]), self.etcd.peer_url(copied.member));
        let mut arguments = vec![
            format!("--name={}", copied.name),
            format!("--data-dir={}", copied.path.display()),
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            format!("--listen-peer-urls={peer_url}"),
        ];
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self.etcd.join_by(copied.member, arguments);
        let client = client(&self.etcd, &[copied.member]);
        let found = runtime().block_on(async {
            let found = keys(&client).await;
            assert!(write(&client, "written/after", "").await);
            found
        });
        self.etcd.kill(copied.member);
        found.into_iter().filter(|key| key != "written/after").collect()
    }
}

impl Copied {
    fn log(&self) -> PathBuf {
        self.path.join("member/wal")
    }

    fn last_file(&self) -> PathBuf {
        files(&self.log()).unwrap().pop().unwrap().path
    }
}

/// A cluster of three, of which a follower is killed, then the leader, then the other follower.
fn last_of_three(writers: usize) -> Left {
    let mut etcd = EtcdServer::start_plain(3, &LOG_ALONE);
    let (member, confirmed) = runtime().block_on(async {
        let (leader, followers) = roles(&etcd).await;
        let [first, last] = followers[..] else { unreachable!() };
        etcd.kill(first);
        let client = Arc::new(client(&etcd, &[leader, last]));
        let confirmed = Arc::new(Mutex::new(Keys::new()));
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let (client, confirmed) = (client.clone(), confirmed.clone());
            tasks.spawn(async move {
                for n in 0.. {
                    let key = format!("{writer}/{n}");
                    if !write(&client, &key, "value").await {
                        return;
                    }
                    confirmed.lock().unwrap().insert(key);
                }
            });
        }
        let enough = async || {
            while confirmed.lock().unwrap().len() < 40 * writers {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), enough()).await.unwrap();
        if writers == 1 {
            // Right after a confirmation.
            tasks.abort_all();
            while tasks.join_next().await.is_some() {}
            let mut confirmed_last = Keys::new();
            write_surely(&client, &mut confirmed_last, "last".into()).await;
            confirmed.lock().unwrap().append(&mut confirmed_last);
        }
        etcd.kill(leader);
        etcd.kill(last);
        tasks.abort_all();
        while tasks.join_next().await.is_some() {}
        let confirmed = confirmed.lock().unwrap().clone();
        (last, confirmed)
    });
    Left { etcd, member, confirmed }
}

/// What this is for.
#[test]
fn the_last_change_that_was_confirmed_is_kept() {
    let mut left = last_of_three(1);
    let without = left.copy();
    assert_eq!(left.lost_alone(&without), ["last"], "etcd does not need this any more");

    let with = left.copy();
    let before = records(&with.log());
    let committed = commit_all(&with.log()).unwrap();
    assert!(committed.after > committed.before, "{committed:?}");
    let after = records(&with.log());
    assert_eq!((&after[..before.len()], after.len()), (&before[..], before.len() + 1));
    // There is nothing to do any more.
    let content = fs::read(with.last_file()).unwrap();
    assert_eq!(commit_all(&with.log()).unwrap(), Committed { before: committed.after, ..committed });
    assert!(fs::read(with.last_file()).unwrap() == content);
    assert_eq!(left.lost_alone(&with), NONE);
    // Nor after etcd has gone on with it.
    commit_all(&with.log()).unwrap();

    // The record that was being written is there in part. etcd itself goes on with such a log, and with what this makes of it.
    for kept in [4, 8, 600] {
        for committing in [false, true] {
            let torn = left.copy();
            let end = end(&torn.log());
            let file = OpenOptions::new().write(true).open(torn.last_file()).unwrap();
            let frame = frame(ENTRY, vec![7; 5_000], 1);
            file.write_all_at(&frame[..kept], end).unwrap();
            if committing {
                assert_eq!(commit_all(&torn.log()).unwrap(), committed, "{kept}");
                let content = fs::read(torn.last_file()).unwrap();
                let (whole, zeros) = content.split_at(self::end(&torn.log()) as usize);
                assert!(zeros.iter().all(|byte| *byte == 0), "{kept}");
                assert_eq!((whole.len() + zeros.len()) as u64, file.metadata().unwrap().len());
            }
            assert_eq!(left.lost_alone(&torn).len(), usize::from(!committing), "{kept}");
        }
    }
}

#[test]
fn whatever_was_confirmed_to_several_writers_is_kept() {
    let mut left = last_of_three(8);
    let copied = left.copy();
    let committed = commit_all(&copied.log()).unwrap();
    let found = left.keys_alone(&copied);
    println!("{committed:?}: {} of which {} were confirmed", found.len(), left.confirmed.len());
    assert_eq!(left.confirmed.difference(&found).count(), 0);
}

#[test]
fn entries_that_others_have_replaced_stay_away() {
    let mut etcd = EtcdServer::start_plain(3, &LOG_ALONE);
    let (member, confirmed) = runtime().block_on(async {
        let mut confirmed = Keys::new();
        let (leader, followers) = roles(&etcd).await;
        write_surely(&client(&etcd, &[leader]), &mut confirmed, "first".into()).await;
        followers.iter().for_each(|follower| etcd.kill(*follower));
        // The leader alone cannot confirm these.
        let (alone, log) = (client(&etcd, &[leader]), etcd.folder.path(&format!("m{leader}/member/wal")));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            for n in 0..20 {
                let _ = tokio::time::timeout(Duration::from_millis(20), write(&alone, "phantom", vec![n; 10])).await;
            }
        });
        let has = |log: &Path, text: &[u8]| records(log).iter().any(|record| contains(record, text));
        while !has(&log, b"phantom") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        etcd.pause(leader);
        tasks.abort_all();
        etcd.start_all();
        write_surely(&client(&etcd, &followers), &mut confirmed, "others".into()).await;
        etcd.kill(leader);
        etcd.restart(leader);
        let others = client(&etcd, &followers);
        for n in 0..50 {
            write_surely(&others, &mut confirmed, format!("later/{n}")).await;
        }
        while !has(&log, b"later/49") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (leader, confirmed)
    });
    (0..3).for_each(|member| etcd.kill(member));
    let mut left = Left { etcd, member, confirmed };
    let copied = left.copy();
    assert!(records(&copied.log()).iter().any(|record| contains(record, b"phantom")));
    commit_all(&copied.log()).unwrap();
    assert_eq!(left.keys_alone(&copied), left.confirmed);
}

/// A member that was away gets a snapshot, and goes on behind it.
#[test]
fn a_log_with_snapshots_is_kept() {
    let flags = [LOG_ALONE[0], LOG_ALONE[1], "--snapshot-count=20", "--snapshot-catchup-entries=5"];
    let mut etcd = EtcdServer::start_plain(3, &flags);
    let (member, confirmed) = runtime().block_on(async {
        let mut confirmed = Keys::new();
        let (leader, followers) = roles(&etcd).await;
        let [away, other] = followers[..] else { unreachable!() };
        let client = client(&etcd, &[leader]);
        for n in 0..50 {
            write_surely(&client, &mut confirmed, format!("before/{n}")).await;
        }
        etcd.kill(away);
        for n in 0..100 {
            write_surely(&client, &mut confirmed, format!("meanwhile/{n}")).await;
        }
        etcd.restart(away);
        etcd.kill(other);
        for n in 0..50 {
            write_surely(&client, &mut confirmed, format!("after/{n}")).await;
        }
        etcd.kill(leader);
        etcd.kill(away);
        (away, confirmed)
    });
    let mut left = Left { etcd, member, confirmed };
    let copied = left.copy();
    let mut commit = 0;
    let (mut own, mut sent) = (0, 0);
    for Record { kind, data, .. } in records(&copied.log()) {
        let data = data.unwrap_or_default();
        match kind {
            STATE => commit = HardState::decode(data).unwrap().commit,
            SNAPSHOT if Snapshot::decode(data.clone()).unwrap().index > commit => sent += 1,
            SNAPSHOT => own += 1,
            _ => {}
        }
    }
    assert!(own > 1 && sent > 0, "{own} of its own, {sent} of the leader");
    let committed = commit_all(&copied.log()).unwrap();
    assert!(committed.after > committed.before, "{committed:?}");
    assert_eq!(left.keys_alone(&copied), left.confirmed);
}

#[test]
fn a_log_of_several_files_is_kept() {
    let mut etcd = EtcdServer::start_plain(1, &LOG_ALONE);
    let confirmed = runtime().block_on(async {
        let client = client(&etcd, &[0]);
        let keys: Keys = (0..120).map(|n| format!("large/{n}")).collect();
        for key in &keys {
            assert!(write(&client, key, vec![b'v'; 1_200_000]).await);
        }
        keys
    });
    etcd.kill(0);
    let mut left = Left { etcd, member: 0, confirmed };
    let copied = left.copy();
    assert_eq!(files(&copied.log()).unwrap().len(), 3);
    let committed = commit_all(&copied.log()).unwrap();
    assert!(committed.after > committed.before, "{committed:?}");
    // Only in the last file may a record be there in part.
    let first = files(&copied.log()).unwrap().remove(0).path;
    let whole = fs::read(&first).unwrap();
    for (wrong, why) in
        [(&whole[..whole.len() - 8], "its end is missing"), (&[&whole[..], &[1; 4]].concat(), "its end")]
    {
        fs::write(&first, wrong).unwrap();
        let error = commit_all(&copied.log()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(error.to_string().contains(first.to_str().unwrap()), "{error}");
    }
    fs::write(&first, whole).unwrap();
    let found = left.keys_alone(&copied);
    assert_eq!(found, left.confirmed);
    // One in the middle is gone.
    let middle = files(&copied.log()).unwrap().remove(1).path;
    fs::remove_file(middle).unwrap();
    let error = commit_all(&copied.log()).unwrap_err();
    assert!(error.to_string().contains("a file of the log is missing"), "{error}");
}

/// etcd ends when it carries out that it was removed, and never starts again on that folder.
#[test]
fn an_entry_that_removes_this_member_is_not_taken() {
    let mut etcd = EtcdServer::start_plain(1, &LOG_ALONE);
    let mut confirmed = Keys::new();
    runtime().block_on(async {
        let client = client(&etcd, &[0]);
        for n in 0..5 {
            write_surely(&client, &mut confirmed, n.to_string()).await;
        }
    });
    etcd.kill(0);
    let mut left = Left { etcd, member: 0, confirmed };
    let copied = left.copy();
    let known = records(&copied.log());
    let metadata = known.iter().find(|record| record.kind == METADATA).unwrap();
    let member = Metadata::decode(metadata.data.clone().unwrap()).unwrap().member;
    let last = known.iter().rfind(|record| record.kind == ENTRY).unwrap();
    let Entry { term, index, .. } = Entry::decode(last.data.clone().unwrap()).unwrap();
    let change = MemberChange { kind: MEMBER_REMOVED, member }.encode_to_vec();
    let removal = Entry { kind: MEMBER_CHANGE, term, index: index + 1, data: Some(change.into()) };
    let later = Entry { kind: 0, term, index: index + 2, data: None };
    let mut log = Written { content: Vec::new(), sum: known.last().unwrap().crc };
    log.add(ENTRY, &removal);
    log.add(ENTRY, &later);
    let file = OpenOptions::new().write(true).open(copied.last_file()).unwrap();
    file.write_all_at(&log.content, end(&copied.log())).unwrap();
    assert_eq!(commit_all(&copied.log()).unwrap().after, index);
    assert_eq!(left.keys_alone(&copied), left.confirmed);
}

fn contains(record: &Record, text: &[u8]) -> bool {
    record.data.as_deref().unwrap_or_default().windows(text.len()).any(|window| window == text)
}

/// All whole records of a log.
fn records(folder: &Path) -> Vec<Record> {
    read(folder).0
}

/// Where the last whole record of a log ends in its last file.
fn end(folder: &Path) -> u64 {
    read(folder).1
}

fn read(folder: &Path) -> (Vec<Record>, u64) {
    let (files, mut sum, mut end) = (files(folder).unwrap(), 0, 0);
    let mut records = Vec::new();
    for (at, file) in files.iter().enumerate() {
        let mut segment = Segment::open(&file.path, at + 1 == files.len()).unwrap();
        while let Some(record) = segment.next(&mut sum).unwrap() {
            records.push(record);
        }
        end = segment.end;
    }
    (records, end)
}

/// A log that is made by hand.
struct Written {
    content: Vec<u8>,
    sum: u32,
}

impl Written {
    fn new() -> Self {
        let mut log = Self { content: Vec::new(), sum: 0 };
        log.bytes(CHECKSUM, Vec::new());
        log.add(METADATA, &Metadata { member: 9 });
        log.add(SNAPSHOT, &Snapshot { index: 0 });
        log
    }

    fn add(&mut self, kind: i64, message: &impl Message) {
        self.bytes(kind, message.encode_to_vec());
    }

    fn bytes(&mut self, kind: i64, data: Vec<u8>) {
        let sum = checksum(self.sum, &data);
        self.content.extend(frame(kind, data, self.sum));
        self.sum = sum;
    }

    fn entry(&mut self, term: u64, index: u64) {
        self.add(ENTRY, &Entry { kind: 0, term, index, data: Some("content".into()) });
    }

    fn state(&mut self, term: u64, vote: u64, commit: u64) {
        self.add(STATE, &HardState { term, vote, commit });
    }

    fn folder(&self, zeros: usize) -> Folder {
        let folder = Folder::new();
        folder.file(FIRST, [&self.content[..], &vec![0; zeros]].concat());
        folder
    }
}

const FIRST: &str = "0000000000000000-0000000000000000.wal";

/// Term, vote and commit of the state that is written.
type Wanted = Option<(u64, u64, u64)>;

/// The parts of a log: entries by term and index, states by term, vote and commit, snapshots by index, removals of a member by
/// term, index and its id.
#[derive(Clone, Copy)]
enum Part {
    E(u64, u64),
    S(u64, u64, u64),
    Snap(u64),
    Gone(u64, u64, u64),
}

#[test]
fn the_last_entry_in_force_is_found() {
    use Part::{E, Gone, S, Snap};
    let cases: &[(&str, &[Part], Wanted)] = &[
        ("an empty log", &[], None),
        ("all is committed", &[E(1, 1), E(1, 2), S(1, 5, 2)], None),
        ("one is not", &[E(1, 1), S(1, 5, 1), E(1, 2)], Some((1, 5, 2))),
        ("there is no state", &[E(2, 1), E(2, 2)], Some((2, 0, 2))),
        ("the state is older", &[E(1, 1), S(1, 5, 1), E(2, 2)], Some((2, 0, 2))),
        ("the state is newer", &[E(1, 1), S(1, 5, 1), E(1, 2), S(4, 6, 1)], Some((4, 6, 2))),
        ("replaced by a shorter log", &[E(1, 1), S(1, 5, 1), E(1, 2), E(1, 3), E(1, 4), E(2, 2)], Some((2, 0, 2))),
        ("replaced by what is committed", &[E(1, 1), E(1, 2), E(1, 3), E(2, 2), S(2, 5, 2)], None),
        ("replaced by one more", &[E(1, 1), S(1, 5, 1), E(1, 2), E(2, 2), E(2, 3), S(2, 3, 2)], Some((2, 3, 3))),
        ("a snapshot of its own", &[E(1, 1), E(1, 2), S(1, 5, 2), Snap(2), E(1, 3)], Some((1, 5, 3))),
        ("one with entries behind it", &[E(1, 1), E(1, 2), E(1, 3), S(1, 5, 2), Snap(2)], Some((1, 5, 3))),
        ("a snapshot of the leader", &[E(1, 1), S(1, 5, 1), E(1, 2), Snap(9), S(2, 0, 9)], None),
        ("and entries", &[E(1, 1), S(1, 5, 1), Snap(9), S(2, 0, 9), E(2, 10)], Some((2, 0, 10))),
        ("and entries before the state", &[E(1, 1), S(1, 5, 1), Snap(9), E(2, 10), E(2, 11)], Some((2, 0, 11))),
        ("it replaces a longer log", &[E(1, 1), S(1, 5, 1), E(1, 2), E(1, 3), E(1, 4), Snap(3), S(2, 0, 3)], None),
        (
            "and it has one of its own",
            &[E(1, 1), S(1, 5, 1), E(1, 2), E(1, 3), E(1, 4), Snap(3), S(2, 0, 3), Snap(3)],
            None,
        ),
        ("it may count", &[E(1, 1), S(1, 5, 1), E(1, 2), E(1, 3), E(1, 4), Snap(3)], None),
        ("it did not count", &[E(1, 1), S(1, 5, 1), E(1, 2), Snap(9), S(2, 0, 1), E(2, 2)], Some((2, 0, 2))),
        ("removed", &[E(1, 1), S(1, 5, 1), E(1, 2), Gone(1, 3, 9), E(1, 4)], Some((1, 5, 2))),
        ("another was removed", &[E(1, 1), S(1, 5, 1), E(1, 2), Gone(1, 3, 8), E(1, 4)], Some((1, 5, 4))),
        ("the removal was replaced", &[E(1, 1), S(1, 5, 1), Gone(1, 2, 9), E(2, 2), E(2, 3)], Some((2, 0, 3))),
        (
            "a snapshot in place of it",
            &[E(1, 1), S(1, 5, 1), Gone(1, 2, 9), Snap(9), E(2, 10), S(2, 0, 9)],
            Some((2, 0, 10)),
        ),
        ("only removed", &[E(1, 1), S(1, 5, 1), Gone(1, 2, 9)], None),
    ];
    for (name, parts, wanted) in cases {
        let mut log = Written::new();
        let mut commit = 0;
        for part in *parts {
            match *part {
                E(term, index) => log.entry(term, index),
                S(term, vote, index) => {
                    log.state(term, vote, index);
                    commit = index;
                }
                Snap(index) => log.add(SNAPSHOT, &Snapshot { index }),
                Gone(term, index, member) => {
                    let data = MemberChange { kind: MEMBER_REMOVED, member }.encode_to_vec();
                    log.add(ENTRY, &Entry { kind: MEMBER_CHANGE, term, index, data: Some(data.into()) });
                }
            }
        }
        for zeros in [0, 4096] {
            let folder = log.folder(zeros);
            let committed = commit_all(&folder.path("")).unwrap();
            let after = wanted.map_or(commit, |(_, _, commit)| commit);
            assert_eq!(committed, Committed { before: commit, after }, "{name}");
            let mut expected = Written { content: log.content.clone(), ..log };
            if let Some((term, vote, commit)) = *wanted {
                expected.state(term, vote, commit);
            }
            let length = expected.content.len().max(log.content.len() + zeros);
            expected.content.resize(length, 0);
            assert!(fs::read(folder.path(FIRST)).unwrap() == expected.content, "{name}");
        }
    }
}

/// A log with one entry that is not committed.
fn uncommitted() -> Written {
    let mut log = Written::new();
    log.entry(1, 1);
    log.state(1, 5, 1);
    log.entry(1, 2);
    log
}

#[test]
fn an_incomplete_record_at_the_end_is_as_if_not_written() {
    let mut log = uncommitted();
    let whole = log.content.len();
    log.bytes(ENTRY, Entry { kind: 0, term: 1, index: 3, data: Some(vec![7; 3000].into()) }.encode_to_vec());
    let mut expected = uncommitted();
    expected.state(1, 5, 2);
    for length in (whole..log.content.len()).step_by(8) {
        for zeros in [false, true] {
            let folder = Folder::new();
            let mut content = log.content[..length].to_vec();
            // A disk writes sectors, and the file had been filled up before.
            content.resize(if zeros { content.len().next_multiple_of(SECTOR_BYTES) + 8192 } else { content.len() }, 0);
            folder.file(FIRST, &content);
            let found = commit_all(&folder.path(""));
            if zeros && length.next_multiple_of(SECTOR_BYTES) >= log.content.len() {
                // No sector is missing as a whole, so this is damage.
                assert!(matches!(found, Err(FileError::Damaged { .. })), "{length}: {found:?}");
                assert!(fs::read(folder.path(FIRST)).unwrap() == content);
                continue;
            }
            assert_eq!(found.unwrap(), Committed { before: 1, after: 2 }, "{length}");
            let written = fs::read(folder.path(FIRST)).unwrap();
            assert_eq!(written.len(), content.len().max(expected.content.len()));
            assert!(written.starts_with(&expected.content), "{length}");
            assert!(written[expected.content.len()..].iter().all(|byte| *byte == 0), "{length}");
        }
    }
}

#[test]
fn what_is_no_log_is_refused_and_left_alone() {
    let refused = |folder: &Folder, why: &str| {
        let error = commit_all(&folder.path("")).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    };
    let folder = Folder::new();
    refused(&folder, "there is no log in it");
    folder.file("0.tmp", "");
    folder.file("000000000000000+-0000000000000000.wal", "");
    refused(&folder, "there is no log in it");
    let error = commit_all(&folder.path("missing")).unwrap_err();
    assert!(matches!(error, FileError::Unreadable { .. }), "{error}");

    let target = folder.file("target", uncommitted().content);
    std::os::unix::fs::symlink(&target, folder.path(FIRST)).unwrap();
    refused(&folder, "cannot be read");
    assert!(fs::read(&target).unwrap() == uncommitted().content);
    fs::remove_file(folder.path(FIRST)).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path(FIRST), rustix::fs::Mode::RWXU).unwrap();
    refused(&folder, "not a regular file");
    fs::remove_file(folder.path(FIRST)).unwrap();
    fs::create_dir(folder.path(FIRST)).unwrap();
    refused(&folder, "cannot be read");

    type Change = fn(&mut Written);
    let damages: [(Change, &str); 8] = [
        (|log| log.entry(1, 4), "entry 3 is missing"),
        (|log| log.entry(1, 0), "the index of an entry makes no sense"),
        (|log| log.bytes(6, vec![]), "of the unknown kind 6"),
        (|log| log.bytes(ENTRY, vec![0xff; 9]), "the content of a record makes no sense"),
        (
            |log| {
                let at = log.content.windows(7).position(|window| window == b"content").unwrap();
                log.content[at] ^= 1;
            },
            "has a wrong checksum",
        ),
        (|log| log.content.extend(frame(STATE, vec![8, 1, 16, 1, 24, 1], log.sum ^ 1)), "has a wrong checksum"),
        (|log| log.content.extend(frame(CHECKSUM, vec![], log.sum ^ 1)), "has a wrong checksum"),
        (
            |log| {
                log.content.extend((65_u64 << 20).to_le_bytes());
                log.content.resize(66 << 20, 1);
            },
            "it has a record of 68157440 bytes",
        ),
    ];
    for (change, why) in damages {
        let mut log = uncommitted();
        change(&mut log);
        let folder = log.folder(0);
        refused(&folder, why);
        assert!(fs::read(folder.path(FIRST)).unwrap() == log.content, "{why}");
    }
}

#[test]
fn a_log_with_any_changed_bit_is_refused_or_shorter() {
    let good = uncommitted();
    for at in 0..good.content.len() {
        for bit in 0..8 {
            let folder = Folder::new();
            let mut content = good.content.clone();
            content[at] ^= 1 << bit;
            folder.file(FIRST, content);
            if let Ok(committed) = commit_all(&folder.path("")) {
                assert!(committed.after <= 2, "{at}: {committed:?}");
                let again = commit_all(&folder.path("")).unwrap();
                assert_eq!(again, Committed { before: committed.after, after: committed.after }, "{at}");
            }
        }
    }
}
