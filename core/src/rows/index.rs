//! Rows by which keys are found without reading all of them: by uid, and by label.
//!
//! The row of a uid holds the id that its key has. The row of a label has the label's *tag* and the key's uid in its path, and
//! nothing in it. A tag is two bytes for each byte of the label: what HMAC-SHA-256 makes of the namespace and the label up to there. So
//! labels that begin alike have tags that begin alike, and a search for a beginning is a range of paths; nothing else of a label can be read
//! off its tag. Two bytes more mark the end of a label. Tags may collide, so whoever searches looks at the label of each key that is found.

use aws_lc_rs::hmac;
use casemate_api::KeyId;
use zeroize::Zeroizing;

use crate::crypto::seal;
use crate::crypto::secret::{DomainKey, StoreKey};
use crate::error::Error;
use crate::rows::chores::empty;
use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::key::KeyRecord;
use crate::rows::path::{Generation, KeyRef, NamespaceNumber, RowPath, RowPrefix, Uid, table_of};
use crate::rows::record::{Record, TableId};
use crate::rows::table::{RowChange, RowKey, SealedRow, Table, TableContext};
use crate::rows::transaction::Transaction;
use crate::runtime::Rng;
use crate::store::{Path, Revision};

/// The id of the key with a uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdOfUid(pub KeyId);

/// A key has a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labelled;

/// All keys of the generation have their rows of these tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexed;

impl Record for IdOfUid {
    const TABLE: TableId = TableId::Uids;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        Writer::new(1).bytes(self.0.as_str().as_bytes()).finish()
    }
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let id = KeyId::parse(&reader.text()?).map_err(|_| BadRecord("it holds no id of a key"))?;
        reader.end()?;
        Ok(Self(id))
    }
    fn weight(&self) -> u64 {
        160
    }
}

impl Record for Labelled {
    const TABLE: TableId = TableId::Labels;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        Writer::new(1).finish()
    }
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        empty(bytes).map(|()| Self)
    }
    fn weight(&self) -> u64 {
        32
    }
}

impl Record for Indexed {
    const TABLE: TableId = TableId::Indexed;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        Writer::new(1).finish()
    }
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        empty(bytes).map(|()| Self)
    }
    fn weight(&self) -> u64 {
        32
    }
}

/// The key that makes tags of labels.
struct TagKey(StoreKey);

impl TagKey {
    /// The tag key of a Domain Key.
    fn of(domain: &DomainKey) -> Self {
        Self(seal::derive(domain.expose(), &[b"tags of labels"]))
    }

    /// The tag of a whole label.
    fn tag(&self, namespace: NamespaceNumber, label: &str) -> Vec<u8> {
        // No text has this byte.
        self.parts(namespace, &[label.as_bytes(), &[0xff]].concat())
    }

    /// The tag of labels that begin like this.
    fn beginning(&self, namespace: NamespaceNumber, label: &str) -> Vec<u8> {
        self.parts(namespace, label.as_bytes())
    }

    fn parts(&self, namespace: NamespaceNumber, bytes: &[u8]) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.expose());
        let mut so_far = hmac::Context::with_key(&key);
        so_far.update(&namespace.to_be_bytes());
        let mut tag = Vec::with_capacity(bytes.len() * PART_BYTES);
        for byte in bytes {
            so_far.update(&[*byte]);
            tag.extend(so_far.clone().sign().as_ref().iter().take(PART_BYTES));
        }
        tag
    }
}

/// Length of what a tag has for one byte of a label.
const PART_BYTES: usize = 2;

/// Which keys are searched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    /// That with this uid.
    Uid(Uid),
    /// Those with this label; empty: without one.
    Label(String),
    /// Those whose labels begin like this.
    LabelBeginning(String),
}

impl Search {
    /// Whether this key is meant.
    pub fn wants(&self, record: &KeyRecord) -> bool {
        match self {
            Search::Uid(uid) => record.uid == *uid,
            Search::Label(label) => record.label == *label,
            Search::LabelBeginning(label) => record.label.starts_with(label.as_str()),
        }
    }
}

/// The tables by which the keys of one generation are found.
pub struct KeyIndex {
    /// Keys by their uids.
    pub uids: Table<IdOfUid>,
    /// Keys by their labels.
    pub labels: Table<Labelled>,
    indexed: Table<Indexed>,
    tags: TagKey,
    generation: Generation,
}

