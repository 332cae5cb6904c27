//! Guesses at the passphrase of a user who has just logged in, while the queue of hashes is full.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::daemon::{ADMIN, Daemon, Folder};
use crate::from::{HONEST, address, connect, request};
use crate::wire::Wire;

/// More clients than the queue of hashes has room for.
const CLIENTS: usize = 80;
const LENGTH: Duration = Duration::from_secs(5);

#[test]
fn one_address_gets_one_verdict_a_second_however_full_the_queue_is() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder);
    daemon.client().provision().unwrap().expect(204);
    let right = format!("admin:{ADMIN}");
    // `None`: the server is gone.
    let ask = |wire: &mut Wire, login: &str| {
        wire.send(request("GET", "/keys", Some(login), None).as_bytes());
        wire.try_reply("GET").ok().map(|reply| reply.status)
    };
    // Now the credentials are known.
    assert_eq!(ask(&mut connect(&daemon, HONEST), &right), Some(200));
    let (names, full) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (mut let_in, mut guesses, mut took) = (0, Vec::new(), Duration::ZERO);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut wire = connect(&daemon, address(0));
                loop {
                    let name = format!("n{}:not the passphrase", names.fetch_add(1, Ordering::Relaxed));
                    let Some(status) = ask(&mut wire, &name) else { return };
                    full.fetch_add(usize::from(status == 503), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
        let mut wire = connect(&daemon, address(0));
        thread::sleep(Duration::from_secs(1));
        let begun = Instant::now();
        while begun.elapsed() < LENGTH {
            // A verdict may have to wait for its turn; this client does not wait for it.
            let mut guess = connect(&daemon, address(0));
            let wrong = format!("admin:guess number {}", guesses.len());
            guess.send(request("GET", "/keys", Some(&wrong), None).as_bytes());
            guesses.push(guess);
            thread::sleep(Duration::from_millis(20));
            // A client let in now would have been let in without the wrong guess as well: its verdict had no effect.
            let_in += usize::from(ask(&mut wire, &right) == Some(200));
        }
        took = begun.elapsed();
        // The rest of the queue is not awaited.
        daemon.signal(Signal::KILL);
    });
    let allowed = usize::try_from(took.as_secs()).unwrap() + 1;
    println!("{} guesses in {took:?}: {let_in} let in; {full:?} logins found the queue full", guesses.len());
    assert!(full.into_inner() > 0, "the queue was full");
    assert!(let_in <= allowed, "{let_in} of {}, at most {allowed}", guesses.len());
}
