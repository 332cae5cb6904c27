//! The load of `cargo xtask bench pkcs11`, which starts it on a core of its own beside a server with data for it:
//!
//! - `signatures ADDRESS PIN WINDOWS MILLISECONDS`: how many a second the module makes, the client on its own, and SoftHSM2;
//! - `start`: how long it takes until there is a session;
//! - `keys ADDRESS PIN FINDS`: searches among many keys.
//!
//! The module finds its configuration by `CASEMATE_PKCS11_CONFIG`, SoftHSM2 by `SOFTHSM2_CONF`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failure ends the benchmark")]
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures and prints")]

mod keys;
mod signatures;

use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs};

use casemate_api::{Passphrase, UserId};
use casemate_client::{Client, Session as Server, Settings, Trust};
use casemate_testkit::fingerprint;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["signatures", address, pin, windows, milliseconds] => {
            let window = Duration::from_millis(milliseconds.parse().unwrap());
            signatures::measure(address, pin, windows.parse().unwrap(), window);
        }
        ["start"] => start(),
        ["keys", address, pin, finds] => keys::measure(address, pin, finds.parse().unwrap()),
        other => panic!("not the arguments of this program: {other:?}"),
    }
}

/// The module, which cargo builds beside this program's folder.
fn module() -> Pkcs11 {
    let folder = env::current_exe().unwrap().parent().unwrap().to_owned();
    loaded(&folder.with_file_name("libcasemate_pkcs11.so"))
}

fn loaded(path: &PathBuf) -> Pkcs11 {
    let module = Pkcs11::new(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    module
}

/// A session of the first slot, logged in.
fn logged_in(module: &Pkcs11, pin: &str) -> (Slot, Session) {
    let slot = *module.get_slots_with_token().unwrap().first().unwrap();
    let session = module.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::new(pin.into()))).unwrap();
    (slot, session)
}

/// The Operator of the benchmark, without the module.
fn client(address: &str, pin: &str) -> Server {
    let trust = Trust::Pinned(vec![fingerprint(address)]);
    let client = Client::new(Settings { trust, ..Settings::of([address.to_owned()]) }).unwrap();
    client.log_in(&UserId::parse("operator").unwrap(), Passphrase::from_text(pin.into()))
}

/// From nothing to a session, which asks the server nothing.
fn start() {
    let begun = Instant::now();
    let module = module();
    let initialized = begun.elapsed();
    let slot = *module.get_slots_with_token().unwrap().first().unwrap();
    let begun = Instant::now();
    let session = module.open_rw_session(slot).unwrap();
    println!("| loading and `C_Initialize`; `C_OpenSession` | {initialized:.1?}; {:.1?} |", begun.elapsed());
    drop(session);
}

/// The median, and nine of ten are at most so long.
fn median(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |tenth: usize| times.get(times.len() * tenth / 10).copied().unwrap_or_default();
    (at(5), at(9))
}

/// Resident memory of this process, in KiB.
fn rss_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
