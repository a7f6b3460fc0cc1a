//! Buffer for bytes that were received and not yet decoded, with limited memory. The buffer connects the thread that
//! reads the socket to the stream that decodes events.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Size in bytes from which a new block is started. The reader takes a whole block at a time. The memory of one block
/// that was read is kept for reuse.
const BLOCK_SIZE: usize = 1024 * 1024;

/// Reason why the buffer accepts no more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BufferEnd {
    /// Loss of the connection.
    Lost,
    /// Overflow of the buffer, because the reader is too slow.
    Overflow,
}

pub(crate) struct EventBuffer {
    state: Mutex<BufferState>,
    changed: Notify,
}

#[derive(Default)]
struct BufferState {
    blocks: VecDeque<Vec<u8>>,
    /// Memory of a block that was read, for the next block.
    spare: Vec<u8>,
    bytes: usize,
    /// Maximum of `bytes`.
    limit: usize,
    end: Option<BufferEnd>,
}

impl EventBuffer {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::new(BufferState {
                limit,
                ..BufferState::default()
            }),
            changed: Notify::new(),
        }
    }

    /// Appends bytes. Returns false when the buffer accepts no more bytes.
    pub(crate) fn put(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        if state.end.is_none() && state.bytes + bytes.len() > state.limit {
            state.end = Some(BufferEnd::Overflow);
        }
        let is_accepted = state.end.is_none();
        if is_accepted {
            state.bytes += bytes.len();
            match state.blocks.back_mut() {
                Some(block) if block.len() < BLOCK_SIZE => block.extend_from_slice(bytes),
                _ => {
                    let mut block = std::mem::take(&mut state.spare);
                    block.extend_from_slice(bytes);
                    state.blocks.push_back(block);
                }
            }
        }
        drop(state);
        self.changed.notify_one();
        is_accepted
    }

    /// Marks the end of the input. Bytes in the buffer can still be read.
    pub(crate) fn end(&self) {
        self.state().end.get_or_insert(BufferEnd::Lost);
        self.changed.notify_one();
    }

    pub(crate) fn set_limit(&self, bytes: usize) {
        self.state().limit = bytes;
    }

    /// Returns the next bytes, or the reason why there are no more. Supports one reader. Cancel safe.
    pub(crate) async fn next(&self) -> Result<Vec<u8>, BufferEnd> {
        loop {
            {
                let mut state = self.state();
                if let Some(block) = state.blocks.pop_front() {
                    state.bytes -= block.len();
                    return Ok(block);
                }
                if let Some(end) = state.end {
                    return Err(end);
                }
            }
            self.changed.notified().await;
        }
    }

    /// Takes back the memory of a block that has been read.
    pub(crate) fn reuse(&self, mut block: Vec<u8>) {
        if block.capacity() <= 2 * BLOCK_SIZE {
            block.clear();
            self.state().spare = block;
        }
    }

    fn state(&self) -> MutexGuard<'_, BufferState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn bytes_are_read_in_order_before_the_end_is_reported() {
        let inbox = EventBuffer::new(10);
        assert!(inbox.put(b"abc") && inbox.put(b"def"));
        assert!(!inbox.put(b"ghijk"), "11 bytes");
        assert!(
            !inbox.put(b"g"),
            "bytes after a loss must not follow bytes before the loss"
        );
        assert_eq!(inbox.next().now_or_never(), Some(Ok(b"abcdef".to_vec())));
        assert_eq!(inbox.next().now_or_never(), Some(Err(BufferEnd::Overflow)));
    }

    #[test]
    fn reading_frees_space() {
        let inbox = EventBuffer::new(10);
        for _ in 0..100 {
            assert!(inbox.put(b"0123456789"));
            assert_eq!(
                inbox.next().now_or_never().map(|read| read.map(|bytes| bytes.len())),
                Some(Ok(10))
            );
        }
        assert_eq!(inbox.next().now_or_never(), None);
        inbox.end();
        assert_eq!(inbox.next().now_or_never(), Some(Err(BufferEnd::Lost)));
    }
}
