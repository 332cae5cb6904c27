//! The client against real etcd processes (`cargo xtask etcd` builds them).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests measure time")]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_api::limits::ETCD_WRITE_MS;
use casemate_etcd::proto::response_op::Response;
use casemate_etcd::proto::{AlarmType, RangeRequest, RequestOp, TxnRequest, TxnResponse};
use casemate_etcd::request::{at_revision, delete, get, nested, none_below, prefix, put, read};
use casemate_etcd::{Address, Client, Error, Notice, Settings, Tls, Watch};
use casemate_testkit::{EtcdCertificates, EtcdServer};
use tokio::task::JoinSet;

const MIB: usize = 1 << 20;

fn addresses(etcd: &EtcdServer) -> Vec<Address> {
    etcd.endpoints().iter().map(|endpoint| Address::parse(endpoint).unwrap()).collect()
}

fn tls(ca: &EtcdCertificates, client: &EtcdCertificates) -> Tls {
    let identity = &client.client;
    Tls::from_pem(ca.ca.as_bytes(), Some((identity.certificate.as_bytes(), identity.key.as_bytes()))).unwrap()
}

fn settings(etcd: &EtcdServer) -> Settings {
    let certificates = etcd.certificates();
    Settings::of(addresses(etcd), certificates.map(|certificates| tls(certificates, certificates)))
}

fn client(etcd: &EtcdServer) -> Client {
    Client::new(settings(etcd)).unwrap()
}

fn only(operations: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success: operations, ..TxnRequest::default() }
}

async fn write(client: &Client, key: &'static str, value: impl Into<Vec<u8>>) -> i64 {
    revision(&client.txn(only(vec![put(key, value.into(), 0)])).await.unwrap())
}

fn revision(response: &TxnResponse) -> i64 {
    response.header.unwrap().revision
}

async fn value(client: &Client, key: &'static str) -> Option<Vec<u8>> {
    client.range(get(key)).await.unwrap().kvs.first().map(|row| row.value.to_vec())
}

/// The next notice, which must come soon.
async fn next(watch: &mut Watch) -> Result<Notice, Error> {
    tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("a notice")
}

/// Keys and revisions of all changes until the watch has told everything up to `end`.
async fn changes(watch: &mut Watch, end: i64) -> Vec<(String, i64)> {
    let mut found = Vec::new();
    loop {
        if let Notice::Changes { events, until } = next(watch).await.unwrap() {
            for event in events {
                let row = event.kv.unwrap();
                found.push((String::from_utf8(row.key.to_vec()).unwrap(), row.mod_revision));
            }
            if until.is_some_and(|until| until >= end) {
                return found;
            }
        }
    }
}

#[tokio::test]
async fn rows_are_written_under_guards_and_read_in_order() {
    let etcd = EtcdServer::single();
    let client = client(&etcd);
    let create = TxnRequest {
        compare: vec![at_revision("a/1", 0), none_below(b"a/")],
        success: vec![put("a/1", "one", 0), put("a/2", "two", 0)],
        failure: Vec::new(),
    };
    let created = client.txn(create.clone()).await.unwrap();
    assert!(created.succeeded);
    let again = client.txn(create).await.unwrap();
    assert!(!again.succeeded && revision(&again) == revision(&created), "nothing was done");
    let below = TxnRequest { compare: vec![none_below(b"a/")], success: vec![put("b", "", 0)], failure: vec![] };
    assert!(!client.txn(below).await.unwrap().succeeded);

    let page = client.range(prefix(b"a/", 1)).await.unwrap();
    assert_eq!((page.kvs[0].key.as_ref(), page.kvs[0].value.as_ref(), page.more), (&b"a/1"[..], &b"one"[..], true));
    assert_eq!(page.kvs[0].mod_revision, revision(&created));
    let guarded = |revision| TxnRequest {
        compare: vec![at_revision("a/1", revision)],
        success: vec![put("a/1", "uno", 0), delete("a/2")],
        failure: vec![read(get("a/1"))],
    };
    let stale = client.txn(guarded(revision(&created) - 1)).await.unwrap();
    assert!(!stale.succeeded);
    let Some(Response::ResponseRange(found)) = &stale.responses[0].response else { panic!("{stale:?}") };
    assert_eq!(found.kvs[0].value.as_ref(), b"one");
    assert!(client.txn(guarded(revision(&created))).await.unwrap().succeeded);
    let all = client.range(prefix(b"", 0)).await.unwrap();
    assert_eq!(all.kvs.iter().map(|row| row.value.as_ref()).collect::<Vec<_>>(), [b"uno"]);
    // The old state can still be read.
    let before = RangeRequest { revision: revision(&created), ..prefix(b"a/", 0) };
    assert_eq!(client.range(before).await.unwrap().kvs.len(), 2);
}

