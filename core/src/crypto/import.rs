//! Imported private keys: the members of a JSON import, and the checks that every imported key must pass.
//!
//! The input is not trusted. A key that passes the checks is one that AWS-LC or k256 accepts, so a key that was
//! imported successfully never fails to load later.

use base64ct::{Base64, Encoding};
use casemate_api::body::keys::PrivateParts;
use casemate_api::limits::GENERIC_IMPORT_MAX_BYTES;
use casemate_api::{KeyType, SecretText};
use zeroize::Zeroizing;

use super::material::{Material, scalar_bytes};
use crate::Error;
use crate::crypto::mech::rsa_numbers::{E_BITS_MAX, bit_length, divides_less_one, minimal, multiply};
use crate::crypto::mech::{Failed, ffi};
use crate::crypto::mech::{LoadedKey, MechError};
use crate::crypto::secret::{SecretBytes, Seed};
use crate::runtime::stall;

/// Smallest RSA modulus that may be imported, in bits.
const RSA_IMPORT_BITS_MIN: usize = 89;
/// Largest RSA modulus that AWS-LC accepts, in bits.
const RSA_IMPORT_BITS_MAX: usize = 16 * 1024;

impl Material {
    /// Builds a key from the members of a JSON import. Members that the type does not use are ignored.
    ///
    /// For RSA the primes are tested, which takes from 40 ms (2048 bits) to many seconds (8192 bits and more): call it
    /// on the pool.
    ///
    /// # Errors
    /// [`Error::Invalid`] with a sentence that names the part that is wrong, but never its value.
    pub fn from_parts(key_type: KeyType, parts: &PrivateParts) -> Result<Self, Error> {
        match key_type {
            KeyType::RSA => {
                let p = decode("primeP", &parts.prime_p)?;
                let q = decode("primeQ", &parts.prime_q)?;
                let e = decode("publicExponent", &parts.public_exponent)?;
                let e = checked_exponent(&e).map_err(|error| error.in_field("publicExponent"))?;
                checked_rsa(&p, &q, e, Primes::Test)
            }
            KeyType::Curve25519 => {
                let seed = Seed::from_slice(&decode("data", &parts.data)?);
                seed.map(Material::Ed25519)
                    .ok_or(Error::invalid_field("data", "A Curve25519 private key has 32 bytes."))
            }
            KeyType::Generic => {
                let bytes = decode("data", &parts.data)?;
                if bytes.len() > GENERIC_IMPORT_MAX_BYTES {
                    return Err(Error::invalid_field(
                        "data",
                        format!("A Generic key has at most {GENERIC_IMPORT_MAX_BYTES} bytes."),
                    ));
                }
                Ok(Material::Generic(SecretBytes::from_slice(&bytes)))
            }
            KeyType::EC_P256
            | KeyType::EC_P384
            | KeyType::EC_P521
            | KeyType::EC_P256K1
            | KeyType::BrainpoolP256
            | KeyType::BrainpoolP384
            | KeyType::BrainpoolP512 => {
                checked_ec(key_type, &decode("data", &parts.data)?).map_err(|error| error.in_field("data"))
            }
        }
    }
}

/// Decodes the member `field` of the body, strict base64 (RFC 4648 §4: padded, no white space) in constant time.
fn decode(field: &'static str, text: &SecretText) -> Result<Zeroizing<Vec<u8>>, Error> {
    let text = text.expose();
    let mut buffer = Zeroizing::new(vec![0; text.len().div_ceil(4) * 3]);
    let len = Base64::decode(text, &mut buffer)
        .map_err(|why| Error::invalid_field(field, format!("Couldn't decode data from base64: {why}.")))?
        .len();
    buffer.truncate(len);
    Ok(buffer)
}

/// Builds an EC key after checking that the scalar (big-endian) has the exact length and is in range.
pub(super) fn checked_ec(key_type: KeyType, scalar: &[u8]) -> Result<Material, Error> {
    let name = key_type.as_str();
    let len = scalar_bytes(key_type).ok_or(Error::internal("a scalar for a type that has none"))?;
    if scalar.len() != len {
        return Err(Error::invalid(format!("The private key of {name} must have exactly {len} bytes.")));
    }
    let material = Material::Ec { key_type, scalar: SecretBytes::from_slice(scalar) };
    match LoadedKey::load(&material) {
        Ok(_) => Ok(material),
        Err(_) => Err(Error::invalid(format!("The private key is out of the range of {name}."))),
    }
}

/// Whether the primes of an RSA key are tested. The test is nearly all of the work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Primes {
    /// They come from a client: test them.
    Test,
    /// They come from a backup, sealed under the Domain Key by an HSM that has tested or generated them.
    Known,
}

