//! A simulated Celery worker that does only the work that is visible on the wire, as fast as possible.
//!
//! The dispatch task of a site starts a chord of chunks. Each chunk has a message, an acknowledgement, events, a
//! result and an entry in the chord's keys; the last chunk publishes the callback. The commands are those of Celery
//! 5.4. The simulated worker has no pool, and does not wait for each reply as Celery does.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::wire::{CountingConnection, RedisReply};

pub const DISPATCH: &str = "scale.dispatch";
const CHUNK: &str = "scale.chunk";
const CALLBACK: &str = "scale.aggregate";
const QUEUE: &[u8] = b"celery";
const NODE: &str = "standin@scale";
/// Maximum number of messages that are taken at once.
const BATCH: &[u8] = b"200";
/// Rate in events per second below which messages are taken one at a time.
const SLOW: u32 = 1000;
/// Seconds for which results are kept: with Celery's default of a day, Redis would keep a million results.
const EXPIRES: &[u8] = b"20";

/// Options of the sent events.
#[derive(Clone, Copy, Debug)]
pub struct EventOptions {
    /// Number of events in a message.
    pub list: usize,
    /// Events per second; 0 means as fast as possible.
    pub rate: u32,
}

/// Works until the standard input ends, then prints the numbers of sent events, executed tasks and Redis commands.
pub fn work(port: u16, chunks: usize, sending: EventOptions) {
    let events_wanted = Arc::new(AtomicBool::new(false));
    let wanted = Arc::clone(&events_wanted);
    std::thread::spawn(move || obey(port, &wanted));
    let over = Arc::new(AtomicBool::new(false));
    let of_reader = Arc::clone(&over);
    std::thread::spawn(move || {
        std::io::stdin().read_line(&mut String::new()).ok();
        of_reader.store(true, Ordering::Relaxed);
    });
    let mut worker = SimulatedWorker {
        broker: CountingConnection::connect(port, 0),
        backend: CountingConnection::connect(port, 1),
        events: Vec::new(),
        events_wanted,
        chords: HashMap::new(),
        chunks,
        sending,
        began: None,
        clock: 0,
        tasks: 0,
    };
    while !over.load(Ordering::Relaxed) {
        worker.turn();
    }
    let mut commands = worker.broker.sent;
    for (name, count) in worker.backend.sent {
        *commands.entry(name).or_default() += count;
    }
    println!(
        "{}",
        json!({"events": worker.clock, "tasks": worker.tasks, "commands": commands})
    );
}

#[derive(Deserialize)]
struct QueuedMessage {
    headers: MessageHeaders,
    properties: MessageProperties,
}

#[derive(Deserialize)]
struct MessageProperties {
    delivery_tag: String,
}

#[derive(Deserialize)]
struct MessageHeaders {
    task: String,
    id: String,
    #[serde(default)]
    root_id: Option<String>,
    #[serde(default)]
    group: Option<String>,
}

struct SimulatedChord {
    callback: String,
    root: String,
    left: usize,
}

struct SimulatedWorker {
    broker: CountingConnection,
    backend: CountingConnection,
    /// Events that are not sent yet.
    events: Vec<String>,
    events_wanted: Arc<AtomicBool>,
    /// Chords by their group id.
    chords: HashMap<String, SimulatedChord>,
    chunks: usize,
    sending: EventOptions,
    /// Time of the first sent event.
    began: Option<Instant>,
    clock: u64,
    tasks: u64,
}

impl SimulatedWorker {
    /// Takes the next messages from the queue.
    fn next(&mut self) -> Vec<RedisReply> {
        let taken = match (1..SLOW).contains(&self.sending.rate) {
            true => self.any_one(),
            false => self.broker.ask(&[b"RPOP", QUEUE, BATCH]).into_list(),
        };
        if !taken.is_empty() {
            return taken;
        }
        let mut taken = self.broker.ask(&[b"BRPOP", QUEUE, b"0.5"]).into_list();
        taken.drain(..taken.len().min(1));
        taken
    }