impl KeyIndex {
    /// The index of a generation.
    pub(super) fn new(context: &TableContext, domain: &DomainKey, generation: Generation) -> Self {
        Self {
            uids: Table::new(context.clone(), RowKey::of(domain), IdOfUid::CACHE_BYTES),
            labels: Table::new(context.clone(), RowKey::of(domain), Labelled::CACHE_BYTES),
            indexed: Table::new(context.clone(), RowKey::of(domain), Indexed::CACHE_BYTES),
            tags: TagKey::of(domain),
            generation,
        }
    }

    /// Invalidates a cached row.
    pub(super) fn apply(&self, change: RowChange, path: &Path) {
        match table_of(path) {
            Some((_, TableId::Uids)) => change.apply(&self.uids, path),
            Some((_, TableId::Labels)) => change.apply(&self.labels, path),
            _ => change.apply(&self.indexed, path),
        }
    }

    /// The row of the uid of a key.
    pub fn id_of(&self, key: KeyRef) -> RowPath<IdOfUid> {
        id_path(self.generation, key)
    }

    /// The row of the label of a key, if that has one.
    pub fn label_of(&self, key: KeyRef, label: &str) -> Option<RowPath<Labelled>> {
        let path = || label_path(self.generation, key, &self.tags, label);
        (!label.is_empty()).then(path)
    }

    /// The rows of the keys of a namespace with this label.
    pub fn with_label(&self, namespace: NamespaceNumber, label: &str) -> RowPrefix<Labelled> {
        RowPrefix::new(self.generation, &[&namespace.to_be_bytes(), &self.tags.tag(namespace, label)])
    }

    /// The rows of the keys of a namespace whose labels begin like this.
    pub fn with_label_beginning(&self, namespace: NamespaceNumber, label: &str) -> RowPrefix<Labelled> {
        RowPrefix::new(self.generation, &[&namespace.to_be_bytes(), &self.tags.beginning(namespace, label)])
    }

    /// The rows of all uids, and of all labels, of a namespace.
    pub fn of_namespace(&self, namespace: NamespaceNumber) -> (RowPrefix<IdOfUid>, RowPrefix<Labelled>) {
        let namespace = namespace.to_be_bytes();
        (RowPrefix::new(self.generation, &[&namespace]), RowPrefix::new(self.generation, &[&namespace]))
    }

    /// Adds to the transaction that writes a key the rows by which it is found.
    pub fn with(&self, transaction: Transaction, key: KeyRef, id: &KeyId, label: &str) -> Result<Transaction, Error> {
        let row = self.uids.sealed(&self.id_of(key), Revision::default(), &IdOfUid(id.clone()))?;
        let transaction = transaction.put(row);
        Ok(match self.label_of(key, label) {
            Some(path) => transaction.put(self.labels.sealed(&path, Revision::default(), &Labelled)?),
            None => transaction,
        })
    }

    /// Adds to the transaction that gives a key another label what moves it there.
    pub fn relabelled(
        &self,
        transaction: Transaction,
        key: KeyRef,
        id: &KeyId,
        (old, new): (&str, &str),
    ) -> Result<Transaction, Error> {
        let left = self.label_of(key, old).filter(|old| self.label_of(key, new).as_ref() != Some(old));
        self.with(left.iter().fold(transaction, Transaction::delete), key, id, new)
    }

    /// Adds to the transaction that deletes a key what removes the rows by which it is found.
    pub fn without(&self, transaction: Transaction, key: KeyRef, label: &str) -> Transaction {
        let transaction = transaction.delete(&self.id_of(key));
        self.label_of(key, label).iter().fold(transaction, Transaction::delete)
    }

    /// Whether all keys are indexed.
    pub async fn is_whole(&self) -> Result<bool, Error> {
        Ok(self.indexed.get(&RowPath::indexed(self.generation)).await?.is_some())
    }

    /// Adds to a transaction that all keys are indexed.
    pub fn whole(&self, transaction: Transaction) -> Result<Transaction, Error> {
        let path = RowPath::indexed(self.generation);
        Ok(transaction.put(self.indexed.sealed(&path, Revision::default(), &Indexed)?))
    }
}

fn id_path(generation: Generation, key: KeyRef) -> RowPath<IdOfUid> {
    RowPath::new(generation, &[&key.namespace.to_be_bytes(), &key.uid])
}

fn label_path(generation: Generation, key: KeyRef, tags: &TagKey, label: &str) -> RowPath<Labelled> {
    RowPath::new(generation, &[&key.namespace.to_be_bytes(), &tags.tag(key.namespace, label), &key.uid])
}