/// Builds an RSA key after checking that the primes are odd and different, and that the exponent, which
/// [`checked_exponent`] has read, is coprime to p-1 and q-1. The primes are big-endian, with or without leading zeros.
pub(super) fn checked_rsa(p: &[u8], q: &[u8], e: u64, primes: Primes) -> Result<Material, Error> {
    let (p, q) = (minimal(p), minimal(q));
    // Sizes first, so that nothing below works on huge numbers.
    if bit_length(p) + bit_length(q) > RSA_IMPORT_BITS_MAX + 1 {
        return Err(Error::invalid(format!("The RSA modulus has more than {RSA_IMPORT_BITS_MAX} bits.")));
    }
    let modulus_bits = bit_length(&multiply(p, q));
    if modulus_bits > RSA_IMPORT_BITS_MAX {
        return Err(Error::invalid(format!("The RSA modulus has more than {RSA_IMPORT_BITS_MAX} bits.")));
    }
    if modulus_bits < RSA_IMPORT_BITS_MIN {
        return Err(Error::invalid(format!("The RSA modulus has less than {RSA_IMPORT_BITS_MIN} bits.")));
    }
    let odd = |number: &[u8]| number.last().is_some_and(|lowest| lowest & 1 == 1);
    if !odd(p) || !odd(q) || bit_length(p) < 2 || bit_length(q) < 2 {
        return Err(Error::invalid("The RSA primes must be odd and above 2."));
    }
    let material = Material::Rsa { p: SecretBytes::from_slice(p), q: SecretBytes::from_slice(q), e };
    let Material::Rsa { p: p_kept, q: q_kept, .. } = &material else {
        return Err(Error::internal("an RSA key is of another type"));
    };
    if p_kept.ct_eq(q_kept) {
        return Err(Error::invalid("The RSA primes must be different."));
    }
    if divides_less_one(e, p) || divides_less_one(e, q) {
        return Err(Error::invalid("The public exponent must be coprime to p-1 and q-1."));
    }
    let untestable = |_: Failed| MechError("AWS-LC tests no prime");
    let prime = |number| {
        stall::begins("testing a prime");
        ffi::is_prime(number).map_err(untestable)
    };
    if primes == Primes::Test && (!prime(p)? || !prime(q)?) {
        return Err(Error::invalid("The RSA primes are not prime."));
    }
    match LoadedKey::load(&material) {
        Ok(_) => Ok(material),
        Err(_) => Err(Error::invalid("The RSA key is not usable.")),
    }
}

