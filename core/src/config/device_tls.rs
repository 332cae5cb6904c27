//! The TLS key and certificates of this device, in any phase. Who may change them is for the caller to know.

use casemate_api::body::keys::DistinguishedName;
use der::pem::LineEnding;
use jiff::Timestamp;

use super::chain::{chain_pem, check_chain, leads_to, parse_chain, public_key};
use super::peers;
use crate::crypto::digest::sha256;
use crate::crypto::material::Material;
use crate::crypto::mech::LoadedKey;
use crate::crypto::x509;
use crate::device::Device;
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::platform::Swap;
use crate::platform::stores::PeerIdentity;
use crate::rows::path::DevicePath;
use crate::rows::tls_identity::TlsIdentity;
use crate::runtime::lifetime::Lifetime;
use crate::runtime::party::Party;
use crate::runtime::pool::{Work, run_on};

/// The TLS key and certificates of a device.
pub(crate) struct DeviceTls<'a> {
    pub(crate) device: &'a Device,
    /// The phase whose end ends long work. `None`: none does.
    pub(crate) life: Option<&'a Lifetime>,
}

/// A key and chain that are known to be served when they are stored.
pub(crate) struct Fit {
    identity: TlsIdentity,
    swap: Swap,
}

impl Fit {
    /// What stores them.
    pub(crate) fn change(&self) -> DeviceStoreChange {
        DeviceStoreChange::default().put(DevicePath::Tls, self.identity.encode().to_vec())
    }
}

impl DeviceTls<'_> {
    /// What is served now.
    pub(crate) async fn identity(&self) -> Result<TlsIdentity, Error> {
        let stored =
            self.device.store.get(DevicePath::Tls).await?.ok_or(Error::internal("there is no TLS identity"))?;
        TlsIdentity::decode(&stored).map_err(|why| Error::internal(format!("the TLS identity: {why}")))
    }

    /// The public key as PEM. Read from the certificate, which always belongs to the key.
    pub(crate) async fn public_key_pem(&self) -> Result<String, Error> {
        let der = leaf_key(&self.identity().await?)?;
        der::pem::encode_string("PUBLIC KEY", LineEnding::LF, &der)
            .map_err(|why| Error::internal(format!("PEM: {why}")))
    }

    /// The chain of certificates as PEM, the server's own first.
    pub(crate) async fn chain_pem(&self) -> Result<String, Error> {
        chain_pem(&self.identity().await?.chain)
    }

    /// A certificate signing request for the key, as PEM. The common name may be empty.
    pub(crate) async fn csr(&self, subject: DistinguishedName) -> Result<String, Error> {
        let identity = self.identity().await?;
        let sign = move || {
            let unreadable = |why: Error| Error::internal(format!("the stored TLS key: {why}"));
            let material = Material::from_pkcs8(&identity.private_key).map_err(unreadable)?;
            x509::csr_pem(&LoadedKey::load(&material)?, &subject)
        };
        // Reading an RSA key tests its primes, which is slow.
        self.off_thread(sign).await?
    }

    /// The key with another chain. `authority` is the cluster CA, if there is one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not a chain, does not belong to the key, or does not verify at the time `now`;
    /// [`Error::Precondition`] if the cluster CA has not signed it, or other members would not accept it.
    pub(crate) async fn with_chain(
        &self,
        pem: &[u8],
        authority: Option<Vec<u8>>,
        now: Timestamp,
    ) -> Result<TlsIdentity, Error> {
        let chain = parse_chain(pem)?;
        let old = self.identity().await?;
        let checked = move || {
            let leaf = chain.first().ok_or(Error::invalid("No certificate"))?;
            if public_key(leaf)? != leaf_key(&old)? {
                return Err(Error::invalid("public key in certificate does not match private key."));
            }
            check_chain(&chain, now)?;
            if authority.is_some_and(|authority| !leads_to(&chain, &authority, now)) {
                return Err(Error::Precondition("The certificate is not signed by the cluster CA.".into()));
            }
            Ok(TlsIdentity { private_key: old.private_key, chain })
        };
        let identity = self.off_thread(checked).await??;
        if let Some(keeper) = self.device.own_etcd().await? {
            let peer = peers::identity(self.device, None).await?;
            let peer = PeerIdentity { tls: TlsIdentity { chain: identity.chain.clone(), ..peer.tls }, ..peer };
            let urls = keeper.urls(&peer).map_err(|why| Error::Precondition(why.0.into()))?;
            peers::check(&peer, &urls, self.device.wall())?;
        }
        Ok(identity)
    }

    /// Checks that it can be served. The caller stores it and then calls [`DeviceTls::serve`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if it cannot.
    pub(crate) async fn fit(&self, identity: TlsIdentity) -> Result<Fit, Error> {
        let host = self.device.platform.host.clone();
        // Reading a large RSA key is slow.
        let fit = move || host.serve_with(&identity).map(|swap| Fit { identity, swap });
        self.off_thread(fit).await?.map_err(|why| Error::invalid(why.to_string()))
    }

    /// Uses what was stored for new connections, of clients and of other members.
    pub(crate) async fn serve(&self, Fit { identity, swap }: Fit) -> Result<(), Error> {
        swap();
        if let Some(keeper) = self.device.own_etcd().await? {
            keeper.renew(peers::identity(self.device, None).await?);
        }
        let fingerprint = identity.chain.first().map(|leaf| sha256(leaf)).unwrap_or_default();
        let hex = base16ct::upper::encode_string(&fingerprint);
        tracing::info!(target: "hsm", "the TLS certificate is now the one with SHA-256 {hex}");
        Ok(())
    }

    /// Runs slow work on the pool.
    pub(super) async fn off_thread<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let pool = &*self.device.platform.pool;
        match self.life {
            Some(life) => life.off_thread(pool, Work::Slow, Party::ROOT, job).await,
            None => run_on(pool, Work::Slow, Party::ROOT, job).await,
        }
    }
}

/// The public key of the server's own certificate, as the DER of its SubjectPublicKeyInfo.
fn leaf_key(identity: &TlsIdentity) -> Result<Vec<u8>, Error> {
    public_key(identity.chain.first().ok_or(Error::internal("the TLS chain is empty"))?)
}
