//! Publishing of tasks: a single task, a chain, a group, a chord, a batch (Celery wire, observed on 5.2 to 5.7).
//!
//! No task that may already be queued is sent again. If the connection breaks during the transfer, the error states
//! which tasks may be queued.

use std::borrow::Borrow;
use std::time::Duration;

use serde_json::json;

use super::task::{Task, TaskLink};
use super::task_message::CanvasContext;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::redis::connection::CommandConnection;
use crate::wire::ids::{GroupId, TaskId};
use orch_base::text::duration_text::shown;

/// Largest number of messages that are sent without waiting for an answer.
const PIPELINE_MESSAGES: usize = 500;
/// Number of bytes after which an answer is awaited; one message may be larger.
const PIPELINE_BYTES: usize = 4 << 20;
/// Lifetime of a group's bookkeeping in seconds: Celery's default for results.
const BOOKKEEPING_EXPIRES: u64 = 86_400;

/// Ids of a published chord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedChord {
    pub group: GroupId,
    /// Ids of the header's tasks, in order.
    pub header: Vec<TaskId>,
    /// Id of the callback; the result of the callback is the result of the chord.
    pub callback: TaskId,
}

/// Error of a batch that was published only in part. Tasks are sent in order: first the published tasks, then the tasks
/// that may or may not be published, then the tasks that were not sent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{published} of {total} tasks are published, {unconfirmed} more may be published: {error}")]
pub struct BatchError {
    pub published: usize,
    /// Number of tasks that may or may not be published; [`Client::locate_all`] finds out.
    pub unconfirmed: usize,
    pub total: usize,
    #[source]
    pub error: Error,
}

impl BatchError {
    /// Returns the error of a batch of which no task was sent.
    fn before_the_first(total: usize, error: Error) -> Self {
        Self {
            published: 0,
            unconfirmed: 0,
            total,
            error,
        }
    }
}

/// Commands of one pipeline, and the tasks that they publish.
struct PublishPipeline<T> {
    commands: redis::Pipeline,
    tasks: Vec<T>,
}

impl Client {
    /// Puts a task on its queue.
    ///
    /// A task that may already be queued is not sent again: if the connection breaks during the transfer, the error is
    /// [`Error::Unconfirmed`].
    pub async fn publish(&self, task: &Task) -> Result<TaskId> {
        self.push(task, task.encode(&CanvasContext::default())?).await?;
        Ok(task.id.clone())
    }

    /// Puts the first task of a chain on its queue. The worker publishes each further task when the previous task has
    /// succeeded. Returns the ids in order. When a task fails, all later ids get the same failure, so it is enough to
    /// wait for the last id.
    pub async fn publish_chain(&self, links: &[TaskLink]) -> Result<Vec<TaskId>> {
        let Some((first, then)) = links.split_first() else {
            return Err(empty("a chain", "links"));
        };
        let place = CanvasContext {
            later_links: then,
            ..CanvasContext::default()
        };
        self.push(&first.task, first.task.encode(&place)?).await?;
        Ok(links.iter().map(|link| link.task.id.clone()).collect())
    }

    /// Publishes tasks as a group. The tasks are one job: the first task is the root of each task that names no root.
    /// Nothing is stored about the group, see [`Client::save_group`].
    ///
    /// # Errors
    /// [`BatchError`] states how many tasks are published.
    pub async fn publish_group(&self, tasks: &[Task]) -> Result<GroupId, BatchError> {
        let group = GroupId::random();
        let root_id = tasks.first().map(|task| &task.id);
        self.publish_all(tasks, |index| CanvasContext {
            group: Some((&group, index)),
            root_id,
            ..CanvasContext::default()
        })
        .await?;
        Ok(group)
    }

    /// Stores the members of a group for a day, as Python's `GroupResult.save` does, so that `GroupResult.restore`
    /// finds the group.
    pub async fn save_group(&self, group: &GroupId, members: &[TaskId]) -> Result<()> {
        let members: Vec<_> = members.iter().map(|id| json!([[id, null], null])).collect();
        let value = json!({ "result": [[group, null], members] }).to_string();
        let mut save = redis::pipe();
        save.cmd("SET").arg(self.backend_keys().chord(group, "")).arg(value);
        save.arg("EX").arg(BOOKKEEPING_EXPIRES).ignore();
        self.backend_query("save a group", &save).await
    }