    /// Takes one message from the middle of the queue, so that all sites run concurrently; the other messages stay
    /// visible to orch.
    fn any_one(&mut self) -> Vec<RedisReply> {
        let place = fastrand::usize(..SLOW as usize);
        let waiting = self.broker.ask(&[b"LRANGE", QUEUE, b"0", b"-1"]).into_list();
        let count = waiting.len();
        let Some(message) = waiting.into_iter().nth(place.checked_rem(count).unwrap_or(0)) else {
            return Vec::new();
        };
        let message = message.into_text();
        self.broker.ask(&[b"LREM", QUEUE, b"1", &message]);
        vec![RedisReply::Text(message)]
    }

    /// Takes waiting messages and executes their tasks.
    fn turn(&mut self) {
        let taken = self.next();
        for message in taken {
            let message = message.into_text();
            let QueuedMessage { headers, properties } = serde_json::from_slice(&message).unwrap();
            self.take(&message, &properties.delivery_tag);
            self.acknowledge(&properties.delivery_tag);
            self.run(&headers);
        }
        self.send_events();
        // A result must be stored before the event is sent, and the size of a chord before the first chunk.
        self.backend.flush();
        self.broker.flush();
    }

    /// Adds the commands for a message that was taken from the queue.
    fn take(&mut self, message: &[u8], tag: &str) {
        let tag = tag.as_bytes();
        let since = now().to_string();
        let noted = [b"[", message, b", \"\", \"celery\"]"].concat();
        self.broker.add(&[b"MULTI"]);
        self.broker.add(&[b"ZADD", b"unacked_index", since.as_bytes(), tag]);
        self.broker.add(&[b"HSET", b"unacked", tag, &noted]);
        self.broker.add(&[b"EXEC"]);
    }

    fn acknowledge(&mut self, tag: &str) {
        let tag = tag.as_bytes();
        self.broker.add(&[b"MULTI"]);
        self.broker.add(&[b"ZREM", b"unacked_index", tag]);
        self.broker.add(&[b"HDEL", b"unacked", tag]);
        self.broker.add(&[b"EXEC"]);
    }

    fn run(&mut self, task: &MessageHeaders) {
        self.tasks += 1;
        let id = &task.id;
        let root = task.root_id.as_ref().unwrap_or(id);
        let name = &task.task;
        self.event(
            "task-received",
            id,
            &format!(
                r#""name": "{name}", "args": "(['https://books.example/page-17'], 'books')", "kwargs": "{{}}", "root_id": "{root}", "parent_id": "{root}", "retries": 0, "eta": null, "expires": null, "#
            ),
        );
        self.event("task-started", id, "");
        let (result, children) = match (name.as_str(), &task.group) {
            (DISPATCH, _) => self.dispatch(id),
            (CHUNK, Some(group)) => self.chunk(group, id),
            _ => (
                json!({"saved": self.chunks * 10, "errors": 0}),
                Value::Array(Vec::new()),
            ),
        };
        let meta = json!({
            "status": "SUCCESS", "result": result, "traceback": null, "children": children,
            "date_done": "2026-11-23T12:36:58.785260+00:00", "task_id": id,
        });
        let (key, meta) = (format!("celery-task-meta-{id}"), meta.to_string());
        // Checks whether the task has already ended.
        self.backend.add(&[b"GET", key.as_bytes()]);
        self.backend.add(&[b"MULTI"]);
        self.backend.add(&[b"SETEX", key.as_bytes(), EXPIRES, meta.as_bytes()]);
        self.backend.add(&[b"PUBLISH", key.as_bytes(), meta.as_bytes()]);
        self.backend.add(&[b"EXEC"]);
        self.event(
            "task-succeeded",
            id,
            r#""result": "{'saved': 40, 'errors': 0}", "runtime": 0.7315294, "#,
        );
    }

