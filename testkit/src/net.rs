//! Networks of several machines on this one: a Linux network namespace for each, joined by a bridge, and cuts between them.
//!
//! The bridge is in a namespace of its own, where no firewall of this machine sees it. The test process has a leg on the bridge,
//! so that its clients need not run inside of a namespace. There is no route to anywhere else.
//!
//! A cut is a neighbour entry with a hardware address that nobody has: what is sent leaves, and nobody takes it, as behind a broken
//! switch. The right addresses are permanent entries, too, because to find one out takes both directions.

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::mortal;

/// Nodes, numbered from 0, that reach each other over IPv4 and IPv6 and are reached by the test process. When it is dropped, its
/// namespaces and links are removed.
pub struct Network {
    slot: u16,
    places: Vec<Place>,
    /// Locked: while it is, no other process uses or removes the network of this number.
    _reservation: File,
}

/// Where a node of a [`Network`] is.
#[derive(Clone, Debug)]
pub struct Place {
    /// The name of its namespace, as `ip netns` lists it.
    pub namespace: String,
    /// Its address in 198.18.0.0/15, the range for tests of networks (RFC 2544).
    pub v4: Ipv4Addr,
    /// Its unique local address (RFC 4193).
    pub v6: Ipv6Addr,
}

/// Networks on this machine at the same time. Each has a number below this one.
const SLOTS: u16 = 512;

/// Most nodes of a network.
const NODES_MAX: usize = 64;

/// A file for each number. They are never deleted, so that nobody locks one that another process no longer sees.
const RESERVATIONS: &str = "/run/casemate-testkit";

/// Where `ip netns` keeps the names of namespaces.
const NAMESPACES: &str = "/run/netns";

/// The interface of a node.
const INTERFACE: &str = "eth0";

/// The last number in the addresses of the test process, and in those of the first node.
const TEST: u8 = 1;
const FIRST_NODE: u8 = 10;

/// A hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:00:01";

impl Network {
    /// Makes a network of at most 64 nodes, and first removes those of test processes that were killed. It takes root and
    /// iproute2, and panics with a sentence about that.
    pub fn new(nodes: usize) -> Self {
        assert!(nodes <= NODES_MAX, "a network has at most {NODES_MAX} nodes");
        let (slot, reservation) = reserve();
        let places = (0..nodes).map(|node| Place {
            namespace: format!("{}{node}", prefix(slot)),
            v4: v4(slot, host(node)),
            v6: v6(slot, host(node)),
        });
        let network = Self { slot, places: places.collect(), _reservation: reservation };
        network.build();
        network
    }

    /// The nodes.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// A command that runs `program` at a node. Its process is killed when the calling *thread* ends.
    pub fn command(&self, node: usize, program: &str) -> Command {
        mortal(program, Some(&self.places[node]))
    }

    /// Calls `work` in a thread that is at a node. Its sockets stay there, whoever uses them later.
    pub fn within<T: Send>(&self, node: usize, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new(NAMESPACES).join(&self.places[node].namespace)).unwrap();
        let enter_and_work = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(enter_and_work).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// From now on nothing that one of the two nodes sends reaches the other.
    pub fn cut(&self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// From now on nothing that `from` sends reaches `to`. The other direction is as before.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.send_to(from, to, NOBODY);
    }

    /// Ends the cuts between two nodes.
    pub fn heal(&self, one: usize, other: usize) {
        self.send_to(one, other, &hardware(self.slot, host(other)));
        self.send_to(other, one, &hardware(self.slot, host(one)));
    }

    /// Cuts a node off from all others. The test process still reaches it.
    pub fn isolate(&self, node: usize) {
        self.others(node).for_each(|other| self.cut(node, other));
    }

    /// Ends all cuts of a node.
    pub fn rejoin(&self, node: usize) {
        self.others(node).for_each(|other| self.heal(node, other));
    }

    /// Pulls the cable of a node: it has no carrier, and the test process does not reach it either.
    pub fn down(&self, node: usize) {
        ip(Some(&bridge(self.slot)), &[format!("link set {} down", port(node))]);
    }

    /// Plugs the cable of a node in again.
    pub fn up(&self, node: usize) {
        ip(Some(&bridge(self.slot)), &[format!("link set {} up", port(node))]);
    }

    /// Gives a setting of the kernel, such as `net.ipv4.tcp_retries2`, a value at one node. Returns whether this kernel has the
    /// setting.
    pub fn sysctl(&self, node: usize, name: &str, value: &str) -> bool {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        self.within(node, || {
            let there = file.exists();
            if there {
                fs::write(&file, value).unwrap();
            }
            there
        })
    }

    fn others(&self, node: usize) -> impl Iterator<Item = usize> {
        (0..self.places.len()).filter(move |other| *other != node)
    }

    fn send_to(&self, from: usize, to: usize, hardware: &str) {
        assert_ne!(from, to, "nothing is between a node and itself");
        ip(Some(&self.places[from].namespace), &neighbour(self.slot, host(to), hardware, INTERFACE));
    }

