use casemate_audit::{Record, Verifier, is_plain};
use pollster::block_on;

use super::*;
use crate::sim::Sim;
use crate::store::Path;

const HERE: &str = "10.0.0.1";

async fn open_with(sim: &Sim, bounds: Bounds) -> Audit {
    let platform = sim.platform();
    let key = platform.device.load().unwrap();
    let audit = Audit::open(Device::new(platform, &key)).await.unwrap();
    Audit { bounds, ..audit }
}

fn open(sim: &Sim) -> Audit {
    block_on(open_with(sim, Bounds { records_max: AUDIT_RECORDS_MAX, checkpoint_records: AUDIT_CHECKPOINT_RECORDS }))
}

fn act(target: &str) -> Act {
    Act {
        user: UserId::parse("admin").ok(),
        address: HERE.parse().unwrap(),
        endpoint: "PUT /keys/{key}".into(),
        target: target.into(),
    }
}

fn intent(audit: &Audit, target: &str) -> Result<u64, Error> {
    block_on(audit.intent(&act(target)))
}

fn exported_text(audit: &Audit, from: Option<u64>, to: Option<u64>) -> String {
    block_on(async {
        let mut export = audit.export(from, to).await.unwrap();
        let mut text = String::new();
        while let Some(lines) = audit.page(&mut export).await.unwrap() {
            text.push_str(&lines);
        }
        text
    })
}

