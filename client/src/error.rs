//! Errors, by what the caller can do about them. No variant carries a passphrase, a body or a header.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::fingerprint::Fingerprint;

/// Every way in which a call can fail. `Display` is one sentence or two: what happened, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HSM refused the request; sending it again changes nothing. Other statuses from `400` to `499`, and `507`.
    #[error("{node} refused this ({status}): {message}")]
    Refused {
        /// The node that refused.
        node: String,
        /// The HTTP status.
        status: u16,
        /// The message of the HSM.
        message: String,
    },
    /// User name or passphrase is wrong or missing (`401`).
    #[error("{node} does not accept this user name and passphrase. Check both and log in again.")]
    Unauthenticated {
        /// The node that refused.
        node: String,
    },
    /// The user may not do this (`403`).
    #[error(
        "{node} does not allow this user to do that{}. Log in as a user with the required role, namespace and tags.",
        because(message)
    )]
    Forbidden {
        /// The node that refused.
        node: String,
        /// The message of the HSM; may be empty.
        message: String,
    },
    /// The key, user or other object does not exist, or the user may not see it (`404`).
    #[error("{node} has no object of that name{}. Check the id and the namespace.", because(message))]
    NotFound {
        /// The node that answered.
        node: String,
        /// The message of the HSM; may be empty.
        message: String,
    },
    /// The HSM does not offer this in its current state (`412`).
    #[error("{node} does not offer this in its current state. Provision or unlock it if necessary.")]
    WrongState {
        /// The node; the last one that was asked, if there are several.
        node: String,
    },
    /// A failed login blocks further ones for a second, and the block did not end in time (`429`).
    #[error("{node} accepts no login for a moment, because one has just failed. Wait a second and try again.")]
    TooManyLogins {
        /// The node.
        node: String,
    },
    /// The client does not trust the node's certificate. No request was sent.
    #[error(
        "The certificate of {node} is not trusted: {why}. Its SHA-256 fingerprint is {fingerprint}; pin it only if the HSM's operator confirms it."
    )]
    Untrusted {
        /// The node.
        node: String,
        /// The fingerprint of its certificate.
        fingerprint: Fingerprint,
        /// Why it is not trusted.
        why: String,
    },
    /// The node's certificate is not among the pinned ones. No request was sent.
    #[error(
        "The certificate of {node} is not one of the pinned certificates: it was replaced, or someone intercepts the connection. Its SHA-256 fingerprint is {fingerprint}; pin it only if the HSM's operator confirms it."
    )]
    NotPinned {
        /// The node.
        node: String,
        /// The fingerprint of its certificate.
        fingerprint: Fingerprint,
    },
    /// The node's certificate has expired. No request was sent.
    #[error("The certificate of {node} has expired. Renew it; its SHA-256 fingerprint is {fingerprint}.")]
    Expired {
        /// The node.
        node: String,
        /// The fingerprint of its certificate.
        fingerprint: Fingerprint,
    },
    /// No node carried the call out. If it changes something, it is certain that nothing was changed.
    #[error("{}: {}. Check the addresses, the network and the HSMs.", what_failed(nodes), list(nodes))]
    Unreachable {
        /// The failure of each node that was asked, in order.
        nodes: Vec<NodeFailure>,
    },
    /// The call changes something, and its answer was lost: it may have been carried out. It was not repeated.
    #[error("The answer of {node} was lost ({cause}), so the change may have been made. Check before you try again.")]
    Unknown {
        /// The node.
        node: String,
        /// Why.
        cause: Cause,
    },
    /// The time limit of the whole call was exceeded.
    #[error("This took longer than {} s: {}. Try again, or allow more time.", limit.as_secs_f32(), list(nodes))]
    DeadlineExceeded {
        /// The time limit.
        limit: Duration,
        /// The failure of each node that was asked, in order.
        nodes: Vec<NodeFailure>,
    },
    /// The answer does not follow this API: it comes from another service, or from another version of the API.
    #[error("{node} did not answer as an HSM does: {why}. Check that the address is that of an HSM.")]
    Garbled {
        /// The node.
        node: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// A download broke off; what was written is incomplete.
    #[error(
        "The download from {node} broke off after {bytes} bytes ({cause}). Delete the incomplete file and try again."
    )]
    Incomplete {
        /// The node.
        node: String,
        /// The number of bytes that were written.
        bytes: u64,
        /// Why.
        cause: Cause,
    },
    /// The call is about one device, and the session is for several nodes.
    #[error("This concerns one HSM: choose one of {}.", nodes.join(", "))]
    NodeRequired {
        /// The nodes to choose from.
        nodes: Vec<String>,
    },
    /// The settings of the client do not work, or a call cannot be formed.
    #[error("This cannot be done: {0}.")]
    Settings(String),
    /// The caller's reader or writer failed.
    #[error("The local file cannot be read or written: {0}.")]
    Local(#[source] io::Error),
}

/// The failure of one node.
#[derive(Debug)]
pub struct NodeFailure {
    /// The node.
    pub node: String,
    /// Why.
    pub cause: Cause,
}