    /// Publishes a chord: the header's tasks, and a callback. A worker publishes the callback when all tasks
    /// of the header have ended, with the list of their results. If a task of the header fails, the id of the callback
    /// gets the failure after all tasks have ended.
    ///
    /// The result backend must be the one that the workers use, because they count the header's tasks there. All tasks
    /// are one job, see [`Client::publish_group`].
    ///
    /// # Errors
    /// [`BatchError`] states how many tasks of the header are published; the callback never runs if tasks are missing.
    pub async fn publish_chord(&self, header: &[Task], callback: &TaskLink) -> Result<PublishedChord, BatchError> {
        let refused = |error: Error| BatchError::before_the_first(header.len(), error);
        let Some(first) = header.first() else {
            return Err(refused(empty("a chord", "header")));
        };
        if let Some(without_result) = header.iter().find(|task| task.ignore_result == Some(true)) {
            return Err(refused(
                without_result.refused("a task without a result would never complete its chord"),
            ));
        }
        callback.check().map_err(refused)?;
        check_all(header).map_err(refused)?;
        let group = GroupId::random();
        // The size is stored first: if all tasks of the header ended before the size is stored, the callback would
        // never run.
        let mut size = redis::pipe();
        size.cmd("SET")
            .arg(self.backend_keys().chord(&group, ".s"))
            .arg(header.len());
        size.arg("EX").arg(BOOKKEEPING_EXPIRES).ignore();
        self.backend_query::<()>("store a chord's size", &size)
            .await
            .map_err(refused)?;
        self.publish_all(header, |index| CanvasContext {
            group: Some((&group, index)),
            chord_callback: Some(callback),
            root_id: Some(&first.id),
            ..CanvasContext::default()
        })
        .await?;
        Ok(PublishedChord {
            header: header.iter().map(|task| task.id.clone()).collect(),
            callback: callback.task.id.clone(),
            group,
        })
    }

    /// Publishes many tasks, several hundred per pipeline. Checks all tasks before the first is sent.
    ///
    /// # Errors
    /// [`BatchError`] states how many tasks are published.
    pub async fn publish_batch(&self, tasks: &[Task]) -> Result<(), BatchError> {
        self.publish_all(tasks, |_| CanvasContext::default()).await
    }

    /// Publishes the tasks of an iterator, several hundred per pipeline, and passes the published tasks to
    /// `on_published`. The tasks of a later pipeline are taken from the iterator and checked while the previous
    /// pipeline is sent, so that an invalid task does not prevent the publication of earlier tasks.
    ///
    /// # Errors
    /// [`BatchError`] states how many tasks are published.
    pub async fn publish_each(
        &self,
        total: usize,
        tasks: impl Iterator<Item = Result<Task>>,
        on_published: &mut dyn FnMut(&[Task]),
    ) -> Result<(), BatchError> {
        let encoded = tasks.map(|task| {
            let task = task?;
            let message = task.encode(&CanvasContext::default())?;
            Ok((task, message))
        });
        self.publish_messages(total, encoded, on_published).await
    }

