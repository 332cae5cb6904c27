//! Keys and digests from passphrases: scrypt (RFC 7914) by AWS-LC. The stored formats fix its cost parameters.
//!
//! Each call needs 16 MiB and is slow on purpose: call it on the pool as [`crate::runtime::pool::Work::Kdf`].

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::crypto::mech::ffi;
use crate::crypto::secret::{BackupKey, Secret, UnlockKey};

const N: u64 = 16384;
const R: u64 = 8;
/// Parallelisation for unlock and backup keys, about 300 ms. NetHSM's value, because backups move between both.
const P_UNLOCK: u64 = 16;
/// Parallelisation for user digests, about 95 ms.
const P_USER: u64 = 5;

fn scrypt(passphrase: &[u8], salt: &[u8; 16], p: u64) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    let done = ffi::scrypt(passphrase, salt, N, R, p, out.as_mut_slice());
    assert!(done.is_ok(), "the costs are valid; only memory can be missing");
    out
}

/// Derives the Unlock Key from an unlock passphrase: scrypt with N = 16384, r = 8, p = 16.
pub fn unlock_key(passphrase: &[u8], salt: &[u8; 16]) -> UnlockKey {
    Secret::new(*scrypt(passphrase, salt, P_UNLOCK))
}

/// Derives the Backup Key from a backup passphrase: scrypt with N = 16384, r = 8, p = 16.
pub fn backup_key(passphrase: &[u8], salt: &[u8; 16]) -> BackupKey {
    Secret::new(*scrypt(passphrase, salt, P_UNLOCK))
}

/// The digest of a user's passphrase, scheme 1: scrypt over scheme 0, so that digests imported with scheme 0 can be
/// hardened without the passphrase. Compare it in constant time.
pub fn user_digest(passphrase: &[u8], salt: &[u8; 16]) -> [u8; 32] {
    harden(&user_digest_v0(passphrase, salt), salt)
}

/// Turns a digest of scheme 0 into one of scheme 1.
pub fn harden(digest_v0: &[u8; 32], salt: &[u8; 16]) -> [u8; 32] {
    *scrypt(digest_v0, salt, P_USER)
}

/// The digest of a user's passphrase, scheme 0, as NetHSM keeps it: HMAC-SHA256 with the salt as key. It is fast to
/// guess, so only imported users have it.
pub fn user_digest_v0(passphrase: &[u8], salt: &[u8; 16]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, salt), passphrase);
    let mut digest = [0; 32];
    assert_eq!(tag.as_ref().len(), digest.len(), "SHA-256 has 32 bytes");
    digest.copy_from_slice(tag.as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use base16ct::lower::encode_string as hex;

    const SALT: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    #[test]
    fn unlock_key_matches_the_contract() {
        let key = unlock_key(b"backupbackup", &SALT);
        assert_eq!(hex(key.expose()), "f0390fb5720500e8be04e819855296ea856088294a41ddc4b4e81fd861f84dab");
    }

    #[test]
    fn scheme_0_digest_matches_the_contract() {
        let digest = user_digest_v0(b"operatoroperator", &SALT);
        assert_eq!(hex(&digest), "82a7ada216cc9765f6dd86fe1b6b1bd0b2282c3dd90c92b0e335a5d764245b32");
    }

    #[test]
    fn scheme_1_digest_agrees_with_openssl() {
        let mut expected = [0; 32];
        let inner = user_digest_v0(b"operatoroperator", &SALT);
        openssl::pkcs5::scrypt(&inner, &SALT, 16384, 8, 5, 64 << 20, &mut expected).unwrap();
        assert_eq!(user_digest(b"operatoroperator", &SALT), expected);
        assert_ne!(user_digest(b"operatoroperatos", &SALT), expected);
    }

    /// RFC 7914 §12.
    #[test]
    fn scrypt_matches_its_rfc() {
        let mut out = [0; 64];
        ffi::scrypt(b"pleaseletmein", b"SodiumChloride", 16384, 8, 1, &mut out).unwrap();
        let expected = "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2\
                        d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887";
        assert_eq!(hex(&out), expected);
    }
}