#[tokio::test]
async fn a_unix_socket_is_an_endpoint_however_long_its_path() {
    let etcd = EtcdServer::on_unix_socket();
    let socket = etcd.socket();
    assert!(socket.as_os_str().len() > 108, "{}", socket.display());
    let address = Address::unix(&socket);
    // TLS is for endpoints on the network.
    for tls in [None, Some(tls(&EtcdCertificates::new(), &EtcdCertificates::new()))] {
        let client = Client::new(Settings::of(vec![address.clone()], tls)).unwrap();
        write(&client, "k", "v").await;
        assert_eq!(value(&client, "k").await.as_deref(), Some(&b"v"[..]));
    }
    let nowhere = Address::unix(socket.with_file_name("nowhere"));
    let refused = Client::new(Settings::of(vec![nowhere.clone()], None)).unwrap().status().await.unwrap_err();
    assert!(matches!(&refused, Error::NotBegun(why) if why.starts_with(&nowhere.to_string())), "{refused:?}");
}

#[tokio::test]
async fn guards_of_nested_transactions_see_the_state_before_the_group() {
    let etcd = EtcdServer::single();
    let client = client(&etcd);
    let start = write(&client, "namespace", "n").await;
    let inner = |compare, success| nested(TxnRequest { compare, success, failure: Vec::new() });
    let group = client
        .txn(only(vec![
            inner(vec![at_revision("namespace", start)], vec![delete("namespace")]),
            inner(vec![at_revision("namespace", start)], vec![put("key", "k", 0)]),
            inner(vec![at_revision("other", 1)], vec![put("other", "o", 0)]),
        ]))
        .await
        .unwrap();
    let outcomes: Vec<bool> = group
        .responses
        .iter()
        .map(|operation| match &operation.response {
            Some(Response::ResponseTxn(inner)) => inner.succeeded,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(outcomes, [true, true, false]);
    assert_eq!(value(&client, "namespace").await, None);
    assert_eq!(value(&client, "other").await, None);
    let row = client.range(get("key")).await.unwrap().kvs[0].mod_revision;
    assert_eq!((row, revision(&group)), (start + 1, start + 1), "one revision for the group");
    // Two of a group may not write one key.
    let twice = vec![inner(vec![], vec![put("key", "1", 0)]), inner(vec![], vec![put("key", "2", 0)])];
    assert!(matches!(client.txn(only(twice)).await, Err(Error::Other(why)) if why.contains("duplicate key")));
}

#[tokio::test]
async fn a_watch_tells_every_change_and_how_far_it_is() {
    let etcd = EtcdServer::single();
    let client = client(&etcd);
    let first = write(&client, "w/1", "one").await;
    write(&client, "other", "x").await;
    let mut watch = client.watch(b"w/", first).await.unwrap();
    let second = revision(&client.txn(only(vec![put("w/2", "", 0), delete("w/1")])).await.unwrap());
    let told = changes(&mut watch, second).await;
    assert_eq!(told, [("w/1".into(), first), ("w/2".into(), second), ("w/1".into(), second)]);

    // Nothing below the prefix changes, but the revision goes on.
    let last = write(&client, "other", "y").await;
    watch.request_progress().unwrap();
    match next(&mut watch).await.unwrap() {
        Notice::Progress(revision) => assert!(revision >= last, "{revision} {last}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn progress_is_told_after_all_changes_before_it() {
    let etcd = EtcdServer::three();
    let client = client(&etcd);
    let mut watch = client.watch(b"", 0).await.unwrap();
    let mut confirmed = 0;
    let mut seen = 0;
    for round in 0..100 {
        let written = write(&client, "k", vec![round]).await;
        watch.request_progress().unwrap();
        while confirmed < written {
            match next(&mut watch).await.unwrap() {
                Notice::Changes { until, .. } => {
                    seen = until.unwrap();
                    assert!(seen > confirmed, "{seen} came after the progress to {confirmed}");
                }
                Notice::Progress(revision) => {
                    assert!(revision < written || seen == written, "{revision} was told before {written}");
                    confirmed = revision;
                    if confirmed < written {
                        watch.request_progress().unwrap();
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn what_a_watch_tells_at_once_comes_in_parts() {
    let etcd = EtcdServer::single();
    let client = client(&etcd);
    let mut last = 0;
    for part in 0..8 {
        last = write(&client, "big", vec![part; MIB]).await;
    }
    let mut watch = client.watch(b"big", last - 7).await.unwrap();
    let mut parts = 0;
    let mut revisions = Vec::new();
    loop {
        let Notice::Changes { events, until } = next(&mut watch).await.unwrap() else { continue };
        parts += 1;
        revisions.extend(events.into_iter().map(|event| event.kv.unwrap().mod_revision));
        if let Some(until) = until {
            assert_eq!(until, last);
            break;
        }
    }
    assert!(parts > 1, "8 MiB came in one message");
    assert_eq!(revisions, (last - 7..=last).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_compacted_revision_is_told_from_other_failures() {
    let etcd = EtcdServer::single();
    let client = client(&etcd);
    let old = write(&client, "k", "1").await;
    let new = write(&client, "k", "2").await;
    client.compact(new).await.unwrap();
    let read_at = |revision| client.range(RangeRequest { revision, ..get("k") });
    assert_eq!(read_at(old).await, Err(Error::Compacted));
    assert_eq!(read_at(new).await.unwrap().kvs[0].value.as_ref(), b"2");
    assert_eq!(client.compact(old).await, Err(Error::Compacted));
    assert!(matches!(read_at(new + 100).await, Err(Error::Other(why)) if why.contains("future revision")));
    let mut watch = client.watch(b"k", old).await.unwrap();
    assert_eq!(next(&mut watch).await, Err(Error::Compacted));
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_large_replies_are_read() {
    let etcd = EtcdServer::single();
    let client = client(&etcd);
    // 1.5 MiB is the limit of etcd, 2 MiB that of this client and of etcd's gRPC.
    for size in [1_600 << 10, 3 * MIB] {
        assert_eq!(client.txn(only(vec![put("k", vec![0; size], 0)])).await, Err(Error::TooLarge), "{size}");
    }
    let operations = |count: usize| (0..count).map(|n| put(format!("n/{n}"), "", 0)).collect();
    assert_eq!(client.txn(only(operations(129))).await, Err(Error::TooLarge));
    assert_eq!(client.range(prefix(b"", 0)).await.unwrap().count, 0, "nothing was done");
    client.txn(only(operations(128))).await.unwrap();

    for n in 0..20 {
        client.txn(only(vec![put(format!("big/{n:02}"), vec![n; MIB], 0)])).await.unwrap();
    }
    let page = client.range(prefix(b"big/", 0)).await.unwrap();
    assert_eq!(page.kvs.iter().map(|row| row.value.len()).sum::<usize>(), 20 * MIB);
}

#[tokio::test]
async fn a_full_database_refuses_writes_and_nothing_else() {
    let etcd = EtcdServer::start(1, &["--quota-backend-bytes=8388608"]);
    let client = client(&etcd);
    let mut written = 0;
    let refused = loop {
        match client.txn(only(vec![put(format!("k/{written}"), vec![0; MIB], 0)])).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 20, "the quota is not kept");
    };
    assert_eq!(refused, Error::NoSpace);
    assert_eq!(client.txn(only(vec![put("small", "", 0)])).await, Err(Error::NoSpace));
    // etcd looks at the size before a write and while it applies it. In the second case it has the row that it refuses.
    let rows = client.range(RangeRequest { count_only: true, ..prefix(b"k/", 0) }).await.unwrap().count;
    assert!(rows == written || rows == written + 1, "{rows} {written}");
    client.txn(only(vec![delete("k/0")])).await.unwrap();
    let alarms = client.alarms().await.unwrap();
    assert_eq!(alarms.iter().map(|alarm| alarm.alarm()).collect::<Vec<_>>(), [AlarmType::Nospace]);
    let status = client.status().await.unwrap();
    assert!(status.errors.iter().any(|error| error.contains("NOSPACE")), "{:?}", status.errors);

    // Room is made, and the alarm taken back.
    for n in 1..written {
        client.txn(only(vec![delete(format!("k/{n}"))])).await.unwrap();
    }
    let now = client.range(get("k/0")).await.unwrap().header.unwrap().revision;
    client.compact(now).await.unwrap();
    client.defragment(&addresses(&etcd)[0], Duration::from_secs(60)).await.unwrap();
    assert_eq!(client.txn(only(vec![put("small", "", 0)])).await, Err(Error::NoSpace));
    client.lift_alarm(alarms[0]).await.unwrap();
    client.txn(only(vec![put("small", "", 0)])).await.unwrap();
    assert_eq!(client.alarms().await.unwrap(), []);
}

#[tokio::test]
async fn both_sides_must_accept_each_other() {
    let etcd = EtcdServer::single();
    let (ours, others) = (etcd.certificates().unwrap(), EtcdCertificates::new());
    let with = |tls: Option<Tls>| Client::new(Settings { tls, ..settings(&etcd) }).unwrap();
    with(Some(tls(ours, ours))).status().await.unwrap();

    let refused = |result: Result<_, Error>| match result {
        Err(Error::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    let write = only(vec![put("k", "v", 0)]);
    let wrong_ca = with(Some(tls(&others, ours))).txn(write.clone()).await;
    assert!(refused(wrong_ca).contains("invalid peer certificate"));
    let wrong_client = with(Some(tls(ours, &others))).txn(write.clone()).await;
    assert!(refused(wrong_client).contains("received fatal alert"));
    let no_client = Tls::from_pem(ours.ca.as_bytes(), None).unwrap();
    assert!(refused(with(Some(no_client)).txn(write.clone()).await).contains("received fatal alert"));
    // etcd ends a connection that does not begin with TLS.
    let plain = with(None).txn(write).await;
    assert!(matches!(plain, Err(Error::NotBegun(_))), "{plain:?}");
    // The certificate is for 127.0.0.1 and for localhost.
    let port = addresses(&etcd)[0].port().unwrap();
    let named = |host: &str| vec![Address::parse(&format!("{host}:{port}")).unwrap()];
    let by_name = Client::new(Settings { endpoints: named("localhost"), ..settings(&etcd) }).unwrap();
    assert_eq!(value(&by_name, "k").await, None);
    let by_other = Client::new(Settings { endpoints: named("127.0.0.2"), ..settings(&etcd) }).unwrap();
    assert!(matches!(by_other.range(get("k")).await, Err(Error::NotBegun(_) | Error::Refused(_))));
}

#[tokio::test]
async fn plain_http_is_for_this_machine() {
    let etcd = EtcdServer::start_plain(1, &[]);
    let plain = client(&etcd);
    write(&plain, "k", "v").await;
    assert_eq!(value(&plain, "k").await.unwrap(), b"v");
    // TLS to it fails before anything is sent.
    let certificates = EtcdCertificates::new();
    let secure = Client::new(Settings::of(addresses(&etcd), Some(tls(&certificates, &certificates)))).unwrap();
    let refused = secure.txn(only(vec![put("k", "w", 0)])).await;
    assert!(matches!(refused, Err(Error::NotBegun(_))), "{refused:?}");
}

#[tokio::test]
async fn calls_go_on_when_the_endpoint_in_use_dies_and_it_returns_with_its_rows() {
    let mut etcd = EtcdServer::three();
    let client = client(&etcd);
    write(&client, "before", "1").await;
    let used = client.endpoints()[0].clone();
    etcd.kill(0);
    // The leader may be gone, too: then a write is unknown until there is another one, and a read comes through.
    assert_eq!(value(&client, "before").await.unwrap(), b"1");
    write(&client, "after", "2").await;
    // Others may have been too slow meanwhile, on a busy machine, and be behind it.
    assert_ne!(client.endpoints()[0], used);

    etcd.restart(0);
    let own = Client::new(Settings { endpoints: vec![used], ..settings(&etcd) }).unwrap();
    assert_eq!(value(&own, "after").await.unwrap(), b"2");
}

#[tokio::test]
async fn a_silent_endpoint_makes_a_write_unknown_and_a_read_late() {
    let etcd = EtcdServer::three();
    // Not the leader, so that the others go on.
    let silent = follower(&client(&etcd), &etcd).await;
    let mut endpoints = addresses(&etcd);
    endpoints.swap(0, silent);
    let deadline = Duration::from_secs(3);
    let client = Client::new(Settings { endpoints, deadline, ..settings(&etcd) }).unwrap();
    write(&client, "k", "1").await;
    etcd.pause(silent);
    let began = Instant::now();
    let written = client.txn(only(vec![put("k", "2", 0)])).await;
    assert!(matches!(written, Err(Error::Unknown(_))), "{written:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // It is at the end of the list now.
    let began = Instant::now();
    write(&client, "k", "3").await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());

    // A read that meets it goes elsewhere within its deadline, and so does a write, which cannot connect.
    let first = vec![addresses(&etcd)[silent].clone(), client.endpoints()[0].clone()];
    for _ in 0..2 {
        let fresh = Client::new(Settings { endpoints: first.clone(), ..settings(&etcd) }).unwrap();
        assert_eq!(value(&fresh, "k").await.unwrap(), b"3");
        let fresh = Client::new(Settings { endpoints: first.clone(), ..settings(&etcd) }).unwrap();
        assert!(fresh.txn(only(vec![put("other", "", 0)])).await.unwrap().succeeded);
    }
    etcd.resume(silent);
}

/// A write that was handed to a leader which died then gets no answer, however long it waits.
#[tokio::test]
async fn a_write_waits_less_long_for_its_answer_than_the_whole_call_may_take() {
    let etcd = EtcdServer::three();
    let silent = follower(&client(&etcd), &etcd).await;
    let mut endpoints = addresses(&etcd);
    endpoints.swap(0, silent);
    let first = endpoints[0].clone();
    let client = Client::new(Settings { endpoints, ..settings(&etcd) }).unwrap();
    // Connected, and still the first: a call that it answers late would put it last.
    client.status_of(&first).await.unwrap();
    etcd.pause(silent);
    let Err(Error::Unknown(why)) = client.txn(only(vec![put("k", "2", 0)])).await else { panic!("it was answered") };
    let waited_ms = why.split_once("no answer within ").unwrap().1.split_once(" ms").unwrap().0;
    assert!(waited_ms.parse::<u64>().unwrap() <= ETCD_WRITE_MS, "{why}");
    etcd.resume(silent);
}

/// The index of a member that does not lead.
async fn follower(client: &Client, etcd: &EtcdServer) -> usize {
    for (index, address) in addresses(etcd).iter().enumerate() {
        let status = client.status_of(address).await.unwrap();
        if status.leader != status.header.unwrap().member_id {
            return index;
        }
    }
    panic!("every member leads");
}

#[tokio::test]
async fn without_a_majority_writes_do_not_begin_and_local_reads_go_on() {
    let mut etcd = EtcdServer::three();
    let client = client(&etcd);
    write(&client, "k", "1").await;
    let mut watch = client.watch(b"k", 0).await.unwrap();
    etcd.kill(1);
    etcd.kill(2);
    // The last one takes a moment to see that it has no majority, and a write then is unknown.
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match client.txn(only(vec![put("k", "lost", 0)])).await {
            Err(Error::NoLeader) => break,
            Err(Error::Unknown(_)) => assert!(Instant::now() < end, "it does not see that it is alone"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(client.range(get("k")).await, Err(Error::NoLeader));
    let local = client.range(RangeRequest { serializable: true, ..get("k") }).await.unwrap();
    assert_eq!(local.kvs[0].value.as_ref(), b"1");
    let ended = next(&mut watch).await;
    assert!(matches!(ended, Err(Error::NoLeader)), "{ended:?}");

    etcd.start_all();
    let end = Instant::now() + Duration::from_secs(30);
    while client.range(get("k")).await.is_err() {
        assert!(Instant::now() < end, "it does not come back");
    }
    write(&client, "k", "2").await;
}

#[tokio::test]
async fn a_watch_ends_with_its_member() {
    let mut etcd = EtcdServer::three();
    let client = client(&etcd);
    let revision = write(&client, "k", "1").await;
    let mut watch = client.watch(b"k", 0).await.unwrap();
    let at = addresses(&etcd).iter().position(|address| address == watch.endpoint()).unwrap();
    etcd.kill(at);
    let ended = next(&mut watch).await;
    assert!(matches!(ended, Err(Error::Unknown(_))), "{ended:?}");
    // The next one goes elsewhere and continues.
    let mut watch = client.watch(b"k", revision).await.unwrap();
    assert_eq!(changes(&mut watch, revision).await, [("k".into(), revision)]);
    // A silent member is found by the pings of the connection.
    let at = addresses(&etcd).iter().position(|address| address == watch.endpoint()).unwrap();
    etcd.pause(at);
    let ended = next(&mut watch).await;
    assert!(matches!(ended, Err(Error::Unknown(_))), "{ended:?}");
    etcd.resume(at);
}

#[tokio::test]
async fn an_endpoint_of_another_cluster_is_not_used() {
    let (mut ours, other) = (EtcdServer::start_plain(1, &[]), EtcdServer::start_plain(1, &[]));
    let endpoints = [addresses(&ours), addresses(&other)].concat();
    let client = Client::new(Settings::of(endpoints, None)).unwrap();
    write(&client, "k", "v").await;
    ours.kill(0);
    let refused = client.range(get("k")).await;
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("it belongs to the cluster"), "{why}");
    ours.restart(0);
    assert_eq!(value(&client, "k").await.unwrap(), b"v");
}

#[tokio::test]
async fn rows_end_with_their_lease() {
    let etcd = EtcdServer::single();
    let client = client(&etcd);
    let (lease, ttl) = client.lease_grant(60).await.unwrap();
    assert_eq!(ttl, 60);
    client.txn(only(vec![put("bound", "v", lease)])).await.unwrap();
    assert_eq!(client.lease_keepalive(lease).await, Ok(60));
    client.lease_revoke(lease).await.unwrap();
    assert_eq!(value(&client, "bound").await, None);
    assert_eq!(client.lease_keepalive(lease).await, Err(Error::LeaseNotFound));
    assert_eq!(client.lease_revoke(lease).await, Err(Error::LeaseNotFound));
    assert_eq!(client.txn(only(vec![put("bound", "v", lease)])).await, Err(Error::LeaseNotFound));
}

#[tokio::test]
async fn members_and_their_state_are_told() {
    let etcd = EtcdServer::three();
    let client = client(&etcd);
    write(&client, "k", vec![0; MIB]).await;
    let mut names: Vec<_> = client.member_list().await.unwrap().into_iter().map(|member| member.name).collect();
    names.sort();
    assert_eq!(names, ["m0", "m1", "m2"]);
    let mut leaders = Vec::new();
    for endpoint in addresses(&etcd) {
        client.defragment(&endpoint, Duration::from_secs(20)).await.unwrap();
        let status = client.status_of(&endpoint).await.unwrap();
        assert!(status.version.starts_with("3."), "{}", status.version);
        assert!(status.db_size > 0 && status.db_size_in_use > 0 && status.raft_term > 0);
        assert!(status.raft_index > 0 && status.raft_applied_index > 0 && status.errors.is_empty());
        leaders.push(status.leader);
    }
    assert!(leaders[0] != 0 && leaders.iter().all(|leader| *leader == leaders[0]));
    assert!(client.alarms().await.unwrap().is_empty());
    let unknown = Address::parse("127.0.0.1:1").unwrap();
    assert!(matches!(client.status_of(&unknown).await, Err(Error::Other(_))));
}

#[tokio::test]
async fn many_calls_share_a_connection_and_survive_a_restart() {
    let mut etcd = EtcdServer::single();
    let client = Arc::new(client(&etcd));
    let calls = |client: &Arc<Client>| {
        let mut calls = JoinSet::new();
        for n in 0..200 {
            let client = Arc::clone(client);
            calls.spawn(async move { client.txn(only(vec![put(format!("k/{n}"), "", 0)])).await });
        }
        calls
    };
    for outcome in calls(&client).join_all().await {
        outcome.unwrap();
    }
    etcd.kill(0);
    for outcome in calls(&client).join_all().await {
        assert!(matches!(outcome, Err(Error::NotBegun(_) | Error::Unknown(_))), "{outcome:?}");
    }
    etcd.restart(0);
    for outcome in calls(&client).join_all().await {
        outcome.unwrap();
    }
    assert_eq!(client.range(prefix(b"k/", 0)).await.unwrap().count, 200);
}

#[tokio::test]
async fn what_did_not_begin_is_never_found_and_what_was_confirmed_always_is() {
    let mut etcd = EtcdServer::three();
    let client = Arc::new(client(&etcd));
    let (mut written, mut not_begun, mut unknown) = (Vec::new(), Vec::new(), 0);
    for round in 0..6 {
        let killed = round % 3;
        // Every other call has no other endpoint than the one that is killed.
        let endpoints = vec![addresses(&etcd)[killed].clone()];
        let without_choice = Arc::new(Client::new(Settings { endpoints, ..settings(&etcd) }).unwrap());
        let mut calls = JoinSet::new();
        for n in 0..60 {
            let client = Arc::clone(if n % 2 == 0 { &client } else { &without_choice });
            calls.spawn(async move {
                // Some before the kill, some during it, some after it.
                tokio::time::sleep(Duration::from_millis(n)).await;
                let key = format!("{round}/{n}");
                let outcome = client.txn(only(vec![put(key.clone(), vec![7; 10_000], 0)])).await;
                (key, outcome)
            });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        etcd.kill(killed);
        while let Some(call) = calls.join_next().await {
            match call.unwrap() {
                (key, Ok(_)) => written.push(key),
                (key, Err(Error::NotBegun(_) | Error::NoLeader)) => not_begun.push(key),
                (_, Err(Error::Unknown(_))) => unknown += 1,
                other => panic!("{other:?}"),
            }
        }
        // Not on this thread, which moves the connections.
        etcd = tokio::task::spawn_blocking(move || {
            etcd.restart(killed);
            etcd
        })
        .await
        .unwrap();
    }
    let found = client.range(RangeRequest { keys_only: true, ..prefix(b"", 0) }).await.unwrap();
    let found: HashSet<String> = found.kvs.iter().map(|row| String::from_utf8(row.key.to_vec()).unwrap()).collect();
    assert!(written.iter().all(|key| found.contains(key)), "a confirmed write is lost");
    assert!(!not_begun.iter().any(|key| found.contains(key)), "a write is there that had not begun");
    println!("{} written, {} not begun, {unknown} unknown", written.len(), not_begun.len());
    assert!(!written.is_empty() && !not_begun.is_empty() && unknown > 0, "the kills came at the wrong time");
}
