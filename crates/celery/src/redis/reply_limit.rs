//! Socket that fails when a reply of the server is larger than every reply that orch requests.
//!
//! The Redis library collects a reply until the reply is complete, regardless of the announced size: an endless reply
//! would use up all memory. The limit applies to each reply, so that a connection may carry any number of replies.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::endpoint::Endpoint;
use crate::error::Error;

/// Largest size of one reply in bytes. A single value that is slightly above
/// [`SIZE_LIMIT`](crate::wire::json::SIZE_LIMIT) still passes, so that the error can name this value; replies that orch
/// requests in pages are far smaller.
pub(crate) const MAX_REPLY_SIZE: u64 = 2 * crate::wire::json::SIZE_LIMIT as u64;
/// Memory in bytes that a value uses in addition to its content.
const VALUE_OVERHEAD: u64 = 64;
/// Largest depth of nested arrays; the replies that orch reads have a depth of four.
const MAX_DEPTH: usize = 64;
/// Largest number of characters in the length of a value: digits and a sign.
const MAX_LENGTH_DIGITS: u64 = 20;

/// Description of the exceeded limit, if any. Stored here, because the library drops the text of a socket error.
pub(crate) type LimitViolation = Arc<OnceLock<String>>;

/// Returns the error of a connection if a reply of the server exceeded the limit.
pub(crate) fn excess_error(excess: &LimitViolation, action: &str, endpoint: &Endpoint) -> Option<Error> {
    Some(Error::NotRedis {
        action: action.to_owned(),
        endpoint: endpoint.to_string(),
        reason: excess.get()?.clone(),
    })
}

/// Socket below the Redis library, with the limit.
pub(crate) struct LimitedSocket<S> {
    inner: S,
    replies: ReplyMeter,
    excess: LimitViolation,
}

