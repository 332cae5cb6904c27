//! What GET answers at paths where changes can be conditional (RFC 9110 §13).
//!
//! An ETag is a digest of what GET answers. The conditions of a change must be evaluated against the same value that
//! the client saw, so both take the same bytes from the same function: the handlers of GET from here, and changes
//! through [`Tagged`], from what their own `find` returned. Rights are checked again only where `find` has not checked
//! them.
//! their own `find` gave them. Nothing here asks for rights again but where `find` has not asked yet.

use std::future::Future;
use std::sync::Arc;

use casemate_api::body::config::{Switch, UnattendedBoot};
use casemate_api::body::users as bodies;
use casemate_api::{KeyId, UserId};
use casemate_core::hsm::phase::Operational;
use casemate_core::identity::caller::Caller;
use casemate_core::identity::users::UserAccess;
use casemate_core::keys::usable::Key;
use casemate_core::rows::user::UserRecord;
use casemate_core::{Error, Hsm};

use super::context::RequestContext;
use super::endpoint::{FindReachable, OperationalGuard};
use super::find::FoundUser;
use super::reply;

/// `GET /keys/{key}`
pub async fn key(op: &Operational, key: &Key) -> Result<Vec<u8>, Error> {
    reply::json(&key.describe(op.keys()).await?)
}

/// `GET /keys/{key}/cert`; `NotFound` if the key has none.
pub async fn certificate(op: &Operational, caller: &Caller, key: &Key) -> Result<Vec<u8>, Error> {
    op.keys().of(caller.scope()?).certificate(key).await?.ok_or_else(Error::not_found)
}

/// `GET /users/{user}`
pub fn user(record: &UserRecord) -> Result<Vec<u8>, Error> {
    reply::json(&bodies::User { real_name: record.real_name.clone(), role: record.role })
}

/// `GET /config/unattended-boot`
pub async fn unattended_boot(op: &Operational) -> Result<Vec<u8>, Error> {
    let status = if op.unattended_boot().await? { Switch::On } else { Switch::Off };
    reply::json(&UnattendedBoot { status })
}

/// `GET /config/network`
pub async fn network(op: &Operational) -> Result<Vec<u8>, Error> {
    reply::json(&op.config().network().await?)
}

/// `GET /config/logging`
pub async fn logging(op: &Operational) -> Result<Vec<u8>, Error> {
    reply::json(&op.config().logging().await?)
}

/// A `find` of a change, and the GET at the same path whose ETag conditions refer to.
pub struct Tagged<F, R>(pub F, pub R);

/// The answer of one GET, derived from what a change at the same path has found.
pub trait Represent<T>: Send + Sync + 'static {
    /// The bytes of the answer; `NotFound` if there is nothing to read.
    fn represent(
        &self,
        op: &OperationalGuard,
        caller: &Caller,
        found: &T,
    ) -> impl Future<Output = Result<Vec<u8>, Error>> + Send;
}

impl<F, R> FindReachable<OperationalGuard> for Tagged<F, R>
where
    F: FindReachable<OperationalGuard>,
    R: Represent<F::Found>,
{
    type Reached = F::Reached;
    type Found = F::Found;
    const IDS: &'static [&'static str] = F::IDS;
    fn check_id(&self, context: &RequestContext) -> Result<(), Error> {
        self.0.check_id(context)
    }
    fn reach(
        &self,
        op: &OperationalGuard,
        caller: &Caller,
        context: &RequestContext,
    ) -> impl Future<Output = Result<F::Reached, Error>> + Send {
        self.0.reach(op, caller, context)
    }
    fn find(
        &self,
        op: &OperationalGuard,
        caller: &Caller,
        reached: F::Reached,
        context: &RequestContext,
    ) -> impl Future<Output = Result<F::Found, Error>> + Send {
        self.0.find(op, caller, reached, context)
    }
    async fn represent(
        &self,
        op: &OperationalGuard,
        caller: &Caller,
        found: &F::Found,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.1.represent(op, caller, found).await.map(Some)
    }
}

