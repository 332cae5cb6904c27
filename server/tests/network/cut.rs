//! A member that a network has cut off in silence for half a minute serves again soon after the network has healed, whatever the
//! kernel does about lost packets.

use std::time::{Duration, Instant};
use std::{fs, thread};

use casemate_etcd::{Address, Client, Settings};
use casemate_testkit::{EtcdCertificates, Network};

use crate::grow::grow;
use crate::node::Node;

const CUT: Duration = Duration::from_secs(30);

/// Within which it serves. An etcd that is not restarted takes 25 s with TCP as Linux has it.
const HEALED: Duration = Duration::from_secs(10);

#[test]
#[ignore = "it takes minutes: `cargo xtask compat` runs it"]
fn tcp_as_linux_has_it() {
    cut_and_heal(&[]);
}

#[test]
#[ignore = "it takes minutes: `cargo xtask compat` runs it"]
fn tcp_with_few_retries() {
    cut_and_heal(&[("net.ipv4.tcp_retries2", "5")]);
}

#[test]
#[ignore = "it takes minutes: `cargo xtask compat` runs it"]
fn tcp_with_short_pauses() {
    cut_and_heal(&[("net.ipv4.tcp_rto_max_ms", "1000")]);
}

/// Cuts off the leader, and a member that follows, of a cluster whose machines have these settings.
fn cut_and_heal(settings: &[(&str, &str)]) {
    let network = Network::new(3);
    for (name, value) in settings {
        if !(0..3).all(|node| network.sysctl(node, name, value)) {
            println!("this kernel has no {name} (Linux 6.15), so nothing is tested");
            return;
        }
    }
    let certificates = EtcdCertificates::new();
    let mut nodes = Vec::new();
    for (place, name) in network.places().iter().zip(["first", "second", "third"]) {
        nodes.push(Node::start_at(place, name, &certificates));
    }
    nodes.iter().for_each(|node| node.put_cluster_ca(&certificates));
    nodes[0].set_backup_passphrase();
    nodes[1..].iter().for_each(|node| drop(grow(&nodes[0], node)));
    let leader = || nodes.iter().position(leads).expect("one leads");

    let first = leader();
    let mut took = [Duration::ZERO; 2];
    for (round, took) in took.iter_mut().enumerate() {
        // Without a pause the second cut would go on where the first one has ended, and the node be Failed after a minute.
        thread::sleep(Duration::from_secs(10));
        *took = cut(&network, &nodes, first, round);
    }
    println!(
        "{settings:?}: the leader served {:.1?} after the network had healed, a follower {:.1?}",
        took[0], took[1]
    );
    assert_ne!(leader(), first, "the second time it was none");
    assert!(took.iter().all(|took| *took <= HEALED), "{took:?}\n{}", nodes[first].log());
}

/// Cuts a member off and returns how long after the end of that it served.
fn cut(network: &Network, nodes: &[Node], member: usize, round: usize) -> Duration {
    network.isolate(member);
    let begun = Instant::now();
    let other = &nodes[(member + 1) % 3];
    other.create_key("first", &format!("meanwhile-{round}"));
    thread::sleep(CUT.saturating_sub(begun.elapsed()));
    network.rejoin(member);
    let healed = Instant::now();
    nodes[member].create_key("first", &format!("healed-{round}"));
    let took = healed.elapsed();
    let key = format!("meanwhile-{round}");
    assert_eq!(nodes[member].signs(&key), other.signs(&key));
    took
}

/// Whether the etcd of a node leads.
fn leads(node: &Node) -> bool {
    let found = fs::read_dir(node.folder.data()).unwrap().map(|entry| entry.unwrap().path());
    let socket = found.map(|path| path.join("client.sock")).find(|path| path.exists()).expect("it has an etcd");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = Client::new(Settings::of(vec![Address::unix(socket)], None)).unwrap();
    let status = runtime.block_on(client.status()).unwrap();
    status.leader == status.header.unwrap().member_id
}
