//! What a key may do, in the standard's words: mechanism numbers and usage flags on one side, mechanisms of the server
//! on the other. All of it follows from the mechanism table in `api`.

use casemate_api::mechanisms::{MechanismSpec, Mode, TABLE};
use casemate_api::{KeyType, Mechanism};
use cryptoki_sys::*;

use super::Template;
use crate::operations::mechanisms::derived;
use crate::rv::Rv;

/// The rows of the table that a mechanism number stands for.
fn rows(ckm: CK_MECHANISM_TYPE, key_type: KeyType) -> impl Iterator<Item = &'static MechanismSpec> {
    let derived = derived().find(|derived| derived.kind == ckm);
    let (base, hashed_by) = derived.map_or((ckm, None), |derived| (derived.base, derived.hash));
    // The module hashes for signatures only; what it pads is for encryption.
    let signs = hashed_by.is_some();
    // The rows of PSS have a hash, and it is the same.
    let hash = hashed_by.filter(|_| base == CKM_RSA_PKCS_PSS);
    TABLE.iter().filter(move |row| {
        row.key == key_type
            && row.ckm == Some(base)
            && hash.is_none_or(|hash| row.hash == Some(hash))
            && (!signs || matches!(row.mode, Mode::Sign(_)))
    })
}

/// `CKA_ALLOWED_MECHANISMS` of a key with these mechanisms.
pub(super) fn allowed(key_type: KeyType, mechanisms: &[Mechanism]) -> Vec<CK_MECHANISM_TYPE> {
    let own = TABLE.iter().filter_map(|row| row.ckm);
    let mut all: Vec<_> = own.chain(derived().map(|derived| derived.kind)).collect();
    all.sort_unstable();
    all.dedup();
    all.retain(|ckm| rows(*ckm, key_type).any(|row| mechanisms.contains(&row.mechanism)));
    all
}

/// Whether one of the mechanisms is for signing, decrypting or encrypting.
pub(super) fn can(mechanisms: &[Mechanism], key_type: KeyType, flag: CK_ATTRIBUTE_TYPE) -> bool {
    TABLE.iter().any(|row| row.key == key_type && mechanisms.contains(&row.mechanism) && is_for(row.mode, flag))
}

fn is_for(mode: Mode, flag: CK_ATTRIBUTE_TYPE) -> bool {
    match mode {
        Mode::Sign(_) => flag == CKA_SIGN,
        Mode::Decrypt(_) => flag == CKA_DECRYPT,
        Mode::Encrypt(_) => flag == CKA_ENCRYPT,
    }
}

