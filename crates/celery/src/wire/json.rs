//! Parser for JSON from Python, with a limit on the size.
//!
//! Python's `json` writes `NaN`, `Infinity` and escapes of lone surrogates, which are not valid JSON. The parser reads
//! the numbers as `null` and the surrogates as U+FFFD, so that one such value does not make a whole result unreadable.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use orch_base::text::large_integer;

/// Size in bytes of the largest message or result that is accepted.
pub const SIZE_LIMIT: usize = 64 * 1024 * 1024;

/// Parses `bytes`; `what` names them in an error.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    parse_with(bytes, what, |bytes| serde_json::from_slice(bytes))
}

/// Parses like [`parse`] and keeps the digits of large integers (see [`large_integer`]).
pub(crate) fn parse_exact<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    check_size(bytes.len(), what)?;
    match large_integer::marked(bytes).map(|marked| parse(&marked, what)) {
        Some(Ok(value)) => Ok(value),
        _ => parse(bytes, what),
    }
}

/// Parses like [`parse`], for values that borrow from the text: if the first attempt fails, `read` is called again with
/// the repaired text.
pub(crate) fn parse_with<T>(
    bytes: &[u8],
    what: &str,
    mut read: impl FnMut(&[u8]) -> serde_json::Result<T>,
) -> Result<T> {
    check_size(bytes.len(), what)?;
    read(bytes)
        .or_else(|error| {
            // `serde_json` rejects an integer with 400 digits as out of range.
            let marked = large_integer::marked(bytes);
            let repaired = repaired(marked.as_deref().unwrap_or(bytes)).or(marked).ok_or(error)?;
            read(&repaired)
        })
        .map_err(|error| Error::malformed(what, error))
}

/// Text that is borrowed if it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct BorrowedText<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// Checks that `bytes` is not above [`SIZE_LIMIT`].
pub(crate) fn check_size(bytes: usize, what: &str) -> Result<()> {
    if bytes > SIZE_LIMIT {
        return Err(Error::TooLarge {
            what: what.to_owned(),
            bytes,
            limit: SIZE_LIMIT,
        });
    }
    Ok(())
}

/// Replaces values that Python writes and JSON does not allow; `None` if the text has none.
fn repaired(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut changed = false;
    let mut in_string = false;
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        let number = ["NaN", "-Infinity", "Infinity"]
            .into_iter()
            .find(|name| rest.starts_with(name.as_bytes()));
        match byte {
            b'\\' if in_string => {
                let (escape, remaining) = escape_sequence(rest);
                changed |= escape.is_none();
                out.extend_from_slice(escape.unwrap_or(b"\\ufffd"));
                rest = remaining;
                continue;
            }
            b'"' => in_string = !in_string,
            _ if !in_string => {
                if let Some(name) = number {
                    changed = true;
                    out.extend_from_slice(b"null");
                    rest = &rest[name.len()..];
                    continue;
                }
            }
            _ => {}
        }
        out.push(byte);
        rest = tail;
    }
    changed.then_some(out)
}

/// Splits off one escape or one pair of surrogate escapes; the first part is `None` for a lone surrogate.
fn escape_sequence(text: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match unicode_escape(text) {
        Some(0xD800..=0xDBFF) => match unicode_escape(&text[6..]) {
            Some(0xDC00..=0xDFFF) => (Some(&text[..12]), &text[12..]),
            _ => (None, &text[6..]),
        },
        Some(0xDC00..=0xDFFF) => (None, &text[6..]),
        Some(_) => (Some(&text[..6]), &text[6..]),
        None => text
            .split_at_checked(2)
            .map_or((Some(text), &[][..]), |(escape, rest)| (Some(escape), rest)),
    }
}

/// Returns the code unit of an escape at the start of `text`: `\u` and four hexadecimal digits.
fn unicode_escape(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn invalid_json_of_python_is_read() {
        for (text, value) in [
            (
                r#"{"a": NaN, "b": [Infinity, -Infinity]}"#,
                json!({"a": null, "b": [null, null]}),
            ),
            ("[1e3, -0]", json!([1000.0, -0.0])),
            (r#"["NaN", "\"NaN", NaN]"#, json!(["NaN", "\"NaN", null])),
            (
                r#"["x\ud83dy", "\ud83d\ude00", "\udc00"]"#,
                json!(["x\u{fffd}y", "\u{1f600}", "\u{fffd}"]),
            ),
            (
                r#"["\ud83d\ud83d\ude00", "\\ud83d"]"#,
                json!(["\u{fffd}\u{1f600}", "\\ud83d"]),
            ),
        ] {
            assert_eq!(parse::<Value>(text.as_bytes(), "a test").expect(text), value);
        }
    }

    #[test]
    fn an_integer_beyond_all_floats_hides_nothing_else() {
        let text = format!(r#"{{"n": -1{}, "rest": [NaN, 2]}}"#, "0".repeat(400));
        let value: Value = parse(text.as_bytes(), "a test").expect("JSON");
        assert_eq!(value["rest"], json!([null, 2]));
        assert_eq!(large_integer::digits(&value["n"]), text.get(6..408));
    }

    #[test]
    fn an_error_names_the_value_that_is_too_large_or_malformed() {
        let error = parse::<Value>(b"{", "the result of task 7")
            .expect_err("half an object")
            .to_string();
        assert!(error.starts_with("cannot read the result of task 7: EOF"), "{error}");
        let error = check_size(SIZE_LIMIT + 1, "a result")
            .expect_err("one above")
            .to_string();
        assert!(error.contains("67108865 bytes"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome: Result<Value> = parse(&bytes, "a test");
        }

        #[test]
        fn escapes_never_split_wrongly(text in r#"["NaInfity\\ud8c0-9e "]{0,40}"#) {
            let _outcome: Result<Value> = parse(text.as_bytes(), "a test");
        }
    }
}
