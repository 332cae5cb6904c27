//! Conformance tests for implementations of [`Store`]: every sentence of the trait, and random operations compared with a map.
//!
//! Each case gets a new, empty store that nobody else uses, and panics if the store violates the trait's contract.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "this is a test, only compiled for other crates too")]

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use casemate_api::limits::{STORE_HISTORY_EVENTS, STORE_TXN_MAX_BYTES, STORE_TXN_MAX_OPS, STORE_VALUE_MAX_BYTES};

use crate::sim::SimRng;
use crate::store::{
    Event, Expect, Outcome, Page, Path, Range, Read, Revision, Snapshot, Store, StoreError, Txn, Versioned, Watch,
};

/// Runs all cases, each on a store from `make`. `compact` makes a store forget its history up to now; [`outgrow_history`] does
/// that for a store with a [`crate::store::history::History`].
///
/// # Panics
/// If a store violates the contract.
pub async fn run<S: Store>(make: impl AsyncFn() -> Arc<S>, compact: impl AsyncFn(&S)) {
    rows_are_read_as_written(&*make().await).await;
    guards_decide(&*make().await).await;
    a_conflict_names_the_first_failed_guard(&*make().await).await;
    a_transaction_is_applied_whole_or_not_at_all(&*make().await).await;
    transactions_of_one_commit_see_earlier_ones(&*make().await).await;
    revisions_increase_with_changes(&*make().await).await;
    many_rows_are_read_at_once(&*make().await).await;
    many_ranges_of_a_snapshot_are_read_at_once(&*make().await).await;
    ranges_are_pages_in_order(&*make().await).await;
    prefixes_of_all_ones_end_right(&*make().await).await;
    large_values_fit_and_larger_ones_do_not(&*make().await).await;
    a_path_named_twice_does_not_disturb_others(&*make().await).await;
    snapshots_do_not_change(&*make().await).await;
    watches_report_changes_in_order(&*make().await).await;
    progress_follows_all_changes(&*make().await).await;
    {
        let store = make().await;
        a_watch_from_before_the_history_is_compacted(&*store, async || compact(&store).await).await;
    }
    for seed in 0..8 {
        random_operations_match_a_map(&*make().await, seed).await;
    }
}

fn path(bytes: impl AsRef<[u8]>) -> Path {
    Path(bytes.as_ref().into())
}

fn put(at: &str, value: &str) -> Txn {
    Txn { put: vec![(path(at), value.into())], ..Txn::default() }
}

fn delete(at: &str) -> Txn {
    Txn { delete: vec![path(at)], ..Txn::default() }
}

fn expecting(mut txn: Txn, guards: &[(&str, Expect)]) -> Txn {
    txn.expect = guards.iter().map(|(at, expect)| (path(at), *expect)).collect();
    txn
}

async fn commit(store: &dyn Store, txn: Txn) -> Outcome {
    let outcomes = store.commit(vec![txn]).await.expect("a commit");
    assert_eq!(outcomes.len(), 1);
    outcomes[0]
}

async fn commit_ok(store: &dyn Store, txn: Txn) -> Revision {
    match commit(store, txn).await {
        Outcome::Committed(revision) => revision,
        other => unreachable!("{other:?} instead of a commit"),
    }
}

/// Value and revision of a row. Checks that `get` and `range` agree.
async fn row(store: &dyn Store, at: &Path) -> Option<(Vec<u8>, Revision)> {
    let fresh = store.get(at, Read::Fresh).await.expect("a fresh get");
    let page = range(store, at.as_bytes(), Some(&[at.as_bytes(), &[0]].concat()), 1).await;
    assert_eq!(page.rows.first().map(|(_, row)| row), fresh.as_ref(), "get and range agree");
    fresh.map(|row| (row.value, row.revision))
}

async fn value(store: &dyn Store, at: &str) -> Option<String> {
    row(store, &path(at)).await.map(|(value, _)| String::from_utf8(value).expect("text"))
}

