//! What a list with details shows of many keys, read in few calls of the store.
//!
//! A row holds the private key only, under one seal with everything else. So a list opens each row, and derives the public key
//! from the private one: of RSA that is one multiplication, of a curve as long as loading the key. Neither the rows nor what is
//! derived from them is kept in the cache, where a list of all keys would take the place of those in use.

use std::sync::Arc;

use async_lock::Semaphore;
use base16ct::lower::encode_string;
use casemate_api::body::keys::{KeyDetails, Restrictions};
use casemate_api::limits::{KEY_DETAILS_READS_MAX, KEY_DETAILS_ROWS};
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

/// Whose turn it is to read rows for details, each of which may be as large as any row.
pub(crate) struct DetailsTurns(Semaphore);

impl Default for DetailsTurns {
    fn default() -> Self {
        Self(Semaphore::new(KEY_DETAILS_READS_MAX))
    }
}

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
