//! What a store that is not in this process tells about itself.

/// What is known of such a store, as it was seen some seconds ago at most. Not for callers without credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The endpoints in the settings, in the order in which they are tried: the first one is in use.
    pub endpoints: Vec<Endpoint>,
    /// The version of the store; empty while it is not known.
    pub version: String,
    /// Bytes of its database, of the largest member; 0 while that is not known.
    pub bytes: u64,
    /// Bytes that the database may have; 0 if that is not known.
    pub quota_bytes: u64,
    /// Whether revisions are gone that no node has compacted: somebody else does.
    pub compacted_by_others: bool,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// Why it cannot be used; empty if it can.
    pub trouble: String,
}
