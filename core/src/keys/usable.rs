//! Who may use a key, and how: the checks before a private key is used: it is found as a [`Key`], then the tags of its restriction are checked,
//! then its list of mechanisms. Each check returns a type that nothing else creates, so that a forgotten check does not
//! compile.

use std::sync::Arc;

use casemate_api::KeyId;
use casemate_api::body::keys as body;
use casemate_api::body::keys::{PublicParts, Restrictions};
use casemate_api::mechanisms::{self, Mode};
use zeroize::Zeroizing;

use base16ct::lower::encode_string;
use base64ct::{Base64, Encoding};

use crate::crypto::material::loads_quickly;
use crate::crypto::mech::{self, LoadedKey, Public};
use crate::crypto::x509;
use crate::error::Error;
use crate::identity::caller::Caller;
use crate::keys::context::Keyring;
use crate::rows::index::Search;
use crate::rows::key::KeyRecord;
use crate::rows::path::{KeyRef, NamespaceNumber, RowPath};
use crate::rows::table::Row;
use crate::runtime::party::Party;
use crate::runtime::pool::Work;

/// A key that exists in the caller's scope.
pub struct Key {
    /// Its id.
    pub id: KeyId,
    pub(crate) namespace: NamespaceNumber,
    pub(crate) row: Arc<Row<KeyRecord>>,
}

/// A key whose restriction the caller meets.
pub struct UsableKey(Key);

/// Permission to perform one mode with one key.
pub struct Permit {
    key: Key,
    mode: Mode,
}

impl Keyring<'_> {
    /// Looks at caller and key again after [`Key::usable_by`] has refused: a tag that was given at another node, or another key
    /// that was put in the place of this one, may not have reached the cached rows yet.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if the restriction is not met; [`Error::Unauthenticated`] if the caller is not the same any more;
    /// [`Error::NotFound`] if there is no key of this id.
    pub async fn usable_after_all(&self, caller: &Caller, key: Key) -> Result<UsableKey, Error> {
        let generation = self.tables.generation;
        let user = self.tables.users.refresh(&RowPath::user(generation, &caller.id)).await?;
        let user = user.filter(|now| caller.record().is_as(&now.record)).ok_or(Error::Unauthenticated)?;
        let row = self.tables.keys.refresh(&RowPath::key(generation, key.namespace, &key.id)).await?;
        let key = Key { row: row.ok_or_else(Error::not_found)?, ..key };
        let tags = key.tags();
        if tags.is_empty() || tags.iter().any(|tag| user.record.tags.contains(tag)) {
            Ok(UsableKey(key))
        } else {
            Err(Error::Forbidden(Some("tags restriction not met".into())))
        }
    }
}

impl Key {
    /// Checks the restriction: without tags every Operator may use the key, otherwise only one that has one of the
    /// tags. The key comes back if the caller has none of them, as far as the caches know: see
    /// [`Keyring::usable_after_all`].
    pub fn usable_by(self, caller: &Caller) -> Result<UsableKey, Key> {
        if caller.has_one_of(&self.row.record.tags) { Ok(UsableKey(self)) } else { Err(self) }
    }

    pub(crate) fn key(&self) -> KeyRef {
        KeyRef { namespace: self.namespace, uid: self.row.record.uid }
    }

    /// The label; empty: none.
    pub fn label(&self) -> &str {
        &self.row.record.label
    }

    /// Whether a search means this key.
    pub fn is_meant_by(&self, search: &Search) -> bool {
        search.wants(&self.row.record)
    }

    /// The tags of its restriction, sorted.
    pub fn tags(&self) -> &[String] {
        &self.row.record.tags
    }

    /// The body of `GET /keys/{id}`.
    pub async fn describe(&self, ring: Keyring<'_>) -> Result<body::Key, Error> {
        let record = &self.row.record;
        Ok(body::Key {
            mechanisms: record.mechanisms.list(),
            key_type: record.key_type(),
            operations: ring.operations(self.key()).await?,
            public: public_parts(loaded(ring, self.namespace, &self.row).await?.public()),
            restrictions: Restrictions { tags: record.tags.clone() },
            label: record.label.clone(),
            uid: encode_string(&record.uid),
        })
    }

