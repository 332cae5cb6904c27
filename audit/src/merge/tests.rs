use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::checkpoint::{Checkpoint, Ends, header};
use crate::record::Event;

/// A log as a device writes it.
struct Device {
    id: &'static str,
    key: Ed25519KeyPair,
    records: Vec<Record>,
}

impl Device {
    fn new(id: &'static str) -> Self {
        Self { id, key: Ed25519KeyPair::from_seed_unchecked(&[id.as_bytes()[0]; 32]).unwrap(), records: Vec::new() }
    }

    fn public(&self) -> PublicKey {
        self.key.public_key().as_ref().try_into().unwrap()
    }

    /// Appends a record; `second` is the time of its clock. Returns its number.
    fn record(&mut self, second: u32, event: Event) -> u64 {
        let (sequence, time) =
            (self.records.len() as u64 + 1, format!("2026-01-01T00:{:02}:{:02}.000Z", second / 60, second % 60));
        self.records.push(Record { sequence, time, event });
        sequence
    }

    fn intent(&mut self, second: u32) -> u64 {
        self.record(second, Event::new(Kind::Intent))
    }

    fn outcome(&mut self, second: u32, of: u64, revision: u64) -> u64 {
        self.record(second, Event { of, revision, status: 204, ..Event::new(Kind::Outcome) })
    }

    /// A change that nothing runs beside.
    fn change(&mut self, second: u32, revision: u64) {
        let of = self.intent(second);
        self.outcome(second, of, revision);
    }

    fn refusal(&mut self, second: u32) {
        self.record(second, Event::new(Kind::Refusal));
    }

    fn export(&self, from: u64, to: u64) -> String {
        let mut hashes = vec![[0; 32]];
        for record in &self.records {
            hashes.push(record.hash(hashes.last().unwrap()));
        }
        let hash = |sequence: u64| hashes[usize::try_from(sequence).unwrap()];
        let mut text = header(self.id, &self.public(), from, &hash(from - 1));
        for record in &self.records[usize::try_from(from - 1).unwrap()..usize::try_from(to).unwrap()] {
            text += &record.line(&hash(record.sequence));
        }
        let (last, time, device) = (self.records.len() as u64, "2026-01-01T01:00:00.000Z".into(), self.id.into());
        let end = Checkpoint { sequence: to, hash: hash(to), first: 1, last, time, device, ends: Ends::Export };
        text + &end.line(self.key.sign(&end.message()).as_ref().try_into().unwrap())
    }

    fn all(&self) -> String {
        self.export(1, self.records.len() as u64)
    }
}

/// The merged records as `device sequence`, and the remarks.
fn merged(texts: &[String]) -> Result<(Vec<String>, Vec<String>), MergeError> {
    let open = |text: &'static [u8]| -> Opener<'static> { Box::new(move || Ok(Box::new(text) as Box<dyn BufRead>)) };
    let logs = (1..)
        .zip(texts)
        .map(|(number, text)| Log { name: format!("log{number}"), open: open(text.clone().leak().as_bytes()) });
    let mut out = Vec::new();
    let remarks = merge(&logs.collect::<Vec<_>>(), &[], &mut out)?;
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        format!("{} {}", line["device"].as_str().unwrap(), line["sequence"])
    };
    Ok((String::from_utf8(out).unwrap().lines().map(line).collect(), remarks))
}

