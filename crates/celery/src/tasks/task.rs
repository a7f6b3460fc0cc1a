//! Task to be executed, and its links to tasks that follow it.
//!
//! A task is checked before its message is sent, so that every worker can read each published message.
//! [`task_message`](super::task_message) writes the message.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::wire::ids::TaskId;

/// Celery's default of `task_default_queue`.
pub const DEFAULT_QUEUE: &str = "celery";

/// Headers that Celery reads; the headers of an app must have other names.
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

/// One call of a task function.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Id of the task, known before publishing, so that a watch of the result can start first.
    pub id: TaskId,
    /// Name of the function as registered in the worker, such as `scraping.dispatch`.
    pub name: String,
    pub args: Vec<Value>,
    pub kwargs: Map<String, Value>,
    /// Queue of the task. `None`: [`DEFAULT_QUEUE`] for a task that this client publishes; for a later link of a chain
    /// the app's routes decide.
    pub queue: Option<String>,
    /// Priority: workers take 0 first and 9 last.
    pub priority: u8,
    /// Time before which a worker does not execute the task.
    pub eta: Option<Timestamp>,
    /// Execution time after which the pool process of the task is killed; the task has then failed.
    pub time_limit: Option<Duration>,
    /// Execution time after which the exception `SoftTimeLimitExceeded` is raised in the task; prefork pools only.
    pub soft_time_limit: Option<Duration>,
    /// Headers of the app; the task reads them as attributes of its request.
    pub headers: Map<String, Value>,
    /// Tasks that the worker publishes when the task succeeded.
    pub on_success: Vec<TaskLink>,
    /// Tasks that the worker publishes when the task failed. An immutable task gets its own arguments, other tasks get
    /// the id of the failed task. A task function with two or more parameters is not published: the worker calls the
    /// function directly with the request, the exception and the traceback.
    pub on_failure: Vec<TaskLink>,
    /// Time after which a worker does not execute the task but marks it as revoked.
    pub expires: Option<Timestamp>,
    /// `None`: the app decides. `Some(true)`: no result is stored, not even a failure. `Some(false)` overrides the
    /// app's setting only on Celery 5.6 and newer.
    pub ignore_result: Option<bool>,
    /// First task of the job; `None` means this task.
    pub root_id: Option<TaskId>,
    pub parent_id: Option<TaskId>,
}

impl Task {
    /// Creates a task with a random id and without arguments.
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

    /// Sets the positional arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = Value>) -> Self {
        self.args = args.into_iter().collect();
        self
    }

    /// Adds a keyword argument.
    #[must_use]
    pub fn kwarg(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.kwargs.insert(name.into(), value.into());
        self
    }

    /// Sets the queue.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Delays the task: workers execute it no earlier than `delay` from now. Has no effect if the time is beyond the
    /// end of the calendar.
    #[must_use]
    pub fn countdown(mut self, delay: Duration) -> Self {
        self.eta = Timestamp::now().checked_add(delay).ok();
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Returns the queue that [`Client::publish`](crate::client::Client::publish) puts the task into.
    pub fn destination(&self) -> &str {
        self.queue.as_deref().unwrap_or(DEFAULT_QUEUE)
    }

    pub(crate) fn refused(&self, reason: impl Into<String>) -> Error {
        Error::InvalidTask {
            task: self.name.clone(),
            reason: reason.into(),
        }
    }

    /// Checks that every worker can read the task's message.
    ///
    /// # Errors
    /// The error states why workers cannot read the message.
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
            return refused("a time limit of zero would kill the task at once");
        }
        Ok(())
    }
}

/// Task that a worker publishes when another task has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskLink {
    pub task: Task,
    /// False if the result of the other task becomes the first argument.
    pub immutable: bool,
}

impl TaskLink {
    /// Creates a link that receives the result of the other task as first argument.
    pub fn new(task: Task) -> Self {
        Self { task, immutable: false }
    }

    /// Creates a link that does not receive the result of the other task.
    pub fn immutable(task: Task) -> Self {
        Self { task, immutable: true }
    }

    /// Checks that a worker can publish the task.
    pub(crate) fn check(&self) -> Result<()> {
        self.task.check()?;
        if self.task.eta.is_some() {
            return Err(self
                .task
                .refused("a task that a worker publishes later cannot have an eta"));
        }
        self.task
            .on_success
            .iter()
            .chain(&self.task.on_failure)
            .try_for_each(Self::check)
    }
}