async fn range(store: &dyn Store, start: &[u8], end: Option<&[u8]>, limit: usize) -> Page {
    let range = Range { start: path(start), end: end.map(path), limit, keys_only: false };
    store.range(range, Read::Fresh).await.expect("a range")
}

async fn head(store: &dyn Store) -> Revision {
    range(store, b"", None, 0).await.revision
}

fn names(page: &Page) -> Vec<String> {
    page.rows.iter().map(|(path, _)| String::from_utf8_lossy(path.as_bytes()).into_owned()).collect()
}

async fn rows_are_read_as_written(store: &dyn Store) {
    assert_eq!(row(store, &path("a")).await, None);
    let first = commit_ok(store, put("a", "1")).await;
    assert_eq!(row(store, &path("a")).await, Some((b"1".to_vec(), first)));
    let local = store.get(&path("a"), Read::Local).await.expect("a local get");
    assert!(local.is_none_or(|row| row.revision == first), "a local read may be late, never wrong");
    let second = commit_ok(store, put("a", "")).await;
    assert_eq!(row(store, &path("a")).await, Some((Vec::new(), second)), "an empty value is a value");
    commit_ok(store, delete("a")).await;
    assert_eq!(row(store, &path("a")).await, None);
    let bytes: Vec<u8> = (0..=255).collect();
    let txn = Txn { put: vec![(path(&bytes), bytes.clone())], ..Txn::default() };
    let revision = commit_ok(store, txn).await;
    assert_eq!(row(store, &path(&bytes)).await, Some((bytes, revision)));
}

async fn guards_decide(store: &dyn Store) {
    let absent = [("a", Expect::Absent)];
    let first = commit_ok(store, expecting(put("a", "1"), &absent)).await;
    assert_eq!(commit(store, expecting(put("a", "2"), &absent)).await, Outcome::Conflict(0));
    let second = commit_ok(store, expecting(put("a", "2"), &[("a", Expect::At(first))])).await;
    assert_eq!(commit(store, expecting(put("a", "3"), &[("a", Expect::At(first))])).await, Outcome::Conflict(0));
    let future = Revision(second.0 + 1);
    assert_eq!(commit(store, expecting(put("a", "3"), &[("a", Expect::At(future))])).await, Outcome::Conflict(0));
    assert_eq!(commit(store, expecting(delete("a"), &[("b", Expect::At(second))])).await, Outcome::Conflict(0));
    assert_eq!(value(store, "a").await.as_deref(), Some("2"));
    commit_ok(store, expecting(delete("a"), &[("a", Expect::At(second))])).await;
    assert_eq!(commit(store, expecting(put("a", "3"), &[("a", Expect::At(second))])).await, Outcome::Conflict(0));
    commit_ok(store, expecting(put("a", "3"), &absent)).await;
    // A guard may be on a row that the transaction does not change.
    let guard = [("a", Expect::At(head(store).await))];
    commit_ok(store, expecting(put("b", "1"), &guard)).await;
}

async fn a_conflict_names_the_first_failed_guard(store: &dyn Store) {
    let at = Expect::At(commit_ok(store, put("a", "1")).await);
    let guards = [("a", at), ("b", Expect::Absent), ("a", Expect::Absent), ("b", at)];
    assert_eq!(commit(store, expecting(put("c", "1"), &guards)).await, Outcome::Conflict(2));
    assert_eq!(commit(store, expecting(put("c", "1"), &guards[3..])).await, Outcome::Conflict(0));
    commit_ok(store, expecting(put("c", "1"), &guards[..2])).await;
}

