//! What members of a cluster tell another node: over the port at which they know each other, with its own certificate.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use casemate_api::limits::{PEER_ANSWER_MAX_BYTES, PEER_ANSWER_MS, PEER_PROBE_MS};
use casemate_core::config::peers::alternative_addresses;
use casemate_core::platform::stores::{EtcdError, Member, PeerIdentity, Sight};
use casemate_core::rows::tls_identity::TlsIdentity;
use casemate_core::runtime::Clock;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{DATE, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::clock::SystemClock;

/// The addresses that a certificate is for.
pub(super) fn addresses_in(tls: &TlsIdentity) -> Vec<IpAddr> {
    tls.chain.first().map(|leaf| alternative_addresses(leaf)).unwrap_or_default()
}

/// A member as etcd lists it to its peers.
#[derive(Deserialize)]
struct Listed {
    id: u64,
    #[serde(default)]
    name: String,
    #[serde(rename = "peerURLs", default)]
    urls: Vec<String>,
    #[serde(rename = "isLearner", default)]
    learner: bool,
}

/// Asks, for a node that is to join them, one member after the other.
pub(super) async fn look_at(members: &[Member], identity: &PeerIdentity) -> Result<Sight, EtcdError> {
    let tls = tls(identity)?;
    let mut failures = Vec::new();
    for url in members.iter().flat_map(|member| &member.urls) {
        let limit = Duration::from_millis(PEER_ANSWER_MS);
        match tokio::time::timeout(limit, ask(url, tls.clone())).await {
            Ok(Ok(sight)) => return Ok(sight),
            Ok(Err(why)) => failures.push(format!("{url}: {why}")),
            Err(_) => failures.push(format!("{url}: no answer within {} s", limit.as_secs())),
        }
    }
    Err(EtcdError(format!("no member of the cluster accepts this node ({})", failures.join("; "))))
}

/// The URL at which one of these members answers, each of which has some, if `enough` of them do. All are asked at once, over new
/// connections.
pub(super) async fn enough_answer(members: Vec<Vec<String>>, enough: usize, tls: &TlsConnector) -> Option<String> {
    let mut asked = JoinSet::new();
    for (member, url) in
        members.into_iter().enumerate().flat_map(|(at, urls)| urls.into_iter().map(move |url| (at, url)))
    {
        let tls = tls.clone();
        asked.spawn(async move { ask(&url, tls).await.is_ok().then_some((member, url)) });
    }
    let mut answered = BTreeSet::new();
    let last = async {
        while let Some(answer) = asked.join_next().await {
            if let Ok(Some((member, url))) = answer {
                answered.insert(member);
                if answered.len() >= enough {
                    return Some(url);
                }
            }
        }
        None
    };
    tokio::time::timeout(Duration::from_millis(PEER_PROBE_MS), last).await.ok().flatten()
}

/// What this node shows to other members and asks of them.
pub(super) fn tls(identity: &PeerIdentity) -> Result<TlsConnector, EtcdError> {
    let config = || {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(identity.authority.clone()))?;
        let chain = identity.tls.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let key = PrivatePkcs8KeyDer::from(identity.tls.private_key.to_vec()).into();
        ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)
    };
    let config = config().map_err(|why| EtcdError(format!("the TLS identity of this node cannot be used: {why}")))?;
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn ask(url: &str, tls: TlsConnector) -> Result<Sight, Box<dyn std::error::Error + Send + Sync>> {
    let uri: Uri = url.parse()?;
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else { return Err("it is no address".into()) };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let tcp = TcpStream::connect((host.as_str(), port)).await?;
    let stream = tls.connect(ServerName::try_from(host)?, tcp).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let request = Request::get("/members").header(HOST, authority).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let reply = sender.send_request(request).await?;
        let now = SystemTime::UNIX_EPOCH + SystemClock::new().wall();
        let date = reply.headers().get(DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok()).ok_or("it does not tell its time")?;
        let body = Limited::new(reply.into_body(), PEER_ANSWER_MAX_BYTES).collect().await?.to_bytes();
        let listed: Vec<Listed> = serde_json::from_slice(&body).map_err(|_| "it is no member of etcd")?;
        let member = |Listed { id, name, urls, learner }| Member { id, name, urls, learner };
        // The date has been cut off to a second.
        let apart = now.duration_since(date).unwrap_or_else(|error| error.duration());
        Ok(Sight { members: listed.into_iter().map(member).collect(), clock_differs_s: apart.as_secs() })
    };
    tokio::select! {
        sight = exchange => sight,
        ended = connection => Err(ended.err().map_or_else(|| "it has closed the connection".into(), Into::into)),
    }
}
