//! Processes that end with the test.

use std::ffi::OsStr;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock};
use std::{env, io, thread};

use crate::net::Place;

/// A command that runs `program` at `place`, here if that is `None`, with an environment of `PATH` alone. Linux kills its process
/// when the thread that has started it ends; see [`spawn`].
pub(crate) fn mortal(program: impl AsRef<OsStr>, place: Option<&Place>) -> Command {
    let mut words: Vec<&OsStr> = Vec::new();
    if let Some(place) = place {
        words.extend(["ip", "netns", "exec", &place.namespace].map(OsStr::new));
    }
    words.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(OsStr::new));
    words.push(program.as_ref());
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
    command
}

/// Starts a command in a thread that lasts as long as the test process: the thread of a test ends before a process that
/// several tests share.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static ORDERS: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (reply, child) = mpsc::channel();
    orders.lock().unwrap().send((command, reply)).unwrap();
    child.recv().unwrap()
}