async fn a_transaction_is_applied_whole_or_not_at_all(store: &dyn Store) {
    let first = commit_ok(store, put("old", "1")).await;
    let mut txn = put("new", "1");
    txn.put.push((path("other"), b"2".to_vec()));
    txn.delete.push(path("old"));
    txn.expect.push((path("old"), Expect::Absent));
    assert_eq!(commit(store, txn.clone()).await, Outcome::Conflict(0));
    assert_eq!(names(&range(store, b"", None, 9).await), ["old"]);
    assert_eq!(head(store).await, first, "a conflict changes nothing");
    txn.expect[0].1 = Expect::At(first);
    let second = commit_ok(store, txn).await;
    let page = range(store, b"", None, 9).await;
    assert_eq!(names(&page), ["new", "other"]);
    assert!(page.rows.iter().all(|(_, row)| row.revision == second), "one transaction, one revision");
}

async fn transactions_of_one_commit_see_earlier_ones(store: &dyn Store) {
    let absent = |value| expecting(put("a", value), &[("a", Expect::Absent)]);
    let txns = vec![absent("1"), absent("2"), delete("a"), absent("3"), put("b", "1")];
    let outcomes = store.commit(txns).await.expect("a commit");
    let at = |outcome: &Outcome| match outcome {
        Outcome::Committed(revision) => *revision,
        other => unreachable!("{other:?} instead of a commit"),
    };
    assert_eq!(outcomes[1], Outcome::Conflict(0));
    let [first, removed, third, other] = [0, 2, 3, 4].map(|index| at(&outcomes[index]));
    assert!(first < removed && removed < third, "each changed what the one before it wrote: {outcomes:?}");
    assert!(third <= other, "a group may share a revision: {outcomes:?}");
    assert_eq!(row(store, &path("a")).await, Some((b"3".to_vec(), third)));
    assert_eq!(row(store, &path("b")).await, Some((b"1".to_vec(), other)));
    let ahead = Revision(other.0 + 1000);
    let outcomes = store.commit(vec![
        expecting(put("a", "4"), &[("a", Expect::At(third))]),
        expecting(put("a", "5"), &[("a", Expect::At(third))]),
        expecting(put("a", "6"), &[("a", Expect::At(ahead))]),
        expecting(put("c", "1"), &[("a", Expect::At(third))]),
    ]);
    let outcomes = outcomes.await.expect("a commit");
    assert!(at(&outcomes[0]) > other);
    assert_eq!(outcomes[1..], [Outcome::Conflict(0); 3]);

    // What one transaction removes is gone for the guards and changes of the next.
    let txns = vec![delete("b"), expecting(put("c", "1"), &[("b", Expect::At(other))]), delete("b"), put("d", "1")];
    let outcomes = store.commit(txns).await.expect("a commit");
    assert_eq!(outcomes[1], Outcome::Conflict(0));
    assert!(at(&outcomes[2]) >= at(&outcomes[0]) && at(&outcomes[3]) >= at(&outcomes[2]));
    assert_eq!((value(store, "b").await, value(store, "c").await), (None, None));
    assert_eq!(store.commit(Vec::new()).await, Ok(Vec::new()), "no transactions, no outcomes");
}

async fn revisions_increase_with_changes(store: &dyn Store) {
    let first = commit_ok(store, put("a", "1")).await;
    assert!(first > Revision(0));
    let second = commit_ok(store, put("a", "1")).await;
    assert!(second > first, "writing the same bytes is a change");
    assert_eq!(commit_ok(store, delete("none")).await, second, "removing nothing is not a change");
    assert_eq!(commit_ok(store, Txn::default()).await, second);
    assert_eq!(commit_ok(store, expecting(Txn::default(), &[("a", Expect::At(second))])).await, second);
    let third = commit_ok(store, delete("a")).await;
    assert!(third > second);
    assert_eq!(head(store).await, third);
}

