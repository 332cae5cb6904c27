//! The checker is checked: short histories that the product allows, others that it must never produce, and real histories in
//! which one thing is made wrong.

use std::time::Duration;

use super::cluster::{NODES, lock};
use super::history::{History, Namespace, Record, Track, calls};
use super::key::{BLUE, Id, Key, KeyOp, RED, Stored};
use super::linear::{Call, Object};
use super::user::{Account, User, UserOp};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A call at the first node between these milliseconds, with its answer.
fn told<Op>(invoked: u64, answered: u64, op: Op) -> Record<Op> {
    Record { op, node: 0, process: 0, invoked: ms(invoked), answered: ms(answered), told: true, cached: false }
}

/// The same with an unknown outcome.
fn unknown<Op>(invoked: u64, answered: u64, op: Op) -> Record<Op> {
    Record { told: false, ..told(invoked, answered, op) }
}

/// The same at another node.
fn at<Op>(node: usize, record: Record<Op>) -> Record<Op> {
    Record { node, ..record }
}

/// A key with this number and these tags.
fn key(number: u32, tags: u8) -> Stored {
    Stored { number, tags }
}

fn create(id: Id, number: u32) -> KeyOp {
    KeyOp::Create(id, key(number, 0))
}

fn shown(id: Id, number: u32) -> KeyOp {
    KeyOp::Shown(id, key(number, 0))
}

fn create_user(number: u32, passphrase: u32) -> UserOp {
    UserOp::Create(Account { number, passphrase })
}

/// Whether `records` have an explanation. Every node was opened at the beginning; the first one again at these milliseconds.
fn is_explained<O: Object>(records: Vec<Record<O::Op>>, cached: fn(&O::Op) -> bool, again: &[u64]) -> bool {
    let mut opened = vec![vec![Duration::ZERO]; NODES];
    opened[0].extend(again.iter().copied().map(ms));
    let track = Track::<O>::new("planted");
    let records = records.into_iter().map(|record| Record { cached: cached(&record.op), ..record });
    lock(&track.records).extend(records);
    track.check(&opened).is_ok()
}

fn key_is_explained(records: &[Record<KeyOp>], again: &[u64]) -> bool {
    let records = std::iter::once(told(0, 0, KeyOp::CreateNamespace)).chain(records.iter().copied());
    is_explained::<Key>(records.collect(), |op| op.may_be_cached(Namespace::Stays), again)
}

fn user_is_explained(records: &[Record<UserOp>]) -> bool {
    is_explained::<User>(records.to_vec(), UserOp::may_be_cached, &[])
}

#[test]
fn what_the_product_promises_of_keys_is_accepted() {
    use KeyOp::*;
    let created = told(10, 20, create(0, 1));
    let good: &[(&str, &[Record<KeyOp>])] = &[
        (
            "one after the other",
            &[created, told(30, 40, shown(0, 1)), told(50, 60, Delete(0)), told(70, 80, Missing(0))],
        ),
        (
            "at the same time, in either order",
            &[created, told(15, 30, Missing(0)), told(12, 18, Listed([true, false]))],
        ),
        ("two creators, of whom one is refused", &[told(10, 30, create(0, 1)), at(1, told(20, 40, Taken(0)))]),
        (
            "a read from a cache of 999 ms before",
            &[created, at(1, told(30, 40, Delete(0))), at(2, told(1_039, 1_050, shown(0, 1)))],
        ),
        (
            "a signature from a cache, after the key was replaced",
            &[
                created,
                at(1, told(30, 40, Delete(0))),
                at(1, told(50, 60, create(0, 2))),
                at(2, told(500, 510, Signed(0, 1))),
                at(2, told(520, 530, Signed(0, 2))),
            ],
        ),
        (
            "a read from a cache while the node's own change runs",
            &[created, told(30, 100, Delete(0)), told(50, 60, shown(0, 1))],
        ),
        (
            "an unknown creation that is seen late",
            &[unknown(10, 20, create(0, 1)), told(30, 40, Missing(0)), told(50, 60, shown(0, 1))],
        ),
        ("an unknown creation that never was", &[unknown(10, 20, create(0, 1)), told(30, 40, Missing(0))]),
        (
            "an unknown deletion that hits another key",
            &[
                created,
                unknown(30, 40, Delete(0)),
                told(50, 60, Delete(0)),
                told(70, 80, create(0, 2)),
                told(90, 95, Missing(0)),
            ],
        ),
        (
            "a renaming",
            &[
                created,
                told(30, 40, Rename(0)),
                told(50, 60, shown(1, 1)),
                told(50, 60, Missing(0)),
                told(70, 80, create(0, 2)),
                told(90, 95, Taken(0)),
            ],
        ),
        (
            "tags",
            &[
                told(10, 20, Create(0, key(1, BLUE))),
                told(30, 40, Restricted(0)),
                told(50, 60, Tag(0, RED)),
                told(70, 80, Signed(0, 1)),
                told(85, 90, HasTag(0, RED)),
                told(92, 95, Untag(0, BLUE)),
                told(96, 99, HasNoTag(0, BLUE)),
                told(100, 101, Shown(0, key(1, RED))),
            ],
        ),
        (
            "a namespace",
            &[
                created,
                told(30, 40, DeleteNamespace),
                told(50, 60, NamespaceMissing),
                told(70, 80, CreateNamespace),
                told(85, 90, NamespaceExists),
                told(92, 95, Missing(0)),
            ],
        ),
    ];
    for (what, records) in good {
        assert!(key_is_explained(records, &[]), "{what} is refused");
    }
    // The node was opened again after the call was sent: the change may have been made before.
    let before = [unknown(10, 20, create(0, 1)), told(30, 40, Missing(0)), told(90, 95, shown(0, 1))];
    assert!(key_is_explained(&before, &[60]));
}

