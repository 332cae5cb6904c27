//! Rights that are withdrawn while a change is under way: a right must hold when the change is committed, not only when
//! it was checked.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::daemon::{ADMIN, Client, Daemon, Folder};

const PASSPHRASE: &str = "a passphrase of somebody";

fn administrator() -> serde_json::Value {
    json!({ "realName": "", "role": "Administrator", "passphrase": PASSPHRASE })
}

fn put_user(client: &Client, name: &str) -> u16 {
    client.call("PUT", &format!("/users/{name}"), Some(&administrator())).unwrap().status
}

fn delete_user(client: &Client, name: &str) -> u16 {
    client.call("DELETE", &format!("/users/{name}"), None).unwrap().status
}

fn set_passphrase(client: &Client, name: &str, passphrase: &str) -> u16 {
    let body = json!({ "passphrase": passphrase });
    client.call("POST", &format!("/users/{name}/passphrase"), Some(&body)).unwrap().status
}

/// Logs in once, so that the next call needs no hash.
fn logged_in(daemon: &Daemon, name: &str, passphrase: &str) -> Client {
    let client = daemon.client().log_in(name, passphrase).alone();
    client.call("GET", &format!("/users/{name}"), None).unwrap().expect(200);
    client
}

fn provisioned(folder: &Folder) -> (Daemon, Client) {
    let daemon = Daemon::start(folder);
    daemon.client().provision().unwrap().expect(204);
    let admin = logged_in(&daemon, "admin", ADMIN);
    (daemon, admin)
}

#[test]
fn a_waiting_change_of_a_deleted_user_is_refused() {
    let folder = Folder::new();
    let (daemon, admin) = provisioned(&folder);
    let mut refused = 0;
    for round in 0..4 {
        assert_eq!(put_user(&admin, "mallory"), 201);
        let mallory = logged_in(&daemon, "mallory", PASSPHRASE);
        let evil = format!("evil{round}");
        let begun = Instant::now();
        let (deleted_after, created, created_after) = thread::scope(|scope| {
            // It waits for the slow hash of evil's passphrase, about a tenth of a second.
            let creation = scope.spawn(|| (put_user(&mallory, &evil), begun.elapsed()));
            thread::sleep(Duration::from_millis(30));
            assert_eq!(delete_user(&admin, "mallory"), 204);
            let deleted_after = begun.elapsed();
            let (status, created_after) = creation.join().unwrap();
            (deleted_after, status, created_after)
        });
        let exists = admin.call("GET", &format!("/users/{evil}"), None).unwrap().status;
        match created {
            // On a busy machine it may have been carried out before mallory was deleted.
            201 => assert!(
                exists == 200 && created_after < deleted_after + Duration::from_millis(40),
                "mallory was deleted after {deleted_after:?}, and what she had begun was done after {created_after:?}"
            ),
            status => {
                assert_eq!((status, exists), (401, 404));
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "the deletion came in between at least once");
}

#[test]
fn a_thief_who_keeps_changing_the_passphrase_does_not_undo_a_reset() {
    let folder = Folder::new();
    let (daemon, admin) = provisioned(&folder);
    daemon.client().log_in("admin", ADMIN).create_operator("victim", PASSPHRASE);
    let mut known = PASSPHRASE.to_owned();
    for round in 0..6 {
        let thief = logged_in(&daemon, "victim", &known);
        let stolen = format!("the passphrase of the thief {round}");
        let reset = format!("the passphrase from the reset {round}");
        let changed = thread::scope(|scope| {
            let theft = scope.spawn(|| set_passphrase(&thief, "victim", &stolen));
            thread::sleep(Duration::from_millis(10));
            assert_eq!(set_passphrase(&admin, "victim", &reset), 204);
            theft.join().unwrap()
        });
        let victim = daemon.client().log_in("victim", &reset).call("GET", "/users/victim", None).unwrap().status;
        assert_eq!(victim, 200, "the reset was answered 204, so it holds; the thief was answered {changed}");
        known = reset;
    }
}

#[test]
fn of_two_administrators_who_delete_each_other_one_remains() {
    let folder = Folder::new();
    let (daemon, admin) = provisioned(&folder);
    for round in 0..8 {
        let [anna, bert] = ["anna", "bert"].map(|name| format!("{name}{round}"));
        [&anna, &bert].iter().for_each(|name| assert_eq!(put_user(&admin, name), 201));
        let clients = [&anna, &bert].map(|name| logged_in(&daemon, name, PASSPHRASE));
        let barrier = Barrier::new(2);
        let both = thread::scope(|scope| {
            let start = |client, other: String| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    delete_user(client, &other)
                })
            };
            [start(&clients[0], bert), start(&clients[1], anna)].map(|thread| thread.join().unwrap())
        });
        let mut sorted = both;
        sorted.sort_unstable();
        assert_eq!(sorted, [204, 401], "one of the two is left, and knows it");
    }
}
