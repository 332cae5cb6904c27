//! JSON bodies (RFC 8259), strict about the schema and as lenient about syntax as NetHSM.
//!
//! A body is first read with `serde_json`. If that fails it is read again by the small reader below, which accepts the
//! three extensions of NetHSM's parser — member names without quotes, `//` and `/* */` comments, repeated members of
//! which the last one counts — and writes strict text, which is parsed once more.
//!
//! Bodies hold passphrases and keys: error messages name members and what was expected there, never the value found.

use std::borrow::Cow;

use casemate_api::limits::{BODY_INLINE_MAX_BYTES, JSON_RELAXED_DEPTH_MAX, JSON_RELAXED_MEMBERS_MAX};
use casemate_core::runtime::stall;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize, Zeroizing};

/// Why a body was refused. `Display` is the text for the client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON.
    #[error("Invalid JSON: {0}")]
    Syntax(Cow<'static, str>),
    /// JSON, but not what the endpoint expects.
    #[error("Invalid data for JSON schema: {0}")]
    Schema(String),
}

/// Parses a body.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, JsonError> {
    if body.len() > BODY_INLINE_MAX_BYTES {
        stall::begins("reading a large body");
    }
    if !is_array(body)
        && let Ok(value) = serde_json::from_slice(body)
    {
        return Ok(value);
    }
    let strict = rewrite(body)?;
    match is_array(&strict) {
        true => Err(JsonError::Schema("body: expected an object".into())),
        false => read_strict(&strict),
    }
}

fn read_strict<T: DeserializeOwned>(strict: &[u8]) -> Result<T, JsonError> {
    let mut reader = serde_json::Deserializer::from_slice(strict);
    let malformed = || JsonError::Syntax("malformed value".into());
    match serde_path_to_error::deserialize(&mut reader) {
        Ok(value) => reader.end().map(|()| value).map_err(|_| malformed()),
        Err(error) if error.inner().is_data() => {
            Err(JsonError::Schema(schema_text(&error.path().to_string(), &error.inner().to_string())))
        }
        Err(_) => Err(malformed()),
    }
}

/// No endpoint takes an array, and serde would accept one for an object whose members come in order.
fn is_array(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"[")
}

/// Where the error is and what was expected, in words of the schema only.
///
/// Messages of serde start with the value found; the text after the last `, expected ` comes from the type.
fn schema_text(path: &str, message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(text, _)| text);
    let place = if path == "." { "body" } else { path };
    let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected);
    if let Some(missing) = message.strip_prefix("missing field ") {
        return format!("{place}: missing member {missing}");
    }
    if message.starts_with("unknown field ") {
        // The client chose the name; it could be a secret in the wrong place.
        let place = place.rsplit_once('.').map_or("body", |(object, _)| object);
        return format!("{place}: unknown member, expected {}", expected.unwrap_or("none"));
    }
    let from_schema = ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant "];
    match expected {
        Some(expected) if from_schema.iter().any(|start| message.starts_with(start)) => {
            format!("{place}: expected {expected}")
        }
        _ => format!("{place}: not acceptable"),
    }
}

/// Rewrites the body as strict JSON.
fn rewrite(body: &[u8]) -> Result<Zeroizing<Vec<u8>>, JsonError> {
    if std::str::from_utf8(body).is_err() {
        return Err(JsonError::Syntax("the body is not UTF-8".into()));
    }
    // Unquoted names gain two bytes each, comments only shrink: the text never outgrows its capacity, so it never
    // moves.
    let text = Zeroizing::new(Vec::with_capacity(body.len() + 2 * JSON_RELAXED_MEMBERS_MAX));
    let mut reader = Reader { body, at: 0, text, members: 0 };
    reader.space()?;
    if reader.peek().is_none() {
        return Err(JsonError::Syntax("Blank input data.".into()));
    }
    reader.value(0)?;
    reader.space()?;
    match reader.peek() {
        None => Ok(reader.text),
        Some(_) => Err(reader.expected("the end of the body")),
    }
}

/// Copies one value from `body` to `text`, token by token. The contents of numbers and strings are left to
/// `serde_json`.
struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    text: Zeroizing<Vec<u8>>,
    members: usize,
}

