//! Concurrent requests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::rig::{Rig, ed25519, sign_something};

/// Runs `count` threads and collects what they return.
fn at_once<T: Send>(count: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = std::sync::Barrier::new(count);
    thread::scope(|scope| {
        let start = |number| {
            let (job, barrier) = (&job, &barrier);
            scope.spawn(move || {
                barrier.wait();
                job(number)
            })
        };
        let threads: Vec<_> = (0..count).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Every call of the store lets others go first, as a disk would.
fn slow_store(rig: &Rig) {
    rig.sim.store.delay(|| Box::pin(tokio::task::yield_now()));
}

#[test]
fn of_many_concurrent_creations_of_a_key_exactly_one_succeeds() {
    let rig = Rig::operational();
    rig.admin().get("/keys").is(200);
    slow_store(&rig);
    let statuses = at_once(64, |_| rig.admin().put("/keys/same", ed25519()).status);
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((count(204), count(400)), (1, 63), "{statuses:?}");
}

#[test]
fn of_many_concurrent_creations_of_a_user_or_a_namespace_exactly_one_succeeds() {
    let rig = Rig::operational();
    rig.admin().get("/keys").is(200);
    slow_store(&rig);
    let body = serde_json::json!({"realName": "", "role": "Operator", "passphrase": "0123456789"});
    let mut statuses = at_once(4, |_| rig.admin().put("/users/same", body.clone()).status);
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409]);
    let mut statuses = at_once(4, |_| rig.admin().put("/namespaces/same", "").status);
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 400, 400, 400]);
}

#[test]
fn no_tag_is_lost_when_many_add_one() {
    let rig = Rig::operational();
    rig.admin().get("/keys").is(200);
    slow_store(&rig);
    let wanted: BTreeSet<_> = (0..12).map(|n| format!("tag{n}")).collect();
    for (path, list) in [("/users/operator/tags", None), ("/keys/k/restrictions/tags", Some("/keys/k"))] {
        at_once(12, |n| rig.admin().put(&format!("{path}/tag{n}"), "").is(204));
        let found = match list {
            None => rig.admin().get(path).is(200).json(),
            Some(list) => rig.admin().get(list).is(200).json()["restrictions"]["tags"].clone(),
        };
        let found: BTreeSet<_> = found.as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect();
        assert_eq!(found, wanted, "{path}");
    }
}

#[test]
fn of_many_concurrent_moves_to_one_id_exactly_one_succeeds_and_no_key_is_lost() {
    let rig = Rig::operational();
    (0..8).for_each(|n| _ = rig.admin().put(&format!("/keys/from{n}"), ed25519()).is(204));
    slow_store(&rig);
    let to = serde_json::json!({"newId": "to"});
    let statuses = at_once(8, |n| rig.admin().post(&format!("/keys/from{n}/move"), to.clone()).status);
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((count(200), count(409)), (1, 7), "{statuses:?}");
    assert_eq!(rig.admin().get("/keys").json().as_array().unwrap().len(), 9, "with the key of the world");
}

#[test]
fn no_key_outlives_a_namespace_that_is_deleted_while_keys_are_created() {
    let rig = Rig::operational();
    rig.user("ns1~admin").get("/keys").is(200);
    rig.admin().get("/keys").is(200);
    slow_store(&rig);
    let (deleted, began) = (AtomicBool::new(false), Arc::new(std::sync::Barrier::new(5)));
    let created = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let (rig, deleted, began) = (&rig, &deleted, began.clone());
                scope.spawn(move || {
                    let mut created = 0;
                    for n in 0.. {
                        let over = deleted.load(Ordering::SeqCst);
                        let reply = rig.user("ns1~admin").put(&format!("/keys/{thread}-{n}"), ed25519());
                        match reply.status {
                            204 => created += 1,
                            // The namespace was deleted between the gate and the write, or before.
                            403 | 503 => {}
                            _ => panic!("{reply}"),
                        }
                        if n == 5 {
                            began.wait();
                        }
                        if over {
                            assert_eq!(reply.status, 403, "{reply}");
                            return created;
                        }
                    }
                    unreachable!("somebody deletes the namespace")
                })
            })
            .collect();
        began.wait();
        rig.admin().delete("/namespaces/ns1").is(204);
        deleted.store(true, Ordering::SeqCst);
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert!(created >= 24, "{created} keys were created before");
    rig.admin().put("/namespaces/ns1", "").is(204);
    assert_eq!(rig.user("ns1~admin").get("/keys").is(200).text(), "[]");
    rig.user("ns1~admin").get("/keys/0-0").is(404);
    // Nor do their rows: table 3 or 4, and a namespace other than the root.
    let left = rig.sim.store.raw_rows().into_iter().filter(|(path, _)| {
        let path = path.as_bytes();
        matches!(path.get(5), Some(3 | 4)) && path.get(6..10) != Some(&[0; 4])
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn locking_in_a_storm_of_signatures_answers_all_of_them() {
    let rig = Rig::operational();
    rig.operator().get("/keys").is(200);
    rig.admin().get("/keys").is(200);
    let op = Arc::downgrade(&rig.hsm.operational().unwrap());
    let locked = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let over = locked.load(Ordering::SeqCst);
                    let reply = rig.operator().post("/keys/k/sign", sign_something());
                    assert!(reply.status == 412 || reply.status == 200, "{reply}");
                    if over {
                        return assert_eq!(reply.status, 412, "{reply}");
                    }
                }
            });
        }
        thread::yield_now();
        rig.admin().post("/lock", "").is(204);
        assert_eq!(op.strong_count(), 0);
        locked.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_user_who_is_deleted_among_others_is_refused_from_then_on() {
    let rig = Rig::operational();
    rig.admin().get("/keys").is(200);
    rig.operator().get("/keys").is(200);
    let deleted = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let over = deleted.load(Ordering::SeqCst);
                    let status = rig.operator().get("/keys").status;
                    assert!([200, 401, 429].contains(&status), "{status}");
                    if over {
                        return assert_ne!(status, 200);
                    }
                }
            });
        }
        rig.admin().delete("/users/operator").is(204);
        deleted.store(true, Ordering::SeqCst);
    });
}
