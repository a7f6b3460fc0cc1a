//! As much of the events as following jobs takes (Celery wire, observed on 5.2 to 5.7), borrowed from the message.
//!
//! Workers tell of each task three times, arguments and all, and orch looks at a handful of fields: the rest is passed
//! over without being read. What is believed is what [`Event::decode`] believes. Not here: whole events (`event_decode`).
//!
//! [`Event::decode`]: super::Event

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::event_decode::{WHAT, visit_scalars};
use super::field::Field;
use super::flat_json::Flat;
use super::{Error, Result, TaskId, envelope, json};

/// What an event says to who follows jobs; those that say nothing to them are left out.
#[derive(Debug, PartialEq)]
pub enum News<'a> {
    /// A worker has come or gone.
    WorkersChanged,
    Task {
        id: TaskId,
        /// The worker that tells it.
        node: &'a str,
        event: TaskNews<'a>,
    },
}

/// What happened to a task. Texts are Python's `repr`, empty where there are none.
#[derive(Debug, PartialEq)]
pub enum TaskNews<'a> {
    Received {
        name: Option<&'a str>,
        /// First task of the job.
        root_id: Option<TaskId>,
    },
    /// A sign of life that is no end.
    Moved,
    /// Rejected, and on its queue again.
    PutBack,
    /// Rejected for good.
    Rejected,
    Succeeded {
        result: &'a str,
        runtime_seconds: Option<f64>,
    },
    Failed(&'a str),
    Revoked {
        expired: bool,
    },
}

impl News<'_> {
    /// Reads a message of an event channel, one event or a list of them, and tells what it holds. Gives the number of
    /// list items that cannot be read; of a message that cannot be read to its end, what comes before that is told.
    /// `space` is for the decoded body, and worth keeping.
    pub(super) fn decode(message: &[u8], space: &mut Vec<u8>, tell: &mut dyn FnMut(News<'_>)) -> Result<u64> {
        let mut telling = Telling { told: 0, skip: 0, tell };
        let read = envelope::with_body(message, WHAT, space, |body| {
            json::parse_with(body, WHAT, |body| {
                // Once for all its texts.
                let text = std::str::from_utf8(body).map_err(serde_json::Error::custom)?;
                telling.begin();
                if let Some(malformed) = as_kombu_lists_them(text, &mut |news| telling.tell_new(news)) {
                    return Ok(BodyRead::Several { malformed });
                }
                telling.begin();
                let mut reader = serde_json::Deserializer::from_str(text);
                let read = Body(&mut |news| telling.tell_new(news)).deserialize(&mut reader)?;
                reader.end()?;
                Ok(read)
            })
        })?;
        match read {
            BodyRead::Several { malformed } => Ok(malformed),
            BodyRead::One => Ok(0),
            BodyRead::Malformed => Err(Error::Malformed {
                what: WHAT.to_owned(),
                reason: "it lacks a field".to_owned(),
            }),
        }
    }
}

/// Tells each piece of news once, however often a message is read.
struct Telling<'a> {
    told: u64,
    skip: u64,
    tell: &'a mut dyn FnMut(News<'_>),
}

impl Telling<'_> {
    /// The message is read from its begin: what a failed attempt has told is not told again.
    fn begin(&mut self) {
        self.skip = self.told;
    }

    fn tell_new(&mut self, news: News<'_>) {
        if self.skip > 0 {
            self.skip -= 1;
        } else {
            self.told += 1;
            (self.tell)(news);
        }
    }
}

