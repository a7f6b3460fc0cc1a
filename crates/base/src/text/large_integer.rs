//! Whole numbers beyond 64 bits in JSON values, digit by digit: an id in a task's arguments keeps the digits that the
//! user wrote.
//!
//! `serde_json` reads such a number as a float. The feature `arbitrary_precision` would keep the digits, but
//! would pass every number to other visitors as a map, and all tagged enums and readers of events would have to handle
//! that map. In this module a large integer in a [`serde_json::Value`] is an object with the one entry `KEY`, which holds the
//! digits. Text gets such an object before it is parsed, and the object becomes digits again in the written text: both
//! are replacements in the text, since neither form can occur within a JSON string.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Only key of the object that represents a large integer.
const KEY: &str = "$orch::large_integer";
/// Start of such an object as `serde_json` writes it. Within a string the quotes would be escaped.
const OPENING: &str = "{\"$orch::large_integer\":\"";
const CLOSING: &str = "\"}";
/// Number of digits of the longest integer that Python reads from a text (`sys.get_int_max_str_digits`).
pub const MOST_DIGITS: usize = 4300;
/// Number of digits of the shortest integer that may not fit into 64 bits.
const FEWEST_DIGITS: usize = 19;

/// Reads an integer in decimal digits with an optional sign; returns `None` for any other text and for more digits than
/// Python reads.
pub fn value(text: &str) -> Option<Value> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = match digits.trim_start_matches('0') {
        "" => return Some(Value::from(0)),
        digits => digits,
    };
    if digits.len() > MOST_DIGITS {
        return None;
    }
    let text = format!("{sign}{digits}");
    Some(match (text.parse::<i64>(), text.parse::<u64>()) {
        (Ok(number), _) => Value::from(number),
        (_, Ok(number)) => Value::from(number),
        _ => Value::Object(Map::from_iter([(KEY.to_owned(), Value::from(text))])),
    })
}

/// Returns the digits of a large integer; `None` for any other value.
pub fn digits(value: &Value) -> Option<&str> {
    let entries = value.as_object().filter(|entries| entries.len() == 1)?;
    let text = entries.get(KEY)?.as_str()?;
    is_integer(text.as_bytes()).then_some(text)
}

/// Reads JSON; every integer keeps all digits.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let exact = marked(text).and_then(|marked| serde_json::from_slice(&marked).ok());
    match exact {
        Some(value) => Ok(value),
        // There is no large integer, or one stands where a float is expected: parse the input itself, so that positions
        // in an error are those of the input.
        None => serde_json::from_slice(text).map_err(|error| explained(&error, text)),
    }
}

/// Adds the number to an error about the range.
fn explained(error: &serde_json::Error, text: &[u8]) -> String {
    let message = error.to_string();
    if !message.starts_with("number out of range") {
        return message;
    }
    let mut lines = text.split(|byte| *byte == b'\n');
    let line = lines.nth(error.line().saturating_sub(1)).unwrap_or_default();
    let is_number = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    let end = error.column().min(line.len());
    let start = line[..end]
        .iter()
        .rposition(|byte| !is_number(byte))
        .map_or(0, |at| at + 1);
    let length = line[start..].iter().take_while(|byte| is_number(byte)).count();
    let number = String::from_utf8_lossy(&line[start..start + length]);
    let shown: String = number.chars().take(40).collect();
    let cut = if shown.len() < number.len() { "..." } else { "" };
    format!("the number {shown}{cut} is out of range: {message}")
}

/// Writes a value as JSON with the digits of large integers.
pub fn to_string(value: &impl serde::Serialize) -> String {
    in_text(serde_json::to_string(value).unwrap_or_default())
}

/// Replaces the objects in JSON that `serde_json` wrote by the digits of the large integers.
pub fn in_text(json: String) -> String {
    if !json.contains(OPENING) {
        return json;
    }
    String::from_utf8(in_bytes(json.into_bytes())).unwrap_or_default()
}

/// Replaces the objects in bytes of JSON that `serde_json` wrote by the digits of the large integers.
pub fn in_bytes(json: Vec<u8>) -> Vec<u8> {
    let finder = memchr::memmem::Finder::new(OPENING);
    let mut found = finder.find_iter(&json).peekable();
    if found.peek().is_none() {
        return json;
    }
    let mut written = Vec::with_capacity(json.len());
    let mut rest = 0;
    for at in found {
        let start = at + OPENING.len();
        let length = memchr::memchr(b'"', &json[start..]).unwrap_or_default();
        let end = start + length;
        if is_integer(&json[start..end]) && json[end..].starts_with(CLOSING.as_bytes()) {
            written.extend_from_slice(&json[rest..at]);
            written.extend_from_slice(&json[start..end]);
            rest = end + CLOSING.len();
        }
    }
    written.extend_from_slice(&json[rest..]);
    written
}

