//! Rows of the housekeeping: the highest namespace number in use, and work that is not finished yet.

use zeroize::Zeroizing;

use crate::rows::encoding::{BadRecord, Reader, Writer};
use crate::rows::path::{Generation, NamespaceNumber, RowPath, RowPrefix};
use crate::rows::record::Record;
use crate::rows::record::TableId;

/// The highest number ever assigned to a namespace. The row is absent until the first namespace is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastNamespaceNumber(pub NamespaceNumber);

/// Marks a deleted namespace whose keys are not all removed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeletedNamespace;

/// Marks that some users have passphrase digests of scheme 0 (NetHSM's), which must be replaced by stronger ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardening;

impl Record for LastNamespaceNumber {
    const TABLE: TableId = TableId::NamespaceNumbers;

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        Writer::new(1).u32(self.0).finish()
    }
    fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != 1 {
            return Err(BadRecord("its format is of a newer version"));
        }
        let number = reader.u32()?;
        reader.end()?;
        Ok(Self(number))
    }
    fn weight(&self) -> u64 {
        32
    }
}

impl Record for DeletedNamespace {
    const TABLE: TableId = TableId::DeletedNamespaces;

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

impl Record for Hardening {
    const TABLE: TableId = TableId::Hardening;

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

/// Reads a record that consists of its version alone.
pub(super) fn empty(bytes: &[u8]) -> Result<(), BadRecord> {
    match Reader::open(bytes)? {
        (1, reader) => reader.end(),
        _ => Err(BadRecord("its format is of a newer version")),
    }
}

impl RowPath<LastNamespaceNumber> {
    /// The only row.
    pub fn last_namespace_number(generation: Generation) -> Self {
        Self::new(generation, &[])
    }
}

impl RowPath<DeletedNamespace> {
    /// The row of the deleted namespace with this number.
    pub fn deleted_namespace(generation: Generation, number: NamespaceNumber) -> Self {
        Self::new(generation, &[&number.to_be_bytes()])
    }

    /// The number of the deleted namespace.
    pub fn number(&self) -> Option<NamespaceNumber> {
        self.path().as_bytes().last_chunk().map(|number| NamespaceNumber::from_be_bytes(*number))
    }
}

impl RowPrefix<DeletedNamespace> {
    /// The rows of all deleted namespaces.
    pub fn all_deleted_namespaces(generation: Generation) -> Self {
        Self::new(generation, &[])
    }
}

impl RowPath<Hardening> {
    /// The only row.
    pub fn hardening(generation: Generation) -> Self {
        Self::new(generation, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_forms_of_version_1_do_not_change() {
        assert_eq!(*LastNamespaceNumber(0x0102).encode(), [1, 0, 0, 1, 2]);
        assert_eq!((&*DeletedNamespace.encode(), &*Hardening.encode()), (&vec![1], &vec![1]));
        assert_eq!(LastNamespaceNumber::decode(&[1, 0, 0, 1, 2]), Ok(LastNamespaceNumber(0x0102)));
        assert_eq!((DeletedNamespace::decode(&[1]), Hardening::decode(&[1])), (Ok(DeletedNamespace), Ok(Hardening)));
        for bad in [&[2][..], &[1, 0], &[]] {
            assert!(DeletedNamespace::decode(bad).is_err() && LastNamespaceNumber::decode(bad).is_err());
        }
        assert_eq!(RowPath::deleted_namespace(7, 0x0304).number(), Some(0x0304));
        assert_eq!(RowPath::deleted_namespace(7, 3).path().as_bytes(), [1, 0, 0, 0, 7, 11, 0, 0, 0, 3]);
    }
}