/// A member of an object that is being copied.
struct Member<'a> {
    name: Cow<'a, [u8]>,
    /// Its range in the text.
    start: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn expected(&self, what: &str) -> JsonError {
        JsonError::Syntax(format!("expected {what} at byte {}", self.at).into())
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn while_next(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| !wanted(*byte)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    /// Skips white space and comments.
    fn space(&mut self) -> Result<(), JsonError> {
        loop {
            self.while_next(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
            let rest = self.body.get(self.at..).unwrap_or_default();
            if rest.starts_with(b"//") {
                self.while_next(|byte| byte != b'\n');
            } else if let Some(comment) = rest.strip_prefix(b"/*") {
                let Some(end) = comment.windows(2).position(|pair| pair == b"*/") else {
                    return Err(self.expected("an end of the comment that starts"));
                };
                self.at += end + 4;
            } else {
                return Ok(());
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > JSON_RELAXED_DEPTH_MAX {
            return Err(self.expected("less nesting"));
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(|token| self.text.extend_from_slice(token)),
            _ => match self.while_next(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')) {
                [] => Err(self.expected("a value")),
                // A number or a literal, or something that serde_json will refuse.
                token => {
                    self.text.extend_from_slice(token);
                    Ok(())
                }
            },
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        self.at += 1;
        self.text.push(b'[');
        self.space()?;
        if !self.take(b']') {
            loop {
                self.space()?;
                self.value(depth + 1)?;
                self.space()?;
                if self.take(b']') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.expected("',' or ']'"));
                }
                self.text.push(b',');
            }
        }
        self.text.push(b']');
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), JsonError> {
        self.at += 1;
        self.text.push(b'{');
        let mut members: Vec<Member<'a>> = Vec::new();
        self.space()?;
        if !self.take(b'}') {
            loop {
                self.space()?;
                let member = self.member(depth)?;
                members.push(member);
                self.space()?;
                if self.take(b'}') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.expected("',' or '}'"));
                }
                self.text.push(b',');
            }
        }
        self.drop_repeated(&mut members);
        self.text.push(b'}');
        Ok(())
    }

    fn member(&mut self, depth: usize) -> Result<Member<'a>, JsonError> {
        self.members += 1;
        if self.members > JSON_RELAXED_MEMBERS_MAX {
            return Err(self.expected("fewer members"));
        }
        let start = self.text.len();
        let name = self.name()?;
        self.space()?;
        if !self.take(b':') {
            return Err(self.expected("':'"));
        }
        self.text.push(b':');
        self.space()?;
        self.value(depth + 1)?;
        Ok(Member { name, start, end: self.text.len() })
    }

    /// Copies a name and returns it without quotes and escapes.
    fn name(&mut self) -> Result<Cow<'a, [u8]>, JsonError> {
        if self.peek() == Some(b'"') {
            let token = self.string()?;
            self.text.extend_from_slice(token);
            if !token.contains(&b'\\') {
                return Ok(Cow::Borrowed(token));
            }
            let plain: String = serde_json::from_slice(token).map_err(|_| self.expected("a valid name before"))?;
            return Ok(Cow::Owned(format!("\"{plain}\"").into_bytes()));
        }
        match self.while_next(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            name @ [first, ..] if !first.is_ascii_digit() => {
                let start = self.text.len();
                self.text.push(b'"');
                self.text.extend_from_slice(name);
                self.text.push(b'"');
                Ok(Cow::Owned(self.text.get(start..).unwrap_or_default().to_vec()))
            }
            _ => Err(self.expected("a member name")),
        }
    }

    /// A string token with its quotes.
    fn string(&mut self) -> Result<&'a [u8], JsonError> {
        let start = self.at;
        self.at += 1;
        loop {
            self.while_next(|byte| byte != b'"' && byte != b'\\');
            match self.peek() {
                Some(b'\\') => self.at += 2,
                Some(_) => {
                    self.at += 1;
                    return Ok(self.body.get(start..self.at).unwrap_or_default());
                }
                None => {
                    self.at = start;
                    return Err(self.expected("an end of the string that starts"));
                }
            }
        }
    }

    /// Of members with the same name, keeps the last.
    fn drop_repeated(&mut self, members: &mut [Member<'a>]) {
        members.sort_by(|a, b| a.name.cmp(&b.name).then(b.start.cmp(&a.start)));
        let (mut older, mut previous): (Vec<(usize, usize)>, Option<&[u8]>) = (Vec::new(), None);
        for member in members.iter() {
            if previous == Some(&*member.name) {
                older.push((member.start, member.end));
            }
            previous = Some(&*member.name);
        }
        older.sort_unstable();
        cut(&mut self.text, &older);
    }
}

