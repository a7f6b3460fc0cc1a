//! Putting tasks on their queues: one, a chain, a group, a chord, a batch (Celery wire, observed on 5.2 to 5.7).
//!
//! Nothing is ever sent twice: when the connection breaks while tasks are on their way, the error says which.

use std::time::Duration;

use serde_json::json;

use super::client::Client;
use super::connection::Commands;
use super::task::Place;
use super::{Error, GroupId, Link, Result, Task, TaskId};
use crate::duration_text::shown;

/// Messages that are sent before an answer is waited for.
const PIPELINE: usize = 500;
/// Bytes that are sent before an answer is waited for; one message may be larger.
const PIPELINE_BYTES: usize = 4 << 20;
/// How long a group's bookkeeping lives, in seconds: Celery's own default for results.
const BOOKKEEPING_EXPIRES: u64 = 86_400;

/// The ids of a chord that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chord {
    pub group: GroupId,
    /// In the order of the header.
    pub header: Vec<TaskId>,
    /// Its result is the chord's.
    pub body: TaskId,
}

/// A batch that was published in part. Tasks are sent in order: first come those that are published, then those of which
/// it is not known, then those that were not sent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{published} of {total} tasks are published, {unconfirmed} more may be: {error}")]
pub struct BatchError {
    pub published: usize,
    /// May be published or not; [`Client::locate_all`] can tell.
    pub unconfirmed: usize,
    pub total: usize,
    #[source]
    pub error: Error,
}

/// Messages of one pipeline.
struct Pipeline {
    commands: redis::Pipeline,
    messages: usize,
}

impl Client {
    /// Puts a task on its queue.
    ///
    /// Never sent twice: when the connection breaks while the task is on its way, the error is
    /// [`Error::Unconfirmed`].
    pub async fn publish(&self, task: &Task) -> Result<TaskId> {
        self.push(task, task.encode(&Place::default())?).await?;
        Ok(task.id.clone())
    }

    /// Puts the first task of a chain on its queue; each further one is published by the worker when the one before
    /// it succeeded. Gives the ids in order. When a link fails, all later ids get the same failure: waiting for the
    /// last id is enough.
    pub async fn publish_chain(&self, links: &[Link]) -> Result<Vec<TaskId>> {
        let Some((first, then)) = links.split_first() else {
            return Err(empty("a chain", "links"));
        };
        let place = Place {
            then,
            ..Place::default()
        };
        self.push(&first.task, first.task.encode(&place)?).await?;
        Ok(links.iter().map(|link| link.task.id.clone()).collect())
    }

    /// Publishes tasks that belong together. They are one job: the root of each that names none is the first of them.
    /// Nothing is stored about a group, see [`Client::save_group`].
    ///
    /// # Errors
    /// [`BatchError`] tells how far it came.
    pub async fn publish_group(&self, tasks: &[Task]) -> Result<GroupId, BatchError> {
        let group = GroupId::random();
        let root_id = tasks.first().map(|task| &task.id);
        self.publish_all(tasks, |index| Place {
            group: Some((&group, index)),
            root_id,
            ..Place::default()
        })
        .await?;
        Ok(group)
    }

    /// Stores a group's members for a day, as Python's `GroupResult.save` does, so that `GroupResult.restore` finds it.
    pub async fn save_group(&self, group: &GroupId, members: &[TaskId]) -> Result<()> {
        let members: Vec<_> = members.iter().map(|id| json!([[id, null], null])).collect();
        let value = json!({ "result": [[group, null], members] }).to_string();
        let mut save = redis::pipe();
        save.cmd("SET").arg(self.backend_keys().chord(group, "")).arg(value);
        save.arg("EX").arg(BOOKKEEPING_EXPIRES).ignore();
        self.backend().query("save a group", &save, self.deadline()).await
    }