/// The short way through a list of events as workers send them, and how many of them are malformed; `None` once something
/// is unlike that, which may be after some of them have been told.
fn as_kombu_lists_them(text: &str, tell: &mut dyn FnMut(News<'_>)) -> Option<u64> {
    let mut flat = Flat::new(text);
    let mut malformed = 0;
    flat.expect("[")?;
    loop {
        let mut fields = Fields::default();
        flat.expect("{")?;
        loop {
            match fields.named(flat.name()?) {
                Some(field) => *field = flat.field()?,
                None => flat.pass_over()?,
            }
            if !flat.takes(", ") {
                flat.expect("}")?;
                break;
            }
        }
        malformed += u64::from(!fields.tell(tell));
        if !flat.takes(", ") {
            flat.expect("]")?;
            return flat.is_over().then_some(malformed);
        }
    }
}

/// What the body of a message was.
enum BodyRead {
    One,
    Several { malformed: u64 },
    Malformed,
}

/// Reads a body and tells what it holds.
struct Body<'a>(&'a mut dyn FnMut(News<'_>));

impl<'de> DeserializeSeed<'de> for Body<'_> {
    type Value = BodyRead;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<BodyRead, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = BodyRead;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event or a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<BodyRead, A::Error> {
        let mut malformed = 0;
        while let Some(is_event) = items.next_element_seed(Item(&mut *self.0))? {
            malformed += u64::from(!is_event);
        }
        Ok(BodyRead::Several { malformed })
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<BodyRead, A::Error> {
        let is_event = Item(self.0).visit_map(fields)?;
        Ok(if is_event { BodyRead::One } else { BodyRead::Malformed })
    }

    visit_scalars!(BodyRead::Malformed);
}

/// Reads one event and tells it; false when it is none.
struct Item<'a>(&'a mut dyn FnMut(News<'_>));

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Item<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<bool, A::Error> {
        let mut fields = Fields::default();
        while let Some(json::Text(name)) = entries.next_key()? {
            match fields.named(&name) {
                Some(field) => *field = entries.next_value()?,
                None => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(fields.tell(self.0))
    }

    visit_scalars!(false);
}

/// The fields of one event.
#[derive(Default)]
struct Fields<'de> {
    kind: Field<'de>,
    hostname: Field<'de>,
    uuid: Field<'de>,
    name: Field<'de>,
    root_id: Field<'de>,
    result: Field<'de>,
    runtime: Field<'de>,
    exception: Field<'de>,
    requeue: Field<'de>,
    expired: Field<'de>,
}

impl<'de> Fields<'de> {
    /// Where the value of this name belongs; none for what does not matter.
    fn named(&mut self, name: &str) -> Option<&mut Field<'de>> {
        Some(match name {
            "type" => &mut self.kind,
            "hostname" => &mut self.hostname,
            "uuid" => &mut self.uuid,
            "name" => &mut self.name,
            "root_id" => &mut self.root_id,
            "result" => &mut self.result,
            "runtime" => &mut self.runtime,
            "exception" => &mut self.exception,
            "requeue" => &mut self.requeue,
            "expired" => &mut self.expired,
            _ => return None,
        })
    }

    /// False when a field without which the event means nothing is missing.
    fn tell(&self, tell: &mut dyn FnMut(News<'_>)) -> bool {
        let (Some(kind), Some(node)) = (self.kind.text(), self.hostname.name()) else {
            return false;
        };
        let event = match kind {
            "worker-online" | "worker-offline" => {
                tell(News::WorkersChanged);
                return true;
            }
            "task-received" => Some(TaskNews::Received {
                name: self.name.name(),
                root_id: self.root_id.name().map(TaskId::from),
            }),
            "task-started" | "task-retried" => Some(TaskNews::Moved),
            "task-rejected" if self.requeue.is_set() => Some(TaskNews::PutBack),
            "task-rejected" => Some(TaskNews::Rejected),
            "task-succeeded" => Some(TaskNews::Succeeded {
                result: self.result.text().unwrap_or_default(),
                runtime_seconds: self.runtime.number(),
            }),
            "task-failed" => Some(TaskNews::Failed(self.exception.text().unwrap_or_default())),
            "task-revoked" => Some(TaskNews::Revoked {
                expired: self.expired.is_set(),
            }),
            "task-sent" => None,
            _ => return true,
        };
        let Some(id) = self.uuid.name() else { return false };
        if let Some(event) = event {
            let id = TaskId::from(id);
            tell(News::Task { id, node, event });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::super::{Event, EventKind, TaskEvent, WorkerEvent, frames};
    use super::*;

    /// News, without what they borrow.
    fn printed(news: &News<'_>) -> String {
        format!("{news:?}")
    }

    fn told(message: &[u8]) -> (Vec<String>, Option<u64>) {
        let mut told = Vec::new();
        let malformed = News::decode(message, &mut Vec::new(), &mut |news| told.push(printed(&news)));
        (told, malformed.ok())
    }

    /// The same by way of whole events.
    fn expected(event: &Event) -> Option<String> {
        let (id, event_of_task) = match &event.kind {
            EventKind::Task { id, event } => (id.clone(), event),
            EventKind::Worker(WorkerEvent::Online(_) | WorkerEvent::Offline(_)) => {
                return Some(printed(&News::WorkersChanged));
            }
            EventKind::Worker(WorkerEvent::Heartbeat(_)) | EventKind::Other { .. } => return None,
        };
        let news = match event_of_task {
            TaskEvent::Sent { .. } => return None,
            TaskEvent::Received(task) => TaskNews::Received {
                name: task.name.as_deref(),
                root_id: task.root_id.clone(),
            },
            TaskEvent::Started | TaskEvent::Retried { .. } => TaskNews::Moved,
            TaskEvent::Succeeded {
                result,
                runtime_seconds,
            } => TaskNews::Succeeded {
                result: result.as_deref().unwrap_or_default(),
                runtime_seconds: *runtime_seconds,
            },
            TaskEvent::Failed { exception, .. } => TaskNews::Failed(exception.as_deref().unwrap_or_default()),
            TaskEvent::Revoked { expired, .. } => TaskNews::Revoked { expired: *expired },
            TaskEvent::Rejected { requeue: true } => TaskNews::PutBack,
            TaskEvent::Rejected { requeue: false } => TaskNews::Rejected,
        };
        let node = event.node.as_str();
        Some(printed(&News::Task { id, node, event: news }))
    }

    fn agree(message: &[u8]) -> bool {
        let mut events = Vec::new();
        let malformed = Event::decode(message, Instant::now(), &mut events, &mut Vec::new());
        let (told, read) = told(message);
        let expected: Vec<String> = events.iter().filter_map(expected).collect();
        // What is passed over may be what the other refuses, such as a number that is none.
        malformed.is_err() || (read == malformed.ok() && told == expected)
    }

    fn plain(body: &str) -> Vec<u8> {
        serde_json::json!({"body": body}).to_string().into_bytes()
    }

    #[test]
    fn the_news_are_what_the_events_say() {
        let mut all = Vec::new();
        for version in frames::VERSIONS {
            for (name, envelope) in frames::load(version, "events").as_object().expect("frames by name") {
                let message = frames::wire(envelope);
                assert!(agree(&message), "{version} {name}: {:?}", told(&message));
                all.extend(told(&message).0);
            }
        }
        for kind in ["WorkersChanged", "Received", "Moved", "Succeeded", "Failed", "Revoked"] {
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
            assert!(agree(&plain(body)), "{body}: {:?}", told(&plain(body)));
        }
    }

    #[test]
    fn what_was_told_of_a_message_is_not_told_again_when_the_rest_has_to_be_repaired() {
        let body = r#"[{"type": "task-started", "hostname": "w@h", "uuid": "a"}, {"type": "task-started", "hostname": "w@h", "uuid": "b", "x": NaN}]"#;
        let (told, malformed) = told(&plain(body));
        assert_eq!((told.len(), malformed), (2, Some(0)), "{told:?}");
    }

    /// The bodies of the frames that hold one event, as one list.
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
        // With blanks where Python has them.
        let events: Vec<String> = events
            .iter()
            .map(|event| event.to_string().replace("\":", "\": "))
            .collect();
        format!("[{}]", events.join(", "))
    }

    #[test]
    fn a_list_of_what_workers_send_goes_the_short_way() {
        for version in frames::VERSIONS {
            let list = as_list(version);
            assert!(agree(&plain(&list)), "{version}");
            let started = r#"[{"type": "task-started", "hostname": "w@h", "uuid": "a", "pid": 12, "clock": 5, "timestamp": 1.5}]"#;
            assert_eq!(as_kombu_lists_them(started, &mut |_| {}), Some(0));
        }
    }

    proptest! {
        #[test]
        fn a_changed_list_says_the_same_to_both(version in 0..6usize, at in any::<usize>(), byte in 32..127u8) {
            let mut list = as_list(frames::VERSIONS[version]).into_bytes();
            let at = at % list.len();
            list[at] = byte;
            let list = String::from_utf8_lossy(&list).into_owned();
            prop_assert!(agree(&plain(&list)), "{list}");
        }

        #[test]
        fn a_changed_message_says_the_same_to_both(version in 0..6usize, at in any::<usize>(), byte in any::<u8>()) {
            for envelope in frames::load(frames::VERSIONS[version], "events").as_object().expect("frames").values() {
                let mut body = frames::wire(envelope);
                let at = at % body.len();
                body[at] = byte;
                prop_assert!(agree(&body), "{}", String::from_utf8_lossy(&body));
            }
        }
    }
}
