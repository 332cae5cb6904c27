//! The network by itself: who reaches whom, with and without cuts, and that nothing is left of it.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use casemate_testkit::{Network, Place};

const PORT: u16 = 4711;

/// Long enough for any answer, however busy the machine is.
const LONG: Duration = Duration::from_secs(60);

/// Time after which an answer that never comes is no longer waited for.
const SHORT: Duration = Duration::from_millis(300);

/// Both addresses of a node.
fn addresses(place: &Place) -> [SocketAddr; 2] {
    [place.v4.into(), place.v6.into()].map(|address: IpAddr| SocketAddr::new(address, PORT))
}

/// How a connection to a port where nobody listens ends: refused, or not answered at all.
fn knock(address: SocketAddr, limit: Duration) -> ErrorKind {
    TcpStream::connect_timeout(&address, limit).unwrap_err().kind()
}

#[test]
fn nodes_reach_each_other_and_the_test_reaches_them() {
    let network = Network::new(3);
    for (node, place) in network.places().iter().enumerate() {
        for address in addresses(place) {
            let listener = network.within(node, || TcpListener::bind(address).unwrap());
            let connect = || TcpStream::connect_timeout(&address, LONG).unwrap();
            let mut streams: Vec<_> = (0..3).map(|other| network.within(other, connect)).collect();
            streams.push(connect());
            for mut stream in streams {
                let (mut accepted, _) = listener.accept().unwrap();
                accepted.write_all(&[7]).unwrap();
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                assert_eq!(byte, [7]);
            }
        }
    }
}

#[test]
fn a_cut_is_silent_and_heals() {
    let network = Network::new(3);
    for (from, to) in [(0, 1), (1, 0)] {
        for address in addresses(&network.places()[to]) {
            let knock_from = |node: usize, limit| network.within(node, || knock(address, limit));
            assert_eq!(knock_from(from, LONG), ErrorKind::ConnectionRefused);
            network.cut(0, 1);
            assert_eq!(knock_from(from, SHORT), ErrorKind::TimedOut);
            assert_eq!(knock_from(2, LONG), ErrorKind::ConnectionRefused, "the others are not cut off");
            network.heal(0, 1);
            assert_eq!(knock_from(from, LONG), ErrorKind::ConnectionRefused);
        }
    }
}

#[test]
fn a_cut_in_one_direction_leaves_the_other_one() {
    let network = Network::new(2);
    let [one, other] = [0, 1].map(|node| addresses(&network.places()[node]));
    for (one, other) in one.into_iter().zip(other) {
        let sockets = [(0, one), (1, other)].map(|(node, address)| {
            let socket = network.within(node, || UdpSocket::bind(address).unwrap());
            socket.set_read_timeout(Some(LONG)).unwrap();
            socket
        });
        let send = |from: usize, text: &str| {
            sockets[from].send_to(text.as_bytes(), [other, one][from]).unwrap();
        };
        let received = |at: usize| {
            let mut bytes = [0; 16];
            let length = sockets[at].recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..length].to_vec()).unwrap()
        };
        network.cut_one_way(0, 1);
        send(0, "lost");
        send(1, "backwards");
        assert_eq!(received(0), "backwards");
        network.heal(0, 1);
        send(0, "found");
        assert_eq!(received(1), "found");
    }
}

#[test]
fn a_connection_outlasts_a_cut() {
    let network = Network::new(2);
    for address in addresses(&network.places()[1]) {
        let listener = network.within(1, || TcpListener::bind(address).unwrap());
        let mut stream = network.within(0, || TcpStream::connect_timeout(&address, LONG).unwrap());
        let (mut accepted, _) = listener.accept().unwrap();
        network.isolate(0);
        stream.write_all(&[7]).unwrap();
        accepted.set_read_timeout(Some(SHORT)).unwrap();
        let mut byte = [0];
        assert_eq!(accepted.read(&mut byte).unwrap_err().kind(), ErrorKind::WouldBlock);
        network.rejoin(0);
        accepted.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!((accepted.read(&mut byte).unwrap(), byte), (1, [7]));
    }
}