async fn many_rows_are_read_at_once(store: &dyn Store) {
    let first = commit_ok(store, put("a", "1")).await;
    let second = commit_ok(store, put("b", "2")).await;
    let row = |value: &str, revision| Some(Versioned { value: value.into(), revision });
    let paths = [path("b"), path("none"), path("a"), path("b")];
    let expected = vec![row("2", second), None, row("1", first), row("2", second)];
    assert_eq!(store.get_many(&paths, Read::Fresh).await, Ok(expected.clone()), "in the order asked for");
    assert_eq!(store.get_many(&[], Read::Fresh).await, Ok(Vec::new()));
    let most: Vec<Path> = (0..STORE_TXN_MAX_OPS).map(|n| path(format!("n{n}"))).collect();
    assert_eq!(store.get_many(&most, Read::Fresh).await, Ok(vec![None; STORE_TXN_MAX_OPS]));
    let more = [most, vec![path("a")]].concat();
    assert_eq!(store.get_many(&more, Read::Fresh).await, Err(StoreError::TooLarge));
}

async fn many_ranges_of_a_snapshot_are_read_at_once(store: &dyn Store) {
    for at in ["a/1", "b/1", "b/2", "b/3", "c"] {
        commit_ok(store, put(at, at)).await;
    }
    let snapshot = store.snapshot().await.expect("a snapshot");
    commit_ok(store, put("b/2", "changed")).await;
    commit_ok(store, delete("a/1")).await;
    let ranges: Vec<Range> = ["b/", "none", "a/", "c", "b/"].map(|prefix| Range::prefix(&path(prefix), 2)).into();
    let pages = snapshot.ranges(&ranges).await.expect("pages");
    for (range, found) in ranges.iter().zip(&pages) {
        assert_eq!(snapshot.range(range.clone()).await.as_ref(), Ok(found), "as if each was read alone");
    }
    assert_eq!(
        pages.iter().map(|page| (page.rows.len(), page.more)).collect::<Vec<_>>(),
        [(2, true), (0, false), (1, false), (1, false), (2, true)]
    );
    assert_eq!(snapshot.ranges(&[]).await, Ok(Vec::new()));
    let more = vec![Range::prefix(&path("a"), 1); STORE_TXN_MAX_OPS + 1];
    assert!(snapshot.ranges(more.get(1..).unwrap_or_default()).await.is_ok_and(|pages| pages.len() + 1 == more.len()));
    assert_eq!(snapshot.ranges(&more).await, Err(StoreError::TooLarge));
}

async fn ranges_are_pages_in_order(store: &dyn Store) {
    for at in ["b/2", "a", "b/10", "b", "b/1", "c", "b/"] {
        commit_ok(store, put(at, at)).await;
    }
    let page = range(store, b"", None, 99).await;
    assert_eq!(names(&page), ["a", "b", "b/", "b/1", "b/10", "b/2", "c"]);
    assert!(!page.more);
    assert!(page.rows.iter().all(|(path, row)| path.as_bytes() == row.value));
    assert_eq!(page.revision, head(store).await);

    let page = range(store, b"b/", Some(b"b0"), 2).await;
    assert_eq!((names(&page), page.more), (vec!["b/".into(), "b/1".into()], true));
    let page = range(store, b"b/1\0", Some(b"b0"), 2).await;
    assert_eq!((names(&page), page.more), (vec!["b/10".into(), "b/2".into()], false));
    assert_eq!(names(&range(store, b"a", Some(b"b"), 9).await), ["a"], "the end is left out");
    let page = range(store, b"a", Some(b"b"), 1).await;
    assert!(!page.more, "there are rows behind the end, not behind the page");
    let page = range(store, b"a", None, 0).await;
    assert_eq!((names(&page).len(), page.more), (0, true));
    assert!(range(store, b"c", Some(b"a"), 9).await.rows.is_empty(), "an end before the start is an empty range");
    assert!(range(store, b"c", Some(b"c"), 9).await.rows.is_empty());
    assert!(!range(store, b"d", None, 0).await.more);

    let mut keys = Range::prefix(&path("b/"), 9);
    keys.keys_only = true;
    let full = range(store, b"b/", Some(b"b0"), 9).await;
    let keys = store.range(keys, Read::Fresh).await.expect("a range");
    assert_eq!(names(&keys), names(&full));
    for ((_, key), (_, row)) in keys.rows.iter().zip(&full.rows) {
        assert_eq!((key.value.len(), key.revision), (0, row.revision));
    }
    let local = store.range(Range::prefix(&path("b/"), 9), Read::Local).await.expect("a local range");
    assert!(local.rows.len() <= full.rows.len());
}

