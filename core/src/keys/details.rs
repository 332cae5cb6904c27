//! What a list with details shows of many keys, read in few calls of the store.
//!
//! A row holds the private key only, under one seal with everything else. So a list opens each row, and derives the public key
//! from the private one: of RSA that is one multiplication, of a curve as long as loading the key. Neither the rows nor what is
//! derived from them is kept in the cache, where a list of all keys would take the place of those in use.

use std::sync::Arc;

use base16ct::lower::encode_string;
use casemate_api::body::keys::{KeyDetails, Restrictions};
use casemate_api::limits::KEY_DETAILS_ROWS;
use casemate_api::{KeyId, KeyType};

use crate::crypto::mech;
use crate::error::Error;
use crate::keys::Keys;
use crate::keys::context::Keyring;
use crate::keys::usable::{Key, public_parts};
use crate::rows::key::KeyRecord;
use crate::rows::table::Row;
use crate::runtime::party::Party;
use crate::runtime::pool::Work;
use crate::runtime::stall;

/// A key as a list with details shows it.
pub struct DescribedKey {
    /// All but the public key, until [`Keyring::add_public`] has added it.
    pub details: KeyDetails,
    /// What the public key is derived from; `None`: it has none, or it is in `details`.
    row: Option<Arc<Row<KeyRecord>>>,
}

impl Keys<'_> {
    /// Describes the first [`KEY_DETAILS_ROWS`] of `ids`, of which those are left out that do not exist any more or are not `wanted`.
    /// Fills no cache.
    pub async fn describe_many(
        &self,
        ids: &[KeyId],
        wanted: impl Fn(&Key) -> bool,
    ) -> Result<Vec<DescribedKey>, Error> {
        let ids = ids.get(..KEY_DETAILS_ROWS).unwrap_or(ids);
        let _turn = self.ring.state.details_turns.0.acquire().await;
        let paths: Vec<_> = ids.iter().map(|id| self.path(id)).collect();
        let rows = self.ring.tables.keys.get_many(&paths).await?;
        let found = ids.iter().zip(rows).filter_map(|(id, row)| Some(self.found(id.clone(), row?)));
        let keys: Vec<_> = found.filter(wanted).collect();
        let certificates: Vec<_> = keys.iter().map(|key| self.certificate_path(key.row.record.uid)).collect();
        let certificates = self.ring.tables.certificates.exist(&certificates).await?;
        Ok(keys.into_iter().zip(certificates).map(|(key, certificate)| DescribedKey::new(key, certificate)).collect())
    }
}

impl DescribedKey {
    fn new(key: Key, certificate: bool) -> Self {
        let record = &key.row.record;
        let details = KeyDetails {
            id: key.id.to_string(),
            uid: encode_string(&record.uid),
            mechanisms: record.mechanisms.list(),
            key_type: record.key_type(),
            public: None,
            restrictions: Restrictions { tags: record.tags.clone() },
            label: record.label.clone(),
            certificate,
        };
        let has_public = record.key_type() != KeyType::Generic;
        Self { details, row: has_public.then_some(key.row) }
    }
}

