//! Which mechanisms there are, by the table in `api`: what that gains later is offered without new code here.
//!
//! Beside those of the table there are the ones that the module makes of them by hashing first or by padding, and those that
//! it computes itself.

use casemate_api::KeyType;
use casemate_api::mechanisms::{Hash, MechanismSpec, Mode, TABLE};
use casemate_api::{DecryptMode, Mechanism as Capability};
use cryptoki_sys::*;

use super::verify::verifies;
use super::{Mechanism, Parameter};
use crate::objects::Object;
use crate::rv::Rv;

/// What one hash function is called.
pub(crate) struct HashNames {
    pub(crate) hash: Hash,
    pub(crate) digest: CK_MECHANISM_TYPE,
    pub(crate) mgf: CK_RSA_PKCS_MGF_TYPE,
    pub(crate) hmac: CK_MECHANISM_TYPE,
    rsa_pkcs: CK_MECHANISM_TYPE,
    rsa_pss: CK_MECHANISM_TYPE,
    ecdsa: CK_MECHANISM_TYPE,
}

/// There is no MGF1 with MD5 in the standard, and nothing here computes MD5.
pub(crate) const HASHES: &[HashNames] = &[
    HashNames {
        hash: Hash::Sha1,
        digest: CKM_SHA_1,
        mgf: CKG_MGF1_SHA1,
        hmac: CKM_SHA_1_HMAC,
        rsa_pkcs: CKM_SHA1_RSA_PKCS,
        rsa_pss: CKM_SHA1_RSA_PKCS_PSS,
        ecdsa: CKM_ECDSA_SHA1,
    },
    HashNames {
        hash: Hash::Sha224,
        digest: CKM_SHA224,
        mgf: CKG_MGF1_SHA224,
        hmac: CKM_SHA224_HMAC,
        rsa_pkcs: CKM_SHA224_RSA_PKCS,
        rsa_pss: CKM_SHA224_RSA_PKCS_PSS,
        ecdsa: CKM_ECDSA_SHA224,
    },
    HashNames {
        hash: Hash::Sha256,
        digest: CKM_SHA256,
        mgf: CKG_MGF1_SHA256,
        hmac: CKM_SHA256_HMAC,
        rsa_pkcs: CKM_SHA256_RSA_PKCS,
        rsa_pss: CKM_SHA256_RSA_PKCS_PSS,
        ecdsa: CKM_ECDSA_SHA256,
    },
    HashNames {
        hash: Hash::Sha384,
        digest: CKM_SHA384,
        mgf: CKG_MGF1_SHA384,
        hmac: CKM_SHA384_HMAC,
        rsa_pkcs: CKM_SHA384_RSA_PKCS,
        rsa_pss: CKM_SHA384_RSA_PKCS_PSS,
        ecdsa: CKM_ECDSA_SHA384,
    },
    HashNames {
        hash: Hash::Sha512,
        digest: CKM_SHA512,
        mgf: CKG_MGF1_SHA512,
        hmac: CKM_SHA512_HMAC,
        rsa_pkcs: CKM_SHA512_RSA_PKCS,
        rsa_pss: CKM_SHA512_RSA_PKCS_PSS,
        ecdsa: CKM_ECDSA_SHA512,
    },
];

impl HashNames {
    /// The mechanisms that hash by this function, with those that they are made of.
    fn hashing(&self) -> [(CK_MECHANISM_TYPE, CK_MECHANISM_TYPE); 3] {
        [(self.rsa_pkcs, CKM_RSA_PKCS), (self.rsa_pss, CKM_RSA_PKCS_PSS), (self.ecdsa, CKM_ECDSA)]
    }
}

/// The names of `hash`.
pub(crate) fn names(hash: Hash) -> Option<&'static HashNames> {
    HASHES.iter().find(|names| names.hash == hash)
}