    async fn publish_all<'a>(
        &self,
        tasks: &[Task],
        place: impl Fn(usize) -> CanvasContext<'a>,
    ) -> Result<(), BatchError> {
        let total = tasks.len();
        check_all(tasks).map_err(|error| BatchError::before_the_first(total, error))?;
        let encoded = tasks.iter().enumerate();
        let encoded = encoded.map(|(index, task)| Ok((task, task.encode(&place(index))?)));
        self.publish_messages(total, encoded, &mut |_| {}).await
    }

    /// Publishes tasks with their messages in pipelines. The next pipeline is prepared while the server processes the
    /// previous one.
    async fn publish_messages<T: Borrow<Task>>(
        &self,
        total: usize,
        mut encoded: impl Iterator<Item = Result<(T, Vec<u8>)>>,
        on_published: &mut dyn FnMut(&[T]),
    ) -> Result<(), BatchError> {
        let failed = |published: usize, unconfirmed: usize, error: Error| BatchError {
            published,
            unconfirmed,
            total,
            error,
        };
        let first = self.pipeline(&mut encoded);
        let mut next = first.map_err(|error| BatchError::before_the_first(total, error))?;
        // The PING detects a connection that was closed unnoticed, while a repetition is still safe.
        let ping = self.ping_broker("publish tasks").await;
        ping.map_err(|error| BatchError::before_the_first(total, error))?;
        let mut published = 0;
        while let Some(current) = next.take() {
            let (answer, following) = tokio::join!(
                self.broker()
                    .query_once::<Vec<u64>>("publish tasks", &current.commands, self.deadline()),
                async {
                    tokio::task::yield_now().await;
                    self.pipeline(&mut encoded)
                }
            );
            if let Err(error) = answer {
                // Even if the server refuses a command, it may have executed other commands of the pipeline.
                return Err(failed(published, current.tasks.len(), error));
            }
            published += current.tasks.len();
            on_published(&current.tasks);
            next = following.map_err(|error| failed(published, 0, error))?;
        }
        Ok(())
    }

    /// Assembles the next pipeline; `None` if there are no more messages.
    fn pipeline<T: Borrow<Task>>(
        &self,
        encoded: &mut impl Iterator<Item = Result<(T, Vec<u8>)>>,
    ) -> Result<Option<PublishPipeline<T>>> {
        let mut commands = redis::Pipeline::with_capacity(4);
        let (mut tasks, mut bytes) = (Vec::new(), 0);
        // Successive tasks of one list share one LPUSH command, which keeps their order.
        let mut run: Option<(String, redis::Cmd)> = None;
        while tasks.len() < PIPELINE_MESSAGES && bytes < PIPELINE_BYTES {
            let Some((task, message)) = encoded.next().transpose()? else {
                break;
            };
            bytes += message.len();
            let list = self.list_of(task.borrow());
            match &mut run {
                Some((same, push)) if *same == list => {
                    push.arg(message);
                }
                _ => {
                    let mut push = redis::cmd("LPUSH");
                    push.arg(&list).arg(message);
                    if let Some((_, full)) = run.replace((list, push)) {
                        commands.add_command(full);
                    }
                }
            }
            tasks.push(task);
        }
        if let Some((_, full)) = run {
            commands.add_command(full);
        }
        Ok((!tasks.is_empty()).then_some(PublishPipeline { commands, tasks }))
    }

    /// Returns the list that holds the messages of the task's queue at the task's priority.
    fn list_of(&self, task: &Task) -> String {
        self.broker_keys().queue(task.destination(), task.priority)
    }

    async fn push(&self, task: &Task, message: Vec<u8>) -> Result<()> {
        // The PING detects a connection that was closed unnoticed, while a repetition is still safe.
        self.ping_broker("publish a task").await?;
        let mut push = redis::pipe();
        push.cmd("LPUSH").arg(self.list_of(task)).arg(message);
        send(self.broker(), &push, &task.id, self.deadline()).await
    }

    async fn ping_broker(&self, action: &str) -> Result<()> {
        self.broker_query(action, redis::pipe().cmd("PING").ignore()).await
    }
}

async fn send(broker: &CommandConnection, push: &redis::Pipeline, task: &TaskId, within: Duration) -> Result<()> {
    // Redis answers LPUSH with the length of the list. Any other answer means a failure.
    broker
        .query_once::<Vec<u64>>("publish a task", push, within)
        .await
        .map(|_| ())
        .map_err(|error| match error {
            Error::Unreachable { reason, endpoint, .. } => Error::Unconfirmed {
                task: task.clone(),
                endpoint,
                reason,
            },
            Error::DeadlineExceeded { endpoint, after, .. } => Error::Unconfirmed {
                task: task.clone(),
                endpoint,
                reason: format!("no answer within {}", shown(after)),
            },
            other => other,
        })
}

fn check_all(tasks: &[Task]) -> Result<()> {
    tasks.iter().try_for_each(|task| {
        task.check()?;
        task.on_success
            .iter()
            .chain(&task.on_failure)
            .try_for_each(TaskLink::check)
    })
}

fn empty(what: &str, of: &str) -> Error {
    Error::InvalidTask {
        task: what.to_owned(),
        reason: format!("it has no {of}"),
    }
}
