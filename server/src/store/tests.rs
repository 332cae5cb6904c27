//! The embedded store against the conformance suite, and what only a store on a disk can go through.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path as FilePath;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use casemate_api::limits::{STORE_COMMITS_WAITING_MAX, STORE_READS_WAITING_MAX};
use casemate_core::runtime::{Clock, Rng};
use casemate_core::sim::SimRng;
use casemate_core::sim::conformance;
use casemate_core::store::{
    Event, Expect, Outcome, Path, Range, Read, Revision, Room, Snapshot, Store, StoreError, Txn,
};
use pollster::block_on;

use super::disk::Change;
use super::volume::Space;
use redb::ReadableTable;

use super::{Embedded, OpenError, Volume, row};
use crate::clock::SystemClock;
use crate::rng::SystemRng;
use crate::scratch::Scratch;

const CACHE_BYTES: usize = 16 << 20;

fn open(file: &FilePath) -> Arc<Embedded> {
    Embedded::open(file, CACHE_BYTES, &volume_of(file)).unwrap()
}

fn volume_of(file: &FilePath) -> Arc<Volume> {
    Volume::of(file.parent().unwrap())
}

fn path(text: &str) -> Path {
    Path(text.as_bytes().into())
}

fn put(at: &str, value: &[u8]) -> Txn {
    Txn { put: vec![(path(at), value.to_vec())], ..Txn::default() }
}

fn commit(store: &Embedded, txn: Txn) -> Result<Outcome, StoreError> {
    block_on(store.commit(vec![txn])).map(|outcomes| outcomes[0])
}

fn get(store: &Embedded, at: &str) -> Result<Option<Vec<u8>>, StoreError> {
    block_on(store.get(&path(at), Read::Fresh)).map(|row| row.map(|row| row.value))
}

fn all(store: &Embedded) -> BTreeMap<String, Vec<u8>> {
    let range = Range { start: path(""), end: None, limit: usize::MAX, keys_only: false };
    let page = block_on(store.range(range, Read::Fresh)).unwrap();
    let text = |path: Path| String::from_utf8(path.as_bytes().to_vec()).unwrap();
    page.rows.into_iter().map(|(path, row)| (text(path), row.value)).collect()
}

#[test]
fn conforms() {
    let folder = Scratch::new();
    let count = AtomicU64::new(0);
    let make = async || open(&folder.path(&count.fetch_add(1, Ordering::Relaxed).to_string()));
    block_on(conformance::run(make, async |store: &Embedded| conformance::outgrow_history(store).await));
}

#[test]
fn rows_and_revisions_survive_closing() {
    let folder = Scratch::new();
    let file = folder.path("store");
    let store = open(&file);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    commit(&store, put("a", b"1")).unwrap();
    let Outcome::Committed(revision) = commit(&store, put("b", b"2")).unwrap() else { panic!() };
    drop(store);
    let store = open(&file);
    assert_eq!(all(&store), [("a".into(), b"1".to_vec()), ("b".into(), b"2".to_vec())].into());
    let guarded = Txn { expect: vec![(path("b"), Expect::At(revision))], ..put("b", b"3") };
    assert_eq!(commit(&store, guarded), Ok(Outcome::Committed(Revision(revision.0 + 1))));
    // Watches do not know what happened before the start.
    let watch = |from| block_on(block_on(store.watch(path(""), from)).unwrap().next());
    assert_eq!(watch(Revision(revision.0 - 1)), Event::Compacted);
    assert_eq!(watch(revision), Event::Changed { path: path("b"), revision: Revision(revision.0 + 1) });
}