#[test]
fn what_the_product_promises_of_users_is_accepted() {
    use UserOp::*;
    let created = told(10, 20, create_user(1, 1));
    let good: &[(&str, &[Record<UserOp>])] = &[
        (
            "a life",
            &[
                created,
                told(30, 40, LoggedIn(1)),
                told(50, 60, SetPassphrase(2)),
                told(70, 80, Refused(1)),
                told(85, 90, ChangePassphrase { from: 2, to: 3 }),
                told(92, 95, LoggedIn(3)),
                told(96, 97, Delete),
                told(98, 99, Missing),
                told(100, 101, Refused(3)),
            ],
        ),
        (
            "a login from a cache",
            &[created, at(1, told(30, 40, SetPassphrase(2))), at(2, told(1_039, 1_050, LoggedIn(1)))],
        ),
    ];
    for (what, records) in good {
        assert!(user_is_explained(records), "{what} is refused");
    }
}

#[test]
fn what_the_product_must_not_do_to_a_key_is_found() {
    use KeyOp::*;
    let created = told(10, 20, create(0, 1));
    let bad: &[(&str, &[Record<KeyOp>])] = &[
        ("a lost creation", &[created, told(30, 40, Missing(0))]),
        ("a creation that a list has lost", &[created, at(1, told(30, 40, Listed([false, false])))]),
        ("a lost tag", &[created, told(30, 40, Tag(0, RED)), told(50, 60, HasNoTag(0, RED))]),
        ("a lost restriction", &[created, at(1, told(30, 40, Tag(0, BLUE))), at(2, told(1_041, 1_050, Signed(0, 1)))]),
        (
            "a key that comes back",
            &[created, told(30, 40, Delete(0)), told(50, 60, Missing(0)), told(70, 80, Taken(0))],
        ),
        ("two creators of one id", &[told(10, 30, create(0, 1)), at(1, told(20, 40, create(0, 2)))]),
        ("two deletions of one key", &[created, told(30, 60, Delete(0)), at(1, told(40, 50, Delete(0)))]),
        (
            "a read from a cache of more than a second before",
            &[created, at(1, told(30, 40, Delete(0))), at(2, told(1_041, 1_050, shown(0, 1)))],
        ),
        (
            "a signature of a key that was replaced more than a second before",
            &[
                created,
                at(1, told(30, 40, Delete(0))),
                at(1, told(50, 60, create(0, 2))),
                at(2, told(1_045, 1_050, Signed(0, 1))),
            ],
        ),
        ("a node that does not see its own change", &[created, told(30, 40, Delete(0)), told(50, 60, shown(0, 1))]),
        (
            "a refusal from a cache",
            &[
                told(10, 20, Create(0, key(1, BLUE))),
                at(1, told(30, 40, Tag(0, RED))),
                at(2, told(50, 60, Restricted(0))),
            ],
        ),
        ("an absence from a cache", &[created, at(1, told(30, 40, Missing(0)))]),
        ("a key that nobody asked for", &[created, told(30, 40, shown(0, 2))]),
        (
            "two reads that see a change in opposite orders",
            &[
                told(10, 100, create(0, 1)),
                at(1, told(20, 30, Listed([true, false]))),
                at(2, told(40, 50, Listed([false, false]))),
            ],
        ),
        (
            "an unknown creation that takes effect twice",
            &[unknown(10, 20, create(0, 1)), told(30, 40, Taken(0)), told(50, 60, Delete(0)), told(70, 80, Taken(0))],
        ),
        ("a renaming of which a key is left", &[created, told(30, 40, Rename(0)), told(50, 60, Taken(0))]),
        ("a renaming that loses the key", &[created, told(30, 40, Rename(0)), told(50, 60, Listed([false, false]))]),
        ("a renaming over another key", &[created, told(30, 40, create(1, 2)), told(50, 60, Rename(0))]),
        (
            "a key that outlives its namespace",
            &[created, told(30, 40, DeleteNamespace), told(50, 60, CreateNamespace), told(70, 80, Taken(0))],
        ),
        ("a key without a namespace", &[told(10, 20, DeleteNamespace), told(30, 40, create(0, 1))]),
    ];
    for (what, records) in bad {
        assert!(!key_is_explained(records, &[]), "{what} is accepted");
    }
    let late = [unknown(10, 20, create(0, 1)), told(70, 80, Missing(0)), told(90, 95, Taken(0))];
    assert!(key_is_explained(&late, &[]));
    assert!(!key_is_explained(&late, &[60]), "a change that is made after its node was opened again is accepted");
}

