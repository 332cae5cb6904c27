//! One record of the audit log: its members, its encoding, its hash, and its line in an export.
//!
//! Members are numbers and texts. A text is printable ASCII without quote and backslash, so that anybody can compute
//! the encoding from the line without rules for escaping. A record without a revision is encoded as before there were any,
//! so that hashes of old logs stay what they are.

use std::fmt::Write as _;

use aws_lc_rs::digest::{Context, SHA256};
use base16ct::lower::encode_string as hex;
use casemate_api::limits::AUDIT_TEXT_MAX_CHARS;

/// SHA-256 of a record and, through the hash in it, of all records before.
pub type Hash = [u8; 32];

/// The kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An authorised change is about to be carried out.
    Intent,
    /// The outcome of a change.
    Outcome,
    /// A request was refused.
    Refusal,
    /// The number of further refusals for one reason, of one address if it is given.
    Refusals,
    /// The HSM booted.
    Boot,
    /// The HSM stopped in an orderly way.
    Stop,
    /// The HSM entered another state.
    State,
    /// Old records were removed.
    Pruned,
    /// Events were dropped, because records could not be written for too long.
    Lost,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 9] = [
        Kind::Intent,
        Kind::Outcome,
        Kind::Refusal,
        Kind::Refusals,
        Kind::Boot,
        Kind::Stop,
        Kind::State,
        Kind::Pruned,
        Kind::Lost,
    ];

    /// The spelling in a record.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Intent => "intent",
            Kind::Outcome => "outcome",
            Kind::Refusal => "refusal",
            Kind::Refusals => "refusals",
            Kind::Boot => "boot",
            Kind::Stop => "stop",
            Kind::State => "state",
            Kind::Pruned => "pruned",
            Kind::Lost => "lost",
        }
    }

    /// Reads what [`Kind::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// An event. Zero and the empty text mean that a member is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The kind of the event.
    pub kind: Kind,
    /// The number of another record: the intent of an outcome, or the last pruned record.
    pub of: u64,
    /// Id of the authenticated user.
    pub user: String,
    /// The client's address.
    pub address: String,
    /// Method and path in the endpoint table.
    pub endpoint: String,
    /// The path with its ids, if it has any.
    pub target: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The status in a word, as [`reason`] gives it.
    pub reason: String,
    /// Number of refusals or lost events.
    pub count: u64,
    /// State of the HSM.
    pub state: String,
    /// Further information: the location of what was created, the version that booted, or the hash of the last pruned
    /// record.
    pub detail: String,
    /// The revision of the shared store at which a change was committed.
    pub revision: u64,
}

impl Event {
    /// An event with a kind and nothing else.
    pub fn new(kind: Kind) -> Self {
        let none = String::new;
        Self {
            kind,
            of: 0,
            user: none(),
            address: none(),
            endpoint: none(),
            target: none(),
            status: 0,
            reason: none(),
            count: 0,
            state: none(),
            detail: none(),
            revision: 0,
        }
    }
}

/// An event with its number and time in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number; the first record of a device has the number 1.
    pub sequence: u64,
    /// The time by the HSM's clock: RFC 3339, UTC, milliseconds. Clocks can be set, so only `sequence` gives the order.
    pub time: String,
    /// The event.
    pub event: Event,
}

/// A member of a record or checkpoint.
pub(crate) enum Member<'a> {
    Number(u64),
    Text(&'a str),
}

/// Version of the encoding of checkpoints, and of records without a revision.
pub(crate) const PLAIN: u8 = 1;
/// Version of the encoding of records with a revision, which is their last member.
const WITH_REVISION: u8 = 2;
/// Domain separation from all other hashes.
const DOMAIN: &[u8] = b"casemate audit record v1\0";

impl Record {
    fn version(&self) -> u8 {
        if self.event.revision == 0 { PLAIN } else { WITH_REVISION }
    }

    fn members(&self) -> Vec<(&'static str, Member<'_>)> {
        use Member::{Number, Text};
        let event = &self.event;
        let mut members = vec![
            ("sequence", Number(self.sequence)),
            ("time", Text(&self.time)),
            ("kind", Text(event.kind.as_str())),
            ("of", Number(event.of)),
            ("user", Text(&event.user)),
            ("address", Text(&event.address)),
            ("endpoint", Text(&event.endpoint)),
            ("target", Text(&event.target)),
            ("status", Number(event.status.into())),
            ("reason", Text(&event.reason)),
            ("count", Number(event.count)),
            ("state", Text(&event.state)),
            ("detail", Text(&event.detail)),
        ];
        if event.revision > 0 {
            members.push(("revision", Number(event.revision)));
        }
        members
    }

    /// The encoding: a version byte, then every member as a text with its length in front. An absent member is an empty
    /// text.
    pub fn encode(&self) -> Vec<u8> {
        encode(self.version(), &self.members())
    }

    /// Reads what [`Record::encode`] wrote. The error is the reason, such as `it is too short`.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let (version, rest) = bytes.split_first().ok_or(SHORT)?;
        if ![PLAIN, WITH_REVISION].contains(version) {
            return Err("its format is of a newer version");
        }
        let mut texts = Texts(rest);
        let sequence = texts.number()?;
        let time = texts.text()?;
        let kind = Kind::parse(&texts.text()?).ok_or("its kind is not known")?;
        let event = Event {
            kind,
            of: texts.number()?,
            user: texts.text()?,
            address: texts.text()?,
            endpoint: texts.text()?,
            target: texts.text()?,
            status: u16::try_from(texts.number()?).map_err(|_| "its status is out of range")?,
            reason: texts.text()?,
            count: texts.number()?,
            state: texts.text()?,
            detail: texts.text()?,
            revision: if *version == WITH_REVISION { texts.number()? } else { 0 },
        };
        if texts.0.is_empty() { Ok(Self { sequence, time, event }) } else { Err("it is too long") }
    }

    /// The hash of this record as the successor of the record with the hash `previous`.
    pub fn hash(&self, previous: &Hash) -> Hash {
        let mut context = Context::new(&SHA256);
        [DOMAIN, previous, &self.encode()].into_iter().for_each(|part| context.update(part));
        let mut hash = [0; 32];
        hash.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        hash
    }

    /// The record as one line of an export.
    pub fn line(&self, hash: &Hash) -> String {
        line(self.members().into_iter().chain([("hash", Member::Text(&hex(hash)))]))
    }
}