#[test]
fn a_store_of_the_first_format_is_opened_and_then_of_todays_and_one_of_a_later_is_refused() {
    let folder = Scratch::new();
    let file = folder.path("store");
    let store = open(&file);
    commit(&store, put("a", b"1")).unwrap();
    drop(store);
    let numbered = |format: Option<u64>| {
        let database = redb::Database::open(&file).unwrap();
        let transaction = database.begin_write().unwrap();
        let was = {
            let mut meta = transaction.open_table(row::META).unwrap();
            let was = meta.get(row::FORMAT).unwrap().unwrap().value();
            format.iter().for_each(|format| drop(meta.insert(row::FORMAT, *format).unwrap()));
            was
        };
        transaction.commit().unwrap();
        was
    };
    assert_eq!(numbered(Some(row::FIRST_FORMAT_VERSION)), row::FORMAT_VERSION);
    let store = open(&file);
    assert_eq!(get(&store, "a").unwrap().as_deref(), Some(&b"1"[..]));
    drop(store);
    assert_eq!(
        numbered(Some(row::FORMAT_VERSION + 1)),
        row::FORMAT_VERSION,
        "an earlier version refuses it from now on"
    );
    assert!(matches!(Embedded::open(&file, CACHE_BYTES, &volume_of(&file)), Err(OpenError::Damaged(_))));
}

#[test]
fn closing_writes_what_is_queued_and_ends_watches_and_snapshots() {
    let folder = Scratch::new();
    let file = folder.path("store");
    let store = open(&file);
    commit(&store, put("a", b"1")).unwrap();
    let mut watch = block_on(store.watch(path(""), Revision(1))).unwrap();
    let snapshot = block_on(store.snapshot()).unwrap();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut commits: Vec<_> = (0..100).map(|n| store.commit(vec![put(&format!("{n}"), b"x")])).collect();
    for commit in &mut commits {
        // Queued by the first poll; some may be done already.
        _ = commit.as_mut().poll(&mut context);
    }
    drop(commits);
    drop(store);
    let range = Range::prefix(&path(""), 9);
    assert!(matches!(block_on(snapshot.range(range)), Err(StoreError::Unreachable(_))));
    while block_on(watch.next()) != Event::Lost {}
    let store = open(&file);
    assert_eq!(all(&store).len(), 101);
}

#[test]
fn a_store_with_too_much_to_do_is_busy_but_not_lost() {
    let folder = Scratch::new();
    let store = open(&folder.path("store"));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let row = path("a");
    let held_up = store.shared.lock();
    // The threads take some before they are blocked.
    let read =
        (0..2 * STORE_READS_WAITING_MAX).find_map(|_| match store.get(&row, Read::Fresh).as_mut().poll(&mut context) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        });
    let commits = 0..2 * STORE_COMMITS_WAITING_MAX;
    let commit = commits.into_iter().find_map(|_| match store.commit(Vec::new()).as_mut().poll(&mut context) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    });
    drop(held_up);
    assert_eq!((read, commit), (Some(Err(StoreError::Busy)), Some(Err(StoreError::Busy))));
    while get(&store, "a") == Err(StoreError::Busy) {
        std::thread::yield_now();
    }
    assert_eq!(get(&store, "a"), Ok(None));
}

#[test]
fn a_store_in_use_is_busy() {
    let folder = Scratch::new();
    let file = folder.path("store");
    let store = open(&file);
    assert!(matches!(Embedded::open(&file, CACHE_BYTES, &volume_of(&file)), Err(OpenError::Busy)));
    commit(&store, put("a", b"1")).unwrap();
    drop(store);
    assert_eq!(get(&open(&file), "a"), Ok(Some(b"1".to_vec())));
}

#[test]
fn a_start_killed_while_making_the_store_harms_nothing() {
    let folder = Scratch::new();
    let file = folder.path("store");
    fs::write(folder.path("store.new"), b"redb, half made").unwrap();
    commit(&open(&file), put("a", b"1")).unwrap();
    assert!(!folder.path("store.new").exists());
    assert_eq!(get(&open(&file), "a"), Ok(Some(b"1".to_vec())));
}

