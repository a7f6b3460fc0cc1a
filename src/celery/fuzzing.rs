//! Every decoder of bytes that others write, behind one signature: for the property tests and for `fuzz/`. No API.

use std::fmt::Debug;
use std::time::Instant;

use super::inspect::{self, ConsumedQueue, QueriedTask, RunningTask, Scheduled, Stats};
use super::message::QueuedTask;
use super::{Event, TaskId, TaskResult, mailbox, poison};

/// Reads bytes; gives the size of what was read, printed: a measure of the memory that it takes. 0 when it was refused.
pub type Decoder = fn(&[u8]) -> usize;

/// By the kind of message.
pub const DECODERS: [(&str, Decoder); 6] = [
    ("task message", task_message),
    ("unacked", unacked),
    ("poison", diagnosis),
    ("control reply", control_reply),
    ("event", event),
    ("result", result),
];

/// An item of a queue's list.
pub fn task_message(bytes: &[u8]) -> usize {
    printed(QueuedTask::decode(bytes))
}

/// A value of the hash `unacked`.
pub fn unacked(bytes: &[u8]) -> usize {
    printed(QueuedTask::decode_unacked(bytes))
}

/// An item of a queue's list, judged.
pub fn diagnosis(bytes: &[u8]) -> usize {
    printed(poison::diagnose(bytes).ok_or(()))
}

/// A reply to a control request, with each of its answers read as everything that an answer can be.
pub fn control_reply(bytes: &[u8]) -> usize {
    let Ok(Some(answers)) = mailbox::read_reply(bytes, TICKET) else {
        return 0;
    };
    let good = answers.values().filter_map(|answer| answer.as_ref().ok());
    let read = good.map(|answer| {
        printed(Stats::read(answer))
            + printed(inspect::read::<Vec<RunningTask>>(answer.clone()))
            + printed(inspect::read::<Vec<Scheduled>>(answer.clone()))
            + printed(inspect::read::<Vec<ConsumedQueue>>(answer.clone()))
            + printed(inspect::read::<std::collections::BTreeMap<String, QueriedTask>>(
                answer.clone(),
            ))
    });
    let read: usize = read.sum();
    read + format!("{answers:?}").len()
}

/// A message of an event channel.
pub fn event(bytes: &[u8]) -> usize {
    let mut events = Vec::new();
    printed(Event::decode(bytes, Instant::now(), &mut events, &mut Vec::new()).map(|malformed| (events, malformed)))
}

/// The value of a result key, which is also what is published there.
pub fn result(bytes: &[u8]) -> usize {
    printed(TaskResult::decode(bytes, &TaskId::from("t"), Instant::now()))
}

/// The ticket that a reply must carry to be looked into.
pub const TICKET: &str = "ticket";

fn printed<T: Debug, E>(read: Result<T, E>) -> usize {
    read.map_or(0, |read| format!("{read:?}").len())
}
