//! The joiner kit: what a further node needs to use the rows of a cluster. In NetHSM's form, the base64 of a JSON object whose
//! values are base64, with two more members:
//!
//! | member | value |
//! |---|---|
//! | `backup_salt` | salt of the backup passphrase, in clear |
//! | `unlock_salt` | salt of the unlock passphrase, sealed under the Backup Key, associated data `unlock-salt` |
//! | `locked_domain_key` | slot 0 of the node that made the kit, sealed under the Backup Key, associated data `domain-key`, `cluster` and `ahead` |
//! | `cluster` | which cluster it is, in clear; not in NetHSM's kits |
//! | `ahead` | by how much revisions are ahead of those of the etcd, 8 bytes, in clear; not in NetHSM's kits |
//!
//! NetHSM has `domain-key` alone as associated data; a kit for one is of no use for the other in any case, as their stores differ.
//! Whoever has a kit needs the backup passphrase and the unlock passphrase to get at the Domain Key.

use base64ct::{Base64, Encoding};
use casemate_api::SecretText;
use zeroize::Zeroizing;

use crate::backup::Backups;
use crate::backup::envelope::Sealer;
use crate::backup::format::Field;
use crate::backup::json::{Members, Value};
use crate::backup::nethsm::{BadValue, base64};
use crate::backup::read::LOCKED_DOMAIN_KEY_BYTES;
use crate::crypto::seal;
use crate::crypto::secret::BackupKey;
use crate::device::place::StorePlace;
use crate::device::slots::{Slot0, SlotSet};
use crate::error::Error;
use crate::rows::cluster_id::ClusterId;
use crate::rows::path::DevicePath;

const UNSET: &str =
    "No backup passphrase is set, and it protects the joiner kit. Set one with PUT /config/backup-passphrase first.";

/// Associated data of the salt's seal.
const UNLOCK_SALT_LABEL: &str = "unlock-salt";

/// A joiner kit, as it was sent.
pub(crate) struct JoinerKit {
    /// Salt of the backup passphrase.
    pub(crate) backup_salt: [u8; 16],
    /// The cluster whose rows the Domain Key in the kit opens.
    pub(crate) cluster: ClusterId,
    /// By how much revisions are ahead of those of the etcd itself.
    pub(crate) ahead: u64,
    unlock_salt: Vec<u8>,
    locked_domain_key: Vec<u8>,
}

impl Backups<'_> {
    /// Checks that there is a backup passphrase, which protects joiner kits.
    ///
    /// # Errors
    /// [`Error::Precondition`] if there is none.
    pub(crate) async fn check_passphrase_is_set(&self) -> Result<(), Error> {
        self.secret().await?.map(|_| ()).ok_or_else(|| Error::Precondition(UNSET.into()))
    }

    /// A joiner kit of this node.
    ///
    /// # Errors
    /// [`Error::Precondition`] if no backup passphrase is set.
    pub(crate) async fn joiner_kit(&self) -> Result<SecretText, Error> {
        let secret = self.secret().await?.ok_or_else(|| Error::Precondition(UNSET.into()))?;
        let store = &self.ring.device.store;
        let slot = Slot0::steady(store).await?;
        let cluster = store.get(DevicePath::Cluster).await?.and_then(|bytes| ClusterId::from_bytes(&bytes));
        let cluster = cluster.ok_or_else(|| Error::internal("the row of the cluster is missing or damaged"))?;
        let ahead = StorePlace::stored(store).await?.ahead;
        let sealer = Sealer::new(secret.record.key.expose());
        let kit = JoinerKit {
            backup_salt: secret.record.salt,
            cluster,
            ahead,
            unlock_salt: sealer.seal(UNLOCK_SALT_LABEL.as_bytes(), &slot.salt),
            locked_domain_key: sealer.seal(&domain_key_label(&cluster, ahead), &slot.inner),
        };
        Ok(kit.write())
    }
}

impl JoinerKit {
    fn write(&self) -> SecretText {
        let text = |bytes: &[u8]| Value::Text(base64(bytes));
        let kit = Value::object(vec![
            ("backup_salt", text(&self.backup_salt)),
            ("unlock_salt", text(&self.unlock_salt)),
            ("locked_domain_key", text(&self.locked_domain_key)),
            ("cluster", text(self.cluster.bytes())),
            ("ahead", text(&self.ahead.to_be_bytes())),
        ]);
        SecretText::from_text(Base64::encode_string(&kit.write()))
    }

    /// Reads a kit. Nothing in it is authenticated yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is malformed, or one of a NetHSM.
    pub(crate) fn read(text: &SecretText) -> Result<Self, Error> {
        let read = || -> Result<Self, BadValue> {
            let mut members = Members::of(Value::read(&decode(text.expose().as_bytes())?)?)?;
            let mut bytes = |name| decode(&members.required(name)?.into_bytes()?);
            let backup_salt = bytes("backup_salt")?;
            let ahead = bytes("ahead")?;
            let kit = Self {
                // Behind it there must be room for the revisions of the cluster.
                ahead: <[u8; 8]>::try_from(ahead.as_slice())
                    .map(u64::from_be_bytes)
                    .ok()
                    .filter(|ahead| *ahead < u64::MAX / 4)
                    .ok_or(BadValue("its number of revisions makes no sense"))?,
                backup_salt: backup_salt
                    .as_slice()
                    .try_into()
                    .map_err(|_| BadValue("its salt does not have 16 bytes"))?,
                unlock_salt: bytes("unlock_salt")?.to_vec(),
                locked_domain_key: bytes("locked_domain_key")?.to_vec(),
                cluster: ClusterId::from_bytes(&bytes("cluster")?)
                    .ok_or(BadValue("its cluster is of an unknown form"))?,
            };
            members.end()?;
            Ok(kit)
        };
        read().map_err(|_| Error::invalid("joinerKit is not a joiner kit of Casemate."))
    }

