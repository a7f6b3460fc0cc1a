//! Standard error, written by a thread of its own: a reader that has stopped reading (a paused pager, a log collector that
//! hangs) holds up neither the supervision nor the end.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Lines that wait for a slow reader; more are dropped and counted.
const LONGEST_QUEUE: usize = 4096;
/// How long a message to the user may wait for a reader.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Lines that were dropped since the last one that was written.
static LOST: AtomicU64 = AtomicU64::new(0);
static WRITER: OnceLock<Option<SyncSender<Message>>> = OnceLock::new();

enum Message {
    Text(String),
    /// Answered once all before it is written.
    Flush(SyncSender<()>),
}

/// Writes a line when its turn comes, or drops it where too many wait. Never waits.
pub fn offer(line: String) {
    let Some(writer) = writer() else {
        drop(io::stderr().write_all(line.as_bytes()));
        return;
    };
    if writer.try_send(Message::Text(line)).is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes a text behind all that was offered; gives up where nobody reads.
pub fn write(text: String) {
    let Some(writer) = writer() else {
        drop(io::stderr().write_all(text.as_bytes()));
        return;
    };
    let deadline = Instant::now() + WRITE_TIMEOUT;
    send(writer, Message::Text(text), deadline);
    await_written(writer, deadline);
}

/// Waits until all that was offered is written, or nobody reads it.
pub fn flush() {
    if let Some(Some(writer)) = WRITER.get() {
        await_written(writer, Instant::now() + WRITE_TIMEOUT);
    }
}

fn await_written(writer: &SyncSender<Message>, deadline: Instant) {
    let (sender, written) = sync_channel(1);
    send(writer, Message::Flush(sender), deadline);
    written
        .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        .ok();
}

/// Waits for a place in the queue until the deadline.
fn send(writer: &SyncSender<Message>, mut message: Message, deadline: Instant) {
    loop {
        message = match writer.try_send(message) {
            Err(TrySendError::Full(message)) if Instant::now() < deadline => message,
            Ok(()) | Err(_) => return,
        };
        std::thread::park_timeout(POLL_INTERVAL);
    }
}

/// The thread's queue; `None` where no thread can be had.
fn writer() -> Option<&'static SyncSender<Message>> {
    let start = || {
        let (sender, messages) = sync_channel(LONGEST_QUEUE);
        let thread = std::thread::Builder::new().name("stderr".to_owned());
        thread.spawn(move || write_all(&messages)).is_ok().then_some(sender)
    };
    WRITER.get_or_init(start).as_ref()
}

fn write_all(messages: &Receiver<Message>) {
    for message in messages {
        match message {
            Message::Text(text) => {
                let lost = LOST.swap(0, Ordering::Relaxed);
                let mut stderr = io::stderr();
                if lost > 0 {
                    drop(writeln!(stderr, "{lost} lines are missing here: nobody read them"));
                }
                drop(stderr.write_all(text.as_bytes()));
            }
            Message::Flush(written) => drop(written.try_send(())),
        }
    }
}