async fn prefixes_of_all_ones_end_right(store: &dyn Store) {
    let paths: [&[u8]; 6] = [b"\xfe", b"\xfe\xff", b"\xfe\xff\xff", b"\xff", b"\xff\x00", b"\xff\xff"];
    for at in paths {
        commit_ok(store, Txn { put: vec![(path(at), at.to_vec())], ..Txn::default() }).await;
    }
    for (prefix, expected) in [(&b"\xfe\xff"[..], &paths[1..3]), (b"\xff", &paths[3..]), (b"", &paths[..])] {
        let page = store.range(Range::prefix(&path(prefix), 9), Read::Fresh).await.expect("a range");
        let found: Vec<&[u8]> = page.rows.iter().map(|(path, _)| path.as_bytes()).collect();
        assert_eq!(found, expected, "below {prefix:?}");
    }
}

async fn large_values_fit_and_larger_ones_do_not(store: &dyn Store) {
    let large = vec![0xa5; STORE_VALUE_MAX_BYTES];
    let revision = commit_ok(store, Txn { put: vec![(path("large"), large.clone())], ..Txn::default() }).await;
    assert!(row(store, &path("large")).await == Some((large.clone(), revision)));

    let larger = Txn { put: vec![(path("larger"), [large, vec![0]].concat())], ..Txn::default() };
    assert_eq!(store.commit(vec![put("before", "1"), larger]).await, Err(StoreError::TooLarge));
    let bytes = |total: usize| {
        let values = [vec![1; STORE_TXN_MAX_BYTES / 2], vec![2; total - STORE_TXN_MAX_BYTES / 2 - 2 - 2 - 1]];
        Txn {
            expect: vec![(path("c"), Expect::Absent)],
            put: ["b1", "b2"].map(path).into_iter().zip(values).collect(),
            ..Txn::default()
        }
    };
    let larger = bytes(STORE_TXN_MAX_BYTES + 1);
    assert_eq!(store.commit(vec![put("before", "1"), larger]).await, Err(StoreError::TooLarge));
    commit_ok(store, bytes(STORE_TXN_MAX_BYTES)).await;
    // Several of them in one commit exceed what one write may hold; that is for the store to divide.
    let txns = (0..4).map(|_| Txn { expect: Vec::new(), ..bytes(STORE_TXN_MAX_BYTES - 8) }).collect();
    assert!(store.commit(txns).await.is_ok_and(|all| all.iter().all(|one| matches!(one, Outcome::Committed(_)))));
    let many = |rows: usize| Txn {
        expect: (0..rows / 2).map(|n| (path(n.to_string()), Expect::Absent)).collect(),
        put: (0..rows / 4).map(|n| (path(n.to_string()), vec![0; 8])).collect(),
        delete: (0..rows - rows / 2 - rows / 4).map(|n| path(format!("x{n}"))).collect(),
        ..Txn::default()
    };
    assert_eq!(store.commit(vec![put("before", "1"), many(STORE_TXN_MAX_OPS + 1)]).await, Err(StoreError::TooLarge));
    assert_eq!(value(store, "before").await, None, "nothing of a refused commit is applied");
    commit_ok(store, many(STORE_TXN_MAX_OPS)).await;
}

async fn a_path_named_twice_does_not_disturb_others(store: &dyn Store) {
    let twice = Txn {
        put: vec![(path("a"), b"1".to_vec()), (path("a"), b"2".to_vec())],
        delete: vec![path("b"), path("b"), path("a")],
        ..Txn::default()
    };
    // The outcome of this transaction is up to the store, but others must not be affected.
    let _ = store.commit(vec![twice, put("c", "1")]).await;
    commit_ok(store, put("c", "2")).await;
    assert_eq!(value(store, "c").await.as_deref(), Some("2"));
}