/// A mechanism that the module makes of one of the table.
pub(crate) struct Derived {
    pub(crate) kind: CK_MECHANISM_TYPE,
    /// That of the table.
    pub(crate) base: CK_MECHANISM_TYPE,
    /// By which function it hashes first; none: it pads.
    pub(crate) hash: Option<Hash>,
}

/// All that are derived.
pub(crate) fn derived() -> impl Iterator<Item = Derived> {
    let hashing = HASHES
        .iter()
        .flat_map(|names| names.hashing().map(|(kind, base)| Derived { kind, base, hash: Some(names.hash) }));
    hashing.chain([Derived { kind: CKM_AES_CBC_PAD, base: CKM_AES_CBC, hash: None }])
}

/// What a key is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Sign or verify.
    Sign,
    Encrypt,
    Decrypt,
}

/// A mechanism of an application for one key.
pub(crate) struct Resolved {
    /// The row by which the server does it.
    pub(crate) row: &'static MechanismSpec,
    /// By which function the module hashes first.
    pub(crate) hashed_by: Option<Hash>,
}

/// Finds the row for a key of type `key`.
pub(crate) fn resolve(key: KeyType, mechanism: &Mechanism, purpose: Purpose) -> Result<Resolved, Rv> {
    let derived = derived().find(|derived| derived.kind == mechanism.kind);
    let (base, hashed_by) = derived.map_or((mechanism.kind, None), |derived| (derived.base, derived.hash));
    let rows = || TABLE.iter().filter(|row| row.ckm == Some(base) && serves(row, purpose));
    if rows().next().is_none() {
        return Err(Rv(CKR_MECHANISM_INVALID));
    }
    let rows: Vec<_> = rows().filter(|row| row.key == key).collect();
    let first = rows.first().ok_or(Rv(CKR_KEY_TYPE_INCONSISTENT))?;
    let row = match &mechanism.parameter {
        Parameter::Pss { hash, mgf, salt_bytes } => {
            let row = rows.iter().find(|row| is_pss(row, base, *hash, *mgf, *salt_bytes));
            row.filter(|row| hashed_by.is_none() || hashed_by == row.hash)
        }
        Parameter::Oaep { hash, mgf, .. } => rows.iter().find(|row| is_oaep(row, *hash, *mgf)),
        Parameter::Eddsa { prehash: false, context: false } if base == CKM_EDDSA => Some(first),
        Parameter::Bytes(iv) if base == CKM_AES_CBC && iv.len() == 16 => Some(first),
        Parameter::None if first.hash.is_none() && base != CKM_AES_CBC => Some(first),
        _ => None,
    };
    Ok(Resolved { row: row.ok_or(Rv(CKR_MECHANISM_PARAM_INVALID))?, hashed_by })
}

fn serves(row: &MechanismSpec, purpose: Purpose) -> bool {
    match row.mode {
        Mode::Sign(_) => purpose == Purpose::Sign,
        // The private operation without padding is a signature just as well.
        Mode::Decrypt(DecryptMode::RAW) => true,
        Mode::Decrypt(_) if row.key == KeyType::RSA => purpose != Purpose::Sign,
        Mode::Decrypt(_) => purpose == Purpose::Decrypt,
        Mode::Encrypt(_) => purpose == Purpose::Encrypt,
    }
}

/// The server makes the salt as long as the digest, and masks by the same function.
fn is_pss(
    row: &MechanismSpec,
    base: CK_MECHANISM_TYPE,
    hash: CK_MECHANISM_TYPE,
    mgf: CK_RSA_PKCS_MGF_TYPE,
    salt_bytes: CK_ULONG,
) -> bool {
    let names = row.hash.and_then(names);
    base == CKM_RSA_PKCS_PSS
        && names
            .is_some_and(|names| names.digest == hash && names.mgf == mgf && salt_bytes == names.hash.len() as CK_ULONG)
}

fn is_oaep(row: &MechanismSpec, hash: CK_MECHANISM_TYPE, mgf: CK_RSA_PKCS_MGF_TYPE) -> bool {
    row.hash.and_then(names).is_some_and(|names| names.digest == hash && names.mgf == mgf)
}

