//! Interpretation of request headers and paths: content negotiation, conditions, Basic credentials, percent-encoding.
//!
//! Pure functions on header values (RFC 9110, RFC 7617, RFC 3986). Each negotiates for one offered type, because every
//! endpoint has exactly one. No header is trusted; malformed ones are rejected without an error of their own.

use std::borrow::Cow;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Whether the client accepts `offered`, a type without parameters, by its `Accept` header lines (RFC 9110 §12.5.1). No
/// line means yes; a malformed line means no. Weights must be well-formed but are ignored: there is one type to choose.
pub fn accepts<'a>(lines: impl IntoIterator<Item = &'a [u8]>, offered: &str) -> bool {
    let mut any_line = false;
    let mut found = false;
    for line in lines {
        any_line = true;
        for item in items(line, b',') {
            match accepted(item, offered) {
                Some(matches) => found |= matches,
                None => return false,
            }
        }
    }
    found || !any_line
}

/// Whether a media range includes `offered`; `None` if it is malformed.
fn accepted(item: &[u8], offered: &str) -> Option<bool> {
    let mut parts = items(item, b';');
    let (kind, subtype) = type_of(parts.next()?)?;
    for parameter in parts {
        weight_or_parameter(parameter)?;
    }
    let (offered_kind, offered_subtype) = offered.split_once('/')?;
    let same = |range: &str, word: &str| range == "*" || range.eq_ignore_ascii_case(word);
    if kind == "*" && subtype != "*" {
        return None;
    }
    Some(same(kind, offered_kind) && same(subtype, offered_subtype))
}

/// Whether the client accepts the reply unencoded, by its `Accept-Encoding` header lines (RFC 9110 §12.5.3).
pub fn accepts_identity<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let (mut identity, mut any) = (None, None);
    for item in lines.into_iter().flat_map(|line| items(line, b',')) {
        let mut parts = items(item, b';');
        let coding = parts.next().unwrap_or_default();
        let refused = parts.any(|part| weight_or_parameter(part) == Some(Weight::Zero));
        if coding.eq_ignore_ascii_case(b"identity") {
            identity = Some(refused);
        } else if coding == b"*" {
            any = Some(refused);
        }
    }
    !identity.or(any).unwrap_or(false)
}

#[derive(PartialEq, Eq)]
enum Weight {
    Zero,
    Other,
}

/// Parses `q=0.5` or any other parameter.
fn weight_or_parameter(part: &[u8]) -> Option<Weight> {
    let (name, value) = std::str::from_utf8(part).ok()?.split_once('=')?;
    if name.trim_end().eq_ignore_ascii_case("q") {
        let weight: f32 = value.trim_start().parse().ok()?;
        return match weight {
            0.0 => Some(Weight::Zero),
            0.0..=1.0 => Some(Weight::Other),
            _ => None,
        };
    }
    is_token(name.trim_end()).then_some(Weight::Other)
}

/// The elements of a list, trimmed, without empty ones; separators inside quoted strings do not count.
fn items(line: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    line.split(move |byte| {
        let ends = *byte == separator && !quoted;
        if quoted && !escaped && *byte == b'\\' {
            escaped = true;
        } else {
            quoted ^= *byte == b'"' && !escaped;
            escaped = false;
        }
        ends
    })
    .map(<[u8]>::trim_ascii)
    .filter(|item| !item.is_empty())
}

/// `type/subtype`, each a token.
fn type_of(text: &[u8]) -> Option<(&str, &str)> {
    let (kind, subtype) = std::str::from_utf8(text).ok()?.split_once('/')?;
    (is_token(kind) && is_token(subtype)).then_some((kind, subtype))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A `Content-Type` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentType<'a> {
    essence: &'a str,
    parameters: bool,
}

impl<'a> ContentType<'a> {
    /// Parses `type/subtype` and whether anything follows (RFC 9110 §8.3.1); `None` if malformed.
    pub fn parse(header: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(header).ok()?;
        let (essence, parameters) = match text.split_once(';') {
            Some((essence, _)) => (essence.trim(), true),
            None => (text.trim(), false),
        };
        type_of(essence.as_bytes()).map(|_| Self { essence, parameters })
    }