    /// Publishes a chord: the header's tasks, and a body that the worker publishes when all of them have ended, with the
    /// list of their results. When one of them fails, the body's id gets that failure once all have ended.
    ///
    /// The result backend must be the workers' own: they count there. All tasks are one job, see
    /// [`Client::publish_group`].
    ///
    /// # Errors
    /// [`BatchError`] tells how many of the header are published; without the rest the body never runs.
    pub async fn publish_chord(&self, header: &[Task], body: &Link) -> Result<Chord, BatchError> {
        let refused = |error: Error| BatchError {
            published: 0,
            unconfirmed: 0,
            total: header.len(),
            error,
        };
        let Some(first) = header.first() else {
            return Err(refused(empty("a chord", "header")));
        };
        if let Some(deaf) = header.iter().find(|task| task.ignore_result == Some(true)) {
            return Err(refused(
                deaf.refused("a task without a result would never complete its chord"),
            ));
        }
        body.check().map_err(refused)?;
        check_all(header).map_err(refused)?;
        let group = GroupId::random();
        // The size comes first: with all of the header ended before it is there, the body would never run.
        let mut size = redis::pipe();
        size.cmd("SET")
            .arg(self.backend_keys().chord(&group, ".s"))
            .arg(header.len());
        size.arg("EX").arg(BOOKKEEPING_EXPIRES).ignore();
        self.backend()
            .query::<()>("store a chord's size", &size, self.deadline())
            .await
            .map_err(refused)?;
        self.publish_all(header, |index| Place {
            group: Some((&group, index)),
            chord_body: Some(body),
            root_id: Some(&first.id),
            ..Place::default()
        })
        .await?;
        Ok(Chord {
            header: header.iter().map(|task| task.id.clone()).collect(),
            body: body.task.id.clone(),
            group,
        })
    }

    /// Publishes many tasks, several hundred on the wire at a time. All are looked at before the first is sent.
    ///
    /// # Errors
    /// [`BatchError`] tells how far it came.
    pub async fn publish_batch(&self, tasks: &[Task]) -> Result<(), BatchError> {
        self.publish_all(tasks, |_| Place::default()).await
    }

    /// Publishes tasks as they are made, several hundred on the wire at a time; `tell` hears of those that are published.
    /// What is made is not looked at before the tasks ahead of it are sent.
    ///
    /// # Errors
    /// [`BatchError`] tells how far it came.
    pub async fn publish_each(
        &self,
        total: usize,
        mut tasks: impl Iterator<Item = Result<Task>>,
        tell: &mut dyn FnMut(&[Task]),
    ) -> Result<(), BatchError> {
        let failed = |published: usize, unconfirmed: usize, error: Error| BatchError {
            published,
            unconfirmed,
            total,
            error,
        };
        let alone = |_| Place::default();
        // Those of the next pipeline, and perhaps some more.
        let mut made: Vec<Task> = Vec::with_capacity(PIPELINE);
        let mut make = |made: &mut Vec<Task>| {
            let missing = PIPELINE - made.len();
            tasks.by_ref().take(missing).try_for_each(|task| {
                made.push(task?);
                Ok(())
            })
        };
        make(&mut made).map_err(|error| failed(0, 0, error))?;
        // Finds a connection that was closed unnoticed, while repeating is still harmless.
        self.ping_broker("publish tasks")
            .await
            .map_err(|error| failed(0, 0, error))?;
        let mut published = 0;
        let mut next = self.pipeline(&made, 0, &alone).map_err(|error| failed(0, 0, error))?;
        while let Some(current) = next.take() {
            let sent: Vec<Task> = made.drain(..current.messages).collect();
            // The server works on the one while the other is made.
            let (answer, following) = tokio::join!(
                self.broker()
                    .query_once::<()>("publish tasks", &current.commands, self.deadline()),
                async {
                    tokio::task::yield_now().await;
                    make(&mut made)?;
                    self.pipeline(&made, 0, &alone)
                }
            );
            if let Err(error) = answer {
                // Refused means that the server has said so: of a pipeline it may still have taken a part.
                return Err(failed(published, current.messages, error));
            }
            published += current.messages;
            tell(&sent);
            next = following.map_err(|error| failed(published, 0, error))?;
        }
        Ok(())
    }