    /// Opens slot 0 of the node that made the kit. `None`: `key` is not from the right backup passphrase.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the key is right and the kit damaged.
    pub(crate) fn open(&self, key: &BackupKey) -> Result<Option<Slot0>, Error> {
        let Ok(salt) = seal::open(key.expose(), UNLOCK_SALT_LABEL.as_bytes(), &self.unlock_salt) else {
            return Ok(None);
        };
        let damaged = || Error::invalid("The joiner kit is damaged.");
        let label = domain_key_label(&self.cluster, self.ahead);
        let inner = seal::open(key.expose(), &label, &self.locked_domain_key).map_err(|_| damaged())?;
        let salt = salt.as_slice().try_into().map_err(|_| damaged())?;
        let whole = inner.len() == LOCKED_DOMAIN_KEY_BYTES;
        whole.then(|| Some(Slot0 { which: SlotSet::Current, salt, inner: inner.to_vec() })).ok_or_else(damaged)
    }
}

/// The associated data of the locked Domain Key: what else has to be as it was in the kit.
fn domain_key_label(cluster: &ClusterId, ahead: u64) -> Vec<u8> {
    [Field::DomainKey.label().as_bytes(), cluster.bytes(), &ahead.to_be_bytes()].concat()
}

fn decode(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, BadValue> {
    let mut bytes = Zeroizing::new(vec![0; text.len()]);
    let length = Base64::decode(text, &mut bytes).map_err(|_| BadValue("its bytes are not base64"))?.len();
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimRng;

    fn kit(key: &BackupKey, salt: &[u8], inner: &[u8]) -> JoinerKit {
        let sealer = Sealer::new(key.expose());
        let cluster = ClusterId::random(&SimRng::new(1));
        let locked_domain_key = sealer.seal(&domain_key_label(&cluster, 5), inner);
        JoinerKit {
            backup_salt: [7; 16],
            cluster,
            ahead: 5,
            unlock_salt: sealer.seal(b"unlock-salt", salt),
            locked_domain_key,
        }
    }

    fn text(json: &str) -> SecretText {
        SecretText::from_text(Base64::encode_string(json.as_bytes()))
    }

    #[test]
    fn a_kit_has_the_form_of_nethsm_and_survives() {
        let key = BackupKey::new([3; 32]);
        let written = kit(&key, &[1; 16], &[2; 60]).write();
        let json = Base64::decode_vec(written.expose()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let bytes = |name: &str| Base64::decode_vec(json[name].as_str().unwrap()).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 5);
        assert_eq!((bytes("backup_salt"), bytes("cluster").len()), (vec![7; 16], 17));
        assert_eq!(bytes("ahead"), 5u64.to_be_bytes());
        let label = [b"domain-key", &bytes("cluster")[..], &bytes("ahead")].concat();
        assert_eq!(*seal::open(key.expose(), b"unlock-salt", &bytes("unlock_salt")).unwrap(), vec![1; 16]);
        assert_eq!(*seal::open(key.expose(), &label, &bytes("locked_domain_key")).unwrap(), vec![2; 60]);
        let slot = JoinerKit::read(&written).unwrap().open(&key).unwrap().unwrap();
        assert_eq!((slot.salt, slot.inner), ([1; 16], vec![2; 60]));
    }

    #[test]
    fn a_kit_opens_with_its_key_alone_and_only_if_it_is_whole() {
        let key = BackupKey::new([3; 32]);
        assert!(kit(&key, &[1; 16], &[2; 60]).open(&BackupKey::new([4; 32])).unwrap().is_none());
        for (salt, inner) in [(&[1; 15][..], &[2; 60][..]), (&[1; 16], &[2; 59])] {
            assert!(kit(&key, salt, inner).open(&key).is_err());
        }
        let mut mixed = kit(&key, &[1; 16], &[2; 60]);
        mixed.locked_domain_key = mixed.unlock_salt.clone();
        assert!(mixed.open(&key).is_err());
        let other = ClusterId::random(&SimRng::new(2));
        assert!(JoinerKit { cluster: other, ..kit(&key, &[1; 16], &[2; 60]) }.open(&key).is_err());
        assert!(JoinerKit { ahead: 6, ..kit(&key, &[1; 16], &[2; 60]) }.open(&key).is_err());
    }

    #[test]
    fn what_is_not_a_kit_is_refused() {
        let key = BackupKey::new([3; 32]);
        let good = Base64::decode_vec(kit(&key, &[1; 16], &[2; 60]).write().expose()).unwrap();
        let good = String::from_utf8(good).unwrap();
        assert!(JoinerKit::read(&text(&good)).is_ok());
        let (of_nethsm, _) = good.split_once(",\"cluster\"").unwrap();
        let far = JoinerKit { ahead: u64::MAX / 4, ..kit(&key, &[1; 16], &[2; 60]) };
        assert!(JoinerKit::read(&far.write()).is_err());
        for bad in
            ["", "{}", "[]", &format!("{of_nethsm}}}"), &good.replace('}', ",\"x\":1}"), &good.replace(":\"", ":\"?")]
        {
            assert!(JoinerKit::read(&text(bad)).is_err(), "{bad}");
        }
        assert!(JoinerKit::read(&SecretText::from_text(good)).is_err());
    }
}