/// Opens a copy, as after a kill, and returns whether all of it had to be walked.
fn must_be_walked(folder: &Scratch, file: &FilePath) -> bool {
    let copy = folder.path("copy");
    fs::copy(file, &copy).unwrap();
    let walked = Arc::new(AtomicU64::new(0));
    let count = walked.clone();
    let mut builder = redb::Database::builder();
    builder.set_repair_callback(move |_| _ = count.fetch_add(1, Ordering::Relaxed));
    drop(builder.open(&copy).unwrap());
    walked.load(Ordering::Relaxed) > 0
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the writer needs real time")]
fn a_store_that_rested_opens_without_a_walk() {
    let folder = Scratch::new();
    let file = folder.path("store");
    let store = open(&file);
    for round in ["1", "2"] {
        commit(&store, put("a", round.as_bytes())).unwrap();
        assert!(must_be_walked(&folder, &file), "this test sees nothing");
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!must_be_walked(&folder, &file));
        assert_eq!(get(&open(&folder.path("copy")), "a"), Ok(Some(round.into())));
    }
}

/// The file of a store with some rows: closed cleanly, and as a kill would leave it.
fn images(folder: &Scratch) -> (Vec<u8>, Vec<u8>) {
    let file = folder.path("image");
    let store = open(&file);
    for n in 0..200 {
        commit(&store, put(&format!("{n:03}"), &[n as u8; 700])).unwrap();
    }
    let unclean = fs::read(&file).unwrap();
    drop(store);
    (fs::read(&file).unwrap(), unclean)
}

#[test]
fn a_damaged_file_is_refused_and_left_as_it_is() {
    let folder = Scratch::new();
    let (clean, unclean) = images(&folder);
    let mut random = vec![0; 100_000];
    SystemRng.fill(&mut random);
    let mut headed = random.clone();
    headed[..320].copy_from_slice(&clean[..320]);
    let foreign = folder.path("foreign");
    drop(redb::Database::create(&foreign).unwrap());
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("short", b"redb".to_vec()),
        ("text", b"This is a letter, not a store.".to_vec()),
        ("random", random),
        ("header before random bytes", headed),
        ("header only", clean[..320].to_vec()),
        ("clean, cut in the middle", clean[..clean.len() / 2].to_vec()),
        ("clean, cut by a page", clean[..clean.len() - 4096].to_vec()),
        ("unclean, cut in the middle", unclean[..unclean.len() / 2 / 4096 * 4096].to_vec()),
        ("unclean, cut anywhere", unclean[..unclean.len() / 3].to_vec()),
        ("unclean, body of zeros", [&unclean[..4096], &vec![0; unclean.len() - 4096]].concat()),
        ("zeros", vec![0; 65536]),
        ("foreign", fs::read(foreign).unwrap()),
    ];
    let file = folder.path("bad");
    for (what, bytes) in cases {
        fs::write(&file, &bytes).unwrap();
        let error =
            Embedded::open(&file, CACHE_BYTES, &volume_of(&file)).err().unwrap_or_else(|| panic!("{what} was opened"));
        assert!(matches!(error, OpenError::Damaged(_) | OpenError::NotAStore), "{what}: {error:?}");
        println!("{what}: {error}");
        assert!(fs::read(&file).unwrap() == bytes, "{what} was changed");
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(matches!(Embedded::open(&file, CACHE_BYTES, &volume_of(&file)), Err(OpenError::Io(_))));
    let nowhere = folder.path("no/such/folder");
    assert!(matches!(Embedded::open(&nowhere, CACHE_BYTES, &volume_of(&nowhere)), Err(OpenError::Io(_))));
}

#[test]
fn a_flipped_bit_after_a_kill_is_noticed_or_harmless() {
    let folder = Scratch::new();
    let (_, unclean) = images(&folder);
    let rng = SimRng::new(1);
    let file = folder.path("flipped");
    for _ in 0..150 {
        let mut bytes = unclean.clone();
        let bit = rng.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, &bytes).unwrap();
        match Embedded::open(&file, CACHE_BYTES, &volume_of(&file)) {
            Ok(store) => {
                let rows = all(&store);
                // A damaged last commit cannot be distinguished from one that was cut off.
                assert!((199..=200).contains(&rows.len()), "bit {bit}: {} rows", rows.len());
                assert!(rows.iter().all(|(at, value)| *value == [at.parse::<u64>().unwrap() as u8; 700]), "bit {bit}");
            }
            Err(error) => {
                assert!(matches!(error, OpenError::Damaged(_) | OpenError::NotAStore), "bit {bit}: {error:?}")
            }
        }
    }
}

