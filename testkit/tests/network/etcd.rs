//! etcd on the nodes of a network.

use std::path::Path;

use casemate_etcd::proto::{RangeRequest, TxnRequest};
use casemate_etcd::request::{get, put};
use casemate_etcd::{Address, Client, Error, Settings, Tls};
use casemate_testkit::{EtcdServer, Network};
use tokio::runtime::{Builder, Runtime};

use crate::until;

/// A client of these members.
struct User {
    client: Client,
    endpoints: Vec<Address>,
    runtime: Runtime,
}

impl User {
    fn of(etcd: &EtcdServer, members: &[usize]) -> Self {
        let file = |name: &str| etcd.folder.path(name);
        let (ca, chain, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
        let identity: (&Path, &Path) = (&chain, &key);
        let tls = Tls::read(&ca, Some(identity)).unwrap();
        let all = etcd.endpoints();
        let endpoints: Vec<_> = members.iter().map(|member| Address::parse(&all[*member]).unwrap()).collect();
        let client = Client::new(Settings::of(endpoints.clone(), Some(tls))).unwrap();
        Self { client, endpoints, runtime: Builder::new_current_thread().enable_all().build().unwrap() }
    }

    fn leader(&self) -> usize {
        let leads = |endpoint: &Address| {
            let status = self.runtime.block_on(self.client.status_of(endpoint)).unwrap();
            status.header.unwrap().member_id == status.leader
        };
        self.endpoints.iter().position(leads).expect("there is a leader")
    }

    fn write(&self, value: &str) -> Result<(), Error> {
        let put = TxnRequest { success: vec![put("key", value.to_owned(), 0)], ..TxnRequest::default() };
        self.runtime.block_on(self.client.txn(put)).map(drop)
    }

    fn read(&self, serializable: bool) -> Result<String, Error> {
        let range = RangeRequest { serializable, ..get("key") };
        let row = self.runtime.block_on(self.client.range(range))?.kvs.remove(0);
        Ok(String::from_utf8(row.value.to_vec()).unwrap())
    }
}

#[test]
fn a_leader_that_is_cut_off_knows_nothing_new_until_it_is_back() {
    let network = Network::new(3);
    // Otherwise it takes half a minute until the members send something to each other again.
    (0..3).for_each(|node| assert!(network.sysctl(node, "net.ipv4.tcp_retries2", "5")));
    let etcd = EtcdServer::across(&network, &[]);
    let leader = User::of(&etcd, &[0, 1, 2]).leader();
    let at_leader = User::of(&etcd, &[leader]);
    let others = User::of(&etcd, &[(leader + 1) % 3, (leader + 2) % 3]);
    at_leader.write("old").unwrap();

    network.isolate(leader);
    until(|| others.write("new"));
    assert_eq!(at_leader.read(true).unwrap(), "old");
    assert!(at_leader.read(false).is_err());
    assert!(at_leader.write("lost").is_err());

    network.rejoin(leader);
    assert_eq!(until(|| at_leader.read(false)), "new");
}