#[test]
fn what_the_product_must_not_do_to_a_user_is_found() {
    use UserOp::*;
    let created = told(10, 20, create_user(1, 1));
    let bad: &[(&str, &[Record<UserOp>])] = &[
        ("a lost creation", &[created, told(30, 40, Missing)]),
        ("a lost deletion", &[created, told(30, 40, Delete), told(50, 60, Listed(true))]),
        ("a lost passphrase", &[created, told(30, 40, SetPassphrase(2)), told(50, 60, Refused(2))]),
        ("a refused login with the right passphrase", &[created, at(1, told(30, 40, Refused(1)))]),
        (
            "a login with a passphrase of more than a second before",
            &[created, at(1, told(30, 40, SetPassphrase(2))), at(2, told(1_041, 1_050, LoggedIn(1)))],
        ),
        (
            "a login of a user who was deleted more than a second before",
            &[created, at(1, told(30, 40, Delete)), at(2, told(1_041, 1_050, LoggedIn(1)))],
        ),
        (
            "a login with the old passphrase at the node that replaced it",
            &[created, told(30, 40, SetPassphrase(2)), told(50, 60, LoggedIn(1))],
        ),
        (
            "a passphrase that is replaced by who had the one before",
            &[created, told(30, 40, SetPassphrase(2)), at(1, told(50, 60, ChangePassphrase { from: 1, to: 3 }))],
        ),
        ("two creators of one user", &[told(10, 30, create_user(1, 1)), at(1, told(20, 40, create_user(2, 2)))]),
        ("a login with a passphrase that nobody gave", &[created, told(30, 40, LoggedIn(7))]),
        (
            "a refusal to create it, from a cache",
            &[created, at(1, told(30, 40, Delete)), at(2, told(800, 900, Exists))],
        ),
        ("a user of whom another is shown", &[created, at(1, told(30, 40, Shown(2)))]),
    ];
    for (what, records) in bad {
        assert!(!user_is_explained(records), "{what} is accepted");
    }
}

/// All histories that come of making one mistake in this one.
type Mistake<'a, Op> = dyn Fn(&[Record<Op>]) -> Vec<Vec<Record<Op>>> + 'a;

/// Makes one thing wrong in a real history at a time, at each object as often as there is an occasion up to a limit, and expects that
/// the checker finds it. At `looked` and after it every key that existed was shown. Returns how many mistakes were found.
pub(crate) fn mistakes_are_found(history: &History, opened: &[Vec<Duration>], looked: Duration) -> usize {
    let keys = |what: &str, mistake: &Mistake<'_, KeyOp>| {
        find(what, history.keys.iter().flat_map(|track| explained(track, opened, mistake)))
    };
    let users = |what: &str, mistake: &Mistake<'_, UserOp>| {
        find(what, history.users.iter().flat_map(|track| explained(track, opened, mistake)))
    };
    keys("a creation that is left out", &without_creation)
        + keys("a deletion that is left out", &|records| without_deletion(records, opened))
        + keys("a signature of a key after its end", &|records| late_signature(records, looked))
        + users("a passphrase that is left out", &without_passphrase)
}

