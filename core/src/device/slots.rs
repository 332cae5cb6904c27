//! The slots of the Domain Key. Slot 0 opens with the unlock passphrase (attended boot), slot 1 with the Device Key
//! alone (unattended boot); both live in the local store, sealed under the Device Key.
//!
//! The inner seal of slot 0 is the one NetHSM uses (AES-256-GCM under scrypt, associated data `passphrase`), because
//! backups carry it as it is.

use crate::crypto::kdf;
use crate::crypto::seal;
use crate::crypto::secret::{DomainKey, SecretBytes, UnlockKey};
use crate::device::store::{DeviceStore, DeviceStoreChange};
use crate::error::Error;
use crate::platform::Platform;
use crate::rows::path::DevicePath;
use crate::runtime::party::Party;
use crate::runtime::pool::{Work, run_on};

const SLOT0_AAD: &[u8] = b"passphrase";

/// The rows that open the Domain Key and the time that came with them, and where a restore keeps them until it is over.
const FORMER: [(DevicePath, DevicePath); 4] = [
    (DevicePath::Slot0, DevicePath::FormerSlot0),
    (DevicePath::Slot1, DevicePath::FormerSlot1),
    (DevicePath::UnlockSalt, DevicePath::FormerSalt),
    (DevicePath::ClockOffset, DevicePath::FormerClockOffset),
];

/// Adds to `change` that the slots and the time of now are kept: if what a restore brings cannot be used, they come back.
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

/// Adds to `change` that the slots and the time of before come back, or that there are none again.
pub(crate) async fn back_to_former(
    mut change: DeviceStoreChange,
    local: &DeviceStore,
) -> Result<DeviceStoreChange, Error> {
    for (now, former) in FORMER {
        change = match local.get(former).await? {
            Some(value) => change.put(now, value.to_vec()).delete(former),
            None => change.delete(now),
        };
    }
    Ok(change)
}

/// Adds to `change` that the slots and the time of before are gone for good.
pub(crate) fn forget_former(change: DeviceStoreChange) -> DeviceStoreChange {
    FORMER.into_iter().fold(change, |change, (_, former)| change.delete(former))
}

/// Runs the slow hash of the unlock passphrase on the pool: about 0.3 s of one core.
async fn unlock_key(platform: &Platform, party: Party, passphrase: &[u8], salt: [u8; 16]) -> Result<UnlockKey, Error> {
    let passphrase = SecretBytes::from_slice(passphrase);
    run_on(&*platform.pool, Work::Kdf, party, move || kdf::unlock_key(passphrase.expose(), &salt)).await
}

/// Adds slot 0 for `passphrase`, under a fresh salt, to `change`.
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

/// One of the two slots that a passphrase may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// The one that counts.
    Now,
    /// The one of before a restore.
    Former,
}

/// Slot 0 as it is stored, with the salt of its passphrase: what a passphrase can be tried on, and what is compared
/// later to see whether it still is the same.
#[derive(PartialEq, Eq)]
pub(crate) struct Slot0 {
    pub(crate) which: Which,
    salt: [u8; 16],
    inner: Vec<u8>,
}

impl Slot0 {
    /// As it is stored now; `None`: there is none.
    pub(crate) async fn read(local: &DeviceStore, which: Which) -> Result<Option<Self>, Error> {
        let (salt, slot) = match which {
            Which::Now => (DevicePath::UnlockSalt, DevicePath::Slot0),
            Which::Former => (DevicePath::FormerSalt, DevicePath::FormerSlot0),
        };
        let Some(inner) = local.get(slot).await? else { return Ok(None) };
        let salt = local.get(salt).await?.and_then(|salt| <[u8; 16]>::try_from(salt.as_slice()).ok());
        let salt = salt.ok_or_else(|| Error::internal("the salt of slot 0 is missing or damaged"))?;
        Ok(Some(Self { which, salt, inner: inner.to_vec() }))
    }

    /// Opens it. `None`: the passphrase is wrong.
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