#[test]
fn the_store_recovers_with_its_disk() {
    let folder = Scratch::new();
    let store = open(&folder.path("store"));
    let faults = store.shared.file.faults.clone();
    commit(&store, put("a", b"1")).unwrap();
    for (round, fault) in [&faults.syncs, &faults.writes, &faults.syncs].into_iter().enumerate() {
        let mut watch = block_on(store.watch(path(""), Revision(u64::MAX >> 1))).unwrap();
        let at = format!("in doubt {round}");
        fault.store(true, Ordering::Relaxed);
        assert_eq!(commit(&store, put(&at, b"2")), Ok(Outcome::Unknown));
        assert_eq!(block_on(watch.next()), Event::Lost);
        assert!(matches!(commit(&store, put("b", b"2")), Err(StoreError::Unreachable(_))));
        assert!(matches!(get(&store, "a"), Err(StoreError::Unreachable(_))));
        assert!(matches!(block_on(store.watch(path(""), Revision(0))).err(), Some(StoreError::Unreachable(_))));
        fault.store(false, Ordering::Relaxed);
        assert_eq!(get(&store, "a"), Ok(Some(b"1".to_vec())));
        assert_eq!(get(&store, "b"), Ok(None), "refused is not applied");
        assert!(matches!(get(&store, &at).unwrap().as_deref(), None | Some(b"2")));
        let Ok(Outcome::Committed(revision)) = commit(&store, put("c", at.as_bytes())) else { panic!() };
        let mut watch = block_on(store.watch(path(""), Revision(revision.0 - 1))).unwrap();
        assert_eq!(block_on(watch.next()), Event::Changed { path: path("c"), revision });
    }
}

const MIB: u64 = 1 << 20;

fn pretend(store: &Embedded, free: u64) {
    *store.shared.volume.pretended.lock().unwrap() = Some(Space { free, total: 800 * MIB });
}

#[test]
fn on_a_nearly_full_disk_only_what_adds_is_refused() {
    let folder = Scratch::new();
    let store = open(&folder.path("store"));
    let large = vec![7; MIB as usize];
    for at in ["a", "b"] {
        commit(&store, put(at, &large)).unwrap();
    }
    assert!(!store.is_nearly_full());
    pretend(&store, 64 * MIB - 1);
    assert!(store.is_nearly_full());
    assert_eq!(commit(&store, put("c", b"1")), Err(StoreError::Full));
    assert_eq!(get(&store, "c"), Ok(None));
    // A transaction that adds data takes its whole commit with it, and nothing of others.
    let mixed = vec![Txn { delete: vec![path("a")], ..Txn::default() }, put("c", b"1")];
    assert_eq!(block_on(store.commit(mixed)), Err(StoreError::Full));
    let reserved = Txn { room: Room::Reserved, ..put("record", b"1") };
    assert!(matches!(commit(&store, reserved), Ok(Outcome::Committed(_))));
    let settles = commit(&store, Txn::default());
    assert!(matches!(settles, Ok(Outcome::Committed(_))), "{settles:?}");
    let delete = |at: &str| commit(&store, Txn { delete: vec![path(at)], ..Txn::default() });
    assert!(matches!(delete("a"), Ok(Outcome::Committed(_))));
    // Vacant room in the file counts only while the volume itself has some.
    store.shared.vacant.store(9 * MIB, Ordering::Relaxed);
    assert!(matches!(commit(&store, put("c", b"1")), Ok(Outcome::Committed(_))));
    pretend(&store, 31 * MIB);
    assert_eq!(commit(&store, put("d", b"1")), Err(StoreError::Full));
    assert!(matches!(delete("b"), Ok(Outcome::Committed(_))));
}

