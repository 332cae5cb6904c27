//! The layout of rows in redb: two tables, and the revision in front of each value.

use casemate_core::store::Revision;
use redb::{ReadableTable, Table, TableDefinition};

/// Path → revision (8 bytes, big endian) ‖ value.
pub(super) const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");
/// Numbers about the store itself.
pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
/// In [`META`]: version of this layout.
pub(super) const FORMAT: &str = "format";
/// In [`META`]: revision of the last change.
pub(super) const REVISION: &str = "revision";
/// The layout described in this file.
pub(super) const FORMAT_VERSION: u64 = 2;
/// The same layout, from when single values shared one table of the core. It is opened and becomes the present version.
pub(super) const FIRST_FORMAT_VERSION: u64 = 1;

/// Splits a stored value into revision and value.
pub(super) fn split(row: &[u8]) -> Result<(Revision, &[u8]), redb::Error> {
    let (revision, value) = row.split_first_chunk().ok_or_else(|| damaged("a row has no revision"))?;
    Ok((Revision(u64::from_be_bytes(*revision)), value))
}

/// Writes one row.
pub(super) fn insert(
    rows: &mut Table<'_, &'static [u8], &'static [u8]>,
    path: &[u8],
    value: &[u8],
    revision: Revision,
) -> Result<(), redb::Error> {
    let mut place = rows.insert_reserve(path, REVISION_BYTES + value.len())?;
    if let Some((head, tail)) = place.as_mut().split_first_chunk_mut() {
        *head = revision.0.to_be_bytes();
        tail.copy_from_slice(value);
    }
    Ok(())
}

/// A number of [`META`] that must exist.
pub(super) fn number(meta: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, redb::Error> {
    Ok(meta.get(name)?.ok_or_else(|| damaged("a number about the store is missing"))?.value())
}

/// The stored data contradicts itself.
pub(super) fn damaged(text: &str) -> redb::Error {
    redb::Error::Corrupted(text.into())
}

const REVISION_BYTES: usize = size_of::<u64>();
