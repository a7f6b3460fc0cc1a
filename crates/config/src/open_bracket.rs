//! Search for the bracket of a TOML text that is never closed. The parser takes the rest of the text for elements of
//! the list and reports each line, but not the line with the bracket.

use std::ops::Range;

/// Values of a list that look like the name of a section: `[true]`.
const VALUES: [&str; 4] = ["true", "false", "inf", "nan"];

/// Bracket that is not closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenBracket {
    /// Byte offset of the bracket.
    pub at: usize,
    /// The bracket that is missing.
    pub closed_by: char,
    /// First text that cannot be inside the bracket: the next key, the next section, or a bracket that closes another
    /// one.
    pub next: Option<Range<usize>>,
}

/// Finds the first such bracket; returns `None` if all are closed, or if a quote is open, which the parser reports.
pub(crate) fn find(text: &str) -> Option<OpenBracket> {
    let bytes = text.as_bytes();
    let mut open: Vec<(usize, u8)> = Vec::new();
    // The last byte that is neither whitespace nor part of a comment.
    let mut last = b'\n';
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let is_begin_of_line = at == 0 || bytes.get(at - 1) == Some(&b'\n');
        if is_begin_of_line {
            let line = text.get(at..)?.split('\n').next().unwrap_or_default();
            let words = line.trim();
            match open.last() {
                // The parser reports errors in the header of a section.
                None if words.starts_with('[') => {
                    at += line.len() + 1;
                    continue;
                }
                Some(&(bracket, closed_by)) if cannot_be_within(words, closed_by, last) => {
                    let begin = at + (line.len() - line.trim_start().len());
                    return Some(OpenBracket {
                        at: bracket,
                        closed_by: char::from(closed_by),
                        next: Some(begin..begin + words.len()),
                    });
                }
                _ => {}
            }
        }
        match byte {
            b'"' | b'\'' => {
                at = end_of_string(bytes, at)?;
                last = b'"';
                continue;
            }
            b'#' => {
                at = bytes[at..].iter().position(|byte| *byte == b'\n').map(|end| at + end)?;
                continue;
            }
            b'[' => open.push((at, b']')),
            b'{' => open.push((at, b'}')),
            b']' | b'}' => {
                let (bracket, closed_by) = open.pop()?;
                if closed_by != *byte {
                    return Some(OpenBracket {
                        at: bracket,
                        closed_by: char::from(closed_by),
                        next: Some(at..at + 1),
                    });
                }
            }
            _ => {}
        }
        if !byte.is_ascii_whitespace() {
            last = *byte;
        }
        at += 1;
    }
    open.pop().map(|(bracket, closed_by)| OpenBracket {
        at: bracket,
        closed_by: char::from(closed_by),
        next: None,
    })
}

/// Decides whether a line begins a section, or a key that cannot belong to the open table.
fn cannot_be_within(line: &str, closed_by: u8, last: u8) -> bool {
    let is_key = is_key_of_value(line);
    match closed_by {
        b']' => is_key || is_section(line),
        // A table may continue in the next line after a comma.
        _ => is_section(line) || (is_key && !matches!(last, b',' | b'{')),
    }
}

fn is_section(line: &str) -> bool {
    let Some((name, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
        return false;
    };
    let name = name.trim_start_matches('[').trim();
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') && !VALUES.contains(&name)
}

fn is_key_of_value(line: &str) -> bool {
    let Some((key, _)) = line.split_once('=') else {
        return false;
    };
    let is_whole = |quote| key.matches(quote).count().is_multiple_of(2);
    let in_keys = |letter: char| letter.is_alphanumeric() || "_-.\"' \t".contains(letter);
    !key.trim().is_empty() && key.chars().all(in_keys) && is_whole('"') && is_whole('\'')
}

/// Returns the position after the string that begins at `begin`; `None` if the string does not end.
fn end_of_string(bytes: &[u8], begin: usize) -> Option<usize> {
    let quote = *bytes.get(begin)?;
    let is_long = bytes.get(begin..begin + 3)? == [quote; 3];
    let mut at = begin + if is_long { 3 } else { 1 };
    loop {
        match bytes.get(at)? {
            b'\\' if quote == b'"' => at += 2,
            b'\n' if !is_long => return None,
            byte if *byte != quote => at += 1,
            _ if !is_long => return Some(at + 1),
            // Up to two quotes may precede the three closing ones.
            _ => {
                let quotes = bytes[at..].iter().take_while(|byte| **byte == quote).count();
                if quotes >= 3 {
                    return Some(at + quotes);
                }
                at += quotes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_open_bracket_and_the_next_line_are_found() {
        for (text, found) in [
            ("a = [1, 2]\n[b]\nc = { d = [\"]\"] } # ]\n", None),
            ("a = [\n  [\"b\"],\n  ['''\n]''', \"\\\"]\"], # [\n]\n", None),
            ("a = {\n  b = 1,\n  c = [true]\n}\n", None),
            ("a = [\"b\"\n[c]\n", Some(("[", 0, "[c]"))),
            ("a = [\n  \"b\"\nc = 4\n", Some(("[", 0, "c = 4"))),
            ("a = [\n  [\"b\"],\n  \"c=d\"\n", Some(("[", 0, ""))),
            ("a = { b = [1 }\n", Some(("[", 1, "}"))),
            ("a = { b = [1]\n\"c.d\" = 2\n", Some(("{", 0, "\"c.d\" = 2"))),
            ("a = { b = 1\n[[c.d]]\n", Some(("{", 0, "[[c.d]]"))),
            ("[a\nb = [1]\n", None),
            ("a = \"b\n[c]\n", None),
            ("a = 1]\nb = [\n", None),
        ] {
            let shown = find(text).map(|open| {
                let next = open.next.map_or("", |next| &text[next]);
                (
                    &text[open.at..=open.at],
                    text[..open.at].matches('[').count() + usize::from(text[..open.at].contains('{')),
                    next,
                )
            });
            assert_eq!(shown, found, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(?s).{0,60}", toml in "[\\[\\]{}=#\"'\\\\a\n ,]{0,80}") {
            for text in [text, toml] {
                if let Some(open) = find(&text) {
                    let bracket = text.as_bytes()[open.at];
                    prop_assert!(bracket == b'[' || bracket == b'{', "{text:?} {open:?}");
                }
            }
        }
    }
}
