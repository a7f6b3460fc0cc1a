//! Handle that reads stored results and watches tasks.

use std::sync::Arc;
use std::time::Duration;

use super::result_dispatcher::DispatcherHandle;
use super::result_watch::ResultWatch;
use super::stored_values::{BATCH, MAX_READ, read, unreadable};
use super::task_result::{TaskResult, group_members};
use crate::error::{Error, Result};
use crate::redis::connection::CommandConnection;
use crate::wire::ids::{GroupId, TaskId};
use crate::wire::keys::Keys;
use crate::wire::task_outcome::TaskOutcome;

/// Number of bytes at the start of a result that contain the status, including usual names of an app's own states.
const STATUS_BYTES: usize = 64;

/// Progress of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupProgress {
    pub total: u64,
    pub succeeded: u64,
    /// Number of members that failed or were revoked.
    pub failed: u64,
}

impl GroupProgress {
    /// Returns whether all members have ended.
    pub fn is_complete(self) -> bool {
        self.succeeded + self.failed == self.total
    }
}

/// Returns the status at the start of a value in Celery's format; `None` if the value does not start with a complete
/// status.
pub(crate) fn status_of(start: &[u8]) -> Option<&[u8]> {
    let rest = start.strip_prefix(br#"{"status": ""#)?;
    let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    (rest[end] == b'"').then(|| &rest[..end])
}

/// Handle that reads results and waits for them. Clones are cheap and share one connection.
#[derive(Clone)]
pub struct ResultStore {
    backend: Arc<CommandConnection>,
    keys: Arc<Keys>,
    within: Duration,
    dispatcher: Arc<DispatcherHandle>,
}

impl ResultStore {
    /// Starts the dispatcher of watches on the current runtime.
    pub(crate) fn new(backend: Arc<CommandConnection>, keys: Arc<Keys>, within: Duration) -> Self {
        Self {
            dispatcher: Arc::new(DispatcherHandle::start(backend.clone(), within)),
            backend,
            keys,
            within,
        }
    }

    /// Returns whether the runtime on which the dispatcher was started still runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.dispatcher.is_alive()
    }

    /// Reads the stored result of a task; `None` if nothing is stored (task waiting, running, unknown; result ignored
    /// or expired).
    pub async fn get(&self, id: &TaskId) -> Result<Option<TaskResult>> {
        let key = self.keys.result(id);
        let value = self.read_one(key).await?.map_err(|reason| unreadable(id, reason))?;
        if value.is_empty() {
            return Ok(None);
        }
        TaskResult::decode(&value, id, std::time::Instant::now()).map(Some)
    }

    /// Returns those of the tasks that have a final result.
    pub(crate) async fn finished_among(&self, ids: &[TaskId]) -> Result<Vec<TaskId>> {
        let finished = ids.iter().zip(self.outcomes(ids).await?);
        Ok(finished
            .filter(|(_, outcome)| outcome.is_some())
            .map(|(id, _)| id.clone())
            .collect())
    }

    /// Returns the progress of several tasks, such as the members of a group.
    pub async fn progress(&self, ids: &[TaskId]) -> Result<GroupProgress> {
        let mut progress = GroupProgress {
            total: ids.len() as u64,
            ..GroupProgress::default()
        };
        for outcome in self.outcomes(ids).await?.into_iter().flatten() {
            match outcome {
                TaskOutcome::Succeeded => progress.succeeded += 1,
                TaskOutcome::Failed | TaskOutcome::Revoked => progress.failed += 1,
            }
        }
        Ok(progress)
    }

    /// Returns the members of a group that was saved with `GroupResult.save`; `None` if nothing is saved, which is the
    /// usual case. A group that a task has started is in the [`children`](TaskResult::children) of the task, with
    /// the members.
    pub async fn group_members(&self, group: &GroupId) -> Result<Option<Vec<TaskId>>> {
        let key = self.keys.chord(group, "");
        let unreadable = |reason| Error::malformed(format!("the members of group {group}"), reason);
        let value = self.read_one(key).await?.map_err(unreadable)?;
        if value.is_empty() {
            return Ok(None);
        }
        group_members(&value, group).map(Some)
    }

    /// Returns the ends of the tasks, in order; `None` if no end is stored. Celery writes the status first, so only the
    /// start of a value is read; a value of another writer is read completely. A task with an unreadable value counts
    /// as open.
    pub async fn outcomes(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskOutcome>>> {
        let mut outcomes = Vec::with_capacity(ids.len());
        for ids in ids.chunks(BATCH) {
            let heads = self.read_first_bytes(ids, STATUS_BYTES).await?;
            for (id, head) in ids.iter().zip(heads) {
                let head = head.unwrap_or_default();
                outcomes.push(match status_of(&head) {
                    Some(status) => TaskOutcome::of_status(status),
                    None if head.is_empty() => None,
                    None => match self.get(id).await {
                        Ok(result) => result.and_then(|result| result.state.outcome()),
                        Err(Error::Malformed { .. } | Error::TooLarge { .. }) => None,
                        Err(error) => return Err(error),
                    },
                });
            }
        }
        Ok(outcomes)
    }

    /// Reads the value of one key; empty if the key does not exist.
    async fn read_one(&self, key: String) -> Result<Result<Vec<u8>, String>> {
        let values = read(&self.backend, &[key], MAX_READ, self.within).await?;
        Ok(values.into_iter().next().unwrap_or(Ok(Vec::new())))
    }

    /// Reads the first bytes of the tasks' results; empty if there is no result, `Err` if the result cannot be read.
    pub(crate) async fn read_first_bytes(&self, ids: &[TaskId], bytes: usize) -> Result<Vec<Result<Vec<u8>, String>>> {
        let keys: Vec<String> = ids.iter().map(|id| self.keys.result(id)).collect();
        read(&self.backend, &keys, bytes, self.within).await
    }

    /// Reads the last bytes of the tasks' results; empty if there is no result.
    pub(crate) async fn read_last_bytes(&self, ids: &[TaskId], bytes: isize) -> Result<Vec<Vec<u8>>> {
        let mut reads = redis::pipe();
        for id in ids {
            reads.cmd("GETRANGE").arg(self.keys.result(id)).arg(-bytes).arg(-1);
        }
        self.backend
            .query("read the ends of task results", &reads, self.within)
            .await
    }

    /// Deletes the stored result of a task and returns whether there was a result. Watches of the task receive nothing.
    pub async fn forget(&self, id: &TaskId) -> Result<bool> {
        let mut delete = redis::pipe();
        delete.cmd("DEL").arg(self.keys.result(id));
        let (deleted,): (u64,) = self.backend.query("delete a task result", &delete, self.within).await?;
        Ok(deleted > 0)
    }

    /// Starts to watch a task that is finished, running or not yet published.
    ///
    /// The watch continues while Redis is unreachable; the caller must limit the waiting time.
    pub fn watch(&self, id: &TaskId) -> ResultWatch {
        ResultWatch::start(&self.dispatcher, id, self.keys.result(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_start_of_a_value_of_celery() {
        for (head, status) in [
            (r#"{"status": "SUCCESS", "result": 5, "tr"#, Some("SUCCESS")),
            (r#"{"status": "PROGRESS", "result": {"don"#, Some("PROGRESS")),
            (r#"{"status": "AN_APPS_OWN_STATE_THAT_IS_LONGER_TH"#, None),
            (r#"{"status": "ODD\"", "result": 1"#, None),
            (r#"{"result": 5, "status": "SUCCESS"}"#, None),
            (r#"{"status":"SUCCESS"}"#, None),
            ("", None),
        ] {
            assert_eq!(status_of(head.as_bytes()), status.map(str::as_bytes), "{head}");
        }
    }
}
