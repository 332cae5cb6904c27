//! The slots of the Domain Key. Slot 0 opens with the unlock passphrase (attended boot), slot 1 with the Device Key
//! alone (unattended boot). Both are in the device's own store, sealed under the Device Key.
//!
//! The inner seal of slot 0 is the one NetHSM uses (AES-256-GCM under scrypt, associated data `passphrase`), because
//! backups contain it unchanged.

use crate::crypto::kdf;
use crate::crypto::seal;
use crate::crypto::secret::{DomainKey, SecretBytes, UnlockKey};
use crate::device::store::{DeviceStore, DeviceStoreChange};
use crate::error::Error;
use crate::platform::Platform;
use crate::rows::path::DevicePath;
use crate::runtime::party::Party;
use crate::runtime::pool::{Work, run_on};

/// The associated data of the seal under the unlock key, in slot 0 and in backups; as NetHSM has it.
pub(crate) const SLOT0_AAD: &[u8] = b"passphrase";

/// The rows that a restore replaces, and where it keeps their former values until it is finished: the slots, the salt and the
/// clock offset.
const FORMER: [(DevicePath, DevicePath); 4] = [
    (DevicePath::Slot0, DevicePath::FormerSlot0),
    (DevicePath::Slot1, DevicePath::FormerSlot1),
    (DevicePath::UnlockSalt, DevicePath::FormerSalt),
    (DevicePath::ClockOffset, DevicePath::FormerClockOffset),
];

/// Adds to `change` a copy of the current slots and clock offset, to return to if the restored ones cannot be used.
pub(crate) async fn keep_former(
    mut change: DeviceStoreChange,
    local: &DeviceStore,
) -> Result<DeviceStoreChange, Error> {
    for (now, former) in FORMER {
        change = match local.get(now).await? {
            Some(value) => change.put(former, value.to_vec()),
            None => change.delete(former),
        };
    }
    Ok(change)
}

/// Adds to `change` that the former slots and clock offset replace the current ones. Where there is no former value, the
/// current one is removed; only the clock offset stays if there was a former slot 0.
pub(crate) async fn back_to_former(
    mut change: DeviceStoreChange,
    local: &DeviceStore,
) -> Result<DeviceStoreChange, Error> {
    let provisioned = local.get(DevicePath::FormerSlot0).await?.is_some();
    for (now, former) in FORMER {
        change = match local.get(former).await? {
            Some(value) => change.put(now, value.to_vec()).delete(former),
            // The former clock offset is kept only since 0.1.0. A provisioned device had one, and the current one is the best
            // guess.
            None if now == DevicePath::ClockOffset && provisioned => change,
            None => change.delete(now),
        };
    }
    Ok(change)
}

/// Adds to `change` that the former slots and clock offset are removed.
pub(crate) fn forget_former(change: DeviceStoreChange) -> DeviceStoreChange {
    FORMER.into_iter().fold(change, |change, (_, former)| change.delete(former))
}

/// Derives the Unlock Key from the passphrase by scrypt (RFC 7914), on the pool: about 0.3 s of one core.
async fn unlock_key(platform: &Platform, party: Party, passphrase: &[u8], salt: [u8; 16]) -> Result<UnlockKey, Error> {
    let passphrase = SecretBytes::from_slice(passphrase);
    run_on(&*platform.pool, Work::Kdf, party, move || kdf::unlock_key(passphrase.expose(), &salt)).await
}

/// Adds slot 0 for `passphrase`, with a new salt, to `change`.
pub(crate) async fn with_slot0(
    change: DeviceStoreChange,
    platform: &Platform,
    party: Party,
    passphrase: &[u8],
    domain: &DomainKey,
) -> Result<DeviceStoreChange, Error> {
    let mut salt = [0; 16];
    platform.rng.fill(&mut salt);
    let key = unlock_key(platform, party, passphrase, salt).await?;
    let inner = seal::seal(key.expose(), SLOT0_AAD, domain.expose(), &*platform.rng);
    Ok(change.put(DevicePath::UnlockSalt, salt.to_vec()).put(DevicePath::Slot0, inner))
}

/// One of the two slots 0 that a passphrase may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotSet {
    /// The one in use.
    Current,
    /// The one from before a restore.
    Former,
}

/// Slot 0 as stored, with the salt of its passphrase. Values can be compared to find out whether the slot was changed.
#[derive(PartialEq, Eq)]
pub(crate) struct Slot0 {
    pub(crate) which: SlotSet,
    /// Salt for deriving the Unlock Key.
    pub(crate) salt: [u8; 16],
    /// The Domain Key, sealed under the Unlock Key.
    pub(crate) inner: Vec<u8>,
}

impl Slot0 {
    /// Reads the slot. `None`: it does not exist.
    pub(crate) async fn read(local: &DeviceStore, which: SlotSet) -> Result<Option<Self>, Error> {
        let (salt, slot) = match which {
            SlotSet::Current => (DevicePath::UnlockSalt, DevicePath::Slot0),
            SlotSet::Former => (DevicePath::FormerSalt, DevicePath::FormerSlot0),
        };
        let Some(inner) = local.get(slot).await? else { return Ok(None) };
        let salt = local.get(salt).await?.and_then(|salt| <[u8; 16]>::try_from(salt.as_slice()).ok());
        let salt = salt.ok_or_else(|| Error::internal("the salt of slot 0 is missing or damaged"))?;
        Ok(Some(Self { which, salt, inner: inner.to_vec() }))
    }

    /// Slot 0 of a provisioned device, with the salt that belongs to it even while the passphrase is being changed.
    pub(crate) async fn steady(local: &DeviceStore) -> Result<Self, Error> {
        let _steady = local.changing_unlock.lock().await;
        Self::read(local, SlotSet::Current).await?.ok_or_else(|| Error::internal("slot 0 is missing"))
    }

    /// Opens the slot. `None`: the passphrase is wrong.
    pub(crate) async fn open(
        &self,
        platform: &Platform,
        party: Party,
        passphrase: &[u8],
    ) -> Result<Option<DomainKey>, Error> {
        let key = unlock_key(platform, party, passphrase, self.salt).await?;
        let Ok(domain) = seal::open(key.expose(), SLOT0_AAD, &self.inner) else { return Ok(None) };
        DomainKey::from_slice(&domain).ok_or_else(|| Error::internal("slot 0 is damaged")).map(Some)
    }
}

/// Opens slot 1. `None`: unattended boot is off.
pub(crate) async fn open_slot1(local: &DeviceStore) -> Result<Option<DomainKey>, Error> {
    let Some(domain) = local.get(DevicePath::Slot1).await? else { return Ok(None) };
    DomainKey::from_slice(&domain).ok_or_else(|| Error::internal("slot 1 is damaged")).map(Some)
}

/// Whether the device boots to Operational by itself.
pub(crate) async fn is_unattended(store: &DeviceStore) -> Result<bool, Error> {
    Ok(store.get(DevicePath::Slot1).await?.is_some())
}
