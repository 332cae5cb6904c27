//! This device: its own store, the slots of the Domain Key, the limiter of guesses, and procedures that a crash may
//! interrupt.

pub(crate) mod joining;
pub mod limiter;
pub(crate) mod place;
pub(crate) mod procedure;
pub(crate) mod slots;
pub mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::crypto::seal;
use crate::crypto::secret::DeviceKey;
use crate::device::limiter::{Admitted, Guess, Limiter};
use crate::device::store::DeviceStore;
use crate::error::Error;
use crate::platform::Platform;
use crate::rows::path::DevicePath;

/// What exists in every phase.
pub struct Device {
    /// The environment.
    pub platform: Platform,
    /// The device's own store.
    pub store: DeviceStore,
    /// Limits guesses at passphrases.
    pub limiter: Arc<Limiter>,
    /// Identifies this device: ten characters of `A` to `Z` and `2` to `7`.
    pub id: String,
    clock_offset_s: AtomicI64,
}

impl Device {
    /// The device with this Device Key. Its time is that of the hardware clock until [`Device::read_clock_offset`].
    pub fn new(platform: Platform, key: &DeviceKey) -> Arc<Self> {
        Arc::new(Self {
            store: DeviceStore::new(platform.local.clone(), key, platform.rng.clone()),
            limiter: Limiter::new(platform.clock.clone()),
            id: device_id(key),
            clock_offset_s: AtomicI64::new(0),
            platform,
        })
    }

    /// Reads the offset of the HSM's time from the device's own store and uses it from now on.
    pub async fn read_clock_offset(&self) -> Result<(), Error> {
        let offset = self.store.get(DevicePath::ClockOffset).await?;
        let offset = offset.and_then(|bytes| <[u8; 8]>::try_from(bytes.as_slice()).ok()).map_or(0, i64::from_be_bytes);
        self.use_clock_offset(offset);
        Ok(())
    }

    /// Makes the HSM's time `offset_s` seconds ahead of the hardware clock.
    pub fn use_clock_offset(&self, offset_s: i64) {
        self.clock_offset_s.store(offset_s, Ordering::Relaxed);
    }

    /// The offset in seconds with which the HSM's time is `time`, which was the time at `then` of the monotonic clock.
    pub(crate) fn offset_s(&self, time: Timestamp, then: Duration) -> i64 {
        let spent = self.platform.clock.monotonic().saturating_sub(then);
        let spent = i64::try_from(spent.as_secs()).unwrap_or(0);
        time.as_second().saturating_add(spent).saturating_sub(self.wall().as_second())
    }

    /// The HSM's own time: the hardware clock plus the offset.
    pub fn now(&self) -> Timestamp {
        let offset = SignedDuration::from_secs(self.clock_offset_s.load(Ordering::Relaxed));
        self.wall().checked_add(offset).unwrap_or(Timestamp::MAX)
    }

    /// The time of the hardware clock.
    pub fn wall(&self) -> Timestamp {
        let wall = SignedDuration::try_from(self.platform.clock.wall()).unwrap_or(SignedDuration::MAX);
        Timestamp::from_duration(wall).unwrap_or(Timestamp::MAX)
    }

    /// Counts a guess at a passphrase other than the caller's own, and lets it be checked.
    ///
    /// # Errors
    /// [`Error::TooMany`] if the same caller made a wrong guess less than a second ago, or one is being checked.
    pub(crate) fn admit(&self, guess: Guess<'_>) -> Result<Admitted, Error> {
        let too_many = || Error::TooMany("Too many requests".into());
        self.limiter.admit(self.limiter.key(guess)).ok_or_else(too_many)
    }
}

/// Ten characters that identify the device. They are derived from its Device Key by HKDF (RFC 5869) and reveal nothing of it.
fn device_id(device: &DeviceKey) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bytes = seal::derive(device.expose(), &[b"device id"]);
    let letter = |byte: &u8| LETTERS.get(usize::from(byte % 32)).copied().unwrap_or(b'A');
    bytes.expose().iter().take(10).map(|byte| char::from(letter(byte))).collect()
}
