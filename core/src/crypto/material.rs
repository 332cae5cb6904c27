//! The stored part of a private key, and its encoding.
//!
//! The encoding is part of the stored format and append-only: a tag byte for the type, then
//!
//! | tag | type | content |
//! |---|---|---|
//! | 1 | RSA | e (8 bytes), length of p (2 bytes), p, q; integers big-endian, p and q without leading zeros |
//! | 2 | Curve25519 | the 32-byte seed |
//! | 3–9 | EC_P256, EC_P384, EC_P521, EC_P256K1, BrainpoolP256, P384, P512 | the scalar, as long as the curve's order |
//! | 10 | Generic | the bytes |

use casemate_api::KeyType;

use crate::crypto::mech::rsa_numbers::{bit_length, minimal};
use crate::crypto::secret::{SecretBytes, Seed};

/// A private key as it is stored. No `Debug`, no `Clone`; wiped on drop.
pub enum Material {
    /// Two-prime RSA.
    Rsa {
        /// A prime, big-endian without leading zeros.
        p: SecretBytes,
        /// The other prime.
        q: SecretBytes,
        /// The public exponent.
        e: u64,
    },
    /// A key on any of the Weierstraß curves.
    Ec {
        /// Which curve.
        key_type: KeyType,
        /// Big-endian, exactly as long as the curve's order.
        scalar: SecretBytes,
    },
    /// Ed25519.
    Ed25519(Seed),
    /// Bytes of any length.
    Generic(SecretBytes),
}

/// Whether [`LoadedKey::load`](crate::crypto::mech::LoadedKey::load) of such a key is short enough to run on a thread
/// that serves requests, at most 0.06 ms. P-521 takes 0.09 ms and an operation twice that, which together is too long;
/// Brainpool curves take 0.2 to 0.8 ms, RSA up to 0.1 s.
pub(crate) fn loads_quickly(key_type: KeyType) -> bool {
    match key_type {
        KeyType::EC_P256 | KeyType::EC_P384 | KeyType::EC_P256K1 | KeyType::Curve25519 | KeyType::Generic => true,
        KeyType::RSA | KeyType::EC_P521 | KeyType::BrainpoolP256 | KeyType::BrainpoolP384 | KeyType::BrainpoolP512 => {
            false
        }
    }
}

/// Length of the private scalar, in bytes; `None` for types without a scalar.
pub(crate) fn scalar_bytes(key_type: KeyType) -> Option<usize> {
    match key_type {
        KeyType::EC_P256 | KeyType::EC_P256K1 | KeyType::BrainpoolP256 => Some(32),
        KeyType::EC_P384 | KeyType::BrainpoolP384 => Some(48),
        KeyType::EC_P521 => Some(66),
        KeyType::BrainpoolP512 => Some(64),
        KeyType::RSA | KeyType::Curve25519 | KeyType::Generic => None,
    }
}

const TAG_RSA: u8 = 1;
const TAG_ED25519: u8 = 2;
const TAG_GENERIC: u8 = 10;

const TAGS_EC: [(u8, KeyType); 7] = [
    (3, KeyType::EC_P256),
    (4, KeyType::EC_P384),
    (5, KeyType::EC_P521),
    (6, KeyType::EC_P256K1),
    (7, KeyType::BrainpoolP256),
    (8, KeyType::BrainpoolP384),
    (9, KeyType::BrainpoolP512),
];

impl Material {
    /// The type of the key.
    pub fn key_type(&self) -> KeyType {
        match self {
            Material::Rsa { .. } => KeyType::RSA,
            Material::Ec { key_type, .. } => *key_type,
            Material::Ed25519(_) => KeyType::Curve25519,
            Material::Generic(_) => KeyType::Generic,
        }
    }

    /// For RSA twice the length of the longer prime, in bits; 0 for every other type. It determines the cost of an
    /// operation, and equals the length of the modulus unless the primes differ in length. Computes nothing with the
    /// primes.
    pub fn rsa_bits(&self) -> usize {
        match self {
            Material::Rsa { p, q, .. } => 2 * bit_length(p.expose()).max(bit_length(q.expose())),
            Material::Ec { .. } | Material::Ed25519(_) | Material::Generic(_) => 0,
        }
    }

