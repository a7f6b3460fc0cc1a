use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::error::Error;
use crate::wire::envelope::IncomingMessage;
use crate::wire::frames;

fn read(message: &[u8]) -> Result<(Vec<Event>, u64)> {
    let mut events = Vec::new();
    let malformed = Event::decode(message, Instant::now(), &mut events, &mut Vec::new())?;
    Ok((events, malformed))
}

fn decode(body: Value) -> Result<(Vec<Event>, u64)> {
    let envelope = json!({"body": body, "content-type": "application/json", "content-encoding": "utf-8",
                          "headers": {}, "properties": {"body_encoding": "base64"}});
    read(&frames::wire(&envelope))
}

#[test]
fn every_event_of_every_version_is_known() {
    for version in frames::VERSIONS {
        for (name, envelope) in frames::load(version, "events").as_object().expect("frames by name") {
            let (events, malformed) = read(&frames::wire(envelope)).expect(name);
            assert_eq!(malformed, 0, "{version} {name}");
            for event in &events {
                assert!(
                    !matches!(event.kind, EventKind::Other { .. }),
                    "{version} {name}: {event:?}"
                );
                assert!(
                    event.timestamp > 1.0e9 && event.clock > 0 && event.pid.is_some(),
                    "{version} {name}"
                );
            }
            if let EventKind::Task {
                event: TaskEvent::Received(task),
                ..
            } = &events[0].kind
            {
                assert!(task.name.is_some() && task.root_id.is_some(), "{version} {name}");
            }
        }
        let batch = frames::load(version, "events")["multi_batch"].clone();
        let (events, _) = read(&frames::wire(&batch)).expect("a batch");
        assert_eq!(
            events.len(),
            batch["body"].as_array().expect("a list").len(),
            "{version}"
        );
    }
}

#[test]
fn unknown_events_and_fields_are_kept() {
    let body = json!({"type": "page-scraped", "hostname": "w1@node", "url": "http://x", "timestamp": 2.5e11});
    let (events, _) = decode(body).expect("an event");
    assert_eq!(
        events[0].kind,
        EventKind::Other {
            name: "page-scraped".to_owned()
        }
    );
    assert_eq!(Value::Object(events[0].extra.clone()), json!({"url": "http://x"}));

    let body = json!({"type": "task-started", "hostname": "w1@node", "uuid": "t", "lane": 3});
    let (events, _) = decode(body).expect("an event");
    assert_eq!(
        events[0].kind,
        EventKind::Task {
            id: TaskId::from("t"),
            event: TaskEvent::Started
        }
    );
    assert_eq!(Value::Object(events[0].extra.clone()), json!({"lane": 3}));
}

#[test]
fn broken_items_of_a_list_are_counted_and_the_rest_is_kept() {
    let good = json!({"type": "task-started", "hostname": "w1@node", "uuid": "t"});
    let without_id = json!({"type": "task-started", "hostname": "w1@node"});
    let (events, malformed) = decode(json!([good, 7, without_id, {}, good])).expect("a list");
    assert_eq!((events.len(), malformed), (2, 3));
    assert!(decode(json!({"type": "task-started"})).is_err());
}

fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        "[a-z-]{1,8}",
        Just("type".to_owned()),
        Just("uuid".to_owned()),
        Just("hostname".to_owned()),
        Just("clock".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![Just("task-failed".to_owned()), ".{0,8}"].prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::hash_map(name.clone(), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Slow reference decoder that reads events through a tree of JSON values.
mod plain {
    use super::*;

    pub fn read(message: &[u8]) -> Result<(Vec<Event>, u64)> {
        match IncomingMessage::decode(message, EVENT_NAME)?.body(EVENT_NAME)? {
            Value::Array(items) => {
                let total = items.len();
                let events: Vec<Event> = items.into_iter().filter_map(event).collect();
                let malformed = (total - events.len()) as u64;
                Ok((events, malformed))
            }
            one => match event(one) {
                Some(event) => Ok((vec![event], 0)),
                None => Err(Error::Malformed {
                    what: EVENT_NAME.to_owned(),
                    reason: "a required field is missing".to_owned(),
                }),
            },
        }
    }

    fn event(event: Value) -> Option<Event> {
        let Value::Object(mut fields) = event else { return None };
        let name = text(&mut fields, "type")?;
        let node = NodeName::from(text(&mut fields, "hostname")?);
        let timestamp = number(&mut fields, "timestamp").unwrap_or_default();
        let clock = count(&mut fields, "clock").unwrap_or_default();
        let pid = count(&mut fields, "pid").and_then(|pid| u32::try_from(pid).ok());
        fields.remove("utcoffset");
        let kind = kind(&mut fields, name)?;
        Some(Event {
            kind,
            node,
            timestamp,
            clock,
            pid,
            extra: fields,
            received_at: Instant::now(),
        })
    }

    fn kind(fields: &mut Map<String, Value>, name: String) -> Option<EventKind> {
        let event = match name.as_str() {
            "worker-online" => return Some(EventKind::Worker(WorkerEvent::Online(load(fields)))),
            "worker-heartbeat" => return Some(EventKind::Worker(WorkerEvent::Heartbeat(load(fields)))),
            "worker-offline" => return Some(EventKind::Worker(WorkerEvent::Offline(load(fields)))),
            "task-sent" => TaskEvent::Sent {
                task: origin(fields),
                queue: text(fields, "queue"),
            },
            "task-received" => TaskEvent::Received(origin(fields)),
            "task-started" => TaskEvent::Started,
            "task-succeeded" => TaskEvent::Succeeded {
                result: text(fields, "result"),
                runtime_seconds: number(fields, "runtime"),
            },
            "task-failed" => TaskEvent::Failed {
                exception: text(fields, "exception"),
                traceback: text(fields, "traceback"),
            },
            "task-retried" => TaskEvent::Retried {
                exception: text(fields, "exception"),
                traceback: text(fields, "traceback"),
            },
            "task-revoked" => TaskEvent::Revoked {
                terminated: flag(fields, "terminated"),
                signum: fields.remove("signum").and_then(|signum| signum.as_i64()),
                expired: flag(fields, "expired"),
            },
            "task-rejected" => TaskEvent::Rejected {
                requeue: flag(fields, "requeue"),
            },
            _ => return Some(EventKind::Other { name }),
        };
        let id = TaskId::from(text(fields, "uuid")?);
        Some(EventKind::Task { id, event })
    }

    fn origin(fields: &mut Map<String, Value>) -> TaskOrigin {
        TaskOrigin {
            name: text(fields, "name"),
            args: text(fields, "args"),
            kwargs: text(fields, "kwargs"),
            root_id: text(fields, "root_id").map(TaskId::from),
            parent_id: text(fields, "parent_id").map(TaskId::from),
            retries: count(fields, "retries").unwrap_or_default(),
            eta: text(fields, "eta"),
            expires: text(fields, "expires"),
        }
    }

    fn load(fields: &mut Map<String, Value>) -> WorkerLoad {
        let load_average = fields.remove("loadavg");
        WorkerLoad {
            active: count(fields, "active"),
            processed: count(fields, "processed"),
            load_average: load_average.and_then(|load| serde_json::from_value(load).ok()),
            heartbeat_seconds: number(fields, "freq"),
            software: text(fields, "sw_ident"),
            software_version: text(fields, "sw_ver"),
            system: text(fields, "sw_sys"),
        }
    }

    fn text(fields: &mut Map<String, Value>, name: &str) -> Option<String> {
        Some(fields.remove(name)?.as_str()?.to_owned())
    }

    fn number(fields: &mut Map<String, Value>, name: &str) -> Option<f64> {
        fields.remove(name)?.as_f64()
    }

    fn count(fields: &mut Map<String, Value>, name: &str) -> Option<u64> {
        fields.remove(name)?.as_u64()
    }

    fn flag(fields: &mut Map<String, Value>, name: &str) -> bool {
        fields.remove(name).and_then(|flag| flag.as_bool()).unwrap_or_default()
    }
}

/// Checks that both decoders return the same events, or that both fail.
fn agree(message: &[u8]) {
    let text = String::from_utf8_lossy(message);
    match (read(message), plain::read(message)) {
        (Ok((mut fast, malformed)), Ok((plain, expected))) => {
            for (fast, plain) in fast.iter_mut().zip(&plain) {
                fast.received_at = plain.received_at;
            }
            assert_eq!((fast, malformed), (plain, expected), "{text}");
        }
        (Err(_), Err(_)) => {}
        (fast, plain) => panic!("{text}\nfast: {fast:?}\nplain: {plain:?}"),
    }
}

/// Calls [`agree`] for messages that are valid in all parts. The fast decoder does not validate skipped parts.
fn agree_if_valid(message: &[u8]) {
    let read = read(message);
    if plain::read(message).is_ok() {
        assert!(read.is_ok(), "{}", String::from_utf8_lossy(message));
        agree(message);
    }
}

#[test]
fn the_fast_decoder_agrees_with_the_plain_decoder() {
    for version in frames::VERSIONS {
        for envelope in frames::load(version, "events")
            .as_object()
            .expect("frames by name")
            .values()
        {
            agree(&frames::wire(envelope));
        }
    }
}

#[test]
fn long_names_and_ids_are_refused() {
    let event = |uuid: &str, name: &str, host: &str| {
        decode(json!({"type": "task-received", "hostname": host, "uuid": uuid, "name": name, "args": name}))
    };
    let (good, long) = ("n".repeat(512), "n".repeat(513));
    let received = |events: Vec<Event>| match events.into_iter().next().map(|event| event.kind) {
        Some(EventKind::Task {
            id,
            event: TaskEvent::Received(task),
        }) => (id, task),
        other => panic!("{other:?}"),
    };
    let (id, task) = received(event(&good, &good, &good).expect("an event").0);
    assert_eq!((id.as_str(), task.name.as_deref()), (&*good, Some(&*good)));
    let (_, task) = received(event(&good, &long, &good).expect("an event of a task without name").0);
    assert_eq!((task.name.as_deref(), task.args.as_deref()), (None, Some(&*long)));
    assert!(event(&long, &good, &good).is_err() && event(&good, &good, &long).is_err());
}

#[test]
fn odd_values_leave_the_other_fields_readable() {
    let template =
        r#"{"type": "task-succeeded", "hostname": "w1@node", "uuid": "t", "timestamp": STAMP, "clock": CLOCK}"#;
    for (stamp, clock, expected) in [
        ("253402300799.5", "1", 253_402_300_799.5),
        ("1e300", "-1", 1e300),
        ("-5", "1e300", -5.0),
        ("NaN", "\"x\"", 0.0),
        ("-Infinity", "[]", 0.0),
        ("{\"a\": 1}", "null", 0.0),
    ] {
        let body = template.replace("STAMP", stamp).replace("CLOCK", clock);
        let envelope = json!({"body": body});
        let (events, _) = read(envelope.to_string().as_bytes()).expect(stamp);
        assert_eq!(events[0].timestamp, expected, "{stamp}");
        agree(envelope.to_string().as_bytes());
    }
    let huge = "x".repeat(4 * 1024 * 1024);
    let body = json!({"type": "task-failed", "hostname": "w1@node", "uuid": "t", "traceback": huge});
    agree(json!({"body": body.to_string()}).to_string().as_bytes());
    for broken in [
        "",
        "{}",
        "nonsense",
        "[]",
        "{\"body\": \"%%%\", \"properties\": {\"body_encoding\": \"base64\"}}",
    ] {
        assert!(read(broken.as_bytes()).is_err(), "{broken}");
    }
}

#[test]
fn a_truncated_list_adds_no_events() {
    let good = r#"{"type": "task-started", "hostname": "w1@node", "uuid": "t"}"#;
    let mut events = Vec::new();
    let broken = json!({"body": format!("[{good},{good},")}).to_string();
    assert!(Event::decode(broken.as_bytes(), Instant::now(), &mut events, &mut Vec::new()).is_err());
    assert!(events.is_empty());
    // The second attempt, with NaN replaced, starts from the beginning.
    let odd = json!({"body": format!(r#"[{good},{{"type": "x", "hostname": "n", "value": NaN}}]"#)}).to_string();
    assert_eq!(
        Event::decode(odd.as_bytes(), Instant::now(), &mut events, &mut Vec::new()).expect("readable"),
        0
    );
    assert_eq!(events.len(), 2);
}

/// Generates real events with some fields replaced or added.
fn mutated_event() -> impl Strategy<Value = Value> {
    let position = (
        0..frames::VERSIONS.len(),
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
    );
    let edit = (any::<prop::sample::Index>(), any_json());
    (position, proptest::collection::vec(edit, 0..4)).prop_map(|((version, frame, item), edits)| {
        let frames = frames::load(frames::VERSIONS[version], "events");
        let frames = frames.as_object().expect("frames by name");
        let mut body = frames.values().nth(frame.index(frames.len())).expect("a frame")["body"].clone();
        for (field, value) in edits {
            let event = match &mut body {
                Value::Array(items) => {
                    let at = item.index(items.len());
                    &mut items[at]
                }
                one => one,
            };
            let Some(event) = event.as_object_mut() else { break };
            let names: Vec<&str> = NAMES.iter().copied().chain(["lane"]).collect();
            event.insert(names[field.index(names.len())].to_owned(), value);
        }
        body
    })
}

proptest! {
    #[test]
    fn any_body_is_read_or_refused(body in any_json()) {
        let _outcome = decode(body.clone());
        agree(json!({"body": body.to_string()}).to_string().as_bytes());
    }

    #[test]
    fn both_decoders_agree_on_changed_events(body in mutated_event()) {
        agree(json!({"body": body.to_string()}).to_string().as_bytes());
    }

    #[test]
    fn both_decoders_agree_on_changed_bytes(
        version in 0..6usize,
        frame in any::<prop::sample::Index>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let frames = frames::load(frames::VERSIONS[version], "events");
        let frames = frames.as_object().expect("frames by name");
        let envelope = frames.values().nth(frame.index(frames.len())).expect("a frame");
        let mut body = envelope["body"].to_string().into_bytes();
        for (at, byte) in &edits {
            let at = at.index(body.len());
            body[at] = *byte;
        }
        // Change bytes in the body, then in the envelope.
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &body);
        let message = json!({"body": encoded, "properties": {"body_encoding": "base64"}}).to_string();
        agree(message.as_bytes());
        let mut message = frames::wire(envelope);
        for (at, byte) in &edits {
            let at = at.index(message.len());
            message[at] = *byte;
        }
        agree_if_valid(&message);
    }
}
