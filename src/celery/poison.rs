//! Messages that harm the workers which take them: found in a queue without taking them, and moved aside.
//!
//! A worker that takes one ends, and mostly the message is back in the queue: every restart ends the same way (Celery wire,
//! observed on 5.2 to 5.7).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Value, json as object};

use super::client::Client;
use super::message::QueuedTask;
use super::{Result, TaskId, json};

/// Items per read: a queue may hold large messages.
const PAGE: usize = 50;
/// Items looked at in one list.
const LIMIT: usize = 200_000;

/// Moves one item of a list aside, if it is still there. KEYS: list, quarantine; ARGV: item, what is kept of it.
const FROM_LIST: &str = "if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then return 0 end \
    redis.call('RPUSH', KEYS[2], ARGV[2]) return 1";
/// Moves one unacknowledged message aside, if it is still there. KEYS: unacked, its index, quarantine; ARGV: tag, value, kept.
const FROM_UNACKED: &str = "if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end \
    redis.call('HDEL', KEYS[1], ARGV[1]) redis.call('ZREM', KEYS[2], ARGV[1]) \
    redis.call('RPUSH', KEYS[3], ARGV[3]) return 1";

/// What a message does to a worker that takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harm {
    /// The worker drops it with a line in its log: the task never runs.
    Dropped,
    /// The worker ends, or consumes nothing any more.
    Deadly,
}

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    pub harm: Harm,
    /// In words, such as `it has no headers.id`.
    pub reason: String,
}

/// Where a harmful message lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a queue's list of this priority step.
    Queued { queue: String, step: u8 },
    /// Taken and not acknowledged; it comes back to its queue after the visibility timeout.
    Unacked { tag: Vec<u8> },
}

/// A harmful message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Harmful {
    pub place: Place,
    pub diagnosis: Diagnosis,
    /// As far as it can be told.
    pub id: Option<TaskId>,
    pub task: Option<String>,
    /// The item itself.
    pub item: Vec<u8>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Messages looked at.
    pub looked_at: u64,
    pub harmful: Vec<Harmful>,
    /// Lists that hold more than was looked at.
    pub cut: Vec<String>,
}

/// Judges an item of a queue's list; `None`: workers can run it.
pub fn diagnose(item: &[u8]) -> Option<Diagnosis> {
    match json::parse::<Value>(item, "a queued message") {
        Ok(message) => diagnose_message(&message),
        Err(error) => deadly(format!("it is no JSON ({error})")),
    }
}

fn deadly(reason: impl Into<String>) -> Option<Diagnosis> {
    Some(Diagnosis {
        harm: Harm::Deadly,
        reason: reason.into(),
    })
}

fn dropped(reason: impl Into<String>) -> Option<Diagnosis> {
    Some(Diagnosis {
        harm: Harm::Dropped,
        reason: reason.into(),
    })
}

fn diagnose_message(message: &Value) -> Option<Diagnosis> {
    let Value::Object(fields) = message else {
        return deadly("it is no JSON object");
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
        return deadly("its body is no text");
    };
    let encoding = properties.get("body_encoding").filter(|encoding| is_set(encoding));
    let decoded = match encoding.map(|encoding| (encoding, encoding.as_str())) {
        None => body.as_bytes().to_vec(),
        Some((_, Some("base64"))) => match base64_as_python_reads_it(body) {
            Ok(decoded) => decoded,
            Err(why) => return deadly(format!("its body is no base64 ({why})")),
        },
        Some((unknown, _)) => return deadly(format!("nobody knows its body_encoding {unknown}")),
    };
    let names_task = has(headers, "task");
    if names_task && !has(headers, "id") {
        return deadly("it has no headers.id");
    }
    if kind != "application/json" {
        // Whether the workers accept it is theirs to say, and it is not for us to unpack.
        return None;
    }
    if has(headers, "compression") {
        return None;
    }
    let body = match json::parse::<Value>(&decoded, "its body") {
        Ok(body) => body,
        Err(_) if encoding.is_none() => return dropped("its body is no JSON, and no body_encoding says what it is"),
        Err(error) => return dropped(format!("its body is no JSON ({error})")),
    };
    if names_task {
        // arguments, keyword arguments, embedded signatures
        return match body.as_array().map(Vec::len) {
            Some(3) => None,
            Some(length) => deadly(format!("its body is a list of {length}, not of 3")),
            None => deadly("its body is no list of 3"),
        };
    }
    // Protocol 1 has everything in the body.
    if has(&body, "task") && has(&body, "id") {
        None
    } else {
        dropped("it names no task")
    }
}

/// Python takes an empty text, 0 and false for none.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    }
}

