//! A key as stored: a compact binary record; of an RSA key the primes.

use crate::rows::path::NamespaceNumber;
use crate::rows::path::{Generation, RowPath, RowPrefix, TABLE_BYTES};
use crate::rows::record::TableId;
use casemate_api::KeyId;
use std::sync::Arc;

use async_lock::OnceCell;
use casemate_api::Mechanism;
use casemate_api::limits::ROW_CACHE_BYTES;
use casemate_api::mechanisms;
use casemate_api::words::KeyType;
use zeroize::Zeroizing;

use crate::crypto::material::Material;
use crate::crypto::mech::LoadedKey;
use crate::error::Error;
use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::Uid;
use crate::rows::record::Record;

/// A set of mechanisms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mechanisms(u32);

/// The bit of each mechanism in stored records: append only.
const BITS: [Mechanism; 20] = {
    use Mechanism::*;
    [
        RSA_Decryption_RAW,
        RSA_Decryption_PKCS1,
        RSA_Decryption_OAEP_MD5,
        RSA_Decryption_OAEP_SHA1,
        RSA_Decryption_OAEP_SHA224,
        RSA_Decryption_OAEP_SHA256,
        RSA_Decryption_OAEP_SHA384,
        RSA_Decryption_OAEP_SHA512,
        RSA_Signature_PKCS1,
        RSA_Signature_PSS_MD5,
        RSA_Signature_PSS_SHA1,
        RSA_Signature_PSS_SHA224,
        RSA_Signature_PSS_SHA256,
        RSA_Signature_PSS_SHA384,
        RSA_Signature_PSS_SHA512,
        EdDSA_Signature,
        ECDSA_Signature,
        BIP340_Signature,
        AES_Encryption_CBC,
        AES_Decryption_CBC,
    ]
};

impl Mechanisms {
    /// The set of the mechanisms in `list`.
    pub fn of(list: &[Mechanism]) -> Self {
        let bit = |mechanism: &Mechanism| BITS.iter().position(|known| known == mechanism).map_or(0, |at| 1u32 << at);
        Self(list.iter().fold(0, |set, mechanism| set | bit(mechanism)))
    }

    /// Whether `mechanism` is in the set.
    pub fn contains(self, mechanism: Mechanism) -> bool {
        self.0 & Self::of(&[mechanism]).0 != 0
    }

    /// The members, in the API's order.
    pub fn list(self) -> Vec<Mechanism> {
        let mut list: Vec<_> = BITS.into_iter().filter(|mechanism| self.contains(*mechanism)).collect();
        list.sort();
        list
    }
}

/// A key as stored.
pub struct KeyRecord {
    /// Stays the same when the key is renamed. The rows of its certificate and counters carry it in their paths.
    pub uid: Uid,
    /// What the key may do.
    pub mechanisms: Mechanisms,
    /// At most 32 bytes; empty if there is none.
    pub label: String,
    /// Sorted, without repetition.
    pub tags: Vec<String>,
    /// The private key.
    pub material: Material,
    /// The private key, ready for use. It is loaded at first use, because that takes longer than reading the record. Later
    /// records of the same key share it.
    loaded: Arc<OnceCell<Arc<LoadedKey>>>,
}

impl KeyRecord {
    /// A record whose private key is not loaded yet.
    pub fn new(uid: Uid, mechanisms: Mechanisms, label: String, tags: Vec<String>, material: Material) -> Self {
        Self { uid, mechanisms, label, tags, material, loaded: Arc::default() }
    }

    /// The private key, ready for use. The first caller loads it with `load`, and others wait for that. If the first is
    /// cancelled, one of the others loads it.
    pub(crate) async fn loaded<F>(&self, load: impl FnOnce() -> F) -> Result<Arc<LoadedKey>, Error>
    where
        F: Future<Output = Result<LoadedKey, Error>>,
    {
        self.loaded.get_or_try_init(async || load().await.map(Arc::new)).await.cloned()
    }

    /// The key type.
    pub fn key_type(&self) -> KeyType {
        self.material.key_type()
    }
}

