//! Connections of an etcd that is killed to be started again are reset, so that the members at their other ends notice at once.
//!
//! Otherwise the kernel closes them in an orderly way. After a cut in which packets were lost, the other end has things to send again, and
//! it does that only after up to half a minute. Until then etcd there may wait for that connection (3.6 was seen to, for eight
//! seconds), while the new one stands.

use std::process::Child;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Numbers of files that are looked at. An etcd has a few dozen files open.
const FILES: i32 = 4096;

/// Has the kernel reset the connections of `child` when that ends. It is done as far as the kernel lets a parent do it: it takes
/// `pidfd_getfd` (Linux 5.6), which filters of system calls may forbid.
pub(super) fn reset_when_it_ends(child: &Child) {
    let Ok(process) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) else { return };
    for number in 0..FILES {
        match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            // What is no socket has no such setting, and sockets of other kinds do not mind.
            Ok(file) => drop(set_socket_linger(&file, Some(Duration::ZERO))),
            Err(Errno::BADF) => {}
            Err(error) => {
                tracing::debug!(%error, "connections of etcd are closed and not reset");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    use super::*;

    /// A process that is connected, and the other end.
    fn connected() -> (Child, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; exec sleep 600");
        let child = Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).spawn().unwrap();
        (child, listener.accept().unwrap().0)
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_other_end_of_a_connection_sees_a_reset() {
        let (child, mut other) = connected();
        reset_when_it_ends(&child);
        end(child);
        assert_eq!(other.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

        // The difference that it makes.
        let (child, mut other) = connected();
        end(child);
        assert_eq!(other.read(&mut [0]).unwrap(), 0);
    }
}