fn find(what: &str, explained: impl Iterator<Item = bool>) -> usize {
    let count = explained.map(|explained| assert!(!explained, "{what} is accepted")).count();
    assert!(count > 0, "there was no occasion for {what}");
    count
}

/// How often each mistake is made in the history of one object.
const MISTAKES_MAX: usize = 5;

/// Whether the records of `track` are still explained, for each way to make this mistake in them.
fn explained<O: Object>(track: &Track<O>, opened: &[Vec<Duration>], mistake: &Mistake<'_, O::Op>) -> Vec<bool> {
    let check = |records| {
        let track = Track::<O>::new(&track.name);
        *lock(&track.records) = records;
        track.check(opened).is_ok()
    };
    let wrong = mistake(&lock(&track.records));
    // The last ones are those of calls for which every run has an occasion.
    wrong.into_iter().rev().take(MISTAKES_MAX).map(check).collect()
}

/// The records without those at which `left_out` is true, one at a time.
fn without<Op: Copy>(records: &[Record<Op>], left_out: impl Fn(&Record<Op>) -> bool) -> Vec<Vec<Record<Op>>> {
    let one = |at: usize| [&records[..at], &records[at + 1..]].concat();
    (0..records.len()).filter(|at| records[*at].told && left_out(&records[*at])).map(one).collect()
}

/// Whether the answer of a call shows that there was a key of this number.
fn shows(op: &KeyOp, number: u32) -> bool {
    match op {
        KeyOp::Shown(_, key) => key.number == number,
        KeyOp::Signed(_, signed) => *signed == number,
        _ => false,
    }
}

fn without_creation(records: &[Record<KeyOp>]) -> Vec<Vec<Record<KeyOp>>> {
    without(records, |record| match record.op {
        KeyOp::Create(_, key) => records.iter().any(|other| shows(&other.op, key.number)),
        _ => false,
    })
}

fn without_passphrase(records: &[Record<UserOp>]) -> Vec<Vec<Record<UserOp>>> {
    without(records, |record| {
        let number = match record.op {
            UserOp::Create(account) => account.passphrase,
            UserOp::SetPassphrase(number) | UserOp::ChangePassphrase { to: number, .. } => number,
            _ => return false,
        };
        records.iter().any(|other| other.op == UserOp::LoggedIn(number))
    })
}

/// Deletions between two creations of one id, if nothing else can have made room for the second one.
fn without_deletion(records: &[Record<KeyOp>], opened: &[Vec<Duration>]) -> Vec<Vec<Record<KeyOp>>> {
    let calls = calls::<Key>(records, opened);
    without(records, |deletion| {
        let KeyOp::Delete(id) = deletion.op else { return false };
        let creates = |record: &&Record<KeyOp>| record.told && matches!(record.op, KeyOp::Create(at, _) if at == id);
        let before = records.iter().filter(creates).filter(|one| one.answered < deletion.invoked);
        let after = records.iter().filter(creates).filter(|one| one.invoked > deletion.answered);
        let Some(before) = before.max_by_key(|one| one.answered) else { return false };
        let Some(after) = after.min_by_key(|one| one.invoked) else { return false };
        let makes_room = |op: KeyOp| match op {
            KeyOp::Delete(at) | KeyOp::Rename(at) => at == id,
            KeyOp::DeleteNamespace => true,
            _ => false,
        };
        let between =
            |call: &&Call<KeyOp>| call.from <= after.answered && call.until.is_none_or(|until| until >= before.invoked);
        calls.iter().filter(between).filter(|call| makes_room(call.op)).count() == 1
    })
}

/// Signatures of keys that were not there any more at the moment `looked`, as if they had been made two seconds after the end.
fn late_signature(records: &[Record<KeyOp>], looked: Duration) -> Vec<Vec<Record<KeyOp>>> {
    let end = records.iter().map(|record| record.answered).max().unwrap_or_default();
    let gone = |number: u32| !records.iter().any(|record| record.answered >= looked && shows(&record.op, number));
    let late = |at: usize| {
        let mut records = records.to_vec();
        (records[at].invoked, records[at].answered) = (end + ms(2_000), end + ms(2_001));
        records
    };
    let is_gone = |at: &usize| matches!(records[*at].op, KeyOp::Signed(_, number) if gone(number));
    (0..records.len()).filter(is_gone).map(late).collect()
}
