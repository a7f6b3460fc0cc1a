//! Decodes Base64 like Python.

/// Decodes Base64 like workers do: skips characters outside the alphabet and ignores everything after the padding
/// (Python's `base64.b64decode`). A stricter decoder would report valid messages as poison.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    // Bits that do not form a byte yet, number of characters in the group of four, number of padding characters after
    // them.
    let (mut bits, mut characters, mut padding) = (0_u32, 0_u32, 0_u32);
    for character in text.bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' if characters >= 2 => {
                padding += 1;
                if characters + padding >= 4 {
                    return Ok(bytes);
                }
                continue;
            }
            _ => continue,
        };
        padding = 0;
        bits = (bits << 6 | u32::from(value)) & 0xFFFF;
        if characters > 0 {
            // After two, three and four characters, 4, 2 and 0 bits remain.
            bytes.push((bits >> (6 - 2 * characters)).to_le_bytes()[0]);
        }
        characters = (characters + 1) % 4;
    }
    match characters {
        0 => Ok(bytes),
        1 => Err("a single character remains"),
        _ => Err("its padding is missing"),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn base64_is_decoded_like_in_python() {
        // Results of CPython 3.11.
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("!!", Some(b"")),
            ("A", None),
            ("AAA", None),
            ("AA\nAA", Some(&[0, 0, 0])),
            ("W1tdLCB7fV0=\n", Some(b"[[], {}]")),
            ("W1tdLCB7fV0", None),
            // Remaining bits are ignored.
            ("AB==", Some(&[0])),
            ("AA==AA", Some(&[0])),
            ("AA=A", None),
            ("A===", None),
            ("AAAA=", Some(&[0, 0, 0])),
            ("AA===", Some(&[0])),
            ("\u{e9}", Some(b"")),
        ] {
            assert_eq!(decode(text).ok().as_deref(), bytes, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn encoded_bytes_are_decoded(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&BASE64.encode(&bytes)), Ok(bytes));
        }
    }
}
