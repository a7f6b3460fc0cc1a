//! The tasks that a worker has started and not finished, according to its events. They are needed for pools in which a
//! task can keep the worker from answering, and may start after the worker's last answer. A solo pool sends events only
//! between tasks, and the other pools do not need them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use orch_celery::{Client, Event, EventKind, NodeName, StreamItem, TaskEvent, TaskId};

/// Limit in bytes for events that are buffered while orch is behind; dropped events are no evidence.
const MEMORY_LIMIT: usize = 8 * 1024 * 1024;

/// A subscription to one worker's events; a drop ends the subscription.
pub(crate) struct TaskWatch {
    begun: Arc<Mutex<RunningTasks>>,
    reader: AbortHandle,
}

impl Drop for TaskWatch {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl TaskWatch {
    /// Subscribes; returns `None` if that fails: then there is no such evidence.
    pub async fn open(client: &Client, node: NodeName) -> Option<Self> {
        let mut stream = match client.events().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "the worker's events cannot be read");
                return None;
            }
        };
        stream.set_memory_limit(MEMORY_LIMIT);
        let begun: Arc<Mutex<RunningTasks>> = Arc::default();
        let noted = Arc::clone(&begun);
        let reader = tokio::spawn(async move {
            // The stream ends when the server refuses orch for good; the evidence ends as well.
            while let Ok(notice) = stream.next().await {
                let mut begun = noted.lock().unwrap_or_else(PoisonError::into_inner);
                match notice {
                    StreamItem::Event(event) => begun.note(&node, &event),
                    StreamItem::Gap => begun.0.clear(),
                }
            }
            noted.lock().unwrap_or_else(PoisonError::into_inner).0.clear();
        });
        Some(Self {
            begun,
            reader: reader.abort_handle(),
        })
    }

    /// Returns the running time of the youngest task.
    pub fn youngest(&self) -> Option<Duration> {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.0.values().map(Instant::elapsed).min()
    }
}

/// Start times of tasks that have not ended.
#[derive(Debug, Default)]
struct RunningTasks(HashMap<TaskId, Instant>);

impl RunningTasks {
    fn note(&mut self, node: &NodeName, event: &Event) {
        let EventKind::Task { id, event: what } = &event.kind else {
            return;
        };
        match what {
            TaskEvent::Started if event.node == *node => {
                self.0.insert(id.clone(), event.received_at);
            }
            TaskEvent::Sent { .. } | TaskEvent::Received(_) | TaskEvent::Started => {}
            TaskEvent::Succeeded { .. }
            | TaskEvent::Failed { .. }
            | TaskEvent::Retried { .. }
            | TaskEvent::Revoked { .. }
            | TaskEvent::Rejected { .. } => {
                self.0.remove(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_runs_from_its_start_to_its_end_in_the_worker_that_is_watched() {
        let node = NodeName::from("w1@h");
        let event = |node: &str, id: &str, event: TaskEvent| Event {
            kind: EventKind::Task {
                id: TaskId::from(id),
                event,
            },
            node: NodeName::from(node),
            timestamp: 0.0,
            clock: 0,
            pid: None,
            extra: serde_json::Map::new(),
            received_at: Instant::now(),
        };
        let failed = || TaskEvent::Failed {
            exception: None,
            traceback: None,
        };
        let retried = || TaskEvent::Retried {
            exception: None,
            traceback: None,
        };
        let mut begun = RunningTasks::default();
        for (worker, id, what, running) in [
            ("w1@h", "a", TaskEvent::Started, 1),
            ("w2@h", "b", TaskEvent::Started, 1),
            ("w1@h", "c", TaskEvent::Started, 2),
            ("w1@h", "a", retried(), 1),
            ("w1@h", "b", failed(), 1),
            ("w1@h", "c", TaskEvent::Rejected { requeue: true }, 0),
            ("w1@h", "a", TaskEvent::Started, 1),
            ("w1@h", "a", TaskEvent::Started, 1),
            ("w1@h", "a", failed(), 0),
        ] {
            begun.note(&node, &event(worker, id, what));
            assert_eq!(begun.0.len(), running, "{worker} {id}");
        }
    }
}
