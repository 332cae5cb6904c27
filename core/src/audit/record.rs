//! One record of the audit log: its members, its encoding, its hash, and its line in an export.
//!
//! Members are numbers and texts. A text is printable ASCII without quote and backslash, so that anybody can compute
//! the encoding from the line without rules for escaping.

use std::fmt::Write as _;

use aws_lc_rs::digest::{Context, SHA256};
use base16ct::lower::encode_string as hex;
use casemate_api::limits::AUDIT_TEXT_MAX_CHARS;

use crate::rows::encoding::{BadRecord, Reader, Writer};

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
pub(super) enum Member<'a> {
    Number(u64),
    Text(&'a str),
}

/// Version of the encoding.
const VERSION: u8 = 1;
/// Domain separation from all other hashes.
const DOMAIN: &[u8] = b"casemate audit record v1\0";

impl Record {
    fn members(&self) -> [(&'static str, Member<'_>); 13] {
        use Member::{Number, Text};
        let event = &self.event;
        [
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
        ]
    }

    /// The encoding: a version byte, then every member as a text with its length in front. An absent member is an empty
    /// text.
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.members())
    }

    /// Reads what [`Record::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let (version, mut reader) = Reader::open(bytes)?;
        if version != VERSION {
            return Err(BadRecord("its format is of a newer version"));
        }
        let sequence = number(&mut reader)?;
        let time = reader.text()?;
        let kind = Kind::parse(&reader.text()?).ok_or(BadRecord("its kind is not known"))?;
        let event = Event {
            kind,
            of: number(&mut reader)?,
            user: reader.text()?,
            address: reader.text()?,
            endpoint: reader.text()?,
            target: reader.text()?,
            status: u16::try_from(number(&mut reader)?).map_err(|_| BadRecord("its status is out of range"))?,
            reason: reader.text()?,
            count: number(&mut reader)?,
            state: reader.text()?,
            detail: reader.text()?,
        };
        reader.end()?;
        Ok(Self { sequence, time, event })
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

fn number(reader: &mut Reader<'_>) -> Result<u64, BadRecord> {
    match reader.text()?.as_str() {
        "" => Ok(0),
        text => text.parse().map_err(|_| BadRecord("a number in it is malformed")),
    }
}

/// A version byte, then every member as a text with its length in front.
pub(super) fn encode(members: &[(&'static str, Member<'_>)]) -> Vec<u8> {
    let text = |writer: Writer, member: &Member<'_>| match member {
        Member::Number(0) => writer.bytes(b""),
        Member::Number(number) => writer.bytes(number.to_string().as_bytes()),
        Member::Text(text) => writer.bytes(text.as_bytes()),
    };
    members.iter().fold(Writer::new(VERSION), |writer, (_, member)| text(writer, member)).finish().to_vec()
}

/// A JSON object of the members that are present, and a line feed. Texts need no escaping: see [`plain`].
pub(super) fn line<'a>(members: impl Iterator<Item = (&'static str, Member<'a>)>) -> String {
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
pub(super) fn plain(text: &str) -> String {
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
pub(super) mod tests {
    use super::*;

    pub(in crate::audit) fn full() -> Record {
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
        };
        Record { sequence: 42, time: "2030-01-02T03:04:05.678Z".into(), event }
    }

    #[test]
    fn the_encoding_hash_and_line_of_version_1_do_not_change() {
        let record = full();
        let hash = record.hash(&[0x11; 32]);
        let golden = format!("{}\n{}\n{}", hex(&record.encode()), hex(&hash), record.line(&hash));
        assert_eq!(golden, include_str!("../../testdata/formats/audit-record-v1.txt"));
    }

    #[test]
    fn records_survive_encoding_and_decoding() {
        let bare = Record { sequence: 1, time: "t".into(), event: Event::new(Kind::Boot) };
        for record in [full(), bare] {
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