#[test]
fn a_node_without_its_cable_is_reached_by_nobody() {
    let network = Network::new(2);
    let carrier = || {
        let mut command = network.command(0, "cat");
        let output = command.arg("/sys/class/net/eth0/carrier").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for address in addresses(&network.places()[0]) {
        network.down(0);
        assert_eq!(carrier(), "0\n");
        let knock_as_node = |limit| network.within(1, || knock(address, limit));
        assert_eq!([knock_as_node(SHORT), knock(address, SHORT)], [ErrorKind::TimedOut; 2]);
        network.up(0);
        assert_eq!([knock_as_node(LONG), knock(address, LONG)], [ErrorKind::ConnectionRefused; 2]);
    }
}

#[test]
fn a_setting_of_the_kernel_is_that_of_one_node() {
    let network = Network::new(2);
    let file = "/proc/sys/net/ipv4/tcp_retries2";
    let read = |node: usize| network.within(node, || fs::read_to_string(file).unwrap());
    let before = read(1);
    assert!(network.sysctl(0, "net.ipv4.tcp_retries2", "3"));
    assert_eq!((read(0).as_str(), read(1)), ("3\n", before));
    assert!(!network.sysctl(0, "net.ipv4.no_such_setting", "3"));
}

/// Names of namespaces and interfaces of this machine.
fn names() -> Vec<String> {
    let folders = [Path::new("/run/netns"), Path::new("/sys/class/net")];
    let entries = folders.into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The names that the network of this node has: its namespace, that of the bridge, and the interface of the test.
fn names_of(place: &str) -> [String; 3] {
    let prefix = place.trim_end_matches(char::is_numeric);
    let slot = prefix.trim_end_matches('-').rsplit('-').next().unwrap();
    [place.to_owned(), format!("{prefix}bridge"), format!("casematetest{slot}")]
}

#[test]
fn a_dropped_network_leaves_nothing() {
    let network = Network::new(9);
    let ours = names_of(&network.places()[8].namespace);
    let there = names();
    assert!(ours.iter().all(|name| there.contains(name)), "{ours:?}, {there:?}");
    drop(network);
    // The others may be there again, as those of another network with this number.
    assert!(!names().contains(&ours[0]), "no other network has as many nodes");
}

/// Runs one of the ignored tests below in a process of its own.
fn this_program(test: &str, before: &[&str]) -> Command {
    let exe = env::current_exe().unwrap();
    let words: Vec<_> = before.iter().map(AsRef::as_ref).chain([exe.as_os_str()]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(["--exact", test, "--ignored", "--nocapture"]).stdout(Stdio::piped());
    command
}

#[test]
fn what_a_killed_process_leaves_is_removed_by_the_next_network() {
    let mut child = this_program("rig::makes_a_network_and_waits", &[]).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let told = lines.into_iter().find_map(|line| line.split_once("network ").map(|(_, told)| told.to_owned()));
    let (namespace, pid) = told.as_ref().and_then(|told| told.split_once(' ')).unwrap();
    let ours = names_of(namespace);
    // Those of processes that live stay.
    drop(Network::new(1));
    assert!(ours.iter().all(|name| names().contains(name)));
    child.kill().unwrap();
    child.wait().unwrap();
    let _next = Network::new(1);
    // The others may be there again, as those of another network with this number.
    assert!(!names().contains(&ours[0]), "no other network has as many nodes");
    while Path::new("/proc").join(pid).exists() {
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "run by the test above, which kills it"]
fn makes_a_network_and_waits() {
    let network = Network::new(8);
    let mut child = network.command(7, "sleep").arg("1000").spawn().unwrap();
    println!("network {} {}", network.places()[7].namespace, child.id());
    child.wait().unwrap();
}

#[test]
fn without_the_rights_it_says_what_to_do() {
    let output = this_program("rig::makes_a_network", &["setpriv", "--bounding-set=-all"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("run the tests as root, with `ip`"), "{said}");
}

#[test]
#[ignore = "run by the test above, without rights"]
fn makes_a_network() {
    Network::new(1);
}
