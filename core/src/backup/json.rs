//! JSON whose strings are bytes. NetHSM puts salts, digests and certificates into JSON strings as raw bytes, so its
//! records are not UTF-8 and ordinary JSON parsers refuse them.
//!
//! Reading: RFC 8259, except that a string may hold any byte from 0x80 on, unencoded. Writing: only `"`, `\`, control
//! bytes and 0x7f are escaped, as NetHSM does; bytes from 0x80 on must not be escaped.

use zeroize::Zeroizing;

/// A JSON value.
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A non-negative whole number; the records have no others.
    Number(u64),
    /// A string, as bytes. Wiped on drop, because some are secret.
    Text(Zeroizing<Vec<u8>>),
    /// `[…]`
    List(Vec<Value>),
    /// `{…}`, members in order.
    Object(Vec<(Vec<u8>, Value)>),
}

/// The bytes are not JSON, or not of the form that records have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not the JSON of a record")]
pub struct BadJson;

/// Deepest nesting that is read; records have three levels.
const DEPTH_MAX: usize = 16;

impl Value {
    /// Reads exactly one value; anything after it but white space is an error.
    pub fn read(bytes: &[u8]) -> Result<Self, BadJson> {
        let mut reader = Reader { bytes, at: 0 };
        let value = reader.value(DEPTH_MAX)?;
        reader.space();
        if reader.at == bytes.len() { Ok(value) } else { Err(BadJson) }
    }

    /// A string of these bytes.
    pub fn text(bytes: impl Into<Vec<u8>>) -> Self {
        Value::Text(Zeroizing::new(bytes.into()))
    }

    /// An object of these members.
    pub fn object(members: Vec<(&str, Value)>) -> Self {
        Value::Object(members.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }

    /// Writes the value without spaces.
    pub fn write(&self) -> Zeroizing<Vec<u8>> {
        // Allocated in full, because a buffer that grows leaves copies of its bytes behind.
        let mut out = Zeroizing::new(Vec::with_capacity(self.length()));
        self.append(&mut out);
        out
    }

    /// An upper bound for the length of the written value, in bytes.
    fn length(&self) -> usize {
        let text = |bytes: &[u8]| 2 + bytes.iter().map(|byte| escape(*byte).len()).sum::<usize>();
        match self {
            Value::Null | Value::Bool(_) => 5,
            Value::Number(_) => 20,
            Value::Text(bytes) => text(bytes),
            Value::List(items) => 2 + items.iter().map(|item| 1 + item.length()).sum::<usize>(),
            Value::Object(members) => {
                2 + members.iter().map(|(name, value)| 2 + text(name) + value.length()).sum::<usize>()
            }
        }
    }

    fn append(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Value::Text(bytes) => append_text(out, bytes),
            Value::List(items) => {
                out.push(b'[');
                for (number, item) in items.iter().enumerate() {
                    if number > 0 {
                        out.push(b',');
                    }
                    item.append(out);
                }
                out.push(b']');
            }
            Value::Object(members) => {
                out.push(b'{');
                for (number, (name, value)) in members.iter().enumerate() {
                    if number > 0 {
                        out.push(b',');
                    }
                    append_text(out, name);
                    out.push(b':');
                    value.append(out);
                }
                out.push(b'}');
            }
        }
    }
}

fn append_text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for byte in bytes {
        out.extend_from_slice(escape(*byte).as_slice());
    }
    out.push(b'"');
}

/// The spelling of a byte inside a string.
fn escape(byte: u8) -> Escaped {
    let hex = |digit: u8| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
    let short = |letter: u8| Escaped([b'\\', letter, 0, 0, 0, 0], 2);
    match byte {
        b'"' | b'\\' => short(byte),
        b'\n' => short(b'n'),
        b'\r' => short(b'r'),
        b'\t' => short(b't'),
        0x08 => short(b'b'),
        0x0c => short(b'f'),
        0..=0x1f | 0x7f => Escaped([b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)], 6),
        plain => Escaped([plain, 0, 0, 0, 0, 0], 1),
    }
}

struct Escaped([u8; 6], usize);

impl Escaped {
    fn as_slice(&self) -> &[u8] {
        self.0.get(..self.1).unwrap_or_default()
    }
    fn len(&self) -> usize {
        self.1
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, BadJson> {
        let byte = self.peek().ok_or(BadJson)?;
        self.at += 1;
        Ok(byte)
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, BadJson> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(BadJson);
        }
        self.at += word.len();
        Ok(value)
    }