/// Checks that the key is one for this: `attribute` is that of the purpose, such as `CKA_SIGN`.
pub(crate) fn permitted(key: &Object, attribute: CK_ATTRIBUTE_TYPE, capability: Capability) -> Result<(), Rv> {
    if !key.is(attribute) || !key.mechanisms().contains(&capability) {
        return Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED));
    }
    Ok(())
}

/// A mechanism as `C_GetMechanismInfo` tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// `CKM_*`
    pub kind: CK_MECHANISM_TYPE,
    /// Its flags.
    pub flags: CK_FLAGS,
    /// Shortest key.
    pub min: CK_ULONG,
    /// Longest key.
    pub max: CK_ULONG,
}

/// All mechanisms, each once.
pub fn offers() -> Vec<Offer> {
    let mut offers = Vec::new();
    for row in TABLE {
        let Some(kind) = row.ckm else { continue };
        let offer = Offer { kind, flags: flags(row), ..sizes(row.key) };
        add(&mut offers, offer);
        for Derived { kind: made, base, hash } in derived().filter(|derived| derived.base == kind) {
            let signs = matches!(row.mode, Mode::Sign(_)) && (base != CKM_RSA_PKCS_PSS || row.hash == hash);
            if hash.is_none() || signs {
                add(&mut offers, Offer { kind: made, flags: flags(row), ..offer });
            }
        }
        let (generator, flags) = generator(row.key);
        add(&mut offers, Offer { kind: generator, flags: flags | CKF_HW, ..offer });
    }
    add(&mut offers, Offer { kind: CKM_GENERIC_SECRET_KEY_GEN, flags: CKF_GENERATE, min: 8, max: 8192 });
    for names in HASHES {
        add(&mut offers, Offer { kind: names.digest, flags: CKF_DIGEST, min: 0, max: 0 });
        add(&mut offers, Offer { kind: names.hmac, flags: CKF_SIGN | CKF_VERIFY, min: 1, max: 1024 });
    }
    offers
}

/// Adds an offer, or what it has more than that of another key type.
fn add(offers: &mut Vec<Offer>, offer: Offer) {
    match offers.iter_mut().find(|known| known.kind == offer.kind) {
        Some(known) => {
            known.flags |= offer.flags;
            known.min = known.min.min(offer.min);
            known.max = known.max.max(offer.max);
        }
        None => offers.push(offer),
    }
}

fn flags(row: &MechanismSpec) -> CK_FLAGS {
    let of_curve = match row.key {
        KeyType::RSA | KeyType::Generic => 0,
        KeyType::Curve25519 => CKF_EC_F_P | CKF_EC_CURVENAME | CKF_EC_OID,
        _ => CKF_EC_F_P | CKF_EC_NAMEDCURVE | CKF_EC_UNCOMPRESS,
    };
    let of_mode = match row.mode {
        Mode::Sign(_) if verifies(row) => CKF_SIGN | CKF_VERIFY,
        Mode::Sign(_) => CKF_SIGN,
        Mode::Decrypt(DecryptMode::RAW) => CKF_SIGN | CKF_VERIFY | CKF_DECRYPT | CKF_ENCRYPT,
        Mode::Decrypt(_) if row.key == KeyType::RSA => CKF_DECRYPT | CKF_ENCRYPT,
        Mode::Decrypt(_) => CKF_DECRYPT,
        Mode::Encrypt(_) => CKF_ENCRYPT,
    };
    CKF_HW | of_curve | of_mode
}

/// Key sizes, in bits or, as the standard has it for AES, in bytes.
fn sizes(key: KeyType) -> Offer {
    let (min, max) = match key {
        KeyType::RSA => (1024, 8192),
        KeyType::Curve25519 => (255, 255),
        KeyType::EC_P256 | KeyType::EC_P256K1 | KeyType::BrainpoolP256 => (256, 256),
        KeyType::EC_P384 | KeyType::BrainpoolP384 => (384, 384),
        KeyType::BrainpoolP512 => (512, 512),
        KeyType::EC_P521 => (521, 521),
        KeyType::Generic => (16, 32),
    };
    Offer { kind: 0, flags: 0, min, max }
}