/// Replacing a row needs room for both versions while a snapshot is open, so it may not use the last of it.
#[test]
fn a_replacement_beside_a_view_is_refused_when_half_of_the_reserve_is_gone() {
    let folder = Scratch::new();
    let store = open(&folder.path("store"));
    let (before, after) = (vec![7; MIB as usize], vec![8; MIB as usize]);
    commit(&store, put("a", &before)).unwrap();
    let view = block_on(store.snapshot()).unwrap();
    let replace = |value: &[u8]| commit(&store, Txn { room: Room::Replacing, ..put("a", value) });
    pretend(&store, 63 * MIB);
    assert_eq!(commit(&store, put("b", b"1")), Err(StoreError::Full));
    assert!(matches!(replace(&after), Ok(Outcome::Committed(_))), "there is half of it left");
    pretend(&store, 32 * MIB);
    assert_eq!(replace(&before), Err(StoreError::Full));
    assert_eq!(get(&store, "a"), Ok(Some(after)), "nothing was done");
    // It takes its whole commit with it; what frees room, and what has room reserved, is still possible.
    let mixed =
        vec![Txn { room: Room::Reserved, ..put("record", b"1") }, Txn { room: Room::Replacing, ..put("a", b"2") }];
    assert_eq!(block_on(store.commit(mixed)), Err(StoreError::Full));
    assert_eq!(get(&store, "record"), Ok(None));
    assert!(matches!(commit(&store, Txn { room: Room::Reserved, ..put("record", b"1") }), Ok(Outcome::Committed(_))));
    let delete = Txn { delete: vec![path("a")], room: Room::Replacing, ..Txn::default() };
    assert!(matches!(commit(&store, delete), Ok(Outcome::Committed(_))));
    drop(view);
}

#[test]
fn room_that_deletions_leave_in_the_file_is_found_again_after_a_start() {
    let folder = Scratch::new();
    let file = folder.path("store");
    let store = open(&file);
    let large = vec![7; MIB as usize];
    (0..16).for_each(|n| assert!(commit(&store, put(&n.to_string(), &large)).is_ok()));
    (0..16).for_each(|n| {
        let delete = vec![path(&n.to_string())];
        assert!(commit(&store, Txn { delete, room: Room::Reserved, ..put("last", b"1") }).is_ok());
    });
    drop(store);
    let volume = volume_of(&file);
    *volume.pretended.lock().unwrap() = Some(Space { free: 40 * MIB, total: 800 * MIB });
    let store = Embedded::open(&file, CACHE_BYTES, &volume).unwrap();
    let (vacant, allocated) =
        (store.shared.vacant.load(Ordering::Relaxed), fs::metadata(&file).unwrap().blocks() * 512);
    assert!(
        vacant <= allocated && vacant + MIB > allocated,
        "{vacant} of {allocated}: all that is left is a small row"
    );
}

/// A quota or a limit on files is noticed only when it is reached.
#[test]
fn a_disk_that_is_full_without_a_warning_is_full_and_not_unreachable() {
    let folder = Scratch::new();
    let store = open(&folder.path("store"));
    let faults = store.shared.file.faults.clone();
    let Ok(Outcome::Committed(before)) = commit(&store, put("a", b"1")) else { panic!() };
    faults.full.store(true, Ordering::Relaxed);
    let opened = faults.opened.load(Ordering::Relaxed);
    for n in 0..20 {
        assert_eq!(commit(&store, put(&format!("b{n}"), b"2")), Err(StoreError::Full), "nothing was applied");
    }
    // Reading needs no room, and the file is not walked for each refused commit.
    assert_eq!(get(&store, "a"), Ok(Some(b"1".to_vec())));
    let again = faults.opened.load(Ordering::Relaxed) - opened;
    assert!(again <= 4, "opened {again} times");
    faults.full.store(false, Ordering::Relaxed);
    assert_eq!(get(&store, "a"), Ok(Some(b"1".to_vec())));
    *store.shared.pause.lock().unwrap() = Default::default();
    assert_eq!(commit(&store, put("c", b"3")), Ok(Outcome::Committed(Revision(before.0 + 1))));
}