fn exported(audit: &Audit, from: Option<u64>, to: Option<u64>) -> Vec<serde_json::Value> {
    exported_text(audit, from, to).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn outcome(audit: &Audit, target: &str, intent: Option<u64>, status: u16) {
    audit.outcome(&act(target), &ActOutcome { intent, status, ..ActOutcome::default() });
}

/// The records of an export, once it is verified.
#[track_caller]
fn records(audit: &Audit) -> Vec<Record> {
    let text = exported_text(audit, None, None);
    let mut verifier = Verifier::open(text.as_bytes(), &[]).unwrap();
    std::iter::from_fn(|| verifier.record().unwrap()).map(|(record, _)| record).collect()
}

#[test]
fn an_intent_is_durable_when_its_number_is_returned_and_an_outcome_follows() {
    let sim = Sim::new(1);
    let audit = open(&sim);
    let number = intent(&audit, "/keys/a").unwrap();
    // A crash: nothing but the store is left.
    let after = open(&sim);
    let found = records(&after);
    assert_eq!((number, found.len()), (1, 1));
    assert_eq!((found[0].event.kind, found[0].event.user.as_str()), (Kind::Intent, "admin"));
    assert_eq!(found[0].time, "2026-01-01T00:00:00.000Z");
    let made = ActOutcome { intent: Some(number), status: 201, location: "/api/v1/keys/a", revision: 77 };
    after.outcome(&act("/keys/a"), &made);
    let found = records(&after);
    let outcome = &found[1].event;
    assert_eq!((outcome.kind, outcome.of, outcome.status, &*outcome.reason), (Kind::Outcome, 1, 201, "done"));
    assert_eq!((&*outcome.detail, outcome.revision), ("/api/v1/keys/a", 77));
}

#[test]
fn the_chain_continues_after_a_restart() {
    let sim = Sim::new(1);
    for life in 0..3 {
        let audit = open(&sim);
        block_on(audit.booted(State::Locked));
        assert_eq!(intent(&audit, "/keys/a").unwrap(), 2 + 3 * life);
        block_on(audit.stop());
    }
    let kinds: Vec<_> = records(&open(&sim)).iter().map(|record| record.event.kind).collect();
    assert_eq!(kinds, [Kind::Boot, Kind::Intent, Kind::Stop].repeat(3));
}

#[test]
fn concurrent_acts_share_a_write() {
    let sim = Sim::new(1);
    let audit = open(&sim);
    let clock = sim.clock.clone();
    sim.local.delay(move || clock.sleep(Duration::from_millis(5)));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let acts: Vec<Act> = (0..100).map(|i| act(&format!("/keys/{i}"))).collect();
    let mut waiting: Vec<_> = acts.iter().map(|act| Box::pin(audit.intent(act))).collect();
    let mut numbers = vec![None; waiting.len()];
    let before = sim.local.commits();
    for _ in 0..20 {
        for (future, number) in waiting.iter_mut().zip(&mut numbers).filter(|(_, number)| number.is_none()) {
            if let std::task::Poll::Ready(done) = future.as_mut().poll(&mut context) {
                *number = Some(done.unwrap());
            }
        }
        sim.clock.advance(Duration::from_millis(5));
    }
    let mut numbers: Vec<u64> = numbers.into_iter().map(Option::unwrap).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    let commits = sim.local.commits() - before;
    assert!(commits <= 3, "{commits} writes for 100 acts");
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_no_gap() {
    let sim = Sim::new(1);
    let audit = open(&sim);
    intent(&audit, "/keys/a").unwrap();
    sim.local.fail(true);
    assert!(matches!(intent(&audit, "/keys/b"), Err(Error::Unavailable(_))));
    assert_eq!(block_on(audit.intent_if_possible(&act("/keys/b"))), None);
    outcome(&audit, "/keys/a", Some(1), 204);
    block_on(audit.flush());
    sim.local.fail(false);
    assert_eq!(intent(&audit, "/keys/c").unwrap(), 3);
    let found = records(&audit);
    let targets: Vec<_> = found.iter().map(|record| record.event.target.as_str()).collect();
    assert_eq!(targets, ["/keys/a", "/keys/a", "/keys/c"], "the outcome was kept, the refused intent was not");
}

#[test]
fn a_lost_answer_does_not_repeat_a_number() {
    let sim = Sim::new(7);
    let audit = open(&sim);
    for round in 0..200 {
        sim.local.lose_answers(round % 3);
        let told = intent(&audit, &format!("/keys/{round}"));
        sim.local.lose_answers(0);
        outcome(&audit, &format!("/keys/{round}"), told.ok(), 204);
        block_on(audit.flush());
    }
    let found = records(&audit);
    for outcome in found.iter().filter(|record| record.event.of > 0) {
        let intent = &found[usize::try_from(outcome.event.of).unwrap() - 1];
        assert_eq!((intent.event.kind, &intent.event.target), (Kind::Intent, &outcome.event.target));
    }
    let outcomes = found.iter().filter(|record| record.event.kind == Kind::Outcome).count();
    assert_eq!(outcomes, 200, "none was lost and none came twice");
}

#[test]
fn a_request_abandoned_during_a_write_does_no_harm() {
    let sim = Sim::new(1);
    let audit = open(&sim);
    let clock = sim.clock.clone();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for steps in 0..6 {
        let clock = clock.clone();
        sim.local.delay(move || clock.sleep(Duration::from_millis(5)));
        outcome(&audit, &format!("/keys/{steps}"), None, 204);
        let leaves = act("/keys/leaves");
        let mut future = Box::pin(audit.intent(&leaves));
        for _ in 0..steps {
            if future.as_mut().poll(&mut context).is_ready() {
                break;
            }
            sim.clock.advance(Duration::from_millis(5));
        }
        drop(future);
        sim.local.no_delay();
        block_on(audit.flush());
    }
    let found = records(&audit);
    assert_eq!(found.iter().filter(|record| record.event.kind == Kind::Outcome).count(), 6);
}

#[test]
fn old_records_are_removed_at_a_checkpoint_and_the_log_records_where_it_begins() {
    let sim = Sim::new(1);
    let bounds = || Bounds { records_max: 50, checkpoint_records: 10 };
    let audit = block_on(open_with(&sim, bounds()));
    for i in 0..200 {
        intent(&audit, &format!("/keys/{i}")).unwrap();
    }
    let found = records(&audit);
    assert!((50..=62).contains(&found.len()), "{}", found.len());
    let pruned = found.iter().rfind(|record| record.event.kind == Kind::Pruned).unwrap();
    assert_eq!(pruned.event.of, found[0].sequence - 1);
    let rows = sim.local.raw_rows();
    let count = |prefix: &[u8]| rows.iter().filter(|(path, _)| path.as_bytes().starts_with(prefix)).count();
    assert_eq!(count(b"audit/record/"), found.len());
    assert!((4..=7).contains(&count(b"audit/checkpoint/")), "{}", count(b"audit/checkpoint/"));
    // Removed records are not offered, and after a restart the same chain continues.
    assert!(block_on(audit.export(Some(1), None)).is_err());
    let after = block_on(open_with(&sim, bounds()));
    assert_eq!(records(&after), found);
}

#[test]
fn while_the_disk_is_nearly_full_the_log_goes_on_and_does_not_grow() {
    let sim = Sim::new(1);
    let audit = block_on(open_with(&sim, Bounds { records_max: 1_000, checkpoint_records: 10 }));
    let write = |count: usize| (0..count).for_each(|i| _ = intent(&audit, &format!("/keys/{i}")).unwrap());
    write(100);
    assert_eq!(records(&audit).len(), 100, "nothing is removed while there is room");
    sim.local.fill(true);
    write(300);
    let found = records(&audit);
    assert!((88..=112).contains(&found.len()), "{}", found.len());
    assert_eq!(found.last().unwrap().event.target, "/keys/299");
    sim.local.fill(false);
    write(100);
    assert!(records(&audit).len() >= 180, "it grows again");
    // A log shorter than the distance of two checkpoints loses none of its records.
    let sim = Sim::new(2);
    sim.local.fill(true);
    let audit = block_on(open_with(&sim, Bounds { records_max: 1_000, checkpoint_records: 10 }));
    (0..10).for_each(|i| _ = intent(&audit, &format!("/keys/{i}")).unwrap());
    assert!(records(&audit).len() >= 10);
}

#[test]
fn an_hour_with_new_records_ends_with_a_checkpoint() {
    let sim = Sim::new(1);
    let audit = open(&sim);
    intent(&audit, "/keys/a").unwrap();
    let checkpoints = || {
        let of = |path: &Path| path.as_bytes().starts_with(b"audit/checkpoint/");
        sim.local.raw_rows().iter().filter(|(path, _)| of(path)).count()
    };
    block_on(audit.tick());
    assert_eq!(checkpoints(), 0);
    for hours in 1..4 {
        sim.clock.advance(Duration::from_millis(AUDIT_CHECKPOINT_MS));
        block_on(audit.tick());
        assert_eq!(checkpoints(), 1, "{hours}: there was nothing new");
    }
    let lines = exported(&audit, None, None);
    assert_eq!(lines.len(), 4, "header, record, its checkpoint, the end");
}

#[test]
fn a_clock_that_is_set_back_does_not_change_the_order() {
    let sim = Sim::new(1);
    let audit = open(&sim);
    intent(&audit, "/keys/a").unwrap();
    sim.clock.set_wall(Duration::from_secs(1));
    intent(&audit, "/keys/b").unwrap();
    let found = records(&audit);
    assert_eq!(found[1].time, "1970-01-01T00:00:01.000Z");
    assert!(found[1].time < found[0].time && found[1].sequence > found[0].sequence);
}

#[test]
fn a_flood_of_refusals_is_counted_and_makes_no_request_wait() {
    let sim = Sim::new(1);
    let audit = open(&sim);
    let before = sim.local.commits();
    for _ in 0..50_000 {
        audit.refusal(HERE.parse().unwrap(), 401, || act(""));
    }
    assert_eq!(sim.local.commits(), before, "no refusal touched the disk");
    assert_eq!(audit.waiting().len(), 10);
    sim.clock.advance(Duration::from_secs(1));
    block_on(audit.tick());
    let found = records(&audit);
    assert_eq!(found.len(), 11);
    let (kind, count) = (found[10].event.kind, found[10].event.count);
    assert_eq!((kind, count, found[10].event.address.as_str()), (Kind::Refusals, 49_990, HERE));
}

#[test]
fn while_nothing_can_be_written_memory_stays_bounded_and_losses_are_counted() {
    let sim = Sim::new(1);
    let audit = open(&sim);
    sim.local.fail(true);
    for _ in 0..3 * AUDIT_WAITING_MAX {
        outcome(&audit, "/keys/a", None, 204);
    }
    block_on(audit.tick());
    assert!(audit.waiting().len() <= 2 * AUDIT_WAITING_MAX + 1, "{}", audit.waiting().len());
    sim.local.fail(false);
    let found = records(&audit);
    let lost: Vec<_> = found.iter().filter(|record| record.event.kind == Kind::Lost).collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].event.count, AUDIT_WAITING_MAX as u64);
}

