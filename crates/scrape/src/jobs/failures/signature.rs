//! Signature of an exception: the text without everything that differs between two failures of one kind.
//!
//! Two chunks that fail on two pages of one site raise `ChunkError: 404 for http://shop/p/7` and `... http://shop/p/9`.
//! For a person this is one error that occurred twice.

use std::iter::Peekable;
use std::str::CharIndices;

/// Number of characters of an exception that are considered.
const MAX_READ: usize = 1_000;
/// Number of characters of a signature.
const MAX_SIGNATURE: usize = 200;
/// Length of the shortest word of hexadecimal digits that counts as an id.
const SHORTEST_ID: usize = 8;

/// Returns the signature of an exception, one line: `<url>`, `<text>`, `<id>` and `<n>` stand for URLs, quoted texts,
/// long hexadecimal ids and numbers.
pub(crate) fn signature(exception: &str) -> String {
    let text = orch_base::text::printable::shortened(exception, MAX_READ);
    let mut signature = String::new();
    let mut characters = text.char_indices().peekable();
    let mut before: Option<char> = None;
    while let Some((at, character)) = characters.next() {
        let rest = &text[at..];
        if character.is_whitespace() {
            if !signature.is_empty() && !signature.ends_with(' ') {
                signature.push(' ');
            }
        } else if let Some(quoted) = quoted_length(rest, before) {
            signature.push_str("<text>");
            skip(&mut characters, at + quoted);
        } else if is_word(character) && !before.is_some_and(is_word) {
            let word = word_of(rest);
            if let Some(url) = url_length(rest) {
                signature.push_str("<url>");
                skip(&mut characters, at + url);
            } else {
                push_word(&mut signature, word);
                skip(&mut characters, at + word.len());
            }
        } else {
            signature.push(character);
        }
        before = signature.chars().next_back();
    }
    orch_base::text::printable::shortened(signature.trim_end(), MAX_SIGNATURE)
}

/// Skips all characters before the byte `end`.
fn skip(characters: &mut Peekable<CharIndices<'_>>, end: usize) {
    while characters.next_if(|(at, _)| *at < end).is_some() {}
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Returns the word at the beginning: letters, digits, and the marks within ids and decimal numbers.
fn word_of(text: &str) -> &str {
    let is_part = |character: char| is_word(character) || matches!(character, '-' | '.');
    let end = text.find(|character| !is_part(character)).unwrap_or(text.len());
    text[..end].trim_end_matches(['-', '.'])
}

/// Returns the length of the URL at the beginning.
fn url_length(text: &str) -> Option<usize> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = |character: char| character.is_ascii_alphanumeric() || "+-.".contains(character);
    if scheme.is_empty() || !scheme.chars().all(is_scheme) {
        return None;
    }
    let is_end = |character: char| character.is_whitespace() || "'\"<>)]},;".contains(character);
    let end = rest.find(is_end).unwrap_or(rest.len());
    let url = rest[..end].trim_end_matches(['.', ':']);
    Some(scheme.len() + "://".len() + url.len())
}

/// Returns the length of the quoted text at the beginning. A mark within a word, as in `can't`, opens no quotation.
fn quoted_length(text: &str, before: Option<char>) -> Option<usize> {
    let mark = text.chars().next().filter(|mark| matches!(mark, '\'' | '"'))?;
    if before.is_some_and(is_word) {
        return None;
    }
    let mut escaped = false;
    let mut inner = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = inner.next() {
        if character == mark && !escaped && !inner.peek().is_some_and(|(_, next)| is_word(*next)) {
            return Some(at + mark.len_utf8());
        }
        escaped = character == '\\' && !escaped;
    }
    None
}

/// Appends a word, with `<id>` for a hexadecimal id and `<n>` for each number within the word.
fn push_word(signature: &mut String, word: &str) {
    let digits = word.strip_prefix("0x").unwrap_or(word);
    let is_hex = digits
        .chars()
        .all(|character| character.is_ascii_hexdigit() || character == '-');
    let has_digit = digits.bytes().any(|byte| byte.is_ascii_digit());
    let has_letter = digits.bytes().any(|byte| byte.is_ascii_alphabetic());
    let is_long = digits.len() >= SHORTEST_ID || digits.len() < word.len();
    if is_hex && has_digit && is_long && (has_letter || digits.contains('-') || digits.len() < word.len()) {
        signature.push_str("<id>");
        return;
    }
    let mut rest = word;
    while let Some(start) = rest.find(|character: char| character.is_ascii_digit()) {
        signature.push_str(&rest[..start]);
        signature.push_str("<n>");
        let number = &rest[start..];
        let is_number = |character: char| character.is_ascii_digit() || character == '.';
        let end = number.find(|character| !is_number(character)).unwrap_or(number.len());
        let digits = number[..end].trim_end_matches('.');
        rest = &number[digits.len()..];
    }
    signature.push_str(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_differs_between_failures_of_one_kind_is_left_out() {
        for (exception, expected) in [
            (
                "ChunkError: 404 for http://127.0.0.1:80/p/7?a=b, giving up",
                "ChunkError: <n> for <url>, giving up",
            ),
            ("ValueError: no page 7 of 12", "ValueError: no page <n> of <n>"),
            ("KeyError: 'price'", "KeyError: <text>"),
            (
                "TypeError: can't add 'a' and \"b's\"",
                "TypeError: can't add <text> and <text>",
            ),
            ("Timeout: 3.5 s (limit 3.0 s)", "Timeout: <n> s (limit <n> s)"),
            (
                "OSError: /tmp/run12/a.db is locked",
                "OSError: /tmp/run<n>/a.db is locked",
            ),
            (
                "E: task 06b2ff1e-7a57-4a0b-9d5e-1c1f4b9a2d11 at 0x7f12ab",
                "E: task <id> at <id>",
            ),
            ("E: 1.2.3.4:8080", "E: <n>:<n>"),
            ("Error: deadbeef cafe feedface1", "Error: deadbeef cafe <id>"),
            ("E:\n  two   lines\n", "E: two lines"),
            ("E: see <https://a.b/c>.", "E: see <<url>>."),
            ("E: unclosed 'text 5", "E: unclosed 'text <n>"),
            ("E: the shops' page 5", "E: the shops' page <n>"),
            ("SoftTimeLimitExceeded", "SoftTimeLimitExceeded"),
            ("", ""),
        ] {
            assert_eq!(signature(exception), expected, "{exception}");
        }
    }

    #[test]
    fn a_long_exception_gives_a_short_signature() {
        let long = format!("E: {}", "word ".repeat(100_000));
        assert_eq!(signature(&long).chars().count(), MAX_SIGNATURE);
    }

    proptest! {
        #[test]
        fn numbers_and_pages_never_change_a_signature(a in 0..10_000u32, b in 0..10_000u32, path in "[a-z/?=&%]{0,20}") {
            let text = |n: u32, path: &str| format!("ChunkError: page {n} of http://h{n}/{path} failed after {n}.5 s, '{path}'");
            prop_assert_eq!(signature(&text(a, &path)), signature(&text(b, "x")));
        }

        #[test]
        fn any_text_has_a_signature_of_one_line(text in any::<String>()) {
            let signature = signature(&text);
            prop_assert!(!signature.contains('\n'));
            prop_assert!(signature.chars().count() <= MAX_SIGNATURE);
        }
    }
}