async fn snapshots_do_not_change(store: &dyn Store) {
    for n in 0..20 {
        commit_ok(store, put(&format!("{n:02}"), "old")).await;
    }
    let before = head(store).await;
    let snapshot = store.snapshot().await.expect("a snapshot");
    assert_eq!(snapshot.revision(), before);
    let mut seen = Vec::new();
    let mut start = path("");
    for n in 0.. {
        commit_ok(store, put(&format!("{n:02}"), "new")).await;
        commit_ok(store, put(&format!("{n:02}+"), "new")).await;
        commit_ok(store, delete(&format!("{:02}", 19 - n))).await;
        let page = page_of(&*snapshot, start.clone()).await;
        assert_eq!(page.revision, before);
        assert!(page.rows.iter().all(|(_, row)| row.value == b"old" && row.revision <= before));
        seen.extend(names(&page));
        match page.rows.last() {
            Some((last, _)) if page.more => start = path([last.as_bytes(), &[0]].concat()),
            _ => break,
        }
    }
    assert_eq!(seen, (0..20).map(|n| format!("{n:02}")).collect::<Vec<_>>());
    assert!(store.snapshot().await.expect("a snapshot").revision() > before);
}

async fn page_of(snapshot: &dyn Snapshot, start: Path) -> Page {
    snapshot.range(Range { start, end: None, limit: 3, keys_only: false }).await.expect("a page")
}

async fn watches_report_changes_in_order(store: &dyn Store) {
    let changed = |at: &str, revision| Event::Changed { path: path(at), revision };
    let before = commit_ok(store, put("w/0", "1")).await;
    let first = commit_ok(store, put("w/1", "1")).await;
    commit_ok(store, put("v", "1")).await;
    let mut watch = store.watch(path("w/"), before).await.expect("a watch");
    let mut late = store.watch(path("w/"), head(store).await).await.expect("a watch");
    assert_eq!(watch.next().await, changed("w/1", first), "changes after `from` are reported");

    commit_ok(store, put("x", "1")).await;
    commit_ok(store, delete("w/none")).await;
    commit_ok(store, expecting(Txn::default(), &[("w/1", Expect::At(first))])).await;
    assert_eq!(commit(store, expecting(put("w/9", "1"), &[("w/1", Expect::Absent)])).await, Outcome::Conflict(0));
    let mut txn = put("w/2", "1");
    txn.delete.push(path("w/1"));
    let second = commit_ok(store, txn).await;
    let third = commit_ok(store, put("w/2", "2")).await;
    for watch in [&mut watch, &mut late] {
        let both = [watch.next().await, watch.next().await];
        for event in [changed("w/2", second), changed("w/1", second)] {
            assert!(both.contains(&event), "{event:?} in {both:?}");
        }
        assert_eq!(watch.next().await, changed("w/2", third));
    }
    let mut ahead = store.watch(path("w/"), Revision(third.0 + 1)).await.expect("a watch");
    commit_ok(store, put("w/3", "1")).await;
    let fourth = commit_ok(store, put("w/4", "1")).await;
    assert_eq!(ahead.next().await, changed("w/4", fourth), "only changes after `from`");
    while watch.next().await != changed("w/4", fourth) {}
    assert!(is_silent(&mut *watch).await, "no change, no event");
}

async fn is_silent(watch: &mut dyn Watch) -> bool {
    let mut next = watch.next();
    poll_fn(|context| Poll::Ready(next.as_mut().poll(context).is_pending())).await
}

