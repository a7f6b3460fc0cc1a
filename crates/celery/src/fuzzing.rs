//! All decoders of bytes from outside with one signature, for the property tests and for `fuzz/`. Not a public API.

use std::fmt::Debug;
use std::time::Instant;

use crate::broker::diagnosis;
use crate::control::inspect;
use crate::control::inspect::{ConsumedQueue, QueriedTask, RunningTask, ScheduledTask, WorkerStats};
use crate::control::mailbox;
use crate::events::event::Event;
use crate::tasks::task_result::TaskResult;
use crate::wire::ids::TaskId;
use crate::wire::message::QueuedTask;

/// Function that decodes bytes and returns the length of the decoded value as debug text, as a measure of its memory. 0
/// means that the bytes were refused.
pub type FuzzDecoder = fn(&[u8]) -> usize;

/// Decoders by the kind of message.
pub const DECODERS: [(&str, FuzzDecoder); 6] = [
    ("task message", task_message),
    ("unacked", unacked),
    ("poison", diagnosis),
    ("control reply", control_reply),
    ("event", event),
    ("result", result),
];

/// Decodes an item of a queue's list.
pub fn task_message(bytes: &[u8]) -> usize {
    printed(QueuedTask::decode(bytes))
}

/// Decodes a value of the hash `unacked`.
pub fn unacked(bytes: &[u8]) -> usize {
    printed(QueuedTask::decode_unacked(bytes))
}

/// Diagnoses an item of a queue's list.
pub fn diagnosis(bytes: &[u8]) -> usize {
    printed(diagnosis::diagnose(bytes).ok_or(()))
}

/// Decodes a reply to a control request and reads each answer in the reply as every type that an answer can have.
pub fn control_reply(bytes: &[u8]) -> usize {
    let Ok(Some(answers)) = mailbox::read_reply(bytes, TICKET) else {
        return 0;
    };
    let good = answers.values().filter_map(|answer| answer.as_ref().ok());
    let sizes = good.map(|answer| {
        printed(WorkerStats::read(answer))
            + printed(inspect::read::<Vec<RunningTask>>(answer.clone()))
            + printed(inspect::read::<Vec<ScheduledTask>>(answer.clone()))
            + printed(inspect::read::<Vec<ConsumedQueue>>(answer.clone()))
            + printed(inspect::read::<std::collections::BTreeMap<String, QueriedTask>>(
                answer.clone(),
            ))
    });
    let size: usize = sizes.sum();
    size + format!("{answers:?}").len()
}

/// Decodes a message of an event channel.
pub fn event(bytes: &[u8]) -> usize {
    let mut events = Vec::new();
    printed(Event::decode(bytes, Instant::now(), &mut events, &mut Vec::new()).map(|malformed| (events, malformed)))
}

/// Decodes the value of a result key. Celery publishes the same value on the channel of the same name.
pub fn result(bytes: &[u8]) -> usize {
    printed(TaskResult::decode(bytes, &TaskId::from("t"), Instant::now()))
}

/// Ticket that a reply must carry; other replies are ignored.
pub const TICKET: &str = "ticket";

fn printed<T: Debug, E>(read: Result<T, E>) -> usize {
    read.map_or(0, |read| format!("{read:?}").len())
}
