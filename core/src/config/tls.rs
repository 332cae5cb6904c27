//! The TLS key and certificates of this device, and the authority that signs those of a cluster.
//!
//! A new key or chain goes this way: it is checked that the host can serve it, then it is stored, then connections get it.
//! So a server that runs never ends up with what nobody can connect to, and a crash in between leaves the old or the new.

use crate::rows::cluster_ca::ClusterCa;
use casemate_api::KeyType;
use casemate_api::body::config::TlsKeyType;
use casemate_api::body::keys::DistinguishedName;
use casemate_api::limits::RSA_GENERATE_BITS;
use der::pem::LineEnding;
use jiff::Timestamp;

use super::chain::{chain_pem, check_chain, is_authority, leads_to, parse_chain, public_key};
use crate::config::Config;
use crate::crypto::digest::sha256;
use crate::crypto::material::Material;
use crate::crypto::mech::Live;
use crate::crypto::x509;
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::identity::caller::Caller;
use crate::identity::right;
use crate::identity::right::By;
use crate::rows::path::{DevicePath, RowPath};
use crate::rows::tables::Tables;
use crate::rows::tls_identity::TlsIdentity;
use crate::rows::transaction::{Committed, Transaction};
use crate::runtime::Rng;
use crate::runtime::party::Party;
use crate::runtime::pool::Work;
use crate::store::Revision;

/// A key and a certificate signed by itself, named as NetHSM's is, valid from 1970 to 9999. `names` are its alternative
/// names, addresses with `IP:` in front. `bits` is the length of an RSA modulus, which takes its time; other types ignore
/// it.
pub fn fresh_identity(key_type: KeyType, bits: usize, rng: &dyn Rng, names: &[String]) -> Result<TlsIdentity, Error> {
    let material = Material::generate(key_type, bits, rng)?;
    let mut serial = [0; 16];
    rng.fill(&mut serial);
    let certificate = x509::self_signed_der(&Live::load(&material)?, "keyfender", names, serial)?;
    Ok(TlsIdentity { private_key: x509::pkcs8_der(&material)?, chain: vec![certificate] })
}

