//! Parts of events that are needed to follow jobs, borrowed from the message (Celery wire, observed on 5.2 to 5.7).
//!
//! Workers send three events for each task, with the arguments, and orch needs only a few fields. The decoder skips the
//! rest. From a valid message it reads the same data as [`Event::decode`]. The module [`decode`](super::decode) reads
//! whole events.
//!
//! [`Event::decode`]: super::event::Event

use serde::de::{Error as _, IgnoredAny, MapAccess};
use serde_json::Number;

use super::body::{EVENT_NAME, EventReader, EventsRead};
use super::flat_json::FlatJsonReader;
use crate::error::Result;
use crate::wire::ids::TaskId;
use crate::wire::scalar_value::ScalarValue;
use crate::wire::{envelope, json};

/// Part of an event that is needed to follow jobs. Events without such a part are left out.
#[derive(Debug, PartialEq)]
pub enum JobEvent<'a> {
    /// Start or end of a worker.
    WorkersChanged,
    Task {
        id: TaskId,
        /// Node name of the worker that sent the event.
        node: &'a str,
        event: JobTaskEvent<'a>,
    },
}

/// Change in the life of a task. Texts are in Python's `repr` format and empty when absent.
#[derive(Debug, PartialEq)]
pub enum JobTaskEvent<'a> {
    Received {
        name: Option<&'a str>,
        /// Id of the first task of the job.
        root_id: Option<TaskId>,
    },
    /// Start or retry: the task is not finished.
    Progressed,
    /// Rejection after which the task is in its queue again.
    Requeued,
    /// Rejection without requeueing.
    Rejected,
    Succeeded {
        result: &'a str,
        runtime_seconds: Option<f64>,
    },
    Failed {
        exception: &'a str,
        traceback: &'a str,
    },
    Revoked {
        expired: bool,
    },
}

impl JobEvent<'_> {
    /// Reads a message of an event channel (one event or a list of events) and passes each relevant event to `handle`.
    /// Returns the number of list items that cannot be read. If a message is broken at some point, the events before
    /// that point have been passed to `handle`. `space` holds the decoded body; reuse the buffer to save allocations.
    pub(crate) fn decode(message: &[u8], space: &mut Vec<u8>, handle: &mut dyn FnMut(JobEvent<'_>)) -> Result<u64> {
        let mut filter = RepeatFilter {
            handled: 0,
            skip: 0,
            handle,
        };
        let read = envelope::with_body(message, EVENT_NAME, space, |body| {
            json::parse_with(body, EVENT_NAME, |body| {
                // Validate the UTF-8 once for all texts of the body.
                let text = std::str::from_utf8(body).map_err(serde_json::Error::custom)?;
                filter.restart();
                if let Some(malformed) = read_kombu_list(text, &mut |news| filter.pass_on(news)) {
                    return Ok(EventsRead::Several { malformed });
                }
                filter.restart();
                EventsRead::read(serde_json::Deserializer::from_str(text), &mut filter)
            })
        })?;
        read.malformed()
    }
}

/// Filter that passes on each event once, even when a message is read more than once.
struct RepeatFilter<'a> {
    handled: u64,
    skip: u64,
    handle: &'a mut dyn FnMut(JobEvent<'_>),
}

impl RepeatFilter<'_> {
    /// Prepares for another read from the beginning of the message. Events that a failed attempt has passed on are
    /// skipped.
    fn restart(&mut self) {
        self.skip = self.handled;
    }

    fn pass_on(&mut self, news: JobEvent<'_>) {
        if self.skip > 0 {
            self.skip -= 1;
        } else {
            self.handled += 1;
            (self.handle)(news);
        }
    }
}

