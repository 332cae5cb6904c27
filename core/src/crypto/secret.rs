//! Types for secret bytes. They wipe themselves on drop, keep the bytes on the heap so that a move copies nothing, and
//! offer no implicit way to copy, print or compare them.
//!
//! ```compile_fail
//! let k = casemate_core::crypto::secret::DomainKey::new([0; 32]);
//! println!("{k:?}"); // no Debug
//! ```
//! ```compile_fail
//! let k = casemate_core::crypto::secret::DomainKey::new([0; 32]);
//! let l = k.clone(); // no Clone
//! ```
//! ```compile_fail
//! fn seal_with(_: &casemate_core::crypto::secret::DeviceKey) {}
//! seal_with(&casemate_core::crypto::secret::DomainKey::new([0; 32])); // one key is never taken for another
//! ```
//! ```compile_fail
//! let k = casemate_core::crypto::secret::SecretBytes::from_vec(vec![1]);
//! assert!(k == casemate_core::crypto::secret::SecretBytes::from_vec(vec![1])); // no PartialEq
//! ```

use std::marker::PhantomData;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::runtime::Rng;

/// `N` secret bytes for the purpose `P`.
pub struct Secret<const N: usize, P> {
    bytes: Box<[u8; N]>,
    purpose: PhantomData<fn() -> P>,
}

/// Purposes of [`Secret`]: keys of different purposes are different types and cannot be mixed up.
pub mod purpose {
    /// Purpose of [`super::DomainKey`].
    pub enum Domain {}
    /// Purpose of [`super::DeviceKey`].
    pub enum Device {}
    /// Purpose of [`super::UnlockKey`].
    pub enum Unlock {}
    /// Purpose of [`super::BackupKey`].
    pub enum Backup {}
    /// Purpose of [`super::StoreKey`].
    pub enum Store {}
    /// Purpose of [`super::Seed`].
    pub enum Seed {}
}

/// Seals everything in the shared store. Generated at provisioning; leaves this process only sealed.
pub type DomainKey = Secret<32, purpose::Domain>;
/// Belongs to this device; seals the local store and the slots of the Domain Key.
pub type DeviceKey = Secret<32, purpose::Device>;
/// Derived from the unlock passphrase.
pub type UnlockKey = Secret<32, purpose::Unlock>;
/// Derived from the backup passphrase; seals the entries of backups.
pub type BackupKey = Secret<32, purpose::Backup>;
/// Derived from the Domain Key or Device Key for one table of one store.
pub type StoreKey = Secret<32, purpose::Store>;
/// Seed of an Ed25519 key (RFC 8032 §5.1.5).
pub type Seed = Secret<32, purpose::Seed>;

impl<const N: usize, P> Secret<N, P> {
    /// Moves the bytes to the heap and wipes the argument.
    pub fn new(mut bytes: [u8; N]) -> Self {
        let boxed = Box::new(bytes);
        bytes.zeroize();
        Self { bytes: boxed, purpose: PhantomData }
    }

    /// Copies the bytes; `None` unless there are exactly `N`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        <&[u8; N]>::try_from(bytes).ok().map(|bytes| Self::new(*bytes))
    }

    /// Fresh random bytes.
    pub fn random(rng: &dyn Rng) -> Self {
        let mut bytes = Box::new([0; N]);
        rng.fill(bytes.as_mut_slice());
        Self { bytes, purpose: PhantomData }
    }

    /// The bytes. Every use is a place where the secret could escape: keep them few.
    pub fn expose(&self) -> &[u8; N] {
        &self.bytes
    }

    /// Compares in constant time.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.bytes.as_slice().ct_eq(other.bytes.as_slice()).into()
    }
}

impl<const N: usize, P> Drop for Secret<N, P> {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Secret bytes of any length.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Copies the bytes.
    pub fn from_slice(bytes: &[u8]) -> Self {
        Self::from_vec(bytes.to_vec())
    }

    /// The bytes. Every use is a place where the secret could escape: keep them few.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Number of bytes.
    pub fn byte_len(&self) -> usize {
        self.0.len()
    }

    /// Compares in constant time; the lengths are not secret.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_compare_by_value() {
        let a = DomainKey::new([7; 32]);
        assert!(a.ct_eq(&DomainKey::new([7; 32])));
        assert!(!a.ct_eq(&DomainKey::new([8; 32])));
        assert!(DomainKey::from_slice(&[0; 31]).is_none());
    }
}