    fn build(&self) {
        let (slot, bridge, leg) = (self.slot, bridge(self.slot), leg(self.slot));
        let names = self.places.iter().map(|place| &place.namespace).chain([&bridge]);
        let mut here: Vec<String> = names.map(|name| format!("netns add {name}")).collect();
        here.push(format!("link add {leg} address {} type veth peer name test netns {bridge}", hardware(slot, TEST)));
        ip(None, &here);

        let mut cables = vec!["link add switch type bridge".into(), "link set switch up".into()];
        for (node, place) in self.places.iter().enumerate() {
            let (port, hardware, namespace) = (port(node), hardware(slot, host(node)), &place.namespace);
            cables
                .push(format!("link add {port} type veth peer name {INTERFACE} address {hardware} netns {namespace}"));
        }
        let ports = (0..self.places.len()).map(port).chain(["test".into()]);
        cables.extend(ports.map(|port| format!("link set {port} master switch up")));
        ip(Some(&bridge), &cables);

        let hosts: Vec<u8> = (0..self.places.len()).map(host).chain([TEST]).collect();
        let configure = |own: u8, interface: &str| {
            let mut lines = vec![
                format!("link set {interface} up"),
                format!("addr add {}/24 dev {interface}", v4(slot, own)),
                // Without a search for others that have it, during which it cannot be used.
                format!("addr add {}/64 dev {interface} nodad", v6(slot, own)),
            ];
            for other in hosts.iter().filter(|other| **other != own) {
                lines.extend(neighbour(slot, *other, &hardware(slot, *other), interface));
            }
            lines
        };
        for (node, place) in self.places.iter().enumerate() {
            ip(Some(&place.namespace), &["link set lo up".into()]);
            ip(Some(&place.namespace), &configure(host(node), INTERFACE));
        }
        ip(None, &configure(TEST, &leg));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What this does not remove, the next network does.
        let _ = remove(self.slot);
    }
}

/// Reserves the number of a network that nobody uses, for as long as the file is open, and removes all networks whose processes
/// have ended.
fn reserve() -> (u16, File) {
    fs::create_dir_all(RESERVATIONS).unwrap_or_else(|why| cannot(&format!("{RESERVATIONS}: {why}")));
    let mut ours = None;
    for slot in 0..SLOTS {
        if ours.is_some() && !reservation(slot).exists() {
            break;
        }
        let file = File::options().create(true).write(true).truncate(false).open(reservation(slot));
        let file = file.unwrap_or_else(|why| cannot(&format!("{}: {why}", reservation(slot).display())));
        // The lock of a process ends with it. Programs that it starts do not inherit the file.
        if file.try_lock().is_ok() {
            remove(slot).unwrap_or_else(|why| cannot(&why));
            ours.get_or_insert((slot, file));
        }
    }
    ours.unwrap_or_else(|| cannot(&format!("there are {SLOTS} networks already")))
}

/// Removes what there is of a network.
fn remove(slot: u16) -> Result<(), String> {
    let mut lines = Vec::new();
    if Path::new("/sys/class/net").join(leg(slot)).exists() {
        lines.push(format!("link delete {}", leg(slot)));
    }
    let names =
        fs::read_dir(NAMESPACES).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    lines.extend(names.filter(|name| name.starts_with(&prefix(slot))).map(|name| format!("netns delete {name}")));
    if lines.is_empty() { Ok(()) } else { try_ip(None, &lines) }
}

/// Runs `ip` with these commands, in a namespace or in that of the test process.
fn ip(namespace: Option<&str>, commands: &[String]) {
    try_ip(namespace, commands).unwrap_or_else(|why| cannot(&why));
}

fn try_ip(namespace: Option<&str>, commands: &[String]) -> Result<(), String> {
    let mut ip = Command::new("ip");
    if let Some(namespace) = namespace {
        ip.args(["-netns", namespace]);
    }
    ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = ip.spawn().map_err(|why| format!("ip: {why}"))?;
    // If it ends before it has read everything, it says why.
    let _ = child.stdin.take().unwrap().write_all(commands.join("\n").as_bytes());
    let output = child.wait_with_output().map_err(|why| format!("ip: {why}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().into()) }
}

fn cannot(why: &str) -> ! {
    panic!(
        "A network of namespaces cannot be made or changed: run the tests as root, with `ip` (Debian: iproute2), on a \
         Linux with bridges and veth ({why})."
    )
}

/// The commands that make what is sent to `host` go to this hardware address.
fn neighbour(slot: u16, host: u8, hardware: &str, interface: &str) -> [String; 2] {
    let entry =
        |address: IpAddr| format!("neighbour replace {address} lladdr {hardware} dev {interface} nud permanent");
    [entry(v4(slot, host).into()), entry(v6(slot, host).into())]
}

fn host(node: usize) -> u8 {
    FIRST_NODE + node as u8
}

fn v4(slot: u16, host: u8) -> Ipv4Addr {
    let [high, low] = slot.to_be_bytes();
    Ipv4Addr::new(198, 18 + high, low, host)
}

fn v6(slot: u16, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfdca, 0x5e4a, 0x7e57, slot, 0, 0, 0, host.into())
}

fn hardware(slot: u16, host: u8) -> String {
    let [high, low] = slot.to_be_bytes();
    format!("02:ca:5e:{high:02x}:{low:02x}:{host:02x}")
}

/// With what the names of all namespaces of a network begin.
fn prefix(slot: u16) -> String {
    format!("casemate-test-{slot}-")
}

/// The namespace of the bridge.
fn bridge(slot: u16) -> String {
    format!("{}bridge", prefix(slot))
}

/// The end of a node's cable at the bridge.
fn port(node: usize) -> String {
    format!("node{node}")
}

/// The interface of the test process. Linux allows 15 characters.
fn leg(slot: u16) -> String {
    format!("casematetest{slot}")
}

fn reservation(slot: u16) -> PathBuf {
    Path::new(RESERVATIONS).join(slot.to_string())
}
