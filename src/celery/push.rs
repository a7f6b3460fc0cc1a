//! Messages of a pattern subscription, cut out of the bytes of a connection (RESP2, Redis protocol specification).
//!
//! Only as much of the protocol as a connection that subscribes can meet; nothing is copied.

/// The longest line before a value, and the longest error, in bytes.
const LONGEST_LINE: usize = 64 * 1024;
/// `pmessage`, the pattern, the channel, the payload.
const LONGEST_ARRAY: usize = 4;

/// What the server sent at once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// How many bytes it takes.
    pub(super) length: usize,
    /// Of a message; the others are answers.
    pub(super) payload: Option<&'a [u8]>,
}

/// The bytes are not of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// The first frame; `None` when it is not all there yet.
pub(super) fn frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, Broken> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if kind != b'*' {
        return Ok(value(bytes)?.map(|(_, length)| Frame { length, payload: None }));
    }
    let Some((count, mut length)) = line(bytes)? else {
        return Ok(None);
    };
    let count = usize::try_from(number(count)?).map_err(|_| Broken)?;
    if count > LONGEST_ARRAY {
        return Err(Broken);
    }
    let mut items = [&[][..]; LONGEST_ARRAY];
    for item in items.iter_mut().take(count) {
        let Some((content, taken)) = value(&bytes[length..])? else {
            return Ok(None);
        };
        *item = content;
        length += taken;
    }
    let payload = (count == LONGEST_ARRAY && items[0] == b"pmessage").then_some(items[3]);
    Ok(Some(Frame { length, payload }))
}

/// A value that is no array, and how many bytes it takes.
fn value(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Broken> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if !matches!(kind, b'+' | b'-' | b':' | b'$') {
        return Err(Broken);
    }
    let Some((text, start)) = line(bytes)? else {
        return Ok(None);
    };
    if kind != b'$' {
        return Ok(Some((text, start)));
    }
    let Ok(size) = usize::try_from(number(text)?) else {
        // -1 stands for nothing.
        return Ok(Some((&[], start)));
    };
    let end = start.checked_add(size).ok_or(Broken)?;
    match bytes.get(start..end.checked_add(2).ok_or(Broken)?) {
        Some(content) if content.ends_with(b"\r\n") => Ok(Some((&content[..size], end + 2))),
        Some(_) => Err(Broken),
        None => Ok(None),
    }
}

/// The first line without its first byte and its end, and where the next begins.
fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Broken> {
    let end = bytes.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n');
    match end {
        Some(end) => {
            let text = bytes[..end].strip_suffix(b"\r").ok_or(Broken)?;
            Ok(Some((text.get(1..).ok_or(Broken)?, end + 1)))
        }
        None if bytes.len() >= LONGEST_LINE => Err(Broken),
        None => Ok(None),
    }
}

fn number(text: &[u8]) -> Result<i64, Broken> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Broken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MESSAGE: &[u8] = b"*4\r\n$8\r\npmessage\r\n$2\r\n/*\r\n$2\r\n/0\r\n$5\r\na\r\nbc\r\n";

    #[test]
    fn messages_and_answers_are_told_apart() {
        let message = frame(MESSAGE).expect("a frame").expect("all of it");
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
            let read = frame(answer).expect("a frame").expect("all of it");
            assert_eq!((read.length, read.payload), (answer.len(), None));
        }
    }

    #[test]
    fn what_is_no_redis_is_refused() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"*x\r\n",
            b"*9\r\n",
            b"$1\r\nabc",
            b"\0",
        ] {
            assert_eq!(frame(bytes), Err(Broken), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn half_a_message_is_waited_for() {
        for length in 0..MESSAGE.len() {
            assert_eq!(frame(&MESSAGE[..length]), Ok(None), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), seeded in any::<bool>()) {
            let bytes = if seeded { [MESSAGE, &bytes].concat() } else { bytes };
            if let Ok(Some(frame)) = frame(&bytes) {
                prop_assert!(frame.length > 0 && frame.length <= bytes.len());
            }
        }
    }
}