#[test]
fn a_disk_that_fails_while_the_store_tidies_up_holds_nobody_up() {
    let folder = Scratch::new();
    let store = open(&folder.path("store"));
    commit(&store, put("a", b"1")).unwrap();
    let faults = store.shared.file.faults.clone();
    faults.syncs.store(true, Ordering::Relaxed);
    let (done, settled) = std::sync::mpsc::channel();
    let shared = store.shared.clone();
    std::thread::spawn(move || {
        shared.settle();
        done.send(()).unwrap();
    });
    assert!(settled.recv_timeout(Duration::from_secs(20)).is_ok(), "it hangs");
    faults.syncs.store(false, Ordering::Relaxed);
    assert_eq!(get(&store, "a"), Ok(Some(b"1".to_vec())));
}

#[test]
fn the_ballast_is_released_for_the_write_that_needs_it_and_created_again() {
    let folder = Scratch::new();
    let store = open(&folder.path("store"));
    let volume = store.shared.volume.clone();
    let ballast = folder.path("reserve");
    pretend(&store, 95 * MIB);
    volume.keep_ballast();
    assert!(!ballast.exists(), "it does not make the disk full itself");
    pretend(&store, 96 * MIB);
    volume.keep_ballast();
    let made = fs::metadata(&ballast).unwrap();
    assert_eq!((made.len(), made.permissions().mode() & 0o777), (32 * MIB, 0o600));
    assert!(made.blocks() * 512 >= 32 * MIB, "its room is really taken");
    pretend(&store, 0);
    assert_eq!(commit(&store, put("a", b"1")), Err(StoreError::Full));
    assert!(ballast.exists(), "what adds does not get it");
    assert!(matches!(commit(&store, Txn { room: Room::Reserved, ..put("a", b"1") }), Ok(Outcome::Committed(_))));
    assert!(!ballast.exists());
    // A partial ballast left by a crash is completed.
    fs::write(&ballast, b"short").unwrap();
    pretend(&store, 800 * MIB);
    volume.keep_ballast();
    assert_eq!(fs::metadata(&ballast).unwrap().len(), 32 * MIB);
}

#[test]
fn a_failing_read_is_unreachable_and_the_next_one_reads() {
    let folder = Scratch::new();
    // No cache, so that reads reach the disk.
    let store = Embedded::open(&folder.path("store"), 0, &volume_of(&folder.path("store"))).unwrap();
    let faults = store.shared.file.faults.clone();
    commit(&store, put("a", &[1; 5000])).unwrap();
    let snapshot = block_on(store.snapshot()).unwrap();
    faults.reads.store(true, Ordering::Relaxed);
    assert!(matches!(get(&store, "a"), Err(StoreError::Unreachable(_))));
    assert!(matches!(commit(&store, put("a", b"2")), Err(StoreError::Unreachable(_))));
    faults.reads.store(false, Ordering::Relaxed);
    assert_eq!(get(&store, "a"), Ok(Some(vec![1; 5000])));
    assert!(matches!(page(&*snapshot), Err(StoreError::Unreachable(_))), "it was of the failed database");
    assert_eq!(page(&*block_on(store.snapshot()).unwrap()), Ok(1));
}

fn page(snapshot: &dyn Snapshot) -> Result<usize, StoreError> {
    block_on(snapshot.range(Range::prefix(&path(""), 9))).map(|page| page.rows.len())
}