fn contradiction(texts: &[String]) -> String {
    match merged(texts) {
        Err(MergeError::Broken(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn revisions_beat_the_clock_and_records_without_one_stay_with_their_own_node() {
    let (mut a, mut b) = (Device::new("A"), Device::new("B"));
    a.change(100, 10); // 1, 2
    a.refusal(101); // 3
    a.change(102, 30); // 4, 5
    // Its clock is 40 minutes ahead.
    b.refusal(2_490); // 1
    b.change(2_500, 20); // 2, 3
    b.refusal(2_501); // 4
    b.change(2_502, 40); // 5, 6
    let expected = ["A 1", "A 2", "A 3", "A 4", "B 1", "B 2", "B 3", "A 5", "B 4", "B 5", "B 6"];
    let (order, remarks) = merged(&[a.all(), b.all()]).unwrap();
    assert_eq!(order, expected);
    assert_eq!(merged(&[b.all(), a.all()]).unwrap().0, expected, "the order of the files makes no difference");
    assert!(remarks.iter().any(|one| one.starts_with("4 of 11 records have a revision")), "{remarks:?}");
    assert!(!remarks.iter().any(|one| one.contains("it is not known") || one.contains("stand behind")), "{remarks:?}");
}

#[test]
fn without_revisions_the_clocks_decide_and_that_is_said() {
    let (mut a, mut b) = (Device::new("A"), Device::new("B"));
    [1, 4, 5].into_iter().for_each(|second| a.refusal(second));
    [2, 3, 6].into_iter().for_each(|second| b.refusal(second));
    let (order, remarks) = merged(&[a.all(), b.all()]).unwrap();
    assert_eq!(order, ["A 1", "B 1", "B 2", "A 2", "A 3", "B 3"]);
    assert!(
        remarks.iter().any(|one| one == "No record of device B has a revision: only its clock tells when they were.")
    );
    assert!(remarks.iter().any(|one| one.starts_with("0 of 6 records have a revision")), "{remarks:?}");
}

#[test]
fn changes_that_ran_at_the_same_time_are_no_contradiction() {
    let (mut a, mut b) = (Device::new("A"), Device::new("B"));
    let (slow, quick) = (a.intent(1), a.intent(2));
    a.outcome(3, quick, 12);
    a.outcome(4, slow, 10);
    b.change(1, 11);
    let (order, remarks) = merged(&[a.all(), b.all()]).unwrap();
    let at = |wanted: &str| order.iter().position(|one| one == wanted).unwrap();
    assert!(at("B 2") < at("A 3") && at("A 3") < at("A 4"), "{order:?}");
    assert!(remarks.iter().any(|one| one.starts_with("1 changes stand behind later ones")), "{remarks:?}");
}

#[test]
fn a_store_that_went_back_is_a_contradiction() {
    let mut a = Device::new("A");
    a.change(1, 50);
    a.change(2, 60);
    a.refusal(3);
    a.change(4, 55);
    let why = contradiction(&[a.all()]);
    assert!(
        why.starts_with(
            "the log of device A contradicts the store: the change in record 7 began after the one in record 4"
        ),
        "{why}"
    );
    // The same revision again is one too many, as nothing was committed together with what came before.
    let mut a = Device::new("A");
    a.change(1, 50);
    a.change(2, 50);
    assert!(contradiction(&[a.all()]).contains("record 4 began after the one in record 2"));
    // Together they may have it.
    let mut a = Device::new("A");
    let (one, other) = (a.intent(1), a.intent(1));
    a.outcome(2, one, 50);
    a.outcome(2, other, 50);
    merged(&[a.all()]).unwrap();
}

#[test]
fn a_revision_that_two_nodes_claim_is_a_contradiction() {
    let (mut a, mut b) = (Device::new("A"), Device::new("B"));
    a.change(1, 7);
    b.refusal(1);
    b.change(1, 7);
    let why = contradiction(&[b.all(), a.all()]);
    assert!(why.starts_with("record 2 of device A and record 3 of device B both claim revision 7"), "{why}");
}

#[test]
fn a_log_may_come_in_parts_but_only_of_one_history() {
    let (mut a, mut b) = (Device::new("A"), Device::new("B"));
    (1..=6).for_each(|n| a.change(n, u64::from(n) * 10));
    b.change(1, 35);
    // Record 6 has revision 30; its intent is in the first part.
    let (first, second) = (a.export(1, 5), a.export(6, 12));
    let (order, remarks) = merged(&[second.clone(), b.all(), first.clone()]).unwrap();
    assert_eq!(order, merged(&[a.all(), b.all()]).unwrap().0);
    assert!(!remarks.iter().any(|one| one.contains("not known")), "{remarks:?}");
    assert!(
        remarks[0].ends_with("Records 1 to 5 of device A are in order and unaltered; its log held 1 to 12."),
        "{remarks:?}"
    );

    let (_, remarks) = merged(&[a.export(1, 3), a.export(8, 12)]).unwrap();
    assert!(remarks.contains(&"Records 4 to 7 of device A are in no file.".to_owned()), "{remarks:?}");
    assert!(
        matches!(merged(&[a.all(), second.clone()]), Err(MergeError::Twice(why)) if why.contains("record 6 of device A"))
    );

    let mut copy = Device::new("A");
    (1..=4).for_each(|n| copy.change(n, u64::from(n) * 11));
    assert!(contradiction(&[copy.export(1, 5), second]).contains("device A has two histories"));
    let mut other_key = Device::new("A");
    other_key.key = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    (1..=6).for_each(|n| other_key.change(n, u64::from(n) * 10));
    assert!(contradiction(&[first, other_key.export(6, 12)]).contains("device A has two histories"));
}

#[test]
fn changes_of_unknown_outcome_are_counted() {
    let mut a = Device::new("A");
    a.intent(1);
    let lost = a.intent(2);
    a.record(3, Event { of: lost, status: 503, ..Event::new(Kind::Outcome) });
    let made = a.intent(4);
    a.record(5, Event { of: made, status: 503, revision: 8, ..Event::new(Kind::Outcome) });
    let (_, remarks) = merged(&[a.all()]).unwrap();
    assert!(remarks.iter().any(|one| one.starts_with("Of 2 changes it is not known")), "{remarks:?}");
}

#[test]
fn an_altered_log_is_refused_by_its_name_before_anything_is_written() {
    let (mut a, mut b) = (Device::new("A"), Device::new("B"));
    a.change(1, 1);
    b.change(1, 2);
    let altered = b.all().replace("\"revision\":2", "\"revision\":3");
    let logs = [a.all(), altered.clone()].map(String::leak);
    let logs = [("a.jsonl", &*logs[0]), ("b.jsonl", &*logs[1])].map(|(name, text)| Log {
        name: name.into(),
        open: Box::new(move || Ok(Box::new(text.as_bytes()) as Box<dyn BufRead>)),
    });
    let mut out = Vec::new();
    let why = merge(&logs, &[], &mut out).unwrap_err().to_string();
    assert!(why.starts_with("b.jsonl: record 2 was altered"), "{why}");
    assert!(out.is_empty());
    let why = merge(&logs[..1], &[b.public()], &mut out).unwrap_err().to_string();
    assert!(why.starts_with("a.jsonl: line 1 has another key"), "{why}");
}

proptest! {
    /// A store that nodes change in some order, each with a clock of its own and with changes that overlap.
    #[test]
    fn changes_come_in_the_order_of_the_store(
        steps in prop::collection::vec((0usize..3, 0u32..4, 0u32..600), 1..60),
    ) {
        let mut devices = ["A", "B", "C"].map(Device::new);
        let mut running: [Vec<(u64, u64)>; 3] = Default::default();
        let mut revision = 0;
        for (node, what, second) in steps {
            let device = &mut devices[node];
            match what {
                0 => device.refusal(second),
                // A change is committed, and its outcome follows later.
                1 | 2 => {
                    let of = device.intent(second);
                    revision += 1;
                    running[node].push((of, revision));
                }
                _ => {
                    // The newest first: as far out of order as can be.
                    if let Some((of, revision)) = running[node].pop() {
                        device.outcome(second, of, revision);
                    }
                }
            }
        }
        let texts: Vec<String> = devices.iter().filter(|device| !device.records.is_empty()).map(Device::all).collect();
        let (order, _) = merged(&texts).unwrap();
        prop_assert_eq!(order.len(), devices.iter().map(|device| device.records.len()).sum::<usize>());
        let mut placed = [0; 3];
        let mut highest = 0;
        for one in order {
            let (node, sequence) = one.split_once(' ').unwrap();
            let (node, sequence) = (["A", "B", "C"].iter().position(|id| *id == node).unwrap(), sequence.parse::<usize>().unwrap());
            placed[node] += 1;
            prop_assert_eq!(placed[node], sequence, "the records of a node stay in their order");
            let revision = devices[node].records[sequence - 1].event.revision;
            let before = devices[node].records[..sequence].iter().map(|record| record.event.revision).max().unwrap();
            if revision > 0 && before == revision {
                prop_assert!(highest < revision, "a change that is not late stands where the store has it");
            }
            highest = highest.max(revision);
        }
    }
}

#[test]
fn a_node_cannot_write_the_log_of_another_one() {
    let (mut a, mut b) = (Device::new("A"), Device::new("B"));
    a.change(1, 10);
    b.change(2, 11);
    let forged = Device { id: "B", key: Ed25519KeyPair::from_seed_unchecked(&[b'A'; 32]).unwrap(), records: b.records };
    let refused = merged(&[a.all(), forged.all()]);
    assert!(matches!(&refused, Err(MergeError::Broken(why)) if why.contains("key of device A")), "{refused:?}");
    // Nor leave its own log out.
    let (text, keys): (&'static str, _) = (forged.all().leak(), [a.public(), Device::new("B").public()]);
    let open: Opener<'_> = Box::new(|| Ok(Box::new(text.as_bytes()) as Box<dyn BufRead>));
    let refused = merge(&[Log { name: "b".into(), open }], &keys, &mut Vec::new());
    assert!(matches!(&refused, Err(MergeError::Broken(why)) if why.contains("no log")), "{refused:?}");
}

#[test]
fn a_log_with_what_no_device_writes_is_refused() {
    let mut a = Device::new("A");
    a.record(1, Event { target: "key \u{202e}k".into(), ..Event::new(Kind::Refusal) });
    assert!(matches!(merged(&[a.all()]), Err(MergeError::Broken(_))));
}
