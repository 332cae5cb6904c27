//! What went wrong, by what the caller can do about it. No variant carries a passphrase, a body or a header.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::fingerprint::Fingerprint;

/// Every way in which a call can fail. `Display` is one sentence or two: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HSM read the request and says no; asking again changes nothing. `message` is the HSM's own.
    #[error("{node} refused this ({status}): {message}")]
    Refused {
        /// Who refused.
        node: String,
        /// The HTTP status.
        status: u16,
        /// Why, in the HSM's words.
        message: String,
    },
    /// User name or passphrase is wrong, or none was given (`401`).
    #[error("{node} does not know this user with this passphrase. Check both and log in again.")]
    Unauthenticated {
        /// Who refused.
        node: String,
    },
    /// The user may not do this (`403`).
    #[error(
        "{node} does not allow this to this user{}. Log in as a user with the role, namespace and tags it takes.",
        because(message)
    )]
    Forbidden {
        /// Who refused.
        node: String,
        /// Why, in the HSM's words; may be empty.
        message: String,
    },
    /// There is no such key, user or whatever was asked for, or the user does not see it (`404`).
    #[error("{node} has nothing of that name{}. Check the id and the namespace.", because(message))]
    NotFound {
        /// Who answered.
        node: String,
        /// More, in the HSM's words; may be empty.
        message: String,
    },
    /// The HSM is in a state in which there is no such service (`412`).
    #[error(
        "{node} does not offer this in its present state. Look at its state, and provision or unlock it if that is what is missing."
    )]
    WrongState {
        /// Which node; the last one asked, if there are several.
        node: String,
    },
    /// Failed logins block further ones for a second, and the block did not end in time (`429`).
    #[error("{node} takes no login right now because one failed just before. Wait a second and try again.")]
    TooMany {
        /// Which node.
        node: String,
    },
    /// The node's certificate is not one this client trusts. Nothing was sent to it.
    #[error(
        "The certificate of {node} is not trusted: {why}. Its SHA-256 fingerprint is {fingerprint}; pin it only if the HSM's operator confirms it."
    )]
    Untrusted {
        /// Which node.
        node: String,
        /// What it showed.
        fingerprint: Fingerprint,
        /// What is wrong with it.
        why: String,
    },
    /// Other certificates are pinned than the node's. Nothing was sent to it.
    #[error(
        "The certificate of {node} is not one of those that are pinned: it was replaced, or somebody stands between. Its SHA-256 fingerprint is {fingerprint}; ask the HSM's operator, and pin it only if it is the HSM's."
    )]
    NotPinned {
        /// Which node.
        node: String,
        /// What it showed.
        fingerprint: Fingerprint,
    },
    /// The node's certificate has expired. Nothing was sent to it.
    #[error("The certificate of {node} has expired. Have it renewed; its SHA-256 fingerprint is {fingerprint}.")]
    Expired {
        /// Which node.
        node: String,
        /// What it showed.
        fingerprint: Fingerprint,
    },
    /// No node carried it out, and it is certain that none did if the call changes something.
    #[error("No HSM could do this: {}. Check the addresses, the network and the HSMs.", list(nodes))]
    Unreachable {
        /// What happened at each node that was asked, in order.
        nodes: Vec<Trouble>,
    },
    /// The call changes something, and its answer was lost. It was not repeated.
    #[error("The answer of {node} was lost ({cause}): it may have been carried out. Look before you try again.")]
    Unknown {
        /// Which node.
        node: String,
        /// What happened.
        cause: Cause,
    },
    /// The time limit of the whole call passed.
    #[error("It was not done within {} s: {}. Try again, or allow more time.", limit.as_secs_f32(), list(nodes))]
    TooSlow {
        /// The limit.
        limit: Duration,
        /// What happened at each node that was asked, in order.
        nodes: Vec<Trouble>,
    },
    /// The answer is not what this API answers: another service, or another version of the API.
    #[error("The answer of {node} makes no sense here: {why}. Check that the address is an HSM's.")]
    Garbled {
        /// Which node.
        node: String,
        /// What was expected and what came.
        why: String,
    },
    /// A download broke off; what was written so far is not complete.
    #[error(
        "The download from {node} broke off after {bytes} bytes ({cause}): what was written is incomplete. Delete it and try again."
    )]
    Incomplete {
        /// Which node.
        node: String,
        /// Bytes that were written.
        bytes: u64,
        /// What happened.
        cause: Cause,
    },
    /// The call is about one device, and the session knows several.
    #[error("This is done on one HSM at a time: choose one of {}.", nodes.join(", "))]
    WhichNode {
        /// The nodes to choose from.
        nodes: Vec<String>,
    },
    /// The client was set up wrongly.
    #[error("The client's settings do not work: {0}.")]
    Settings(String),
    /// The caller's own reader or writer failed.
    #[error("Reading or writing the local data failed: {0}.")]
    Local(#[source] io::Error),
}

