//! A task to be run, and its message (protocol 2; Celery wire, observed on 5.2 to 5.7).
//!
//! What can be written here is what every worker can read: checked before it gets near a queue.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::envelope::Outgoing;
use super::signature::Signature;
use super::{Error, GroupId, Link, Result, TaskId, python_repr};

/// Celery's own default for `task_default_queue`.
pub const DEFAULT_QUEUE: &str = "celery";

/// Headers that Celery reads: an app's own must have other names.
const RESERVED_HEADERS: [&str; 22] = [
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
    "compression",
    "redelivered",
    "chain",
];

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
    /// A worker holds the task back until then.
    pub eta: Option<Timestamp>,
    /// Its pool process is killed after running it for so long, and the task has failed.
    pub time_limit: Option<Duration>,
    /// The exception `SoftTimeLimitExceeded` is raised in it after so long; a prefork pool only.
    pub soft_time_limit: Option<Duration>,
    /// The app's own, seen by the task as attributes of its request.
    pub headers: Map<String, Value>,
    /// Published by the worker when it succeeded.
    pub on_success: Vec<Link>,
    /// Published by the worker when it failed; an immutable one gets its own arguments, another the failed task's id.
    /// Celery calls a task of two and more parameters in place instead, with the request, the exception, the traceback.
    pub on_failure: Vec<Link>,
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
            eta: None,
            time_limit: None,
            soft_time_limit: None,
            headers: Map::new(),
            on_success: Vec::new(),
            on_failure: Vec::new(),
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

    /// The same task, run no earlier than so long from now; without effect beyond the end of the calendar.
    pub fn countdown(mut self, delay: Duration) -> Self {
        self.eta = Timestamp::now().checked_add(delay).ok();
        self
    }

    /// The same task with this header added.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// The queue that [`Client::publish`](super::Client::publish) puts it into.
    pub fn destination(&self) -> &str {
        self.queue.as_deref().unwrap_or(DEFAULT_QUEUE)
    }

    /// The message that starts this task, in the given surroundings.
    pub(super) fn encode(&self, place: &Place<'_>) -> Result<Vec<u8>> {
        self.check()?;
        let links = place.then.iter().chain(place.chord_body);
        links
            .chain(&self.on_success)
            .chain(&self.on_failure)
            .try_for_each(Link::check)?;
        let root_id = self.root_id.as_ref().or(place.root_id).unwrap_or(&self.id);
        let seconds = |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64());
        let headers = Headers {
            lang: "py",
            task: &self.name,
            id: &self.id,
            eta: self.eta.map(iso8601),
            expires: self.expires.map(iso8601),
            group: place.group.map(|(group, _)| group),
            group_index: place.group.map(|(_, index)| index),
            retries: 0,
            timelimit: (seconds(self.time_limit), seconds(self.soft_time_limit)),
            root_id,
            parent_id: self.parent_id.as_ref(),
            argsrepr: python_repr::tuple(&self.args),
            kwargsrepr: python_repr::dict(&self.kwargs),
            origin: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")),
            ignore_result: self.ignore_result,
            own: &self.headers,
        };
        let signatures = |links: &'_ [Link]| -> Option<Vec<Value>> {
            // Rarely any, and then few.
            (!links.is_empty()).then(|| {
                links
                    .iter()
                    .filter_map(|link| serde_json::to_value(link.signature(None)).ok())
                    .collect()
            })
        };
        // The worker takes the next link from the end of the list.
        let chain =
            (!place.then.is_empty()).then(|| place.then.iter().rev().map(|link| link.signature(None)).collect());
        let group = place.group.map(|(group, _)| group);
        let embed = Embed {
            callbacks: signatures(&self.on_success),
            errbacks: signatures(&self.on_failure),
            chain,
            chord: place.chord_body.map(|body| body.signature(group)),
        };
        let left = |until: Timestamp| until.as_millisecond() - Timestamp::now().as_millisecond();
        Outgoing {
            headers: &headers,
            body: &(&self.args, &self.kwargs, embed),
            exchange: "",
            routing_key: self.destination(),
            priority: self.priority,
            correlation_id: Some(self.id.as_str()),
            expiration: self.expires.map(|until| u64::try_from(left(until)).unwrap_or(0)),
        }
        .encode(&format!("the message of task `{}`", self.name))
    }

    pub(super) fn refused(&self, reason: impl Into<String>) -> Error {
        Error::Task {
            task: self.name.clone(),
            reason: reason.into(),
        }
    }

    /// Makes sure that every worker can read it.
    ///
    /// # Errors
    /// [`Error::Task`] says what it cannot.
    pub fn check(&self) -> Result<()> {
        let refused = |reason: &str| Err(self.refused(reason));
        if self.name.trim().is_empty() || self.name.contains(char::is_control) {
            return refused("its name is empty or holds control characters");
        }
        if self.id.as_str().is_empty() || self.id.as_str().contains(char::is_control) {
            return refused("its id is empty or holds control characters");
        }
        if let Some(queue) = &self.queue
            && (queue.is_empty() || queue.contains("\u{6}\u{16}"))
        {
            return refused("its queue's name is empty or holds the priority separator");
        }
        if let Some(name) = self
            .headers
            .keys()
            .find(|name| RESERVED_HEADERS.contains(&name.as_str()))
        {
            return Err(self.refused(format!("the header `{name}` is Celery's own")));
        }
        if self.time_limit.is_some_and(|limit| limit.is_zero())
            || self.soft_time_limit.is_some_and(|limit| limit.is_zero())
        {
            return refused("a time limit of zero would kill it at once");
        }
        Ok(())
    }
}