/// Replaces each integer that `serde_json` would read as a float by an object; returns `None` when the text has none.
pub fn marked(text: &[u8]) -> Option<Vec<u8>> {
    let mut marked: Option<Vec<u8>> = None;
    let (mut at, mut copied) = (0, 0);
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => at = end_of_string(text, at),
            b'-' | b'0'..=b'9' => {
                let is_number = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                let length = text[at..].iter().take_while(|byte| is_number(byte)).count();
                let token = &text[at..at + length];
                if is_large(token) {
                    let marked = marked.get_or_insert_with(|| Vec::with_capacity(text.len() + 64));
                    marked.extend_from_slice(&text[copied..at]);
                    for piece in [OPENING.as_bytes(), token, CLOSING.as_bytes()] {
                        marked.extend_from_slice(piece);
                    }
                    copied = at + length;
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    let mut marked = marked?;
    marked.extend_from_slice(&text[copied..]);
    Some(marked)
}

/// Returns the position after the string that begins at `start`.
fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = text.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if text[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    text.len()
}

/// Decides whether a JSON number is an integer that `serde_json` reads as a float. `-0` is one too.
fn is_large(token: &[u8]) -> bool {
    if token == b"-0" {
        return true;
    }
    let length = token.strip_prefix(b"-").unwrap_or(token).len();
    if !(FEWEST_DIGITS..=MOST_DIGITS).contains(&length) || !is_integer(token) {
        return false;
    }
    let digits = std::str::from_utf8(token).unwrap_or_default();
    digits.parse::<i64>().is_err() && digits.parse::<u64>().is_err()
}

/// Decides whether a text is an integer in the syntax of JSON.
fn is_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let has_leading_zero = digits.len() > 1 && digits.starts_with(b"0");
    !digits.is_empty() && !has_leading_zero && digits.iter().all(u8::is_ascii_digit)
}

/// Converts an integer in base 2, 8 or 16 (without the prefix) to decimal digits; returns `None` for other characters
/// and for more digits than Python reads.
pub fn decimal(digits: &str, radix: u32) -> Option<String> {
    // Base of the little-endian groups, nine decimal digits each.
    const GROUP: u64 = 1_000_000_000;
    if digits.is_empty() || digits.len() > MOST_DIGITS * 4 {
        return None;
    }
    let mut groups: Vec<u64> = vec![0];
    for character in digits.chars() {
        let mut carry = u64::from(character.to_digit(radix)?);
        for group in &mut groups {
            let sum = *group * u64::from(radix) + carry;
            *group = sum % GROUP;
            carry = sum / GROUP;
        }
        if carry > 0 {
            groups.push(carry);
        }
    }
    let written: String = groups.iter().rev().map(|group| format!("{group:09}")).collect();
    let written = written.trim_start_matches('0');
    let written = if written.is_empty() { "0" } else { written };
    (written.len() <= MOST_DIGITS).then(|| written.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn through(text: &str) -> String {
        to_string(&from_slice::<Value>(text.as_bytes()).expect(text))
    }

    #[test]
    fn integers_keep_their_digits_and_other_numbers_their_kind() {
        let power = format!("1{}", "0".repeat(400));
        for text in [
            "123456789012345678901",
            "-9223372036854775809",
            "-9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            power.as_str(),
            "-0",
            "0",
            "1.0",
            r#"[1,{"a":[-123456789012345678901234,"x"]},"123456789012345678901"]"#,
            r#"{"\"123456789012345678901\\":123456789012345678901}"#,
        ] {
            assert_eq!(through(text), text);
        }
        assert_eq!(through("12345678901234567890.5"), "1.2345678901234567e+19");
    }

    #[test]
    fn an_error_names_the_number_out_of_range() {
        for (text, named) in [
            ("[1e400]", "the number 1e400 is out of range"),
            ("{\n\"a\": -1.5E999}", "the number -1.5E999 is out of range"),
        ] {
            let error = from_slice::<Value>(text.as_bytes()).expect_err(text);
            assert!(error.starts_with(named), "{error}");
        }
        let long = "1".repeat(MOST_DIGITS + 1);
        let error = from_slice::<Value>(long.as_bytes()).expect_err("more digits than Python reads");
        assert!(
            error.starts_with("the number 1111111111111111111111111111111111111111... is out"),
            "{error}"
        );
    }

    #[test]
    fn a_float_can_be_read_from_a_large_integer() {
        assert_eq!(from_slice::<f64>(b"100000000000000000000"), Ok(1e20));
        assert!(from_slice::<u8>(b"100000000000000000000").is_err());
    }

    #[test]
    fn a_text_that_looks_like_the_object_stays_a_text() {
        let looks = json!({"a": "{\"$orch::large_integer\":\"1\"}", "$orch::large_integer": "12 or so"});
        assert_eq!(serde_json::from_str::<Value>(&to_string(&looks)).expect("JSON"), looks);
    }

    #[test]
    fn values_are_made_of_digits_alone() {
        assert_eq!(value("+007"), Some(json!(7)));
        assert_eq!(value("18446744073709551615"), Some(json!(u64::MAX)));
        assert_eq!(
            digits(&value("-18446744073709551616").expect("digits")),
            Some("-18446744073709551616")
        );
        for none in ["", "-", "1.0", "1e5", "0x10", "1 "] {
            assert_eq!(value(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn any_integer_survives_a_round_trip(text in "-?[1-9][0-9]{0,60}") {
            prop_assert_eq!(through(&text), text);
        }

        #[test]
        fn nearly_json_is_read_as_serde_json_reads_it(text in r#"[\[\]{}",:\\0-9e.+-]{0,60}"#) {
            let plain = serde_json::from_str::<Value>(&text).is_ok();
            let exact = from_slice::<Value>(text.as_bytes()).is_ok();
            prop_assert!(exact || !plain);
        }

        #[test]
        fn other_bases_are_the_same_number(number in any::<u128>()) {
            prop_assert_eq!(decimal(&format!("{number:x}"), 16), Some(number.to_string()));
            prop_assert_eq!(decimal(&format!("{number:o}"), 8), Some(number.to_string()));
            prop_assert_eq!(decimal(&format!("{number:b}"), 2), Some(number.to_string()));
        }
    }
}
