//! A task to be run, and its message (protocol 2; Celery wire, observed on 5.2 to 5.7).
//!
//! What can be written here is what every worker can read: checked before it gets near a queue.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::envelope::Outgoing;
use super::keys::SEPARATOR;
use super::{Error, Result, TaskId};

/// Celery's own default for `task_default_queue`.
pub const DEFAULT_QUEUE: &str = "celery";

/// One call of one task.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Known before publishing, so that its result can be watched first.
    pub id: TaskId,
    /// As registered in the worker, such as `scraping.dispatch`.
    pub name: String,
    pub args: Vec<Value>,
    pub kwargs: Map<String, Value>,
    /// `None`: [`DEFAULT_QUEUE`] for a task that we publish; for a later link of a chain what the app's routes say.
    pub queue: Option<String>,
    /// 0 is served first, 9 last.
    pub priority: u8,
    /// A worker that takes the task after this instant marks it as revoked.
    pub expires: Option<Timestamp>,
    /// `None` leaves it to the app. `Some(true)`: nothing is ever written for it, not even a failure.
    /// `Some(false)` overrides the app's setting on 5.6 and newer only.
    pub ignore_result: Option<bool>,
    /// First task of the job; `None` means this one.
    pub root_id: Option<TaskId>,
    pub parent_id: Option<TaskId>,
}

impl Task {
    /// A task with a random id, without arguments.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            id: TaskId::random(),
            name: name.into(),
            args: Vec::new(),
            kwargs: Map::new(),
            queue: None,
            priority: 0,
            expires: None,
            ignore_result: None,
            root_id: None,
            parent_id: None,
        }
    }

    /// The same task with these positional arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = Value>) -> Self {
        self.args = args.into_iter().collect();
        self
    }

    /// The same task with this keyword argument added.
    pub fn kwarg(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.kwargs.insert(name.into(), value.into());
        self
    }

    /// The same task for this queue.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// The queue that [`Client::publish`](super::Client::publish) puts it into.
    pub(super) fn destination(&self) -> &str {
        self.queue.as_deref().unwrap_or(DEFAULT_QUEUE)
    }

    /// The message that starts this task and, when it succeeded, the links after it.
    pub(super) fn encode(&self, then: &[Link]) -> Result<Vec<u8>> {
        self.check()?;
        for link in then {
            link.task.check()?;
        }
        let root_id = self.root_id.as_ref().unwrap_or(&self.id);
        let headers = Headers {
            lang: "py",
            task: &self.name,
            id: &self.id,
            eta: None,
            expires: self.expires.map(|instant| instant.to_string()),
            retries: 0,
            root_id,
            parent_id: self.parent_id.as_ref(),
            origin: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")),
            ignore_result: self.ignore_result,
        };
        // The worker takes the next link from the end of the list.
        let chain = (!then.is_empty()).then(|| then.iter().rev().map(Link::signature).collect());
        let embed = Embed {
            callbacks: None,
            errbacks: None,
            chain,
            chord: None,
        };
        Outgoing {
            headers: &headers,
            body: &(&self.args, &self.kwargs, embed),
            exchange: "",
            routing_key: self.destination(),
            priority: self.priority,
            correlation_id: Some(self.id.as_str()),
        }
        .encode(&format!("the message of task `{}`", self.name))
    }

    fn check(&self) -> Result<()> {
        let refused = |reason: &str| {
            Err(Error::Task {
                task: self.name.clone(),
                reason: reason.to_owned(),
            })
        };
        if self.name.trim().is_empty() || self.name.contains(char::is_control) {
            return refused("its name is empty or holds control characters");
        }
        if self.id.as_str().is_empty() || self.id.as_str().contains(char::is_control) {
            return refused("its id is empty or holds control characters");
        }
        if let Some(queue) = &self.queue
            && (queue.is_empty() || queue.contains(SEPARATOR))
        {
            return refused("its queue's name is empty or holds the priority separator");
        }
        Ok(())
    }
}

/// A task as a part of a chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    pub task: Task,
    /// `false`: the previous link's result becomes its first argument.
    pub immutable: bool,
}

impl Link {
    /// A link that takes the previous link's result as its first argument.
    pub fn new(task: Task) -> Self {
        Self { task, immutable: false }
    }

    /// A link that does not want the previous link's result.
    pub fn immutable(task: Task) -> Self {
        Self { task, immutable: true }
    }

    fn signature(&self) -> Signature<'_> {
        Signature {
            task: &self.task.name,
            args: &self.task.args,
            kwargs: &self.task.kwargs,
            options: Options {
                task_id: &self.task.id,
                queue: self.task.queue.as_deref(),
                priority: (self.task.priority > 0).then_some(self.task.priority),
                expires: self.task.expires.map(|instant| instant.to_string()),
                ignore_result: self.task.ignore_result,
            },
            subtask_type: None,
            immutable: self.immutable,
        }
    }
}

#[derive(Serialize)]
struct Headers<'a> {
    lang: &'static str,
    task: &'a str,
    id: &'a TaskId,
    eta: Option<()>,
    /// ISO 8601.
    expires: Option<String>,
    retries: u32,
    root_id: &'a TaskId,
    parent_id: Option<&'a TaskId>,
    origin: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_result: Option<bool>,
}

