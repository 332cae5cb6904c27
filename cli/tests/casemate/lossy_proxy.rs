//! A proxy in front of an HSM that loses one request, or one answer.
//!
//! It forwards bytes in both directions and counts the client's TLS records of application data (RFC 8446 §5.1), for
//! which it needs no key. After a given number of them it forwards nothing more and closes the connection. To lose a
//! request, it drops the next record. To lose an answer, it forwards that record and waits for the HSM's answer, so
//! that the request was certainly carried out, and drops the answer.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

const APPLICATION_DATA: u8 = 23;

/// What the proxy loses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lose {
    /// The HSM never sees the request.
    Request,
    /// The HSM carries the request out, and the client is not told.
    Answer,
}

/// The proxy.
pub(crate) struct LossyProxy {
    pub(crate) address: String,
    state: Arc<State>,
}

struct State {
    what: Lose,
    records: AtomicUsize,
    lose_after: AtomicUsize,
    lost: AtomicBool,
}

impl LossyProxy {
    /// Starts one in front of the HSM at this address. Its threads end with the process.
    pub(crate) fn in_front_of(hsm: &str, what: Lose) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            what,
            records: AtomicUsize::new(0),
            lose_after: AtomicUsize::new(usize::MAX),
            lost: AtomicBool::new(false),
        });
        let (of_threads, hsm) = (Arc::clone(&state), hsm.to_owned());
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&hsm).unwrap());
                let (up, down) = (Arc::clone(&of_threads), Arc::clone(&of_threads));
                let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || up.pass_up(from_client, to_server));
                thread::spawn(move || down.pass_down(server, client));
            }
        });
        Self { address, state }
    }

    /// How many records the client has sent since the count began.
    pub(crate) fn records(&self) -> usize {
        self.state.records.load(Ordering::SeqCst)
    }

    /// Restarts the count, and loses what comes after that many records.
    pub(crate) fn lose_after(&self, records: usize) {
        self.state.records.store(0, Ordering::SeqCst);
        self.state.lose_after.store(records, Ordering::SeqCst);
    }

    /// Whether it has lost something.
    pub(crate) fn has_lost(&self) -> bool {
        self.state.lost.load(Ordering::SeqCst)
    }
}

impl State {
    /// Whether to lose what is being forwarded: once, after the last record that goes through.
    fn loses_now(&self) -> bool {
        let late = self.records.load(Ordering::SeqCst) > self.lose_after.load(Ordering::SeqCst);
        late && !self.lost.swap(true, Ordering::SeqCst)
    }

    fn pass_up(&self, mut client: TcpStream, mut server: TcpStream) {
        let mut pass = || -> io::Result<()> {
            loop {
                let mut head = [0; 5];
                client.read_exact(&mut head)?;
                let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
                client.read_exact(&mut body)?;
                if head[0] == APPLICATION_DATA {
                    self.records.fetch_add(1, Ordering::SeqCst);
                }
                if self.what == Lose::Request && self.loses_now() {
                    return server.shutdown(Shutdown::Both);
                }
                server.write_all(&[&head[..], &body].concat())?;
            }
        };
        let _ = pass();
        let _ = server.shutdown(Shutdown::Write);
    }

    fn pass_down(&self, mut server: TcpStream, mut client: TcpStream) {
        let mut buffer = [0; 16 << 10];
        while let Ok(length @ 1..) = server.read(&mut buffer) {
            if self.what == Lose::Answer && self.loses_now() {
                break;
            }
            if client.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
    }
}
