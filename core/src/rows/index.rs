//! Rows by which keys are found without reading all of them: by uid, and by label.
//!
//! The row of a uid holds the id that its key has. The row of a label has the label's *tag* and the key's uid in its path, and
//! nothing in it. A tag is two bytes for each byte of the label: what HMAC-SHA-256 makes of the namespace and the label up to there. So
//! labels that begin alike have tags that begin alike, and a search for a beginning is a range of paths; nothing else of a label can be read
//! off its tag. Two bytes more mark the end of a label. Tags may collide, so whoever searches looks at the label of each key that is found.

use aws_lc_rs::hmac;
use casemate_api::KeyId;
use casemate_api::limits::LABEL_MAX_BYTES;
use zeroize::Zeroizing;

use crate::crypto::seal;
use crate::crypto::secret::{DomainKey, StoreKey};
use crate::rows::chores::empty;
use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::{Generation, KeyRef, NamespaceNumber, RowPath, RowPrefix, Uid};
use crate::rows::record::{Record, TableId};

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
pub struct TagKey(StoreKey);

impl TagKey {
    /// The tag key of a Domain Key.
    pub fn of(domain: &DomainKey) -> Self {
        Self(seal::derive(domain.expose(), &[b"tags of labels"]))
    }

    /// The tag of a whole label.
    fn tag(&self, namespace: NamespaceNumber, label: &str) -> Vec<u8> {
        // No text has this byte. Longer labels than ours come from backups only, and paths stay short.
        let label = label.as_bytes();
        self.parts(namespace, &[label.get(..LABEL_MAX_BYTES).unwrap_or(label), &[0xff]].concat())
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

impl RowPath<IdOfUid> {
    /// The row of this key.
    pub fn id_of(generation: Generation, key: KeyRef) -> Self {
        Self::new(generation, &[&key.namespace.to_be_bytes(), &key.uid])
    }
}

impl RowPrefix<IdOfUid> {
    /// The rows of all keys of a namespace.
    pub fn uids(generation: Generation, namespace: NamespaceNumber) -> Self {
        Self::new(generation, &[&namespace.to_be_bytes()])
    }
}

impl RowPath<Labelled> {
    /// The row of a key with this label.
    pub fn label(generation: Generation, key: KeyRef, tags: &TagKey, label: &str) -> Self {
        Self::new(generation, &[&key.namespace.to_be_bytes(), &tags.tag(key.namespace, label), &key.uid])
    }

    /// The uid of the key.
    pub fn uid(&self) -> Option<Uid> {
        self.path().as_bytes().last_chunk().copied()
    }
}

impl RowPrefix<Labelled> {
    /// The rows of all keys of a namespace that have a label.
    pub fn labels(generation: Generation, namespace: NamespaceNumber) -> Self {
        Self::new(generation, &[&namespace.to_be_bytes()])
    }

    /// The rows of the keys with this label.
    pub fn label(generation: Generation, namespace: NamespaceNumber, tags: &TagKey, label: &str) -> Self {
        Self::new(generation, &[&namespace.to_be_bytes(), &tags.tag(namespace, label)])
    }

    /// The rows of the keys whose labels begin like this.
    pub fn beginning(generation: Generation, namespace: NamespaceNumber, tags: &TagKey, label: &str) -> Self {
        Self::new(generation, &[&namespace.to_be_bytes(), &tags.beginning(namespace, label)])
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
        assert_eq!(RowPath::id_of(5, KEY).path().as_bytes(), uid);
        let label = RowPath::label(5, KEY, &tags(), "ab");
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
