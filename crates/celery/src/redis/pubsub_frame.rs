//! Parser for the messages of a pattern subscription in the bytes of a connection (RESP2, Redis protocol
//! specification).
//!
//! The parser supports only the part of the protocol that a subscribing connection receives, and copies nothing.

/// Largest length in bytes of the line before a value and of an error.
const MAX_LINE_LENGTH: usize = 64 * 1024;
/// Largest number of array elements: `pmessage`, the pattern, the channel, the payload.
const MAX_ARRAY_LENGTH: usize = 4;

/// Complete message or answer of the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PubSubFrame<'a> {
    /// Length of the frame in bytes.
    pub(crate) length: usize,
    /// Payload of a message; `None` for an answer.
    pub(crate) payload: Option<&'a [u8]>,
}

/// Error for bytes that violate the protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProtocolViolation;

/// Parses the first frame; `None` if the frame is not complete yet.
pub(crate) fn parse_frame(bytes: &[u8]) -> Result<Option<PubSubFrame<'_>>, ProtocolViolation> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if kind != b'*' {
        return Ok(value(bytes)?.map(|(_, length)| PubSubFrame { length, payload: None }));
    }
    let Some((count, mut length)) = line(bytes)? else {
        return Ok(None);
    };
    let count = usize::try_from(number(count)?).map_err(|_| ProtocolViolation)?;
    if count > MAX_ARRAY_LENGTH {
        return Err(ProtocolViolation);
    }
    let mut items = [&[][..]; MAX_ARRAY_LENGTH];
    for item in items.iter_mut().take(count) {
        let Some((content, taken)) = value(&bytes[length..])? else {
            return Ok(None);
        };
        *item = content;
        length += taken;
    }
    let payload = (count == MAX_ARRAY_LENGTH && items[0] == b"pmessage").then_some(items[3]);
    Ok(Some(PubSubFrame { length, payload }))
}

/// Parses a value other than an array and returns the length of the encoded value in bytes, too.
fn value(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, ProtocolViolation> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if !matches!(kind, b'+' | b'-' | b':' | b'$') {
        return Err(ProtocolViolation);
    }
    let Some((text, start)) = line(bytes)? else {
        return Ok(None);
    };
    if kind != b'$' {
        return Ok(Some((text, start)));
    }
    let Ok(size) = usize::try_from(number(text)?) else {
        // The length -1 means null.
        return Ok(Some((&[], start)));
    };
    let end = start.checked_add(size).ok_or(ProtocolViolation)?;
    match bytes.get(start..end.checked_add(2).ok_or(ProtocolViolation)?) {
        Some(content) if content.ends_with(b"\r\n") => Ok(Some((&content[..size], end + 2))),
        Some(_) => Err(ProtocolViolation),
        None => Ok(None),
    }
}

/// Returns the first line without the first byte and the line end, and the position of the next line.
fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, ProtocolViolation> {
    let end = bytes.iter().take(MAX_LINE_LENGTH).position(|byte| *byte == b'\n');
    match end {
        Some(end) => {
            let text = bytes[..end].strip_suffix(b"\r").ok_or(ProtocolViolation)?;
            Ok(Some((text.get(1..).ok_or(ProtocolViolation)?, end + 1)))
        }
        None if bytes.len() >= MAX_LINE_LENGTH => Err(ProtocolViolation),
        None => Ok(None),
    }
}

fn number(text: &[u8]) -> Result<i64, ProtocolViolation> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(ProtocolViolation)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MESSAGE: &[u8] = b"*4\r\n$8\r\npmessage\r\n$2\r\n/*\r\n$2\r\n/0\r\n$5\r\na\r\nbc\r\n";

    #[test]
    fn messages_differ_from_answers() {
        let message = parse_frame(MESSAGE).expect("a frame").expect("all of it");
        assert_eq!(
            (message.length, message.payload),
            (MESSAGE.len(), Some(&b"a\r\nbc"[..]))
        );
        for answer in [
            &b"+OK\r\n"[..],
            b"-NOAUTH Authentication required.\r\n",
            b"*3\r\n$10\r\npsubscribe\r\n$2\r\n/*\r\n:1\r\n",
            b"*2\r\n$4\r\npong\r\n$0\r\n\r\n",
            b"$-1\r\n",
        ] {
            let read = parse_frame(answer).expect("a frame").expect("all of it");
            assert_eq!((read.length, read.payload), (answer.len(), None));
        }
    }

    #[test]
    fn other_protocols_are_refused() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"*x\r\n",
            b"*9\r\n",
            b"$1\r\nabc",
            b"\0",
        ] {
            assert_eq!(
                parse_frame(bytes),
                Err(ProtocolViolation),
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn an_incomplete_message_is_no_error() {
        for length in 0..MESSAGE.len() {
            assert_eq!(parse_frame(&MESSAGE[..length]), Ok(None), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), seeded in any::<bool>()) {
            let bytes = if seeded { [MESSAGE, &bytes].concat() } else { bytes };
            if let Ok(Some(frame)) = parse_frame(&bytes) {
                prop_assert!(frame.length > 0 && frame.length <= bytes.len());
            }
        }
    }
}
