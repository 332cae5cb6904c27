//! `/config/tls*`.

use std::sync::Arc;

use casemate_api::body::config::GenerateTlsKey;
use casemate_api::body::keys::DistinguishedName;
use casemate_core::identity::caller::Caller;
use casemate_core::{Error, Hsm};

use crate::http::endpoint::OperationalGuard;
use crate::http::reply::Reply;
use crate::http::route::BASE;

/// `GET /config/tls/public.pem`
pub async fn public_key(op: OperationalGuard, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    Ok(Reply::ok(op.config().tls_public_key_pem().await?))
}

/// `GET /config/tls/cert.pem`
pub async fn chain(hsm: Arc<Hsm>, _: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    Ok(Reply::ok(hsm.tls_chain_pem().await?))
}

/// `PUT /config/tls/cert.pem`
pub async fn set_chain(hsm: Arc<Hsm>, caller: Option<Caller>, (): (), pem: Vec<u8>) -> Result<Reply, Error> {
    hsm.set_tls_chain(caller.as_ref(), &pem).await?;
    Ok(Reply::created().at(format!("{BASE}/config/tls/cert.pem")))
}

/// `POST /config/tls/csr.pem`
pub async fn csr(hsm: Arc<Hsm>, caller: Option<Caller>, (): (), subject: DistinguishedName) -> Result<Reply, Error> {
    Ok(Reply::ok(hsm.tls_csr(caller.as_ref(), subject).await?))
}

/// `POST /config/tls/generate`
pub async fn generate(op: OperationalGuard, caller: Caller, (): (), wanted: GenerateTlsKey) -> Result<Reply, Error> {
    op.config().generate_tls_key(&caller, wanted.key_type, wanted.length).await?;
    Ok(Reply::no_content())
}

/// `GET /config/tls/cluster-ca.pem`
pub async fn cluster_ca(op: OperationalGuard, _: Caller, (): (), (): ()) -> Result<Reply, Error> {
    Ok(Reply::ok(op.config().cluster_ca_pem().await?))
}

/// `PUT /config/tls/cluster-ca.pem`
pub async fn set_cluster_ca(op: OperationalGuard, caller: Caller, hsm: Arc<Hsm>, pem: Vec<u8>) -> Result<Reply, Error> {
    hsm.set_cluster_ca(op.into_inner(), &caller, &pem).await?;
    Ok(Reply::created().at(format!("{BASE}/config/tls/cluster-ca.pem")))
}