    /// The public key as PEM (RFC 7468 §13). `Invalid` for Generic keys.
    pub async fn public_pem(&self, ring: Keyring<'_>) -> Result<String, Error> {
        let pem = loaded(ring, self.namespace, &self.row).await?.public().spki_pem();
        pem.ok_or_else(|| Error::invalid("Generic keys have no public key"))
    }

    /// A certificate signing request (RFC 2986). It does not count as a use of the key: neither mechanisms nor tags are
    /// checked. Runs on the pool, because large RSA keys are slow.
    pub async fn csr(&self, ring: Keyring<'_>, subject: body::DistinguishedName) -> Result<String, Error> {
        if subject.common_name.is_empty() {
            return Err(Error::invalid_field("commonName", "JSON field commonName is empty."));
        }
        let loaded = loaded(ring, self.namespace, &self.row).await?;
        ring.off_thread(Work::Crypto, Party::Namespace(self.namespace), move || x509::csr_pem(&loaded, &subject))
            .await?
    }
}

impl UsableKey {
    /// Checks the key's list of mechanisms. `Invalid` if it does not allow the mode.
    pub fn permit(self, mode: Mode) -> Result<Permit, Error> {
        if !self.0.row.record.mechanisms.contains(mechanisms::of_mode(mode)) {
            let what = match mode {
                Mode::Sign(_) => "signing",
                Mode::Decrypt(_) => "decryption",
                Mode::Encrypt(_) => "encryption",
            };
            return Err(Error::invalid_field("mode", format!("Key mechanisms do not allow requested {what}.")));
        }
        Ok(Permit { key: self.0, mode })
    }
}

impl Permit {
    /// Performs the operation, on this thread or on the pool as the mechanism table states, and counts it if it
    /// succeeds.
    pub async fn run(
        self,
        ring: Keyring<'_>,
        input: Zeroizing<Vec<u8>>,
        iv: Option<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        ring.life.retired.check()?;
        let Permit { key, mode } = self;
        let loaded = loaded(ring, key.namespace, &key.row).await?;
        let material = &key.row.record.material;
        // A mode that the key's type does not have gives an error at once.
        let short = mechanisms::find(material.key_type(), mode)
            .is_none_or(|row| row.is_short(material.rsa_bits(), input.len()));
        let output = if short {
            mech::run(&loaded, mode, &input, iv.as_deref())?
        } else {
            let job = move || mech::run(&loaded, mode, &input, iv.as_deref());
            // Boxed, so that the future of a short operation is small: it is moved and wiped with each request.
            Box::pin(ring.off_thread(Work::Crypto, Party::Namespace(key.namespace), job)).await??
        };
        ring.state.counters.count(key.key(), &key.id, key.row.revision);
        Ok(output)
    }
}

/// The private key, ready to use. Loaded at first use only, on the pool unless that is quick.
async fn loaded(
    ring: Keyring<'_>,
    namespace: NamespaceNumber,
    row: &Arc<Row<KeyRecord>>,
) -> Result<Arc<LoadedKey>, Error> {
    let load = async || {
        if loads_quickly(row.record.key_type()) {
            return Ok(LoadedKey::load(&row.record.material)?);
        }
        let row = row.clone();
        let job = move || LoadedKey::load(&row.record.material);
        // Boxed because it is rare.
        Ok(Box::pin(ring.off_thread(Work::Crypto, Party::Namespace(namespace), job)).await??)
    };
    row.record.loaded(load).await
}

