//! Reading of the event stream: every event goes into the records, and the followers of its job are notified.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::worker_monitor::{TaskRecords, WorkerMonitor};
use crate::jobs::event_end::{EventEnd, event_exception};
use crate::jobs::failures::failure_log::ObservedFailure;
use crate::jobs::failures::{exception_text, task_end_kind};
use crate::jobs::task_index::TaskIndex;
use orch_celery::{EventBatch, JobEvent, JobTaskEvent, NodeName, TaskId};
use orch_journal::TaskEndKind;

/// Time before the next try to subscribe to events.
const RESUBSCRIBE_DELAY: Duration = Duration::from_secs(1);

/// Failure as an event shows it.
struct FailureEvent<'a> {
    kind: TaskEndKind,
    exception: String,
    traceback: &'a str,
    node: &'a str,
}

impl<'a> FailureEvent<'a> {
    fn without_exception(kind: TaskEndKind, message: &str, node: &'a str) -> Self {
        Self {
            kind,
            exception: message.to_owned(),
            traceback: "",
            node,
        }
    }
}

/// Records the end of a task that has not succeeded. Returns the job that this affects.
fn note_failure(
    task_index: &mut TaskIndex,
    task: &TaskId,
    end: EventEnd<&str>,
    failure: FailureEvent<'_>,
) -> Option<TaskId> {
    let name = task_index.name_of(task).map(str::to_owned);
    let root = task_index.note_ended(task, end)?;
    if let Some(log) = task_index.failures(&root) {
        log.note(ObservedFailure {
            task,
            kind: failure.kind,
            exception: failure.exception,
            traceback: Some(failure.traceback),
            name: name.as_deref(),
            worker: Some(failure.node),
        });
    }
    Some(root)
}

impl WorkerMonitor {
    pub(super) async fn read_events(&self) -> Infallible {
        let mut stream = self.stream.lock().await;
        loop {
            let Some(open) = stream.as_mut() else {
                sleep(RESUBSCRIBE_DELAY).await;
                *stream = self.context.celery.events().await.ok();
                if stream.is_some() {
                    self.note_missed_events();
                }
                continue;
            };
            // Events of one job mostly come in a row.
            let mut touched: Vec<TaskId> = Vec::new();
            let mut record_news = |news: JobEvent<'_>| {
                if let Some(root) = self.record_news(news).filter(|root| touched.last() != Some(root)) {
                    touched.push(root);
                }
            };
            let read = open.next_job_events(&mut record_news).await;
            self.notify_subscribers(&touched);
            match read {
                Ok(EventBatch::Events) => {}
                Ok(EventBatch::Gap) => self.note_missed_events(),
                Err(error) => {
                    tracing::warn!(%error, "lost the stream of task events; subscribing again");
                    *stream = None;
                }
            }
        }
    }

    fn note_missed_events(&self) {
        self.are_holders_unknown
            .store(self.context.shared_workers.forget_holders(), Ordering::Relaxed);
        self.records().task_index.forget_unfinished();
        self.context.event_gaps.send_modify(|gaps| *gaps += 1);
        self.workers_changed.notify_one();
        self.disrupted.notify_one();
        for changed in self.subscribers().values() {
            changed.notify_one();
        }
    }

    /// Notifies the subscribers of these jobs.
    fn notify_subscribers(&self, roots: &[TaskId]) {
        let subscribers = self.subscribers();
        for changed in roots.iter().filter_map(|root| subscribers.get(root)) {
            changed.notify_one();
        }
    }

    /// Records the news. Returns the job that the news affects.
    fn record_news(&self, news: JobEvent<'_>) -> Option<TaskId> {
        let (id, node, event) = match news {
            JobEvent::Task { id, node, event } => (id, node, event),
            JobEvent::WorkersChanged => {
                self.workers_changed.notify_one();
                return None;
            }
        };
        match &event {
            JobTaskEvent::Received { .. } => self.context.shared_workers.record_taken(node, &id),
            JobTaskEvent::Progressed => {}
            _ => self.context.shared_workers.record_released(&id),
        }
        let mut records = self.records();
        let TaskRecords { task_index, crashes } = &mut *records;
        let mut failed = false;
        let touched = match event {
            JobTaskEvent::Received { name, root_id } => {
                crashes.note_received(&id, name);
                let root = root_id.unwrap_or_else(|| id.clone());
                task_index.note_received(id, root, name)
            }
            JobTaskEvent::Requeued => {
                let touched = task_index.note_event(&id);
                // A task that belongs to no job of this run is not orch's concern.
                if touched.is_some() {
                    crashes.put_back(NodeName::from(node), id);
                    self.put_back.notify_one();
                }
                touched
            }
            JobTaskEvent::Progressed => task_index.note_event(&id),
            JobTaskEvent::Succeeded {
                result,
                runtime_seconds,
            } => {
                let runtime = runtime_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                crashes.forget(&id);
                task_index.note_ended_after(&id, EventEnd::Succeeded(result), runtime)
            }
            JobTaskEvent::Failed { exception, traceback } => {
                failed = true;
                crashes.forget(&id);
                let printed = event_exception(exception, traceback);
                let exception = exception_text::from_event(printed);
                let kind = task_end_kind::of_exception(&exception);
                let failure = FailureEvent {
                    kind,
                    exception,
                    traceback,
                    node,
                };
                note_failure(task_index, &id, EventEnd::Failed(printed), failure)
            }
            JobTaskEvent::Rejected => {
                let failure = FailureEvent::without_exception(TaskEndKind::Rejected, "rejected", node);
                note_failure(task_index, &id, EventEnd::Rejected, failure)
            }
            JobTaskEvent::Revoked { expired } => {
                crashes.forget(&id);
                let (kind, message) = if expired {
                    (TaskEndKind::Expired, "expired")
                } else {
                    (TaskEndKind::Revoked, "revoked")
                };
                // As in the stored result of the task.
                let exception = format!("TaskRevokedError: {message}");
                let failure = FailureEvent::without_exception(kind, &exception, node);
                note_failure(task_index, &id, EventEnd::Revoked(message), failure)
            }
        };
        drop(records);
        if failed && touched.is_some() {
            self.context.task_failed();
        }
        touched
    }
}
