//! The members of an etcd as its clients see them.

use std::path::Path;

use casemate_etcd::{Address, Client, Settings, Tls};
use casemate_testkit::EtcdServer;
use tokio::runtime::{Builder, Runtime};

/// What the calls of a client run on.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A client of some members.
pub(crate) fn client(etcd: &EtcdServer, members: &[usize]) -> Client {
    let file = |name: &str| etcd.folder.path(name);
    let (ca, chain, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let identity: (&Path, &Path) = (&chain, &key);
    let tls = Tls::read(&ca, Some(identity)).unwrap();
    let endpoints = etcd.endpoints();
    let endpoints = members.iter().map(|member| Address::parse(&endpoints[*member]).unwrap()).collect();
    Client::new(Settings::of(endpoints, Some(tls))).unwrap()
}

/// The member that leads.
pub(crate) fn leader(etcd: &EtcdServer) -> usize {
    let leads = |member: &usize| {
        let client = client(etcd, &[*member]);
        let status = runtime().block_on(client.status()).unwrap();
        status.header.unwrap().member_id == status.leader
    };
    (0..etcd.endpoints().len()).find(leads).expect("there is a leader")
}