/// The mechanisms of a new key of this type. A template that says nothing about use means all of them: keytool and NSS
/// leave it out and then expect a key that works.
pub(super) fn requested(key_type: KeyType, template: &Template) -> Result<Vec<Mechanism>, Rv> {
    let flags = [CKA_SIGN, CKA_DECRYPT, CKA_ENCRYPT].map(|flag| template.bool(flag).map(|given| (flag, given)));
    let flags = flags.into_iter().collect::<Result<Vec<_>, _>>()?;
    // What is asked for is granted alone. If something is only denied, the rest is granted.
    let some = flags.iter().any(|(_, given)| *given == Some(true));
    let granted =
        |row: &MechanismSpec| flags.iter().all(|(flag, given)| !is_for(row.mode, *flag) || given.unwrap_or(!some));
    let listed = template.ulongs(CKA_ALLOWED_MECHANISMS)?;
    let in_list = |row: &MechanismSpec| match &listed {
        None => true,
        Some(list) => list.iter().any(|ckm| rows(*ckm, key_type).any(|other| other.mode == row.mode)),
    };
    let mut mechanisms: Vec<_> = TABLE
        .iter()
        .filter(|row| row.key == key_type && granted(row) && in_list(row))
        .map(|row| row.mechanism)
        .collect();
    mechanisms.dedup();
    if mechanisms.is_empty() {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    Ok(mechanisms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(flags: &[(CK_ATTRIBUTE_TYPE, bool)]) -> Template {
        Template::new(flags.iter().map(|(flag, value)| (*flag, vec![u8::from(*value)].into())).collect())
    }

    fn list(ckms: &[CK_MECHANISM_TYPE]) -> Template {
        let bytes: Vec<u8> = ckms.iter().flat_map(|ckm| ckm.to_ne_bytes()).collect();
        Template::new(vec![(CKA_ALLOWED_MECHANISMS, bytes.into())])
    }

    #[test]
    fn silence_means_every_mechanism_of_the_type() {
        for key_type in KeyType::ALL {
            let all = requested(key_type, &Template::default()).unwrap();
            let rows = TABLE.iter().filter(|row| row.key == key_type).count();
            assert_eq!(all.len(), rows, "{key_type:?}");
        }
    }

    #[test]
    fn flags_choose_mechanisms() {
        let of = |given: &[(CK_ATTRIBUTE_TYPE, bool)]| requested(KeyType::RSA, &flags(given));
        let (sign, decrypt) = (of(&[(CKA_SIGN, true)]).unwrap(), of(&[(CKA_DECRYPT, true)]).unwrap());
        assert_eq!((sign.len(), decrypt.len()), (7, 8));
        assert_eq!(of(&[(CKA_DECRYPT, false)]).unwrap(), sign);
        assert_eq!(of(&[(CKA_DECRYPT, true), (CKA_SIGN, false)]).unwrap(), decrypt);
        assert_eq!(of(&[(CKA_DECRYPT, true), (CKA_SIGN, true)]).unwrap().len(), 15);
        assert_eq!(of(&[(CKA_DECRYPT, false), (CKA_SIGN, false)]), Err(Rv(CKR_TEMPLATE_INCONSISTENT)));
        assert_eq!(requested(KeyType::EC_P256, &flags(&[(CKA_DECRYPT, true)])), Err(Rv(CKR_TEMPLATE_INCONSISTENT)));
    }

    #[test]
    fn a_list_of_mechanisms_chooses_those_of_the_server() {
        use Mechanism as M;
        let of = |ckms: &[CK_MECHANISM_TYPE]| requested(KeyType::RSA, &list(ckms)).unwrap();
        assert_eq!(of(&[CKM_SHA256_RSA_PKCS_PSS]), [M::RSA_Signature_PSS_SHA256]);
        assert_eq!(of(&[CKM_SHA256_RSA_PKCS]), [M::RSA_Signature_PKCS1]);
        assert_eq!(of(&[CKM_RSA_PKCS]), [M::RSA_Decryption_PKCS1, M::RSA_Signature_PKCS1]);
        assert_eq!(of(&[CKM_RSA_PKCS_OAEP]).len(), 6);
        assert_eq!(of(&[CKM_RSA_PKCS_PSS]).len(), 6);
        assert!(requested(KeyType::RSA, &list(&[CKM_ECDSA])).is_err());
    }

    #[test]
    fn the_allowed_mechanisms_of_a_key_follow_from_those_of_the_server() {
        use Mechanism as M;
        let ckms = allowed(KeyType::RSA, &[M::RSA_Signature_PSS_SHA256]);
        assert_eq!(ckms, [CKM_RSA_PKCS_PSS, CKM_SHA256_RSA_PKCS_PSS]);
        let ckms = allowed(KeyType::EC_P256, &[M::ECDSA_Signature]);
        assert_eq!(
            ckms,
            [CKM_ECDSA, CKM_ECDSA_SHA1, CKM_ECDSA_SHA224, CKM_ECDSA_SHA256, CKM_ECDSA_SHA384, CKM_ECDSA_SHA512]
        );
        assert_eq!(allowed(KeyType::Curve25519, &[M::EdDSA_Signature]), [CKM_EDDSA]);
        assert_eq!(allowed(KeyType::EC_P256K1, &[M::BIP340_Signature]), [] as [CK_MECHANISM_TYPE; 0]);
    }
}