/// Why an attempt at one node failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The host name could not be resolved.
    LookupFailed(String),
    /// No connection could be made.
    ConnectFailed(io::ErrorKind),
    /// The TLS handshake failed.
    TlsFailed(String),
    /// The certificate is not trusted.
    Untrusted {
        /// The fingerprint of its certificate.
        fingerprint: Fingerprint,
        /// Why it is not trusted.
        why: String,
    },
    /// Other certificates are pinned.
    NotPinned {
        /// The fingerprint of its certificate.
        fingerprint: Fingerprint,
    },
    /// The certificate has expired.
    Expired {
        /// The fingerprint of its certificate.
        fingerprint: Fingerprint,
    },
    /// A time limit was exceeded.
    TimedOut,
    /// The connection was lost.
    ConnectionLost(io::ErrorKind),
    /// The answer was not valid HTTP.
    InvalidHttp(String),
    /// The body of the answer cannot be read.
    Unreadable(String),
    /// The node does not offer this in its current state.
    WrongState,
    /// The node accepts no login for a moment.
    TooManyLogins,
    /// The node answered with an error of its own.
    Failed {
        /// The HTTP status.
        status: u16,
        /// The message of the HSM; may be empty.
        message: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::LookupFailed(why) => write!(f, "its name cannot be resolved: {why}"),
            Cause::ConnectFailed(kind) => write!(f, "{kind}"),
            Cause::TlsFailed(why) => write!(f, "the TLS handshake failed: {why}"),
            Cause::Untrusted { why, .. } => write!(f, "its certificate is not trusted: {why}"),
            Cause::NotPinned { .. } => f.write_str("its certificate is not one of the pinned certificates"),
            Cause::Expired { .. } => f.write_str("its certificate has expired"),
            Cause::TimedOut => f.write_str("no answer in time"),
            Cause::ConnectionLost(kind) => write!(f, "the connection was lost: {kind}"),
            Cause::InvalidHttp(why) => write!(f, "its answer is not valid HTTP: {why}"),
            Cause::Unreadable(why) => write!(f, "its answer cannot be read: {why}"),
            Cause::WrongState => f.write_str("it does not offer this in its current state"),
            Cause::TooManyLogins => f.write_str("it accepts no login for a moment"),
            Cause::Failed { status, message } if message.is_empty() => write!(f, "it answered {status}"),
            Cause::Failed { status, message } => write!(f, "it answered {status}: {message}"),
        }
    }
}

fn because(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {}", message.trim_end_matches('.')) }
}

/// How the sentence about these failures begins: whether a node answered at all.
fn what_failed(nodes: &[NodeFailure]) -> &'static str {
    let answered = |failure: &NodeFailure| {
        matches!(failure.cause, Cause::WrongState | Cause::TooManyLogins | Cause::Unreadable(_) | Cause::Failed { .. })
    };
    if nodes.iter().any(answered) { "No HSM could carry this out" } else { "Cannot reach any HSM" }
}

fn list(nodes: &[NodeFailure]) -> String {
    let each: Vec<_> = nodes
        .iter()
        .map(|failure| format!("{} ({})", failure.node, failure.cause.to_string().trim_end_matches('.')))
        .collect();
    if each.is_empty() { "no node was asked".into() } else { each.join(", ") }
}

/// The error of a call that no node answered: the one that tells best what to do. `too_slow` is the time limit, if it was
/// exceeded.
pub(crate) fn summarize(mut failures: Vec<NodeFailure>, too_slow: Option<Duration>) -> Error {
    let is_of_certificate = |failure: &NodeFailure| {
        matches!(failure.cause, Cause::Untrusted { .. } | Cause::NotPinned { .. } | Cause::Expired { .. })
    };
    let certificate = failures.iter().position(is_of_certificate);
    if let Some(at) = certificate {
        let NodeFailure { node, cause } = failures.swap_remove(at);
        match cause {
            Cause::Untrusted { fingerprint, why } => return Error::Untrusted { node, fingerprint, why },
            Cause::NotPinned { fingerprint } => return Error::NotPinned { node, fingerprint },
            Cause::Expired { fingerprint } => return Error::Expired { node, fingerprint },
            cause => failures.push(NodeFailure { node, cause }),
        }
    }
    let too_many = failures.last().is_some_and(|failure| failure.cause == Cause::TooManyLogins);
    if let Some(limit) = too_slow.filter(|_| !too_many) {
        return Error::DeadlineExceeded { limit, nodes: failures };
    }
    let all = |cause: Cause| failures.iter().all(|failure| failure.cause == cause);
    let (in_wrong_state, too_many) = (all(Cause::WrongState), all(Cause::TooManyLogins));
    match failures.pop() {
        Some(NodeFailure { node, .. }) if in_wrong_state => Error::WrongState { node },
        Some(NodeFailure { node, .. }) if too_many => Error::TooManyLogins { node },
        last => {
            failures.extend(last);
            Error::Unreachable { nodes: failures }
        }
    }
}