/// Base64 as workers read it: what is not of the alphabet is skipped, and nothing counts behind the padding (Python's
/// `base64.b64decode`). A stricter reading would call messages poison that run.
fn base64_as_python_reads_it(text: &str) -> std::result::Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    // Bits that are not yet a byte, characters of the group of four, and padding behind them.
    let (mut bits, mut characters, mut padding) = (0_u32, 0_u32, 0_u32);
    for character in text.bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' if characters >= 2 => {
                padding += 1;
                if characters + padding >= 4 {
                    return Ok(bytes);
                }
                continue;
            }
            _ => continue,
        };
        padding = 0;
        bits = (bits << 6 | u32::from(value)) & 0xFFFF;
        if characters > 0 {
            // After two, three and four characters 4, 2 and 0 bits are left over.
            bytes.push((bits >> (6 - 2 * characters)).to_le_bytes()[0]);
        }
        characters = (characters + 1) % 4;
    }
    match characters {
        0 => Ok(bytes),
        1 => Err("a single character is left over"),
        _ => Err("its padding is missing"),
    }
}

impl Client {
    /// Looks at every message of these queues, and at the unacknowledged ones, without taking any.
    pub async fn inspect_messages(&self, queues: &[String]) -> Result<Inspection> {
        let mut inspection = Inspection::default();
        for queue in queues {
            for (step, list) in self.broker_keys().lists(queue) {
                self.inspect_list(queue, step, list, &mut inspection).await?;
            }
        }
        self.inspect_unacked(&mut inspection).await?;
        Ok(inspection)
    }

    async fn inspect_list(&self, queue: &str, step: u8, list: String, inspection: &mut Inspection) -> Result<()> {
        for start in (0..LIMIT).step_by(PAGE) {
            // From the end that workers take from: what comes in meanwhile shifts nothing.
            let (first, last) = (-1 - start.cast_signed(), -((start + PAGE).cast_signed()));
            let mut page = redis::pipe();
            page.cmd("LRANGE").arg(&list).arg(last).arg(first);
            let (items,): (Vec<Vec<u8>>,) = self.broker().query("read a queue", &page, self.deadline()).await?;
            let count = items.len();
            for item in items.into_iter().rev() {
                inspection.looked_at += 1;
                if let Some(diagnosis) = diagnose(&item) {
                    let place = Place::Queued {
                        queue: queue.to_owned(),
                        step,
                    };
                    // A message that was taken meanwhile makes us read its neighbours twice.
                    let found = harmful(place, diagnosis, item, QueuedTask::decode);
                    if !inspection.harmful.contains(&found) {
                        inspection.harmful.push(found);
                    }
                }
            }
            if count < PAGE {
                return Ok(());
            }
        }
        inspection.cut.push(list);
        Ok(())
    }

