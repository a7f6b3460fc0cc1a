//! Standard error, written by a separate thread: a reader that has stopped reading (a paused pager, a log collector
//! that hangs) delays neither the supervision nor the end of orch.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Number of lines that may wait for a slow reader; further lines are dropped and counted.
const LONGEST_QUEUE: usize = 4096;
/// Time that a message to the user may wait for a reader.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Number of lines that were dropped since the last written line.
static LOST: AtomicU64 = AtomicU64::new(0);
static WRITER: OnceLock<Option<SyncSender<StderrMessage>>> = OnceLock::new();

enum StderrMessage {
    Text(String),
    /// Request for an answer when all earlier messages are written.
    Flush(SyncSender<()>),
}

/// Queues a line without waiting; drops the line if the queue is full.
pub fn queue_line(line: String) {
    let Some(writer) = writer() else {
        drop(io::stderr().write_all(line.as_bytes()));
        return;
    };
    if writer.try_send(StderrMessage::Text(line)).is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes a text after all queued lines; gives up after [`WRITE_TIMEOUT`] if nobody reads.
pub fn write(text: String) {
    let Some(writer) = writer() else {
        drop(io::stderr().write_all(text.as_bytes()));
        return;
    };
    let deadline = Instant::now() + WRITE_TIMEOUT;
    send(writer, StderrMessage::Text(text), deadline);
    await_written(writer, deadline);
}

/// Waits until all queued lines are written, at most [`WRITE_TIMEOUT`].
pub fn flush() {
    if let Some(Some(writer)) = WRITER.get() {
        await_written(writer, Instant::now() + WRITE_TIMEOUT);
    }
}

fn await_written(writer: &SyncSender<StderrMessage>, deadline: Instant) {
    let (sender, written) = sync_channel(1);
    send(writer, StderrMessage::Flush(sender), deadline);
    written
        .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        .ok();
}

/// Waits for a place in the queue until the deadline.
fn send(writer: &SyncSender<StderrMessage>, mut message: StderrMessage, deadline: Instant) {
    loop {
        message = match writer.try_send(message) {
            Err(TrySendError::Full(message)) if Instant::now() < deadline => message,
            Ok(()) | Err(_) => return,
        };
        std::thread::park_timeout(POLL_INTERVAL);
    }
}

/// Returns the queue of the writer thread, which the first call starts; `None` if the thread could not be started.
fn writer() -> Option<&'static SyncSender<StderrMessage>> {
    let start = || {
        let (sender, messages) = sync_channel(LONGEST_QUEUE);
        let thread = std::thread::Builder::new().name("stderr".to_owned());
        thread.spawn(move || write_all(&messages)).is_ok().then_some(sender)
    };
    WRITER.get_or_init(start).as_ref()
}

fn write_all(messages: &Receiver<StderrMessage>) {
    for message in messages {
        match message {
            StderrMessage::Text(text) => {
                let lost = LOST.swap(0, Ordering::Relaxed);
                let mut stderr = io::stderr();
                if lost > 0 {
                    drop(writeln!(
                        stderr,
                        "{lost} lines are missing here: standard error was blocked"
                    ));
                }
                drop(stderr.write_all(text.as_bytes()));
            }
            StderrMessage::Flush(written) => drop(written.try_send(())),
        }
    }
}