    fn value(&mut self, depth: usize) -> Result<Value, BadJson> {
        let depth = depth.checked_sub(1).ok_or(BadJson)?;
        self.space();
        match self.peek().ok_or(BadJson)? {
            b'n' => self.word("null", Value::Null),
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            b'"' => self.text().map(Value::Text),
            b'0'..=b'9' => self.number(),
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                if self.closes(b']') {
                    return Ok(Value::List(items));
                }
                loop {
                    items.push(self.value(depth)?);
                    if !self.another(b']')? {
                        return Ok(Value::List(items));
                    }
                }
            }
            b'{' => {
                self.at += 1;
                let mut members = Vec::new();
                if self.closes(b'}') {
                    return Ok(Value::Object(members));
                }
                loop {
                    self.space();
                    let name = self.text()?.to_vec();
                    self.space();
                    if self.next()? != b':' {
                        return Err(BadJson);
                    }
                    members.push((name, self.value(depth)?));
                    if !self.another(b'}')? {
                        return Ok(Value::Object(members));
                    }
                }
            }
            _ => Err(BadJson),
        }
    }

    fn closes(&mut self, end: u8) -> bool {
        self.space();
        let closes = self.peek() == Some(end);
        self.at += usize::from(closes);
        closes
    }

    fn another(&mut self, end: u8) -> Result<bool, BadJson> {
        self.space();
        match self.next()? {
            b',' => Ok(true),
            byte if byte == end => Ok(false),
            _ => Err(BadJson),
        }
    }

    fn number(&mut self) -> Result<Value, BadJson> {
        let mut number: u64 = 0;
        let begin = self.at;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            number = number.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit - b'0'))).ok_or(BadJson)?;
            self.at += 1;
        }
        let leading_zero = self.bytes.get(begin) == Some(&b'0') && self.at > begin + 1;
        let fraction = self.peek().is_some_and(|byte| matches!(byte, b'.' | b'e' | b'E'));
        if leading_zero || fraction { Err(BadJson) } else { Ok(Value::Number(number)) }
    }

    fn text(&mut self) -> Result<Zeroizing<Vec<u8>>, BadJson> {
        if self.next()? != b'"' {
            return Err(BadJson);
        }
        // Not longer than its spelling, so the buffer does not grow.
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let mut end = 0;
        while let Some(byte) = rest.get(end) {
            match byte {
                b'"' => break,
                b'\\' => end += 2,
                _ => end += 1,
            }
        }
        let mut text = Zeroizing::new(Vec::with_capacity(end));
        loop {
            match self.next()? {
                b'"' => return Ok(text),
                b'\\' => self.escaped(&mut text)?,
                0..=0x1f => return Err(BadJson),
                byte => text.push(byte),
            }
        }
    }

    fn escaped(&mut self, text: &mut Vec<u8>) -> Result<(), BadJson> {
        let byte = match self.next()? {
            byte @ (b'"' | b'\\' | b'/') => byte,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 0x08,
            b'f' => 0x0c,
            b'u' => {
                let unit = self.hex4()?;
                let code = match unit {
                    0xd800..=0xdbff => {
                        if (self.next()?, self.next()?) != (b'\\', b'u') {
                            return Err(BadJson);
                        }
                        let low = self.hex4()?.checked_sub(0xdc00).filter(|low| *low < 0x400).ok_or(BadJson)?;
                        0x10000 + ((unit - 0xd800) << 10) + low
                    }
                    unit => unit,
                };
                let letter = char::from_u32(code).ok_or(BadJson)?;
                text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(BadJson),
        };
        text.push(byte);
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32, BadJson> {
        let mut number = 0;
        for _ in 0..4 {
            number = number << 4 | char::from(self.next()?).to_digit(16).ok_or(BadJson)?;
        }
        Ok(number)
    }
}

/// The members of an object, taken out by name.
pub struct Members(Vec<(Vec<u8>, Value)>);

impl Members {
    /// Takes the members of `value`, which must be an object without repeated names.
    pub fn of(value: Value) -> Result<Self, BadJson> {
        let Value::Object(members) = value else { return Err(BadJson) };
        let mut names: Vec<&[u8]> = members.iter().map(|(name, _)| name.as_slice()).collect();
        names.sort_unstable();
        let twice = names.iter().zip(names.iter().skip(1)).any(|(one, next)| one == next);
        if twice { Err(BadJson) } else { Ok(Self(members)) }
    }

    /// A member that may be missing; `null` counts as missing.
    pub fn optional(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| known == name.as_bytes())?;
        Some(self.0.swap_remove(at).1).filter(|value| !matches!(value, Value::Null))
    }

    /// A member that must be there.
    pub fn required(&mut self, name: &str) -> Result<Value, BadJson> {
        self.optional(name).ok_or(BadJson)
    }

    /// Checks that all members were taken: a record with others is of a newer version, whose meaning is not known.
    pub fn end(self) -> Result<(), BadJson> {
        if self.0.is_empty() { Ok(()) } else { Err(BadJson) }
    }
}

