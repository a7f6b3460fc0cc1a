//! Bytes that came and are not yet read, in bounded memory: between the thread that empties the socket and the stream
//! that decodes.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Where a new chunk is begun, in bytes: a reader takes one whole, and of what is read the memory of one is kept.
const CHUNK: usize = 1024 * 1024;

/// Why nothing comes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The connection is gone.
    Lost,
    /// The reader is too far behind.
    Full,
}

pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    chunks: VecDeque<Vec<u8>>,
    /// The memory of a chunk that has been read, for the next.
    spare: Vec<u8>,
    bytes: usize,
    /// Bytes.
    limit: usize,
    end: Option<End>,
}

impl Inbox {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::new(State {
                chunks: VecDeque::new(),
                spare: Vec::new(),
                bytes: 0,
                limit,
                end: None,
            }),
            changed: Notify::new(),
        }
    }

    /// Puts bytes at the end; false when nothing more is taken.
    pub(super) fn put(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        if state.end.is_none() && state.bytes + bytes.len() > state.limit {
            state.end = Some(End::Full);
        }
        let takes = state.end.is_none();
        if takes {
            state.bytes += bytes.len();
            match state.chunks.back_mut() {
                Some(chunk) if chunk.len() < CHUNK => chunk.extend_from_slice(bytes),
                _ => {
                    let mut chunk = std::mem::take(&mut state.spare);
                    chunk.extend_from_slice(bytes);
                    state.chunks.push_back(chunk);
                }
            }
        }
        drop(state);
        self.changed.notify_one();
        takes
    }

    /// Nothing will come any more; what is there can still be read.
    pub(super) fn end(&self) {
        self.state().end.get_or_insert(End::Lost);
        self.changed.notify_one();
    }

    pub(super) fn set_limit(&self, bytes: usize) {
        self.state().limit = bytes;
    }

    /// The next bytes, or why there are none. For one reader; safe to cancel.
    pub(super) async fn next(&self) -> Result<Vec<u8>, End> {
        loop {
            {
                let mut state = self.state();
                if let Some(chunk) = state.chunks.pop_front() {
                    state.bytes -= chunk.len();
                    return Ok(chunk);
                }
                if let Some(end) = state.end {
                    return Err(end);
                }
            }
            self.changed.notified().await;
        }
    }

    /// Takes a chunk back that has been read.
    pub(super) fn reuse(&self, mut chunk: Vec<u8>) {
        if chunk.capacity() <= 2 * CHUNK {
            chunk.clear();
            self.state().spare = chunk;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn what_came_is_read_in_order_before_the_end_is_told() {
        let inbox = Inbox::new(10);
        assert!(inbox.put(b"abc") && inbox.put(b"def"));
        assert!(!inbox.put(b"ghijk"), "11 bytes");
        assert!(
            !inbox.put(b"g"),
            "what came after a loss must not follow what came before"
        );
        assert_eq!(inbox.next().now_or_never(), Some(Ok(b"abcdef".to_vec())));
        assert_eq!(inbox.next().now_or_never(), Some(Err(End::Full)));
    }

    #[test]
    fn what_is_read_makes_room() {
        let inbox = Inbox::new(10);
        for _ in 0..100 {
            assert!(inbox.put(b"0123456789"));
            assert_eq!(
                inbox.next().now_or_never().map(|read| read.map(|bytes| bytes.len())),
                Some(Ok(10))
            );
        }
        assert_eq!(inbox.next().now_or_never(), None);
        inbox.end();
        assert_eq!(inbox.next().now_or_never(), Some(Err(End::Lost)));
    }
}