impl EventReader for RepeatFilter<'_> {
    fn read<'de, A: MapAccess<'de>>(&mut self, mut entries: A) -> Result<bool, A::Error> {
        let mut fields = JobEventFields::default();
        while let Some(json::BorrowedText(name)) = entries.next_key()? {
            match fields.named(&name) {
                Some(field) => *field = entries.next_value()?,
                None => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(fields.pass_on(&mut |news| self.pass_on(news)))
    }
}

/// Reads a list of events in the exact format of kombu, without `serde_json`. Returns the number of malformed events,
/// or `None` when the text differs from that format. In this case some events may have been passed on already.
fn read_kombu_list(text: &str, handle: &mut dyn FnMut(JobEvent<'_>)) -> Option<u64> {
    let mut flat = FlatJsonReader::new(text);
    let mut malformed = 0;
    flat.expect("[")?;
    loop {
        let mut fields = JobEventFields::default();
        flat.expect("{")?;
        loop {
            match fields.named(flat.name()?) {
                Some(field) => *field = flat.field()?,
                None => flat.skip_value()?,
            }
            if !flat.skip_token(", ") {
                flat.expect("}")?;
                break;
            }
        }
        malformed += u64::from(!fields.pass_on(handle));
        if !flat.skip_token(", ") {
            flat.expect("]")?;
            return flat.is_at_end().then_some(malformed);
        }
    }
}

/// Fields of one event that are needed to follow jobs.
#[derive(Default)]
struct JobEventFields<'de> {
    kind: ScalarValue<'de>,
    hostname: ScalarValue<'de>,
    uuid: ScalarValue<'de>,
    name: ScalarValue<'de>,
    root_id: ScalarValue<'de>,
    result: ScalarValue<'de>,
    runtime: ScalarValue<'de>,
    exception: ScalarValue<'de>,
    traceback: ScalarValue<'de>,
    requeue: ScalarValue<'de>,
    expired: ScalarValue<'de>,
}

impl<'de> JobEventFields<'de> {
    /// Returns the field with this name, or `None` for a field that is not needed.
    fn named(&mut self, name: &str) -> Option<&mut ScalarValue<'de>> {
        Some(match name {
            "type" => &mut self.kind,
            "hostname" => &mut self.hostname,
            "uuid" => &mut self.uuid,
            "name" => &mut self.name,
            "root_id" => &mut self.root_id,
            "result" => &mut self.result,
            "runtime" => &mut self.runtime,
            "exception" => &mut self.exception,
            "traceback" => &mut self.traceback,
            "requeue" => &mut self.requeue,
            "expired" => &mut self.expired,
            _ => return None,
        })
    }

    /// Passes the event on. Returns false when a required field is missing.
    fn pass_on(&self, handle: &mut dyn FnMut(JobEvent<'_>)) -> bool {
        let (Some(kind), Some(node)) = (self.kind.text(), self.hostname.short_text()) else {
            return false;
        };
        let event = match kind {
            "worker-online" | "worker-offline" => {
                handle(JobEvent::WorkersChanged);
                return true;
            }
            "task-received" => Some(JobTaskEvent::Received {
                name: self.name.short_text(),
                root_id: self.root_id.short_text().map(TaskId::from),
            }),
            "task-started" | "task-retried" => Some(JobTaskEvent::Progressed),
            "task-rejected" if self.requeue.is_set() => Some(JobTaskEvent::Requeued),
            "task-rejected" => Some(JobTaskEvent::Rejected),
            "task-succeeded" => Some(JobTaskEvent::Succeeded {
                result: self.result.text().unwrap_or_default(),
                runtime_seconds: self.runtime.number().and_then(Number::as_f64),
            }),
            "task-failed" => Some(JobTaskEvent::Failed {
                exception: self.exception.text().unwrap_or_default(),
                traceback: self.traceback.text().unwrap_or_default(),
            }),
            "task-revoked" => Some(JobTaskEvent::Revoked {
                expired: self.expired.is_set(),
            }),
            "task-sent" => None,
            _ => return true,
        };
        let Some(id) = self.uuid.short_text() else { return false };
        if let Some(event) = event {
            let id = TaskId::from(id);
            handle(JobEvent::Task { id, node, event });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::events::event::{Event, EventKind, TaskEvent, WorkerEvent};
    use crate::wire::frames;

    /// Formats the event, because the event borrows from the message.
    fn printed(news: &JobEvent<'_>) -> String {
        format!("{news:?}")
    }

    fn decoded(message: &[u8]) -> (Vec<String>, Option<u64>) {
        let mut passed_on = Vec::new();
        let malformed = JobEvent::decode(message, &mut Vec::new(), &mut |news| passed_on.push(printed(&news)));
        (passed_on, malformed.ok())
    }

    /// Returns the expected value, derived from the whole event.
    fn expected(event: &Event) -> Option<String> {
        let (id, event_of_task) = match &event.kind {
            EventKind::Task { id, event } => (id.clone(), event),
            EventKind::Worker(WorkerEvent::Online(_) | WorkerEvent::Offline(_)) => {
                return Some(printed(&JobEvent::WorkersChanged));
            }
            EventKind::Worker(WorkerEvent::Heartbeat(_)) | EventKind::Other { .. } => return None,
        };
        let news = match event_of_task {
            TaskEvent::Sent { .. } => return None,
            TaskEvent::Received(task) => JobTaskEvent::Received {
                name: task.name.as_deref(),
                root_id: task.root_id.clone(),
            },
            TaskEvent::Started | TaskEvent::Retried { .. } => JobTaskEvent::Progressed,
            TaskEvent::Succeeded {
                result,
                runtime_seconds,
            } => JobTaskEvent::Succeeded {
                result: result.as_deref().unwrap_or_default(),
                runtime_seconds: *runtime_seconds,
            },
            TaskEvent::Failed { exception, traceback } => JobTaskEvent::Failed {
                exception: exception.as_deref().unwrap_or_default(),
                traceback: traceback.as_deref().unwrap_or_default(),
            },
            TaskEvent::Revoked { expired, .. } => JobTaskEvent::Revoked { expired: *expired },
            TaskEvent::Rejected { requeue: true } => JobTaskEvent::Requeued,
            TaskEvent::Rejected { requeue: false } => JobTaskEvent::Rejected,
        };
        let node = event.node.as_str();
        Some(printed(&JobEvent::Task { id, node, event: news }))
    }

    fn agree(message: &[u8]) -> bool {
        let mut events = Vec::new();
        let malformed = Event::decode(message, Instant::now(), &mut events, &mut Vec::new());
        let (passed_on, read) = decoded(message);
        let expected: Vec<String> = events.iter().filter_map(expected).collect();
        // The fast decoder skips values that the other one rejects, such as invalid numbers.
        malformed.is_err() || (read == malformed.ok() && passed_on == expected)
    }

    fn plain(body: &str) -> Vec<u8> {
        serde_json::json!({"body": body}).to_string().into_bytes()
    }

    #[test]
    fn both_decoders_agree_on_frames_and_odd_events() {
        let mut all = Vec::new();
        for version in frames::VERSIONS {
            for (name, envelope) in frames::load(version, "events").as_object().expect("frames by name") {
                let message = frames::wire(envelope);
                assert!(agree(&message), "{version} {name}: {:?}", decoded(&message));
                all.extend(decoded(&message).0);
            }
        }
        for kind in [
            "WorkersChanged",
            "Received",
            "Progressed",
            "Succeeded",
            "Failed",
            "Revoked",
        ] {
            assert!(all.iter().any(|news| news.contains(kind)), "no {kind} in the frames");
        }
        for body in [
            r#"{"type": "task-rejected", "hostname": "w@h", "uuid": "a", "requeue": true}"#,
            r#"{"type": "task-rejected", "hostname": "w@h", "uuid": "a", "requeue": 1}"#,
            r#"{"type": "task-succeeded", "hostname": "w@h", "uuid": "a", "result": "\ud83d \"b\""}"#,
            r#"[{"type": "task-started", "hostname": "w@h", "uuid": "a"}, {"type": "task-started", "hostname": "w@h", "uuid": "b", "x": NaN}]"#,
            r#"[{"type": "task-started", "hostname": "w@h"}, {"type": "task-started", "uuid": "b"}, 1, [{}], null]"#,
            r#"{"type": "task-received", "hostname": "w@h", "uuid": "a", "root_id": null, "name": ["x", {"y": 1}]}"#,
            "3",
        ] {
            assert!(agree(&plain(body)), "{body}: {:?}", decoded(&plain(body)));
        }
    }

    #[test]
    fn an_event_is_passed_on_once_when_the_message_has_to_be_repaired() {
        let body = r#"[{"type": "task-started", "hostname": "w@h", "uuid": "a"}, {"type": "task-started", "hostname": "w@h", "uuid": "b", "x": NaN}]"#;
        let (passed_on, malformed) = decoded(&plain(body));
        assert_eq!((passed_on.len(), malformed), (2, Some(0)), "{passed_on:?}");
    }

    /// Returns the events of all frames as one JSON list.
    fn as_list(version: &str) -> String {
        let frames = frames::load(version, "events");
        let bodies = frames
            .as_object()
            .expect("frames by name")
            .values()
            .map(|envelope| &envelope["body"]);
        let events: Vec<&serde_json::Value> = bodies
            .flat_map(|body| {
                body.as_array()
                    .map_or_else(|| vec![body], |events| events.iter().collect())
            })
            .collect();
        // Insert spaces in the places where Python writes them.
        let events: Vec<String> = events
            .iter()
            .map(|event| event.to_string().replace("\":", "\": "))
            .collect();
        format!("[{}]", events.join(", "))
    }

    #[test]
    fn a_list_from_workers_is_read_by_the_fast_reader() {
        for version in frames::VERSIONS {
            let list = as_list(version);
            assert!(agree(&plain(&list)), "{version}");
            let started = r#"[{"type": "task-started", "hostname": "w@h", "uuid": "a", "pid": 12, "clock": 5, "timestamp": 1.5}]"#;
            assert_eq!(read_kombu_list(started, &mut |_| {}), Some(0));
        }
    }

    proptest! {
        #[test]
        fn both_decoders_agree_on_a_changed_list(version in 0..6usize, at in any::<usize>(), byte in 32..127u8) {
            let mut list = as_list(frames::VERSIONS[version]).into_bytes();
            let at = at % list.len();
            list[at] = byte;
            let list = String::from_utf8_lossy(&list).into_owned();
            prop_assert!(agree(&plain(&list)), "{list}");
        }

        #[test]
        fn both_decoders_agree_on_a_changed_message(version in 0..6usize, at in any::<usize>(), byte in any::<u8>()) {
            for envelope in frames::load(frames::VERSIONS[version], "events").as_object().expect("frames").values() {
                let mut body = frames::wire(envelope);
                let at = at % body.len();
                body[at] = byte;
                prop_assert!(agree(&body), "{}", String::from_utf8_lossy(&body));
            }
        }
    }
}
