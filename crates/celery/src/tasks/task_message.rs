//! Message of a task (protocol 2; Celery wire, observed on 5.2 to 5.7).

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::signature::{Signature, iso8601};
use super::task::{Task, TaskLink};
use crate::error::Result;
use crate::wire::envelope::OutgoingMessage;
use crate::wire::ids::{GroupId, TaskId};
use crate::wire::python_repr;

/// Context of a task in a canvas: the parts of the message that refer to other tasks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CanvasContext<'a> {
    /// Further links of the chain that begins with the task.
    pub(crate) later_links: &'a [TaskLink],
    /// Group that the task belongs to, and the index of the task in the group.
    pub(crate) group: Option<(&'a GroupId, usize)>,
    /// Callback that runs when all tasks of the group have ended.
    pub(crate) chord_callback: Option<&'a TaskLink>,
    /// Root of the job, used if the task names no root.
    pub(crate) root_id: Option<&'a TaskId>,
}

impl Task {
    /// Encodes the message of this task with the given canvas context.
    pub(crate) fn encode(&self, place: &CanvasContext<'_>) -> Result<Vec<u8>> {
        self.check()?;
        let links = place.later_links.iter().chain(place.chord_callback);
        links
            .chain(&self.on_success)
            .chain(&self.on_failure)
            .try_for_each(TaskLink::check)?;
        let root_id = self.root_id.as_ref().or(place.root_id).unwrap_or(&self.id);
        let seconds = |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64());
        let headers = TaskHeaders {
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
            app_headers: &self.headers,
        };
        let signatures = |links: &'_ [TaskLink]| -> Option<Vec<Value>> {
            // Usually there are no links, otherwise few.
            (!links.is_empty()).then(|| {
                links
                    .iter()
                    .filter_map(|link| serde_json::to_value(Signature::of(link, None)).ok())
                    .collect()
            })
        };
        // The worker takes the next link from the end of the list.
        let chain = (!place.later_links.is_empty()).then(|| {
            place
                .later_links
                .iter()
                .rev()
                .map(|link| Signature::of(link, None))
                .collect()
        });
        let group = place.group.map(|(group, _)| group);
        let embed = TaskEmbed {
            callbacks: signatures(&self.on_success),
            errbacks: signatures(&self.on_failure),
            chain,
            chord: place.chord_callback.map(|body| Signature::of(body, group)),
        };
        let remaining = |until: Timestamp| until.as_millisecond() - Timestamp::now().as_millisecond();
        OutgoingMessage {
            headers: &headers,
            body: &(&self.args, &self.kwargs, embed),
            exchange: "",
            routing_key: self.destination(),
            priority: self.priority,
            correlation_id: Some(self.id.as_str()),
            expiration: self.expires.map(|until| u64::try_from(remaining(until)).unwrap_or(0)),
        }
        .encode(&format!("the message of task `{}`", self.name))
    }
}

#[derive(Serialize)]
struct TaskHeaders<'a> {
    lang: &'static str,
    task: &'a str,
    id: &'a TaskId,
    eta: Option<String>,
    expires: Option<String>,
    group: Option<&'a GroupId>,
    group_index: Option<usize>,
    retries: u32,
    /// Hard and soft time limit in seconds.
    timelimit: (Option<f64>, Option<f64>),
    root_id: &'a TaskId,
    parent_id: Option<&'a TaskId>,
    argsrepr: String,
    kwargsrepr: String,
    origin: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_result: Option<bool>,
    #[serde(flatten)]
    app_headers: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct TaskEmbed<'a> {
    callbacks: Option<Vec<Value>>,
    errbacks: Option<Vec<Value>>,
    chain: Option<Vec<Signature<'a>>>,
    chord: Option<Signature<'a>>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::wire::frames;
    use crate::wire::message::QueuedTask;

    fn then(links: &[TaskLink]) -> CanvasContext<'_> {
        CanvasContext {
            later_links: links,
            ..CanvasContext::default()
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
            let ours = frames::decoded(&first.encode(&then(&[TaskLink::new(second)])).expect("encodable"));

            let mut body = theirs["body"].clone();
            // This client does not use Celery's result queues.
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
        let links = [TaskLink::new(Task::new("second")), TaskLink::immutable(last.clone())];
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
    fn a_task_that_would_harm_a_worker_is_refused() {
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
            let error = task.encode(&CanvasContext::default()).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
            assert!(
                Task::new("first").encode(&then(&[TaskLink::new(task)])).is_err(),
                "{why}"
            );
        }
        let huge = "x".repeat(crate::wire::json::SIZE_LIMIT);
        let error = Task::new("pkg.add")
            .args([json!(huge)])
            .encode(&CanvasContext::default())
            .expect_err("too large")
            .to_string();
        assert!(
            error.starts_with("cannot read the message") || error.contains("above the limit"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn a_written_message_is_read_back(
            name in "[a-z_.]{1,30}",
            queue in proptest::option::of("[a-zA-Z0-9._:-]{1,20}"),
            text in ".{0,40}",
            number in any::<i64>(),
            priority in any::<u8>(),
        ) {
            let mut task = Task::new(name).args([json!(text), json!(number)]).kwarg(text.clone(), number);
            task.queue = queue;
            task.priority = priority;
            let bytes = task.encode(&CanvasContext::default()).expect("encodable");
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