impl Config<'_> {
    async fn identity(&self) -> Result<TlsIdentity, Error> {
        let stored =
            self.device.store.get(DevicePath::Tls).await?.ok_or(Error::internal("there is no TLS identity"))?;
        TlsIdentity::decode(&stored).map_err(|why| Error::internal(format!("the TLS identity: {why}")))
    }

    /// The public TLS key: the one in the certificate, which is always of the key.
    pub async fn tls_public_key_pem(&self) -> Result<String, Error> {
        let der = leaf_key(&self.identity().await?)?;
        der::pem::encode_string("PUBLIC KEY", LineEnding::LF, &der)
            .map_err(|why| Error::internal(format!("PEM: {why}")))
    }

    /// The chain of TLS certificates, the server's own first.
    pub async fn tls_chain_pem(&self) -> Result<String, Error> {
        chain_pem(&self.identity().await?.chain)
    }

    /// A certificate signing request for the TLS key. Any common name will do, an empty one, too.
    pub async fn tls_csr(&self, subject: DistinguishedName) -> Result<String, Error> {
        let identity = self.identity().await?;
        let sign = move || {
            let unreadable = |why: Error| Error::internal(format!("the stored TLS key: {why}"));
            let material = Material::from_pkcs8(&identity.private_key).map_err(unreadable)?;
            x509::csr_pem(&Live::load(&material)?, &subject)
        };
        // The primes of an RSA key are tested as it is read.
        self.life.off_thread(&*self.device.platform.pool, Work::Slow, Party::ROOT, sign).await?
    }

    /// Replaces the chain of TLS certificates; connections from now on get the new one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no chain, not of the TLS key, does not hold together at the time `now`, or cannot be
    /// served; [`Error::Precondition`] if it does not lead to the cluster CA.
    pub async fn set_tls_chain(&self, by: &Caller, pem: &[u8], now: Timestamp) -> Result<(), Error> {
        let chain = parse_chain(pem)?;
        let _guard = self.device.store.changing.lock().await;
        let (old, authority) = (self.identity().await?, self.cluster_ca().await?);
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
        let identity = self.life.off_thread(&*self.device.platform.pool, Work::Slow, Party::ROOT, checked).await??;
        self.serve_with(by, identity).await
    }

    /// Replaces the TLS key by a new one, with a certificate signed by itself; connections from now on get them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an RSA length that is missing or out of bounds, and for a key that cannot be served;
    /// [`Error::Precondition`] once a cluster CA is set, which would not have signed the certificate.
    pub async fn generate_tls_key(&self, by: &Caller, key_type: TlsKeyType, length: Option<i64>) -> Result<(), Error> {
        let bits = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        if key_type == TlsKeyType::RSA && !RSA_GENERATE_BITS.contains(&bits) {
            return Err(Error::invalid("Length must be between 1024 and 8192."));
        }
        // Asked before the work, for an RSA key takes seconds; asked again when it is stored.
        self.refuse_with_cluster_ca().await?;
        let (rng, names) = (self.device.platform.rng.clone(), self.device.platform.host.names());
        let make = move || fresh_identity(key_type.into(), bits, &*rng, &names);
        let identity = self.life.off_thread(&*self.device.platform.pool, Work::Slow, Party::ROOT, make).await??;
        let _guard = self.device.store.changing.lock().await;
        self.refuse_with_cluster_ca().await?;
        self.serve_with(by, identity).await
    }

    async fn refuse_with_cluster_ca(&self) -> Result<(), Error> {
        match self.cluster_ca().await? {
            None => Ok(()),
            Some(_) => Err(Error::Precondition("cannot generate cert if cluster CA has been set".into())),
        }
    }

    /// Checks, stores and serves, in this order. The caller holds `local.changing`.
    async fn serve_with(&self, by: &Caller, identity: TlsIdentity) -> Result<(), Error> {
        let host = self.device.platform.host.clone();
        // Reading a large RSA key takes its time.
        let fit = move || host.serve_with(&identity).map(|swap| (identity, swap));
        let (identity, swap) = self
            .life
            .off_thread(&*self.device.platform.pool, Work::Slow, Party::ROOT, fit)
            .await?
            .map_err(|why| Error::invalid(why.to_string()))?;
        self.commit_local(by, DeviceStoreChange::default().put(DevicePath::Tls, identity.encode().to_vec())).await?;
        swap();
        let fingerprint = identity.chain.first().map(|leaf| sha256(leaf)).unwrap_or_default();
        let hex = base16ct::upper::encode_string(&fingerprint);
        tracing::info!(target: "hsm", "the TLS certificate is now the one with SHA-256 {hex}");
        Ok(())
    }

    /// The cluster CA, in DER, if there is one.
    async fn cluster_ca(&self) -> Result<Option<Vec<u8>>, Error> {
        cluster_ca(self.tables).await
    }

    /// The cluster CA; `NotFound` with a sentence while there is none.
    pub async fn cluster_ca_pem(&self) -> Result<String, Error> {
        let absent = || Error::NotFound(Some("cluster CA is absent unless configured".into()));
        chain_pem(&[self.cluster_ca().await?.ok_or_else(absent)?])
    }

    /// Sets the authority that must have signed the TLS certificate, from now on; it can be replaced and not taken away.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not one certificate of an authority; [`Error::Precondition`] if the TLS certificate does
    /// not lead to it at the time `now`.
    pub async fn set_cluster_ca(&self, by: &Caller, pem: &[u8], now: Timestamp) -> Result<(), Error> {
        let chain = parse_chain(pem)?;
        let [authority] = chain.as_slice() else { return Err(Error::invalid("Multiple certificates")) };
        if !is_authority(authority) {
            return Err(Error::invalid("The certificate is not that of an authority (basic constraints, key usage)."));
        }
        // Held so that no certificate which this authority has not signed comes in between.
        let _guard = self.device.store.changing.lock().await;
        if !leads_to(&self.identity().await?.chain, authority, now) {
            let sentence = "The TLS certificate is not signed by this CA. Install one that is first.";
            return Err(Error::Precondition(sentence.into()));
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
                Ok(())
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

/// The public key of the certificate in front.
fn leaf_key(identity: &TlsIdentity) -> Result<Vec<u8>, Error> {
    public_key(identity.chain.first().ok_or(Error::internal("the TLS chain is empty"))?)
}