/// The public key as the API shows it; `None` for Generic keys.
pub(crate) fn public_parts(public: Public) -> Option<PublicParts> {
    let text = Base64::encode_string;
    match public {
        Public::Rsa { n, e } => Some(PublicParts::Rsa { modulus: text(&n), public_exponent: text(&e) }),
        Public::Ec { point, .. } => Some(PublicParts::Data { data: text(&point) }),
        Public::Ed25519(point) => Some(PublicParts::Data { data: text(&point) }),
        Public::None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Waker};

    use casemate_api::words::SignMode;
    use casemate_api::{KeyType, Mechanism, Passphrase};
    use pollster::block_on;

    use super::*;
    use crate::Hsm;
    use crate::crypto::mech::tests::any_key;
    use crate::hsm::phase::Operational;
    use crate::identity::caller::Evidence;
    use crate::keys::{ManagedKeys, NewId, Properties};
    use crate::platform::Platform;
    use crate::rows::key::Mechanisms;
    use crate::rows::record::Record;
    use crate::runtime::pool::{Job, Pool};
    use crate::runtime::stall::begun_here;
    use crate::sim::Sim;

    /// Runs jobs at once, or holds them back.
    #[derive(Default)]
    struct Valve {
        holding: AtomicBool,
        held: Mutex<Vec<Job>>,
    }

    impl Pool for Valve {
        fn spawn(&self, _: Work, _: Party, job: Job) {
            if self.holding.load(Ordering::Relaxed) {
                self.held.lock().unwrap().push(job);
            } else {
                job();
            }
        }
    }

    /// An Operational HSM with the RSA key `k`, an Administrator, and the pool.
    fn world() -> (Arc<Operational>, Caller, Arc<Valve>) {
        let (sim, pool) = (Sim::new(1), Arc::new(Valve::default()));
        let hsm = block_on(Hsm::boot(Platform { pool: pool.clone(), ..sim.platform() })).unwrap();
        let secret = |text: &str| Passphrase::from_text(text.into());
        block_on(hsm.provision(secret("unlock passphrase"), secret("admin passphrase"), "2030-01-02T03:04:05Z"))
            .unwrap();
        let op = hsm.operational().unwrap();
        let evidence =
            Evidence::Basic { name: "admin", passphrase: "admin passphrase".as_bytes(), address: [10, 0, 0, 1].into() };
        let Ok(admin) = block_on(op.authenticate(evidence)) else { panic!("the admin is let in") };
        let mechanisms = Mechanisms::of(&[Mechanism::RSA_Signature_PKCS1]);
        let properties = Properties::new(mechanisms, String::new(), vec![]).unwrap();
        let keys = op.keys().managed_by(&admin).unwrap();
        block_on(keys.create(NewId::Given(id("k")), any_key(KeyType::RSA), properties)).unwrap();
        (op, admin, pool)
    }

    async fn found(keys: &ManagedKeys<'_>, text: &str) -> Key {
        keys.get(&id(text)).await.unwrap().unwrap()
    }

    fn id(text: &str) -> KeyId {
        KeyId::parse(text).unwrap()
    }

    async fn sign(op: &Operational, admin: &Caller, id: &KeyId) {
        let key = op.keys().of(admin.scope().unwrap()).get(id).await.unwrap().unwrap();
        let permit = Permit { key, mode: Mode::Sign(SignMode::PKCS1) };
        permit.run(op.keys(), Zeroizing::new(vec![7; 51]), None).await.unwrap();
    }

    #[test]
    fn changes_to_other_properties_do_not_reload_the_key() {
        let (op, admin, _) = world();
        let keys = op.keys().managed_by(&admin).unwrap();
        let before = begun_here("loading a key");
        block_on(async {
            sign(&op, &admin, &id("k")).await;
            keys.set_label(&id("k"), "a label").await.unwrap();
            sign(&op, &admin, &id("k")).await;
            keys.add_tag(&id("k"), "a").await.unwrap();
            keys.add_tag(&id("k"), "b").await.unwrap();
            sign(&op, &admin, &id("k")).await;
            keys.set_certificate(&id("k"), vec![1]).await.unwrap();
            keys.rename(&found(&keys, "k").await, &id("l")).await.unwrap();
            sign(&op, &admin, &id("l")).await;
            keys.remove_tag(&id("l"), "a").await.unwrap();
            keys.rename(&found(&keys, "l").await, &id("k")).await.unwrap();
            sign(&op, &admin, &id("k")).await;
        });
        assert_eq!(begun_here("loading a key") - before, 1);
        let figures = op.tables.keys.cache_figures("keys");
        let weight = block_on(keys.get(&id("k"))).unwrap().unwrap().row.record.weight();
        assert_eq!(figures.entries, 1);
        assert!((weight..weight + 200).contains(&figures.bytes), "{figures:?} of {weight}");
    }

    #[test]
    fn a_watch_that_hears_of_a_change_before_its_commit_has_returned_does_not_have_a_key_loaded_again() {
        let (op, admin, _) = world();
        let keys = op.keys().managed_by(&admin).unwrap();
        block_on(sign(&op, &admin, &id("k")));
        let before = begun_here("loading a key");
        let path = crate::rows::path::RowPath::key(op.tables.generation, 0, &id("k"));
        let revision = block_on(keys.get(&id("k"))).unwrap().unwrap().row.revision;
        let next = crate::store::Revision(revision.0 + 1);
        op.tables.apply_event(&crate::store::Event::Changed { path: path.path().clone(), revision: next });
        block_on(sign(&op, &admin, &id("k")));
        assert_eq!(begun_here("loading a key") - before, 0);
    }

    #[test]
    fn a_new_key_under_the_same_id_is_loaded_separately() {
        let (op, admin, _) = world();
        let keys = op.keys().managed_by(&admin).unwrap();
        let before = begun_here("loading a key");
        let modulus = |key: Key| block_on(key.public_pem(op.keys())).unwrap();
        let first = modulus(block_on(keys.get(&id("k"))).unwrap().unwrap());
        block_on(async { keys.delete(&found(&keys, "k").await).await }).unwrap();
        assert_eq!(op.tables.keys.cache_figures("keys").entries, 0, "nothing of a deleted key stays in memory");
        let properties = Properties::new(Mechanisms::default(), String::new(), vec![]).unwrap();
        let other = crate::crypto::material::Material::generate(KeyType::RSA, 1024, &*op.device.platform.rng).unwrap();
        block_on(keys.create(NewId::Given(id("k")), other, properties)).unwrap();
        assert!(first != modulus(block_on(keys.get(&id("k"))).unwrap().unwrap()));
        assert_eq!(begun_here("loading a key") - before, 2);
    }

    #[test]
    fn concurrent_requests_load_a_key_once() {
        let (op, admin, pool) = world();
        let name = id("k");
        pool.holding.store(true, Ordering::Relaxed);
        let held = || pool.held.lock().unwrap().len();
        let (mut one, mut two) = (pin!(sign(&op, &admin, &name)), pin!(sign(&op, &admin, &name)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(one.as_mut().poll(&mut context).is_pending() && two.as_mut().poll(&mut context).is_pending());
        assert_eq!(held(), 1, "the loading");
        let load = pool.held.lock().unwrap().pop().unwrap();
        load();
        assert!(one.as_mut().poll(&mut context).is_pending() && two.as_mut().poll(&mut context).is_pending());
        assert_eq!(held(), 2, "the two signatures");
        for job in pool.held.lock().unwrap().drain(..) {
            job();
        }
        block_on(async { (one.await, two.await) });
    }

    #[test]
    fn a_request_abandoned_while_a_key_loads_leaves_the_loading_to_the_next() {
        let (op, admin, pool) = world();
        let name = id("k");
        pool.holding.store(true, Ordering::Relaxed);
        {
            let mut gone = pin!(sign(&op, &admin, &name));
            assert!(gone.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        pool.holding.store(false, Ordering::Relaxed);
        block_on(sign(&op, &admin, &name));
    }
}
