//! `CKA_ID` and the id of a key on the server. NetHSM's module has the same mapping, so that both can share a server.
//!
//! A `CKA_ID` that is a valid key id is the key id. Any other is `0---` and its bytes in hex, which leaves room for 62
//! bytes.

use casemate_api::KeyId;

/// What marks a key id that is a `CKA_ID` in hex.
const PREFIX: &str = "0---";

/// The `CKA_ID` of a key.
pub(super) fn of_key(id: &KeyId) -> Vec<u8> {
    decoded(id).unwrap_or_else(|| id.as_str().as_bytes().to_vec())
}

/// The bytes that a key id has in hex.
fn decoded(id: &KeyId) -> Option<Vec<u8>> {
    let digits = id.as_str().strip_prefix(PREFIX)?.as_bytes();
    let pairs = digits.chunks_exact(2);
    if digits.is_empty() || !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Whether the id says nothing to people, as it is a `CKA_ID` in hex.
pub(super) fn is_encoded(id: &KeyId) -> bool {
    decoded(id).is_some()
}

/// The key id for a new `CKA_ID`. None: it is empty or too long.
pub(super) fn for_new(cka_id: &[u8]) -> Option<KeyId> {
    if let Some(id) = plain(cka_id) {
        return Some(id);
    }
    if cka_id.is_empty() {
        return None;
    }
    let digits: String = cka_id.iter().map(|byte| format!("{byte:02x}")).collect();
    KeyId::parse(&format!("{PREFIX}{digits}")).ok()
}

/// The key ids whose `CKA_ID` this is: which of them there are, the server knows.
pub(super) fn candidates(cka_id: &[u8]) -> Vec<KeyId> {
    let digits: String = cka_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let encoded = KeyId::parse(&format!("{PREFIX}{digits}")).ok().filter(|_| !cka_id.is_empty());
    plain(cka_id).into_iter().chain(encoded).collect()
}

/// The `CKA_ID` as it is, if it is a key id that is not taken for one in hex.
fn plain(cka_id: &[u8]) -> Option<KeyId> {
    let id = KeyId::parse(str::from_utf8(cka_id).ok()?).ok()?;
    (!is_encoded(&id)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_that_are_key_ids_stay_as_they_are_and_others_are_in_hex() {
        let name = |bytes: &[u8]| for_new(bytes).map(|id| id.to_string());
        assert_eq!(name(b"web-2026").unwrap(), "web-2026");
        assert_eq!(name(&[1]).unwrap(), "0---01");
        assert_eq!(name("Schlüssel".as_bytes()).unwrap(), "0---5363686cc3bc7373656c");
        assert_eq!(name(b"-x").unwrap(), "0---2d78");
        assert_eq!(name(b"0---01").unwrap(), "0---302d2d2d3031", "else it would be read as 01");
        assert_eq!(name(&[0; 62]).unwrap().len(), 128);
        assert_eq!(name(&[0; 63]), None);
        assert_eq!(name(b""), None);
        assert_eq!(of_key(&KeyId::parse("0---0").unwrap()), b"0---0");
        assert_eq!(of_key(&KeyId::parse("0---AB").unwrap()), [0xab], "in capitals, too");
    }

    proptest! {
        #[test]
        fn a_cka_id_is_read_as_it_was_given(bytes in proptest::collection::vec(any::<u8>(), 1..63)) {
            let id = for_new(&bytes).unwrap();
            prop_assert_eq!(of_key(&id), bytes.clone());
            prop_assert!(candidates(&bytes).contains(&id));
        }

        #[test]
        fn every_key_is_found_by_its_cka_id(text in "(0---)?[0-9a-f]{1,20}|[A-Za-z0-9][A-Za-z0-9_.-]{0,20}") {
            let id = KeyId::parse(&text).unwrap();
            prop_assert!(candidates(&of_key(&id)).contains(&id));
        }
    }
}