impl Record for KeyRecord {
    const TABLE: TableId = TableId::Keys;
    const CACHE_BYTES: u64 = ROW_CACHE_BYTES;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut material = Zeroizing::new(Vec::with_capacity(1100));
        self.material.encode(&mut material);
        let head = Writer::new(1)
            .raw(&self.uid)
            .u32(self.mechanisms.0)
            .bytes(self.label.as_bytes())
            .u32(u32::try_from(self.tags.len()).unwrap_or(u32::MAX));
        self.tags.iter().fold(head, |writer, tag| writer.bytes(tag.as_bytes())).raw(&material).finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let uid = reader.array()?;
        let mechanisms = Mechanisms(reader.u32()?);
        let label = reader.text()?;
        let count = reader.u32()?;
        let tags = (0..count).map(|_| reader.text()).collect::<Result<_, _>>()?;
        let material = Material::decode(reader.rest()).ok_or(BadRecord("its key material does not make sense"))?;
        Ok(Self::new(uid, mechanisms, label, tags, material))
    }

    const REUSES_OLDER: bool = true;

    fn reuse_from(&mut self, older: &Self) {
        if self.uid == older.uid && self.material.ct_eq(&older.material) {
            self.loaded = older.loaded.clone();
        }
    }

    fn weight(&self) -> u64 {
        // The weight is computed once, when the record is cached, so the size of the loaded key is estimated from its type.
        let live = match &self.material {
            // About 6 kB at 2048 bits, measured; the tables for exponentiation grow with the modulus.
            Material::Rsa { p, q, .. } => 2_000 + 16 * (p.byte_len() + q.byte_len()),
            Material::Generic(bytes) => 2 * bytes.byte_len(),
            Material::Ec { .. } | Material::Ed25519(_) => 1_000,
        };
        let tags: usize = self.tags.iter().map(|tag| tag.len() + 24).sum();
        (live + 300 + self.label.len() + tags) as u64
    }
}

/// The mechanisms of `list` as a set.
///
/// # Errors
/// [`Error::Invalid`] if a mechanism does not fit the key type, or if `list` is empty.
pub fn check_mechanisms(key_type: KeyType, list: &[Mechanism]) -> Result<Mechanisms, Error> {
    if list.iter().any(|mechanism| !mechanisms::fits(key_type, *mechanism)) {
        return Err(Error::invalid_field("mechanisms", "Mechanism does not match key type"));
    }
    if list.is_empty() {
        return Err(Error::invalid_field("mechanisms", "Empty set of mechanisms"));
    }
    Ok(Mechanisms::of(list))
}

impl RowPath<KeyRecord> {
    /// The row of a key.
    pub fn key(generation: Generation, namespace: NamespaceNumber, id: &KeyId) -> Self {
        Self::new(generation, &[&namespace.to_be_bytes(), id.as_str().as_bytes()])
    }
}

impl RowPath<KeyRecord> {
    /// The namespace and the id of the key. `None`: no version has written such a path.
    pub fn name(&self) -> Option<(NamespaceNumber, KeyId)> {
        let name = self.path().as_bytes().get(TABLE_BYTES..)?;
        let (namespace, id) = name.split_first_chunk()?;
        Some((NamespaceNumber::from_be_bytes(*namespace), KeyId::parse(std::str::from_utf8(id).ok()?).ok()?))
    }
}

impl RowPrefix<KeyRecord> {
    /// The keys of all namespaces.
    pub fn all_keys(generation: Generation) -> Self {
        Self::new(generation, &[])
    }

    /// The keys of one namespace whose ids start with `prefix`.
    pub fn keys(generation: Generation, namespace: NamespaceNumber, prefix: &str) -> Self {
        Self::new(generation, &[&namespace.to_be_bytes(), prefix.as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::SecretBytes;

    #[test]
    fn every_mechanism_has_a_bit_and_lists_in_the_order_of_the_api() {
        let all: Vec<_> = mechanisms::TABLE.iter().map(|row| row.mechanism).collect();
        for mechanism in &all {
            assert_eq!(Mechanisms::of(&[*mechanism]).list(), [*mechanism]);
        }
        let list = Mechanisms::of(&[Mechanism::AES_Decryption_CBC, Mechanism::RSA_Decryption_RAW]).list();
        assert_eq!(list, [Mechanism::RSA_Decryption_RAW, Mechanism::AES_Decryption_CBC]);
    }

    #[test]
    fn the_stored_form_of_version_1_does_not_change() {
        let record = KeyRecord::new(
            [0x33; 16],
            Mechanisms::of(&[Mechanism::AES_Encryption_CBC, Mechanism::AES_Decryption_CBC]),
            "disk".into(),
            vec!["a".into(), "b".into()],
            Material::Generic(SecretBytes::from_slice(&[0x44; 16])),
        );
        let golden = include_str!("../../testdata/formats/key-v1.hex").trim();
        let hex = base16ct::lower::encode_string(&record.encode());
        assert_eq!(hex, golden);
        let again = KeyRecord::decode(&record.encode()).unwrap();
        assert_eq!(
            (again.uid, again.mechanisms, again.label, again.tags),
            ([0x33; 16], record.mechanisms, record.label, record.tags)
        );
    }
}