/// An instant as every version reads it: Python knows no fraction finer than a microsecond.
pub(super) fn iso8601(instant: Timestamp) -> String {
    instant.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

/// What a task's message says of others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place<'a> {
    /// Further links of the chain it begins.
    pub(super) then: &'a [Link],
    /// The group it belongs to, and its number there.
    pub(super) group: Option<(&'a GroupId, usize)>,
    /// What runs when the whole group has ended.
    pub(super) chord_body: Option<&'a Link>,
    /// The job's root, where the task names none.
    pub(super) root_id: Option<&'a TaskId>,
}

#[derive(Serialize)]
struct Headers<'a> {
    lang: &'static str,
    task: &'a str,
    id: &'a TaskId,
    eta: Option<String>,
    expires: Option<String>,
    group: Option<&'a GroupId>,
    group_index: Option<usize>,
    retries: u32,
    /// Hard, soft; seconds.
    timelimit: (Option<f64>, Option<f64>),
    root_id: &'a TaskId,
    parent_id: Option<&'a TaskId>,
    argsrepr: String,
    kwargsrepr: String,
    origin: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_result: Option<bool>,
    #[serde(flatten)]
    own: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct Embed<'a> {
    callbacks: Option<Vec<Value>>,
    errbacks: Option<Vec<Value>>,
    chain: Option<Vec<Signature<'a>>>,
    chord: Option<Signature<'a>>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::frames;
    use super::super::message::QueuedTask;
    use super::*;

    fn then(links: &[Link]) -> Place<'_> {
        Place {
            then: links,
            ..Place::default()
        }
    }

    #[test]
    fn a_chain_is_what_python_sends() {
        for version in frames::VERSIONS {
            let theirs = frames::load(version, "chain")[0].clone();
            let mut first = Task::new("wapp.first").args([json!("J1")]);
            first.id = TaskId::from(theirs["headers"]["id"].as_str().expect("an id"));
            let mut second = Task::new("wapp.dispatch").args([json!(3), json!(0.05)]);
            let options = &theirs["body"][2]["chain"][0]["options"];
            second.id = TaskId::from(options["task_id"].as_str().expect("an id"));
            let ours = frames::decoded(&first.encode(&then(&[Link::new(second)])).expect("encodable"));

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
                "group",
                "group_index",
                "timelimit",
                "argsrepr",
                "kwargsrepr",
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
        let message = frames::decoded(&Task::new("first").encode(&then(&links)).expect("encodable"));
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
                   "expires": "2030-01-02T03:04:05.000000+00:00"})
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
            let error = task.encode(&Place::default()).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
            assert!(Task::new("first").encode(&then(&[Link::new(task)])).is_err(), "{why}");
        }
        let huge = "x".repeat(super::super::SIZE_LIMIT);
        let error = Task::new("pkg.add")
            .args([json!(huge)])
            .encode(&Place::default())
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
            let bytes = task.encode(&Place::default()).expect("encodable");
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