fn generator(key: KeyType) -> (CK_MECHANISM_TYPE, CK_FLAGS) {
    match key {
        KeyType::RSA => (CKM_RSA_PKCS_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR),
        KeyType::Curve25519 => {
            (CKM_EC_EDWARDS_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR | CKF_EC_F_P | CKF_EC_CURVENAME | CKF_EC_OID)
        }
        KeyType::Generic => (CKM_AES_KEY_GEN, CKF_GENERATE),
        _ => (CKM_EC_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR | CKF_EC_F_P | CKF_EC_NAMEDCURVE | CKF_EC_UNCOMPRESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mechanism_of_the_table_is_offered_once() {
        let offers = offers();
        for row in TABLE {
            let of_row = |offer: &&Offer| Some(offer.kind) == row.ckm;
            assert_eq!(offers.iter().filter(of_row).count(), usize::from(row.ckm.is_some()), "{row:?}");
        }
        let ecdsa = offers.iter().find(|offer| offer.kind == CKM_ECDSA).unwrap();
        assert_eq!((ecdsa.min, ecdsa.max), (256, 521));
    }

    #[test]
    fn verification_is_offered_where_there_is_one() {
        let flags = |kind| offers().iter().find(|offer| offer.kind == kind).unwrap().flags & (CKF_SIGN | CKF_VERIFY);
        let of_pss = [CKM_RSA_PKCS_PSS, CKM_SHA1_RSA_PKCS_PSS, CKM_SHA224_RSA_PKCS_PSS, CKM_SHA256_RSA_PKCS_PSS];
        for kind in [CKM_RSA_PKCS, CKM_ECDSA, CKM_EDDSA].into_iter().chain(of_pss) {
            assert_eq!(flags(kind), CKF_SIGN | CKF_VERIFY, "{kind:#x}");
        }
    }

    #[test]
    fn a_parameter_decides_between_rows_or_is_refused() {
        let pss = |kind, hash, salt_bytes| Mechanism {
            kind,
            parameter: Parameter::Pss { hash, mgf: CKG_MGF1_SHA256, salt_bytes },
        };
        let of =
            |mechanism: &Mechanism| resolve(KeyType::RSA, mechanism, Purpose::Sign).map(|found| found.row.mechanism);
        let refused = Err(Rv(CKR_MECHANISM_PARAM_INVALID));
        assert_eq!(of(&pss(CKM_RSA_PKCS_PSS, CKM_SHA256, 32)), Ok(Capability::RSA_Signature_PSS_SHA256));
        assert_eq!(of(&pss(CKM_SHA256_RSA_PKCS_PSS, CKM_SHA256, 32)), Ok(Capability::RSA_Signature_PSS_SHA256));
        assert_eq!(of(&pss(CKM_RSA_PKCS_PSS, CKM_SHA256, 20)), refused);
        assert_eq!(of(&pss(CKM_RSA_PKCS_PSS, CKM_SHA384, 48)), refused);
        assert_eq!(of(&pss(CKM_SHA384_RSA_PKCS_PSS, CKM_SHA256, 32)), refused);
        assert_eq!(of(&pss(CKM_RSA_PKCS, CKM_SHA256, 32)), refused);
        assert_eq!(of(&Mechanism { kind: CKM_RSA_PKCS_PSS, parameter: Parameter::None }), refused);
        let unknown = Mechanism { kind: CKM_DSA, parameter: Parameter::None };
        assert_eq!(of(&unknown), Err(Rv(CKR_MECHANISM_INVALID)));
        let of_others = Mechanism { kind: CKM_ECDSA, parameter: Parameter::None };
        assert_eq!(of(&of_others), Err(Rv(CKR_KEY_TYPE_INCONSISTENT)));
    }
}