    /// Whether it is this type, ignoring case and parameters.
    pub fn is(&self, essence: &str) -> bool {
        self.essence.eq_ignore_ascii_case(essence)
    }

    /// Whether it is exactly this text.
    pub fn is_exactly(&self, essence: &str) -> bool {
        self.essence == essence && !self.parameters
    }

    /// Whether parameters follow the type.
    pub fn has_parameters(&self) -> bool {
        self.parameters
    }
}

/// The conditions of a request (RFC 9110 §13), each as the text of its header.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions<'a> {
    /// `If-Match`
    pub if_match: Option<&'a str>,
    /// `If-None-Match`
    pub if_none_match: Option<&'a str>,
    /// `If-Modified-Since`
    pub if_modified_since: Option<&'a str>,
}

/// What kind of effect a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// GET or HEAD.
    Reads,
    /// Anything else.
    Changes,
}

/// What the path currently holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Current<'a> {
    /// Nothing.
    Missing,
    /// Something without an ETag.
    Untagged,
    /// Something with this ETag, quotes included.
    Tagged(&'a str),
}

/// Result of evaluating the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Proceed.
    Proceed,
    /// The client already has this version (`304`).
    NotModified,
    /// Not the version that the client expected (`412`).
    Failed,
}

impl Conditions<'_> {
    /// Whether there are none: the common case, in which the current state need not be looked up for
    /// [`Conditions::verdict`].
    pub fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none() && self.if_modified_since.is_none()
    }

    /// Evaluates the conditions against the current state. Nothing has a modification time, so NetHSM regards
    /// everything as unmodified since any past time; that is kept for reads and ignored for changes, which it would
    /// make impossible.
    pub fn verdict(&self, effect: Effect, current: Current<'_>, now: SystemTime) -> Verdict {
        if self.if_match.is_some_and(|list| !names(list, current)) {
            return Verdict::Failed;
        }
        if let Some(list) = self.if_none_match {
            return match (names(list, current), effect) {
                (false, _) => Verdict::Proceed,
                (true, Effect::Reads) => Verdict::NotModified,
                (true, Effect::Changes) => Verdict::Failed,
            };
        }
        let past = |text| httpdate::parse_http_date(text).is_ok_and(|date| date <= now);
        let exists = current != Current::Missing;
        if effect == Effect::Reads && exists && self.if_modified_since.is_some_and(past) {
            return Verdict::NotModified;
        }
        Verdict::Proceed
    }
}

/// Whether a list of ETags, or `*`, matches the current state. Weak tags (`W/`) match like strong ones.
fn names(list: &str, current: Current<'_>) -> bool {
    if list.trim() == "*" {
        return current != Current::Missing;
    }
    let Current::Tagged(tag) = current else { return false };
    items(list.as_bytes(), b',').any(|item| item.strip_prefix(b"W/").unwrap_or(item) == tag.as_bytes())
}

/// User name and passphrase of an `Authorization` header (RFC 7617). Wiped when dropped.
pub struct Basic {
    text: Zeroizing<Vec<u8>>,
    colon: usize,
}

impl Basic {
    /// Parses `Basic <base64>`, the scheme in exactly this case and the base64 padded; `None` for anything else.
    ///
    /// The name must be UTF-8; the passphrase may be any bytes, since some clients send Latin-1.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let encoded = header.strip_prefix(b"Basic ")?;
        let text = Zeroizing::new(STANDARD.decode(encoded).ok()?);
        let colon = text.iter().position(|byte| *byte == b':')?;
        std::str::from_utf8(text.get(..colon)?).ok()?;
        Some(Self { text, colon })
    }

    /// The user name as sent, not yet parsed.
    pub fn name(&self) -> &str {
        self.text.get(..self.colon).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }

    /// The bytes of the passphrase. Every use is a place from which the secret could leak: keep them few.
    pub fn expose_passphrase(&self) -> &[u8] {
        self.text.get(self.colon + 1..).unwrap_or_default()
    }
}