#[derive(Serialize)]
struct Embed<'a> {
    callbacks: Option<()>,
    errbacks: Option<()>,
    chain: Option<Vec<Signature<'a>>>,
    chord: Option<()>,
}

#[derive(Serialize)]
struct Signature<'a> {
    task: &'a str,
    args: &'a [Value],
    kwargs: &'a Map<String, Value>,
    options: Options<'a>,
    subtask_type: Option<()>,
    immutable: bool,
}

#[derive(Serialize)]
struct Options<'a> {
    task_id: &'a TaskId,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_result: Option<bool>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::frames;
    use super::super::message::QueuedTask;
    use super::*;

    #[test]
    fn a_chain_is_what_python_sends() {
        for version in frames::VERSIONS {
            let theirs = frames::load(version, "chain")[0].clone();
            let mut first = Task::new("wapp.first").args([json!("J1")]);
            first.id = TaskId::from(theirs["headers"]["id"].as_str().expect("an id"));
            let mut second = Task::new("wapp.dispatch").args([json!(3), json!(0.05)]);
            let options = &theirs["body"][2]["chain"][0]["options"];
            second.id = TaskId::from(options["task_id"].as_str().expect("an id"));
            let ours = frames::decoded(&first.encode(&[Link::new(second)]).expect("encodable"));

            let mut body = theirs["body"].clone();
            // We do not use Celery's own result queues.
            body[2]["chain"][0]["options"]
                .as_object_mut()
                .expect("options")
                .remove("reply_to");
            assert_eq!(ours["body"], body, "{version}");
            for header in [
                "lang",
                "task",
                "id",
                "eta",
                "expires",
                "retries",
                "root_id",
                "parent_id",
            ] {
                assert_eq!(ours["headers"][header], theirs["headers"][header], "{version} {header}");
            }
            for property in [
                "correlation_id",
                "delivery_mode",
                "delivery_info",
                "priority",
                "body_encoding",
            ] {
                assert_eq!(
                    ours["properties"][property], theirs["properties"][property],
                    "{version} {property}"
                );
            }
            assert!(ours["properties"]["delivery_tag"].is_string());
        }
    }

    #[test]
    fn later_links_are_reversed_and_keep_their_options() {
        let mut last = Task::new("third").queue("slow");
        last.priority = 6;
        last.ignore_result = Some(true);
        last.expires = Some("2030-01-02T03:04:05Z".parse().expect("an instant"));
        let links = [Link::new(Task::new("second")), Link::immutable(last.clone())];
        let message = frames::decoded(&Task::new("first").encode(&links).expect("encodable"));
        let chain = &message["body"][2]["chain"];
        assert_eq!(
            (&chain[0]["task"], &chain[1]["task"]),
            (&json!("third"), &json!("second"))
        );
        assert_eq!(
            (&chain[0]["immutable"], &chain[1]["immutable"]),
            (&json!(true), &json!(false))
        );
        assert_eq!(
            chain[0]["options"],
            json!({"task_id": last.id, "queue": "slow", "priority": 6, "ignore_result": true,
                   "expires": "2030-01-02T03:04:05Z"})
        );
    }

    #[test]
    fn what_would_harm_a_worker_is_refused() {
        let without_id = Task {
            id: TaskId::from(""),
            ..Task::new("pkg.add")
        };
        for (task, why) in [
            (Task::new(" "), "its name"),
            (Task::new("a\nb"), "its name"),
            (without_id, "its id"),
            (Task::new("pkg.add").queue(""), "its queue"),
            (Task::new("pkg.add").queue("celery\u{6}\u{16}3"), "its queue"),
        ] {
            let error = task.encode(&[]).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
            assert!(Task::new("first").encode(&[Link::new(task)]).is_err(), "{why}");
        }
        let huge = "x".repeat(super::super::SIZE_LIMIT);
        let error = Task::new("pkg.add")
            .args([json!(huge)])
            .encode(&[])
            .expect_err("too large")
            .to_string();
        assert!(
            error.starts_with("cannot read the message") || error.contains("above the limit"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            name in "[a-z_.]{1,30}",
            queue in proptest::option::of("[a-zA-Z0-9._:-]{1,20}"),
            text in ".{0,40}",
            number in any::<i64>(),
            priority in any::<u8>(),
        ) {
            let mut task = Task::new(name).args([json!(text), json!(number)]).kwarg(text.clone(), number);
            task.queue = queue;
            task.priority = priority;
            let bytes = task.encode(&[]).expect("encodable");
            let read = QueuedTask::decode(&bytes).expect("JSON").expect("a task");
            prop_assert_eq!(&read.id, &task.id);
            prop_assert_eq!(read.name.as_deref(), Some(task.name.as_str()));
            prop_assert_eq!(read.root_id.as_ref(), Some(&task.id));
            prop_assert_eq!(read.routing_key.as_deref(), Some(task.destination()));
            let body = frames::decoded(&bytes)["body"].clone();
            prop_assert_eq!(&body[0], &json!(task.args));
            prop_assert_eq!(&body[1], &json!(task.kwargs));
        }
    }
}
