//! A node's own member of the cluster: an etcd that runs as a child process and serves nobody but this node.
//!
//! It is treated as a stranger, because what peers send reaches it first.

pub mod confine;
