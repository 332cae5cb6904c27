//! The TLS certificate of this node, while Operational and, at a member of a cluster, while Failed: members whose certificates have
//! expired do not reach each other, and without a majority nobody can log in.

use std::sync::Arc;

use casemate_api::body::keys::DistinguishedName;

use crate::config::DeviceTls;
use crate::device::joining::Joining;
use crate::error::Error;
use crate::hsm::phase::{Operational, Phase};
use crate::hsm::{Hsm, wrong_state};
use crate::identity::caller::Caller;
use crate::rows::path::DevicePath;

impl Hsm {
    /// The chain of TLS certificates as PEM, the server's own first.
    pub async fn tls_chain_pem(&self) -> Result<String, Error> {
        self.tls().chain_pem().await
    }

    /// A certificate signing request for the TLS key, as PEM, for a caller who is known as `by`, or as the holder of the unlock
    /// passphrase of a Failed member.
    ///
    /// # Errors
    /// [`Error::Precondition`] in another state.
    pub async fn tls_csr(&self, by: Option<&Caller>, subject: DistinguishedName) -> Result<String, Error> {
        match self.whose(by).await? {
            Some((op, _)) => op.config().tls_csr(subject).await,
            None => self.tls().csr(subject).await,
        }
    }

    /// Replaces the chain of TLS certificates for such a caller; new connections get it at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not a chain, does not belong to the TLS key, is not valid now, or cannot be served;
    /// [`Error::Precondition`] in another state, if the cluster CA has not signed it, or if other members would not accept it.
    pub async fn set_tls_chain(&self, by: Option<&Caller>, pem: &[u8]) -> Result<(), Error> {
        if let Some((op, by)) = self.whose(by).await? {
            return op.config().set_tls_chain(by, pem, self.now()).await;
        }
        // The right of this caller ends with the state, which nobody changes meanwhile. Whoever needs both locks takes this one first.
        let _guard = self.lock_transitions().await;
        self.whose(None).await?;
        let _changing = self.device.store.changing.lock().await;
        let authority = self.device.store.get(DevicePath::ClusterCa).await?.map(|der| der.to_vec());
        let identity = self.tls().with_chain(pem, authority, self.now()).await?;
        let fit = self.tls().fit(identity).await?;
        self.device.store.commit(fit.change()).await?;
        self.tls().serve(fit).await
    }

    fn tls(&self) -> DeviceTls<'_> {
        DeviceTls { device: &self.device, life: None }
    }

    /// The phase for a caller who has logged in. `None`: it is a Failed member, and nobody can.
    async fn whose<'a>(&self, by: Option<&'a Caller>) -> Result<Option<(Arc<Operational>, &'a Caller)>, Error> {
        match (&*self.phase(), by) {
            (Phase::Operational(op), Some(by)) => Ok(Some((op.clone(), by))),
            (Phase::Failed(_), None)
                if self.device.own_etcd().await?.is_some() && Joining::stored(&self.device.store).await?.is_none() =>
            {
                Ok(None)
            }
            _ => Err(wrong_state()),
        }
    }
}
