//! A socket that gives up when a server's reply is larger than any that is asked for.
//!
//! The Redis library collects a reply until it is whole, whatever the server announces: one that never ends would take
//! all memory. The limit is per reply, so that a connection may carry any number of them.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One reply, in bytes: a value that is too large for orch by itself ([`SIZE_LIMIT`](super::SIZE_LIMIT)) is still told apart
/// from the others; what is asked for in pages stays far below.
pub(super) const LIMIT: u64 = 2 * super::SIZE_LIMIT as u64;
/// What a value costs in memory beyond its bytes.
const VALUE: u64 = 64;
/// Replies that orch reads nest four deep.
const DEEPEST: usize = 64;
/// The number behind the type of a value: digits and a sign.
const LONGEST_NUMBER: u64 = 20;

/// What went over the limit, if anything did. The library repeats an error of the socket without its text.
pub(super) type Excess = Arc<OnceLock<String>>;

/// The socket below the Redis library.
pub(super) struct Limited<S> {
    inner: S,
    replies: Replies,
    excess: Excess,
}

impl<S> Limited<S> {
    pub(super) fn new(inner: S) -> (Self, Excess) {
        let excess = Excess::default();
        let limited = Self {
            inner,
            replies: Replies::default(),
            excess: Arc::clone(&excess),
        };
        (limited, excess)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
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
            if let Err(reason) = this.replies.take(fresh, LIMIT) {
                let error = io::Error::new(io::ErrorKind::InvalidData, reason.clone());
                this.excess.set(reason).ok();
                return Poll::Ready(Err(error));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
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

/// Follows the borders of replies (Redis protocol specification, versions 2 and 3) and counts what each takes.
#[derive(Default)]
struct Replies {
    /// Of the reply that is being received.
    cost: u64,
    /// Values still to come of each array around the next value.
    open: Vec<u64>,
    place: Place,
}

#[derive(Default)]
enum Place {
    /// Before the first byte of a value.
    #[default]
    Start,
    /// In the line of a value that is nothing but a line.
    Line,
    /// In the number of a value that has a length.
    Length { kind: u8, text: String },
    /// In the bytes of a text.
    Bytes { left: u64 },
}

impl Replies {
    /// Counts what has come; the text says what is wrong with it.
    fn take(&mut self, mut bytes: &[u8], limit: u64) -> Result<(), String> {
        let too_large = || format!("its reply is larger than {} MiB", limit >> 20);
        while let Some(&first) = bytes.first() {
            let mut taken = 1;
            match &mut self.place {
                Place::Start => {
                    self.cost += VALUE;
                    self.place = match first {
                        b'$' | b'!' | b'=' | b'*' | b'~' | b'>' | b'%' | b'|' => Place::Length {
                            kind: first,
                            text: String::new(),
                        },
                        // What is no type is the library's to refuse.
                        _ => Place::Line,
                    };
                }
                Place::Line => match bytes.iter().position(|byte| *byte == b'\n') {
                    Some(end) => {
                        taken = end + 1;
                        self.value_ends();
                    }
                    None => taken = bytes.len(),
                },
                Place::Length { kind, text } => match first {
                    b'\n' => {
                        let length: i64 = text
                            .trim_end()
                            .parse()
                            .map_err(|_| "its reply has a length that is no number".to_owned())?;
                        let kind = *kind;
                        // A negative one stands for nothing.
                        let length = u64::try_from(length).unwrap_or(0);
                        let is_bytes = matches!(kind, b'$' | b'!' | b'=');
                        let announced = if is_bytes { length } else { length.saturating_mul(VALUE) };
                        if announced > limit {
                            return Err(too_large());
                        }
                        match kind {
                            _ if is_bytes && text.starts_with('-') => self.value_ends(),
                            _ if is_bytes => self.place = Place::Bytes { left: length + 2 },
                            _ => self.values_begin(match kind {
                                b'%' => length * 2,
                                // Attributes stand before the value that they are about.
                                b'|' => length * 2 + 1,
                                _ => length,
                            })?,
                        }
                    }
                    _ if text.len() as u64 > LONGEST_NUMBER => {
                        return Err("its reply has a length that is no number".to_owned());
                    }
                    digit => text.push(char::from(digit)),
                },
                Place::Bytes { left } => {
                    taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= taken as u64;
                    if *left == 0 {
                        self.value_ends();
                    }
                }
            }
            // The last bytes of a reply count no longer once it has ended.
            let is_done = matches!(self.place, Place::Start) && self.open.is_empty();
            self.cost = if is_done { 0 } else { self.cost + taken as u64 };
            if self.cost > limit {
                return Err(too_large());
            }
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    fn values_begin(&mut self, count: u64) -> Result<(), String> {
        self.place = Place::Start;
        if count == 0 {
            self.value_ends();
            return Ok(());
        }
        if self.open.len() >= DEEPEST {
            return Err(format!("its reply nests deeper than {DEEPEST} arrays"));
        }
        self.open.push(count);
        Ok(())
    }

    fn value_ends(&mut self) {
        self.place = Place::Start;
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

    /// Fed in pieces of each of these lengths.
    fn take(bytes: &[u8]) -> Vec<Result<bool, String>> {
        [1, 2, 7, bytes.len().max(1)]
            .into_iter()
            .map(|length| {
                let mut replies = Replies::default();
                for piece in bytes.chunks(length) {
                    replies.take(piece, SMALL)?;
                }
                Ok(replies.open.is_empty() && matches!(replies.place, Place::Start) && replies.cost == 0)
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
    fn what_is_not_whole_yet_is_waited_for() {
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
        let mut replies = Replies::default();
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
            let mut replies = Replies::default();
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
        for (text, told) in [
            ("*1\r\n".repeat(1000), "nests deeper"),
            ("$abc\r\n".to_owned(), "no number"),
            (format!("${}", "1".repeat(100)), "no number"),
            ("$\r\n".to_owned(), "no number"),
            ("*99999999999999999999\r\n".to_owned(), "no number"),
        ] {
            for outcome in take(text.as_bytes()) {
                assert!(outcome.is_err_and(|error| error.contains(told)), "{text:.40}");
            }
        }
    }
}
