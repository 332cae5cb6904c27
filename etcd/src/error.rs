//! What went wrong, by what the caller can do about it.

use std::error::Error as StdError;

use tonic::{Code, Status};

use crate::members::MemberError;

/// Why a call failed. Texts are for the log: they name endpoints and causes, never keys or values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No endpoint can have begun to carry it out.
    #[error("etcd cannot be reached: {0}")]
    NotBegun(String),
    /// It was sent, and no definite answer came. A write may have been carried out, or may still be.
    #[error("etcd has given no definite answer: {0}")]
    Unknown(String),
    /// The members that can be reached have no leader, hence no majority. Certainly not begun; a watch ends.
    #[error("etcd has no leader")]
    NoLeader,
    /// The members that can be reached are learners, which do no more than tell about themselves and answer reads from what
    /// they know. Nothing was done.
    #[error("the member of etcd is a learner, which serves nobody before it is promoted")]
    Learner,
    /// The database has reached its quota, or the alarm of that is not lifted yet. Nothing was done. Reads, deletions and
    /// compaction go on.
    #[error("the database of etcd is full")]
    NoSpace,
    /// The wanted revision is not in the history any more.
    #[error("the revision has been compacted in etcd")]
    Compacted,
    /// The request has too many bytes or operations. Nothing was done.
    #[error("the request is too large for etcd")]
    TooLarge,
    /// The lease does not exist, or no longer.
    #[error("the lease does not exist in etcd")]
    LeaseNotFound,
    /// The members are not changed. Nothing was done.
    #[error(transparent)]
    Member(MemberError),
    /// One side does not accept the other: certificates, users, rights, another cluster. Nothing was done.
    #[error("etcd and this client do not accept each other: {0}")]
    Refused(String),
    /// A version of etcd that is not used. Nothing was done.
    #[error("{0}")]
    Unsupported(String),
    /// Another refusal of etcd: a mistake of the caller or a damaged database. Nothing was done.
    #[error("etcd refuses: {0}")]
    Other(String),
}

/// A request that failed on its connection.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Sending {
    /// Whether a part of it may have left.
    pub(crate) begun: bool,
    pub(crate) why: String,
}

impl Error {
    /// The sentences are those of `api/v3rpc/rpctypes/error.go` of etcd 3.5 and 3.6.
    pub(crate) fn of(status: &Status) -> Self {
        if let Some(sending) = status.source().and_then(|source| source.downcast_ref::<Sending>()) {
            let why = sending.why.clone();
            return if sending.begun { Self::Unknown(why) } else { Self::NotBegun(why) };
        }
        if let Some(error) = Self::spoken(status.message()) {
            return error;
        }
        let why = || format!("{}: {}", name(status.code()), with_causes(status));
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => Self::Refused(why()),
            // Only gRPC itself says so, about the bytes of a request.
            Code::ResourceExhausted if status.message().contains("received message larger than max") => Self::TooLarge,
            // Before etcd proposes anything to the cluster, it looks whether the request makes sense. Such an answer of
            // another origin than etcd, as of tonic about a reply that is too large, tells nothing about what was done.
            Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound | Code::OutOfRange | Code::DataLoss
                if status.message().starts_with(PREFIX) =>
            {
                Self::Other(why())
            }
            // Here are "request timed out", "leader changed", "server stopped".
            _ => Self::Unknown(why()),
        }
    }

    /// The error that a sentence of etcd stands for, if it is one that is told apart.
    pub(crate) fn spoken(sentence: &str) -> Option<Self> {
        let rest = sentence.strip_prefix(PREFIX)?;
        Some(match rest {
            // Returned to a unary call by the interceptor that looks at `hasleader`, before the handler runs
            // (`api/v3rpc/interceptor.go`), else only while a follower looks for the leader to ask about a lease, which may
            // be repeated. No proposal exists then.
            "no leader" => Self::NoLeader,
            "mvcc: database space exceeded" => Self::NoSpace,
            "mvcc: required revision has been compacted" => Self::Compacted,
            "too many operations in txn request" | "request is too large" => Self::TooLarge,
            "requested lease not found" => Self::LeaseNotFound,
            // Looked at before the proposal (`processInternalRaftRequestOnce`, interceptors).
            "rpc not supported for learner" => Self::Learner,
            "too many requests" | "not capable" => Self::NotBegun(rest.to_owned()),
            "permission denied"
            | "invalid auth token"
            | "user name is empty"
            | "authentication failed, invalid user ID or password" => Self::Refused(rest.to_owned()),
            _ => return MemberError::spoken(rest).map(Self::Member),
        })
    }
}

const PREFIX: &str = "etcdserver: ";

/// An error with its causes, each of them once.
pub(crate) fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = match error.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid argument",
        Code::DeadlineExceeded => "deadline exceeded",
        Code::NotFound => "not found",
        Code::AlreadyExists => "already exists",
        Code::PermissionDenied => "permission denied",
        Code::ResourceExhausted => "resource exhausted",
        Code::FailedPrecondition => "failed precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out of range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_done_is_never_called_not_begun() {
        for (code, sentence) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure"),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unavailable, "transport is closing"),
            (Code::DeadlineExceeded, "etcdserver: context deadline exceeded"),
            (Code::Cancelled, "etcdserver: request canceled"),
            (Code::Internal, "h2 protocol error"),
            (Code::Unknown, "anything"),
            (Code::OutOfRange, "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes"),
        ] {
            let error = Error::of(&Status::new(code, sentence));
            assert!(matches!(error, Error::Unknown(_)), "{sentence}: {error:?}");
        }
    }

    #[test]
    fn sentences_of_etcd_are_told_apart() {
        for (code, sentence, wanted) in [
            (Code::Unavailable, "etcdserver: no leader", Error::NoLeader),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Error::NoSpace),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", Error::Compacted),
            (Code::InvalidArgument, "etcdserver: too many operations in txn request", Error::TooLarge),
            (Code::InvalidArgument, "etcdserver: request is too large", Error::TooLarge),
            (Code::ResourceExhausted, "grpc: received message larger than max (9 vs. 4)", Error::TooLarge),
            (Code::NotFound, "etcdserver: requested lease not found", Error::LeaseNotFound),
            (Code::ResourceExhausted, "etcdserver: too many requests", Error::NotBegun("too many requests".into())),
            (Code::FailedPrecondition, "etcdserver: rpc not supported for learner", Error::Learner),
            (Code::InvalidArgument, "etcdserver: given member URLs are invalid", Error::Member(MemberError::BadUrls)),
            (Code::PermissionDenied, "etcdserver: permission denied", Error::Refused("permission denied".into())),
            (Code::InvalidArgument, "etcdserver: user name is empty", Error::Refused("user name is empty".into())),
            (
                Code::InvalidArgument,
                "etcdserver: duplicate key given in txn request",
                Error::Other("invalid argument: etcdserver: duplicate key given in txn request".into()),
            ),
        ] {
            assert_eq!(Error::of(&Status::new(code, sentence)), wanted, "{sentence}");
        }
    }

    #[test]
    fn what_a_connection_knows_about_a_request_is_kept() {
        let of = |begun| Error::of(&Status::from_error(Box::new(Sending { begun, why: "closed".into() })));
        assert_eq!(of(false), Error::NotBegun("closed".into()));
        assert_eq!(of(true), Error::Unknown("closed".into()));
    }
}