impl<S> LimitedSocket<S> {
    pub(crate) fn new(inner: S) -> (Self, LimitViolation) {
        let excess = LimitViolation::default();
        let limited = Self {
            inner,
            replies: ReplyMeter::default(),
            excess: Arc::clone(&excess),
        };
        (limited, excess)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let this = &mut *self;
        let read = Pin::new(&mut this.inner).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = &read {
            let fresh = buffer.filled().get(before..).unwrap_or_default();
            if let Err(reason) = this.replies.take(fresh, MAX_REPLY_SIZE) {
                let error = io::Error::new(io::ErrorKind::InvalidData, reason.clone());
                this.excess.set(reason).ok();
                return Poll::Ready(Err(error));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Parser that finds the ends of replies (Redis protocol specification, versions 2 and 3) and adds up the size of each
/// reply.
#[derive(Default)]
struct ReplyMeter {
    /// Size so far of the current reply, in bytes of memory.
    cost: u64,
    /// Number of missing values of each array around the next value.
    open: Vec<u64>,
    place: ReplyPosition,
}

#[derive(Default)]
enum ReplyPosition {
    /// Before the first byte of a value.
    #[default]
    Start,
    /// In the line of a value that consists of one line.
    Line,
    /// In the length of a value.
    Length { kind: u8, text: String },
    /// In the bytes of a text.
    Bytes { left: u64 },
}

impl ReplyMeter {
    /// Processes received bytes; the error text describes the violation.
    fn take(&mut self, mut bytes: &[u8], limit: u64) -> Result<(), String> {
        let too_large = || format!("its reply is larger than {} MiB", limit >> 20);
        while let Some(&first) = bytes.first() {
            let mut taken = 1;
            match &mut self.place {
                ReplyPosition::Start => {
                    self.cost += VALUE_OVERHEAD;
                    self.place = match first {
                        b'$' | b'!' | b'=' | b'*' | b'~' | b'>' | b'%' | b'|' => ReplyPosition::Length {
                            kind: first,
                            text: String::new(),
                        },
                        // The library refuses unknown types.
                        _ => ReplyPosition::Line,
                    };
                }
                ReplyPosition::Line => match bytes.iter().position(|byte| *byte == b'\n') {
                    Some(end) => {
                        taken = end + 1;
                        self.value_ends();
                    }
                    None => taken = bytes.len(),
                },
                ReplyPosition::Length { kind, text } => match first {
                    b'\n' => {
                        let length: i64 = text
                            .trim_end()
                            .parse()
                            .map_err(|_| "its reply has a length that is not a number".to_owned())?;
                        let kind = *kind;
                        // A negative length means null.
                        let length = u64::try_from(length).unwrap_or(0);
                        let is_bytes = matches!(kind, b'$' | b'!' | b'=');
                        let announced = if is_bytes {
                            length
                        } else {
                            length.saturating_mul(VALUE_OVERHEAD)
                        };
                        if announced > limit {
                            return Err(too_large());
                        }
                        match kind {
                            _ if is_bytes && text.starts_with('-') => self.value_ends(),
                            _ if is_bytes => self.place = ReplyPosition::Bytes { left: length + 2 },
                            _ => self.values_begin(match kind {
                                b'%' => length * 2,
                                // Attributes precede the value that they describe.
                                b'|' => length * 2 + 1,
                                _ => length,
                            })?,
                        }
                    }
                    _ if text.len() as u64 > MAX_LENGTH_DIGITS => {
                        return Err("its reply has a length that is not a number".to_owned());
                    }
                    digit => text.push(char::from(digit)),
                },
                ReplyPosition::Bytes { left } => {
                    taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= taken as u64;
                    if *left == 0 {
                        self.value_ends();
                    }
                }
            }
            // The size starts again at 0 when a reply is complete.
            let is_done = matches!(self.place, ReplyPosition::Start) && self.open.is_empty();
            self.cost = if is_done { 0 } else { self.cost + taken as u64 };
            if self.cost > limit {
                return Err(too_large());
            }
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    fn values_begin(&mut self, count: u64) -> Result<(), String> {
        self.place = ReplyPosition::Start;
        if count == 0 {
            self.value_ends();
            return Ok(());
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("its reply nests deeper than {MAX_DEPTH} arrays"));
        }
        self.open.push(count);
        Ok(())
    }

    fn value_ends(&mut self) {
        self.place = ReplyPosition::Start;
        while let Some(left) = self.open.last_mut() {
            *left = left.saturating_sub(1);
            if *left > 0 {
                return;
            }
            self.open.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: u64 = 4 << 20;

    /// Processes `bytes` four times, in pieces of different lengths.
    fn take(bytes: &[u8]) -> Vec<Result<bool, String>> {
        [1, 2, 7, bytes.len().max(1)]
            .into_iter()
            .map(|length| {
                let mut replies = ReplyMeter::default();
                for piece in bytes.chunks(length) {
                    replies.take(piece, SMALL)?;
                }
                Ok(replies.open.is_empty() && matches!(replies.place, ReplyPosition::Start) && replies.cost == 0)
            })
            .collect()
    }

    #[test]
    fn whole_replies_end_and_cost_nothing_afterwards() {
        for text in [
            "+OK\r\n",
            "-ERR no\r\n",
            ":1\r\n",
            "$3\r\na\nb\r\n",
            "$-1\r\n",
            "$0\r\n\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
            "%1\r\n+a\r\n*0\r\n",
            "|1\r\n+a\r\n+b\r\n:3\r\n",
            ">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
            "_\r\n#t\r\n,1.5\r\n=5\r\ntxt:a\r\n",
            "+OK\r\n*1\r\n$2\r\n\r\n\r\n:5\r\n",
        ] {
            for outcome in take(text.as_bytes()) {
                assert_eq!(outcome, Ok(true), "{text:?}");
            }
        }
    }

    #[test]
    fn an_incomplete_reply_is_no_error() {
        for text in [
            "+O",
            "$5\r\nab",
            "*2\r\n:1\r\n",
            "*1\r\n*1\r\n",
            "%1\r\n+a\r\n",
            "|0\r\n",
        ] {
            for outcome in take(text.as_bytes()) {
                assert_eq!(outcome, Ok(false), "{text:?}");
            }
        }
    }

    #[test]
    fn any_number_of_replies_passes_and_none_may_be_too_large() {
        let mut replies = ReplyMeter::default();
        let reply = [b"$1048576\r\n".as_slice(), &vec![b'x'; 1 << 20], b"\r\n"].concat();
        for _ in 0..20 {
            replies.take(&reply, SMALL).unwrap();
        }
        for hostile in [
            "$400000000000\r\n",
            "$9223372036854775807\r\n",
            "*2147483647\r\n",
            "*9223372036854775807\r\n",
            "%100000000\r\n",
            "*1\r\n$4194305\r\n",
        ] {
            for outcome in take(hostile.as_bytes()) {
                assert_eq!(outcome, Err("its reply is larger than 4 MiB".to_owned()), "{hostile:?}");
            }
        }
        for endless in ["*65000\r\n", "+", "-ERR ", "*60\r\n*65000\r\n"] {
            let mut replies = ReplyMeter::default();
            replies.take(endless.as_bytes(), SMALL).unwrap();
            let more = match endless.starts_with('*') {
                true => ":1\r\n".repeat(100),
                false => "x".repeat(400),
            };
            let error = (0..100_000).find_map(|_| replies.take(more.as_bytes(), SMALL).err());
            assert!(error.is_some_and(|error| error.contains("larger")), "{endless:?}");
        }
    }

    #[test]
    fn deep_and_broken_lengths_are_refused() {
        for (text, message) in [
            ("*1\r\n".repeat(1000), "nests deeper"),
            ("$abc\r\n".to_owned(), "not a number"),
            (format!("${}", "1".repeat(100)), "not a number"),
            ("$\r\n".to_owned(), "not a number"),
            ("*99999999999999999999\r\n".to_owned(), "not a number"),
        ] {
            for outcome in take(text.as_bytes()) {
                assert!(outcome.is_err_and(|error| error.contains(message)), "{text:.40}");
            }
        }
    }
}
