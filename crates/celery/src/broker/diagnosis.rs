//! Diagnosis of messages that harm the workers that take them (Celery wire, observed on 5.2 to 5.7).

use serde_json::{Value, json as object};

use crate::wire::{json, python_base64};

/// Effect of a message on a worker that takes the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageHarm {
    /// The worker drops the message with a line in its log, and the task never runs.
    Dropped,
    /// The worker ends, or stops consuming.
    EndsWorker,
}

/// Defect of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageDiagnosis {
    pub harm: MessageHarm,
    /// Description, such as `it has no headers.id`.
    pub reason: String,
}

/// Inspects an item of a queue's list. Returns `None` for a message that workers can execute.
pub fn diagnose(item: &[u8]) -> Option<MessageDiagnosis> {
    match json::parse::<Value>(item, "a queued message") {
        Ok(message) => diagnose_message(&message),
        Err(error) => deadly(format!("it is not JSON ({error})")),
    }
}

/// Inspects a value of the hash `unacked`. Returns `None` for a message that workers can execute.
pub(crate) fn diagnose_unacked(value: &[u8]) -> Option<MessageDiagnosis> {
    match json::parse::<(Value, Value, Value)>(value, "an unacknowledged message") {
        Ok((message, _exchange, _routing_key)) => diagnose_message(&message),
        Err(error) => deadly(format!("it is not an unacknowledged message ({error})")),
    }
}

fn deadly(reason: impl Into<String>) -> Option<MessageDiagnosis> {
    Some(MessageDiagnosis {
        harm: MessageHarm::EndsWorker,
        reason: reason.into(),
    })
}

fn dropped(reason: impl Into<String>) -> Option<MessageDiagnosis> {
    Some(MessageDiagnosis {
        harm: MessageHarm::Dropped,
        reason: reason.into(),
    })
}

fn diagnose_message(message: &Value) -> Option<MessageDiagnosis> {
    let Value::Object(fields) = message else {
        return deadly("it is not a JSON object");
    };
    let has = |of: &Value, name: &str| of.get(name).is_some_and(|value| !value.is_null());
    let empty = object!({});
    let properties = fields.get("properties").unwrap_or(&empty);
    let headers = fields.get("headers").unwrap_or(&empty);
    let delivery = properties.get("delivery_info").unwrap_or(&empty);
    if !has(properties, "delivery_tag") {
        return deadly("it has no properties.delivery_tag");
    }
    for name in ["exchange", "routing_key"] {
        if !has(delivery, name) {
            return deadly(format!("it has no properties.delivery_info.{name}"));
        }
    }
    let Some(kind) = fields.get("content-type").and_then(Value::as_str) else {
        return deadly("it has no content-type");
    };
    let Some(body) = fields.get("body").and_then(Value::as_str) else {
        return deadly("its body is not a text");
    };
    let encoding = properties.get("body_encoding").filter(|encoding| is_set(encoding));
    let decoded = match encoding.map(|encoding| (encoding, encoding.as_str())) {
        None => body.as_bytes().to_vec(),
        Some((_, Some("base64"))) => match python_base64::decode(body) {
            Ok(decoded) => decoded,
            Err(why) => return deadly(format!("its body is not Base64 ({why})")),
        },
        Some((unknown, _)) => return deadly(format!("its body_encoding {unknown} is unknown")),
    };
    let has_task_name = has(headers, "task");
    if has_task_name && !has(headers, "id") {
        return deadly("it has no headers.id");
    }
    if kind != "application/json" {
        // The setting `accept_content` of the workers decides about other formats, and orch does not decode them.
        return None;
    }
    if has(headers, "compression") {
        return None;
    }
    let body = match json::parse::<Value>(&decoded, "its body") {
        Ok(body) => body,
        Err(_) if encoding.is_none() => return dropped("its body is not JSON, and there is no body_encoding"),
        Err(error) => return dropped(format!("its body is not JSON ({error})")),
    };
    if has_task_name {
        // The items are arguments, keyword arguments and embedded signatures.
        return match body.as_array().map(Vec::len) {
            Some(3) => None,
            Some(length) => deadly(format!("its body is a list of {length}, not of 3")),
            None => deadly("its body is not a list of 3"),
        };
    }
    // In protocol 1 the body contains all fields.
    if has(&body, "task") && has(&body, "id") {
        None
    } else {
        dropped("it names no task")
    }
}