/// Removes pieces from a text: each from a start to the comma at an end, in order, not overlapping. Returns how many
/// bytes moved; none moves twice, however many pieces there are.
fn cut(text: &mut Vec<u8>, pieces: &[(usize, usize)]) -> usize {
    let Some((mut kept, _)) = pieces.first().copied() else { return 0 };
    let mut moved = 0;
    for (index, (_, comma)) in pieces.iter().enumerate() {
        let from = comma + 1;
        let to = pieces.get(index + 1).map_or(text.len(), |(start, _)| *start);
        text.copy_within(from..to, kept);
        kept += to - from;
        moved += to - from;
    }
    // The old bytes are still there behind the end, and would not be wiped before the text is freed.
    text.get_mut(kept..).unwrap_or_default().zeroize();
    text.truncate(kept);
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::{Value, json};

    fn relaxed(text: &str) -> Result<Value, JsonError> {
        serde_json::from_str(text).or_else(|_| read_strict(&rewrite(text.as_bytes())?))
    }

    fn rewritten(text: &str) -> String {
        String::from_utf8(rewrite(text.as_bytes()).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn what_nethsm_accepts_is_accepted() {
        for (text, expected) in [
            (r#"{realName:"x",role:"Operator"}"#, json!({"realName": "x", "role": "Operator"})),
            ("{ a : 1 , _b2 : [ true , null ] }", json!({"a": 1, "_b2": [true, null]})),
            ("// first\n{\"a\": /* one */ 1 } // last", json!({"a": 1})),
            ("{a:1/**/,/* } */b:2}", json!({"a": 1, "b": 2})),
            (r#"{"a":"// no comment","b":1,b:2}"#, json!({"a": "// no comment", "b": 2})),
            (r#"{"a":{x:1},"a":{"y":{z:1,"z":2}}}"#, json!({"a": {"y": {"z": 2}}})),
            (r#"[{},[],{a:{}}]"#, json!([{}, [], {"a": {}}])),
            (r#"{a:"q\"uote\\"}"#, json!({"a": "q\"uote\\"})),
        ] {
            assert_eq!(relaxed(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn the_last_of_repeated_members_stays() {
        assert_eq!(rewritten(r#"{"a":1,"b":2,"a":3,"c":4,"b":5,"a":6}"#), r#"{"c":4,"b":5,"a":6}"#);
        assert_eq!(rewritten(r#"{"\u0061":1,a:2}"#), r#"{"a":2}"#);
        assert_eq!(rewritten(r#"{a:{a:1,a:2},b:[{a:1,a:2}]}"#), r#"{"a":{"a":2},"b":[{"a":2}]}"#);
    }

    #[test]
    fn dropping_many_members_moves_the_rest_once() {
        let mut text = b"{,1,,2,abc,3,d".to_vec();
        assert_eq!(cut(&mut text, &[(1, 3), (4, 6), (10, 12)]), 4);
        assert_eq!(text, b"{abcd");
        assert_eq!(cut(&mut text, &[]), 0);
        assert_eq!(text, b"{abcd");

        let repeated = 1_000;
        let mut text = b"1,".repeat(repeated);
        text.resize((16 << 20) + text.len(), b'x');
        let pieces: Vec<_> = (0..repeated).map(|n| (2 * n, 2 * n + 1)).collect();
        assert_eq!(cut(&mut text, &pieces), 16 << 20);
        assert!(text.len() == 16 << 20 && text.iter().all(|byte| *byte == b'x'));
    }

    #[test]
    fn what_is_not_json_is_a_syntax_error() {
        for text in [
            "{",
            "{a}",
            "{a:}",
            "{a:1,}",
            "[1,]",
            "[1 2]",
            "{a:1} x",
            "{1a:1}",
            "nul",
            "'a'",
            "\"a",
            "/* {}",
            "{a:01}",
            "{\"a\":\"\\x\",b:1}",
            "{\"a\nb\":1}",
            "{a:\"\\ud800\"}",
            "/",
            "{a:1}/",
            "{-a:1}",
            "\"\\",
            "1-2",
        ] {
            assert!(matches!(relaxed(text), Err(JsonError::Syntax(_))), "{text}: {:?}", relaxed(text));
        }
        for blank in ["", " \n", "// x"] {
            assert_eq!(relaxed(blank).unwrap_err().to_string(), "Invalid JSON: Blank input data.");
        }
        let broken: Result<Value, _> = parse(b"{\"a\":\"\xfc\"}");
        assert_eq!(broken, Err(JsonError::Syntax("the body is not UTF-8".into())));
        assert_eq!(relaxed("{a:1 b:2}").unwrap_err().to_string(), "Invalid JSON: expected ',' or '}' at byte 5");
    }

    #[test]
    fn relaxed_bodies_are_bounded() {
        let nested = format!("{}{{a:1}}{}", "[".repeat(40), "]".repeat(40));
        assert!(matches!(relaxed(&nested), Err(JsonError::Syntax(_))));
        let deep = "[".repeat(1_000_000);
        assert!(matches!(relaxed(&deep), Err(JsonError::Syntax(_))));
        let wide = format!("{{{}}}", vec!["a:1"; JSON_RELAXED_MEMBERS_MAX + 1].join(","));
        assert!(matches!(relaxed(&wide), Err(JsonError::Syntax(_))));
        let full = format!("{{{}}}", vec!["a:1"; JSON_RELAXED_MEMBERS_MAX].join(","));
        assert_eq!(relaxed(&full), Ok(json!({"a": 1})));
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        number: i64,
        #[serde(default)]
        word: Option<Word>,
        #[serde(default)]
        inner: Option<Inner>,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        text: String,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    enum Word {
        One,
        Two,
    }

    #[test]
    fn schema_errors_name_the_member_and_never_the_value() {
        for (text, expected) in [
            ("{}", "body: missing member `number`"),
            (r#"{"number":"s3cret"}"#, "number: expected i64"),
            (r#"{"number":2048.0}"#, "number: expected i64"),
            (r#"{"number":"s3cret, expected s3cret"}"#, "number: expected i64"),
            (r#"{"number":1,"word":"s3cret"}"#, "word: expected `One` or `Two`"),
            (r#"{"number":1,"word":"s3cret, expected s3cret"}"#, "word: expected `One` or `Two`"),
            (r#"{"number":1,"s3cret":1}"#, "body: unknown member, expected one of `number`, `word`, `inner`"),
            (r#"{"number":1,"inner":{"text":"","s3cret":""}}"#, "inner: unknown member, expected `text`"),
            (r#"{"number":1,"inner":{"text":null}}"#, "inner.text: expected a string"),
            (r#"{"number":1,"inner":"s3cret"}"#, "inner: expected struct Inner"),
            (r#""s3cret""#, "body: expected struct Outer"),
            (r#"{number:99999999999999999999}"#, "number: expected i64"),
        ] {
            let error = parse::<Outer>(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), format!("Invalid data for JSON schema: {expected}"), "{text}");
        }
    }

    #[test]
    fn strict_bodies_need_no_second_reading() {
        let outer: Outer = parse(br#"{"number":1,"word":"Two","inner":{"text":"x"}}"#).unwrap();
        assert_eq!(outer, Outer { number: 1, word: Some(Word::Two), inner: Some(Inner { text: "x".into() }) });
        assert_eq!(parse::<Outer>(b"{number:1,number:2}").map(|outer| outer.number), Ok(2));
        let _ = Word::One;
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect()))
            ]
        })
    }

    proptest! {
        #[test]
        fn strict_text_keeps_its_meaning(value in any_json()) {
            let text = serde_json::to_vec_pretty(&value).unwrap();
            let again: Value = serde_json::from_slice(&rewrite(&text).unwrap()).unwrap();
            prop_assert_eq!(again, value);
        }

        #[test]
        fn no_body_causes_a_panic(text in r#"([{}\[\]:,"\\/*a1_ \n-]|\\u00|//|/\*|\*/|ü){0,60}"#, tail in any::<Vec<u8>>()) {
            let _ = parse::<Value>(text.as_bytes());
            let _ = parse::<Outer>(&[text.as_bytes(), &tail].concat());
        }
    }
}
