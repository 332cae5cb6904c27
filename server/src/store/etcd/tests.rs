//! The store on a real etcd.

use std::sync::atomic::{AtomicU64, Ordering};

use casemate_core::sim::conformance;
use casemate_core::store::Event;
use casemate_etcd::{Address, Settings, Tls};
use casemate_testkit::EtcdServer;
use pollster::block_on;

use super::*;

fn client(server: &EtcdServer) -> Client {
    let certificates = server.certificates().unwrap();
    let identity = (certificates.client.certificate.as_bytes(), certificates.client.key.as_bytes());
    let tls = Tls::from_pem(certificates.ca.as_bytes(), Some(identity)).unwrap();
    let endpoints = server.endpoints().iter().map(|endpoint| Address::parse(endpoint).unwrap()).collect();
    Client::new(Settings::of(endpoints, Some(tls))).unwrap()
}

pub(super) fn open(server: &EtcdServer, prefix: &str) -> Arc<EtcdStore> {
    EtcdStore::start(client(server), prefix.into()).unwrap()
}

fn path(text: &str) -> Path {
    Path(text.as_bytes().into())
}

#[test]
fn conforms() {
    for server in [EtcdServer::single(), EtcdServer::three()] {
        let count = AtomicU64::new(0);
        let make = async || open(&server, &format!("/test/{}/", count.fetch_add(1, Ordering::Relaxed)));
        let compact = async |store: &EtcdStore| {
            let newest = store.range(Range::prefix(&path("none"), 1), Read::Fresh).await.unwrap().revision;
            let shared = store.shared.clone();
            let at = newest.0.cast_signed();
            store
                .run(Read::Fresh, async move { shared.client.compact(at).await.map_err(|error| read_error(&error)) })
                .await
                .unwrap();
        };
        block_on(conformance::run(make, compact));
    }
}

/// etcd answers no question about progress before the revision at which a watch begins exists.
#[test]
fn a_watch_from_now_on_tells_its_progress_though_nothing_is_written() {
    let server = EtcdServer::single();
    let store = open(&server, "/quiet/");
    let write = || {
        let put = vec![(path("x"), b"v".to_vec())];
        block_on(store.commit(vec![Txn { put, ..Txn::default() }])).unwrap()
    };
    write();
    let now = block_on(store.snapshot()).unwrap().revision();
    let mut watch = block_on(store.watch(path(""), now)).unwrap();
    let next = |watch: &mut Box<dyn Watch>| {
        watch.ask_progress();
        let waited = async { tokio::time::timeout(Duration::from_secs(20), watch.next()).await };
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(waited)
            .expect("it answers")
    };
    assert_eq!(next(&mut watch), Event::Progress(now), "and not the change before");
    let [Outcome::Committed(later)] = write()[..] else { panic!() };
    let changed = std::iter::from_fn(|| Some(next(&mut watch))).find(|event| !matches!(event, Event::Progress(_)));
    assert_eq!(changed, Some(Event::Changed { path: path("x"), revision: later }));
}

#[test]
fn pages_of_any_size_find_every_row() {
    let server = EtcdServer::single();
    let store = open(&server, "/pages/");
    let mut names: Vec<String> = (0..40).map(|n| format!("{n:02}")).collect();
    names.extend((0..40).map(|n| format!("{:04x}{}", (n * 7919) % 65536, "x".repeat(n % 5 * 30))));
    names.extend((0..20).map(|n| format!("{}{n}", "long".repeat(30))));
    names.sort();
    names.dedup();
    for group in names.chunks(50) {
        let put = group.iter().map(|name| (path(name), b"v".to_vec())).collect();
        block_on(store.commit(vec![Txn { put, ..Txn::default() }])).unwrap();
    }
    for limit in 1..12 {
        for end in [None, Some("9"), Some("2"), Some("zz")] {
            let mut seen = Vec::new();
            let mut start = path("");
            loop {
                let range = Range { start, end: end.map(path), limit, keys_only: true };
                let page = block_on(store.range(range, Read::Fresh)).unwrap();
                assert!(
                    page.rows.len() == limit || !page.more,
                    "limit {limit}, {end:?}: a short page with more behind it"
                );
                seen.extend(page.rows.iter().map(|(path, _)| String::from_utf8(path.as_bytes().to_vec()).unwrap()));
                let Some((last, _)) = page.rows.last().filter(|_| page.more) else { break };
                start = last.next();
            }
            let expected: Vec<_> = names.iter().filter(|name| end.is_none_or(|end| name.as_str() < end)).collect();
            assert_eq!(seen.iter().collect::<Vec<_>>(), expected, "limit {limit}, {end:?}");
        }
    }
}

#[test]
fn without_room_deletions_go_on_beside_refused_creations() {
    let server = EtcdServer::start(1, &["--quota-backend-bytes=16777216"]);
    let store = open(&server, "/full/");
    let put = |n: usize| Txn { put: vec![(path(&format!("{n:03}")), vec![7; 900_000])], ..Txn::default() };
    let mut stored = Vec::new();
    for n in 0..64 {
        match block_on(store.commit(vec![put(n)])) {
            Ok(outcomes) => {
                assert!(matches!(outcomes[..], [Outcome::Committed(_)] | [Outcome::Unknown]), "{outcomes:?}")
            }
            Err(error) => {
                assert_eq!(error, StoreError::Full);
                // An error means that nothing was done.
                assert_eq!(block_on(store.get(&path(&format!("{n:03}")), Read::Fresh)), Ok(None));
                break;
            }
        }
        stored.push(n);
    }
    assert!((2..64).contains(&stored.len()), "{} rows", stored.len());
    // In one request to etcd, as they wait together.
    let delete = Txn { delete: vec![path("000")], ..Txn::default() };
    let (refused, removed) = block_on(async {
        let first = std::pin::pin!(store.commit(vec![put(900), put(901)]));
        let second = std::pin::pin!(store.commit(vec![delete]));
        both(first, second).await
    });
    assert_eq!(refused, Err(StoreError::Full));
    assert!(matches!(removed.as_deref(), Ok([Outcome::Committed(_)])), "{removed:?}");
    assert_eq!(block_on(store.get(&path("000"), Read::Fresh)), Ok(None));
    assert!(block_on(store.get(&path("001"), Read::Fresh)).unwrap().is_some());
}

/// Waits for both.
async fn both<A: Future + Unpin, B: Future + Unpin>(mut a: A, mut b: B) -> (A::Output, B::Output) {
    let (mut left, mut right) = (None, None);
    std::future::poll_fn(|context| {
        if left.is_none()
            && let std::task::Poll::Ready(value) = std::pin::Pin::new(&mut a).poll(context)
        {
            left = Some(value);
        }
        if right.is_none()
            && let std::task::Poll::Ready(value) = std::pin::Pin::new(&mut b).poll(context)
        {
            right = Some(value);
        }
        match left.is_some() && right.is_some() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    (left.unwrap(), right.unwrap())
}