impl Value {
    /// The bytes of a string.
    pub fn into_bytes(self) -> Result<Zeroizing<Vec<u8>>, BadJson> {
        if let Value::Text(bytes) = self { Ok(bytes) } else { Err(BadJson) }
    }

    /// A string that must be UTF-8.
    pub fn into_text(self) -> Result<String, BadJson> {
        String::from_utf8(self.into_bytes()?.to_vec()).map_err(|_| BadJson)
    }

    /// The items of a list.
    pub fn into_list(self) -> Result<Vec<Value>, BadJson> {
        if let Value::List(items) = self { Ok(items) } else { Err(BadJson) }
    }

    /// A number.
    pub fn into_number(self) -> Result<u64, BadJson> {
        if let Value::Number(number) = self { Ok(number) } else { Err(BadJson) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn again(text: &[u8]) -> Result<Vec<u8>, BadJson> {
        Value::read(text).map(|value| value.write().to_vec())
    }

    #[test]
    fn any_bytes_survive_in_a_string() {
        let all: Vec<u8> = (0..=255).collect();
        let written = Value::text(all.clone()).write();
        assert_eq!(Value::read(&written).unwrap().into_bytes().unwrap().to_vec(), all);
        let shown = String::from_utf8_lossy(&written).into_owned();
        assert!(shown.contains(r#"\b\t\n\u000b\f\r"#) && shown.contains("!\\\"#") && shown.contains(r#"[\\]"#));
        assert!(shown.contains(r#"~\u007f"#));
        // 34 plain escapes, and from 0x80 on every byte alone.
        assert_eq!(written[written.len() - 129..written.len() - 1], all[128..]);
    }

    #[test]
    fn values_are_written_as_they_were_read() {
        for text in [r#"{"a":[1,"b",null,true,false,{}],"":[]}"#, "18446744073709551615", "0", r#""""#] {
            assert_eq!(again(text.as_bytes()).unwrap(), text.as_bytes());
        }
        assert_eq!(again(b" { \"a\" :\n[ 1 , 2 ] } ").unwrap(), br#"{"a":[1,2]}"#);
        assert_eq!(again(br#""\u00fc\ud83d\ude00\/""#).unwrap(), "\"ü😀/\"".as_bytes());
    }

    #[test]
    fn bytes_that_are_not_json_are_refused() {
        let deep = "[".repeat(20) + &"]".repeat(20);
        for text in [
            "",
            " ",
            "{",
            "[",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "\"",
            "\"\\",
            "\"\\x\"",
            "\"\\u12\"",
            "nul",
            "01",
            "1.0",
            "1e3",
            "-1",
            "18446744073709551616",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "1 2",
            "\"\n\"",
            &deep,
        ] {
            assert!(again(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn members_are_taken_once_and_none_may_be_left() {
        let members = |text: &str| Members::of(Value::read(text.as_bytes()).unwrap());
        assert!(members("[]").is_err() && members(r#"{"a":1,"a":2}"#).is_err());
        let mut found = members(r#"{"a":1,"b":null,"c":"x"}"#).unwrap();
        assert_eq!(found.required("a").unwrap().into_number(), Ok(1));
        assert!(found.required("a").is_err() && found.optional("b").is_none());
        assert!(found.end().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_come_back(bytes: Vec<u8>, text in "[\\[\\]{}\",:0-9a-f\\\\u]{0,40}") {
            for input in [&bytes[..], text.as_bytes()] {
                if let Ok(written) = again(input) {
                    prop_assert_eq!(again(&written).unwrap(), written);
                }
            }
        }
    }
}