    fn dispatch(&mut self, root: &str) -> (Value, Value) {
        let number = self.tasks;
        let group = format!("{number:08x}-0000-4000-9000-000000000000");
        let callback = format!("{number:08x}-0000-4000-a000-000000000000");
        let chunks: Vec<String> = (0..self.chunks)
            .map(|chunk| format!("{number:08x}-0000-4000-8000-{chunk:012x}"))
            .collect();
        let size = chunks.len().to_string();
        let key = format!("celery-taskset-meta-{group}.s");
        self.backend.add(&[b"SETEX", key.as_bytes(), b"60", size.as_bytes()]);
        let messages: Vec<String> = chunks
            .iter()
            .map(|chunk| message(CHUNK, chunk, root, Some(&group)))
            .collect();
        let mut push: Vec<&[u8]> = vec![b"LPUSH", QUEUE];
        push.extend(messages.iter().map(String::as_bytes));
        self.broker.add(&push);
        let header: Vec<Value> = chunks.iter().map(|chunk| json!([[chunk, null], null])).collect();
        let children = json!([[[group, null], header]]);
        let answer = json!({
            "job_id": format!("job-{number}"), "chord_id": callback, "total_urls": self.chunks * 10,
            "total_chunks": self.chunks,
        });
        let chord = SimulatedChord {
            callback,
            root: root.to_owned(),
            left: self.chunks,
        };
        self.chords.insert(group, chord);
        (answer, children)
    }

