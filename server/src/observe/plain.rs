//! Foreign text on its way to people: into log lines, syslog and terminals.
//!
//! Names of users and keys, labels, and whatever stands in a backup were written by others. This is the one place that makes
//! sure that such a text ends no line, steers no terminal and does not turn the direction of what follows; who emits an
//! event or a sentence need not think of it.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text on one line, with everything that is not to be shown as it is written as an escape: `\n`, `\u{1b}`.
pub fn plain(text: &str) -> Cow<'_, str> {
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match steers(c) {
            true => plain.extend(c.escape_default()),
            false => plain.push(c),
        }
    }
    Cow::Owned(plain)
}

/// The same of a JSON text without blank lines: it means what it meant. Such characters are in its strings only.
pub(super) fn plain_json(json: String) -> String {
    if is_plain(&json) {
        return json;
    }
    let mut plain = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match steers(c) {
            // None of them is beyond the basic plane. Writing to a string cannot fail.
            true => drop(write!(plain, "\\u{:04x}", u32::from(c))),
            false => plain.push(c),
        }
    }
    plain
}

/// Whether nothing in it steers; nearly every text is ASCII, which is looked through faster.
fn is_plain(text: &str) -> bool {
    if text.is_ascii() { !text.as_bytes().iter().any(u8::is_ascii_control) } else { !text.contains(steers) }
}

/// Control characters, the line and paragraph separators, and those that turn the direction of text (UAX #9 §2).
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_steers_is_written_as_an_escape_and_nothing_else_is() {
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
        fn any_text_becomes_one_line_that_steers_nothing(text: String) {
            prop_assert!(!plain(&text).contains(steers));
        }

        #[test]
        fn json_keeps_its_meaning(text: String) {
            let json = plain_json(serde_json::Value::from(text.as_str()).to_string());
            prop_assert!(!json.contains(steers));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