    async fn publish_all<'a>(&self, tasks: &[Task], place: impl Fn(usize) -> Place<'a>) -> Result<(), BatchError> {
        let total = tasks.len();
        let mut published = 0;
        let failed = |published: usize, unconfirmed: usize, error: Error| BatchError {
            published,
            unconfirmed,
            total,
            error,
        };
        check_all(tasks).map_err(|error| failed(0, 0, error))?;
        // Finds a connection that was closed unnoticed, while repeating is still harmless.
        self.ping_broker("publish tasks")
            .await
            .map_err(|error| failed(0, 0, error))?;
        let mut next = self.pipeline(tasks, 0, &place).map_err(|error| failed(0, 0, error))?;
        while let Some(current) = next.take() {
            let sent = published + current.messages;
            // The server works on the one while the other is written.
            let (answer, following) = tokio::join!(
                self.broker()
                    .query_once::<()>("publish tasks", &current.commands, self.deadline()),
                async {
                    tokio::task::yield_now().await;
                    self.pipeline(tasks, sent, &place)
                }
            );
            if let Err(error) = answer {
                // Refused means that the server has said so: of a pipeline it may still have taken a part.
                return Err(failed(published, current.messages, error));
            }
            published = sent;
            next = following.map_err(|error| failed(published, 0, error))?;
        }
        Ok(())
    }

    /// The messages from this one on that go together; `None` when there are no more.
    fn pipeline<'a>(
        &self,
        tasks: &[Task],
        first: usize,
        place: &impl Fn(usize) -> Place<'a>,
    ) -> Result<Option<Pipeline>> {
        let rest = tasks.get(first..).unwrap_or_default();
        let mut commands = redis::Pipeline::with_capacity(4);
        let (mut messages, mut bytes) = (0, 0);
        // One command for each run of tasks of one list: they are pushed in order, as by a command each.
        let mut run: Option<(String, redis::Cmd)> = None;
        for (index, task) in (first..).zip(rest).take(PIPELINE) {
            let message = task.encode(&place(index))?;
            bytes += message.len();
            messages += 1;
            let list = self.broker_keys().queue(task.destination(), task.priority);
            match &mut run {
                Some((same, push)) if *same == list => {
                    push.arg(message);
                }
                _ => {
                    let mut push = redis::cmd("LPUSH");
                    push.arg(&list).arg(message);
                    if let Some((_, full)) = run.replace((list, push)) {
                        commands.add_command(full).ignore();
                    }
                }
            }
            if bytes >= PIPELINE_BYTES {
                break;
            }
        }
        if let Some((_, full)) = run {
            commands.add_command(full).ignore();
        }
        Ok((messages > 0).then_some(Pipeline { commands, messages }))
    }

    async fn push(&self, task: &Task, message: Vec<u8>) -> Result<()> {
        // Finds a connection that was closed unnoticed, while repeating is still harmless.
        self.ping_broker("publish a task").await?;
        let mut push = redis::pipe();
        push.cmd("LPUSH")
            .arg(self.broker_keys().queue(task.destination(), task.priority))
            .arg(message)
            .ignore();
        send(self.broker(), &push, &task.id, self.deadline()).await
    }

    async fn ping_broker(&self, action: &str) -> Result<()> {
        self.broker()
            .query(action, redis::pipe().cmd("PING").ignore(), self.deadline())
            .await
    }
}

async fn send(broker: &Commands, push: &redis::Pipeline, task: &TaskId, within: Duration) -> Result<()> {
    broker
        .query_once("publish a task", push, within)
        .await
        .map_err(|error| match error {
            Error::Unreachable { reason, endpoint, .. } => Error::Unconfirmed {
                task: task.clone(),
                endpoint,
                reason,
            },
            Error::Deadline { endpoint, after, .. } => Error::Unconfirmed {
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
        task.on_success.iter().chain(&task.on_failure).try_for_each(Link::check)
    })
}

fn empty(what: &str, of: &str) -> Error {
    Error::Task {
        task: what.to_owned(),
        reason: format!("it has no {of}"),
    }
}
