//! The TLS key and certificates of this device, and the CA that signs those of a cluster's members.
//!
//! A new key or chain is first checked by the host, then stored, then used for new connections. So the server never
//! switches to one that it cannot serve, and a crash in between leaves the old or the new.

use crate::rows::cluster_ca::ClusterCa;
use casemate_api::KeyType;
use casemate_api::body::config::TlsKeyType;
use casemate_api::body::keys::DistinguishedName;
use casemate_api::limits::RSA_GENERATE_BITS;
use jiff::Timestamp;

use super::chain::{chain_pem, is_authority, leads_to, parse_chain};
use super::device_tls::DeviceTls;
use super::peers;
use crate::config::Config;
use crate::crypto::material::Material;
use crate::crypto::mech::LoadedKey;
use crate::crypto::x509;
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::identity::caller::Caller;
use crate::identity::right;
use crate::identity::right::By;
use crate::platform::stores::StoreKeeper;
use crate::rows::path::{DevicePath, RowPath};
use crate::rows::tables::Tables;
use crate::rows::tls_identity::TlsIdentity;
use crate::rows::transaction::{Committed, Transaction};
use crate::runtime::Rng;
use crate::store::Revision;

/// Generates a key and a self-signed certificate with NetHSM's common name, valid from 1970 to 9999. `names` are its
/// alternative names, addresses with the prefix `IP:`. `bits` is the length of an RSA modulus, which takes seconds to
/// generate; other types ignore it.
pub fn fresh_identity(key_type: KeyType, bits: usize, rng: &dyn Rng, names: &[String]) -> Result<TlsIdentity, Error> {
    let material = Material::generate(key_type, bits, rng)?;
    let mut serial = [0; 16];
    rng.fill(&mut serial);
    let certificate = x509::self_signed_der(&LoadedKey::load(&material)?, "keyfender", names, serial)?;
    Ok(TlsIdentity { private_key: x509::pkcs8_der(&material)?, chain: vec![certificate] })
}

