//! Changes of the members of real etcd clusters (`cargo xtask etcd` builds etcd).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests measure time")]

use std::time::Duration;

use casemate_etcd::proto::{Member, RangeRequest, TxnRequest};
use casemate_etcd::request::{get, prefix, put};
use casemate_etcd::{Address, Client, Error, MemberError, MemberKind, Settings, when_healthy};
use casemate_testkit::EtcdServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

fn client_of(etcd: &EtcdServer, members: &[usize]) -> Client {
    let endpoints = members.iter().map(|at| Address::parse(&etcd.endpoints()[*at]).unwrap()).collect();
    Client::new(Settings::of(endpoints, None)).unwrap()
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>) -> MemberError {
    match outcome {
        Err(Error::Member(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn write(client: &Client, key: &'static str, value: &'static str) -> Result<(), Error> {
    let success = vec![put(key, value, 0)];
    client.txn(TxnRequest { success, ..TxnRequest::default() }).await.map(drop)
}

fn id_at(members: &[Member], url: &str) -> u64 {
    members.iter().find(|member| member.peer_ur_ls == [url]).unwrap().id
}

/// Makes a change until its outcome is known. On a busy machine an answer may take longer than the client waits. `done` says
/// by which refusal a change is known that was made although its answer was lost; the members are then those of the list.
async fn known<F: Future<Output = Result<Vec<Member>, Error>>>(
    client: &Client,
    done: &MemberError,
    change: impl Fn() -> F,
) -> Result<Vec<Member>, Error> {
    let mut unknown = false;
    loop {
        match when_healthy(&change).await {
            Err(Error::Unknown(_)) => unknown = true,
            Err(Error::Member(error)) if unknown && error == *done => return client.member_list().await,
            outcome => return outcome,
        }
    }
}

async fn add(client: &Client, urls: &[String], kind: MemberKind) -> Result<(Member, Vec<Member>), Error> {
    let change = || async { client.member_add(urls, kind).await.map(|(_, members)| members) };
    let members = known(client, &MemberError::PeerUrlsExist, change).await?;
    Ok((members.iter().find(|member| member.peer_ur_ls == urls).unwrap().clone(), members))
}

async fn remove(client: &Client, id: u64) -> Result<Vec<Member>, Error> {
    known(client, &MemberError::NotFound, || client.member_remove(id)).await
}

/// Promotes a member as soon as it has caught up.
async fn promote(client: &Client, id: u64) -> Vec<Member> {
    loop {
        match known(client, &MemberError::NotLearner, || client.member_promote(id)).await {
            Err(Error::Member(MemberError::LearnerNotReady)) => tokio::time::sleep(Duration::from_millis(50)).await,
            outcome => return outcome.unwrap(),
        }
    }
}

/// Off this thread, which moves the connections.
async fn blocking(mut etcd: EtcdServer, change: impl FnOnce(&mut EtcdServer) + Send + 'static) -> EtcdServer {
    let changed = tokio::task::spawn_blocking(move || {
        change(&mut etcd);
        etcd
    });
    changed.await.unwrap()
}

#[tokio::test]
async fn a_learner_is_added_catches_up_votes_moves_and_is_removed() {
    let mut etcd = EtcdServer::start_plain(1, &[]);
    let new = etcd.prepare();
    let (own, urls) = (client_of(&etcd, &[0]), [etcd.peer_url(new)]);
    write(&own, "k", "v").await.unwrap();
    let (added, members) = add(&own, &urls, MemberKind::Learner).await.unwrap();
    assert_eq!((added.name.as_str(), added.is_learner, members.len()), ("", true, 2));
    assert_eq!(added.peer_ur_ls, urls);

    let other = ["http://127.0.0.1:1".to_owned()];
    assert_eq!(refused(own.member_add(&other, MemberKind::Learner).await), MemberError::TooManyLearners);
    assert_eq!(refused(own.member_add(&urls, MemberKind::Learner).await), MemberError::PeerUrlsExist);
    assert_eq!(refused(own.member_promote(added.id).await), MemberError::LearnerNotReady);
    assert_eq!(refused(own.member_promote(7).await), MemberError::NotFound);
    assert_eq!(refused(own.member_remove(7).await), MemberError::NotFound);
    assert_eq!(refused(own.member_update(7, &other).await), MemberError::NotFound);
    assert_eq!(refused(own.member_update(added.id, &[etcd.peer_url(0)]).await), MemberError::PeerUrlsExist);
    let path = ["http://127.0.0.1:1/".to_owned()];
    assert_eq!(refused(own.member_update(added.id, &path).await), MemberError::BadUrls);
    // It does not count yet.
    write(&own, "k", "w").await.unwrap();

    let mut etcd = blocking(etcd, move |etcd| etcd.join(new, &[0, new])).await;
    let learner = client_of(&etcd, &[new]);
    assert!(learner.status().await.unwrap().is_learner);
    let everywhere = [
        learner.range(get("k")).await.map(drop),
        learner.member_list().await.map(drop),
        learner.known_members().await.map(drop),
        learner.member_remove(added.id).await.map(drop),
        write(&learner, "k", "x").await,
        learner.watch(b"k", 0).await.map(drop),
    ];
    for outcome in everywhere {
        assert_eq!(outcome, Err(Error::Learner));
    }
    let local = RangeRequest { serializable: true, ..prefix(b"", 0) };
    while learner.range(local.clone()).await.unwrap().kvs.first().is_none_or(|row| row.value != "w") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // A client that knows both is served by the other one.
    let both = client_of(&etcd, &[new, 0]);
    assert_eq!(both.range(get("k")).await.unwrap().kvs[0].value, "w");
    let members = promote(&both, added.id).await;
    assert!(members.iter().all(|member| !member.is_learner), "{members:?}");
    assert_eq!(refused(own.member_promote(added.id).await), MemberError::NotLearner);
    // Asked at the follower, the leader answers.
    assert_eq!(refused(learner.member_promote(added.id).await), MemberError::NotLearner);
    write(&learner, "k", "y").await.unwrap();
    let status = learner.status().await.unwrap();
    assert!(!status.is_learner && status.leader != 0 && status.errors.is_empty(), "{status:?}");

    let two = ["http://localhost:1".to_owned(), urls[0].clone()];
    let moved = known(&own, &MemberError::PeerUrlsExist, || own.member_update(added.id, &two)).await.unwrap();
    let told = |members: &[Member]| members.iter().find(|member| member.id == added.id).unwrap().peer_ur_ls.clone();
    assert_eq!(told(&moved), ["http://localhost:1", urls[0].as_str()]);
    let back = known(&own, &MemberError::PeerUrlsExist, || own.member_update(added.id, &urls)).await.unwrap();
    assert_eq!(told(&back), urls);

    let leader = status.leader;
    let (from, to) = if leader == added.id { (new, id_at(&members, &etcd.peer_url(0))) } else { (0, added.id) };
    let endpoint = Address::parse(&etcd.endpoints()[from]).unwrap();
    both.move_leader(&endpoint, to).await.unwrap();
    assert_eq!(both.status().await.unwrap().leader, to);
    assert!(matches!(both.move_leader(&endpoint, to).await, Err(Error::Other(_))));

    let left = remove(&own, added.id).await.unwrap();
    assert_eq!(left.len(), 1);
    etcd.await_end(new);
    // It may have led, and then the other one has to be elected.
    while write(&own, "k", "z").await.is_err() {}
    assert_eq!(refused(own.member_remove(added.id).await), MemberError::NotFound);
    // A member that was just removed can be added again.
    let (again, _) = add(&own, &urls, MemberKind::Learner).await.unwrap();
    remove(&own, again.id).await.unwrap();
    let (last, members) = add(&own, &urls, MemberKind::Learner).await.unwrap();
    assert!(last.id != again.id && members.len() == 2, "{members:?}");
}

#[tokio::test]
async fn a_change_that_would_cost_the_majority_is_refused() {
    let mut etcd = EtcdServer::start_plain(3, &[]);
    let all = client_of(&etcd, &[0, 1, 2]);
    let url = |n: u16| vec![format!("http://127.0.0.1:{n}")];
    // Right after the start they have not been connected for long enough.
    let (_, members) = add(&all, &url(1), MemberKind::Voter).await.unwrap();
    add(&all, &url(2), MemberKind::Voter).await.unwrap();
    assert_eq!(refused(all.member_add(&url(3), MemberKind::Voter).await), MemberError::NotEnoughStarted);
    let id = |at: usize| id_at(&members, &etcd.peer_url(at));
    assert_eq!(refused(all.member_remove(id(2)).await), MemberError::NotEnoughStarted);
    for url in [url(2), url(1)] {
        let members = all.member_list().await.unwrap();
        remove(&all, id_at(&members, &url[0])).await.unwrap();
    }
    let (two, three) = (id(1), id(2));
    etcd.kill(2);
    let two_left = client_of(&etcd, &[0, 1]);
    // The two must see that the third is gone.
    loop {
        match two_left.member_remove(two).await {
            Err(Error::Member(MemberError::Unhealthy)) => break,
            Err(Error::NoLeader | Error::Unknown(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused(two_left.member_add(&url(4), MemberKind::Voter).await), MemberError::Unhealthy);
    // One that is down can go.
    assert_eq!(remove(&two_left, three).await.unwrap().len(), 2);
    while write(&two_left, "k", "v").await.is_err() {}
    // One without a majority tells whom it knows.
    etcd.kill(1);
    let alone = client_of(&etcd, &[0]);
    while alone.member_list().await != Err(Error::NoLeader) {}
    assert_eq!(alone.known_members().await.unwrap().len(), 2);
}

/// A way to an etcd on which bytes are lost, for the connections made before [`Line::lose`].
struct Line {
    address: Address,
    losing: watch::Sender<Losing>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Losing {
    Nothing,
    Requests,
    Answers,
}

impl Line {
    async fn to(endpoint: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let (losing, _) = watch::channel(Losing::Nothing);
        let line = Self { address, losing: losing.clone() };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (near_out, near_in) = near.into_split();
                let (far_out, far_in) = TcpStream::connect(&endpoint).await.unwrap().into_split();
                // One that is made later loses nothing.
                let lost = if *losing.borrow() == Losing::Nothing {
                    losing.subscribe()
                } else {
                    watch::channel(Losing::Nothing).1
                };
                for (mut from, mut to, when) in
                    [(near_out, far_in, Losing::Requests), (far_out, near_in, Losing::Answers)]
                {
                    let lost = lost.clone();
                    tokio::spawn(async move {
                        let mut bytes = [0; 4096];
                        while let Ok(length @ 1..) = from.read(&mut bytes).await {
                            if *lost.borrow() != when && to.write_all(&bytes[..length]).await.is_err() {
                                break;
                            }
                        }
                    });
                }
            }
        });
        line
    }

    fn lose(&self, losing: Losing) {
        self.losing.send(losing).unwrap();
    }
}

/// A line, and a client that has a connection over it. One for each change, as those that have lost something stay so.
async fn line(endpoint: &str) -> (Line, Client) {
    let line = Line::to(endpoint.to_owned()).await;
    let client = Client::new(Settings::of(vec![line.address.clone()], None)).unwrap();
    client.status().await.unwrap();
    (line, client)
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_is_found_in_the_list_and_not_made_twice() {
    let mut etcd = EtcdServer::start_plain(1, &[]);
    let new = etcd.prepare();
    let url = [etcd.peer_url(new)];
    let etcd_at = etcd.endpoints()[0].clone();
    let (down, client) = line(&etcd_at).await;
    down.lose(Losing::Requests);
    let unknown = client.member_add(&url, MemberKind::Learner).await;
    assert!(matches!(unknown, Err(Error::Unknown(_))), "{unknown:?}");
    assert_eq!(client.member_list().await.unwrap().len(), 1);

    let (down, client) = line(&etcd_at).await;
    down.lose(Losing::Answers);
    let (added, members) = client.member_add(&url, MemberKind::Learner).await.unwrap();
    assert_eq!((members.len(), id_at(&members, &url[0])), (2, added.id));

    let (down, client) = line(&etcd_at).await;
    down.lose(Losing::Answers);
    let moved = ["http://127.0.0.1:1".to_owned()];
    let members = client.member_update(added.id, &moved).await.unwrap();
    assert_eq!(id_at(&members, &moved[0]), added.id);
    client.member_update(added.id, &url).await.unwrap();

    let mut etcd = blocking(etcd, move |etcd| etcd.join(new, &[0, new])).await;
    let sure = client_of(&etcd, &[0]);
    // It has caught up, or else a refusal would be lost.
    loop {
        let (own, learner) = (sure.status().await.unwrap(), client_of(&etcd, &[new]).status().await.unwrap());
        if learner.raft_applied_index >= own.raft_applied_index {
            break;
        }
    }
    let (down, client) = line(&etcd_at).await;
    down.lose(Losing::Answers);
    let members = client.member_promote(added.id).await.unwrap();
    assert!(members.iter().all(|member| !member.is_learner), "{members:?}");
    etcd.kill(new);
}