#[test]
fn a_range_begins_with_the_hash_before_it() {
    let sim = Sim::new(1);
    let audit = open(&sim);
    (0..2500).for_each(|i| drop(intent(&audit, &format!("/keys/{i}"))));
    let lines = exported(&audit, Some(700), Some(2300));
    let all = exported(&audit, None, None);
    let numbered = |lines: &[serde_json::Value], number: u64| {
        lines.iter().find(|line| line["sequence"] == number).unwrap()["hash"].clone()
    };
    assert_eq!(lines[0]["previous"], numbered(&all, 699));
    assert_eq!(numbered(&lines, 2300), numbered(&all, 2300));
    let end = lines.last().unwrap();
    assert_eq!((&end["checkpoint"], &end["last"], &end["ends"]), (&2300.into(), &2500.into(), &"export".into()));
    // Header, 1601 records, the checkpoints at 1000 and 2000, the end.
    assert_eq!(lines.len(), 1 + 1601 + 2 + 1);
    let bad =
        [(Some(0), None, "from"), (Some(2501), None, "from"), (None, Some(2501), "to"), (Some(5), Some(4), "from")];
    for (from, to, wrong) in bad {
        let Err(Error::Invalid { field, .. }) = block_on(audit.export(from, to)) else { panic!("{from:?} {to:?}") };
        assert_eq!(field, Some(wrong), "{from:?} {to:?}");
    }
}

#[test]
fn names_that_a_client_sends_are_escaped_and_bounded() {
    let sim = Sim::new(1);
    let audit = open(&sim);
    audit.refusal(HERE.parse().unwrap(), 400, || act(&("/keys/\"},\n".to_owned() + &"\u{1F511}".repeat(1000))));
    let found = records(&audit);
    assert!(is_plain(&found[0].event.target), "{}", found[0].event.target);
    assert!(found[0].event.target.starts_with("/keys/%22},%0A%F0%9F%94%91"));
}