    fn chunk(&mut self, group: &str, id: &str) -> (Value, Value) {
        let group_key = format!("celery-taskset-meta-{group}");
        let [joined, extra, size] = ["j", "t", "s"].map(|suffix| format!("{group_key}.{suffix}"));
        let [joined, extra, size] = [joined.as_bytes(), extra.as_bytes(), size.as_bytes()];
        let chord = self.chords.get_mut(group).unwrap();
        chord.left -= 1;
        let index = chord.left.to_string();
        let member = format!(r#"[1, "{id}", "SUCCESS", {{"saved": 10}}]"#);
        self.backend.add(&[b"MULTI"]);
        self.backend
            .add(&[b"ZADD", joined, index.as_bytes(), member.as_bytes()]);
        self.backend.add(&[b"ZCOUNT", joined, b"-inf", b"+inf"]);
        self.backend.add(&[b"GET", extra]);
        self.backend.add(&[b"GET", size]);
        for key in [joined, extra, size] {
            self.backend.add(&[b"EXPIRE", key, EXPIRES]);
        }
        self.backend.add(&[b"EXEC"]);
        if chord.left == 0 {
            let chord = self.chords.remove(group).unwrap();
            self.backend.add(&[b"GET", group_key.as_bytes()]);
            self.backend.add(&[b"ZRANGE", joined, b"0", b"-1"]);
            let callback = message(CALLBACK, &chord.callback, &chord.root, None);
            self.broker.add(&[b"LPUSH", QUEUE, callback.as_bytes()]);
            for key in [joined, extra, size] {
                self.backend.add(&[b"DEL", key]);
            }
        }
        (json!({"saved": 10}), Value::Array(Vec::new()))
    }

    fn event(&mut self, kind: &str, id: &str, fields: &str) {
        if !self.events_wanted.load(Ordering::Relaxed) {
            return;
        }
        self.clock += 1;
        let (clock, pid) = (self.clock, std::process::id());
        let now = now();
        self.events.push(format!(
            r#"{{"hostname": "{NODE}", "utcoffset": 0, "pid": {pid}, "clock": {clock}, "uuid": "{id}", {fields}"timestamp": {now}, "type": "{kind}"}}"#
        ));
        if self.events.len() == self.sending.list {
            self.send_events();
            self.keep_pace();
        }
    }

    /// Waits until the next events are due, if a rate is set.
    fn keep_pace(&mut self) {
        if self.sending.rate == 0 {
            return;
        }
        self.backend.flush();
        self.broker.flush();
        let began = *self.began.get_or_insert_with(Instant::now);
        let due = Duration::from_secs_f64(self.clock as f64 / f64::from(self.sending.rate));
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }

    fn send_events(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let mut body = String::new();
        for (number, event) in self.events.drain(..).enumerate() {
            let separator = if number == 0 { "[" } else { ", " };
            write!(body, "{separator}{event}").unwrap();
        }
        body.push(']');
        let body = BASE64.encode(body);
        let message = format!(
            r#"{{"body": "{body}", "content-encoding": "utf-8", "content-type": "application/json", "headers": {{"hostname": "{NODE}"}}, "properties": {{"delivery_mode": 1, "delivery_info": {{"exchange": "celeryev", "routing_key": "task.multi"}}, "priority": 0, "body_encoding": "base64", "delivery_tag": "4b1e7b1c-6b4e-4f1b-9f39-3f3b0a8b1d70"}}}}"#
        );
        self.broker
            .add(&[b"PUBLISH", b"/0.celeryev/task.multi", message.as_bytes()]);
    }
}

/// Returns the present time in Unix seconds.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Formats the message of a task as a publisher writes it.
fn message(task: &str, id: &str, root: &str, group: Option<&str>) -> String {
    let group = group.map_or_else(|| "null".to_owned(), |group| format!("\"{group}\""));
    let body = BASE64.encode(r#"[[["https://books.example/page-17"], "books"], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#);
    format!(
        r#"{{"body": "{body}", "content-encoding": "utf-8", "content-type": "application/json", "headers": {{"lang": "py", "task": "{task}", "id": "{id}", "root_id": "{root}", "parent_id": "{root}", "group": {group}, "retries": 0}}, "properties": {{"delivery_mode": 2, "delivery_info": {{"exchange": "", "routing_key": "celery"}}, "priority": 0, "body_encoding": "base64", "delivery_tag": "{id}", "correlation_id": "{id}"}}}}"#
    )
}

/// Replies to control commands, on the reply list that the command names.
fn obey(port: u16, events_wanted: &AtomicBool) {
    let mut questions = CountingConnection::connect(port, 0);
    let mut answers = CountingConnection::connect(port, 0);
    questions.ask(&[b"SUBSCRIBE", b"/0.celery.pidbox"]);
    loop {
        let Some(message) = questions.read().into_list().into_iter().nth(2) else {
            continue;
        };
        let envelope: Value = serde_json::from_slice(&message.into_text()).unwrap();
        let request = body_of(&envelope);
        let answer = answer(&request, port, events_wanted);
        let Some(list) = request["reply_to"]["routing_key"].as_str() else {
            continue;
        };
        let body = BASE64.encode(json!({NODE: answer}).to_string());
        let reply = json!({
            "body": body, "content-encoding": "utf-8", "content-type": "application/json",
            "headers": {"ticket": request["ticket"], "clock": 1},
            "properties": {"delivery_mode": 1, "delivery_info": {"exchange": "", "routing_key": list}, "priority": 0,
                "body_encoding": "base64", "delivery_tag": "4b1e7b1c-6b4e-4f1b-9f39-3f3b0a8b1d71"},
        });
        answers.ask(&[b"LPUSH", list.as_bytes(), reply.to_string().as_bytes()]);
    }
}

fn body_of(envelope: &Value) -> Value {
    let body = envelope["body"].as_str().unwrap();
    match envelope["properties"]["body_encoding"].as_str() {
        Some("base64") => serde_json::from_slice(&BASE64.decode(body).unwrap()).unwrap(),
        _ => serde_json::from_str(body).unwrap(),
    }
}

fn answer(request: &Value, port: u16, events_wanted: &AtomicBool) -> Value {
    let pid = std::process::id();
    match request["method"].as_str().unwrap_or_default() {
        "ping" => json!({"ok": "pong"}),
        "stats" => json!({
            "pid": pid, "uptime": 1, "clock": "1", "prefetch_count": 200, "total": {},
            "pool": {"max-concurrency": 64, "processes": (pid..pid + 64).collect::<Vec<u32>>()},
            "broker": {"hostname": "127.0.0.1", "port": port, "virtual_host": "0", "transport": "redis"},
        }),
        "registered" => json!([DISPATCH, CHUNK, CALLBACK]),
        "active_queues" => json!([{"name": "celery", "routing_key": "celery", "exchange": {"name": "celery"}}]),
        "enable_events" => {
            events_wanted.store(true, Ordering::Relaxed);
            json!({"ok": "task events enabled"})
        }
        "active" | "reserved" | "scheduled" => json!([]),
        _ => json!({"ok": "done"}),
    }
}