impl Keyring<'_> {
    /// Adds their public keys, which are derived on the pool for `party`. A key whose private part makes no sense has none: it is
    /// listed all the same, so that it can be found and deleted.
    pub async fn add_public(&self, party: Party, keys: &mut [DescribedKey]) -> Result<(), Error> {
        for part in keys.chunks_mut(KEY_DETAILS_ROWS) {
            let rows: Vec<_> =
                part.iter_mut().enumerate().filter_map(|(at, key)| Some((at, key.row.take()?))).collect();
            if rows.is_empty() {
                continue;
            }
            let derive = move || {
                stall::begins("deriving public keys");
                rows.iter().map(|(at, row)| (*at, mech::public_of(&row.record.material))).collect::<Vec<_>>()
            };
            for (at, public) in self.off_thread(Work::Crypto, party, derive).await? {
                let Some(DescribedKey { details, .. }) = part.get_mut(at) else { continue };
                match public {
                    Ok(public) => details.public = public_parts(public),
                    Err(why) => {
                        tracing::warn!(target: "hsm.key", "the public key of ({}) is not listed: {why}", details.id);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use casemate_api::body::keys::PublicParts;
    use casemate_api::limits::KEY_DETAILS_READS_MAX;
    use casemate_api::{Mechanism, Passphrase};
    use pollster::block_on;

    use super::*;
    use crate::Hsm;
    use crate::crypto::material::Material;
    use crate::crypto::mech::tests::any_key;
    use crate::crypto::secret::SecretBytes;
    use crate::hsm::phase::Operational;
    use crate::identity::caller::{Caller, Evidence};
    use crate::keys::{NewId, Properties};
    use crate::rows::key::Mechanisms;
    use crate::sim::Sim;

    fn world() -> (Arc<Operational>, Caller) {
        let hsm = block_on(Hsm::boot(Sim::new(1).platform())).unwrap();
        let secret = |text: &str| Passphrase::from_text(text.into());
        block_on(hsm.provision(secret("unlock passphrase"), secret("admin passphrase"), "2030-01-02T03:04:05Z"))
            .unwrap();
        let op = hsm.operational().unwrap();
        let evidence =
            Evidence::Basic { name: "admin", passphrase: "admin passphrase".as_bytes(), address: [10, 0, 0, 1].into() };
        let Ok(admin) = block_on(op.authenticate(evidence)) else { panic!("the admin is let in") };
        (op, admin)
    }

    fn id(text: &str) -> KeyId {
        KeyId::parse(text).unwrap()
    }

    fn create(op: &Operational, admin: &Caller, name: &str, material: Material) {
        let properties = Properties::new(Mechanisms::of(&[Mechanism::ECDSA_Signature]), String::new(), vec![]).unwrap();
        let keys = op.keys().managed_by(admin).unwrap();
        block_on(keys.create(NewId::Given(id(name)), material, properties)).unwrap();
    }

    fn described(op: &Operational, admin: &Caller, ids: &[KeyId]) -> Vec<KeyDetails> {
        block_on(async {
            let mut keys = op.keys().of(admin.scope().unwrap()).describe_many(ids, |_| true).await.unwrap();
            op.keys().add_public(admin.scope().unwrap().party(), &mut keys).await.unwrap();
            keys.into_iter().map(|key| key.details).collect()
        })
    }

    #[test]
    fn a_list_with_details_leaves_the_cache_to_the_keys_in_use() {
        let (op, admin) = world();
        let ids: Vec<_> = (0..KEY_DETAILS_ROWS).map(|n| id(&format!("k{n}"))).collect();
        for id in &ids {
            create(&op, &admin, id.as_str(), any_key(KeyType::EC_P256));
        }
        let before = op.tables.keys.cache_figures("keys").entries;
        let keys = described(&op, &admin, &ids);
        assert!(keys.iter().all(|key| matches!(key.public, Some(PublicParts::Data { .. }))), "{keys:?}");
        assert_eq!(keys.len(), KEY_DETAILS_ROWS);
        assert_eq!(op.tables.keys.cache_figures("keys").entries, before);
        assert_eq!(described(&op, &admin, &[id("k1"), id("missing"), id("k2")]).len(), 2);
    }

    #[test]
    fn a_key_without_a_public_key_does_not_hide_the_others() {
        let (op, admin) = world();
        create(&op, &admin, "a", any_key(KeyType::Generic));
        let zero = Material::Ec { key_type: KeyType::EC_P256, scalar: SecretBytes::from_slice(&[0; 32]) };
        create(&op, &admin, "b", zero);
        create(&op, &admin, "c", any_key(KeyType::EC_P256));
        let keys = described(&op, &admin, &[id("a"), id("b"), id("c")]);
        let public: Vec<_> = keys.iter().map(|key| (&*key.id, key.public.is_some())).collect();
        assert_eq!(public, [("a", false), ("b", false), ("c", true)]);
    }

    #[test]
    fn rows_are_in_the_memory_of_few_lists_at_once() {
        let (op, admin) = world();
        create(&op, &admin, "k", any_key(KeyType::EC_P256));
        let ids = [id("k")];
        let turns = &op.keys().state.details_turns.0;
        let mut held: Vec<_> = (0..KEY_DETAILS_READS_MAX).map(|_| turns.try_acquire().unwrap()).collect();
        let keys = op.keys().of(admin.scope().unwrap());
        let mut waiting = pin!(keys.describe_many(&ids, |_| true));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        held.pop();
        assert_eq!(block_on(waiting).unwrap().len(), 1);
        assert!(turns.try_acquire().is_some(), "and give it back");
    }
}
