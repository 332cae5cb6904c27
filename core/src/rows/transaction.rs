//! Writing to the shared store: one verb, always fenced by the generation, settled even when the answer is lost.

use crate::store::applied;
use std::sync::Arc;

use crate::error::Error;
use crate::rows::path::{Generation, SharedPath, generation_pointer};
use crate::rows::table::{Closed, Doubt};
use crate::store::{Expect, Outcome, Path, Revision, Room, Store, Txn};

/// What a caller of [`Shared::apply`] wants done, whole or not at all.
#[derive(Clone, Default)]
pub struct Draft {
    expect: Vec<(Path, Expect)>,
    put: Vec<(Path, Vec<u8>)>,
    delete: Vec<Path>,
    room: Room,
}

impl Draft {
    /// How many guards it has.
    pub(crate) fn guards(&self) -> usize {
        self.expect.len()
    }

    /// It is carried out on a disk that is nearly full, too, unless it is worse: it replaces rows by others that are no larger.
    pub fn replacing(mut self) -> Self {
        self.room = Room::Replacing;
        self
    }

    /// It is carried out on a disk that is nearly full, too: what it writes is bounded to little.
    pub fn reserved(mut self) -> Self {
        self.room = Room::Reserved;
        self
    }
    /// The row must not exist.
    pub fn absent(mut self, path: &SharedPath) -> Self {
        self.expect.push((path.path().clone(), Expect::Absent));
        self
    }
    /// The row must exist and be of this revision.
    pub fn at(mut self, path: &SharedPath, revision: Revision) -> Self {
        self.expect.push((path.path().clone(), Expect::At(revision)));
        self
    }
    /// Removes a row known by its raw path.
    pub fn delete_raw(mut self, path: Path) -> Self {
        self.delete.push(path);
        self
    }
    /// Writes a sealed row.
    pub fn put(mut self, sealed: (Path, Vec<u8>)) -> Self {
        self.put.push(sealed);
        self
    }
    /// Removes a row; an absent one is no error.
    pub fn delete(mut self, path: &SharedPath) -> Self {
        self.delete.push(path.path().clone());
        self
    }
}

/// What became of a [`Draft`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Applied and durable.
    At(Revision),
    /// Nothing applied: the draft's guard with this index failed.
    Conflict(usize),
}

/// The shared store as one generation of it is written.
pub struct Shared {
    store: Arc<dyn Store>,
    /// The generation all paths of this phase live in.
    pub generation: Generation,
    pointer: Revision,
    closed: Closed,
    doubt: Doubt,
}

impl Shared {
    /// The store below the generation that `pointer` names.
    pub fn new(store: Arc<dyn Store>, generation: Generation, pointer: Revision, closed: Closed, doubt: Doubt) -> Self {
        Self { store, generation, pointer, closed, doubt }
    }

    /// Applies `draft` if all its guards hold and the generation has not moved, and asks for nobody's right: what a caller
    /// wants goes through `Operational::commit`. A lost answer is settled by reading again: sealed values are unique, so
    /// equal bytes are ours.
    pub async fn apply(&self, draft: Draft) -> Result<Committed, Error> {
        let outcome = self.apply_all(vec![draft]).await?.pop();
        outcome.ok_or_else(|| Error::internal("the store gave no outcome"))
    }

    /// Like [`Shared::apply`] for many drafts, each by itself, in one write to the disk.
    pub async fn apply_all(&self, drafts: Vec<Draft>) -> Result<Vec<Committed>, Error> {
        self.closed.check()?;
        let fenced = |draft: Draft| {
            let mut txn = Txn { expect: draft.expect, put: draft.put, delete: draft.delete, room: draft.room };
            txn.expect.push((generation_pointer(), Expect::At(self.pointer)));
            txn
        };
        let txns: Vec<Txn> = drafts.into_iter().map(fenced).collect();
        let outcomes = self.store.commit(txns.clone()).await?;
        let mut committed = Vec::with_capacity(txns.len());
        for (txn, outcome) in txns.iter().zip(outcomes) {
            committed.push(match outcome {
                Outcome::Committed(revision) => Committed::At(revision),
                Outcome::Conflict(guard) if guard + 1 == txn.expect.len() => {
                    return Err(Error::Unavailable("The HSM's data was replaced by a restore. Try again.".into()));
                }
                Outcome::Conflict(guard) => Committed::Conflict(guard),
                Outcome::Unknown => {
                    // Raised after the answer, when what will be applied is applied: no older row is cached anew.
                    self.doubt.raise();
                    match applied(&*self.store, txn).await.map_err(|_| unconfirmed())? {
                        Some(revision) => Committed::At(revision),
                        None => return Err(unconfirmed()),
                    }
                }
            });
        }
        Ok(committed)
    }
}

fn unconfirmed() -> Error {
    Error::Unavailable("The store did not confirm the change. Read before you try again.".into())
}

/// How often a read-modify-write starts over before it gives up.
pub(crate) const ATTEMPTS: usize = 16;
