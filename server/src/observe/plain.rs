//! Makes foreign text safe for people to read: in log lines, syslog and terminals.
//!
//! User and key names, labels, and the contents of a backup were chosen by others. This is the only place that ensures
//! that such a text cannot end a line, control a terminal or change the direction of what follows; code that emits an
//! event or a sentence need not consider it.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text on one line, with control characters as escapes: `\n`, `\u{1b}`.
pub fn plain(text: &str) -> Cow<'_, str> {
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match must_escape(c) {
            true => plain.extend(c.escape_default()),
            false => plain.push(c),
        }
    }
    Cow::Owned(plain)
}

/// The same for a JSON text without blank lines: its meaning stays the same, as such characters occur in strings only.
pub(super) fn plain_json(json: String) -> String {
    if is_plain(&json) {
        return json;
    }
    let mut plain = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match must_escape(c) {
            // All of them are in the Basic Multilingual Plane. Writing to a string cannot fail.
            true => drop(write!(plain, "\\u{:04x}", u32::from(c))),
            false => plain.push(c),
        }
    }
    plain
}

/// Whether there is nothing to escape; nearly every text is ASCII, which is checked faster.
fn is_plain(text: &str) -> bool {
    if text.is_ascii() { !text.as_bytes().iter().any(u8::is_ascii_control) } else { !text.contains(must_escape) }
}

/// Control characters, the line and paragraph separators, and characters that change the direction of text (UAX #9 §2).
fn must_escape(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_control_characters_are_escaped() {
        assert_eq!(
            plain("a\r\nb\u{1b}[31m\u{85}\u{9b}c\u{2028}\u{202e}d"),
            "a\\r\\nb\\u{1b}[31m\\u{85}\\u{9b}c\\u{2028}\\u{202e}d"
        );
        for text in ["", "added Jürgen O'Neil (ö): \"x\" \\ 名前", "a combining e\u{301}"] {
            assert!(matches!(plain(text), Cow::Borrowed(same) if same == text));
        }
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_line_without_control_characters(text: String) {
            prop_assert!(!plain(&text).contains(must_escape));
        }

        #[test]
        fn json_keeps_its_meaning(text: String) {
            let json = plain_json(serde_json::Value::from(text.as_str()).to_string());
            prop_assert!(!json.contains(must_escape));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
