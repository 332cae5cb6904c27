//! A short siege: every kind of hostile request, beside an honest client. `cargo xtask siege` runs a long one.

#[path = "../siege/mod.rs"]
mod laid;

use std::time::Duration;

use self::laid::Plan;
use crate::daemon::{Daemon, Folder};

#[test]
fn thousands_of_hostile_requests_neither_fail_an_honest_client_nor_take_the_server_down() {
    let folder = Folder::new();
    let daemon = Daemon::start_with(&folder, &["--log", "error"]);
    let server = daemon.address.parse().unwrap();
    laid::set_up(server).unwrap();
    let plan = Plan { server, pid: daemon.pid(), requests: 3_000, addresses: 16, limit: Duration::from_secs(10) };
    let report = laid::lay(&plan).unwrap();
    println!("{report}");
    assert!(report.faults().is_empty(), "{:#?}\n{report}", report.faults());
    assert!(report.rss_max_bytes > 0, "the memory was looked at");
    // A machine with much other work makes fewer of them in the given time.
    assert!(report.requests() >= 300, "{report}");
}