    /// Whether both are the same key. Takes constant time for keys of the same type and length.
    pub fn ct_eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Material::Rsa { p, q, e }, Material::Rsa { p: p2, q: q2, e: e2 }) => e == e2 && p.ct_eq(p2) && q.ct_eq(q2),
            (Material::Ec { key_type, scalar }, Material::Ec { key_type: type2, scalar: scalar2 }) => {
                key_type == type2 && scalar.ct_eq(scalar2)
            }
            (Material::Ed25519(seed), Material::Ed25519(seed2)) => seed.ct_eq(seed2),
            (Material::Generic(bytes), Material::Generic(bytes2)) => bytes.ct_eq(bytes2),
            _ => false,
        }
    }

    /// Appends the encoding to `out`, in the format that the module describes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Material::Rsa { p, q, e } => {
                out.push(TAG_RSA);
                out.extend_from_slice(&e.to_be_bytes());
                let p_bytes = u16::try_from(p.byte_len());
                assert!(p_bytes.is_ok(), "no prime is longer than the longest modulus, 2048 bytes");
                out.extend_from_slice(&p_bytes.unwrap_or_default().to_be_bytes());
                out.extend_from_slice(p.expose());
                out.extend_from_slice(q.expose());
            }
            Material::Ed25519(seed) => {
                out.push(TAG_ED25519);
                out.extend_from_slice(seed.expose());
            }
            Material::Ec { key_type, scalar } => {
                out.extend(TAGS_EC.iter().filter(|(_, tagged)| tagged == key_type).map(|(tag, _)| *tag));
                out.extend_from_slice(scalar.expose());
            }
            Material::Generic(bytes) => {
                out.push(TAG_GENERIC);
                out.extend_from_slice(bytes.expose());
            }
        }
    }

    /// Reads an encoding; `None` if it is malformed. Whether its numbers form a key is checked by
    /// [`LoadedKey::load`](crate::crypto::mech::LoadedKey::load).
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        match *tag {
            TAG_RSA => {
                let (e, rest) = rest.split_first_chunk()?;
                let (p_bytes, rest) = rest.split_first_chunk()?;
                let (p, q) = rest.split_at_checked(u16::from_be_bytes(*p_bytes).into())?;
                let canonical = |prime: &[u8]| !prime.is_empty() && minimal(prime).len() == prime.len();
                (canonical(p) && canonical(q)).then(|| Material::Rsa {
                    p: SecretBytes::from_slice(p),
                    q: SecretBytes::from_slice(q),
                    e: u64::from_be_bytes(*e),
                })
            }
            TAG_ED25519 => Seed::from_slice(rest).map(Material::Ed25519),
            TAG_GENERIC => Some(Material::Generic(SecretBytes::from_slice(rest))),
            tag => {
                let (_, key_type) = TAGS_EC.iter().find(|(known, _)| *known == tag)?;
                (scalar_bytes(*key_type) == Some(rest.len()))
                    .then(|| Material::Ec { key_type: *key_type, scalar: SecretBytes::from_slice(rest) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::mech::LoadedKey;
    use crate::crypto::mech::tests::{TestRng, any_key, hex};
    use crate::runtime::Rng;
    use proptest::prelude::*;

    fn encoded(material: &Material) -> Vec<u8> {
        let mut out = vec![];
        material.encode(&mut out);
        out
    }

    /// What older versions stored must stay readable forever: add lines, never change one.
    #[test]
    fn stored_keys_of_every_version_are_read_and_written_back_unchanged() {
        let golden = [
            ("01 0000000000010001 0002 c001 d003", KeyType::RSA),
            ("02 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", KeyType::Curve25519),
            ("03 00000000000000000000000000000000000000000000000000000000000000a3", KeyType::EC_P256),
            (
                "04 0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000a4",
                KeyType::EC_P384,
            ),
            (
                "05 0000000000000000000000000000000000000000000000000000000000000000\
                 00000000000000000000000000000000000000000000000000000000000000000 0a5",
                KeyType::EC_P521,
            ),
            ("06 00000000000000000000000000000000000000000000000000000000000000a6", KeyType::EC_P256K1),
            ("07 00000000000000000000000000000000000000000000000000000000000000a7", KeyType::BrainpoolP256),
            (
                "08 0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000a8",
                KeyType::BrainpoolP384,
            ),
            (
                "09 0000000000000000000000000000000000000000000000000000000000000000\
                 00000000000000000000000000000000000000000000000000000000000000a9",
                KeyType::BrainpoolP512,
            ),
            ("0a", KeyType::Generic),
            ("0a 00ff", KeyType::Generic),
        ];
        for (text, key_type) in golden {
            let bytes = hex(&text.replace(' ', ""));
            let material = Material::decode(&bytes).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(material.key_type(), key_type);
            assert_eq!(encoded(&material), bytes, "{text}");
        }
        let Some(Material::Rsa { p, q, e }) = Material::decode(&hex("0100000000000100010002c001d003")) else {
            panic!()
        };
        assert_eq!((p.expose(), q.expose(), e), (&[0xc0, 1][..], &[0xd0, 3][..], 65537));
    }

    #[test]
    fn bytes_that_are_not_an_encoding_are_refused() {
        for text in [
            "",
            "00",
            "0b",
            "02",
            "0200",
            "0300",
            "01",
            "010000000000010001",
            "0100000000000100010003c001",
            "01000000000001000100020001d003",
        ] {
            assert!(Material::decode(&hex(text)).is_none(), "{text}");
        }
    }

    #[test]
    fn every_type_survives_encoding() {
        for key_type in KeyType::ALL {
            let material = any_key(key_type);
            let read = Material::decode(&encoded(&material)).unwrap();
            let (before, after) = (LoadedKey::load(&material).unwrap(), LoadedKey::load(&read).unwrap());
            assert_eq!(before.public(), after.public());
            assert_eq!(before.key_type(), key_type);
            assert!(before.memory_bytes() > 0);
        }
    }

    #[test]
    fn the_cost_of_rsa_follows_the_longer_prime() {
        let bits = |p: &[u8], q: &[u8]| {
            Material::Rsa { p: SecretBytes::from_slice(p), q: SecretBytes::from_slice(q), e: 65537 }.rsa_bits()
        };
        assert_eq!(any_key(KeyType::RSA).rsa_bits(), 2048);
        // A modulus of 1024 bits at nearly the cost of 2048 bits.
        assert_eq!((bits(&[0x80; 124], &[0x80; 4]), bits(&[0x80; 4], &[0x80; 124])), (1984, 1984));
        assert_eq!(any_key(KeyType::EC_P521).rsa_bits(), 0);
    }

    #[test]
    fn a_key_equals_only_itself() {
        for one in KeyType::ALL {
            // The RSA key of the tests is always the same.
            assert_eq!(any_key(one).ct_eq(&any_key(one)), one == KeyType::RSA);
            let key = any_key(one);
            assert!(key.ct_eq(&Material::decode(&encoded(&key)).unwrap()));
            for other in KeyType::ALL.into_iter().filter(|other| *other != one) {
                assert!(!key.ct_eq(&any_key(other)), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn generated_lengths_are_rounded_up_to_bytes() {
        for (bits, bytes) in [(128, 16), (129, 17), (8192, 1024)] {
            let Ok(Material::Generic(key)) = Material::generate(KeyType::Generic, bits, &TestRng) else { panic!() };
            assert_eq!(key.byte_len(), bytes);
        }
    }

    #[test]
    fn a_broken_random_source_ends_generation() {
        struct Ones;
        impl Rng for Ones {
            fn fill(&self, bytes: &mut [u8]) {
                bytes.fill(0xff);
            }
        }
        assert!(Material::generate(KeyType::EC_P256, 0, &Ones).is_err());
    }

    #[test]
    fn impossible_keys_do_not_load() {
        let ec = |key_type, scalar| LoadedKey::load(&Material::Ec { key_type, scalar: SecretBytes::from_vec(scalar) });
        for (_, key_type) in TAGS_EC {
            let len = scalar_bytes(key_type).unwrap();
            assert!(ec(key_type, vec![0; len]).is_err() && ec(key_type, vec![0xff; len]).is_err());
        }
        assert!(ec(KeyType::RSA, vec![1; 32]).is_err());
        let rsa = |p: &[u8], q: &[u8], e| {
            LoadedKey::load(&Material::Rsa { p: SecretBytes::from_slice(p), q: SecretBytes::from_slice(q), e })
        };
        assert!(rsa(&[13], &[13], 5).is_err() && rsa(&[11], &[13], 5).is_err() && rsa(&[11], &[13], 2).is_err());
        assert!(rsa(&[], &[], 65537).is_err() && rsa(&[0], &[4], 65537).is_err() && rsa(&[4], &[8], 3).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_themselves_or_not_at_all(mut bytes: Vec<u8>, tag in 0u8..12) {
            if let Some(first) = bytes.first_mut() {
                *first = tag;
            }
            if let Some(material) = Material::decode(&bytes) {
                prop_assert_eq!(encoded(&material), bytes);
                // Whatever the numbers are, loading does not panic.
                let _ = LoadedKey::load(&material).map(|loaded| loaded.public());
            }
        }
    }
}