/// Texts with their lengths in front.
struct Texts<'a>(&'a [u8]);

const SHORT: &str = "it is too short";

impl Texts<'_> {
    fn text(&mut self) -> Result<String, &'static str> {
        let (length, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| SHORT)?;
        let (text, rest) = rest.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).map_err(|_| "a text in it is not UTF-8")
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        match self.text()?.as_str() {
            "" => Ok(0),
            text => text.parse().map_err(|_| "a number in it is malformed"),
        }
    }
}

/// The byte `version`, then every member as a text with its length in front (four bytes, big-endian).
pub(crate) fn encode(version: u8, members: &[(&'static str, Member<'_>)]) -> Vec<u8> {
    let mut bytes = vec![version];
    let mut put = |text: &str| {
        // Texts are bounded far below 4 GiB before they get here.
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    for (_, member) in members {
        match member {
            Member::Number(0) => put(""),
            Member::Number(number) => put(&number.to_string()),
            Member::Text(text) => put(text),
        }
    }
    bytes
}

/// A JSON object of the members that are present, and a line feed. Texts need no escaping: see [`plain`].
pub(crate) fn line<'a>(members: impl Iterator<Item = (&'static str, Member<'a>)>) -> String {
    let mut line = String::with_capacity(320);
    for (name, member) in members {
        let comma = if line.is_empty() { '{' } else { ',' };
        // Writing to a string cannot fail.
        let _ = match member {
            Member::Number(0) | Member::Text("") => Ok(()),
            Member::Number(number) => write!(line, "{comma}\"{name}\":{number}"),
            Member::Text(text) => write!(line, "{comma}\"{name}\":\"{text}\""),
        };
    }
    line.push_str("}\n");
    line
}

/// Encodes a text for a record: printable ASCII stays, everything else and `"`, `\` and `%` become `%XX`, and a text
/// that is too long is cut. So nothing that a client sends can forge a line or exceed its length limit.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' | b'%' | 0..=0x1f | 0x7f.. => {
                let _ = write!(plain, "%{byte:02X}");
            }
            _ => plain.push(char::from(byte)),
        }
        if plain.len() > AUDIT_TEXT_MAX_CHARS {
            plain.truncate(AUDIT_TEXT_MAX_CHARS - 3);
            plain.push_str("...");
            break;
        }
    }
    plain
}

/// Whether a text has the form that `plain` gives.
pub fn is_plain(text: &str) -> bool {
    text.len() <= AUDIT_TEXT_MAX_CHARS
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
}

/// An HTTP status as one word, for records.
pub fn reason(status: u16) -> &'static str {
    match status {
        200..=299 => "done",
        304 => "unchanged",
        400 => "invalid",
        401 => "unauthenticated",
        403 => "forbidden",
        404 => "missing",
        405 => "method",
        406 => "not-acceptable",
        408 => "slow",
        409 => "exists",
        412 => "precondition",
        413 | 414 => "too-large",
        415 => "media-type",
        429 => "too-many",
        503 => "unavailable",
        507 => "full",
        _ => "fault",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(revision: u64) -> Record {
        let event = Event {
            kind: Kind::Outcome,
            of: 41,
            user: "ns1~admin".into(),
            address: "2001:db8::1".into(),
            endpoint: "PUT /keys/{key}/restrictions/tags/{tag}".into(),
            target: "/keys/k1/restrictions/tags/blue".into(),
            status: 204,
            reason: "done".into(),
            count: 7,
            state: "Operational".into(),
            detail: "/api/v1/keys/k1".into(),
            revision,
        };
        Record { sequence: 42, time: "2030-01-02T03:04:05.678Z".into(), event }
    }

    #[test]
    fn the_encodings_hashes_and_lines_do_not_change() {
        for (revision, golden) in [
            (0, include_str!("../../core/testdata/formats/audit-record-v1.txt")),
            (1_234, include_str!("../../core/testdata/formats/audit-record-v2.txt")),
        ] {
            let record = full(revision);
            let hash = record.hash(&[0x11; 32]);
            assert_eq!(format!("{}\n{}\n{}", hex(&record.encode()), hex(&hash), record.line(&hash)), golden);
        }
    }

    #[test]
    fn records_survive_encoding_and_decoding() {
        let bare = Record { sequence: 1, time: "t".into(), event: Event::new(Kind::Boot) };
        for record in [full(0), full(u64::MAX), bare] {
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes), Ok(record));
            assert!(Record::decode(&bytes[..bytes.len() - 1]).is_err());
            assert!(Record::decode(&[&bytes[..], b"x"].concat()).is_err());
        }
    }

    #[test]
    fn what_a_client_sends_cannot_forge_a_line() {
        assert_eq!(plain("a\"},\n{\\%\u{e9}~"), "a%22},%0A{%5C%25%C3%A9~");
        let long = plain(&"\n".repeat(1000));
        assert_eq!(long.len(), AUDIT_TEXT_MAX_CHARS);
        assert!(is_plain(&long) && long.ends_with("..."));
        assert!(!is_plain("\"") && !is_plain("\u{e9}"));
    }
}