    async fn inspect_unacked(&self, inspection: &mut Inspection) -> Result<()> {
        let mut cursor = 0_u64;
        let mut seen = 0;
        loop {
            let mut page = redis::pipe();
            page.cmd("HSCAN").arg(self.broker_keys().unacked()).arg(cursor);
            page.arg("COUNT").arg(PAGE);
            type Page = (u64, Vec<(Vec<u8>, Vec<u8>)>);
            let ((next, entries),): (Page,) = self
                .broker()
                .query("read unacknowledged messages", &page, self.deadline())
                .await?;
            seen += entries.len();
            for (tag, value) in entries {
                inspection.looked_at += 1;
                let diagnosis = match json::parse::<(Value, Value, Value)>(&value, "an unacknowledged message") {
                    Ok((message, _exchange, _routing_key)) => diagnose_message(&message),
                    Err(error) => deadly(format!("it is no unacknowledged message ({error})")),
                };
                if let Some(diagnosis) = diagnosis {
                    let found = harmful(Place::Unacked { tag }, diagnosis, value, QueuedTask::decode_unacked);
                    if !inspection.harmful.contains(&found) {
                        inspection.harmful.push(found);
                    }
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
            if seen >= LIMIT {
                inspection.cut.push(self.broker_keys().unacked());
                return Ok(());
            }
        }
    }

    /// Moves a message to the list `orch:quarantine:<queue>` (`unacked` for one without), where it is kept as
    /// `{"at", "reason", "list", "message"}`; a message that is no text as `message_base64`. False: somebody has taken it.
    pub async fn quarantine(&self, found: &Harmful) -> Result<bool> {
        let keys = self.broker_keys();
        let (name, list) = match &found.place {
            Place::Queued { queue, step } => (queue.as_str(), keys.list(queue, *step)),
            Place::Unacked { .. } => ("unacked", keys.unacked()),
        };
        let mut kept = object!({ "at": Timestamp::now().to_string(), "reason": found.diagnosis.reason, "list": list });
        match std::str::from_utf8(&found.item) {
            Ok(text) => kept["message"] = Value::from(text),
            Err(_) => kept["message_base64"] = Value::from(BASE64.encode(&found.item)),
        }
        let (kept, quarantine) = (kept.to_string(), keys.quarantine(name));
        let mut script = redis::pipe();
        script.cmd("EVAL");
        match &found.place {
            Place::Queued { .. } => script.arg(FROM_LIST).arg(2).arg(list).arg(quarantine).arg(&found.item),
            Place::Unacked { tag } => script
                .arg(FROM_UNACKED)
                .arg(3)
                .arg(list)
                .arg(keys.unacked_index())
                .arg(quarantine)
                .arg(tag)
                .arg(&found.item),
        };
        script.arg(kept);
        let (moved,): (u64,) = self
            .broker()
            .query("move a message aside", &script, self.deadline())
            .await?;
        Ok(moved > 0)
    }
}

fn harmful(
    place: Place,
    diagnosis: Diagnosis,
    item: Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<Option<QueuedTask>>,
) -> Harmful {
    let task = decode(&item).ok().flatten();
    Harmful {
        place,
        diagnosis,
        id: task.as_ref().map(|task| task.id.clone()),
        task: task.and_then(|task| task.name),
        item,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::task::{Place as InMessage, Task};
    use super::super::{Link, frames};
    use super::*;

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
    fn what_workers_end_of_and_what_they_drop() {
        use Harm::{Deadly, Dropped};
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
            (object!([1, 2]), Some(Deadly)),
            (object!({}), Some(Deadly)),
            (without("/headers/id"), Some(Deadly)),
            (without("/properties/delivery_tag"), Some(Deadly)),
            (without("/properties/delivery_info"), Some(Deadly)),
            (without("/properties/delivery_info/exchange"), Some(Deadly)),
            (without("/properties/delivery_info/routing_key"), Some(Deadly)),
            (without("/content-type"), Some(Deadly)),
            (without("/body"), Some(Deadly)),
            (with_body("[[1, 2], {}]"), Some(Deadly)),
            (with_body(r#"{"args": []}"#), Some(Deadly)),
            (bad_base64, Some(Deadly)),
            (unpadded, Some(Deadly)),
            (in_lines, None),
            (unknown_encoding, Some(Deadly)),
            (without("/headers/task"), Some(Dropped)),
            (nothing, Some(Dropped)),
            (no_encoding, Some(Dropped)),
            (with_body("[1"), Some(Dropped)),
        ] {
            let diagnosis = diagnose(message.to_string().as_bytes());
            assert_eq!(diagnosis.map(|diagnosis| diagnosis.harm), harm, "{message}");
        }
        for item in [&b"poison"[..], b"", b"\xff\xfe", b"{\"body\":"] {
            assert_eq!(diagnose(item).expect("no JSON").harm, Deadly);
        }
    }

    #[test]
    fn base64_is_read_as_python_reads_it() {
        // Each as CPython 3.11 gives it.
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("!!", Some(b"")),
            ("A", None),
            ("AAA", None),
            ("AA\nAA", Some(&[0, 0, 0])),
            ("W1tdLCB7fV0=\n", Some(b"[[], {}]")),
            ("W1tdLCB7fV0", None),
            // Bits that are left over count for nothing.
            ("AB==", Some(&[0])),
            ("AA==AA", Some(&[0])),
            ("AA=A", None),
            ("A===", None),
            ("AAAA=", Some(&[0, 0, 0])),
            ("AA===", Some(&[0])),
            ("\u{e9}", Some(b"")),
        ] {
            assert_eq!(base64_as_python_reads_it(text).ok().as_deref(), bytes, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read(bytes: Vec<u8>) {
            prop_assert_eq!(base64_as_python_reads_it(&BASE64.encode(&bytes)), Ok(bytes));
        }
    }

    #[test]
    fn what_python_publishes_is_harmless() {
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
        fn what_we_publish_is_harmless(
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
            let links = [Link::new(Task::new("next"))];
            let place = InMessage { then: if then { &links } else { &[] }, ..InMessage::default() };
            prop_assert_eq!(diagnose(&task.encode(&place).expect("encodable")), None);
        }

        #[test]
        fn anything_is_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..2000_usize, byte in any::<u8>()) {
            let _judged = diagnose(&bytes);
            let mut message = good().to_string().into_bytes();
            let at = at % message.len();
            message[at] = byte;
            let _judged = diagnose(&message);
        }
    }
}