/// The rows by which a key that is written without its tables is found: as a restore does.
pub struct IndexRows {
    uids: RowKey<IdOfUid>,
    labels: RowKey<Labelled>,
    tags: TagKey,
}

impl IndexRows {
    /// What seals them.
    pub fn of(domain: &DomainKey) -> Self {
        Self { uids: RowKey::of(domain), labels: RowKey::of(domain), tags: TagKey::of(domain) }
    }

    /// The rows of a key.
    pub fn sealed(
        &self,
        generation: Generation,
        key: KeyRef,
        (id, label): (KeyId, &str),
        rng: &dyn Rng,
    ) -> Vec<SealedRow> {
        let uid = self.uids.seal(&id_path(generation, key), Revision::default(), &IdOfUid(id), rng);
        let labelled = (!label.is_empty()).then(|| {
            let path = label_path(generation, key, &self.tags, label);
            self.labels.seal(&path, Revision::default(), &Labelled, rng)
        });
        [uid].into_iter().chain(labelled).collect()
    }
}

impl RowPath<Labelled> {
    /// The uid of the key.
    pub fn uid(&self) -> Option<Uid> {
        self.path().as_bytes().last_chunk().copied()
    }
}

impl RowPath<Indexed> {
    /// The only row.
    pub fn indexed(generation: Generation) -> Self {
        Self::new(generation, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: KeyRef = KeyRef { namespace: 3, uid: [9; 16] };

    fn tags() -> TagKey {
        TagKey(StoreKey::new([7; 32]))
    }

    #[test]
    fn the_stored_forms_of_version_1_do_not_change() {
        let id = IdOfUid(KeyId::parse("web").unwrap());
        assert_eq!(*id.encode(), [1, 0, 0, 0, 3, b'w', b'e', b'b']);
        assert_eq!(IdOfUid::decode(&id.encode()), Ok(id));
        assert_eq!((&*Labelled.encode(), &*Indexed.encode()), (&vec![1], &vec![1]));
        assert_eq!((Labelled::decode(&[1]), Indexed::decode(&[1])), (Ok(Labelled), Ok(Indexed)));
        for bad in [&[2][..], &[1, 0, 0, 0, 0], &[1, 0, 0, 0, 1, b'/'], &[]] {
            assert!(IdOfUid::decode(bad).is_err() && Labelled::decode(bad).is_err(), "{bad:?}");
        }
        let uid = [&[1, 0, 0, 0, 5, 15, 0, 0, 0, 3][..], &[9; 16]].concat();
        let rows = IndexRows::of(&DomainKey::new([7; 32])).sealed(
            5,
            KEY,
            (KeyId::parse("web").unwrap(), "ab"),
            &crate::sim::SimRng::new(1),
        );
        let paths: Vec<_> = rows.into_iter().map(|row| row.into_parts().0).collect();
        assert_eq!(paths[0].as_bytes(), uid);
        assert_eq!(paths[1].as_bytes().get(..10), Some(&[1, 0, 0, 0, 5, 16, 0, 0, 0, 3][..]));
        let label = label_path(5, KEY, &tags(), "ab");
        let (tag, uid) = label.path().as_bytes()[10..].split_at(6);
        assert_eq!((&label.path().as_bytes()[..10], uid), (&[1, 0, 0, 0, 5, 16, 0, 0, 0, 3][..], &[9; 16][..]));
        assert_eq!(base16ct::lower::encode_string(tag), "31122559142a");
        assert_eq!(label.uid(), Some([9; 16]));
        assert_eq!(RowPath::indexed(5).path().as_bytes(), [1, 0, 0, 0, 5, 17]);
    }

    #[test]
    fn tags_begin_alike_as_far_as_labels_do() {
        let alike = |a: &str, b: &str| {
            let (a, b) = (tags().tag(1, a), tags().tag(1, b));
            a.chunks(PART_BYTES).zip(b.chunks(PART_BYTES)).take_while(|(a, b)| a == b).count()
        };
        assert_eq!(alike("web server", "web client"), 4);
        assert_eq!(alike("web", "web server"), 3, "the end of a label is no part of longer ones");
        assert_eq!(alike("same", "same"), 5);
        assert_eq!(alike("other", "web"), 0);
        assert_ne!(tags().tag(1, "web"), tags().tag(2, "web"), "namespaces have tags of their own");
        assert!(tags().tag(1, "web").starts_with(&tags().beginning(1, "we")));
    }
}