/// Cuts the power at many moments: of what was not synced, a random part has reached the disk, sector by sector.
#[test]
fn acknowledged_commits_survive_the_loss_of_power() {
    let folder = Scratch::new();
    let file = folder.path("store");
    let store = open(&file);
    let faults = store.shared.file.faults.clone();
    let start = fs::read(&file).unwrap();
    *faults.log.lock().unwrap() = Some(Vec::new());
    let logged = || faults.log.lock().unwrap().as_ref().unwrap().len();
    let mut acknowledged = Vec::new();
    for n in 0_u64..60 {
        let mut txn = put(&format!("{n:02}"), &[n as u8; 900]);
        txn.put.push((path("last"), n.to_be_bytes().to_vec()));
        let Ok(Outcome::Committed(_)) = commit(&store, txn) else { panic!() };
        acknowledged.push(logged());
        if n % 7 == 0 {
            store.shared.settle();
        }
    }
    let log = faults.log.lock().unwrap().take().unwrap();
    drop(store);
    let rng = SimRng::new(7);
    for round in 0..120 {
        let cut = rng.below(log.len() as u64 + 1) as usize;
        fs::write(&file, after_power_loss(&start, &log[..cut], &rng)).unwrap();
        let rows = all(&open(&file));
        let least = acknowledged.iter().filter(|at| **at <= cut).count();
        let found = rows.len().saturating_sub(1);
        assert!(found >= least && found <= least + 1, "round {round}: {found} rows of {least} acknowledged");
        for n in 0..found {
            assert_eq!(rows[&format!("{n:02}")], [n as u8; 900], "round {round}");
        }
        if found > 0 {
            assert_eq!(rows["last"], (found as u64 - 1).to_be_bytes(), "round {round}: a transaction was torn");
        }
    }
}

fn after_power_loss(start: &[u8], log: &[Change], rng: &SimRng) -> Vec<u8> {
    let synced = log.iter().rposition(|change| matches!(change, Change::Sync)).map_or(0, |at| at + 1);
    let mut image = start.to_vec();
    for (at, change) in log.iter().enumerate() {
        match change {
            Change::Sync => {}
            Change::Len(len) => image.resize(*len as usize, 0),
            Change::Write(offset, data) => {
                for (sector, data) in data.chunks(512).enumerate() {
                    if at < synced || rng.below(2) == 0 {
                        let offset = *offset as usize + sector * 512;
                        image[offset..offset + data.len()].copy_from_slice(data);
                    }
                }
            }
        }
    }
    image
}

const CHILD: &str = "CASEMATE_TEST_STORE";
const WRITERS: u64 = 8;