/// The answer of `GET /keys/{key}`.
pub struct OfKey;

impl Represent<Key> for OfKey {
    async fn represent(&self, op: &OperationalGuard, _: &Caller, found: &Key) -> Result<Vec<u8>, Error> {
        key(op, found).await
    }
}

impl Represent<KeyId> for OfKey {
    async fn represent(&self, op: &OperationalGuard, caller: &Caller, id: &KeyId) -> Result<Vec<u8>, Error> {
        key(op, &existing(op, caller, id).await?).await
    }
}

/// The answer of `GET /keys/{key}/cert`.
pub struct OfCertificate;

impl Represent<Key> for OfCertificate {
    async fn represent(&self, op: &OperationalGuard, caller: &Caller, found: &Key) -> Result<Vec<u8>, Error> {
        certificate(op, caller, found).await
    }
}

impl Represent<KeyId> for OfCertificate {
    async fn represent(&self, op: &OperationalGuard, caller: &Caller, id: &KeyId) -> Result<Vec<u8>, Error> {
        certificate(op, caller, &existing(op, caller, id).await?).await
    }
}

async fn existing(op: &OperationalGuard, caller: &Caller, id: &KeyId) -> Result<Key, Error> {
    op.keys().of(caller.scope()?).get(id).await?.ok_or_else(Error::not_found)
}

/// The answer of `GET /users/{user}`.
pub struct OfUser;

impl Represent<FoundUser> for OfUser {
    async fn represent(&self, _: &OperationalGuard, _: &Caller, found: &FoundUser) -> Result<Vec<u8>, Error> {
        user(&found.row.record)
    }
}

impl Represent<UserId> for OfUser {
    async fn represent(&self, op: &OperationalGuard, caller: &Caller, id: &UserId) -> Result<Vec<u8>, Error> {
        // Only callers who may read the user learn whether it exists. The right to create one is checked later.
        let target = op.users().reach(caller, id.clone(), UserAccess::Read).await?;
        user(&op.user(&target.id).await?.ok_or_else(Error::not_found)?.record)
    }
}

/// The answer of `GET /config/unattended-boot`.
pub struct OfUnattendedBoot;

impl Represent<()> for OfUnattendedBoot {
    async fn represent(&self, op: &OperationalGuard, _: &Caller, (): &()) -> Result<Vec<u8>, Error> {
        unattended_boot(op).await
    }
}

/// The answer of `GET /config/network`.
pub struct OfNetwork;

impl Represent<()> for OfNetwork {
    async fn represent(&self, op: &OperationalGuard, _: &Caller, (): &()) -> Result<Vec<u8>, Error> {
        network(op).await
    }
}

/// The answer of `GET /config/logging`.
pub struct OfLogging;

impl Represent<()> for OfLogging {
    async fn represent(&self, op: &OperationalGuard, _: &Caller, (): &()) -> Result<Vec<u8>, Error> {
        logging(op).await
    }
}

/// Nothing to find, and the answer of `GET /config/tls/cert.pem`, in any phase.
pub struct TheTlsChain;

impl FindReachable<Arc<Hsm>> for TheTlsChain {
    type Reached = ();
    type Found = ();
    const IDS: &'static [&'static str] = &[];
    async fn reach(&self, _: &Arc<Hsm>, _: &Option<Caller>, _: &RequestContext) -> Result<(), Error> {
        Ok(())
    }
    async fn find(&self, _: &Arc<Hsm>, _: &Option<Caller>, (): (), _: &RequestContext) -> Result<(), Error> {
        Ok(())
    }
    async fn represent(&self, hsm: &Arc<Hsm>, _: &Option<Caller>, (): &()) -> Result<Option<Vec<u8>>, Error> {
        hsm.tls_chain_pem().await.map(|pem| Some(pem.into_bytes()))
    }
}