/// Reads a public exponent: an odd prime of at most 33 bits, the limit of AWS-LC.
pub(super) fn checked_exponent(e: &[u8]) -> Result<u64, Error> {
    let too_large = || Error::invalid(format!("The public exponent has more than {E_BITS_MAX} bits."));
    let e = minimal(e);
    if bit_length(e) > E_BITS_MAX as usize {
        return Err(too_large());
    }
    let e = e.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    // At most 46341 divisions: the root of a 33-bit number has 17 bits.
    let prime = e > 2 && e & 1 == 1 && (3..).step_by(2).take_while(|d| d * d <= e).all(|d| !e.is_multiple_of(d));
    if prime { Ok(e) } else { Err(Error::invalid("The public exponent must be an odd prime.")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::mech;
    use crate::crypto::mech::tests::{any_key, in_openssl, rsa2048};
    use base64::prelude::{BASE64_STANDARD, Engine};
    use casemate_api::mechanisms::Mode;
    use casemate_api::words::DecryptMode;

    fn text(bytes: &[u8]) -> SecretText {
        SecretText::from_text(BASE64_STANDARD.encode(bytes))
    }

    fn rsa(p: &[u8], q: &[u8], e: &[u8]) -> Result<Material, Error> {
        let parts = PrivateParts { prime_p: text(p), prime_q: text(q), public_exponent: text(e), ..Default::default() };
        Material::from_parts(KeyType::RSA, &parts)
    }

    fn data(key_type: KeyType, data: &[u8]) -> Result<Material, Error> {
        Material::from_parts(key_type, &PrivateParts { data: text(data), ..Default::default() })
    }

    fn refusal(result: Result<Material, Error>) -> String {
        match result {
            Err(Error::Invalid { reason, .. }) => reason.into_owned(),
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("it was accepted"),
        }
    }

    #[test]
    fn parts_of_every_type_are_imported() {
        for key_type in KeyType::ALL {
            let material = any_key(key_type);
            let imported = match &material {
                Material::Rsa { p, q, .. } => rsa(&[&[0; 3], p.expose()].concat(), q.expose(), &[0, 1, 0, 1]),
                Material::Ec { scalar, .. } => data(key_type, scalar.expose()),
                Material::Ed25519(seed) => data(key_type, seed.expose()),
                Material::Generic(bytes) => data(key_type, bytes.expose()),
            };
            let imported = imported.unwrap();
            assert_eq!(LoadedKey::load(&imported).unwrap().public(), LoadedKey::load(&material).unwrap().public());
        }
        for len in [0, 1, 17, 5000] {
            assert!(data(KeyType::Generic, &vec![1; len]).is_ok());
        }
    }

    #[test]
    fn primes_may_come_in_any_order_and_size() {
        let Material::Rsa { p, q, .. } = rsa2048() else { panic!() };
        for (p, q) in [(p.expose(), q.expose()), (q.expose(), p.expose())] {
            let material = rsa(p, q, &[1, 0, 1]).unwrap();
            assert!(in_openssl(&material).rsa().unwrap().check_key().unwrap());
        }
        // Small and unbalanced ones.
        let prime = |bits, e: u64| loop {
            let mut number = openssl::bn::BigNum::new().unwrap();
            number.generate_prime(bits, false, None, None).unwrap();
            // One prime in 257 does not go with the exponent 257: the prime less one is a multiple of it.
            if !divides_less_one(e, &number.to_vec()) {
                return number.to_vec();
            }
        };
        for (bits, e) in [((46, 46), 257u64), ((64, 32), 65537), ((1000, 50), 8_589_934_583)] {
            let material = rsa(&prime(bits.0, e), &prime(bits.1, e), &e.to_be_bytes()).unwrap();
            assert!(in_openssl(&material).rsa().unwrap().check_key().unwrap());
            let loaded = LoadedKey::load(&material).unwrap();
            let mode = Mode::Decrypt(DecryptMode::RAW);
            assert_eq!(mech::run(&loaded, mode, &[2], None).unwrap().len(), loaded.modulus_bits().div_ceil(8));
        }
    }

    #[test]
    fn rsa_parts_that_do_not_form_a_key_are_refused() {
        let Material::Rsa { p, q, .. } = rsa2048() else { panic!() };
        let (p, q) = (p.expose(), q.expose());
        let mut even = p.to_vec();
        *even.last_mut().unwrap() &= !1;
        let composite = multiply(&[0xc1; 20], &[0xc1; 20]);
        let e = &[1, 0, 1][..];
        for (p, q, e, part) in [
            (p, p, e, "different"),
            (&*even, q, e, "odd"),
            (p, &even, e, "odd"),
            (&composite, q, e, "not prime"),
            (p, &composite, e, "not prime"),
            (p, q, &[], "odd prime"),
            (p, q, &[1], "odd prime"),
            (p, q, &[2], "odd prime"),
            (p, q, &[9], "odd prime"),
            (p, q, &[1, 0, 0], "odd prime"),
            (p, q, &[2, 0, 0, 0, 1], "33 bits"),
            (p, q, &[4, 0, 0, 0, 3], "33 bits"),
            (&[], &[], e, "less than 89 bits"),
            (&[1], q, e, "odd and above 2"),
            (&[11], &[13], &[7], "less than 89 bits"),
            (&[0xff; 1025], &[0xff; 1025], e, "more than 16384 bits"),
            (&[0xff; 100_000], q, e, "more than 16384 bits"),
        ] {
            let why = refusal(rsa(p, q, e));
            assert!(why.contains(part), "{why} / {part}");
        }
        // 7 = 2·3 + 1: 3 divides p-1.
        let why = refusal(rsa(&[7], &multiply(q, &[1]), &[3]));
        assert!(why.contains("coprime"), "{why}");
    }

    #[test]
    fn scalars_must_be_exact_and_in_range() {
        for key_type in KeyType::ALL {
            let Some(len) = scalar_bytes(key_type) else { continue };
            for wrong in [0, len - 1, len + 1] {
                assert!(refusal(data(key_type, &vec![1; wrong])).contains("exactly"));
            }
            assert!(refusal(data(key_type, &vec![0; len])).contains("range"));
            assert!(refusal(data(key_type, &vec![0xff; len])).contains("range"));
        }
        assert!(refusal(data(KeyType::Curve25519, &[1; 31])).contains("32"));
        assert!(refusal(data(KeyType::Curve25519, &[1; 33])).contains("32"));
    }

    #[test]
    fn the_order_itself_is_out_of_range() {
        use openssl::{ec::EcGroup, nid::Nid};
        for (key_type, nid) in [
            (KeyType::EC_P256, Nid::X9_62_PRIME256V1),
            (KeyType::EC_P384, Nid::SECP384R1),
            (KeyType::EC_P521, Nid::SECP521R1),
            (KeyType::EC_P256K1, Nid::SECP256K1),
            (KeyType::BrainpoolP256, Nid::BRAINPOOL_P256R1),
            (KeyType::BrainpoolP384, Nid::BRAINPOOL_P384R1),
            (KeyType::BrainpoolP512, Nid::BRAINPOOL_P512R1),
        ] {
            let mut order = openssl::bn::BigNum::new().unwrap();
            let mut ctx = openssl::bn::BigNumContext::new().unwrap();
            EcGroup::from_curve_name(nid).unwrap().order(&mut order, &mut ctx).unwrap();
            let len = scalar_bytes(key_type).unwrap();
            assert!(refusal(data(key_type, &order.to_vec_padded(len as i32).unwrap())).contains("range"));
            order.sub_word(1).unwrap();
            assert!(data(key_type, &order.to_vec_padded(len as i32).unwrap()).is_ok());
        }
    }

    #[test]
    fn base64_is_strict() {
        for bad in ["AQ", "A Q=", "AQ==\n", "AQE", "ü", "====", "A"] {
            let parts = PrivateParts { data: SecretText::from_text(bad.into()), ..Default::default() };
            let why = refusal(Material::from_parts(KeyType::Generic, &parts));
            assert!(why.starts_with("Couldn't decode data from base64: "), "{why}");
        }
    }
}