/// Not a test of its own: [`acknowledged_commits_survive_a_kill`] starts and kills it.
#[test]
#[expect(clippy::disallowed_methods, reason = "how the parent talks to its child")]
fn child_that_commits_until_it_is_killed() {
    let Ok(file) = std::env::var(CHILD) else { return };
    let store = open(FilePath::new(&file));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            std::thread::spawn(move || {
                let last = get(&store, &format!("last/{writer}")).unwrap();
                let mut n = last.map_or(0, |last| u64::from_be_bytes(last.try_into().unwrap()) + 1);
                loop {
                    let mut txn = put(&format!("{writer}/{n:08}"), &n.to_be_bytes().repeat(40));
                    txn.put.push((path(&format!("last/{writer}")), n.to_be_bytes().to_vec()));
                    assert!(matches!(commit(&store, txn), Ok(Outcome::Committed(_))));
                    let line = format!("\nack {writer} {n}\n");
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                    n += 1;
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the child needs real time")]
fn acknowledged_commits_survive_a_kill() {
    let folder = Scratch::new();
    let file = folder.path("store");
    let rng = SimRng::new(u64::from(std::process::id()));
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    for round in 0..35 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::child_that_commits_until_it_is_killed", "--nocapture"])
            .env(CHILD, &file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            output.read_to_string(&mut text).unwrap();
            text
        });
        std::thread::sleep(Duration::from_millis(20 + rng.below(400)));
        child.kill().unwrap();
        child.wait().unwrap();
        let text = reader.join().unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines().filter_map(|line| line.strip_prefix("ack ")) {
            let (writer, n) = line.split_once(' ').unwrap();
            acknowledged.insert(writer.parse().unwrap(), n.parse().unwrap());
        }
        if file.exists() {
            assert_whole(&open(&file), &acknowledged, round);
        }
    }
    assert!(acknowledged.values().sum::<u64>() > 500, "the children got something done: {acknowledged:?}");
}

fn assert_whole(store: &Embedded, acknowledged: &BTreeMap<u64, u64>, round: u32) {
    let rows = all(store);
    let mut count = 0;
    for writer in 0..WRITERS {
        let Some(last) = rows.get(&format!("last/{writer}")) else {
            assert!(!acknowledged.contains_key(&writer), "round {round}: all rows of {writer} are gone");
            continue;
        };
        let last = u64::from_be_bytes(last.as_slice().try_into().unwrap());
        assert!(acknowledged.get(&writer).is_none_or(|n| *n <= last), "round {round}: rows of {writer} are gone");
        for n in 0..=last {
            assert_eq!(rows[&format!("{writer}/{n:08}")], n.to_be_bytes().repeat(40), "round {round}");
        }
        count += last + 2;
    }
    assert_eq!(rows.len() as u64, count, "round {round}: no row from nowhere");
}

/// `cargo test -p casemate-server --lib measure -- --ignored --nocapture`
#[test]
#[ignore = "measures, asserts nothing"]
#[expect(clippy::disallowed_methods, reason = "settings of a measurement")]
fn measure() {
    let folder = Scratch::new();
    let file = folder.path("store");
    let store = Embedded::open(&file, 64 << 20, &volume_of(&file)).unwrap();
    let clock = SystemClock::new();
    let rows = std::env::var("ROWS").map_or(200_000, |rows| rows.parse::<u64>().unwrap());
    let timed = |what: &str, count: u64, work: &dyn Fn()| {
        let start = clock.monotonic();
        work();
        let took = (clock.monotonic() - start).as_secs_f64();
        println!("{what}: {count} in {took:.3} s, {:.0}/s", count as f64 / took);
    };
    let value = |n: u64| {
        let mut value = vec![0; 400];
        SimRng::new(n).fill(&mut value);
        value
    };
    let fill = |from: u64, count: u64| {
        for batch in (from..from + count).step_by(2000) {
            let txns = (batch..batch + 2000).map(|n| put(&format!("{:016x}", SimRng::new(n).next_u64()), &value(n)));
            block_on(store.commit(txns.collect())).unwrap();
        }
    };
    let single = |name: &str| {
        timed(name, 2000, &|| {
            for n in 0..2000 {
                commit(&store, put(&format!("single {name} {n}"), &value(n))).unwrap();
            }
        });
    };
    timed("filled 10 k rows", 10_000, &|| fill(0, 10_000));
    single("single puts, 10 k rows");
    timed("filled", rows, &|| fill(10_000, rows));
    single("single puts, filled");
    timed("64 writers", 64 * 200, &|| {
        let writers: Vec<_> = (0..64_u64)
            .map(|writer| {
                let store = store.clone();
                let work = move || {
                    for n in 0..200 {
                        commit(&store, put(&format!("w {writer} {n}"), &[7; 400])).unwrap();
                    }
                };
                std::thread::spawn(work)
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
    timed("gets", 20_000, &|| {
        for n in 0..20_000 {
            get(&store, &format!("{:016x}", SimRng::new(n).next_u64())).unwrap().unwrap();
        }
    });
    let killed = folder.path("killed");
    fs::copy(&file, &killed).unwrap();
    println!("file: {} MB", fs::metadata(&file).unwrap().len() >> 20);
    for (what, cold) in [("killed, cold", true), ("closed, cold", true), ("closed, warm", false)] {
        let copy = fs::File::open(&killed).unwrap();
        copy.sync_all().unwrap();
        if cold {
            rustix::fs::fadvise(&copy, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
        drop(copy);
        let opened = std::cell::OnceCell::new();
        timed(&format!("open, {what}, rows"), rows, &|| {
            _ = opened.set(Embedded::open(&killed, 64 << 20, &volume_of(&killed)).unwrap())
        });
        drop(opened);
    }
}