/// Returns true when Python treats the value as true: an empty text, 0 and false count as not set.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use proptest::prelude::*;

    use super::*;
    use crate::tasks::task::{Task, TaskLink};
    use crate::tasks::task_message::CanvasContext as InMessage;
    use crate::wire::frames;

    fn good() -> Value {
        let task = Task::new("pkg.add").args([object!(2), object!(3)]);
        serde_json::from_slice(&task.encode(&InMessage::default()).expect("encodable")).expect("JSON")
    }

    fn without(path: &str) -> Value {
        let mut message = good();
        let (parent, name) = path.rsplit_once('/').expect("a path");
        let parent = message.pointer_mut(parent).expect("there");
        parent.as_object_mut().expect("an object").remove(name).expect("there");
        message
    }

    fn with_body(body: &str) -> Value {
        let mut message = good();
        message["body"] = Value::from(BASE64.encode(body));
        message
    }

    #[test]
    fn deadly_and_dropped_messages_are_recognized() {
        use MessageHarm::{Dropped, EndsWorker};
        let mut plain = good();
        plain["body"] = Value::from("[[1, 2], {}, {}]");
        plain["properties"]
            .as_object_mut()
            .expect("an object")
            .remove("body_encoding");
        let mut no_encoding = without("/properties/body_encoding");
        no_encoding["body"] = good()["body"].clone();
        let mut bad_base64 = good();
        bad_base64["body"] = Value::from("A");
        let mut unpadded = good();
        unpadded["body"] = Value::from("W1tdLCB7fSwge31");
        let mut in_lines = good();
        in_lines["body"] = Value::from("W1td\r\nLCB7fSwg\r\ne31d\r\n");
        let mut unknown_encoding = good();
        unknown_encoding["properties"]["body_encoding"] = Value::from("zip");
        let mut pickled = good();
        pickled["content-type"] = Value::from("application/x-python-serialize");
        let mut old = with_body(r#"{"task": "pkg.add", "id": "1", "args": [1, 2], "kwargs": {}}"#);
        old["headers"] = object!({});
        let mut nothing = with_body("{}");
        nothing["headers"] = object!({});
        for (message, harm) in [
            (good(), None),
            (plain, None),
            (pickled, None),
            (old, None),
            (object!([1, 2]), Some(EndsWorker)),
            (object!({}), Some(EndsWorker)),
            (without("/headers/id"), Some(EndsWorker)),
            (without("/properties/delivery_tag"), Some(EndsWorker)),
            (without("/properties/delivery_info"), Some(EndsWorker)),
            (without("/properties/delivery_info/exchange"), Some(EndsWorker)),
            (without("/properties/delivery_info/routing_key"), Some(EndsWorker)),
            (without("/content-type"), Some(EndsWorker)),
            (without("/body"), Some(EndsWorker)),
            (with_body("[[1, 2], {}]"), Some(EndsWorker)),
            (with_body(r#"{"args": []}"#), Some(EndsWorker)),
            (bad_base64, Some(EndsWorker)),
            (unpadded, Some(EndsWorker)),
            (in_lines, None),
            (unknown_encoding, Some(EndsWorker)),
            (without("/headers/task"), Some(Dropped)),
            (nothing, Some(Dropped)),
            (no_encoding, Some(Dropped)),
            (with_body("[1"), Some(Dropped)),
        ] {
            let diagnosis = diagnose(message.to_string().as_bytes());
            assert_eq!(diagnosis.map(|diagnosis| diagnosis.harm), harm, "{message}");
        }
        for item in [&b"poison"[..], b"", b"\xff\xfe", b"{\"body\":"] {
            assert_eq!(diagnose(item).expect("a diagnosis").harm, EndsWorker);
        }
    }

    #[test]
    fn messages_of_python_are_harmless() {
        for version in frames::VERSIONS {
            for topic in ["task_publish", "chain", "chord", "group"] {
                let frames = frames::load(version, topic);
                let messages = frames.as_array().expect("commands").iter();
                let messages = messages
                    .flat_map(|command| match command {
                        Value::Array(words) => words.clone(),
                        message => vec![message.clone()],
                    })
                    .filter(|word| word.get("headers").is_some());
                for message in messages {
                    assert_eq!(diagnose(&frames::wire(&message)), None, "{version} {topic}: {message}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn messages_of_this_client_are_harmless(
            name in "[a-z_.]{1,30}",
            queue in "[a-zA-Z0-9._:-]{1,20}",
            text in ".{0,40}",
            headers in proptest::collection::hash_map("x_[a-z]{1,6}", ".{0,8}", 0..3),
            then in any::<bool>(),
        ) {
            let mut task = Task::new(name).args([object!(text)]).queue(queue);
            for (name, value) in headers {
                task = task.header(name, value);
            }
            let links = [TaskLink::new(Task::new("next"))];
            let place = InMessage { later_links: if then { &links } else { &[] }, ..InMessage::default() };
            prop_assert_eq!(diagnose(&task.encode(&place).expect("encodable")), None);
        }

        #[test]
        fn any_message_is_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..2000_usize, byte in any::<u8>()) {
            let _judged = diagnose(&bytes);
            let mut message = good().to_string().into_bytes();
            let at = at % message.len();
            message[at] = byte;
            let _judged = diagnose(&message);
        }
    }
}
