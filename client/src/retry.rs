//! What may be repeated, decided in one place.
//!
//! Reads and uses of keys may be asked again of anybody. A change is repeated only when it is certain that it was not
//! begun: no connection, no TLS, or an answer that a node gives before it looks at the request. Everything else about
//! a change whose answer was lost is [`Verdict::Unknown`]: only the caller can look.

use casemate_api::limits::CLIENT_TOO_MANY_WAIT_MS;
use casemate_api::sentences;

use crate::error::Cause;

/// Whether a call may be carried out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Reads, random bytes, sign, decrypt, encrypt: nothing is there twice afterwards.
    Freely,
    /// Everything that changes something.
    IfNotBegun,
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A whole answer.
    Answer {
        status: u16,
        /// The sentence of an error's body; empty if there is none.
        message: String,
        /// Seconds of `Retry-After`.
        retry_after_s: Option<u64>,
    },
    /// No byte of the request was sent.
    NotBegun(Cause),
    /// It was sent, at least in part, and no whole answer came.
    Lost(Cause),
}

/// What to do about an [`Outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// This is the answer.
    Answer,
    /// Set the node aside and ask another.
    Elsewhere(Cause),
    /// Ask the same node again after that many milliseconds.
    Later(u64),
    /// Set the node aside and tell the caller that nobody knows.
    Unknown(Cause),
}

/// Judges `outcome`.
pub(crate) fn judge(repeat: Repeat, outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::NotBegun(cause) => Verdict::Elsewhere(cause.clone()),
        Outcome::Lost(cause) => match repeat {
            Repeat::Freely => Verdict::Elsewhere(cause.clone()),
            Repeat::IfNotBegun => Verdict::Unknown(cause.clone()),
        },
        Outcome::Answer { status, message, retry_after_s } => {
            let failed = || Cause::Failed { status: *status, message: message.clone() };
            match *status {
                // Other replies of this status are about the request: no backup passphrase, nothing to commit.
                412 if message == sentences::WRONG_STATE => Verdict::Elsewhere(Cause::WrongState),
                429 => {
                    let told_ms = retry_after_s.unwrap_or_default().saturating_mul(1_000);
                    Verdict::Later(told_ms.max(CLIENT_TOO_MANY_WAIT_MS))
                }
                // The method is not known there: nobody began anything.
                501 => Verdict::Elsewhere(failed()),
                // There is no room on its disk or in the namespace: it did nothing, is well, and has said why.
                507 => Verdict::Answer,
                503 if NOT_BEGUN.contains(&message.as_str()) => Verdict::Elsewhere(failed()),
                500.. => match repeat {
                    Repeat::Freely => Verdict::Elsewhere(failed()),
                    Repeat::IfNotBegun => Verdict::Unknown(failed()),
                },
                _ => Verdict::Answer,
            }
        }
    }
}

/// Replies with `503` that Casemate gives only when it did nothing. Its other ones, a proxy's and NetHSM's say less.
const NOT_BEGUN: &[&str] = &[sentences::BUSY, sentences::TOO_MANY_BODIES];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(status: u16, message: &str) -> Outcome {
        Outcome::Answer { status, message: message.into(), retry_after_s: None }
    }

    #[test]
    fn answers_about_the_request_are_answers() {
        for repeat in [Repeat::Freely, Repeat::IfNotBegun] {
            for status in [200, 201, 204, 304, 400, 401, 403, 404, 405, 406, 409, 413, 414, 415, 507] {
                assert_eq!(judge(repeat, &answer(status, "x")), Verdict::Answer, "{status}");
            }
            let other = "Please configure backup key before doing a backup.";
            assert_eq!(judge(repeat, &answer(412, other)), Verdict::Answer);
            assert_eq!(judge(repeat, &answer(412, "")), Verdict::Answer);
        }
    }

    #[test]
    fn the_wrong_state_is_asked_elsewhere_by_everyone() {
        for repeat in [Repeat::Freely, Repeat::IfNotBegun] {
            assert_eq!(judge(repeat, &answer(412, sentences::WRONG_STATE)), Verdict::Elsewhere(Cause::WrongState));
        }
    }

    #[test]
    fn too_many_logins_are_waited_for() {
        assert_eq!(judge(Repeat::Freely, &answer(429, "")), Verdict::Later(1_000));
        let told = Outcome::Answer { status: 429, message: String::new(), retry_after_s: Some(3) };
        assert_eq!(judge(Repeat::IfNotBegun, &told), Verdict::Later(3_000));
        let at_once = Outcome::Answer { status: 429, message: String::new(), retry_after_s: Some(0) };
        assert_eq!(judge(Repeat::Freely, &at_once), Verdict::Later(1_000), "nobody is asked in a tight loop");
    }

    #[test]
    fn a_change_is_repeated_after_a_failure_only_if_the_server_says_that_it_did_nothing() {
        for message in NOT_BEGUN {
            assert!(matches!(judge(Repeat::IfNotBegun, &answer(503, message)), Verdict::Elsewhere(_)));
        }
        for message in ["", "The store did not confirm the change. Read before you try again.", "busy"] {
            assert!(matches!(judge(Repeat::IfNotBegun, &answer(503, message)), Verdict::Unknown(_)), "{message}");
        }
    }

    fn outcomes() -> impl Strategy<Value = Outcome> {
        let cause = prop_oneof![
            Just(Cause::TimedOut),
            Just(Cause::Broken(std::io::ErrorKind::ConnectionReset)),
            Just(Cause::NoHttp("x".into())),
        ];
        prop_oneof![
            cause.clone().prop_map(Outcome::NotBegun),
            cause.prop_map(Outcome::Lost),
            (100_u16..600, prop_oneof![Just(String::new()), Just("x".to_owned())], proptest::option::of(any::<u64>()))
                .prop_map(|(status, message, retry_after_s)| Outcome::Answer { status, message, retry_after_s }),
        ]
    }

    proptest! {
        /// No change is sent again that a node may have carried out.
        #[test]
        fn a_change_that_may_have_happened_is_never_repeated(outcome in outcomes()) {
            let may_have_happened = match &outcome {
                Outcome::NotBegun(_) => false,
                Outcome::Lost(_) => true,
                Outcome::Answer { status, .. } => !matches!(status, 412 | 429 | 501),
            };
            let verdict = judge(Repeat::IfNotBegun, &outcome);
            if may_have_happened {
                prop_assert!(matches!(verdict, Verdict::Answer | Verdict::Unknown(_)), "{verdict:?}");
            }
        }

        /// Nobody is told that nobody knows about a read.
        #[test]
        fn a_read_is_never_unknown(outcome in outcomes()) {
            prop_assert!(!matches!(judge(Repeat::Freely, &outcome), Verdict::Unknown(_)));
        }
    }
}