async fn progress_follows_all_changes(store: &dyn Store) {
    let from = head(store).await;
    let mut watch = store.watch(path("w/"), from).await.expect("a watch");
    for round in 0..3 {
        let changed = commit_ok(store, put("w/1", &round.to_string())).await;
        let other = commit_ok(store, put("x", &round.to_string())).await;
        watch.ask_progress();
        let mut seen = false;
        loop {
            match watch.next().await {
                Event::Changed { path: at, revision } => {
                    assert_eq!((at, revision), (path("w/1"), changed));
                    seen = true;
                }
                // It may be the answer to a question from before the changes.
                Event::Progress(revision) if revision >= other => break,
                Event::Progress(revision) => {
                    assert!(seen || revision < changed, "progress ahead of a change");
                    watch.ask_progress();
                }
                end => unreachable!("{end:?}"),
            }
        }
        assert!(seen, "round {round}: progress without the change");
    }
}

async fn a_watch_from_before_the_history_is_compacted(store: &dyn Store, compact: impl AsyncFn()) {
    let first = commit_ok(store, put("a", "1")).await;
    commit_ok(store, put("n0", "1")).await;
    commit_ok(store, put("n1", "1")).await;
    compact().await;
    let mut old = store.watch(path("n"), first).await.expect("a watch");
    assert_eq!(old.next().await, Event::Compacted);
    let now = head(store).await;
    let mut fresh = store.watch(path("n"), now).await.expect("a watch");
    let last = commit_ok(store, put("n", "1")).await;
    assert_eq!(fresh.next().await, Event::Changed { path: path("n"), revision: last });
}

/// Writes more rows than a [`crate::store::history::History`] remembers changes.
pub async fn outgrow_history(store: &dyn Store) {
    let rows = STORE_TXN_MAX_OPS;
    let txns = (0..=STORE_HISTORY_EVENTS / rows).map(|n| Txn {
        put: (0..rows).map(|m| (path(format!("n{}", n * rows + m)), Vec::new())).collect(),
        ..Txn::default()
    });
    let outcomes = store.commit(txns.collect()).await.expect("a commit");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Committed(_))));
}

/// A map that behaves as a store must. It takes the revisions from the store and checks that they increase as they must.
#[derive(Default)]
struct Model {
    rows: BTreeMap<Path, (Vec<u8>, Revision)>,
    revision: Revision,
    changes: Vec<Event>,
}

impl Model {
    fn apply(&mut self, txn: &Txn, outcome: Outcome) {
        for (index, (path, expect)) in txn.expect.iter().enumerate() {
            let found = self.rows.get(path).map(|(_, revision)| *revision);
            let wanted = match expect {
                Expect::Absent => None,
                Expect::At(revision) => Some(*revision),
            };
            if found != wanted {
                assert_eq!(outcome, Outcome::Conflict(index));
                return;
            }
        }
        let Outcome::Committed(at) = outcome else { unreachable!("{outcome:?} although all guards hold") };
        let before = self.changes.len();
        for (path, value) in &txn.put {
            let older = self.rows.insert(path.clone(), (value.clone(), at));
            assert!(older.is_none_or(|(_, revision)| revision < at), "a row got the same revision twice");
            self.changes.push(Event::Changed { path: path.clone(), revision: at });
        }
        for path in &txn.delete {
            if let Some((_, revision)) = self.rows.remove(path) {
                assert!(revision < at, "removed at the revision that wrote it");
                self.changes.push(Event::Changed { path: path.clone(), revision: at });
            }
        }
        assert!(at >= self.revision, "{at:?} after {:?}", self.revision);
        if self.changes.len() > before {
            self.revision = at;
        }
    }
}