/// What happened at one node.
#[derive(Debug)]
pub struct Trouble {
    /// Which node.
    pub node: String,
    /// What happened.
    pub cause: Cause,
}

/// Why one attempt at one node came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The host name has no address.
    NoAddress(String),
    /// No connection.
    NoConnection(io::ErrorKind),
    /// The TLS handshake failed.
    NoTls(String),
    /// The certificate is not trusted.
    Untrusted {
        /// What was shown.
        fingerprint: Fingerprint,
        /// What is wrong with it.
        why: String,
    },
    /// Another certificate is pinned.
    NotPinned {
        /// What was shown.
        fingerprint: Fingerprint,
    },
    /// The certificate has expired.
    Expired {
        /// What was shown.
        fingerprint: Fingerprint,
    },
    /// A time limit passed.
    TimedOut,
    /// The connection broke.
    Broken(io::ErrorKind),
    /// The answer was no HTTP.
    NoHttp(String),
    /// The answer makes no sense.
    Unreadable(String),
    /// The node is in the wrong state.
    WrongState,
    /// The node took no login.
    TooMany,
    /// The node answered with a failure of its own.
    Failed {
        /// The HTTP status.
        status: u16,
        /// The HSM's words; may be empty.
        message: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::NoAddress(why) => write!(f, "its name has no address: {why}"),
            Cause::NoConnection(kind) => write!(f, "no connection: {kind}"),
            Cause::NoTls(why) => write!(f, "no TLS: {why}"),
            Cause::Untrusted { why, .. } => write!(f, "its certificate is not trusted: {why}"),
            Cause::NotPinned { .. } => f.write_str("its certificate is not one of those that are pinned"),
            Cause::Expired { .. } => f.write_str("its certificate has expired"),
            Cause::TimedOut => f.write_str("no answer in time"),
            Cause::Broken(kind) => write!(f, "the connection broke: {kind}"),
            Cause::NoHttp(why) => write!(f, "no HTTP: {why}"),
            Cause::Unreadable(why) => write!(f, "it cannot be understood: {why}"),
            Cause::WrongState => f.write_str("it is in another state"),
            Cause::TooMany => f.write_str("it takes no login for a moment"),
            Cause::Failed { status, message } if message.is_empty() => write!(f, "it answered {status}"),
            Cause::Failed { status, message } => write!(f, "it answered {status}: {message}"),
        }
    }
}

fn because(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {}", message.trim_end_matches('.')) }
}

fn list(nodes: &[Trouble]) -> String {
    let each: Vec<_> = nodes
        .iter()
        .map(|trouble| format!("{} ({})", trouble.node, trouble.cause.to_string().trim_end_matches('.')))
        .collect();
    if each.is_empty() { "no node was asked".into() } else { each.join(", ") }
}

/// The error of a call that no node answered: the one that tells most about what to do.
pub(crate) fn sum_up(mut troubles: Vec<Trouble>, too_slow: Option<Duration>) -> Error {
    let of_trust =
        |t: &Trouble| matches!(t.cause, Cause::Untrusted { .. } | Cause::NotPinned { .. } | Cause::Expired { .. });
    let telling = troubles.iter().position(of_trust);
    if let Some(at) = telling {
        let Trouble { node, cause } = troubles.swap_remove(at);
        match cause {
            Cause::Untrusted { fingerprint, why } => return Error::Untrusted { node, fingerprint, why },
            Cause::NotPinned { fingerprint } => return Error::NotPinned { node, fingerprint },
            Cause::Expired { fingerprint } => return Error::Expired { node, fingerprint },
            cause => troubles.push(Trouble { node, cause }),
        }
    }
    let too_many = troubles.last().is_some_and(|trouble| trouble.cause == Cause::TooMany);
    if let Some(limit) = too_slow.filter(|_| !too_many) {
        return Error::TooSlow { limit, nodes: troubles };
    }
    let all = |cause: Cause| troubles.iter().all(|trouble| trouble.cause == cause);
    let (in_wrong_state, too_many) = (all(Cause::WrongState), all(Cause::TooMany));
    match troubles.pop() {
        Some(Trouble { node, .. }) if in_wrong_state => Error::WrongState { node },
        Some(Trouble { node, .. }) if too_many => Error::TooMany { node },
        last => {
            troubles.extend(last);
            Error::Unreachable { nodes: troubles }
        }
    }
}
