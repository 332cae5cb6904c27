//! Which requests may be sent again, decided in one place.
//!
//! Reads and uses of keys may be repeated at any node. A change is repeated only when it is certain that no node has
//! started it: no connection, no TLS, or a reply that a node gives before it looks at the request. Otherwise a change
//! whose answer was lost is [`Decision::Unknown`]: only the caller can find out.

use casemate_api::limits::CLIENT_TOO_MANY_WAIT_MS;
use casemate_api::sentences;

use crate::error::Cause;

/// Whether a call may be sent again after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Always: a read, random bytes, sign, decrypt, encrypt. Nothing exists twice afterwards.
    Freely,
    /// Only if it is certain that it was not started: every call that changes something.
    IfNotStarted,
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A complete reply.
    Reply {
        status: u16,
        /// The message in the body of an error; empty if there is none.
        message: String,
        /// The header `Retry-After` in seconds (RFC 9110 §10.2.3).
        retry_after_s: Option<u64>,
    },
    /// No byte of the request was sent.
    NotSent(Cause),
    /// It was sent, at least in part, and no complete reply came.
    Lost(Cause),
}

/// What to do about an [`Outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Return the reply to the caller.
    Return,
    /// Set the node aside and try another one.
    TryAnotherNode(Cause),
    /// Ask the same node again after that many milliseconds.
    RetryAfterMs(u64),
    /// Set the node aside and tell the caller that the outcome is not known.
    Unknown(Cause),
}

/// Decides what to do after `outcome`.
pub(crate) fn decide(repeat: Repeat, outcome: &Outcome) -> Decision {
    match outcome {
        Outcome::NotSent(cause) => Decision::TryAnotherNode(cause.clone()),
        Outcome::Lost(cause) => match repeat {
            Repeat::Freely => Decision::TryAnotherNode(cause.clone()),
            Repeat::IfNotStarted => Decision::Unknown(cause.clone()),
        },
        Outcome::Reply { status, message, retry_after_s } => {
            let failed = || Cause::Failed { status: *status, message: message.clone() };
            match *status {
                // Other replies with this status are about the request, such as a missing backup passphrase.
                412 if message == sentences::WRONG_STATE => Decision::TryAnotherNode(Cause::WrongState),
                429 => {
                    let asked_ms = retry_after_s.unwrap_or_default().saturating_mul(1_000);
                    Decision::RetryAfterMs(asked_ms.max(CLIENT_TOO_MANY_WAIT_MS))
                }
                // The node does not know the method, so it has not started anything.
                501 => Decision::TryAnotherNode(failed()),
                // No room on its disk or in the namespace: the node works, did nothing, and tells why.
                507 => Decision::Return,
                503 if NOT_STARTED.contains(&message.as_str()) => Decision::TryAnotherNode(failed()),
                500.. => match repeat {
                    Repeat::Freely => Decision::TryAnotherNode(failed()),
                    Repeat::IfNotStarted => Decision::Unknown(failed()),
                },
                _ => Decision::Return,
            }
        }
    }
}

/// Messages of `503` that Casemate sends only when it did nothing. No other `503`, of a proxy or of NetHSM, is that
/// certain.
const NOT_STARTED: &[&str] = &[
    sentences::BUSY,
    sentences::ONLY_USES,
    sentences::STORE_HELD,
    sentences::STORE_CLAIMED,
    sentences::TOO_MANY_BODIES,
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replied(status: u16, message: &str) -> Outcome {
        Outcome::Reply { status, message: message.into(), retry_after_s: None }
    }

    #[test]
    fn replies_about_the_request_are_returned() {
        for repeat in [Repeat::Freely, Repeat::IfNotStarted] {
            for status in [200, 201, 204, 304, 400, 401, 403, 404, 405, 406, 409, 413, 414, 415, 507] {
                assert_eq!(decide(repeat, &replied(status, "x")), Decision::Return, "{status}");
            }
            let other = "Please configure backup key before doing a backup.";
            assert_eq!(decide(repeat, &replied(412, other)), Decision::Return);
            assert_eq!(decide(repeat, &replied(412, "")), Decision::Return);
        }
    }

    #[test]
    fn in_the_wrong_state_another_node_is_tried_for_every_call() {
        for repeat in [Repeat::Freely, Repeat::IfNotStarted] {
            assert_eq!(
                decide(repeat, &replied(412, sentences::WRONG_STATE)),
                Decision::TryAnotherNode(Cause::WrongState)
            );
        }
    }

    #[test]
    fn after_a_failed_login_the_same_node_is_asked_later() {
        assert_eq!(decide(Repeat::Freely, &replied(429, "")), Decision::RetryAfterMs(1_000));
        let delayed = Outcome::Reply { status: 429, message: String::new(), retry_after_s: Some(3) };
        assert_eq!(decide(Repeat::IfNotStarted, &delayed), Decision::RetryAfterMs(3_000));
        let at_once = Outcome::Reply { status: 429, message: String::new(), retry_after_s: Some(0) };
        assert_eq!(decide(Repeat::Freely, &at_once), Decision::RetryAfterMs(1_000), "no tight loop");
    }

    #[test]
    fn a_change_is_repeated_after_503_only_if_the_message_means_that_nothing_was_done() {
        for message in NOT_STARTED {
            assert!(matches!(decide(Repeat::IfNotStarted, &replied(503, message)), Decision::TryAnotherNode(_)));
        }
        for message in ["", "The store did not confirm the change. Read before you try again.", "busy"] {
            assert!(matches!(decide(Repeat::IfNotStarted, &replied(503, message)), Decision::Unknown(_)), "{message}");
        }
    }

    fn outcomes() -> impl Strategy<Value = Outcome> {
        let cause = prop_oneof![
            Just(Cause::TimedOut),
            Just(Cause::ConnectionLost(std::io::ErrorKind::ConnectionReset)),
            Just(Cause::InvalidHttp("x".into())),
        ];
        prop_oneof![
            cause.clone().prop_map(Outcome::NotSent),
            cause.prop_map(Outcome::Lost),
            (100_u16..600, prop_oneof![Just(String::new()), Just("x".to_owned())], proptest::option::of(any::<u64>()))
                .prop_map(|(status, message, retry_after_s)| Outcome::Reply { status, message, retry_after_s }),
        ]
    }

    proptest! {
        /// A change that a node may have carried out is never sent again.
        #[test]
        fn a_change_that_may_have_happened_is_never_repeated(outcome in outcomes()) {
            let may_have_happened = match &outcome {
                Outcome::NotSent(_) => false,
                Outcome::Lost(_) => true,
                Outcome::Reply { status, .. } => !matches!(status, 412 | 429 | 501),
            };
            let decision = decide(Repeat::IfNotStarted, &outcome);
            if may_have_happened {
                prop_assert!(matches!(decision, Decision::Return | Decision::Unknown(_)), "{decision:?}");
            }
        }

        /// The outcome of a read is never unknown.
        #[test]
        fn a_read_is_never_unknown(outcome in outcomes()) {
            prop_assert!(!matches!(decide(Repeat::Freely, &outcome), Decision::Unknown(_)));
        }
    }
}
