//! What clients can see of a key. It has two ids, between which it is renamed; in a namespace that is created and deleted, the
//! namespace is part of it.
//!
//! Keys are imported, each with a number of its own that its public key tells. So a signature tells which of all keys that
//! have had the id has made it.

use super::linear::Object;

/// The tag that the Operators of the test have.
pub(crate) const RED: u8 = 1;
/// A tag that they do not have.
pub(crate) const BLUE: u8 = 2;

/// A key with two ids.
pub(crate) struct Key;

/// What is there: `None`, if the namespace is not; else the key at each of the two ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct There(pub(crate) Option<[Option<Stored>; 2]>);

/// A stored key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Stored {
    pub(crate) number: u32,
    /// A set of [`RED`] and [`BLUE`].
    pub(crate) tags: u8,
}

/// Which of the two ids.
pub(crate) type Id = usize;

/// A call and its answer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum KeyOp {
    Create(Id, Stored),
    Delete(Id),
    /// From this id to the other one.
    Rename(Id),
    Tag(Id, u8),
    Untag(Id, u8),
    CreateNamespace,
    DeleteNamespace,
    /// The key was shown.
    Shown(Id, Stored),
    /// The key of this number made a signature for an Operator who has the tag [`RED`].
    Signed(Id, u32),
    /// It made none, because it has tags and [`RED`] is not among them.
    Restricted(Id),
    /// Whether the list of all keys has the ids.
    Listed([bool; 2]),
    /// It was not created or renamed, because there is a key of this id.
    Taken(Id),
    Missing(Id),
    /// The tag was not added, because it was there.
    HasTag(Id, u8),
    /// The tag was not removed, because it was not there, or the key was not.
    HasNoTag(Id, u8),
    NamespaceExists,
    NamespaceMissing,
}

impl Object for Key {
    type State = There;
    type Op = KeyOp;

    fn start() -> There {
        There(None)
    }

    fn after(state: &There, op: &KeyOp) -> Option<There> {
        let keys = state.0.unwrap_or_default();
        let exists = state.0.is_some();
        let with = |id: Id, key: Option<Stored>| {
            let mut keys = keys;
            keys[id] = key;
            Some(There(Some(keys)))
        };
        let only_if = |told: bool| told.then_some(*state);
        match *op {
            KeyOp::Create(id, key) if exists && keys[id].is_none() => with(id, Some(key)),
            KeyOp::Delete(id) => keys[id].and_then(|_| with(id, None)),
            KeyOp::Rename(id) if keys[1 - id].is_none() => {
                let mut moved = keys;
                moved.swap(0, 1);
                keys[id].map(|_| There(Some(moved)))
            }
            KeyOp::Tag(id, tag) => {
                let key = keys[id].filter(|key| key.tags & tag == 0)?;
                with(id, Some(Stored { tags: key.tags | tag, ..key }))
            }
            KeyOp::Untag(id, tag) => {
                let key = keys[id].filter(|key| key.tags & tag != 0)?;
                with(id, Some(Stored { tags: key.tags & !tag, ..key }))
            }
            KeyOp::CreateNamespace if !exists => Some(There(Some([None; 2]))),
            KeyOp::DeleteNamespace if exists => Some(There(None)),
            KeyOp::Create(..) | KeyOp::Rename(_) | KeyOp::CreateNamespace | KeyOp::DeleteNamespace => None,
            KeyOp::Shown(id, key) => only_if(keys[id] == Some(key)),
            KeyOp::Signed(id, number) => {
                only_if(keys[id].is_some_and(|key| key.number == number && is_usable(key.tags)))
            }
            KeyOp::Restricted(id) => only_if(keys[id].is_some_and(|key| !is_usable(key.tags))),
            KeyOp::Listed(listed) => only_if(listed == keys.map(|key| key.is_some())),
            KeyOp::Taken(id) => only_if(keys[id].is_some()),
            KeyOp::Missing(id) => only_if(keys[id].is_none()),
            KeyOp::HasTag(id, tag) => only_if(keys[id].is_some_and(|key| key.tags & tag != 0)),
            KeyOp::HasNoTag(id, tag) => only_if(keys[id].is_none_or(|key| key.tags & tag == 0)),
            KeyOp::NamespaceExists => only_if(exists),
            KeyOp::NamespaceMissing => only_if(!exists),
        }
    }

    fn changes(op: &KeyOp) -> bool {
        match op {
            KeyOp::Create(..)
            | KeyOp::Delete(_)
            | KeyOp::Rename(_)
            | KeyOp::Tag(..)
            | KeyOp::Untag(..)
            | KeyOp::CreateNamespace
            | KeyOp::DeleteNamespace => true,
            KeyOp::Shown(..)
            | KeyOp::Signed(..)
            | KeyOp::Restricted(_)
            | KeyOp::Listed(_)
            | KeyOp::Taken(_)
            | KeyOp::Missing(_)
            | KeyOp::HasTag(..)
            | KeyOp::HasNoTag(..)
            | KeyOp::NamespaceExists
            | KeyOp::NamespaceMissing => false,
        }
    }
}

fn is_usable(tags: u8) -> bool {
    tags == 0 || tags & RED != 0
}