/// Decodes those percent-encoded characters of a path that need no encoding: unreserved ones and sub-delims (RFC 3986
/// §2). All others stay encoded, so that `%2F` splits nothing and ids with them are refused for their `%`.
pub fn decode_path(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        rest = after;
        match plain(after) {
            Some((character, after)) => {
                decoded.push(character);
                rest = after;
            }
            None => decoded.push('%'),
        }
    }
    decoded.push_str(rest);
    Cow::Owned(decoded)
}

/// The character whose code the text starts with, if it needs no encoding, and the remaining text.
fn plain(text: &str) -> Option<(char, &str)> {
    let (code, rest) = text.split_at_checked(2)?;
    if !code.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let byte = u8::from_str_radix(code, 16).ok()?;
    (byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)).then_some((char::from(byte), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    const JSON: &str = "application/json";

    #[test]
    fn accept_is_held_against_one_type() {
        for (header, expected) in [
            ("application/json", true),
            ("Application/JSON", true),
            ("*/*", true),
            ("application/*", true),
            ("application/octet-stream, application/json", true),
            ("text/html;q=0.9, */*;q=0.1", true),
            ("text/html;level=1;q=1.0,application/json;version=\"1,2\"", true),
            (" , application/json,", true),
            ("text/html", false),
            ("text/*", false),
            ("application/json-seq", false),
            ("json", false),
            ("*/json", false),
            ("application/json;q=high", false),
            ("application/json;q=2", false),
            ("application/json;", true),
            ("application/json, \u{fc}", false),
            ("application/json, @/@", false),
        ] {
            assert_eq!(accepts([header.as_bytes()], JSON), expected, "{header}");
        }
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert!(accepts([prometheus.as_bytes()], "text/plain"));
        assert!(accepts([], JSON), "no header");
        assert!(accepts([b"text/html".as_slice(), b"application/json"], JSON), "two lines");
    }

    #[test]
    fn identity_is_refused_only_explicitly() {
        for (header, expected) in [
            ("gzip, deflate, br", true),
            ("", true),
            ("identity", true),
            ("identity;q=0", false),
            ("identity; q=0.000", false),
            ("gzip, *;q=0", false),
            ("identity;q=0.5, *;q=0", true),
            ("*", true),
            ("*;q=0, identity;q=0", false),
        ] {
            assert_eq!(accepts_identity([header.as_bytes()]), expected, "{header}");
        }
        assert!(accepts_identity([]));
    }

    #[test]
    fn content_types_are_compared_without_parameters() {
        let json = ContentType::parse(b"Application/JSON ; charset=utf-8").unwrap();
        assert!(json.is(JSON) && json.has_parameters() && !json.is_exactly(JSON));
        let bytes = ContentType::parse(b"application/octet-stream").unwrap();
        assert!(bytes.is_exactly("application/octet-stream") && !bytes.has_parameters() && !bytes.is(JSON));
        for bad in ["", "json", "application/", "/json", "a/b/c", "application json/x", "\u{fc}/x"] {
            assert_eq!(ContentType::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn conditions_follow_the_contract() {
        use Current::{Missing, Tagged, Untagged};
        use Effect::{Changes, Reads};
        use Verdict::{Failed, NotModified, Proceed};
        let (has, has_not) = (Some("\"a\""), Some("\"b\""));
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let past = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        let future = Some("Sun, 06 Nov 2094 08:49:37 GMT");
        let tag = Tagged("\"a\"");
        // If-Match, If-None-Match, If-Modified-Since
        for (headers, effect, current, expected) in [
            ((None, None, None), Changes, Missing, Proceed),
            ((has, None, None), Changes, tag, Proceed),
            ((has_not, None, None), Changes, tag, Failed),
            ((has, None, None), Changes, Missing, Failed),
            ((has, None, None), Reads, Untagged, Failed),
            ((Some("*"), None, None), Changes, Untagged, Proceed),
            ((Some("*"), None, None), Changes, Missing, Failed),
            ((None, has, None), Reads, tag, NotModified),
            ((None, Some("\"x\", W/\"a\""), None), Reads, tag, NotModified),
            ((None, has, None), Changes, tag, Failed),
            ((None, has_not, None), Reads, tag, Proceed),
            ((None, Some("*"), None), Reads, Untagged, NotModified),
            ((None, Some("*"), None), Changes, Missing, Proceed),
            ((None, has_not, past), Reads, tag, Proceed),
            ((None, None, past), Reads, Untagged, NotModified),
            ((None, None, past), Changes, tag, Proceed),
            ((None, None, future), Reads, tag, Proceed),
            ((None, None, Some("yesterday")), Reads, tag, Proceed),
            ((None, None, past), Reads, Missing, Proceed),
        ] {
            let (if_match, if_none_match, if_modified_since) = headers;
            let conditions = Conditions { if_match, if_none_match, if_modified_since };
            assert_eq!(conditions.verdict(effect, current, now), expected, "{headers:?} {effect:?} {current:?}");
        }
        assert!(Conditions::default().is_empty());
    }

    fn basic(text: &[u8]) -> Option<(String, Vec<u8>)> {
        let header = format!("Basic {}", STANDARD.encode(text));
        Basic::parse(header.as_bytes()).map(|basic| (basic.name().into(), basic.expose_passphrase().to_vec()))
    }

    #[test]
    fn basic_credentials_are_split_at_the_first_colon() {
        assert_eq!(basic(b"admin:Administrator"), Some(("admin".into(), b"Administrator".to_vec())));
        assert_eq!(basic(b"ns~a:b:c"), Some(("ns~a".into(), b"b:c".to_vec())));
        assert_eq!(basic(b":"), Some((String::new(), Vec::new())));
        assert_eq!(basic(b"a:p\xfcss"), Some(("a".into(), b"p\xfcss".to_vec())), "Latin-1 passphrase");
        assert_eq!(basic(b"\xfc:x"), None, "Latin-1 name");
        assert_eq!(basic(b"admin"), None);
        for bad in
            ["", "Basic", "Basic ", "basic YTpi", "Bearer YTpi", "Basic YTpi=", "Basic YTo", "Basic  YTpi", "Basic %"]
        {
            assert!(Basic::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn paths_are_decoded_where_encoding_was_not_needed() {
        for (path, expected) in [
            ("/keys/a", "/keys/a"),
            ("/users/ns%7Eo", "/users/ns~o"),
            ("/keys/%2A%2d", "/keys/*-"),
            ("/keys/%61%2", "/keys/a%2"),
            ("/keys/a%2Fb", "/keys/a%2Fb"),
            ("/keys/%C3%BC", "/keys/%C3%BC"),
            ("/keys/%20", "/keys/%20"),
            ("/keys/%+1", "/keys/%+1"),
            ("/keys/%%61", "/keys/%a"),
            ("/keys/%2541", "/keys/%2541"),
            ("%", "%"),
            ("%\u{fc}\u{fc}", "%\u{fc}\u{fc}"),
        ] {
            assert_eq!(decode_path(path), expected, "{path}");
        }
        assert!(matches!(decode_path("/keys/a"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn no_header_causes_a_panic(bytes in any::<Vec<u8>>(), text in "[ ,;=/*\"\\\\q0.aW-]{0,40}") {
            for header in [bytes.as_slice(), text.as_bytes()] {
                let _ = accepts([header], JSON);
                let _ = accepts_identity([header]);
                let _ = ContentType::parse(header);
                let _ = Basic::parse(header);
            }
            let conditions = Conditions { if_match: Some(&text), if_none_match: Some(&text), if_modified_since: Some(&text) };
            let _ = conditions.verdict(Effect::Reads, Current::Tagged("\"a\""), UNIX_EPOCH);
        }

        #[test]
        fn any_credentials_come_back(name in "[^:]{0,20}", passphrase in any::<Vec<u8>>()) {
            let text = [name.as_bytes(), b":", &passphrase].concat();
            prop_assert_eq!(basic(&text), Some((name, passphrase)));
        }

        #[test]
        fn decoding_a_path_never_grows_it_and_never_makes_a_slash(path in "(%[0-9a-fA-F]{2}|%|.){0,30}") {
            let decoded = decode_path(&path);
            prop_assert!(decoded.len() <= path.len());
            prop_assert_eq!(decoded.matches('/').count(), path.matches('/').count());
        }
    }
}
