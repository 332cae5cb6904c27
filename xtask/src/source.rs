//! Reads Rust source for the house rules: without comments, literals and unit tests.
//!
//! This is a search aid, not a parser: it knows just enough of the lexical structure (Rust reference, "Tokens") that a
//! forbidden word in a comment or a string does not count, and one in code does.

use std::iter::Peekable;
use std::str::Chars;

/// `source` with comments and the contents of string and character literals blanked out; line numbers are unchanged.
pub(crate) fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source.chars().peekable();
    let mut previous = ' ';
    while let Some(c) = rest.next() {
        match (c, rest.peek().copied()) {
            ('/', Some('/')) => skip_line(&mut rest),
            ('/', Some('*')) => skip_block_comment(&mut rest, &mut code),
            ('r', Some('"' | '#')) if !is_word(previous) && starts_raw_string(&rest) => {
                skip_raw_string(&mut rest, &mut code);
            }
            ('"', _) => skip_string(&mut rest, &mut code),
            ('\'', Some(next)) => skip_char_or_lifetime(next, &mut rest, &mut code),
            _ => code.push(c),
        }
        previous = c;
    }
    code
}

/// `code` up to its unit tests, which are at the end of a file in `#[cfg(test)] mod tests { … }`.
pub(crate) fn before_tests(code: &str) -> &str {
    let tests = code.match_indices("#[cfg(test)]").find(|(at, attribute)| {
        let after = code.get(at + attribute.len()..).unwrap_or_default().trim_start();
        let inline = after.find('{').is_some_and(|brace| after.find(';').is_none_or(|end| brace < end));
        after.starts_with("mod ") && inline
    });
    tests.map_or(code, |(at, _)| code.get(..at).unwrap_or(code))
}

/// The line numbers, from 1, on which `path` (such as `std::fs`) is named, also inside `use std::{fs, …}`.
pub(crate) fn lines_naming(code: &str, path: &str) -> Vec<usize> {
    let mut found: Vec<usize> = words_at(code, path).map(|at| line_of(code, at)).collect();
    if let Some((parent, child)) = path.rsplit_once("::") {
        let group = format!("{parent}::{{");
        for (at, _) in code.match_indices(&group) {
            let inside = group_members(code.get(at + group.len()..).unwrap_or_default());
            if inside.iter().any(|member| member.split("::").next() == Some(child)) {
                found.push(line_of(code, at));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The positions of `word` in `code` with no identifier character on either side.
fn words_at<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code.get(..*at).and_then(|text| text.chars().next_back());
        let after = code.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn line_of(code: &str, at: usize) -> usize {
    code.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The members of a `use` group, where `text` begins after the brace: only the outermost level.
fn group_members(text: &str) -> Vec<String> {
    let mut members = vec![String::new()];
    let mut depth = 0_usize;
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(String::new()),
            c if depth == 0 && !c.is_whitespace() => members.iter_mut().next_back().into_iter().for_each(|m| m.push(c)),
            _ => {}
        }
    }
    members
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn skip_line(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| *c != '\n').is_some() {}
}

/// Block comments nest.
fn skip_block_comment(rest: &mut Peekable<Chars<'_>>, code: &mut String) {
    let mut depth = 0_usize;
    let mut previous = '/';
    for c in rest.by_ref() {
        match (previous, c) {
            ('/', '*') => depth += 1,
            ('*', '/') if depth == 1 => return,
            ('*', '/') => depth -= 1,
            (_, '\n') => code.push('\n'),
            _ => {}
        }
        // `/*/` opens a comment and does not close it.
        previous = if matches!((previous, c), ('/', '*') | ('*', '/')) { ' ' } else { c };
    }
}

fn starts_raw_string(rest: &Peekable<Chars<'_>>) -> bool {
    rest.clone().find(|c| *c != '#') == Some('"')
}

fn skip_raw_string(rest: &mut Peekable<Chars<'_>>, code: &mut String) {
    let mut hashes = 0;
    while rest.next_if_eq(&'#').is_some() {
        hashes += 1;
    }
    rest.next();
    code.push_str("\"\"");
    while let Some(c) = rest.next() {
        if c == '\n' {
            code.push('\n');
        }
        if c == '"' && rest.clone().take(hashes).filter(|c| *c == '#').count() == hashes {
            rest.by_ref().take(hashes).for_each(drop);
            return;
        }
    }
}

fn skip_string(rest: &mut Peekable<Chars<'_>>, code: &mut String) {
    code.push_str("\"\"");
    while let Some(c) = rest.next() {
        match c {
            '"' => return,
            '\n' => code.push('\n'),
            '\\' if rest.next() == Some('\n') => code.push('\n'),
            _ => {}
        }
    }
}

/// `'x'` and `'\n'` are characters, `'a` without a closing quote is a lifetime.
fn skip_char_or_lifetime(next: char, rest: &mut Peekable<Chars<'_>>, code: &mut String) {
    code.push('\'');
    let mut ahead = rest.clone();
    ahead.next();
    if next == '\\' {
        rest.next();
        rest.next();
        while rest.next().is_some_and(|c| c != '\'') {}
        code.push('\'');
    } else if ahead.next() == Some('\'') {
        rest.next();
        rest.next();
        code.push('\'');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code_and_lines_stay() {
        let source = "a // unsafe\n/* x /* unsafe */\n y */ b \"unsafe \\\" \n\" r#\"unsafe \" \"# 'c' '\\'' <'a> c";
        let code = code_only(source);
        assert!(!code.contains("unsafe"), "{code}");
        assert_eq!(code.lines().count(), source.lines().count());
        for word in ["a ", " b ", "<'a> c"] {
            assert!(code.contains(word), "{word} in {code}");
        }
    }

    #[test]
    fn words_are_found_whole_and_inside_groups() {
        assert_eq!(lines_naming("use std::fs;\nlet x = std::fs::read;", "std::fs"), [1, 2]);
        assert_eq!(lines_naming("use std::{cmp, fs::File, x::{env}};", "std::fs"), [1]);
        assert!(lines_naming("use std::{cmp, x::{env}};\nuse std::fsx;", "std::env").is_empty());
        assert!(lines_naming("unsafe_code", "unsafe").is_empty());
    }

    #[test]
    fn unit_tests_at_the_end_do_not_count() {
        assert_eq!(before_tests("fn a() {}\n#[cfg(test)]\nmod tests { use std::fs; }"), "fn a() {}\n");
        let elsewhere = "#[cfg(test)]\nmod tests;\nfn a() {}";
        assert_eq!(before_tests(elsewhere), elsewhere);
    }
}