impl Config<'_> {
    fn tls(&self) -> DeviceTls<'_> {
        DeviceTls { device: self.device, life: Some(self.life) }
    }

    /// The public TLS key as PEM.
    pub async fn tls_public_key_pem(&self) -> Result<String, Error> {
        self.tls().public_key_pem().await
    }

    /// A certificate signing request for the TLS key, as PEM. The common name may be empty.
    pub async fn tls_csr(&self, subject: DistinguishedName) -> Result<String, Error> {
        self.tls().csr(subject).await
    }

    /// Replaces the chain of TLS certificates; new connections get it at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not a chain, does not belong to the TLS key, does not verify at the time `now`, or
    /// cannot be served; [`Error::Precondition`] if the cluster CA has not signed it.
    pub async fn set_tls_chain(&self, by: &Caller, pem: &[u8], now: Timestamp) -> Result<(), Error> {
        let _guard = self.device.store.changing.lock().await;
        let identity = self.tls().with_chain(pem, self.cluster_ca().await?, now).await?;
        self.serve_with(by, identity).await
    }

    /// Replaces the TLS key by a new one with a self-signed certificate; new connections get them at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an RSA length is missing or out of range, or the key cannot be served;
    /// [`Error::Precondition`] if a cluster CA is set, which has not signed the certificate.
    pub async fn generate_tls_key(&self, by: &Caller, key_type: TlsKeyType, length: Option<i64>) -> Result<(), Error> {
        let bits = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        if key_type == TlsKeyType::RSA && !RSA_GENERATE_BITS.contains(&bits) {
            return Err(Error::invalid_field("length", "Length must be between 1024 and 8192."));
        }
        // Checked before the work, because an RSA key takes seconds; checked again when it is stored.
        self.refuse_with_cluster_ca().await?;
        let (rng, names) = (self.device.platform.rng.clone(), self.device.platform.host.names());
        let make = move || fresh_identity(key_type.into(), bits, &*rng, &names);
        let identity = self.tls().off_thread(make).await??;
        let _guard = self.device.store.changing.lock().await;
        self.refuse_with_cluster_ca().await?;
        self.serve_with(by, identity).await
    }

    async fn refuse_with_cluster_ca(&self) -> Result<(), Error> {
        // A restore may have taken the CA away that the other members know this node by.
        match self.cluster_ca().await? {
            None if self.device.own_etcd().await?.is_none() => Ok(()),
            _ => Err(Error::Precondition("cannot generate cert if cluster CA has been set".into())),
        }
    }

    /// Checks, stores and serves, in this order. The caller holds the store's lock `changing`.
    async fn serve_with(&self, by: &Caller, identity: TlsIdentity) -> Result<(), Error> {
        let fit = self.tls().fit(identity).await?;
        self.commit_local(by, fit.change()).await?;
        self.tls().serve(fit).await
    }

    /// The cluster CA, in DER, if there is one.
    async fn cluster_ca(&self) -> Result<Option<Vec<u8>>, Error> {
        cluster_ca(self.tables).await
    }

    /// Writes the cluster CA to the device's own store as well, if there is one.
    pub(crate) async fn mirror_cluster_ca(&self, by: &Caller) -> Result<(), Error> {
        let _guard = self.device.store.changing.lock().await;
        match self.cluster_ca().await? {
            Some(authority) => {
                self.commit_local(by, DeviceStoreChange::default().put(DevicePath::ClusterCa, authority)).await
            }
            None => Ok(()),
        }
    }

    /// The cluster CA as PEM; `NotFound` if none is set.
    pub async fn cluster_ca_pem(&self) -> Result<String, Error> {
        let absent = || Error::NotFound(Some("cluster CA is absent unless configured".into()));
        chain_pem(&[self.cluster_ca().await?.ok_or_else(absent)?])
    }

    /// Sets the CA that must have signed the TLS certificate from now on. It can be replaced but not removed. Returns it in DER. If this
    /// node has or can have an etcd, that is `etcd`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not exactly one CA certificate; [`Error::Precondition`] if it has not signed the TLS
    /// certificate, at the time `now`, or if other members would not accept it.
    pub(crate) async fn set_cluster_ca(
        &self,
        by: &Caller,
        pem: &[u8],
        now: Timestamp,
        etcd: Option<&dyn StoreKeeper>,
    ) -> Result<Vec<u8>, Error> {
        let chain = parse_chain(pem)?;
        let [authority] = chain.as_slice() else { return Err(Error::invalid("Multiple certificates")) };
        if !is_authority(authority) {
            return Err(Error::invalid("The certificate is not that of an authority (basic constraints, key usage)."));
        }
        // Held so that no certificate that this CA has not signed is stored in between.
        let _guard = self.device.store.changing.lock().await;
        if !leads_to(&self.tls().identity().await?.chain, authority, now) {
            let sentence = "The TLS certificate is not signed by this CA. Install one that is first.";
            return Err(Error::Precondition(sentence.into()));
        }
        if let Some(etcd) = etcd {
            let identity = peers::identity(self.device, Some(authority.clone())).await?;
            let urls = etcd.urls(&identity).map_err(|why| Error::Precondition(why.0.into()))?;
            peers::check(&identity, &urls, self.device.wall())?;
        }
        let path = RowPath::cluster_ca(self.tables.generation);
        let before = self.tables.cluster_cas.read(&path).await?.map(|row| row.revision);
        let sealed = self.tables.cluster_cas.sealed(
            &path,
            before.unwrap_or_else(Revision::default),
            &ClusterCa(authority.clone()),
        )?;
        let transaction = Transaction::default().found(&path, before).put(sealed);
        match right::commit(self.tables, By::Caller(by), transaction).await? {
            Committed::At(_) => {
                tracing::info!(target: "hsm", "the cluster CA was set");
                Ok(authority.clone())
            }
            Committed::Conflict(_) => {
                Err(Error::Unavailable("The cluster CA was changed meanwhile. Try again.".into()))
            }
        }
    }
}

/// The cluster CA, in DER, if there is one.
pub(crate) async fn cluster_ca(tables: &Tables) -> Result<Option<Vec<u8>>, Error> {
    let row = tables.cluster_cas.read(&RowPath::cluster_ca(tables.generation)).await?;
    Ok(row.map(|row| row.record.0))
}
