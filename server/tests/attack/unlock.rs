//! Clients without credentials that try to keep the owner from unlocking.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::daemon::{Daemon, Folder, UNLOCK};
use crate::from::{HONEST, address, connect, request};
use crate::wire::Wire;

#[test]
fn a_hundred_addresses_that_guess_do_not_keep_the_owner_from_unlocking() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder);
    daemon.client().provision().unwrap().expect(204);
    daemon.kill();
    let daemon = Daemon::start(&folder);
    // `None`: the server is gone.
    let unlock = |wire: &mut Wire, passphrase: &str| {
        let body = format!("{{\"passphrase\":\"{passphrase}\"}}");
        wire.send(request("POST", "/unlock", None, Some(&body)).as_bytes());
        wire.try_reply("POST").ok().map(|reply| reply.status)
    };
    let statuses = thread::scope(|scope| {
        for n in 0..100 {
            let daemon = &daemon;
            scope.spawn(move || {
                let mut wire = connect(daemon, address(n));
                // After the correct one there is nothing left to guess.
                while unlock(&mut wire, "not the passphrase").is_some_and(|status| status != 412) {
                    thread::sleep(Duration::from_millis(50));
                }
            });
        }
        thread::sleep(Duration::from_secs(3));
        let mut wire = connect(&daemon, HONEST);
        let mut statuses = vec![unlock(&mut wire, UNLOCK)];
        if statuses != [Some(204)] {
            thread::sleep(Duration::from_millis(1_100));
            statuses.push(unlock(&mut wire, UNLOCK));
        }
        // The rest of the queue is not awaited.
        daemon.signal(Signal::KILL);
        statuses
    });
    assert_eq!(statuses.last(), Some(&Some(204)), "{statuses:?}");
}
