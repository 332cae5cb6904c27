//! Which cluster a shared store belongs to. The row is written when the first node is provisioned, and every node keeps a copy
//! in its own store, so that a node with the settings of another cluster's store says so instead of failing to open rows.

use casemate_api::limits::LIST_PAGE_ROWS;

use crate::error::Error;
use crate::rows::path::{cluster_identity, is_left_over};
use crate::runtime::Rng;
use crate::store::{Path, Range, Read, Revision, Store, StoreError};

/// Identifies the data in a shared store: the version of the layout of its rows, and 16 random bytes. Stored in clear, because
/// it is read before the HSM is unlocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterId([u8; 17]);

/// The version of the layout of the shared rows that this software writes. It refuses stores with a higher one.
const LAYOUT: u8 = 1;

/// What a shared store says about the cluster it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No cluster has used it.
    None,
    /// This cluster's, as of this revision.
    Known(ClusterId, Revision),
    /// That of a later version of this software, or the row is damaged.
    Unknown,
}

impl ClusterId {
    /// A new cluster.
    pub fn random(rng: &dyn Rng) -> Self {
        let mut bytes = [0; 17];
        rng.fill(&mut bytes);
        let [layout, ..] = &mut bytes;
        *layout = LAYOUT;
        Self(bytes)
    }

    /// A new cluster, if no other one uses the store.
    ///
    /// # Errors
    /// [`Error::Precondition`] if it holds rows: they may be those of a cluster that this node has the wrong settings for.
    pub async fn for_unused(store: &dyn Store, rng: &dyn Rng) -> Result<Self, Error> {
        let range = Range { start: Path(Box::from([])), end: None, limit: LIST_PAGE_ROWS, keys_only: true };
        let page = store.range(range, Read::Fresh).await?;
        if page.more || !page.rows.iter().all(|(path, _)| is_left_over(path)) {
            return Err(Self::in_use());
        }
        Ok(Self::random(rng))
    }

    /// The refusal to found a cluster in a store that holds one.
    pub fn in_use() -> Error {
        Error::Precondition(
            "The shared store already holds the data of an HSM. Join that cluster, or choose another etcd-prefix."
                .into(),
        )
    }

    /// Reads what [`ClusterId::bytes`] wrote. `None` for a layout that this version does not know.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes = <[u8; 17]>::try_from(bytes).ok()?;
        (bytes.first() == Some(&LAYOUT)).then_some(Self(bytes))
    }

    /// The stored form.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The row of this cluster for a shared store.
    pub fn row(&self) -> (Path, Vec<u8>) {
        (cluster_identity(), self.0.to_vec())
    }

    /// Reads the row of a shared store.
    pub async fn found_in(store: &dyn Store) -> Result<Found, StoreError> {
        Ok(match store.get(&cluster_identity(), Read::Fresh).await? {
            None => Found::None,
            Some(row) => Self::from_bytes(&row.value).map_or(Found::Unknown, |id| Found::Known(id, row.revision)),
        })
    }
}

/// The stored form of the cluster's id in a shared store, as fresh as `read`. `None`: there is none.
pub async fn cluster_of(store: &dyn Store, read: Read) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(store.get(&cluster_identity(), read).await?.map(|row| row.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimRng;

    #[test]
    fn the_stored_form_does_not_change_and_another_layout_is_not_read() {
        let id = ClusterId::random(&SimRng::new(1));
        assert_eq!((id.bytes().len(), id.bytes()[0]), (17, 1));
        assert_eq!(ClusterId::from_bytes(id.bytes()), Some(id));
        assert_ne!(ClusterId::random(&SimRng::new(2)), id);
        let mut later = id.bytes().to_vec();
        later[0] = 2;
        assert_eq!((ClusterId::from_bytes(&later), ClusterId::from_bytes(b"")), (None, None));
        assert_eq!(id.row().0.as_bytes(), b"\0cluster");
    }
}
