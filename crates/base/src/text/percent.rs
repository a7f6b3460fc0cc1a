//! Percent-encoding of the parts of a URL.

use std::fmt::Write as _;

/// Encodes everything except RFC 3986's unreserved characters: Celery decodes the user and the password in URLs.
pub fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// Decodes percent-encoded text.
///
/// # Errors
/// Returns the reason why the text cannot be decoded.
pub fn decoded(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            // Two hexadecimal digits are at most 255.
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err("a `%` is not followed by two hexadecimal digits"),
        }
    }
    String::from_utf8(bytes).map_err(|_| "its percent-encoding is not UTF-8")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invalid_encodings_are_refused() {
        for text in ["%", "%2", "%zz", "%ff"] {
            assert!(decoded(text).is_err(), "{text}");
        }
        assert_eq!(decoded("%3A%3a1+").as_deref(), Ok("::1+"));
    }

    proptest! {
        #[test]
        fn decoding_reverses_encoding(text in "\\PC{0,20}") {
            prop_assert_eq!(decoded(&encoded(&text)), Ok(text));
        }
    }
}