async fn random_operations_match_a_map(store: &dyn Store, seed: u64) {
    let rng = SimRng::new(seed);
    let mut model = Model { revision: head(store).await, ..Model::default() };
    let mut watch = store.watch(path(""), model.revision).await.expect("a watch");
    for _ in 0..60 {
        let txns: Vec<Txn> = (0..rng.below(6)).map(|_| random_txn(&rng, &model)).collect();
        let outcomes = store.commit(txns.clone()).await.expect("a commit");
        assert_eq!(outcomes.len(), txns.len());
        txns.iter().zip(outcomes).for_each(|(txn, outcome)| model.apply(txn, outcome));

        let at = random_path(&rng);
        assert_eq!(row(store, &at).await, model.rows.get(&at).cloned(), "seed {seed}");
        let paths: Vec<Path> = (0..rng.below(5)).map(|_| random_path(&rng)).collect();
        let many = store.get_many(&paths, Read::Fresh).await.expect("rows");
        let many: Vec<_> = many.into_iter().map(|row| row.map(|row| (row.value, row.revision))).collect();
        assert_eq!(many, paths.iter().map(|at| model.rows.get(at).cloned()).collect::<Vec<_>>(), "seed {seed}");
        let wanted = Range {
            start: random_path(&rng),
            end: (rng.below(4) > 0).then(|| random_path(&rng)),
            limit: rng.below(8) as usize,
            keys_only: rng.below(4) == 0,
        };
        let page = store.range(wanted.clone(), Read::Fresh).await.expect("a range");
        assert_page(&page, &wanted, &model, seed);
    }
    // Rows of one revision may be reported in any order.
    let mut reported = Vec::new();
    for _ in 0..model.changes.len() {
        reported.push(watch.next().await);
    }
    let revisions = |events: &[Event]| events.iter().map(revision_of).collect::<Vec<_>>();
    assert!(revisions(&reported).is_sorted(), "seed {seed}: reported out of order");
    for events in [&mut reported, &mut model.changes] {
        events.sort_by_key(|event| match event {
            Event::Changed { path, revision } => (*revision, path.clone()),
            other => unreachable!("seed {seed}: {other:?}"),
        });
    }
    assert_eq!(reported, model.changes, "seed {seed}");
    assert!(is_silent(&mut *watch).await, "seed {seed}");
}

fn revision_of(event: &Event) -> Revision {
    match event {
        Event::Changed { revision, .. } | Event::Progress(revision) => *revision,
        Event::Lost | Event::Compacted => unreachable!("a watch ended"),
    }
}

fn assert_page(page: &Page, wanted: &Range, model: &Model, seed: u64) {
    let mut expected: Vec<_> = model
        .rows
        .iter()
        .filter(|(path, _)| **path >= wanted.start && wanted.end.as_ref().is_none_or(|end| *path < end))
        .collect();
    let more = expected.len() > wanted.limit;
    expected.truncate(wanted.limit);
    assert_eq!((page.rows.len(), page.more), (expected.len(), more), "seed {seed}: {wanted:?}");
    assert_eq!(page.revision, model.revision, "seed {seed}");
    for ((path, row), (expected_path, (value, revision))) in page.rows.iter().zip(expected) {
        let value: &[u8] = if wanted.keys_only { &[] } else { value };
        assert_eq!((path, &*row.value, row.revision), (expected_path, value, *revision), "seed {seed}");
    }
}

/// One of a few paths, so that transactions often touch the same rows.
fn random_path(rng: &SimRng) -> Path {
    let letters = [b'a', b'b', 0, 0xff];
    path((0..1 + rng.below(2)).map(|_| letters[rng.below(4) as usize]).collect::<Vec<_>>())
}

fn random_txn(rng: &SimRng, model: &Model) -> Txn {
    let mut txn = Txn::default();
    for _ in 0..rng.below(3) {
        let at = random_path(rng);
        // Most guards hold, so that many transactions are applied.
        let expect = match model.rows.get(&at) {
            Some((_, revision)) if rng.below(5) > 0 => Expect::At(*revision),
            Some(_) => Expect::At(Revision(rng.below(model.revision.0 + 2))),
            None if rng.below(5) > 0 => Expect::Absent,
            None => Expect::At(model.revision),
        };
        txn.expect.push((at, expect));
    }
    for _ in 0..rng.below(4) {
        let at = random_path(rng);
        if txn.delete.contains(&at) || txn.put.iter().any(|(path, _)| *path == at) {
            continue;
        }
        match rng.below(3) {
            0 => txn.delete.push(at),
            _ => txn.put.push((at, vec![rng.below(256) as u8; rng.below(40) as usize])),
        }
    }
    txn
}
